//! For tests: a worker with its queue and board, driven step by step, and what clients would see of it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::{Duration, Instant},
};

use hearth_checkpoint::Checkpoint;
use hearth_kernels::cpu::Cpu;
use hearth_model::{KvType, LoadOptions, Model};
use tokio::sync::mpsc;

use crate::{
    Depth, Event, Finish, Request, Sampling,
    board::Board,
    depth::MOST,
    disk::DiskRequest,
    oracle::{Oracle, Step},
    policy::{Policy, Priority},
    queue::{Queue, Refused, Waiting, unix_ms},
    runner::Runner,
    status::RequestKind,
    step::Worker,
    tokenizer::{Tokenizer, tests::byte_tokenizer},
};

pub(crate) struct Bench<R: Runner> {
    pub worker: Worker<R>,
    pub queue: Arc<Queue>,
    pub board: Arc<Board>,
    pub steps: Arc<Mutex<Vec<Step>>>,
}

pub(crate) fn bench(oracle: Oracle) -> Bench<Oracle> {
    let steps = oracle.steps.clone();
    let mut bench = bench_of(oracle, Depth::Auto, 4);
    bench.steps = steps;
    bench
}

/// At most `waiting` requests wait.
pub(crate) fn bench_of<R: Runner>(runner: R, depth: Depth, waiting: usize) -> Bench<R> {
    bench_with(runner, depth, waiting, Arc::new(byte_tokenizer()))
}

/// The same with a model's own tokenizer.
pub(crate) fn bench_with<R: Runner>(
    runner: R,
    depth: Depth,
    waiting: usize,
    tokenizer: Arc<Tokenizer>,
) -> Bench<R> {
    let (queue, board) = (Arc::new(Queue::new(waiting)), Arc::<Board>::default());
    let cut = Arc::<AtomicBool>::default();
    let worker = Worker::new(runner, depth, Policy::Fifo, tokenizer, queue.clone(), board.clone(), cut);
    Bench { worker, queue, board, steps: Arc::default() }
}

pub(crate) fn request(prompt: &[u32], max_tokens: usize) -> Request {
    Request {
        id: format!("r{}", prompt[0]),
        kind: RequestKind::Chat,
        prompt: prompt.to_vec(),
        max_tokens: Some(max_tokens),
        min_tokens: 0,
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        stop: Vec::new(),
        ignore_end: false,
        priority: Priority::Interactive,
        account: 0,
        logprobs: None,
        constraint: None,
        mtp_depth: None,
    }
}

impl<R: Runner> Bench<R> {
    pub fn put_with(&self, request: Request, events: usize) -> Result<mpsc::Receiver<Event>, Refused> {
        let (sender, receiver) = mpsc::channel(events);
        let limit = request.max_tokens.expect("the tests set it");
        let unknown = request.prompt.len();
        let (arrived, arrived_ms) = (Instant::now(), unix_ms());
        let waiting = Waiting { request, limit, unknown, events: sender, arrived, arrived_ms };
        self.queue.put(waiting).map(|()| receiver)
    }

    pub fn put(&self, request: Request) -> mpsc::Receiver<Event> {
        self.put_with(request, 256).expect("the queue has room")
    }

    /// One step, after which the books must be right. False if there was nothing to do.
    pub fn step(&mut self) -> bool {
        let worked = self.worker.step();
        self.worker.check().expect("every page and state has one owner");
        let busy = self.worker.disk_is_busy();
        if busy && !worked {
            std::thread::sleep(Duration::from_micros(200));
        }
        worked || busy
    }

    /// Keeps prefixes in `folder`, too, and writes them as soon as there is nothing else to do.
    pub fn with_disk(mut self, folder: &Path, budget: u64) -> Bench<R> {
        self.worker.open_disk(&DiskRequest { folder: folder.to_owned(), budget }, "a model".into());
        self.worker.disk.as_mut().expect("the folder can be used").rest_at_once();
        self
    }

    pub fn last_step(&self) -> Step {
        self.steps.lock().expect("one thread").last().cloned().unwrap_or_default()
    }

    pub fn run_dry(&mut self) {
        for _ in 0..2000 {
            if !self.step() {
                return;
            }
        }
        panic!("the worker never comes to rest");
    }
}

/// Ids, text and last event of an answer, as far as they came.
pub(crate) fn read(mut events: mpsc::Receiver<Event>) -> (Vec<u32>, String, Option<Event>) {
    let (mut ids, mut text) = (Vec::new(), String::new());
    while let Ok(event) = events.try_recv() {
        match event {
            Event::Token { id, text: piece, .. } => {
                ids.push(id);
                text += &piece;
            }
            Event::Done { text: rest, finish, usage } => {
                text += &rest;
                return (ids, text, Some(Event::Done { text: rest, finish, usage }));
            }
            failed => return (ids, text, Some(failed)),
        }
    }
    (ids, text, None)
}

pub(crate) fn finish(event: Option<Event>) -> (Finish, usize) {
    match event {
        Some(Event::Done { finish, usage, .. }) => (finish, usage.output),
        other => panic!("expected an answer, found {other:?}"),
    }
}

pub(crate) fn fixture(family: &str) -> Checkpoint {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../tests/fixtures")).join(family);
    Checkpoint::open(&folder).expect("the fixture is there")
}

/// Three slots on the CPU, with states for every depth and a few for what is kept.
pub(crate) fn model(checkpoint: &Checkpoint) -> Model {
    let options = LoadOptions {
        context: 512,
        slots: 3,
        snapshots: 3 * MOST + 6,
        kv: KvType::F32.into(),
        mtp: true,
        max_rows: 64,
        exact: true,
        ..LoadOptions::default()
    };
    let cpu = Arc::new(Cpu::new(Some(1)).expect("a CPU"));
    Model::load(checkpoint, cpu, options, &mut |_| {}).expect("loads")
}

/// Puts all requests in and runs them to their ends; the tokens of each.
pub(crate) fn run<R: Runner>(bench: &mut Bench<R>, requests: &[Request]) -> Vec<Vec<u32>> {
    let events: Vec<_> = requests.iter().map(|request| bench.put(request.clone())).collect();
    bench.run_dry();
    events.into_iter().map(|events| read(events).0).collect()
}
