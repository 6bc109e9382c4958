//! The queue of downloads: one at a time, in an order a person can change, kept in a file so that it survives the program. Whoever
//! shows it reads a watch channel; whoever steers it sends orders.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use super::{Meter, Phase, Progress, Tactics, Wish, download, part::unwritable};
use crate::{HubCache, HubError, Remote};

/// Between two published pictures while something moves.
const PACE: Duration = Duration::from_millis(250);

/// A download in the queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Download {
    /// Number that never comes twice.
    pub number: u64,
    /// Hugging Face id.
    pub id: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// The GGUF file that is fetched; null: a model in safetensors.
    pub file: Option<String>,
    /// What it does.
    pub state: DownloadState,
    /// How far it is.
    pub progress: Progress,
    /// Why it failed.
    pub problem: Option<Problem>,
}

/// What a download is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DownloadState {
    /// Waiting for its turn.
    Queued,
    /// At work; see the phase of its progress.
    Running,
    /// Stopped by a person.
    Paused,
    /// Stopped by a fault that waiting does not help.
    Failed,
    /// On the disk, verified.
    Done,
}

/// A fault as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Stable code.
    pub code: String,
    /// One sentence.
    pub message: String,
    /// What to do.
    pub next_step: String,
    /// The names and numbers in both.
    #[serde(default)]
    pub values: Value,
}

impl From<&HubError> for Problem {
    fn from(error: &HubError) -> Problem {
        Problem {
            code: error.code().into(),
            message: error.to_string(),
            next_step: error.next_step().into(),
            values: serde_json::to_value(error).unwrap_or_default(),
        }
    }
}

/// What is kept in the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    number: u64,
    id: String,
    revision: String,
    #[serde(default)]
    file: Option<String>,
    commit: Option<String>,
    state: DownloadState,
    bytes: Option<u64>,
    done: u64,
    problem: Option<Problem>,
}

/// Makes the remote anew for each download, so that a new token is used at once.
pub type Connect = Arc<dyn Fn() -> Result<Remote, HubError> + Send + Sync>;

/// What the queue needs.
pub struct DownloadsOptions {
    /// Where models go.
    pub cache: HubCache,
    /// The file the queue is kept in.
    pub file: PathBuf,
    /// How to reach the hub.
    pub connect: Connect,
    /// How to meet trouble.
    pub tactics: Tactics,
}

#[derive(Debug)]
enum Order {
    Add(Wish, oneshot::Sender<u64>),
    Pause(u64),
    Resume(u64),
    Cancel(u64),
    Move(u64, usize),
}

/// The handle: cheap to clone. The queue ends when all handles are gone; a running download then stops and is kept.
#[derive(Debug, Clone)]
pub struct Downloads {
    orders: mpsc::Sender<(Order, oneshot::Sender<bool>)>,
    list: watch::Receiver<Arc<Vec<Download>>>,
}

impl Downloads {
    /// Reads the file and goes on where an earlier run ended. Needs a Tokio runtime.
    pub fn start(options: DownloadsOptions) -> Downloads {
        let entries = read(&options.file);
        let next = entries.iter().map(|entry| entry.number).max().unwrap_or(0) + 1;
        let keeper = Keeper { options, entries, next, active: None, written: String::new() };
        let (publish, list) = watch::channel(Arc::new(keeper.pictures()));
        let (orders, inbox) = mpsc::channel(16);
        tokio::spawn(keeper.run(inbox, publish));
        Downloads { orders, list }
    }

    /// The queue now and whenever it changes, in its order.
    pub fn list(&self) -> watch::Receiver<Arc<Vec<Download>>> {
        self.list.clone()
    }

    async fn order(&self, order: Order) -> bool {
        let (tell, told) = oneshot::channel();
        let sent = self.orders.send((order, tell)).await.is_ok();
        sent && told.await.unwrap_or(false)
    }

    /// Adds a model at the end; one that is in the queue already is resumed instead. Returns its number; null if the queue ends.
    pub async fn add(&self, wish: Wish) -> Option<u64> {
        let (tell, number) = oneshot::channel();
        self.order(Order::Add(wish, tell)).await;
        number.await.ok()
    }

    /// Stops one and keeps what was fetched; false if there is none of this number.
    pub async fn pause(&self, number: u64) -> bool {
        self.order(Order::Pause(number)).await
    }

    /// Lets one go on, or try again.
    pub async fn resume(&self, number: u64) -> bool {
        self.order(Order::Resume(number)).await
    }

    /// Takes one out of the queue and deletes what was fetched of it; a finished one is only taken off the list.
    pub async fn cancel(&self, number: u64) -> bool {
        self.order(Order::Cancel(number)).await
    }

    /// Puts one at a place, 0 first. One that is put first takes over from the one at work.
    pub async fn move_to(&self, number: u64, place: usize) -> bool {
        self.order(Order::Move(number, place)).await
    }
}

