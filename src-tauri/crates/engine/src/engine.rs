//! The handle of an engine: starts its thread, takes requests, reports. Cheap to share; the API holds one.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, watch};

use crate::{
    EngineError,
    board::{self, Board},
    depth::Depth,
    device_fault::is_device_fault,
    disk::DiskRequest,
    policy::Policy,
    queue::{Queue, Refused, Waiting, unix_ms},
    replay::Recognise,
    request::{Event, Request},
    runner::{Limits, Runner},
    sampler::Sampling,
    status::{EnginePhase, EngineStatus, Fault, FinishedRequest, RequestEnd, RequestKind},
    step::Worker,
    tokenizer::Tokenizer,
};

/// Events a client may leave unread before its request pauses.
const EVENTS: usize = 256;

/// Tokens by which cutting a text may change their number.
const CUT: usize = 64;

/// What the API needs to know of the loaded model.
#[derive(Debug)]
pub struct Served {
    /// The name in answers.
    pub id: String,
    /// Other names that clients may use for it.
    pub aliases: Vec<String>,
    /// Text to ids and back.
    pub tokenizer: Arc<Tokenizer>,
    /// The chat template, if the folder has one.
    pub chat_template: Option<String>,
    /// `tokenizer_config.json`, which templates may refer to (`bos_token`).
    pub tokenizer_config: Option<serde_json::Value>,
    /// What the model's authors recommend (`generation_config.json`), for what a request leaves open.
    pub sampling: Sampling,
    /// When it was loaded, Unix seconds.
    pub created: u64,
}

/// A model and what is known of it; the result of loading.
pub struct Loaded<R> {
    /// The model.
    pub runner: R,
    /// How many tokens are drafted per round.
    pub depth: Depth,
    /// How requests are ordered.
    pub policy: Policy,
    /// How long reading the prompts before a new one may take; beyond that it is refused.
    pub patience: Duration,
    /// Where prefixes are kept that memory has no room for, and the digest of what they depend on.
    pub disk: Option<(DiskRequest, String)>,
    /// What the API needs.
    pub served: Served,
}

/// What is known once a model is loaded.
#[derive(Debug)]
struct Ready {
    served: Served,
    limits: Limits,
    patience: Duration,
}

/// How an engine ended.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// It was asked to stop and everything was answered.
    Drained,
    /// The model cannot be loaded; trying again gives the same.
    LoadFailed(Fault),
    /// A bug: its thread panicked.
    Crashed(Fault),
    /// The device failed: this process can compute nothing any more, another one may.
    DeviceFailed(Fault),
}

/// One engine.
#[derive(Debug, Clone)]
pub struct Engine {
    board: Arc<Board>,
    queue: Arc<Queue>,
    cut: Arc<AtomicBool>,
    ready: Arc<OnceLock<Ready>>,
    ended: watch::Receiver<Option<End>>,
}

