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
    depth::Depth,
    pages::FreePages,
    policy::Policy,
    prefix::Prefixes,
    queue::{Queue, Waiting, unix_ms},
    request::{Event, Usage},
    runner::{Limits, Runner},
    sampler,
    schedule::{Batch, schedule},
    sequence::{Ended, Farewell, Sequence},
    split::parts,
    status::{EngineMemory, Fault, FinishedRequest, RequestEnd, Speculation},
    timing::Timing,
    tokenizer::Tokenizer,
};

/// How long the thread sleeps without work; also the longest time between two heartbeats then.
const IDLE: Duration = Duration::from_millis(100);
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
    memory: EngineMemory,
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
    /// Requests that left their pages to others; the last one continues first.
    pub(crate) suspended: Vec<Sequence>,
    /// What steps cost.
    pub(crate) timing: Timing,
    /// Seconds of a step of the MTP head for requests that write, lately; None before the first.
    pub(crate) draft_seconds: Option<f64>,
    /// Last events, sent when the board shows the step that made them.
    farewells: Vec<Farewell>,
}

/// What became of the rows of a part.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Per member: how many of its rows are its sequence's; 0 if it has ended.
    pub valid: Vec<usize>,
    /// Who ended, and how.
    pub ended: Vec<(usize, Ended)>,
    /// Tokens written by decode rows.
    pub written: usize,
    /// Whether drafts were among the rows.
    pub checked: bool,
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
            suspended: Vec::new(),
            timing: Timing::default(),
            draft_seconds: None,
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

    /// One step. False if there was nothing to compute.
    pub(crate) fn step(&mut self) -> bool {
        self.end_abandoned();
        self.admit();
        self.make_room();
        let paused: Vec<bool> = self.running.iter_mut().map(Sequence::is_blocked).collect();
        let Some(batch) = schedule(&self.running, &paused, &self.limits, self.policy, &self.timing) else {
            self.report();
            return false;
        };
        let mut ended = Vec::new();
        for part in parts(batch, self.limits.decode_rows) {
            ended.extend(self.compute(&part));
        }
        self.end(ended);
        self.report();
        true
    }

    /// Runs a part of a step: the model, then what its logits say, then the drafts of the next round. Returns who ended.
    fn compute(&mut self, part: &Batch) -> Vec<(usize, Ended)> {
        self.prepare_masks(part);
        let begun = Instant::now();
        let logits = match self.runner.forward(&part.pass, &part.ids, &part.want) {
            Ok(logits) => logits,
            Err(reason) => return self.failed(part, &[], reason),
        };
        let forward = begun.elapsed().as_secs_f64();
        let mut outcome = self.write(part, logits);
        let begun = Instant::now();
        if let Err(reason) = self.draft(part, &outcome.valid) {
            let failed = self.failed(part, &outcome.ended, reason);
            outcome.ended.extend(failed);
        }
        for member in &part.members {
            self.running[member.index].cut_drafts();
        }
        self.count(part, &outcome, forward, begun.elapsed().as_secs_f64());
        outcome.ended
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

    /// Takes in the logits: samples every wanted row as far as the drafts before it were right, and sends the tokens.
    ///
    /// A draft is right if it is the token that is sampled in its place. The draw depends on seed and position only, so a
    /// request writes the same tokens at every depth, and at a temperature, too, each has the model's own distribution.
    fn write(&mut self, part: &Batch, mut logits: Vec<f32>) -> Outcome {
        let mut outcome = Outcome::default();
        let vocab = logits.len().checked_div(part.want.len()).unwrap_or(0).max(1);
        for (segment, member) in part.pass.segments.iter().zip(&part.members) {
            let drafts = std::mem::take(&mut self.running[member.index].drafts);
            let drafts = if member.writes { &drafts[..segment.rows - 1] } else { &[] };
            let mut end = None;
            let mut tokens = 0;
            for wanted in member.wanted.clone() {
                let row = &mut logits[wanted * vocab..(wanted + 1) * vocab];
                let position = self.running[member.index].ids.len();
                let sequence = &mut self.running[member.index];
                let chosen = sequence.choose(row, tokens, position, &self.tokenizer);
                tokens += 1;
                let token = chosen.as_ref().ok().map(|(token, _)| *token);
                end = match chosen {
                    Ok((token, logprobs)) => sequence.write(token, logprobs, &self.tokenizer),
                    Err(fault) => Some(Ended::Failed(fault)),
                };
                if end.is_some() || token != drafts.get(tokens - 1).copied() {
                    break;
                }
            }
            let valid = if member.writes { tokens } else { segment.rows };
            let kept = if member.writes {
                self.keep_page_end(member.index, valid, &segment.snapshots)
            } else {
                Ok(())
            };
            let sequence = &mut self.running[member.index];
            sequence.advance(segment.rows, valid);
            let kept = kept.and_then(|()| self.keep_mark(member.index));
            if let Err(reason) = kept {
                self.running[member.index].spoiled = true;
                end = Some(Ended::Failed(EngineError::Step { reason }.fault()));
            }
            let sequence = &mut self.running[member.index];
            if member.writes {
                outcome.written += tokens;
                outcome.checked |= !drafts.is_empty();
                // What lies behind an end was never put to the test.
                let checked = if end.is_some() { tokens - 1 } else { drafts.len() };
                sequence.learn(checked, tokens - 1);
                let echoed = sequence.echoed;
                self.board.lock().counters.speculation.record(checked, tokens - 1, echoed);
            }
            outcome.valid.push(if end.is_some() { 0 } else { valid });
            outcome.ended.extend(end.map(|end| (member.index, end)));
        }
        outcome
    }

    /// Begins the masks of the rows that will be sampled, so that they are computed beside the model.
    fn prepare_masks(&mut self, part: &Batch) {
        for (segment, member) in part.pass.segments.iter().zip(&part.members) {
            let sequence = &mut self.running[member.index];
            if member.wanted.is_empty() {
                continue;
            }
            let drafts = if member.writes { segment.rows - 1 } else { 0 };
            sequence.prepare(drafts);
        }
    }

    /// The token that a drafter proposes for `position` of a running sequence, by its logits, which are changed. None if
    /// none is a number.
    pub(crate) fn pick(&self, index: usize, position: usize, logits: &mut [f32]) -> Option<u32> {
        let sequence = &self.running[index];
        let request = &sequence.request;
        let written = position - request.prompt.len();
        let banned = if written < request.min_tokens { self.tokenizer.ends() } else { &[] };
        sampler::sample(
            logits,
            self.tokenizer.len(),
            banned,
            &request.sampling,
            &sequence.seen,
            position as u64,
        )
    }

    /// Removes sequences, gives back what they held, and writes the history. `ended` holds each index once.
    pub(crate) fn end(&mut self, mut ended: Vec<(usize, Ended)>) {
        ended.sort_unstable_by_key(|(index, _)| *index);
        for (index, how) in ended.into_iter().rev() {
            self.leave(index, !self.running[index].spoiled);
            let sequence = self.running.remove(index);
            self.farewell(sequence, how);
        }
    }

    /// Writes the history of a request that holds nothing any more, and its last event.
    fn farewell(&mut self, sequence: Sequence, how: Ended) {
        if matches!(how, Ended::Finished(_)) && sequence.written() > 0 {
            self.board.replay.remember(sequence.ids.clone(), sequence.request.prompt.len());
        }
        let (record, farewell) = sequence.end(how);
        self.board.lock().finish(record);
        self.farewells.extend(farewell);
    }

    /// Ends everything that runs or waits, because stopping may take no longer or nothing can be computed.
    fn end_all(&mut self, fault: &Fault) {
        for waiting in self.queue.take_all() {
            self.end_unserved(waiting, Some(fault.clone()));
        }
        for sequence in std::mem::take(&mut self.suspended) {
            self.farewell(sequence, Ended::Failed(fault.clone()));
        }
        self.end((0..self.running.len()).map(|i| (i, Ended::Failed(fault.clone()))).collect());
    }

    fn count(&mut self, part: &Batch, outcome: &Outcome, forward: f64, draft: f64) {
        let (rows, work) = (part.ids.len(), part.work());
        self.timing.record(work, forward);
        let verify = if outcome.checked { forward } else { 0.0 };
        for member in &part.members {
            let speculation = &mut self.running[member.index].speculation;
            speculation.draft_seconds += draft;
            speculation.verify_seconds += if member.writes { verify } else { 0.0 };
        }
        let seconds = forward + draft;
        let decode_share = work.decode_rows as f64 / rows as f64;
        let bytes = self.runner.bytes_per_step(rows, work.context);
        let mut state = self.board.lock();
        let counters = &mut state.counters;
        counters.steps += 1;
        counters.decode_tokens += outcome.written as u64;
        counters.decode_seconds += seconds * decode_share;
        counters.prefill_tokens += work.prefill_rows as u64;
        counters.prefill_seconds += seconds * (1.0 - decode_share);
        counters.bytes_read += bytes as f64;
        counters.speculation.draft_seconds += draft;
        counters.speculation.verify_seconds += verify;
    }

    /// Shows what runs, then sends the last events.
    fn report(&mut self) {
        let running = self.running.iter().chain(&self.suspended).map(Sequence::describe).collect();
        let page = self.memory.kv / self.limits.pages.max(1) as f64;
        let cached = self.prefixes.pages() - self.prefixes.held();
        let kv_cached = (page * cached as f64).round();
        let kv_used = (page * (self.pages.used() - cached) as f64).round();
        let mut state = self.board.lock();
        state.running = running;
        state.memory = Some(EngineMemory { kv_used, kv_cached, ..self.memory.clone() });
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
            speculation: Speculation::default(),
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

    /// A failed pass fails the requests in it that have not ended: their recurrent state cannot be trusted any more.
    fn failed(&mut self, part: &Batch, ended: &[(usize, Ended)], reason: String) -> Vec<(usize, Ended)> {
        let error = EngineError::Step { reason };
        tracing::error!(%error, rows = part.ids.len(), "a step failed");
        // A device that has failed says more than the step that met it.
        let fault = self.lost().unwrap_or_else(|| error.fault());
        let mut failed = Vec::new();
        for index in part.members.iter().map(|member| member.index) {
            if ended.iter().all(|(other, _)| *other != index) {
                self.running[index].spoiled = true;
                failed.push((index, Ended::Failed(fault.clone())));
            }
        }
        failed
    }
}
