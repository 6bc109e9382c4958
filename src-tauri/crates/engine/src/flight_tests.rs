//! The order of starting and waiting, over a runner that computes nothing and tells what it was asked; and that tokens do
//! not depend on where they are chosen, nor on how far the engine runs ahead of knowing them.

use std::sync::{Arc, Mutex};

use hearth_kernels::{
    Device,
    ops::Pass,
    rounds::Follow,
    sample::{CHOSEN, SampleRow},
};
use hearth_model::{KvType, LoadOptions, Model, Seed};

use crate::{
    Begin, Constraint, Depth, Event, Finish, GrammarSource, Request, Sampling, Spaces,
    depth::MOST,
    oracle::{LIMITS, Oracle},
    rig::{Bench, bench_of, finish, fixture, model, read, request, run},
    runner::{Given, Limits, Runner, Sampled},
    status::EngineMemory,
    tokenizer::tests::byte_tokenizer,
};

/// A runner that tells what it is asked, and may be asked less than it can.
pub(crate) struct Told<R> {
    inner: R,
    /// `run 5`: rows from position 5 on; `run 5*`: with a token that only the device knows; `run 5*?`: at most from there on,
    /// as the device knows; `draft`, `read`.
    said: Arc<Mutex<Vec<String>>>,
    /// Rows whose logits were read.
    logits: Arc<Mutex<usize>>,
    ahead: bool,
    samples: bool,
}

impl<R: Runner> Told<R> {
    fn new(inner: R, ahead: bool, samples: bool) -> Told<R> {
        Told { inner, said: Arc::default(), logits: Arc::default(), ahead, samples }
    }

    fn say(&self, what: String) {
        self.said.lock().expect("one thread").push(what);
    }
}

impl<R: Runner> Runner for Told<R> {
    fn limits(&self) -> Limits {
        Limits { ahead: self.ahead, ..self.inner.limits() }
    }

    fn run(&mut self, pass: &Pass, ids: &[u32], want: &[u32], follows: &[Follow]) -> Result<(), String> {
        let unknown = if ids.iter().any(|id| *id >= CHOSEN) { "*" } else { "" };
        let behind = if follows.is_empty() { "" } else { "?" };
        self.say(format!("run {}{unknown}{behind}", pass.segments[0].position));
        self.inner.run(pass, ids, want, follows)
    }

    fn draft(
        &mut self,
        pass: &Pass,
        next_ids: &[u32],
        seed: Seed<'_>,
        want: &[u32],
        follows: &[Follow],
    ) -> Result<(), String> {
        self.say("draft".into());
        self.inner.draft(pass, next_ids, seed, want, follows)
    }

