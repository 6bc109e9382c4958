//! Threads that compute masks beside the engine thread. Shared by all grammars of a model.

use std::{
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

/// One would do (a mask takes about 60 µs), but then a slow grammar would hold up the others.
const THREADS: usize = 2;

type Job = Box<dyn FnOnce() + Send>;

/// Threads that take jobs until this is dropped.
pub(super) struct Workers(mpsc::Sender<Job>);

impl Workers {
    pub(super) fn start() -> Workers {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let inbox = Arc::new(Mutex::new(inbox));
        for _ in 0..THREADS {
            let inbox = inbox.clone();
            let work = move || {
                loop {
                    let next = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    match next {
                        Ok(job) => job(),
                        Err(_) => return,
                    }
                }
            };
            // Without threads the jobs are done by whoever brings them.
            if let Err(error) = thread::Builder::new().name("grammar".into()).spawn(work) {
                tracing::warn!(%error, "masks are computed by fewer threads");
            }
        }
        Workers(jobs)
    }

    /// Does a job soon, on another thread if there is one.
    pub(super) fn give(&self, job: impl FnOnce() + Send + 'static) {
        if let Err(mpsc::SendError(job)) = self.0.send(Box::new(job)) {
            job();
        }
    }
}
