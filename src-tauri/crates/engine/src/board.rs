//! Where the engine thread writes what it does and everybody else reads it: phase, counters, requests, heartbeat.
//! Written a few times per step, read by `/status`, `/health` and `/metrics`.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use crate::{
    histogram::{BETWEEN_TOKENS, Histogram, SECONDS},
    known::KnownTexts,
    replay::Replay,
    status::{
        EngineCounters, EngineMemory, EngineModel, EnginePhase, EngineRequest, FinishedRequest, PrefixDisk,
        RequestEnd,
    },
};

/// How many finished requests are remembered.
const REMEMBERED: usize = 256;

/// The shared state of one engine.
#[derive(Debug)]
pub struct Board {
    inner: Mutex<BoardState>,
    /// Which beginnings of texts need not be read again.
    pub known: Arc<KnownTexts>,
    /// What was answered lately.
    pub replay: Replay,
    started: Instant,
    /// Milliseconds after `started` of the last sign of life.
    beat: AtomicU64,
}

/// What the board holds.
#[derive(Debug)]
pub struct BoardState {
    /// Where the engine is in its life.
    pub phase: EnginePhase,
    /// Known as soon as the model's description is read.
    pub model: Option<EngineModel>,
    /// Known when it is allocated.
    pub memory: Option<EngineMemory>,
    /// The disk tier of the prefix cache, if there is one.
    pub prefix_disk: Option<PrefixDisk>,
    /// Sums.
    pub counters: EngineCounters,
    /// Requests that hold a slot.
    pub running: Vec<EngineRequest>,
    /// The last requests that ended.
    pub finished: VecDeque<FinishedRequest>,
    /// Waiting for a slot, seconds.
    pub queue: Histogram,
    /// Arrival to first token, seconds.
    pub first_token: Histogram,
    /// Mean time between the tokens of a request, seconds.
    pub between_tokens: Histogram,
    /// Arrival to end, seconds.
    pub whole: Histogram,
    next_seq: u64,
}

/// Names of the loading stages, in order.
pub const STAGES: [&str; 5] = ["plan", "read weights", "allocate KV", "record graphs", "warm up"];

impl Default for Board {
    fn default() -> Board {
        Board {
            inner: Mutex::new(BoardState {
                phase: loading(0, 0.0),
                model: None,
                memory: None,
                prefix_disk: None,
                counters: EngineCounters::default(),
                running: Vec::new(),
                finished: VecDeque::new(),
                queue: Histogram::new(SECONDS),
                first_token: Histogram::new(SECONDS),
                between_tokens: Histogram::new(BETWEEN_TOKENS),
                whole: Histogram::new(SECONDS),
                next_seq: 1,
            }),
            known: Arc::default(),
            replay: Replay::default(),
            started: Instant::now(),
            beat: AtomicU64::new(0),
        }
    }
}

/// The phase of stage `index`, `fraction` of the way through.
pub fn loading(index: usize, fraction: f64) -> EnginePhase {
    EnginePhase::Loading {
        stage: STAGES[index.min(STAGES.len() - 1)].to_owned(),
        index: index as u32,
        count: STAGES.len() as u32,
        fraction: fraction.clamp(0.0, 1.0),
    }
}

impl Board {
    /// The state, for as long as the guard lives. Hold it briefly: the engine's step waits for it.
    pub fn lock(&self) -> MutexGuard<'_, BoardState> {
        // Readers never leave it half-written, and the engine thread's death ends the process.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sign of life.
    pub fn beat(&self) {
        self.beat.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Milliseconds since the last sign of life.
    pub fn heartbeat_age_ms(&self) -> f64 {
        let now = self.started.elapsed().as_millis() as u64;
        now.saturating_sub(self.beat.load(Ordering::Relaxed)) as f64
    }

    /// Says where the engine is in its life.
    pub fn set_phase(&self, phase: EnginePhase) {
        self.lock().phase = phase;
    }
}

impl BoardState {
    /// Remembers a request that ended and counts it. Its `seq` is given here.
    pub fn finish(&mut self, mut request: FinishedRequest) {
        request.seq = self.next_seq;
        self.next_seq += 1;
        match request.finish {
            RequestEnd::Stop | RequestEnd::Length => self.counters.requests_ok += 1,
            RequestEnd::Cancelled => self.counters.requests_cancelled += 1,
            RequestEnd::Error => self.counters.requests_failed += 1,
            RequestEnd::Refused => self.counters.requests_refused += 1,
        }
        if request.finish == RequestEnd::Refused {
            // It neither waited nor was worked on, so it has no place among the times.
            return self.remember(request);
        }
        self.queue.observe(request.queue_s);
        self.whole.observe((request.ended_ms - request.started_ms).max(0.0) / 1e3);
        if let Some(seconds) = request.ttft_s {
            self.first_token.observe(seconds);
        }
        if let Some(seconds) = request.decode_s.filter(|_| request.output_tokens > 1) {
            self.between_tokens.observe(seconds / f64::from(request.output_tokens - 1));
        }
        self.remember(request);
    }

