//! Random mixes of requests, with shared beginnings, cancels, depths, seeds and too little memory, against each request run
//! alone with nothing kept: every token the same, and the books right after every step.

use std::sync::OnceLock;

use hearth_kernels::{ops::Pass, rounds::Follow, sample::SampleRow};
use serde_json::json;
use tokio::sync::mpsc::Receiver;

use crate::{
    Begin, Constraint, Depth, Event, GrammarSource, Request, Sampling, Spaces,
    depth::MOST,
    oracle::{LIMITS, Oracle, VOCAB, mostly_next},
    policy::{Policy, Priority},
    random,
    rig::{Bench, bench_of, fixture, model, read, request, run},
    runner::{Given, Limits, Runner, Sampled},
    tokenizer::tests::byte_tokenizer,
};

/// Draws of one mix.
struct Dice {
    seed: u64,
    drawn: u64,
}

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.drawn += 1;
        (random::uniform(self.seed, self.drawn) * n as f64) as usize
    }
}

/// Likely are the next number and, less so, two others: a temperature makes a difference.
fn several(id: u32) -> Vec<f32> {
    let favourite = (id + 1) % 250;
    let logit = |other: u32| match (other + 250 - favourite) % 250 {
        0 => 2.0,
        7 => 1.5,
        31 => 1.0,
        _ => -9.0,
    };
    (0..VOCAB).map(|other| if other < 250 { logit(other) } else { f32::NEG_INFINITY }).collect()
}

/// How many mixes are tried: `HEARTH_MIXES`, or a few.
fn mixes() -> u64 {
    std::env::var("HEARTH_MIXES").ok().and_then(|count| count.parse().ok()).unwrap_or(60)
}

/// A form of an answer, compiled once.
fn form(which: usize) -> Constraint {
    static FORMS: OnceLock<[Constraint; 2]> = OnceLock::new();
    let compile = |source| {
        Constraint::compile(&byte_tokenizer(), &source, &Spaces::Some, Begin::AtOnce).expect("a grammar")
    };
    let forms = FORMS.get_or_init(|| {
        [
            compile(GrammarSource::Regex("[a-z]{2,9}( [a-z]{2,9})*".into())),
            compile(GrammarSource::JsonSchema(json!({"type": "array", "items": {"type": "integer"}}))),
        ]
    });
    forms[which].clone()
}

/// A request whose prompt begins like some others'.
fn drawn(dice: &mut Dice, longest: usize) -> Request {
    let begin = |topic: usize, len: usize| (0..len).map(move |i| ((topic * 61 + i * i + 3 * i) % 250) as u32);
    let topic = dice.below(3);
    let mut prompt: Vec<u32> = begin(topic, 1 + dice.below(longest / 2)).collect();
    if dice.below(3) > 0 {
        prompt.extend(begin(10 + dice.below(4), dice.below(longest / 3)));
    }
    let temperature = [0.0, 0.0, 0.7, 1.3][dice.below(4)];
    let sampling = Sampling {
        temperature,
        seed: dice.below(5) as u64,
        frequency_penalty: [0.0, 0.5][dice.below(2)],
        ..Sampling::default()
    };
    let tokens = 1 + dice.below(longest / 4);
    let constraint = (dice.below(4) == 0).then(|| form(dice.below(2)));
    Request {
        constraint,
        sampling,
        min_tokens: dice.below(4),
        stop: if dice.below(4) == 0 { vec!["pq".into()] } else { Vec::new() },
        ignore_end: dice.below(2) == 0,
        priority: if dice.below(4) == 0 { Priority::Background } else { Priority::Interactive },
        account: dice.below(3) as u64,
        ..request(&prompt, tokens)
    }
}

/// Puts the requests in at random times and takes some away at random times; the tokens of each, and whether it was cut.
fn mix<R: Runner>(bench: &mut Bench<R>, dice: &mut Dice, requests: &[Request]) -> Vec<(Vec<u32>, bool)> {
    let mut events: Vec<Option<Receiver<Event>>> = Vec::new();
    let mut answers = vec![(Vec::new(), false); requests.len()];
    let mut rested = false;
    for _ in 0..20_000 {
        if events.len() < requests.len() && (rested || dice.below(3) == 0) {
            events.push(Some(bench.put(requests[events.len()].clone())));
        }
        if dice.below(25) == 0 && !events.is_empty() {
            let cut = dice.below(events.len());
            if let Some(events) = events[cut].take() {
                answers[cut] = (read(events).0, true);
            }
        }
        rested = !bench.step();
        if rested && events.len() == requests.len() {
            break;
        }
    }
    assert!(rested, "the worker never comes to rest");
    for (answer, events) in answers.iter_mut().zip(events) {
        if let Some(events) = events {
            let (ids, _, end) = read(events);
            assert!(matches!(end, Some(Event::Done { .. })), "{end:?}");
            *answer = (ids, false);
        }
    }
    answers
}

