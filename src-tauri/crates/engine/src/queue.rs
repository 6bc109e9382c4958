//! Where requests wait for a slot: bounded, first in first out. The API puts them in, the engine thread takes them out.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::sync::mpsc::Sender;

use crate::{
    request::{Event, Request},
    status::{EngineRequest, RequestPhase},
};

/// A request on its way, with the channel its events go to.
#[derive(Debug)]
pub struct Waiting {
    /// The request, checked and with its limit resolved.
    pub request: Request,
    /// Most tokens of the answer.
    pub limit: usize,
    /// Tokens of the prompt that were not known when it arrived.
    pub unknown: usize,
    /// Closed when the client went away.
    pub events: Sender<Event>,
    /// When it arrived.
    pub arrived: Instant,
    /// The same in Unix milliseconds.
    pub arrived_ms: f64,
}

/// The waiting requests and the wish to stop.
#[derive(Debug)]
pub struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
    limit: usize,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Waiting>,
    draining: bool,
}

/// Why a request was not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// As many wait as may.
    Full,
    /// No new requests are taken.
    Draining,
}

impl Queue {
    /// At most `limit` requests wait.
    pub fn new(limit: usize) -> Queue {
        Queue { inner: Mutex::default(), changed: Condvar::new(), limit }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is a single push or removal, so the list is whole even if a holder panicked.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a request at the end and wakes the engine.
    pub fn put(&self, waiting: Waiting) -> Result<(), Refused> {
        let mut inner = self.lock();
        if inner.draining {
            return Err(Refused::Draining);
        }
        if inner.waiting.len() >= self.limit {
            return Err(Refused::Full);
        }
        inner.waiting.push_back(waiting);
        self.changed.notify_all();
        Ok(())
    }

    /// Removes and returns the request that `choose` names by its place in the queue.
    pub fn take(&self, choose: impl FnOnce(&[&Waiting]) -> Option<usize>) -> Option<Waiting> {
        let mut inner = self.lock();
        let chosen = choose(&inner.waiting.iter().collect::<Vec<_>>())?;
        inner.waiting.remove(chosen)
    }

    /// Removes the requests whose clients went away.
    pub fn take_abandoned(&self) -> Vec<Waiting> {
        let mut inner = self.lock();
        if !inner.waiting.iter().any(|w| w.events.is_closed()) {
            return Vec::new();
        }
        let (gone, kept) = inner.waiting.drain(..).partition(|w| w.events.is_closed());
        inner.waiting = kept;
        Vec::from(gone)
    }

    /// Removes all requests.
    pub fn take_all(&self) -> Vec<Waiting> {
        self.lock().waiting.drain(..).collect()
    }

    /// Sleeps until there may be something to do, at most `time`.
    pub fn wait(&self, time: Duration) {
        let inner = self.lock();
        if inner.waiting.is_empty() && !inner.draining {
            drop(self.changed.wait_timeout(inner, time));
        }
    }

    /// From now on nothing is taken.
    pub fn drain(&self) {
        self.lock().draining = true;
        self.changed.notify_all();
    }

    /// True after [`Queue::drain`].
    pub fn is_draining(&self) -> bool {
        self.lock().draining
    }

    /// Tokens of the waiting prompts that have to be read.
    pub fn unread(&self) -> usize {
        self.lock().waiting.iter().map(|w| w.unknown).sum()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// True if none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// For the status: who waits, in order.
    pub fn list(&self) -> Vec<EngineRequest> {
        let inner = self.lock();
        let describe = |w: &Waiting| EngineRequest {
            id: w.request.id.clone(),
            phase: RequestPhase::Queued,
            prompt_tokens: w.request.prompt.len() as u32,
            prefilled_tokens: 0,
            output_tokens: 0,
            started_ms: w.arrived_ms,
        };
        inner.waiting.iter().map(describe).collect()
    }
}

/// Now, in Unix milliseconds.
pub fn unix_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64() * 1e3)
}
