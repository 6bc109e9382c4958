//! The engine thread's loop and its step: admit, schedule, run, sample, send. Owns the model and everything that changes
//! from token to token; others see it through the queue and the board.

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
    pages::FreePages,
    queue::{Queue, Waiting, unix_ms},
    request::{Event, Usage},
    runner::{Limits, Runner},
    sampler,
    schedule::{Batch, schedule},
    sequence::{Ended, Farewell, Sequence},
    status::{EngineMemory, Fault, FinishedRequest, RequestEnd},
    tokenizer::Tokenizer,
};

/// How long the thread sleeps without work; also the longest time between two heartbeats then.
const IDLE: Duration = Duration::from_millis(100);
/// How long it sleeps when every request waits for its client to read.
const BLOCKED: Duration = Duration::from_millis(2);

/// How long a request that writes should wait at most for a chunk of another's prompt, seconds per step.
const PAUSE: f64 = 0.1;
/// Shortest chunk, rows: below it weights are read for too few.
const SHORTEST: usize = 16;

/// Everything the engine thread owns.
pub(crate) struct Worker<R: Runner> {
    runner: R,
    limits: Limits,
    memory: EngineMemory,
    tokenizer: Arc<Tokenizer>,
    queue: Arc<Queue>,
    board: Arc<Board>,
    /// Set when draining has taken too long: end everything now.
    cut: Arc<AtomicBool>,
    /// In order of admission.
    running: Vec<Sequence>,
    free_slots: Vec<usize>,
    pages: FreePages,
    /// Seconds per row of the recent steps that read a prompt; None before the first.
    pub(crate) row_seconds: Option<f64>,
    /// Last events, sent when the board shows the step that made them.
    farewells: Vec<Farewell>,
}

impl<R: Runner> Worker<R> {
    pub(crate) fn new(
        runner: R,
        tokenizer: Arc<Tokenizer>,
        queue: Arc<Queue>,
        board: Arc<Board>,
        cut: Arc<AtomicBool>,
    ) -> Worker<R> {
        let limits = runner.limits();
        Worker {
            memory: runner.memory(),
            runner,
            limits,
            tokenizer,
            queue,
            board,
            cut,
            running: Vec::new(),
            free_slots: (0..limits.slots).rev().collect(),
            pages: FreePages::new(limits.pages, limits.page_len),
            row_seconds: None,
            farewells: Vec::new(),
        }
    }

    /// Computes one token for nobody, so that `ready` means that the model works.
    pub(crate) fn warm_up(&mut self) -> Result<(), EngineError> {
        let pages = self.pages.take(1).unwrap_or_default();
        let segment =
            Segment { slot: 0, first_row: 0, rows: 1, position: 0, pages: pages.clone(), snapshots: vec![] };
        let pass = Pass { segments: vec![segment], exact: self.limits.exact };
        let logits = self.runner.forward(&pass, &[0], &[0]).map_err(|reason| EngineError::Step { reason })?;
        self.pages.give_back(pages);
        if logits.is_empty() || logits.iter().any(|l| l.is_nan()) {
            return Err(EngineError::Step {
                reason: "the warm-up token has logits that are no numbers".into(),
            });
        }
        Ok(())
    }

    /// Serves until drained.
    pub(crate) fn run(&mut self) {
        loop {
            self.board.beat();
            if self.cut.load(Ordering::Relaxed) {
                self.end_all();
            }
            if self.step() {
                continue;
            }
            if !self.running.is_empty() {
                std::thread::sleep(BLOCKED);
            } else if self.queue.is_draining() && self.queue.is_empty() {
                return;
            } else {
                self.queue.wait(IDLE);
            }
        }
    }

    /// One step. False if there was nothing to compute.
    pub(crate) fn step(&mut self) -> bool {
        self.end_abandoned();
        self.admit();
        let paused: Vec<bool> = self.running.iter_mut().map(Sequence::is_blocked).collect();
        let Some(batch) = schedule(&self.running, &paused, &self.limits, self.chunk()) else {
            self.report();
            return false;
        };
        let begun = Instant::now();
        match self.runner.forward(&batch.pass, &batch.ids, &batch.want) {
            Ok(logits) => self.write(&batch, logits),
            Err(reason) => self.fail(&batch, &EngineError::Step { reason }),
        }
        self.count(&batch, begun.elapsed().as_secs_f64());
        self.report();
        true
    }

    /// Ends the requests whose clients went away or do not read.
    fn end_abandoned(&mut self) {
        for waiting in self.queue.take_abandoned() {
            self.end_unserved(waiting, None);
        }
        let ended: Vec<(usize, Ended)> =
            self.running.iter().enumerate().filter_map(|(i, s)| Some((i, s.must_end()?))).collect();
        self.end(ended);
    }

    /// Gives free slots to waiting requests, first come first served, as far as the KV pages reach.
    fn admit(&mut self) {
        while let Some(&slot) = self.free_slots.last() {
            let mut pages = None;
            let pool = &mut self.pages;
            let first = self.queue.take_if(|waiting| {
                // Pages for the whole answer are taken at once, so a running request never waits for memory.
                pages = pool.take(waiting.request.prompt.len() + waiting.limit);
                pages.is_some()
            });
            let Some((waiting, pages)) = first.zip(pages) else { return };
            self.free_slots.pop();
            self.running.push(Sequence::admit(waiting, slot, pages));
        }
    }