fn compare(what: &str, requests: &[Request], mixed: &[(Vec<u32>, bool)], alone: &[Vec<u32>]) {
    for (i, ((found, cut), expected)) in mixed.iter().zip(alone).enumerate() {
        let expected = if *cut { &expected[..found.len()] } else { expected };
        assert_eq!(found, expected, "{what}, request {i}: {:?}", requests[i]);
    }
}

#[test]
fn random_mixes_write_what_each_request_writes_alone() {
    let (mut preemptions, mut cached, mut restored, mut followed) = (0, 0, 0, 0);
    for seed in 0..mixes() {
        let mut dice = Dice { seed, drawn: 0 };
        let slots = 1 + dice.below(4);
        // Short pages end in most rounds, long ones leave time to run ahead of what is known.
        let page_len = [4, 16, 32][dice.below(3)];
        let pages = ((26 + dice.below(40)) * 4).div_ceil(page_len) + usize::from(page_len > 4);
        let limits = Limits {
            context: 100,
            slots,
            states: slots + dice.below(3 * slots * (1 + MOST)),
            max_rows: 8 + dice.below(30),
            decode_rows: [None, Some(8)][dice.below(2)],
            page_len,
            pages,
            mtp: dice.below(4) > 0,
            ahead: dice.below(2) > 0,
            ..LIMITS
        };
        let depth = [Depth::Auto, Depth::Fixed(1), Depth::Fixed(3), Depth::Fixed(5)][dice.below(4)];
        let oracle = || Oracle { limits, expect: several, guess: mostly_next, ..Oracle::default() };
        let mut requests: Vec<Request> = (0..10).map(|_| drawn(&mut dice, 90)).collect();
        // Where a request's next rows depend on more than its tokens, nobody beside it runs ahead of them.
        if dice.below(3) > 0 {
            for request in &mut requests {
                request.constraint = None;
                request.sampling.frequency_penalty = 0.0;
            }
        }
        let mut alone = bench_of(oracle(), Depth::Fixed(0), 64);
        let expected: Vec<Vec<u32>> = requests
            .iter()
            .map(|request| {
                alone.worker.forget();
                run(&mut alone, std::slice::from_ref(request)).remove(0)
            })
            .collect();
        let home = tempfile::tempdir().expect("a folder");
        let mut bench = bench_of(oracle(), depth, 64);
        bench.worker.policy = [Policy::Slo, Policy::Fifo][dice.below(2)];
        if dice.below(2) == 0 {
            // Some texts on disk from the beginning, and room for a few.
            let mut before = bench_of(oracle(), depth, 64).with_disk(home.path(), 1 << 30);
            run(&mut before, &requests[..3]);
            drop(before);
            bench = bench.with_disk(home.path(), 4000 + 1000 * dice.below(20) as u64);
        }
        let mixed = mix(&mut bench, &mut dice, &requests);
        compare(&format!("mix {seed} at depth {depth}, {limits:?}"), &requests, &mixed, &expected);
        followed += bench.worker.runner.followed;
        let state = bench.board.lock();
        preemptions += state.counters.preemptions;
        cached += state.counters.cached_tokens;
        restored += state.prefix_disk.as_ref().map_or(0, |disk| disk.restored_tokens);
    }
    // Otherwise the mixes would prove less than they claim.
    let enough = preemptions > 3 && cached > 500 && restored > 100 && followed > 100;
    assert!(enough, "{preemptions} {cached} {restored} {followed}");
    println!("{preemptions} left for others, {cached} and {restored} known, {followed} behind unread rounds");
}

#[test]
fn random_mixes_on_a_real_model_write_what_each_request_writes_alone() {
    let checkpoint = fixture("qwen3_5_moe");
    let mut alone = bench_of(model(&checkpoint), Depth::Fixed(0), 64);
    for seed in 100..103 {
        let mut dice = Dice { seed, drawn: 0 };
        let requests: Vec<Request> = (0..6).map(|_| drawn(&mut dice, 300)).collect();
        let expected: Vec<Vec<u32>> = requests
            .iter()
            .map(|request| {
                alone.worker.forget();
                run(&mut alone, std::slice::from_ref(request)).remove(0)
            })
            .collect();
        let mut bench = bench_of(model(&checkpoint), Depth::Fixed(2), 64);
        let mixed = mix(&mut bench, &mut dice, &requests);
        compare(&format!("mix {seed}"), &requests, &mixed, &expected);
    }
}

