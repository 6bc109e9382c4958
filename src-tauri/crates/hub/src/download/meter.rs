//! How far a download is: written by its connections, read by whoever shows it. A byte counts once, so progress never moves
//! backwards, except that a damaged file is fetched again, which is told.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::Problem;
use crate::HubError;

/// The speed shown is over this time.
const SPAN: Duration = Duration::from_secs(6);

/// What a download is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Asking what there is, and whether it has room.
    #[default]
    Checking,
    /// Fetching bytes.
    Fetching,
    /// Holding what was fetched against the hub's checksums.
    Verifying,
}

/// A download at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Progress {
    /// What it does.
    pub phase: Phase,
    /// The commit it is pinned to, once known.
    pub commit: Option<String>,
    /// Files of the model; zero until known.
    pub files: u32,
    /// Bytes of the model; null until known.
    pub bytes: Option<u64>,
    /// Of these, on the disk.
    pub done: u64,
    /// Bytes held against checksums in this run.
    pub verified: u64,
    /// Bytes to be held against checksums in this run.
    pub to_verify: u64,
    /// Bytes per second; null while none come.
    pub rate: Option<f64>,
    /// Seconds until all is fetched, at this speed.
    pub seconds_left: Option<f64>,
    /// What stands in the way, while it tries again.
    pub trouble: Option<Trouble>,
}

/// Something that waiting may help.
#[derive(Debug, Clone, PartialEq)]
pub struct Trouble {
    /// The fault.
    pub problem: Problem,
    /// When the next try is made.
    pub until: Instant,
}

/// Shared by the connections of a download.
#[derive(Debug, Default)]
pub struct Meter {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    progress: Progress,
    /// Moments and bytes that came in between.
    samples: VecDeque<(Instant, u64)>,
}

impl Meter {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known now.
    pub fn progress(&self) -> Progress {
        let mut inner = self.inner();
        let now = Instant::now();
        while inner.samples.front().is_some_and(|(at, _)| now - *at > SPAN) {
            inner.samples.pop_front();
        }
        let mut progress = inner.progress.clone();
        let came: u64 = inner.samples.iter().map(|(_, bytes)| bytes).sum();
        let since = inner.samples.front().map(|(at, _)| (now - *at).as_secs_f64());
        let fetching = progress.phase == Phase::Fetching && came > 0;
        // The first moments say nothing yet.
        progress.rate = since.filter(|s| fetching && *s > 0.5).map(|seconds| came as f64 / seconds);
        progress.seconds_left = progress
            .rate
            .zip(progress.bytes)
            .map(|(rate, bytes)| bytes.saturating_sub(progress.done) as f64 / rate);
        progress
    }

    pub(super) fn phase(&self, phase: Phase) {
        let mut inner = self.inner();
        (inner.progress.phase, inner.progress.trouble) = (phase, None);
        inner.samples.clear();
    }

    /// What the download consists of, and how much of it is there.
    pub(super) fn plan(&self, commit: &str, files: usize, bytes: u64, done: u64) {
        let mut inner = self.inner();
        let progress = &mut inner.progress;
        progress.commit = Some(commit.into());
        progress.files = u32::try_from(files).unwrap_or(u32::MAX);
        (progress.bytes, progress.done) = (Some(bytes), done);
    }

    pub(super) fn came(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let mut inner = self.inner();
        inner.progress.done += bytes;
        inner.progress.trouble = None;
        let now = Instant::now();
        match inner.samples.back_mut() {
            Some((at, sum)) if now - *at < Duration::from_millis(100) => *sum += bytes,
            _ => inner.samples.push_back((now, bytes)),
        }
    }

    pub(super) fn verifying(&self, bytes: u64) {
        let mut inner = self.inner();
        (inner.progress.verified, inner.progress.to_verify) = (0, bytes);
    }

    pub(super) fn verified(&self, bytes: u64) {
        self.inner().progress.verified += bytes;
    }

    /// Bytes that turned out wrong.
    pub(super) fn lost(&self, bytes: u64) {
        let mut inner = self.inner();
        inner.progress.done = inner.progress.done.saturating_sub(bytes);
    }

    pub(super) fn trouble(&self, error: &HubError, pause: Duration) {
        self.inner().progress.trouble =
            Some(Trouble { problem: Problem::from(error), until: Instant::now() + pause });
    }
}
