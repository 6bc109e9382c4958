//! The engine thread's loop and its step: schedule, run, sample, emit. Owns the model and everything that changes from token
//! to token; others see it through the queue and the board. The parts of a step: `admit` (who runs), `schedule` (which
//! rows), `flight` (run and sample), `ahead` (start the next pass early), `emit` (send), `speculate` (draft), `farewell` (end), `account` (tell).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use hearth_kernels::ops::{Pass, Segment};

use crate::{
    EngineError,
    board::Board,
    depth::Depth,
    disk::Disk,
    flight::Flight,
    pages::FreePages,
    policy::Policy,
    prefix::Prefixes,
    queue::Queue,
    runner::{Given, Limits, Runner, Sampled},
    schedule::schedule,
    sequence::{Ended, Farewell, Sequence},
    split::parts,
    status::{EngineMemory, Fault},
    timing::Timing,
    tokenizer::Tokenizer,
};

/// How long the thread sleeps without work; also the longest time between two heartbeats then.
const IDLE: Duration = Duration::from_millis(100);
/// How long it sleeps when all it waits for is the disk.
const BUSY: Duration = Duration::from_millis(1);
/// How long it sleeps when every request waits for its client to read.
const BLOCKED: Duration = Duration::from_millis(2);

/// Everything the engine thread owns.
pub(crate) struct Worker<R: Runner> {
    pub(crate) runner: R,
    pub(crate) limits: Limits,
    pub(crate) depth: Depth,
    pub(crate) policy: Policy,
    /// Most tokens drafted per round and request.
    pub(crate) drafts: usize,
    pub(crate) memory: EngineMemory,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) board: Arc<Board>,
    /// Set when draining has taken too long: end everything now.
    cut: Arc<AtomicBool>,
    /// In order of admission.
    pub(crate) running: Vec<Sequence>,
    /// Recurrent states that nobody uses.
    pub(crate) free_states: Vec<usize>,
    pub(crate) pages: FreePages,
    /// What was computed before.
    pub(crate) prefixes: Prefixes,
    /// Where texts go that there is no more room for; None unless asked for.
    pub(crate) disk: Option<Disk>,
    /// Requests that left their pages to others; the last one continues first.
    pub(crate) suspended: Vec<Sequence>,
    /// What steps cost.
    pub(crate) timing: Timing,
    /// Seconds of a step of the MTP head for requests that write, lately; None before the first.
    pub(crate) draft_seconds: Option<f64>,
    /// What the head proposed, so many rows each, of which only the device knows yet.
    pub(crate) proposed: Vec<(usize, Sampled)>,
    /// Rounds of drafts so far.
    pub(crate) rounds: u64,
    /// A pass that was started before the tokens it continues were known here.
    pub(crate) flying: Option<Flight>,
    /// When the device was done with what was started before, as far as that is known.
    pub(crate) busy_until: Instant,
    /// Last events, sent when the board shows the step that made them.
    pub(crate) farewells: Vec<Farewell>,
}

impl<R: Runner> Worker<R> {
    pub(crate) fn new(
        runner: R,
        depth: Depth,
        policy: Policy,
        tokenizer: Arc<Tokenizer>,
        queue: Arc<Queue>,
        board: Arc<Board>,
        cut: Arc<AtomicBool>,
    ) -> Worker<R> {
        let limits = runner.limits();
        let prefixes = Prefixes::new(limits.page_len, board.known.clone());
        Worker {
            memory: runner.memory(),
            runner,
            limits,
            depth,
            policy,
            drafts: depth.most(),
            tokenizer,
            queue,
            board,
            cut,
            running: Vec::new(),
            free_states: (0..limits.states).rev().collect(),
            pages: FreePages::new(limits.pages),
            prefixes,
            disk: None,
            suspended: Vec::new(),
            timing: Timing::default(),
            draft_seconds: None,
            proposed: Vec::new(),
            rounds: 0,
            flying: None,
            busy_until: Instant::now(),
            farewells: Vec::new(),
        }
    }

