//! Drafting changes how long an answer takes, never the answer: over a runner that computes nothing, over the fixtures and
//! the built-in model, at every depth, alone and in company.

use std::sync::Arc;

use hearth_checkpoint::Checkpoint;

use crate::{
    Begin, Constraint, Depth, Finish, GrammarSource, Request, Sampling, Spaces,
    depth::MOST,
    oracle::{LIMITS, Oracle, VOCAB, mostly_next, never_next, next},
    rig::{Bench, bench_of, bench_with, finish, fixture, model, read, request, run},
    runner::{Limits, Runner},
    tokenizer::Tokenizer,
};

/// Enough states for every depth.
const ROOMY: Limits =
    Limits { context: 128, states: 3 * (1 + MOST), max_rows: 24, pages: 96, mtp: true, ..LIMITS };

fn drafting(guess: fn(u32) -> Vec<f32>, depth: Depth) -> Bench<Oracle> {
    let oracle = Oracle { limits: ROOMY, guess, ..Oracle::default() };
    let steps = oracle.steps.clone();
    let mut bench = bench_of(oracle, depth, 8);
    bench.steps = steps;
    bench
}

const DEPTHS: [Depth; 6] =
    [Depth::Auto, Depth::Fixed(1), Depth::Fixed(2), Depth::Fixed(3), Depth::Fixed(4), Depth::Fixed(5)];

#[test]
fn right_drafts_write_several_tokens_per_step_and_wrong_ones_one() {
    for (guess, depth, steps) in
        [(next as fn(u32) -> _, 0, 24), (next, 1, 12), (next, 3, 6), (next, 5, 4), (never_next, 3, 24)]
    {
        let mut bench = drafting(guess, Depth::Fixed(depth));
        let events = bench.put(request(&[97], 25));
        bench.run_dry();
        let (ids, _, end) = read(events);
        assert_eq!(ids, (98..123).collect::<Vec<_>>());
        assert_eq!(finish(end), (Finish::Length, 25));
        // The first token comes with the prompt.
        assert_eq!(bench.steps.lock().expect("one thread").len(), 1 + steps, "depth {depth}");
    }
}

#[test]
fn a_request_may_have_a_depth_of_its_own_which_changes_no_token() {
    for (engine, own, rounds) in [
        (Depth::Fixed(5), Some(Depth::Fixed(0)), 24),
        (Depth::Fixed(5), Some(Depth::Fixed(1)), 12),
        (Depth::Fixed(5), None, 4),
        (Depth::Auto, Some(Depth::Fixed(3)), 6),
        // Deeper than the engine has room for: as deep as the engine goes.
        (Depth::Fixed(1), Some(Depth::Fixed(5)), 12),
    ] {
        let mut bench = drafting(next, engine);
        let events = bench.put(Request { mtp_depth: own, ..request(&[97], 25) });
        bench.run_dry();
        let (ids, _, end) = read(events);
        assert_eq!((ids, finish(end)), ((98..123).collect(), (Finish::Length, 25)));
        let steps = bench.steps.lock().expect("one thread").len();
        assert_eq!(steps, 1 + rounds, "engine {engine}, request {own:?}");
    }
}

#[test]
fn requests_of_different_depths_run_side_by_side() {
    let mut bench = drafting(next, Depth::Auto);
    let depths = [Some(Depth::Fixed(0)), Some(Depth::Fixed(4)), None];
    let events = depths.map(|depth| bench.put(Request { mtp_depth: depth, ..request(&[30], 21) }));
    bench.run_dry();
    for events in events {
        assert_eq!(read(events).0, (31..52).collect::<Vec<_>>());
    }
    let state = bench.board.lock();
    let mut drafted: Vec<u64> = state.finished.iter().map(|r| r.speculation.drafted.iter().sum()).collect();
    drafted.sort_unstable();
    assert_eq!((drafted[0], state.finished.len()), (0, 3), "the one without drafts made none");
    assert_eq!(drafted[2], 16, "four rounds of four: {drafted:?}");
}

