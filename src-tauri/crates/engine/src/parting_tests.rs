//! Where prefill rounds otherwise than decode, a cold and a warm run of one conversation may part, but only where the two
//! best tokens were as good as equal. With exact arithmetic they never do. Over the CUDA kernels, in the emulator.

use std::sync::Arc;

use hearth_kernels::{Device, Ops};
use hearth_model::{KvType, LoadOptions, Model};

use crate::{
    Depth, Event, Logprobs, Request, Sampling,
    depth::MOST,
    rig::{Bench, bench_of, fixture, request},
    runner::Runner,
};

/// How far rounding may move the logarithm of a probability. Prefill rounds activations to 16 bits, which moves those of this
/// model by 0.002 (the test prints how far); the spread of its logits is about 1.
const BOUND: f32 = 0.01;
const TOKENS: usize = 12;

fn bench(exact: bool) -> Bench<Model> {
    let ops: Arc<dyn Ops> = Device::Emulated.open(None).expect("the emulator").ops;
    let options = LoadOptions {
        context: 192,
        slots: 1,
        snapshots: MOST + 6,
        kv: KvType::Bf16.into(),
        mtp: false,
        max_rows: 64,
        exact,
        ..LoadOptions::default()
    };
    let model = Model::load(&fixture("qwen3_5"), ops, options, &mut |_| {}).expect("loads");
    assert_eq!(model.limits().decode_rows, Some(16), "longer passes round otherwise");
    bench_of(model, Depth::Fixed(0), 8)
}

type Tokens = Vec<(u32, Logprobs)>;
/// What is added to the logits of some tokens.
type Bias = Arc<[(u32, f32)]>;

/// The tokens that follow `prompt`, each with the likeliest ones; and how much of the prompt was known.
fn ask(bench: &mut Bench<Model>, prompt: &[u32], bias: &Bias) -> (Tokens, usize) {
    let request = request(prompt, TOKENS);
    let sampling = Sampling { logit_bias: bias.clone(), ..request.sampling.clone() };
    let mut events = bench.put(Request { ignore_end: true, logprobs: Some(8), sampling, ..request });
    bench.run_dry();
    let (mut tokens, mut known) = (Vec::new(), 0);
    while let Ok(event) = events.try_recv() {
        match event {
            Event::Token { id, logprobs, .. } => tokens.push((id, *logprobs.expect("they were asked for"))),
            Event::Done { usage, .. } => known = usage.cached,
            Event::Failed { fault, .. } => panic!("{fault}"),
        }
    }
    (tokens, known)
}

/// How far apart the tokens `a` and `b` were, with what was added to them.
fn gap(logprobs: &Logprobs, bias: &Bias, a: u32, b: u32) -> f32 {
    let of = |token: u32| {
        let added = bias.iter().find(|(id, _)| *id == token).map_or(0.0, |(_, bias)| *bias);
        let found = logprobs.top.iter().find(|(id, _)| *id == token);
        found.map_or(f32::NEG_INFINITY, |(_, logprob)| logprob + added)
    };
    (of(a) - of(b)).abs()
}

/// The second turn of a conversation, of which the first page is known when it is read warm.
fn turn(bench: &mut Bench<Model>, topic: u32) -> Vec<u32> {
    let mut text: Vec<u32> = (0..60).map(|i| (i * i * (topic + 3) + 17 * i) % 250).collect();
    bench.worker.forget();
    let first = ask(bench, &text, &Bias::default()).0;
    text.extend(first.iter().map(|(id, _)| id));
    text.extend([3, 5, topic % 250]);
    text
}

/// What follows `text`, read warm and then cold.
fn both(bench: &mut Bench<Model>, text: &[u32], bias: &Bias) -> [Tokens; 2] {
    let (warm, known) = ask(bench, text, bias);
    assert_eq!(known, 64);
    bench.worker.forget();
    let (cold, known) = ask(bench, text, bias);
    assert_eq!(known, 0);
    [warm, cold]
}

#[test]
fn cold_and_warm_runs_part_only_at_near_ties() {
    let mut bench = bench(false);
    let (mut furthest, mut partings, mut compared) = (0.0f32, 0, 0);
    for topic in 0..5 {
        let text = turn(&mut bench, topic);
        let mut bias = Bias::default();
        // As it is; then with the two likeliest tokens drawn level, so that rounding decides.
        for _ in 0..2 {
            let [warm, cold] = both(&mut bench, &text, &bias);
            for ((a, warm), (b, cold)) in warm.iter().zip(&cold) {
                if a != b {
                    let gap = gap(warm, &bias, *a, *b).max(gap(cold, &bias, *a, *b));
                    assert!(gap <= 2.0 * BOUND, "topic {topic} parts at tokens {gap} apart");
                    partings += 1;
                    break;
                }
                furthest = furthest.max((warm.chosen - cold.chosen).abs());
                compared += 1;
            }
            let [(_, best), (second, next)] = warm[0].1.top[..2] else { panic!("two were asked for") };
            bias = Arc::new([(second, best - next)]);
            // Warm again, as the first time: the page of the first turn, not that of this one.
            turn(&mut bench, topic);
        }
    }
    println!("{compared} tokens, moved by {furthest} at most; {partings} partings");
    assert!(furthest > 0.0 && furthest <= BOUND, "rounding moved a token by {furthest}");
    assert!(partings > 0, "no tie was near enough to prove anything");
}

#[test]
fn exact_cold_and_warm_runs_agree_to_the_last_bit() {
    let mut bench = bench(true);
    for topic in 0..3 {
        let text = turn(&mut bench, topic);
        let [warm, cold] = both(&mut bench, &text, &Bias::default());
        assert_eq!(cold, warm, "topic {topic}");
    }
}