    fn remember(&mut self, request: FinishedRequest) {
        if self.finished.len() == REMEMBERED {
            // A client that is refused again and again must not push out what was answered.
            let refused = self.finished.iter().position(|r| r.finish == RequestEnd::Refused);
            self.finished.remove(refused.unwrap_or(0));
        }
        self.finished.push_back(request);
    }

    /// Seconds until `tokens` of waiting prompts and what is left of those that are being read will have been read, at the
    /// speed measured so far; None as long as that says little.
    pub fn reading_s(&self, tokens: usize) -> Option<f64> {
        let counters = &self.counters;
        let measured = counters.prefill_tokens >= 256 && counters.prefill_seconds > 0.0;
        let left: u32 = self.running.iter().map(|r| r.prompt_tokens.saturating_sub(r.prefilled_tokens)).sum();
        let rate = counters.prefill_tokens as f64 / counters.prefill_seconds;
        measured.then(|| (tokens as f64 + f64::from(left)) / rate)
    }

    /// Seconds until a place in the queue is likely: the recent requests' mean time in a slot, shared by the slots.
    pub fn retry_after_s(&self, queued: usize) -> u32 {
        let slots = self.model.as_ref().map_or(1, |m| m.max_requests.max(1));
        let taken = self.finished.iter().rev().filter(|r| r.finish != RequestEnd::Refused);
        let recent = taken.take(32);
        let (sum, count) = recent.fold((0.0, 0u32), |(sum, count), r| {
            (sum + ((r.ended_ms - r.started_ms) / 1e3 - r.queue_s).max(0.0), count + 1)
        });
        let mean = if count == 0 { 1.0 } else { sum / f64::from(count) };
        (mean * queued as f64 / f64::from(slots)).ceil().clamp(1.0, 60.0) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{RequestKind, Speculation};

    fn ended(finish: RequestEnd) -> FinishedRequest {
        FinishedRequest {
            seq: 0,
            id: "r".into(),
            kind: RequestKind::Chat,
            prompt_tokens: 5,
            cached_tokens: 0,
            speculation: Speculation::default(),
            output_tokens: 3,
            queue_s: 1.0,
            ttft_s: Some(2.0),
            decode_s: Some(4.0),
            finish,
            error: None,
            started_ms: 1000.0,
            ended_ms: 8000.0,
        }
    }

    #[test]
    fn the_last_256_requests_are_remembered_with_ascending_numbers() {
        let board = Board::default();
        for _ in 0..300 {
            board.lock().finish(ended(RequestEnd::Stop));
        }
        let state = board.lock();
        let numbers: Vec<u64> = state.finished.iter().map(|r| r.seq).collect();
        assert_eq!(numbers, (45..=300).collect::<Vec<_>>());
        assert_eq!(state.counters.requests_ok, 300);
        assert_eq!(state.between_tokens.sum(), 600.0);
    }

    #[test]
    fn refused_requests_are_remembered_but_push_out_nothing_and_count_for_no_time() {
        let board = Board::default();
        (0..200).for_each(|_| board.lock().finish(ended(RequestEnd::Stop)));
        (0..900).for_each(|_| board.lock().finish(ended(RequestEnd::Refused)));
        let state = board.lock();
        let refused = state.finished.iter().filter(|r| r.finish == RequestEnd::Refused).count();
        assert_eq!((state.finished.len(), refused), (256, 56));
        assert!(state.finished.iter().is_sorted_by_key(|r| r.seq));
        assert_eq!((state.counters.requests_refused, state.counters.requests_ok), (900, 200));
        assert_eq!((state.whole.total(), state.finished.back().map(|r| r.seq)), (200, Some(1100)));
    }

    #[test]
    fn retry_after_is_the_time_the_waiting_requests_will_take() {
        let board = Board::default();
        assert_eq!(board.lock().retry_after_s(4), 4);
        board.lock().finish(ended(RequestEnd::Length));
        assert_eq!(board.lock().retry_after_s(4), 24);
        assert_eq!(board.lock().retry_after_s(1000), 60);
    }

    #[test]
    fn how_long_reading_takes_is_told_by_the_speed_so_far_and_not_before_there_is_one() {
        let board = Board::default();
        let mut state = board.lock();
        assert_eq!(state.reading_s(1000), None);
        (state.counters.prefill_tokens, state.counters.prefill_seconds) = (1000, 2.0);
        assert_eq!(state.reading_s(1000), Some(2.0));
        state.running.push(crate::status::EngineRequest {
            id: "r".into(),
            phase: crate::status::RequestPhase::Prefill,
            prompt_tokens: 700,
            prefilled_tokens: 200,
            output_tokens: 0,
            started_ms: 0.0,
        });
        assert_eq!(state.reading_s(1000), Some(3.0));
        let busy = crate::EngineError::Busy { seconds: 3.0, limit: 1.0, retry_after_s: 2 };
        assert_eq!(busy.code(), "rate_limit_exceeded");
        assert!(busy.to_string().contains("about 3 more seconds; at most 1 "), "{busy}");
    }
}
