//! What was computed before is not computed again, and never changes an answer: over a runner that computes nothing but
//! knows whose keys, values and states are where, and over the fixtures.

use crate::{
    Depth, Event, Request, Sampling,
    depth::MOST,
    oracle::{LIMITS, Oracle},
    rig::{Bench, bench_of, fixture, model, read, request, run},
    runner::{Limits, Runner},
};

/// Pages of four positions, room for prompts, drafts and a dozen kept states.
const ROOMY: Limits =
    Limits { context: 256, states: 3 * (1 + MOST) + 12, max_rows: 32, pages: 192, mtp: true, ..LIMITS };

fn roomy(limits: Limits) -> Bench<Oracle> {
    let oracle = Oracle { limits, ..Oracle::default() };
    let steps = oracle.steps.clone();
    let mut bench = bench_of(oracle, Depth::Fixed(2), 64);
    bench.steps = steps;
    bench
}

fn text(len: u32, from: u32) -> Vec<u32> {
    (0..len).map(|i| (from + 7 * i) % 240 + 10).collect()
}

/// Runs one request to its end: its tokens and how many of its prompt were known.
fn ask<R: Runner>(bench: &mut Bench<R>, prompt: &[u32], tokens: usize) -> (Vec<u32>, usize) {
    let events = bench.put(Request { ignore_end: true, ..request(prompt, tokens) });
    bench.run_dry();
    let (ids, _, end) = read(events);
    match end {
        Some(Event::Done { usage, .. }) => (ids, usage.cached),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_next_turn_of_a_conversation_reads_only_what_is_new() {
    let mut bench = roomy(ROOMY);
    let mut conversation = text(21, 0);
    let mut known = 0;
    for turn in 0..5 {
        let (answer, cached) = ask(&mut bench, &conversation, 11);
        assert_eq!(cached, known, "turn {turn}");
        conversation.extend(answer);
        // The last token was never an input; behind it at most a page is read again.
        known = (conversation.len() - 1) / 4 * 4;
        conversation.extend(text(6, turn));
    }
    let counters = bench.board.lock().counters.clone();
    assert_eq!(counters.prefill_tokens + counters.cached_tokens, (0..5).map(|t| 21 + 17 * t).sum::<u64>());
    let last = bench.board.lock().finished.back().map(|r| r.cached_tokens);
    assert_eq!(last, Some(21 + 17 * 3 + 11 - 1).map(|len: u32| len / 4 * 4));
}

#[test]
fn the_same_prompt_again_computes_only_its_last_page() {
    let mut bench = roomy(ROOMY);
    let prompt = text(50, 3);
    let (first, cached) = ask(&mut bench, &prompt, 5);
    assert_eq!(cached, 0);
    assert_eq!(ask(&mut bench, &prompt, 5), (first, 48));
}

#[test]
fn texts_that_branch_share_what_they_have_in_common_from_the_second_one_on() {
    let mut bench = roomy(ROOMY);
    let common = text(30, 0);
    let with = |tail: u32| [common.clone(), text(14, tail)].concat();
    assert_eq!(ask(&mut bench, &with(100), 3).1, 0);
    // No state was kept in the middle of the first one; the second keeps one where it leaves the known path.
    assert_eq!(ask(&mut bench, &with(101), 3).1, 0);
    for tail in 102..105 {
        assert_eq!(ask(&mut bench, &with(tail), 3).1, 28, "{tail}");
    }
}

#[test]
fn requests_that_arrive_together_with_one_prefix_read_it_once() {
    let mut bench = roomy(ROOMY);
    let common = text(80, 0);
    let prompts: Vec<Vec<u32>> = (0..3).map(|i| [common.clone(), text(9, 50 + i)].concat()).collect();
    let events: Vec<_> = prompts.iter().map(|prompt| bench.put(request(prompt, 4))).collect();
    bench.run_dry();
    for events in events {
        assert_eq!(read(events).0.len(), 4);
    }
    let counters = bench.board.lock().counters.clone();
    assert_eq!((counters.prefill_tokens, counters.cached_tokens), (80 + 9 + 2 * 9, 160));
}

#[test]
fn a_request_that_is_cut_off_leaves_what_it_had_read() {
    let mut bench = roomy(ROOMY);
    let prompt = text(100, 0);
    let events = bench.put(request(&prompt, 5));
    bench.step();
    bench.step();
    drop(events);
    bench.step();
    let (_, cached) = ask(&mut bench, &prompt, 5);
    assert_eq!(cached, 64, "two chunks of 32 rows");
}

#[test]
fn a_failed_step_leaves_nothing_behind() {
    let mut bench = roomy(ROOMY);
    let prompt = text(60, 0);
    bench.worker.runner.poison = Some(prompt[50]);
    let events = bench.put(request(&prompt, 5));
    bench.run_dry();
    assert!(matches!(read(events).2, Some(Event::Failed { .. })));
    bench.worker.runner.poison = None;
    assert_eq!(ask(&mut bench, &prompt, 5).1, 0);
}

#[test]
fn when_memory_is_short_old_texts_give_way_and_answers_stay_whole() {
    // 24 pages of 4: a text of 60 fills most of it.
    let mut bench = roomy(Limits { context: 80, pages: 24, states: 3 * (1 + MOST) + 2, ..ROOMY });
    for round in 0..12 {
        let prompt = text(60, round % 3);
        let (ids, _) = ask(&mut bench, &prompt, 8);
        let expected: Vec<u32> = (1..=8).map(|i| (prompt[59] + i) % 250).collect();
        assert_eq!(ids, expected);
    }
}

#[test]
fn requests_that_outgrow_the_memory_together_leave_in_turn_and_all_finish() {
    // Three answers of 60 positions need 45 pages; there are 30.
    let mut bench = roomy(Limits { context: 80, pages: 30, ..ROOMY });
    let requests: Vec<_> = (0..3).map(|i| Request { ignore_end: true, ..request(&[20 + i], 59) }).collect();
    let answers = run(&mut bench, &requests);
    for (i, ids) in answers.iter().enumerate() {
        assert_eq!(*ids, (0..59).map(|n| 21 + i as u32 + n).collect::<Vec<_>>());
    }
    let state = bench.board.lock();
    assert!(state.counters.preemptions > 0);
    assert_eq!(state.memory.as_ref().map(|m| m.kv_used), Some(0.0));
}

#[test]
fn memory_shows_what_is_in_use_and_what_is_only_kept() {
    let mut bench = roomy(ROOMY);
    let _events = bench.put(request(&text(40, 0), 20));
    bench.step();
    bench.step();
    // 41 positions need 11 pages of 192; all pages are 480 bytes.
    let memory = bench.board.lock().memory.clone().expect("it is reported");
    assert_eq!((memory.kv_used, memory.kv_cached), ((11.0f64 * 2.5).round(), 0.0));
    bench.run_dry();
    let memory = bench.board.lock().memory.clone().expect("it is reported");
    assert_eq!((memory.kv_used, memory.kv_cached), (0.0, (14.0f64 * 2.5).round()));
}

/// A conversation of three turns with a real model: the tokens of every answer, and how much was known.
fn converse<R: Runner>(bench: &mut Bench<R>, seed: u32, temperature: f32) -> (Vec<Vec<u32>>, Vec<usize>) {
    let mut ids: Vec<u32> = (0..140).map(|i| (i * i * seed + 17 * i) % 250).collect();
    let (mut answers, mut known) = (Vec::new(), Vec::new());
    for turn in 0..3u32 {
        let sampling = Sampling { temperature, seed: u64::from(turn), ..Sampling::default() };
        let events = bench.put(Request { ignore_end: true, sampling, ..request(&ids, 20) });
        bench.run_dry();
        let (answer, _, end) = read(events);
        let Some(Event::Done { usage, .. }) = end else { panic!("{end:?}") };
        known.push(usage.cached);
        ids.extend(&answer);
        ids.extend((0..25).map(|i| (i * 3 + turn) % 250));
        answers.push(answer);
    }
    (answers, known)
}

#[test]
fn cold_and_warm_conversations_write_the_same_tokens_also_after_eviction_and_abort() {
    for family in ["qwen3_5_moe", "qwen3_5"] {
        let checkpoint = fixture(family);
        for temperature in [0.0, 0.9] {
            // Cold: a fresh engine for every turn would do; one without room for states does the same.
            let mut cold = bench_of(model(&checkpoint), Depth::Fixed(0), 8);
            let expected: Vec<_> = (1..3)
                .map(|seed| {
                    let mut ids: Vec<Vec<u32>> = Vec::new();
                    // Every turn anew, with nothing kept.
                    let mut text: Vec<u32> = (0..140).map(|i| (i * i * seed + 17 * i) % 250).collect();
                    for turn in 0..3u32 {
                        cold.worker.forget();
                        let sampling = Sampling { temperature, seed: u64::from(turn), ..Sampling::default() };
                        let request = Request { ignore_end: true, sampling, ..request(&text, 20) };
                        let answer = run(&mut cold, &[request]).remove(0);
                        text.extend(&answer);
                        text.extend((0..25).map(|i| (i * 3 + turn) % 250));
                        ids.push(answer);
                    }
                    ids
                })
                .collect();

            let mut warm = bench_of(model(&checkpoint), Depth::Fixed(2), 8);
            for seed in 1..3 {
                let (answers, known) = converse(&mut warm, seed, temperature);
                assert_eq!(answers, expected[seed as usize - 1], "{family}, warm");
                assert_eq!(known, [0, 128, 192], "{family}");
                // Again, all of it known; after an abort in the middle of a prompt; and after eviction.
                let (answers, known) = converse(&mut warm, seed, temperature);
                assert_eq!(answers, expected[seed as usize - 1], "{family}, again");
                assert!(known[0] >= 128 && known[2] >= 192, "{known:?}");
                let prompt: Vec<u32> = (0..200).map(|i| (i * i * seed + 17 * i) % 250).collect();
                let cut = warm.put(request(&prompt, 20));
                warm.step();
                drop(cut);
                assert_eq!(
                    converse(&mut warm, seed, temperature).0,
                    expected[seed as usize - 1],
                    "{family}, abort"
                );
            }
            for state in 0..3 {
                let evicted = warm.worker.prefixes.evict_state().expect("states are kept");
                warm.worker.free_states.push(evicted);
                let pages = warm.worker.prefixes.evict_pages(state);
                warm.worker.pages.give_back(pages.pages);
                warm.worker.free_states.extend(pages.states);
                assert_eq!(converse(&mut warm, 2, temperature).0, expected[1], "{family}, eviction {state}");
            }
        }
    }
}