struct Active {
    number: u64,
    task: JoinHandle<Result<PathBuf, HubError>>,
    meter: Arc<Meter>,
}

struct Keeper {
    options: DownloadsOptions,
    entries: Vec<Entry>,
    next: u64,
    active: Option<Active>,
    /// The file as it was written last.
    written: String,
}

impl Keeper {
    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<(Order, oneshot::Sender<bool>)>,
        publish: watch::Sender<Arc<Vec<Download>>>,
    ) {
        let mut tick = interval(PACE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Whoever gave an order is told once the list shows what came of it.
        let mut owed: Option<(oneshot::Sender<bool>, bool)> = None;
        loop {
            self.begin();
            let pictures = self.pictures();
            self.keep();
            publish.send_if_modified(|shown| {
                let changed = **shown != pictures;
                if changed {
                    *shown = Arc::new(pictures);
                }
                changed
            });
            if let Some((tell, done)) = owed.take() {
                let _ = tell.send(done);
            }
            tokio::select! {
                order = inbox.recv() => match order {
                    Some((order, tell)) => {
                        owed = Some((tell, self.obey(order).await));
                    }
                    None => return self.stop().await,
                },
                result = ended(&mut self.active) => self.note(result),
                _ = tick.tick(), if self.active.is_some() => {}
            }
        }
    }

    /// Starts the first one that waits, if none is at work.
    fn begin(&mut self) {
        if self.active.is_some() {
            return;
        }
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.state == DownloadState::Queued) else {
            return;
        };
        (entry.state, entry.problem) = (DownloadState::Running, None);
        let Entry { id, revision, file, commit, .. } = entry.clone();
        let wish = Wish { id, revision, file, commit };
        let meter = Arc::new(Meter::default());
        let (cache, tactics, connect) =
            (self.options.cache.clone(), self.options.tactics, self.options.connect.clone());
        let shared = meter.clone();
        let task = tokio::spawn(async move { download(&connect()?, &cache, &wish, tactics, &shared).await });
        self.active = Some(Active { number: entry.number, task, meter });
    }

    async fn obey(&mut self, order: Order) -> bool {
        match order {
            Order::Add(wish, tell) => {
                let number = self.add(wish);
                let _ = tell.send(number);
                true
            }
            Order::Pause(number) => {
                let Some(at) = self.find(number) else { return false };
                if self.is_active(number) {
                    self.stop().await;
                }
                if self.entries[at].state != DownloadState::Done {
                    self.entries[at].state = DownloadState::Paused;
                }
                true
            }
            Order::Resume(number) => {
                let Some(at) = self.find(number) else { return false };
                if matches!(self.entries[at].state, DownloadState::Paused | DownloadState::Failed) {
                    self.entries[at].state = DownloadState::Queued;
                }
                true
            }
            Order::Cancel(number) => {
                let Some(at) = self.find(number) else { return false };
                if self.is_active(number) {
                    self.stop().await;
                }
                let entry = self.entries.remove(at);
                let shared = self.entries.iter().any(|other| other.id == entry.id);
                if entry.state != DownloadState::Done && !shared {
                    let folder = self.options.cache.repository(&entry.id);
                    let swept =
                        tokio::task::spawn_blocking(move || folder.map(|folder| folder.sweep())).await;
                    if let Ok(Err(error)) = swept {
                        tracing::warn!(%error, "parts of a cancelled download stay");
                    }
                }
                true
            }
            Order::Move(number, place) => {
                let Some(at) = self.find(number) else { return false };
                let entry = self.entries.remove(at);
                let place = place.min(self.entries.len());
                self.entries.insert(place, entry);
                // Whoever is put before the one at work, and waits, takes its turn.
                let waits = |entry: &Entry| entry.state == DownloadState::Queued;
                let active = self.active.as_ref().and_then(|active| self.find(active.number));
                if active.is_some_and(|active| self.entries[..active].iter().any(waits)) {
                    self.stop().await;
                }
                true
            }
        }
    }

    fn add(&mut self, wish: Wish) -> u64 {
        let same = |entry: &&mut Entry| {
            entry.id == wish.id && entry.revision == wish.revision && entry.file == wish.file
        };
        let done = |entry: &Entry| {
            entry.id == wish.id && entry.file == wish.file && entry.state == DownloadState::Done
        };
        self.entries.retain(|entry| !done(entry));
        if let Some(entry) = self.entries.iter_mut().find(same) {
            if matches!(entry.state, DownloadState::Paused | DownloadState::Failed) {
                entry.state = DownloadState::Queued;
            }
            return entry.number;
        }
        let number = self.next;
        self.next += 1;
        self.entries.push(Entry {
            number,
            id: wish.id,
            revision: wish.revision,
            file: wish.file,
            commit: wish.commit,
            state: DownloadState::Queued,
            bytes: None,
            done: 0,
            problem: None,
        });
        number
    }

    fn find(&self, number: u64) -> Option<usize> {
        self.entries.iter().position(|entry| entry.number == number)
    }

    fn is_active(&self, number: u64) -> bool {
        self.active.as_ref().is_some_and(|active| active.number == number)
    }

    /// Ends the one at work; it waits again.
    async fn stop(&mut self) {
        let Some(active) = self.active.take() else { return };
        active.task.abort();
        // Its journals are written before it is gone.
        let result = active.task.await;
        let progress = active.meter.progress();
        if let Some(at) = self.find(active.number) {
            let entry = &mut self.entries[at];
            take_in(entry, &progress);
            entry.state = match result {
                Ok(Ok(_)) => DownloadState::Done,
                _ => DownloadState::Queued,
            };
        }
        self.keep();
    }

    fn note(&mut self, (number, progress, result): (u64, Progress, Result<PathBuf, HubError>)) {
        let Some(at) = self.find(number) else { return };
        let entry = &mut self.entries[at];
        take_in(entry, &progress);
        match result {
            Ok(folder) => {
                tracing::info!(id = entry.id, ?folder, "downloaded");
                entry.state = DownloadState::Done;
            }
            Err(error) => {
                tracing::warn!(id = entry.id, %error, "a download failed");
                (entry.state, entry.problem) = (DownloadState::Failed, Some(Problem::from(&error)));
            }
        }
    }

    fn pictures(&self) -> Vec<Download> {
        self.entries
            .iter()
            .map(|entry| {
                let active = self.active.as_ref().filter(|active| active.number == entry.number);
                // What was known of an interrupted one, until more is known.
                let known = Progress {
                    phase: Phase::Checking,
                    commit: entry.commit.clone(),
                    bytes: entry.bytes,
                    done: entry.done,
                    ..Progress::default()
                };
                let now = active.map(|active| active.meter.progress());
                let progress = match now {
                    Some(now) if now.bytes.is_some() => now,
                    Some(now) => Progress { trouble: now.trouble, ..known },
                    None => known,
                };
                Download {
                    number: entry.number,
                    id: entry.id.clone(),
                    revision: entry.revision.clone(),
                    file: entry.file.clone(),
                    state: entry.state,
                    progress,
                    problem: entry.problem.clone(),
                }
            })
            .collect()
    }

    /// Writes the file if it would say something else; where it cannot be written the queue lives on without it.
    fn keep(&mut self) {
        if let Some(active) = &self.active {
            let progress = active.meter.progress();
            if let Some(entry) = self.entries.iter_mut().find(|entry| entry.number == active.number) {
                // Bytes change all the time, and the journals know them better.
                if entry.commit != progress.commit && progress.commit.is_some() {
                    take_in(entry, &progress);
                }
            }
        }
        let kept: Vec<&Entry> =
            self.entries.iter().filter(|entry| entry.state != DownloadState::Done).collect();
        let text = serde_json::to_string_pretty(&kept).unwrap_or_default();
        if text == self.written {
            return;
        }
        let fresh = self.options.file.with_extension("new");
        let written = fs::write(&fresh, &text).and_then(|()| fs::rename(&fresh, &self.options.file));
        match written.map_err(unwritable(&self.options.file)) {
            Ok(()) => self.written = text,
            Err(error) => tracing::warn!(%error, "the queue of downloads is not kept"),
        }
    }
}