/// A runner that forgets what it saw, so that only the engine's own memory can grow.
struct Forgetful(Oracle);

impl Runner for Forgetful {
    fn limits(&self) -> Limits {
        self.0.limits
    }

    fn run(&mut self, pass: &Pass, ids: &[u32], want: &[u32], follows: &[Follow]) -> Result<(), String> {
        let (_, ids, _) = self.0.host.settled(pass, ids, &[], follows);
        self.0.host.keep(want.iter().map(|row| (self.0.expect)(ids[*row as usize])).collect());
        Ok(())
    }

    fn draft(
        &mut self,
        pass: &Pass,
        next_ids: &[u32],
        seed: hearth_model::Seed<'_>,
        want: &[u32],
        follows: &[Follow],
    ) -> Result<(), String> {
        let (hearth_model::Seed::Forward(seeds) | hearth_model::Seed::Draft(seeds)) = seed;
        let (_, ids, picks) = self.0.host.settled(pass, next_ids, &[seeds, want].concat(), follows);
        let want = &picks[seeds.len()..];
        self.0.host.keep(want.iter().map(|row| (self.0.guess)(ids[*row as usize])).collect());
        Ok(())
    }

    fn sample(&mut self, tokens: usize, rows: &[Option<SampleRow<'_>>]) -> Result<Sampled, String> {
        self.0.sample(tokens, rows)
    }

    fn read(&mut self, sampled: Sampled) -> Result<Vec<Given>, String> {
        self.0.read(sampled)
    }

    fn copy_state(&mut self, _: usize, _: usize) -> Result<(), String> {
        Ok(())
    }

    fn bytes_per_step(&self, _: usize, _: usize) -> u64 {
        0
    }

    fn memory(&self) -> crate::status::EngineMemory {
        self.0.memory()
    }
}

/// Resident memory of this process, bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = text.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a number");
    pages * 4096
}

fn soak<R: Runner>(bench: &mut Bench<R>, requests: u64, longest: usize) -> Vec<usize> {
    let mut dice = Dice { seed: 5, drawn: 0 };
    let mut sizes = Vec::new();
    for round in 0..requests / 10 {
        let some: Vec<Request> = (0..10).map(|_| drawn(&mut dice, longest)).collect();
        mix(bench, &mut dice, &some);
        if round % (requests / 100).max(1) == 0 {
            sizes.push(resident());
        }
    }
    sizes
}

#[test]
fn after_two_thousand_requests_every_page_and_state_is_accounted_for_and_the_tree_is_no_larger_than_its_pages()
 {
    let limits = Limits { context: 100, slots: 3, states: 30, max_rows: 32, pages: 60, mtp: true, ..LIMITS };
    let oracle = Oracle { limits, expect: several, guess: several, ..Oracle::default() };
    let mut bench = bench_of(Forgetful(oracle), Depth::Auto, 64);
    soak(&mut bench, 2000, 90);
    bench.worker.check().expect("whole");
    assert!(bench.worker.prefixes.places() <= limits.pages, "{}", bench.worker.prefixes.places());
    assert!(bench.worker.running.is_empty() && bench.worker.suspended.is_empty());
}

#[test]
fn after_three_hundred_requests_on_the_built_in_model_nothing_is_held_that_nobody_uses() {
    let checkpoint = hearth_checkpoint::Checkpoint::builtin().expect("built in");
    let mut bench = bench_of(model(&checkpoint), Depth::Auto, 64);
    soak(&mut bench, 300, 120);
    bench.worker.check().expect("whole");
    assert!(bench.worker.prefixes.places() <= bench.worker.limits.pages);
    assert!(bench.worker.running.is_empty() && bench.worker.suspended.is_empty());
    bench.worker.forget();
    let limits = bench.worker.limits;
    assert_eq!((bench.worker.pages.free(), bench.worker.free_states.len()), (limits.pages, limits.states));
}

/// `cargo test -p hearth-engine --lib ten_thousand_requests -- --ignored`: minutes. Its result is in kernels/results/NOTES.md.
#[test]
#[ignore = "takes minutes"]
fn ten_thousand_requests_on_the_built_in_model_leave_memory_where_it_was() {
    let checkpoint = hearth_checkpoint::Checkpoint::builtin().expect("built in");
    let mut bench = bench_of(model(&checkpoint), Depth::Auto, 64);
    let sizes = soak(&mut bench, 10_000, 120);
    let (early, late) = (sizes[sizes.len() / 5], sizes[sizes.len() - 1]);
    println!("resident after a fifth: {early}, at the end: {late} bytes");
    assert!(late < early + (8 << 20), "grew from {early} to {late} bytes");
}
