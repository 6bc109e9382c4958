//! Serves the built-in model to 1 to 16 clients at once, cold and warm, at every draft depth, and prints what they saw as
//! CSV: `cargo run --release -p hearth-engine --example concurrency [device]`. Measured on the machine it runs on.

use std::time::{Duration, Instant};

use hearth_engine::{
    Depth, Engine, Event, LoadRequest, Request, Sampling, load,
    policy::{Policy, Priority},
    status::{EnginePhase, RequestKind},
};
use hearth_model::KvType;

/// Tokens of a prompt and of an answer.
const PROMPT: usize = 400;
const ANSWER: usize = 64;

#[tokio::main]
async fn main() {
    let device = std::env::args().nth(1).unwrap_or_else(|| "cpu".to_owned());
    println!("device,depth,clients,cache,tokens_per_s,ttft_p50_ms,ttft_max_ms,accepted_per_round");
    let depths = [0, 1, 2, 3, 4].map(Depth::Fixed).into_iter().chain([Depth::Auto]);
    for depth in depths {
        let request = LoadRequest {
            folder: None,
            id: None,
            device: device.clone(),
            threads: None,
            context: Some(1024),
            max_requests: 16,
            kv: KvType::Bf16.into(),
            exact: false,
            fp4_activations: false,
            chunk: 512,
            mtp_depth: depth,
            draft_head: hearth_engine::DraftWish::default(),
            draft_vocabulary: None,
            policy: Policy::Slo,
            patience: Duration::from_secs(600),
            memory_reserve: None,
            anyway: false,
            prefix_disk: None,
            sampling: hearth_engine::SamplingDefaults::default(),
        };
        let engine = Engine::start(move |board| load(&request, board), 64).expect("a thread");
        while !matches!(engine.status(0).phase, EnginePhase::Ready) {
            if let EnginePhase::Failed { fault } = engine.status(0).phase {
                panic!("{fault}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for clients in [1, 2, 4, 8, 16] {
            for cache in ["cold", "warm"] {
                measure(&engine, &device, depth, clients, cache).await;
            }
        }
        engine.drain(Duration::from_secs(1));
        engine.ended().await;
    }
}

/// What `clients` see that ask at once. The second time they ask the same, so that their prompts are known.
async fn measure(engine: &Engine, device: &str, depth: Depth, clients: usize, cache: &str) {
    let before = engine.status(0).counters.speculation;
    let begun = Instant::now();
    let tasks: Vec<_> =
        (0..clients).map(|client| tokio::spawn(ask(engine.clone(), clients, client))).collect();
    let mut firsts = Vec::new();
    let mut tokens = 0;
    for task in tasks {
        let (first, written) = task.await.expect("the client runs to its end");
        firsts.push(first.as_secs_f64() * 1e3);
        tokens += written;
    }
    let seconds = begun.elapsed().as_secs_f64();
    firsts.sort_by(f64::total_cmp);
    let after = engine.status(0).counters.speculation;
    let rounds = after.rounds - before.rounds;
    let accepted = after.accepted.iter().sum::<u64>() - before.accepted.iter().sum::<u64>();
    let per_round =
        if rounds == 0 { "none".into() } else { format!("{:.2}", accepted as f64 / rounds as f64) };
    println!(
        "{device},{depth},{clients},{cache},{:.1},{:.0},{:.0},{per_round}",
        tokens as f64 / seconds,
        firsts[firsts.len() / 2],
        firsts[firsts.len() - 1]
    );
}

/// Time to the first token, and tokens written.
async fn ask(engine: Engine, clients: usize, client: usize) -> (Duration, usize) {
    let text =
        format!("<|im_start|>user\nHello {clients} {client}, what can Hearth do for me today? ").repeat(40);
    let mut prompt = engine.encode(&text, None, ANSWER, None).expect("it fits");
    prompt.truncate(PROMPT);
    let request = Request {
        id: format!("c{client}"),
        kind: RequestKind::Completion,
        prompt,
        max_tokens: Some(ANSWER),
        min_tokens: 0,
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        stop: Vec::new(),
        ignore_end: true,
        priority: Priority::Interactive,
        account: client as u64,
        logprobs: None,
        constraint: None,
        mtp_depth: None,
    };
    let begun = Instant::now();
    let mut events = engine.submit(request).expect("there is room");
    let (mut first, mut tokens) = (None, 0);
    while let Some(event) = events.recv().await {
        if let Event::Token { .. } = event {
            first.get_or_insert_with(|| begun.elapsed());
            tokens += 1;
        }
    }
    (first.expect("a token came"), tokens)
}