fn take_in(entry: &mut Entry, progress: &Progress) {
    if progress.bytes.is_some() {
        (entry.commit, entry.bytes, entry.done) = (progress.commit.clone(), progress.bytes, progress.done);
    }
}

/// Resolves when the download at work ends by itself.
async fn ended(active: &mut Option<Active>) -> (u64, Progress, Result<PathBuf, HubError>) {
    let Some(running) = active else { return std::future::pending().await };
    let result = (&mut running.task).await;
    let (number, progress) = (running.number, running.meter.progress());
    *active = None;
    let result = result.unwrap_or_else(|error| {
        let cause = std::io::Error::other(error.to_string());
        Err(HubError::Unreadable { path: PathBuf::from("the download"), cause })
    });
    (number, progress, result)
}

/// What an earlier run left. One that was at work or had failed is tried again; a file that is no queue is an empty one.
fn read(file: &std::path::Path) -> Vec<Entry> {
    let Ok(bytes) = fs::read(file) else { return Vec::new() };
    let mut entries = serde_json::from_slice::<Vec<Entry>>(&bytes).unwrap_or_else(|error| {
        tracing::warn!(%error, ?file, "the queue of downloads cannot be read; it begins empty, and parts on disk are kept");
        Vec::new()
    });
    entries.retain(|entry| Wish::new(&entry.id, Some(&entry.revision)).is_ok());
    for entry in &mut entries {
        if matches!(entry.state, DownloadState::Running | DownloadState::Failed) {
            entry.state = DownloadState::Queued;
        }
    }
    entries
}