#[test]
fn what_was_drafted_and_accepted_is_told_per_request_and_in_total() {
    let mut bench = drafting(mostly_next, Depth::Fixed(3));
    let _a = bench.put(request(&[100], 20));
    let _b = bench.put(request(&[10], 20));
    bench.run_dry();
    let state = bench.board.lock();
    let total = &state.counters.speculation;
    assert!(total.rounds > 4 && total.drafted[0] == total.rounds, "{total:?}");
    assert!(total.accepted[0] > total.accepted[2], "{total:?}");
    assert!(total.accepted.iter().zip(&total.drafted).all(|(a, d)| a <= d), "{total:?}");
    // A round writes one token more than drafts were accepted; the first token comes with the prompt.
    for record in &state.finished {
        let of = &record.speculation;
        let in_rounds = of.rounds + of.accepted.iter().sum::<u64>();
        assert!((17..=19).contains(&in_rounds), "{record:?}");
    }
    let of_requests: u64 = state.finished.iter().map(|r| r.speculation.rounds).sum();
    assert_eq!(of_requests, total.rounds);
    assert_eq!(state.counters.decode_tokens, 38);
}

#[test]
fn stop_strings_end_tokens_and_limits_cut_a_round_where_they_would_cut_single_tokens() {
    for depth in DEPTHS {
        let mut bench = drafting(next, depth);
        let end = bench.put(request(&[1], 20));
        let stop = bench.put(Request { stop: vec!["fg".into()], ..request(&[97], 20) });
        let short = bench.put(request(&[30], 2));
        bench.run_dry();
        let (ids, _, event) = read(end);
        assert_eq!((ids, finish(event)), (vec![2, 3, 4, 5, 6], (Finish::Stop, 6)), "{depth}");
        let (_, text, event) = read(stop);
        assert_eq!((text.as_str(), finish(event)), ("bcde", (Finish::Stop, 6)), "{depth}");
        assert_eq!(finish(read(short).2), (Finish::Length, 2), "{depth}");
        let kept = bench.worker.prefixes.contents().states.len();
        assert_eq!(bench.worker.free_states.len() + kept, ROOMY.states, "states come back");
    }
}

