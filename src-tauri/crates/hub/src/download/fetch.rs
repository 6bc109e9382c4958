//! Fetches the missing bytes of several files over several connections. A connection takes a range, fetches it, takes the next;
//! what fails is given back and tried again for as long as trying can help.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{MissedTickBehavior, interval, sleep},
};

use super::{Meter, part::Part};
use crate::{HubError, Remote};

/// Bytes are written in pieces of about this size,
const PIECE: usize = 1 << 20;
/// or, over a slow connection, this often.
const WRITE_EVERY: Duration = Duration::from_millis(500);

/// Between two journals: what a power cut can cost.
const KEEP_EVERY: Duration = Duration::from_secs(2);

/// How a download meets trouble.
#[derive(Debug, Clone, Copy)]
pub struct Tactics {
    /// Connections at once.
    pub connections: usize,
    /// Most bytes of one request: small enough to share a file among connections, large enough to cost no time.
    pub segment: u64,
    /// Pause after the first failure; doubled each time.
    pub first_pause: Duration,
    /// Longest pause.
    pub longest_pause: Duration,
}

impl Default for Tactics {
    fn default() -> Tactics {
        Tactics {
            connections: 6,
            segment: 32 << 20,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(30),
        }
    }
}

impl Tactics {
    /// The pause after so many failures in a row; a server that asks for longer gets it, within reason.
    pub(super) fn pause(&self, failures: u32, error: &HubError) -> Duration {
        let doubled = self.first_pause.saturating_mul(1 << failures.saturating_sub(1).min(12));
        let asked = match error {
            HubError::ServerFault { wait: Some(wait), .. } => (*wait).min(10 * self.longest_pause),
            _ => Duration::ZERO,
        };
        doubled.min(self.longest_pause).max(asked)
    }
}

/// Repository and commit of the parts.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub remote: Remote,
    pub id: String,
    pub commit: String,
}

/// Fetches until every part is whole. What is there is journaled every few seconds.
pub(super) async fn fetch(
    origin: &Origin,
    parts: &Arc<Vec<Part>>,
    tactics: Tactics,
    meter: &Arc<Meter>,
) -> Result<(), HubError> {
    let mut connections = JoinSet::new();
    for _ in 0..tactics.connections.max(1) {
        connections.spawn(connection(origin.clone(), parts.clone(), tactics, meter.clone()));
    }
    let mut tick = interval(KEEP_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            ended = connections.join_next() => match ended {
                None => return Ok(()),
                Some(Ok(result)) => result?,
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            },
            _ = tick.tick() => {
                let parts = parts.clone();
                blocking(move || parts.iter().try_for_each(Part::keep)).await?;
            }
        }
    }
}

async fn connection(
    origin: Origin,
    parts: Arc<Vec<Part>>,
    tactics: Tactics,
    meter: Arc<Meter>,
) -> Result<(), HubError> {
    let mut failures = 0;
    while let Some(mut claim) = Claim::next(&parts, tactics.segment) {
        let before = claim.at;
        match segment(&origin, &mut claim, &meter).await {
            Ok(()) => failures = 0,
            Err(error) if error.passes() => {
                failures = if claim.at > before { 1 } else { failures + 1 };
                drop(claim);
                let pause = tactics.pause(failures, &error);
                tracing::debug!(%error, ?pause, "a range is tried again");
                // One hiccup is no news.
                if failures > 1 || pause > Duration::from_secs(2) {
                    meter.trouble(&error, pause);
                }
                sleep(pause).await;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fetches one claimed range; `claim.at` moves with what is written.
async fn segment(origin: &Origin, claim: &mut Claim, meter: &Meter) -> Result<(), HubError> {
    let Origin { remote, id, commit } = origin;
    let file = claim.part().remote.clone();
    let mut body = remote.range(id, commit, &file, claim.at, claim.end).await?;
    let mut buffer = BytesMut::with_capacity(PIECE);
    let mut written = Instant::now();
    loop {
        let piece = body.next().await;
        if let Ok(Some(piece)) = &piece {
            buffer.extend_from_slice(piece);
            if buffer.len() < PIECE && written.elapsed() < WRITE_EVERY {
                continue;
            }
        }
        // Whatever came is kept, also before a cut.
        written = Instant::now();
        let bytes = buffer.split().freeze();
        let length = bytes.len() as u64;
        claim.write(bytes).await?;
        // Only what is on its way to the disk counts: a pause loses the rest.
        meter.came(length);
        if piece?.is_none() {
            return Ok(());
        }
    }
}

/// A range that belongs to one connection until it is dropped.
struct Claim {
    parts: Arc<Vec<Part>>,
    index: usize,
    start: u64,
    at: u64,
    end: u64,
}

impl Claim {
    fn next(parts: &Arc<Vec<Part>>, most: u64) -> Option<Claim> {
        parts.iter().enumerate().find_map(|(index, part)| {
            let (start, end) = part.claim(most)?;
            Some(Claim { parts: parts.clone(), index, start, at: start, end })
        })
    }

    fn part(&self) -> &Part {
        &self.parts[self.index]
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), HubError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let (parts, index, at, length) = (self.parts.clone(), self.index, self.at, bytes.len() as u64);
        blocking(move || parts[index].write(at, &bytes)).await?;
        self.at += length;
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.part().release(self.start, self.end);
    }
}

/// Runs what waits for the disk on a thread that may wait.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is ending, and this task with it.
        Err(_) => std::future::pending().await,
    }
}