impl Engine {
    /// Starts the engine thread, which loads by `load` (reporting on the board) and then serves. At most `queue_limit`
    /// requests wait. Returns at once.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start<R: Runner>(
        load: impl FnOnce(&Board) -> Result<Loaded<R>, Fault> + Send + 'static,
        queue_limit: usize,
    ) -> std::io::Result<Engine> {
        let (tell, ended) = watch::channel(None);
        let engine = Engine {
            board: Arc::default(),
            queue: Arc::new(Queue::new(queue_limit)),
            cut: Arc::default(),
            ready: Arc::default(),
            ended,
        };
        let inside = engine.clone();
        std::thread::Builder::new().name("engine".into()).spawn(move || {
            let end = catch_unwind(AssertUnwindSafe(|| inside.live(load))).unwrap_or_else(|panic| {
                let what = panic.downcast_ref::<String>().map(String::as_str);
                let what = what.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
                let fault = Fault::new(
                    "engine_crashed",
                    "The engine's thread ended unexpectedly.",
                    "Start the engine again, and report the log if it happens twice.",
                );
                End::Crashed(fault.with_evidence(what))
            });
            if let End::LoadFailed(fault) | End::Crashed(fault) | End::DeviceFailed(fault) = &end {
                inside.board.set_phase(EnginePhase::Failed { fault: fault.clone() });
            }
            // Whoever waits learns by the closed channel that nothing will come.
            inside.queue.drain();
            drop(inside.queue.take_all());
            tell.send_replace(Some(end));
        })?;
        Ok(engine)
    }

    /// The life of the engine thread.
    fn live<R: Runner>(&self, load: impl FnOnce(&Board) -> Result<Loaded<R>, Fault>) -> End {
        self.board.beat();
        let Loaded { runner, depth, policy, patience, disk, served } = match load(&self.board) {
            Ok(loaded) => loaded,
            Err(fault) if is_device_fault(&fault.code) => return End::DeviceFailed(fault),
            Err(fault) => return End::LoadFailed(fault),
        };
        self.board.set_phase(board::loading(4, 0.0));
        let limits = runner.limits();
        let tokenizer = served.tokenizer.clone();
        let mut worker = Worker::new(
            runner,
            depth,
            policy,
            tokenizer,
            self.queue.clone(),
            self.board.clone(),
            self.cut.clone(),
        );
        if let Err(error) = worker.warm_up() {
            return match worker.lost() {
                Some(fault) => End::DeviceFailed(fault),
                None => End::LoadFailed(error.fault()),
            };
        }
        if let Some((request, model)) = disk {
            worker.open_disk(&request, model);
        }
        // Nobody else sets it, and this thread comes here once.
        let _ = self.ready.set(Ready { served, limits, patience });
        if !self.queue.is_draining() {
            self.board.set_phase(EnginePhase::Ready);
        }
        let Some(fault) = worker.run() else { return End::Drained };
        // Giving memory back to a device that does not answer could take for ever; the process ends anyway.
        std::mem::forget(worker);
        End::DeviceFailed(fault)
    }

    /// What is served, once the engine is ready.
    ///
    /// # Errors
    /// It still loads, or it has failed.
    pub fn served(&self) -> Result<&Served, EngineError> {
        self.ready().map(|ready| &ready.served)
    }

    /// Sizes, once the engine is ready.
    ///
    /// # Errors
    /// It still loads, or it has failed.
    pub fn limits(&self) -> Result<&Limits, EngineError> {
        self.ready().map(|ready| &ready.limits)
    }

    fn ready(&self) -> Result<&Ready, EngineError> {
        match (&self.board.lock().phase, self.ready.get()) {
            (EnginePhase::Failed { fault }, _) => Err(EngineError::Stopped { fault: fault.clone() }),
            (_, Some(ready)) => Ok(ready),
            (EnginePhase::Loading { stage, .. }, None) => Err(EngineError::Loading { stage: stage.clone() }),
            (_, None) => Err(EngineError::Draining),
        }
    }

    /// Token ids of a prompt. A text that cannot fit beside an answer of `answer` tokens is refused without encoding all
    /// of it, so that many megabytes cost little. Answers of this engine in it become the tokens that were sampled: those of
    /// the same bytes, and those that `recognise` knows. Takes long for a long text: call it on a thread that may block.
    ///
    /// # Errors
    /// The context is too small, or the engine is not ready.
    pub fn encode(
        &self,
        text: &str,
        seam: Option<char>,
        answer: usize,
        recognise: Option<Recognise<'_>>,
    ) -> Result<Vec<u32>, EngineError> {
        let Ready { served, limits, .. } = self.ready()?;
        let (context, answer) = (limits.context, answer.max(1));
        let overflow =
            |prompt, lower_bound| EngineError::ContextOverflow { context, prompt, answer, lower_bound };
        let least = served.tokenizer.at_least(text);
        if least + answer > context {
            return Err(overflow(least, true));
        }
        // Text has about four bytes per token. If the first eight per token of context have too many tokens already, the
        // rest need not be looked at; the cut changes the number by the tokens of one word.
        let beginning = &text[..text.floor_char_boundary(context * 8)];
        if beginning.len() < text.len() {
            let most = served.tokenizer.encode(beginning, seam)?.len().saturating_sub(CUT);
            if most + answer > context {
                return Err(overflow(most, true));
            }
        }
        let ids = served.tokenizer.encode(text, seam)?;
        // An answer that comes back is read in the tokens it was written in, so that it need not be computed again.
        let ids = self.board.replay.apply(ids, |id| served.tokenizer.bytes(id), recognise);
        if ids.len() + answer > context {
            return Err(overflow(ids.len(), false));
        }
        Ok(ids)
    }

    /// Puts a request in the queue. Its events come by the receiver; dropping it cancels the request.
    ///
    /// # Errors
    /// Anything that is wrong with the request, or that there is no room; nothing has been computed then.
    pub fn submit(&self, request: Request) -> Result<mpsc::Receiver<Event>, EngineError> {
        let Ready { served, limits, patience } = self.ready()?;
        let prompt = request.prompt.len();
        let tokens = served.tokenizer.len();
        if prompt == 0 {
            return Err(EngineError::EmptyPrompt);
        }
        if let Some(&id) = request.prompt.iter().find(|&&id| id as usize >= tokens) {
            return Err(EngineError::UnknownToken { id, tokens });
        }
        let biased = request.sampling.logit_bias.iter().map(|(id, _)| *id);
        if let Some(id) = biased.into_iter().find(|id| *id as usize >= tokens) {
            return Err(EngineError::UnknownToken { id, tokens });
        }
        let context = limits.context.min(limits.pages * limits.page_len);
        let answer = request.max_tokens.unwrap_or(1).max(1);
        if prompt.saturating_add(answer) > context {
            return Err(EngineError::ContextOverflow { context, prompt, answer, lower_bound: false });
        }
        let limit = request.max_tokens.unwrap_or(context - prompt);
        let (events, receiver) = mpsc::channel(EVENTS);
        // Only what is not known from earlier requests has to be read. A request that is alone is never refused.
        let unread = self.queue.unread();
        let seconds = self.board.lock().reading_s(unread);
        if let Some(seconds) = seconds.filter(|seconds| *seconds > patience.as_secs_f64()) {
            let retry_after_s = (seconds - patience.as_secs_f64()).ceil().clamp(1.0, 600.0) as u32;
            return Err(EngineError::Busy { seconds, limit: patience.as_secs_f64(), retry_after_s });
        }
        let unknown = prompt - self.board.known.positions(&request.prompt, limits.page_len);
        let (arrived, arrived_ms) = (Instant::now(), unix_ms());
        let waiting = Waiting { request, limit, unknown, events, arrived, arrived_ms };
        match self.queue.put(waiting) {
            Ok(()) => Ok(receiver),
            Err(Refused::Draining) => Err(EngineError::Draining),
            Err(Refused::Full) => {
                let queued = self.queue.len();
                Err(EngineError::Full { queued, retry_after_s: self.board.lock().retry_after_s(queued) })
            }
        }
    }

    /// Records a request that was refused before it was submitted, or by [`Engine::submit`], so that whoever looks for it
    /// finds it among those that ended.
    pub fn refuse(&self, id: String, kind: RequestKind, fault: Fault) {
        let now = unix_ms();
        self.board.lock().finish(FinishedRequest {
            seq: 0,
            id,
            kind,
            prompt_tokens: 0,
            cached_tokens: 0,
            speculation: Default::default(),
            output_tokens: 0,
            queue_s: 0.0,
            ttft_s: None,
            decode_s: None,
            finish: RequestEnd::Refused,
            error: Some(fault),
            started_ms: now,
            ended_ms: now,
        });
    }

    /// From now on takes no new requests, finishes those it has, and ends; after `limit` they are cut off. Call it from
    /// within a tokio runtime.
    pub fn drain(&self, limit: Duration) {
        self.queue.drain();
        let mut state = self.board.lock();
        if matches!(state.phase, EnginePhase::Ready) {
            state.phase = EnginePhase::Draining;
        }
        drop(state);
        let cut = self.cut.clone();
        tokio::spawn(async move {
            tokio::time::sleep(limit).await;
            cut.store(true, Ordering::Relaxed);
        });
    }

    /// Waits for the engine's end.
    pub async fn ended(&self) -> End {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(end) => end.clone().expect("wait_for saw that it is some"),
            Err(_) => End::Drained,
        }
    }

    /// The shared state, for `/metrics`.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Everything there is to know now; of the finished requests those after number `after`.
    pub fn status(&self, after: u64) -> EngineStatus {
        let waiting = self.queue.list();
        let state = self.board.lock();
        let (running, queued) = (state.running.len() as u32, waiting.len() as u32);
        EngineStatus {
            phase: state.phase.clone(),
            model: state.model.clone(),
            memory: state.memory.clone(),
            prefix_disk: state.prefix_disk.clone(),
            running,
            queued,
            counters: state.counters.clone(),
            active: state.running.iter().cloned().chain(waiting).collect(),
            finished: state.finished.iter().filter(|r| r.seq > after).cloned().collect(),
            heartbeat_age_ms: self.board.heartbeat_age_ms(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}
