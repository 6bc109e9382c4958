//! The scheduler, driven step by step over a runner that computes nothing: after token n it expects n + 1.

use std::{sync::Arc, time::Duration};

use hearth_kernels::{ops::Pass, rounds::Follow, sample::SampleRow};
use hearth_model::Seed;

use crate::{
    Depth, Engine, EngineError, Event, Finish, Loaded, Request, Sampling, Served,
    engine::End,
    oracle::{LIMITS, Oracle},
    policy::Policy,
    queue::Refused,
    rig::{bench, finish, read, request},
    runner::{Given, Limits, OnHost, Runner, Sampled},
    status::{EngineMemory, EnginePhase, Fault, RequestEnd, RequestPhase},
    timing::Timing,
    tokenizer::tests::byte_tokenizer,
};

#[test]
fn an_answer_is_written_token_by_token_up_to_its_limit() {
    let mut bench = bench(Oracle::default());
    let events = bench.put(request(&[97], 3));
    bench.run_dry();
    let (ids, text, end) = read(events);
    assert_eq!((ids, text.as_str()), (vec![98, 99, 100], "bcd"));
    assert_eq!(finish(end), (Finish::Length, 3));
}

#[test]
fn writers_get_a_row_in_every_step_while_a_long_prompt_is_read_in_chunks() {
    let mut bench = bench(Oracle::default());
    let _a = bench.put(request(&[1], 30));
    bench.step();
    let _b = bench.put(request(&[50; 20], 30));
    // The last chunk is short, because a state is kept after 16 tokens.
    for rows in [7, 7, 2, 4] {
        bench.step();
        let step = bench.last_step();
        assert_eq!(step.iter().map(|s| s.2).collect::<Vec<_>>(), [1, rows], "{step:?}");
    }
    bench.step();
    assert_eq!(bench.last_step().iter().map(|s| s.2).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn a_prompt_is_read_in_short_chunks_while_others_write_and_in_long_ones_otherwise() {
    let limits = Limits { context: 256, max_rows: 64, pages: 192, ..LIMITS };
    let mut bench = bench(Oracle { limits, ..Oracle::default() });
    let writer = bench.put(request(&[101], 100));
    bench.step();
    let _reader = bench.put(request(&[50; 150], 10));
    // At 5 ms a row, 20 rows are 100 ms; at a second a row the shortest chunk is read all the same.
    for (row_seconds, rows) in [(0.005, 20), (1.0, 16)] {
        bench.worker.timing = Timing::of_prompt_rows(row_seconds);
        bench.step();
        assert_eq!(bench.last_step().iter().map(|s| s.2).collect::<Vec<_>>(), [1, rows]);
    }
    drop(writer);
    bench.worker.timing = Timing::of_prompt_rows(1.0);
    bench.step();
    assert_eq!(bench.last_step().iter().map(|s| s.2).collect::<Vec<_>>(), [64]);
}

#[test]
fn prompts_are_read_in_order_of_arrival_and_late_requests_wait_for_a_slot() {
    let mut bench = bench(Oracle::default());
    let events: Vec<_> = (0..4).map(|i| bench.put(request(&[10 + i; 9], 1))).collect();
    bench.step();
    assert_eq!(bench.queue.len(), 1);
    assert_eq!(bench.last_step(), [(0, 0, 8)]);
    bench.run_dry();
    let order: Vec<String> = bench.board.lock().finished.iter().map(|r| r.id.clone()).collect();
    assert_eq!(order, ["r10", "r11", "r12", "r13"]);
    for events in events {
        assert_eq!(finish(read(events).2), (Finish::Length, 1));
    }
}

#[test]
fn the_queue_refuses_more_than_its_limit() {
    let bench = bench(Oracle::default());
    let _kept: Vec<_> = (0..4).map(|i| bench.put(request(&[i + 1], 1))).collect();
    assert_eq!(bench.put_with(request(&[9], 1), 8).map(|_| ()), Err(Refused::Full));
    bench.queue.drain();
    assert_eq!(bench.put_with(request(&[9], 1), 8).map(|_| ()), Err(Refused::Draining));
}

#[test]
fn a_client_that_goes_away_frees_its_slot_and_pages_before_the_next_step() {
    let mut bench = bench(Oracle::default());
    let first = bench.put(request(&[1], 40));
    let waiting: Vec<_> = (0..3).map(|i| bench.put(request(&[20 + i], 40))).collect();
    bench.step();
    assert_eq!(bench.queue.len(), 1);
    drop(first);
    bench.step();
    assert_eq!((bench.queue.len(), bench.board.lock().running.len()), (0, 3));
    drop(waiting);
    assert!(!bench.step());
    let state = bench.board.lock();
    assert_eq!(state.counters.requests_cancelled, 4);
    assert!(state.finished.iter().all(|r| r.finish == RequestEnd::Cancelled));
    assert_eq!(state.memory.as_ref().map(|m| m.kv_used), Some(0.0));
}

#[test]
fn a_client_that_leaves_the_queue_never_gets_a_slot() {
    let mut bench = bench(Oracle::default());
    let running: Vec<_> = (0..3).map(|i| bench.put(request(&[i + 1], 20))).collect();
    bench.step();
    drop(bench.put(request(&[99], 20)));
    bench.step();
    assert!(bench.queue.is_empty());
    assert_eq!(
        bench.board.lock().finished.back().map(|r| (r.id.clone(), r.ttft_s)),
        Some(("r99".into(), None))
    );
    drop(running);
}

#[test]
fn a_client_that_does_not_read_pauses_alone_and_goes_on_when_it_reads() {
    let mut bench = bench(Oracle::default());
    let mut slow = bench.put_with(request(&[101], 10), 4).expect("the queue has room");
    let fast = bench.put(request(&[50], 12));
    bench.run_dry();
    assert_eq!(finish(read(fast).2), (Finish::Length, 12));
    assert_eq!(bench.board.lock().running.len(), 1);
    let mut ids = Vec::new();
    for _ in 0..40 {
        while let Ok(event) = slow.try_recv() {
            match event {
                Event::Token { id, .. } => ids.push(id),
                Event::Done { finish, .. } => assert_eq!(finish, Finish::Length),
                failed => panic!("{failed:?}"),
            }
        }
        bench.step();
    }
    assert_eq!(ids, (102..112).collect::<Vec<_>>());
    assert!(bench.board.lock().running.is_empty());
}

#[test]
fn end_tokens_and_stop_strings_end_an_answer_and_are_not_sent() {
    let mut bench = bench(Oracle::default());
    // The byte tokenizer's end tokens include 7; counting up from 4 reaches it third.
    let end = bench.put(request(&[4], 20));
    let ignored = bench.put(Request { ignore_end: true, ..request(&[4], 5) });
    let stop = bench.put(Request { stop: vec!["de".into()], ..request(&[97], 20) });
    bench.run_dry();
    let (ids, _, event) = read(end);
    assert_eq!((ids, finish(event)), (vec![5, 6], (Finish::Stop, 3)));
    assert_eq!(finish(read(ignored).2), (Finish::Length, 5));
    let (_, text, event) = read(stop);
    assert_eq!((text.as_str(), finish(event)), ("bc", (Finish::Stop, 4)));
}

#[test]
fn fewest_tokens_keeps_end_tokens_away_until_then() {
    let mut bench = bench(Oracle::default());
    let events = bench.put(Request { min_tokens: 4, ..request(&[4], 20) });
    bench.run_dry();
    let (ids, _, end) = read(events);
    assert!(ids.len() >= 4 && !ids[..4].contains(&7), "{ids:?}");
    drop(end);
}

#[test]
fn a_seed_gives_the_same_tokens_alone_and_in_company() {
    let sampled = |seed| Request {
        sampling: Sampling { temperature: 1.5, seed, ..Sampling::default() },
        ignore_end: true,
        ..request(&[60, 61], 20)
    };
    let mut alone = bench(Oracle::default());
    let events = alone.put(sampled(5));
    alone.run_dry();
    let expected = read(events).0;

    let mut company = bench(Oracle::default());
    let _others = (company.put(sampled(6)), company.put(request(&[30; 15], 20)));
    company.step();
    let events = company.put(sampled(5));
    company.run_dry();
    assert_eq!(read(events).0, expected);
}

#[test]
fn a_failed_step_fails_its_requests_and_the_next_one_is_served() {
    let mut bench = bench(Oracle { poison: Some(44), ..Oracle::default() });
    let bad = bench.put(request(&[42], 10));
    bench.run_dry();
    match read(bad).2 {
        Some(Event::Failed { fault, usage }) => {
            assert_eq!((fault.code.as_str(), usage.output), ("step_failed", 2));
        }
        other => panic!("{other:?}"),
    }
    let good = bench.put(request(&[60], 2));
    bench.run_dry();
    assert_eq!(finish(read(good).2), (Finish::Length, 2));
    assert_eq!(bench.board.lock().counters.requests_failed, 1);
}

#[test]
fn counters_tell_reading_from_writing() {
    let mut bench = bench(Oracle::default());
    let _events = bench.put(request(&[50; 10], 3));
    bench.step();
    assert_eq!(bench.board.lock().running[0].phase, RequestPhase::Prefill);
    assert_eq!(bench.board.lock().running[0].prefilled_tokens, 8);
    bench.run_dry();
    let state = bench.board.lock();
    assert_eq!((state.counters.prefill_tokens, state.counters.decode_tokens), (10, 2));
    assert_eq!((state.counters.steps, state.counters.bytes_read), (4, 4012.0));
    let record = state.finished.back().expect("one ended");
    assert_eq!((record.prompt_tokens, record.output_tokens), (10, 3));
    assert!(record.ttft_s.is_some() && record.decode_s.is_some());
}

pub(crate) fn served() -> Served {
    Served {
        id: "count".into(),
        aliases: Vec::new(),
        tokenizer: Arc::new(byte_tokenizer()),
        chat_template: None,
        tokenizer_config: None,
        sampling: Sampling::default(),
        created: 0,
    }
}

pub(crate) async fn ready(engine: &Engine) {
    while !matches!(engine.status(0).phase, EnginePhase::Ready) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn an_engine_serves_refuses_what_cannot_fit_and_ends_when_drained() {
    let engine = Engine::start(
        |_| {
            Ok(Loaded {
                runner: Oracle::default(),
                depth: Depth::Auto,
                policy: Policy::Fifo,
                patience: Duration::from_secs(600),
                disk: None,
                served: served(),
            })
        },
        4,
    )
    .expect("starts");
    ready(&engine).await;
    let mut events = engine.submit(request(&[97], 2)).expect("fits");
    let mut text = String::new();
    while let Some(event) = events.recv().await {
        if let Event::Token { text: piece, .. } = event {
            text += &piece;
        }
    }
    assert_eq!(text, "bc");

    let error = engine.submit(request(&[1; 60], 5)).expect_err("one token over the context");
    assert_eq!(
        error,
        EngineError::ContextOverflow { context: 64, prompt: 60, answer: 5, lower_bound: false }
    );
    assert!(error.to_string().contains("maximum context length is 64 tokens"), "{error}");
    assert!(error.to_string().contains("65 tokens"), "{error}");
    assert!(engine.submit(request(&[1; 60], 4)).is_ok());
    let unknown = engine.submit(request(&[259], 1)).expect_err("259 is padding");
    assert_eq!(unknown, EngineError::UnknownToken { id: 259, tokens: 259 });
    let empty = Request { prompt: Vec::new(), ..request(&[1], 1) };
    assert_eq!(engine.submit(empty).expect_err("no tokens"), EngineError::EmptyPrompt);

    // Encoding refuses the same, and a text that is far too long without reading all of it.
    let prompt = |bytes: usize| engine.encode(&"x".repeat(bytes), None, 1, None).map(|ids| ids.len());
    let overflow =
        |prompt, lower_bound| EngineError::ContextOverflow { context: 64, prompt, answer: 1, lower_bound };
    assert_eq!(prompt(63), Ok(63));
    assert_eq!(prompt(64), Err(overflow(64, false)));
    assert_eq!(prompt(600), Err(overflow(64 * 8 - 64, true)));
    assert_eq!(prompt(100_000), Err(overflow(10_000, true)));

    engine.drain(Duration::from_secs(30));
    assert_eq!(engine.submit(request(&[1], 1)).expect_err("draining"), EngineError::Draining);
    assert_eq!(engine.ended().await, End::Drained);
}

#[tokio::test]
async fn a_load_that_fails_shows_its_fault_and_ends_the_engine() {
    let fault = Fault::new("tensor_missing", "A tensor is missing.", "Download the model again.");
    let shown = fault.clone();
    let engine = Engine::start(move |_| Err::<Loaded<Oracle>, _>(fault), 4).expect("starts");
    assert_eq!(engine.ended().await, End::LoadFailed(shown.clone()));
    assert_eq!(engine.status(0).phase, EnginePhase::Failed { fault: shown.clone() });
    assert_eq!(engine.submit(request(&[1], 1)).expect_err("failed"), EngineError::Stopped { fault: shown });
}

#[tokio::test]
async fn a_panic_in_the_engine_thread_closes_the_channels_and_is_reported() {
    struct Panics(OnHost);
    impl Runner for Panics {
        fn limits(&self) -> Limits {
            LIMITS
        }
        fn run(&mut self, _: &Pass, ids: &[u32], want: &[u32], _: &[Follow]) -> Result<(), String> {
            assert!(ids != [66], "as planned");
            self.0.keep(vec![vec![0.0; 300]; want.len()]);
            Ok(())
        }
        fn draft(&mut self, _: &Pass, _: &[u32], _: Seed<'_>, _: &[u32], _: &[Follow]) -> Result<(), String> {
            Err("there is no MTP head".into())
        }
        fn sample(&mut self, tokens: usize, rows: &[Option<SampleRow<'_>>]) -> Result<Sampled, String> {
            Ok(self.0.sample(tokens, rows))
        }
        fn read(&mut self, sampled: Sampled) -> Result<Vec<Given>, String> {
            Ok(OnHost::read(sampled))
        }
        fn copy_state(&mut self, _: usize, _: usize) -> Result<(), String> {
            Ok(())
        }
        fn bytes_per_step(&self, _: usize, _: usize) -> u64 {
            0
        }
        fn memory(&self) -> EngineMemory {
            EngineMemory { weights: 0.0, kv: 0.0, kv_used: 0.0, kv_cached: 0.0, state: 0.0, scratch: 0.0 }
        }
    }
    let engine = Engine::start(
        |_| {
            Ok(Loaded {
                runner: Panics(OnHost::default()),
                depth: Depth::Auto,
                policy: Policy::Fifo,
                patience: Duration::from_secs(600),
                disk: None,
                served: served(),
            })
        },
        4,
    )
    .expect("starts");
    ready(&engine).await;
    let mut events = engine.submit(request(&[66], 5)).expect("fits");
    assert_eq!(events.recv().await, None);
    match engine.ended().await {
        End::Crashed(fault) => assert!(fault.evidence.is_some_and(|e| e.contains("as planned"))),
        other => panic!("{other:?}"),
    }
}