#[test]
fn an_answer_of_a_form_is_the_same_at_every_depth_though_drafts_are_cut() {
    let tokenizer = crate::tokenizer::tests::byte_tokenizer();
    let source = GrammarSource::Lark(r#"start: "bcd" ("X" | "efg") /[h-z]{3}/ "END""#.into());
    let constraint =
        Constraint::compile(&tokenizer, &source, &Spaces::Some, Begin::AtOnce).expect("a grammar");
    for depth in DEPTHS {
        let mut bench = drafting(next, depth);
        let formed = bench.put(Request { constraint: Some(constraint.clone()), ..request(&[97], 40) });
        let free = bench.put(request(&[97], 12));
        bench.run_dry();
        let (_, text, event) = read(formed);
        assert_eq!((text.as_str(), finish(event)), ("bcdefghijEND", (Finish::Stop, 12)), "{depth}");
        assert_eq!(read(free).1, "bcdefghijklm", "{depth}");
    }
}

#[test]
fn a_client_that_reads_slowly_gets_every_token_once() {
    let mut bench = drafting(next, Depth::Fixed(5));
    let mut events = bench.put_with(request(&[100], 30), 5).expect("room");
    let mut ids = Vec::new();
    for _ in 0..200 {
        bench.step();
        if let Ok(crate::Event::Token { id, .. }) = events.try_recv() {
            ids.push(id);
        }
    }
    assert_eq!(ids, (101..131).collect::<Vec<_>>());
}

/// Four tokens; which are likely depends on the last one.
fn target(id: u32) -> Vec<f32> {
    let p: [f32; 4] = match id % 4 {
        0 => [0.5, 0.3, 0.15, 0.05],
        1 => [0.1, 0.2, 0.3, 0.4],
        2 => [0.25, 0.25, 0.25, 0.25],
        _ => [0.7, 0.0, 0.1, 0.2],
    };
    (0..VOCAB).map(|id| p.get(id as usize).map_or(f32::NEG_INFINITY, |p| p.ln())).collect()
}

/// A head that is sure of the wrong thing after some tokens and knows little after others.
fn skewed(id: u32) -> Vec<f32> {
    let p: [f32; 4] = match id % 4 {
        0 => [0.05, 0.15, 0.3, 0.5],
        1 => [0.97, 0.01, 0.01, 0.01],
        2 => [0.4, 0.3, 0.2, 0.1],
        _ => [0.3, 0.5, 0.1, 0.1],
    };
    (0..VOCAB).map(|id| p.get(id as usize).map_or(f32::NEG_INFINITY, |p| p.ln())).collect()
}

fn sampled(seed: u64, sampling: &Sampling) -> Request {
    Request {
        sampling: Sampling { seed, ..sampling.clone() },
        ignore_end: true,
        ..request(&[seed as u32 % 4], 40)
    }
}

fn answers(guess: fn(u32) -> Vec<f32>, depth: Depth, sampling: &Sampling, seeds: u64) -> Vec<Vec<u32>> {
    let oracle = Oracle { limits: ROOMY, guess, expect: target, ..Oracle::default() };
    let mut bench = bench_of(oracle, depth, 1 << 16);
    let events: Vec<_> = (0..seeds).map(|seed| bench.put(sampled(seed, sampling))).collect();
    while bench.step() {}
    events.into_iter().map(|events| read(events).0).collect()
}

/// Pearson's statistic of the tokens that follow each token, against the model's own distribution at `temperature`.
fn chi_square(answers: &[Vec<u32>], temperature: f64) -> (f64, usize) {
    let mut counts = [[0.0; 4]; 4];
    for pair in answers.iter().flat_map(|ids| ids.windows(2)) {
        counts[pair[0] as usize][pair[1] as usize] += 1.0;
    }
    let (mut statistic, mut freedom) = (0.0, 0);
    for (id, row) in counts.iter().enumerate() {
        let weights: Vec<f64> =
            target(id as u32)[..4].iter().map(|log| (f64::from(*log) / temperature).exp()).collect();
        let (seen, whole): (f64, f64) = (row.iter().sum(), weights.iter().sum());
        let possible: Vec<_> = row.iter().zip(&weights).filter(|(_, weight)| **weight > 0.0).collect();
        freedom += possible.len() - 1;
        for (count, weight) in row.iter().zip(&weights) {
            let expected = seen * weight / whole;
            if expected == 0.0 {
                assert_eq!(*count, 0.0, "an impossible token after {id}");
            } else {
                statistic += (count - expected).powi(2) / expected;
            }
        }
    }
    (statistic, freedom)
}

#[test]
fn sampled_tokens_keep_the_models_distribution_whatever_the_head_proposes() {
    for temperature in [1.0, 0.6, 1.7] {
        let sampling = Sampling { temperature, ..Sampling::default() };
        let plain = answers(skewed, Depth::Fixed(0), &sampling, 200);
        let drafted = answers(skewed, Depth::Fixed(4), &sampling, 200);
        let (statistic, freedom) = chi_square(&drafted, f64::from(temperature));
        assert_eq!(freedom, 11);
        // The 99.9th percentile of chi-square with 11 degrees of freedom is 31.3; seeds are fixed, so this is no gamble.
        assert!(statistic < 31.3, "{statistic} at {temperature}");
        assert_eq!(plain, drafted, "the same seed writes the same tokens at every depth");
        // The test can fail: it would notice another temperature.
        assert!(chi_square(&drafted, 0.7 * f64::from(temperature)).0 > 60.0);
    }
}

/// A mix of lengths, temperatures and penalties; more requests than slots.
fn mix() -> Vec<Request> {
    let text =
        |seed: u32, len: u32| -> Vec<u32> { (0..len).map(|i| (i * i * seed + 31 * i) % 250).collect() };
    let hot = |seed| Sampling { temperature: 0.8, top_p: 0.95, seed, ..Sampling::default() };
    let with = |prompt: Vec<u32>, tokens, sampling| Request {
        ignore_end: true,
        sampling,
        ..request(&prompt, tokens)
    };
    let cold = || Sampling { temperature: 0.0, ..Sampling::default() };
    vec![
        with(text(1, 5), 14, cold()),
        with(text(2, 70), 9, hot(1)),
        with(text(3, 20), 12, Sampling { frequency_penalty: 0.7, repetition_penalty: 1.2, ..cold() }),
        with(text(4, 1), 10, hot(2)),
        with(text(5, 33), 8, cold()),
    ]
}

#[test]
fn real_models_write_the_same_tokens_at_every_depth_alone_and_in_company() {
    let mut with_head = 0;
    for family in ["qwen3_5_moe", "qwen3_5", "qwen3_5_moe_nvfp4_ct", "qwen3_5_moe_modelopt_mixed"] {
        let checkpoint = fixture(family);
        let has_head = model(&checkpoint).limits().mtp;
        with_head += usize::from(has_head);
        let mut plain = bench_of(model(&checkpoint), Depth::Fixed(0), 8);
        let alone: Vec<Vec<u32>> =
            mix().iter().map(|request| run(&mut plain, std::slice::from_ref(request)).remove(0)).collect();
        assert!(alone.iter().zip(mix()).all(|(ids, request)| Some(ids.len()) == request.max_tokens));
        for depth in DEPTHS {
            let mut bench = bench_of(model(&checkpoint), depth, 8);
            assert_eq!(run(&mut bench, &mix()), alone, "{family} at depth {depth}");
            let speculation = bench.board.lock().counters.speculation.clone();
            assert!(speculation.rounds > 0 || !has_head, "{family} at depth {depth}");
        }
    }
    assert!(with_head >= 2, "{with_head} fixtures have an MTP head");
}

#[test]
fn embers_head_is_right_often_enough_to_save_steps() {
    let checkpoint = Checkpoint::builtin().expect("built in");
    let json = checkpoint.tokenizer_json().expect("a tokenizer");
    let tokenizer =
        Tokenizer::read(&json, checkpoint.config(), checkpoint.generation_config(), None).expect("reads");
    let tokenizer = Arc::new(tokenizer);
    let samples = include_str!("../../../assets/ember/samples.json");
    let samples: serde_json::Value = serde_json::from_str(samples).expect("JSON");
    let prompts: Vec<Vec<u32>> = samples
        .as_array()
        .expect("a list")
        .iter()
        .map(|sample| serde_json::from_value(sample["ids"].clone()).expect("ids"))
        .filter(|ids: &Vec<u32>| ids.len() < 400)
        .take(4)
        .collect();
    assert_eq!(prompts.len(), 4);
    let ask = |depth| {
        let mut bench = bench_with(model(&checkpoint), depth, 8, tokenizer.clone());
        let requests: Vec<_> = prompts.iter().map(|ids| request(ids, 60)).collect();
        let answers = run(&mut bench, &requests);
        let counters = bench.board.lock().counters.clone();
        (answers, counters)
    };
    let (plain, _) = ask(Depth::Fixed(0));
    let (drafted, counters) = ask(Depth::Fixed(3));
    assert_eq!(plain, drafted);
    let speculation = counters.speculation;
    assert!(speculation.accepted[0] * 2 > speculation.drafted[0], "{speculation:?}");
    assert!(speculation.draft_seconds > 0.0 && speculation.verify_seconds > 0.0);
}