    /// Computes one token for nobody, so that `ready` means that the model works.
    pub(crate) fn warm_up(&mut self) -> Result<(), EngineError> {
        let pages = self.pages.take(1).unwrap_or_default();
        let segment =
            Segment { slot: 0, first_row: 0, rows: 1, position: 0, pages: pages.clone(), snapshots: vec![] };
        let pass = Pass { segments: vec![segment], exact: self.limits.exact };
        let started = self.runner.run(&pass, &[0], &[0], &[]).and_then(|()| self.runner.sample(1, &[None]));
        let given = started.and_then(|sampled| self.runner.read(sampled));
        let given = given.map_err(|reason| EngineError::Step { reason })?;
        self.pages.give_back(pages);
        match &given[..] {
            [Given::Logits(logits)] if !logits.is_empty() && !logits.iter().any(|l| l.is_nan()) => Ok(()),
            _ => Err(EngineError::Step { reason: "the warm-up token has logits that are no numbers".into() }),
        }
    }

    /// Why nothing can be computed any more, if that is so.
    pub(crate) fn lost(&self) -> Option<Fault> {
        self.runner.device_fault()
    }

    /// Serves until drained, or until the device fails: then with its fault, which every request is told.
    pub(crate) fn run(&mut self) -> Option<Fault> {
        let mut worked = true;
        loop {
            self.board.beat();
            if let Some(fault) = self.lost() {
                tracing::error!(code = fault.code, evidence = ?fault.evidence, "{}", fault.message);
                self.end_all(&fault);
                self.report();
                return Some(fault);
            }
            if self.cut.load(Ordering::Relaxed) {
                self.end_all(&EngineError::Draining.fault());
            }
            if self.step() {
                worked = true;
                continue;
            }
            if !self.running.is_empty() || !self.suspended.is_empty() {
                std::thread::sleep(BLOCKED);
            } else if self.disk_is_busy() {
                std::thread::sleep(BUSY);
            } else if self.queue.is_draining() && self.queue.is_empty() && self.disk_parts() {
                // The next step goes on with it.
            } else if self.queue.is_draining() && self.queue.is_empty() {
                return None;
            } else {
                if worked {
                    self.check_at_rest();
                }
                worked = false;
                self.queue.wait(IDLE);
            }
        }
    }

    /// One step: schedule, run, sample, emit. False if there was nothing to compute.
    pub(crate) fn step(&mut self) -> bool {
        self.end_abandoned();
        self.tend_disk(self.running.is_empty() && self.suspended.is_empty() && self.queue.is_empty());
        self.admit();
        self.make_room();
        let ended = match self.flying.take() {
            // Its rows were told, and started, before the tokens of the step before.
            Some(flight) => self.finish(flight, true),
            None => {
                let paused: Vec<bool> = self.running.iter_mut().map(Sequence::is_blocked).collect();
                let batch = schedule(&self.running, &paused, &self.limits, self.policy, &self.timing);
                let Some(batch) = batch else {
                    self.report();
                    return false;
                };
                let parts = parts(batch, self.limits.decode_rows);
                let alone = parts.len() == 1;
                let mut ended = Vec::new();
                for part in parts {
                    // `launch` runs the model and samples, `finish` emits the tokens and drafts the next ones.
                    let finished = self.launch(part).map(|flight| self.finish(flight, alone));
                    ended.extend(finished.unwrap_or_else(|failed| failed));
                }
                ended
            }
        };
        self.end(ended);
        self.report();
        true
    }

    /// Ends the requests whose clients went away or do not read.
    fn end_abandoned(&mut self) {
        for waiting in self.queue.take_abandoned() {
            self.end_unserved(waiting, None);
        }
        for sequence in std::mem::take(&mut self.suspended) {
            match sequence.must_end() {
                Some(how) => self.farewell(sequence, how),
                None => self.suspended.push(sequence),
            }
        }
        let ended: Vec<(usize, Ended)> =
            self.running.iter().enumerate().filter_map(|(i, s)| Some((i, s.must_end()?))).collect();
        self.end(ended);
    }
}