    fn sample(&mut self, tokens: usize, rows: &[Option<SampleRow<'_>>]) -> Result<Sampled, String> {
        self.inner.sample(tokens, rows)
    }

    fn read(&mut self, sampled: Sampled) -> Result<Vec<Given>, String> {
        self.say("read".into());
        let given = self.inner.read(sampled)?;
        let logits = given.iter().filter(|given| matches!(given, Given::Logits(_))).count();
        *self.logits.lock().expect("one thread") += logits;
        Ok(given)
    }

    fn can_sample(&self, row: &SampleRow<'_>) -> bool {
        self.samples && self.inner.can_sample(row)
    }

    fn copy_state(&mut self, from: usize, to: usize) -> Result<(), String> {
        self.inner.copy_state(from, to)
    }

    fn bytes_per_step(&self, rows: usize, context: usize) -> u64 {
        self.inner.bytes_per_step(rows, context)
    }

    fn memory(&self) -> EngineMemory {
        self.inner.memory()
    }
}

fn ahead(limits: Limits, depth: Depth) -> Bench<Told<Oracle>> {
    told(Oracle { limits, ..Oracle::default() }, depth)
}

/// The oracle, running ahead, with all that it is asked.
pub(crate) fn told(oracle: Oracle, depth: Depth) -> Bench<Told<Oracle>> {
    let mut bench = bench_of(Told::new(oracle, true, true), depth, 8);
    bench.worker.warm_up().expect("it works");
    bench.worker.runner.said.lock().expect("one thread").clear();
    bench
}

pub(crate) fn said(bench: &Bench<Told<Oracle>>) -> Vec<String> {
    std::mem::take(&mut *bench.worker.runner.said.lock().expect("one thread"))
}

#[test]
fn the_next_pass_is_started_before_the_tokens_of_the_last_one_are_read() {
    let mut bench = ahead(LIMITS, Depth::Fixed(0));
    let events = bench.put(request(&[97], 4));
    bench.run_dry();
    // The first token comes with the prompt; the last one is known to be the last.
    assert_eq!(said(&bench), ["run 0", "read", "run 1", "run 2*", "read", "run 3*", "read", "read"]);
    let (ids, text, end) = read(events);
    assert_eq!((ids, text.as_str()), (vec![98, 99, 100, 101], "bcde"));
    assert_eq!(finish(end), (Finish::Length, 4));
}

#[test]
fn who_ends_with_a_token_nobody_knew_yet_loses_only_what_was_chosen_after_it() {
    let mut bench = ahead(Limits { states: 12, ..LIMITS }, Depth::Fixed(0));
    // Pages hold four positions, so that every length of what is left behind is met.
    for last in 102..110u32 {
        bench.worker.forget();
        let stop = [last as u8 as char, (last + 1) as u8 as char].iter().collect();
        let events = bench.put(Request { stop: vec![stop], ..request(&[97, 98], 30) });
        let beside = bench.put(request(&[30], 9));
        bench.run_dry();
        let said = said(&bench);
        assert!(said.iter().filter(|what| what.ends_with('*')).count() > 4, "{said:?}");
        let (ids, _, end) = read(events);
        assert_eq!(ids, (99..=last + 1).collect::<Vec<_>>());
        assert_eq!(finish(end), (Finish::Stop, ids.len()));
        assert_eq!(read(beside).0, (31..40).collect::<Vec<_>>());
        // The oracle sees to it that what was kept is the state and the pages of this very text.
        let text: Vec<u32> = (97..=last + 1).chain([30, 50]).collect();
        let events = bench.put(request(&text, 3));
        bench.run_dry();
        let (ids, _, end) = read(events);
        assert_eq!(ids, [51, 52, 53]);
        let Some(Event::Done { usage, .. }) = end else { panic!("{end:?}") };
        assert_eq!(usage.cached, (text.len() - 2) / 4 * 4, "of {}", text.len());
    }
}

#[test]
fn clients_that_leave_come_or_read_slowly_end_the_running_ahead_and_nothing_else() {
    let mut bench = ahead(LIMITS, Depth::Fixed(0));
    let gone = bench.put(request(&[100], 40));
    let stays = bench.put(request(&[60], 12));
    (0..4).for_each(|_| assert!(bench.step()));
    drop(gone);
    bench.step();
    assert_eq!(bench.board.lock().running.len(), 1, "it is gone before the next step");
    let late = bench.put(request(&[20; 6], 3));
    let mut slow = bench.put_with(request(&[150], 9), 3).expect("room");
    let mut ids = Vec::new();
    for _ in 0..60 {
        bench.step();
        if let Ok(Event::Token { id, .. }) = slow.try_recv() {
            ids.push(id);
        }
    }
    assert_eq!(ids, (151..160).collect::<Vec<_>>());
    assert_eq!(read(stays).0, (61..73).collect::<Vec<_>>());
    assert_eq!(read(late).0, [21, 22, 23]);
}

#[test]
fn what_depends_on_the_token_waits_for_it() {
    let tokenizer = byte_tokenizer();
    let source = GrammarSource::Lark(r#"start: /[b-z]{6}/"#.into());
    let constraint =
        Constraint::compile(&tokenizer, &source, &Spaces::Some, Begin::AtOnce).expect("a grammar");
    let base = || request(&[97], 6);
    let penalty = Sampling { presence_penalty: 0.1, ..base().sampling };
    for asked in [
        Request { constraint: Some(constraint), ..base() },
        Request { sampling: penalty, ..base() },
        Request { logprobs: Some(2), ..base() },
    ] {
        let mut bench = ahead(LIMITS, Depth::Fixed(0));
        let events = bench.put(asked.clone());
        bench.run_dry();
        assert_eq!(read(events).1, "bcdefg", "{asked:?}");
        assert!(said(&bench).iter().all(|what| !what.ends_with('*')), "{asked:?}");
    }
}

#[test]
fn drafts_go_to_their_check_without_being_read_but_for_a_round_now_and_then() {
    let limits =
        Limits { context: 128, states: 3 * (1 + MOST), max_rows: 24, pages: 96, mtp: true, ..LIMITS };
    let mut bench = ahead(limits, Depth::Fixed(3));
    let events = bench.put(request(&[97], 60));
    bench.run_dry();
    assert_eq!(read(events).0, (98..158).collect::<Vec<_>>());
    let said = said(&bench);
    let rounds: Vec<&[String]> = said.split(|what| what.starts_with("run")).collect();
    // The check is read with the three drafts before it.
    let unseen = ["read", "read", "read", "read", "draft", "draft", "draft"];
    let seen = ["read", "read", "read", "read", "draft", "read", "draft", "read", "draft", "read"];
    assert!(rounds.iter().filter(|round| ***round == unseen).count() >= 6, "{said:?}");
    assert!(rounds.iter().any(|round| **round == seen), "{said:?}");
    assert!(said.iter().any(|what| what.starts_with("run") && what.ends_with('*')), "{said:?}");
}

#[test]
fn requests_that_ask_for_no_drafts_run_ahead_among_themselves_where_others_draft() {
    let limits =
        Limits { context: 128, states: 3 * (1 + MOST), max_rows: 24, pages: 96, mtp: true, ..LIMITS };
    let mut bench = ahead(limits, Depth::Fixed(3));
    let plain = || Request { mtp_depth: Some(Depth::Fixed(0)), ..request(&[60], 12) };
    let (first, second) = (bench.put(plain()), bench.put(plain()));
    bench.run_dry();
    let alone = said(&bench);
    assert!(alone.iter().filter(|what| what.ends_with('*')).count() >= 9, "{alone:?}");
    assert_eq!((read(first).0, read(second).0), ((61..73).collect::<Vec<_>>(), (61..73).collect::<Vec<_>>()));
    let (drafts, beside) = (bench.put(request(&[97], 12)), bench.put(plain()));
    bench.run_dry();
    assert_eq!(read(drafts).0, (98..110).collect::<Vec<_>>());
    assert_eq!(read(beside).0, (61..73).collect::<Vec<_>>());
}

/// Every way of choosing a token.
fn every_way(tokens: usize) -> Vec<Request> {
    let text =
        |seed: u32, len: u32| -> Vec<u32> { (0..len).map(|i| (i * i * seed + 31 * i) % 250).collect() };
    let cold = || Sampling { temperature: 0.0, ..Sampling::default() };
    let hot = |seed| Sampling { temperature: 0.9, seed, ..Sampling::default() };
    let with = |prompt: Vec<u32>, sampling| Request {
        ignore_end: true,
        sampling,
        min_tokens: 2,
        ..request(&prompt, tokens)
    };
    let tokenizer = byte_tokenizer();
    let source = GrammarSource::Lark(r#"start: /[a-m]{3,5}/ /[n-z]+/"#.into());
    let constraint =
        Constraint::compile(&tokenizer, &source, &Spaces::Some, Begin::AtOnce).expect("a grammar");
    vec![
        with(text(1, 5), cold()),
        with(text(2, 9), Sampling { top_k: 12, top_p: 0.8, ..hot(1) }),
        with(text(3, 7), Sampling { min_p: 0.2, temperature: 1.6, ..hot(2) }),
        with(text(4, 6), Sampling { frequency_penalty: 0.7, repetition_penalty: 1.3, ..hot(3) }),
        with(text(5, 3), Sampling { logit_bias: [(65, 4.5), (66, -100.0), (67, 3.0)].into(), ..hot(4) }),
        Request { constraint: Some(constraint), ..with(text(6, 4), hot(5)) },
        Request { logprobs: Some(3), ..with(text(7, 4), hot(6)) },
        with(text(8, 4), Sampling { presence_penalty: 1.5, ..cold() }),
    ]
}

#[test]
fn tokens_are_the_same_wherever_they_are_chosen_at_every_depth() {
    let checkpoint = fixture("qwen3_5_moe");
    let mut plain = bench_of(Told::new(model(&checkpoint), false, false), Depth::Fixed(0), 8);
    let expected = run(&mut plain, &every_way(9));
    assert!(expected.iter().all(|ids| !ids.is_empty()));
    for (depth, ahead) in [(0, false), (0, true), (2, false), (3, true)] {
        let mut bench = bench_of(Told::new(model(&checkpoint), ahead, true), Depth::Fixed(depth), 8);
        assert_eq!(run(&mut bench, &every_way(9)), expected, "depth {depth}, ahead: {ahead}");
        let read = *bench.worker.runner.logits.lock().expect("one thread");
        // Only the request for logarithms has its rows read: at most one per token and draft.
        assert!((9..=9 * (1 + depth)).contains(&read), "{read} rows at depth {depth}");
    }
}

#[test]
fn in_the_emulator_tokens_chosen_by_the_kernels_are_those_the_host_chooses() {
    let checkpoint = fixture("qwen3_5");
    let load = || {
        let options = LoadOptions {
            context: 64,
            slots: 4,
            snapshots: 4 * MOST + 4,
            kv: KvType::Bf16.into(),
            mtp: true,
            max_rows: 16,
            exact: true,
            ..LoadOptions::default()
        };
        let ops = Device::Emulated.open(None).expect("the emulator").ops;
        Model::load(&checkpoint, ops, options, &mut |_| {}).expect("loads")
    };
    let mut host = bench_of(Told::new(load(), false, false), Depth::Fixed(0), 8);
    let expected = run(&mut host, &every_way(4));
    let expected_long = run(&mut host, &every_way(14)[..2]);
    for depth in [0, 2] {
        let mut bench = bench_of(Told::new(load(), true, true), Depth::Fixed(depth), 8);
        assert_eq!(run(&mut bench, &every_way(4)), expected, "depth {depth}");
        // Among themselves, requests of whose tokens nothing else depends on run ahead, and leave their drafts unread.
        assert_eq!(run(&mut bench, &every_way(14)[..2]), expected_long);
        let said = bench.worker.runner.said.lock().expect("one thread").clone();
        assert!(
            said.iter().any(|what| what.ends_with(if depth == 0 { "*" } else { "*?" })),
            "depth {depth}: {said:?}"
        );
    }
}
