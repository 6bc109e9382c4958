//! Rounds of drafts that are started before the round before them was read: they write what would have been written without
//! drafts, whatever is rejected and however requests end. The oracle sees to it that every row looks back on its own text.

use crate::{
    Depth, Event, Finish, Request, Sampling,
    depth::MOST,
    flight_tests::{Told, said, told},
    oracle::{Expect, LIMITS, Oracle, VOCAB, mostly_next, never_next, next},
    rig::{Bench, bench_of, finish, read, request, run},
    runner::Limits,
};

/// Pages are long enough for some rounds between two ends of them.
const LONG: Limits = Limits {
    context: 256,
    states: 3 * (1 + MOST) + 6,
    max_rows: 24,
    page_len: 32,
    pages: 24,
    mtp: true,
    ahead: true,
    ..LIMITS
};

fn bench(limits: Limits, depth: Depth, expect: Expect, guess: Expect) -> Bench<Told<Oracle>> {
    told(Oracle { limits, expect, guess, ..Oracle::default() }, depth)
}

/// Passes that were started behind a round that nobody had read.
fn behind(said: &[String]) -> usize {
    said.iter().filter(|what| what.ends_with('?')).count()
}

/// Two tokens are likely after each.
fn either(id: u32) -> Vec<f32> {
    let favourite = (id + 1) % 250;
    let logit = |other: u32| match (other + 250 - favourite) % 250 {
        0 => 2.0,
        3 => 1.2,
        _ => -9.0,
    };
    (0..VOCAB).map(|other| if other < 250 { logit(other) } else { f32::NEG_INFINITY }).collect()
}

#[test]
fn whatever_is_rejected_the_tokens_are_those_of_plain_decoding() {
    let hot = Sampling { temperature: 1.0, seed: 3, ..Sampling::default() };
    let requests = [
        Request { sampling: hot.clone(), ..request(&[97, 98, 99], 100) },
        Request { sampling: Sampling { seed: 4, ..hot }, ..request(&[10], 90) },
        request(&[150; 7], 80),
    ];
    for (expect, guess) in [(either as Expect, either as Expect), (next, mostly_next), (next, never_next)] {
        let mut plain = bench_of(Oracle { limits: LONG, expect, ..Oracle::default() }, Depth::Fixed(0), 8);
        let expected = run(&mut plain, &requests);
        for depth in [Depth::Fixed(1), Depth::Fixed(3), Depth::Fixed(MOST), Depth::Auto] {
            for together in [true, false] {
                let mut bench = bench(LONG, depth, expect, guess);
                let found = match together {
                    true => run(&mut bench, &requests),
                    false => requests
                        .iter()
                        .flat_map(|request| run(&mut bench, std::slice::from_ref(request)))
                        .collect(),
                };
                assert_eq!(found, expected, "depth {depth}");
                let said = said(&bench);
                if depth == Depth::Fixed(1) && !together {
                    assert!(behind(&said) > 40, "{} of {}", behind(&said), said.len());
                }
            }
        }
    }
}

#[test]
fn the_next_round_is_started_with_its_drafts_before_the_last_one_is_read_but_now_and_then() {
    let mut bench = bench(LONG, Depth::Fixed(2), next, next);
    let events = bench.put(request(&[97], 60));
    bench.run_dry();
    assert_eq!(read(events).0, (98..158).collect::<Vec<_>>());
    let said = said(&bench);
    // Two drafts and their check are started, then the check before them is read, with the two drafts in it.
    let ahead = |said: &[String]| {
        said[..2] == ["draft", "draft"] && said[2].ends_with("*?") && said[3..] == ["read", "read", "read"]
    };
    assert!(said.windows(6).filter(|six| ahead(six)).count() > 8, "{said:?}");
    // Some rounds are read draft by draft, so that it is known what drafts cost.
    let seen = ["read", "draft", "read", "draft", "read"];
    assert!(said.windows(5).any(|five| five == seen), "{said:?}");
    let state = bench.board.lock();
    let speculation = &state.counters.speculation;
    assert!(speculation.draft_seconds > 0.0 && speculation.verify_seconds > 0.0);
}

#[test]
fn who_ends_among_drafts_that_nobody_had_read_leaves_only_what_is_its_own() {
    for depth in [1, 2, MOST] {
        let mut bench = bench(LONG, Depth::Fixed(depth), next, next);
        // Every place of an end in a round and in a page is met.
        for last in 60..124u32 {
            bench.worker.forget();
            let stop = [last as u8 as char, (last + 1) as u8 as char].iter().collect();
            let events = bench.put(Request { stop: vec![stop], ..request(&[33, 34], 100) });
            let beside = bench.put(request(&[160], 40));
            bench.run_dry();
            let (ids, _, end) = read(events);
            assert_eq!(ids, (35..=last + 1).collect::<Vec<_>>());
            assert_eq!(finish(end), (Finish::Stop, ids.len()));
            assert_eq!(read(beside).0, (161..201).collect::<Vec<_>>());
            let text: Vec<u32> = (33..=last + 1).chain([30, 50]).collect();
            let events = bench.put(request(&text, 3));
            bench.run_dry();
            let (ids, _, end) = read(events);
            assert_eq!(ids, [51, 52, 53]);
            let Some(Event::Done { usage, .. }) = end else { panic!("{end:?}") };
            // All pages that were full when the last token was chosen.
            assert!(usage.cached >= (text.len() - 3) / 32 * 32, "{} of {}", usage.cached, text.len());
        }
        assert!(behind(&said(&bench)) > 100);
    }
}

#[test]
fn clients_that_leave_or_come_do_not_disturb_rounds_that_are_on_their_way() {
    let mut bench = bench(LONG, Depth::Fixed(2), next, mostly_next);
    let gone = bench.put(request(&[100], 140));
    let stays = bench.put(request(&[60], 90));
    (0..9).for_each(|_| assert!(bench.step()));
    drop(gone);
    bench.step();
    assert_eq!(bench.board.lock().running.len(), 1, "it is gone before the next step");
    let late = bench.put(request(&[20; 6], 50));
    bench.run_dry();
    assert_eq!(read(stays).0, (61..151).collect::<Vec<_>>());
    assert_eq!(read(late).0, (21..71).collect::<Vec<_>>());
    assert!(behind(&said(&bench)) > 20);
}

#[test]
fn text_that_repeats_itself_is_still_copied() {
    /// Ten numbers, over and over.
    fn circle(id: u32) -> Vec<f32> {
        next(if id % 10 == 9 { id - 10 } else { id })
    }
    let mut bench = bench(LONG, Depth::Fixed(2), circle, never_next);
    let ids = run(&mut bench, &[request(&[100], 100)]).remove(0);
    assert!(ids.iter().zip(1..).all(|(id, i)| *id == 100 + i % 10), "{ids:?}");
    let state = bench.board.lock();
    let copied: u64 = state.counters.speculation.echoed_accepted;
    assert!(copied > 50, "{copied}");
}

#[test]
fn a_step_that_fails_on_its_way_fails_its_requests_and_no_others() {
    let oracle = Oracle { limits: LONG, poison: Some(120), ..Oracle::default() };
    let mut bench = told(oracle, Depth::Fixed(2));
    let events = bench.put(request(&[97], 60));
    bench.run_dry();
    let (ids, _, end) = read(events);
    assert!(ids.len() < 24 && matches!(end, Some(Event::Failed { .. })), "{ids:?} {end:?}");
    let events = bench.put(request(&[130], 30));
    bench.run_dry();
    assert_eq!(read(events).0, (131..161).collect::<Vec<_>>());
}