    /// Samples every wanted row and sends the tokens.
    fn write(&mut self, batch: &Batch, mut logits: Vec<f32>) {
        for (segment, &member) in batch.pass.segments.iter().zip(&batch.members) {
            self.running[member].computed += segment.rows;
        }
        if batch.writers.is_empty() {
            return;
        }
        let vocab = logits.len() / batch.writers.len();
        let mut ended = Vec::new();
        for (row, &writer) in logits.chunks_mut(vocab.max(1)).zip(&batch.writers) {
            let sequence = &mut self.running[writer];
            let request = &sequence.request;
            let banned = if sequence.written() < request.min_tokens { self.tokenizer.ends() } else { &[] };
            let position = sequence.ids.len() as u64;
            let token = sampler::sample(
                row,
                self.tokenizer.len(),
                banned,
                &request.sampling,
                &sequence.seen,
                position,
            );
            let end = match token {
                Some(token) => sequence.write(token, &self.tokenizer),
                None => {
                    let reason = "no logit is a number".to_owned();
                    Some(Ended::Failed(EngineError::Step { reason }.fault()))
                }
            };
            ended.extend(end.map(|end| (writer, end)));
        }
        self.end(ended);
    }

    /// A failed pass fails the requests in it; their recurrent state cannot be trusted any more.
    fn fail(&mut self, batch: &Batch, error: &EngineError) {
        tracing::error!(%error, rows = batch.ids.len(), "a step failed");
        let mut members = batch.members.clone();
        members.sort_unstable();
        self.end(members.into_iter().map(|m| (m, Ended::Failed(error.fault()))).collect());
    }

    /// Removes sequences, gives back what they held, and writes the history. `ended` holds each index once.
    fn end(&mut self, mut ended: Vec<(usize, Ended)>) {
        ended.sort_unstable_by_key(|(index, _)| *index);
        for (index, how) in ended.into_iter().rev() {
            let mut sequence = self.running.remove(index);
            self.free_slots.push(sequence.slot);
            self.pages.give_back(std::mem::take(&mut sequence.pages));
            let (record, farewell) = sequence.end(how);
            self.board.lock().finish(record);
            self.farewells.extend(farewell);
        }
    }

    /// Ends everything that runs or waits, because stopping may take no longer.
    fn end_all(&mut self) {
        let fault = EngineError::Draining.fault();
        for waiting in self.queue.take_all() {
            self.end_unserved(waiting, Some(fault.clone()));
        }
        self.end((0..self.running.len()).map(|i| (i, Ended::Failed(fault.clone()))).collect());
    }

    /// Rows of a prompt that may be read in a step beside requests that write.
    fn chunk(&self) -> usize {
        let rows = self.row_seconds.map_or(SHORTEST, |seconds| (PAUSE / seconds) as usize);
        rows.max(SHORTEST)
    }

    fn count(&mut self, batch: &Batch, seconds: f64) {
        if batch.prefill_rows > 0 {
            let measured = seconds / batch.ids.len() as f64;
            self.row_seconds = Some(self.row_seconds.map_or(measured, |known| 0.8 * known + 0.2 * measured));
        }
        let decode_share = batch.decode_rows as f64 / batch.ids.len() as f64;
        let bytes = self.runner.bytes_per_step(batch.ids.len(), batch.context());
        let mut state = self.board.lock();
        let counters = &mut state.counters;
        counters.steps += 1;
        counters.decode_tokens += batch.decode_rows as u64;
        counters.decode_seconds += seconds * decode_share;
        counters.prefill_tokens += batch.prefill_rows as u64;
        counters.prefill_seconds += seconds * (1.0 - decode_share);
        counters.bytes_read += bytes as f64;
    }

    /// Shows what runs, then sends the last events.
    fn report(&mut self) {
        let running = self.running.iter().map(Sequence::describe).collect();
        let kv_used = (self.memory.kv * self.pages.used_share()).round();
        let mut state = self.board.lock();
        state.running = running;
        state.memory = Some(EngineMemory { kv_used, ..self.memory.clone() });
        drop(state);
        self.farewells.drain(..).for_each(Farewell::send);
    }

    /// Records a request that never got a slot; tells its client why, if there is a fault.
    fn end_unserved(&mut self, waiting: Waiting, fault: Option<Fault>) {
        let usage = Usage { prompt: waiting.request.prompt.len(), cached: 0, output: 0 };
        self.board.lock().finish(FinishedRequest {
            seq: 0,
            id: waiting.request.id,
            kind: waiting.request.kind,
            prompt_tokens: usage.prompt as u32,
            cached_tokens: 0,
            output_tokens: 0,
            queue_s: waiting.arrived.elapsed().as_secs_f64(),
            ttft_s: None,
            decode_s: None,
            finish: if fault.is_some() { RequestEnd::Error } else { RequestEnd::Cancelled },
            error: fault.clone(),
            started_ms: waiting.arrived_ms,
            ended_ms: unix_ms(),
        });
        let farewell =
            |fault| Farewell { event: Event::Failed { fault, usage }, events: waiting.events.clone() };
        self.farewells.extend(fault.map(farewell));
    }
}
