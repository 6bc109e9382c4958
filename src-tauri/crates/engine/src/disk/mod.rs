//! The disk tier of the prefix cache: texts that memory has no more room for, in files within a byte budget. `tend` moves
//! pages and states in small slices between steps, the clerks' threads do the rest; the engine never waits for a disk. It is
//! only a cache: whatever goes wrong with it costs time and no answer.

mod answers;
mod clerks;
mod file;
mod identity;
mod shelf;
mod tend;
#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender},
    },
    time::{Duration, Instant},
};

pub use file::Identity;
pub use identity::{Computed, model_digest};

use crate::{
    disk::{
        clerks::{Block, Clerks, Write},
        shelf::{Kept, Shelf},
    },
    known::KnownTexts,
    prefix::NodeId,
    replay::Replay,
    status::{Fault, PrefixDisk},
};

/// How long the engine must have had nothing to do before texts are written that need not be.
const REST: Duration = Duration::from_secs(5);
/// The answers may take one in so many bytes of the budget.
const ANSWERS_SHARE: u64 = 8;
/// Held by the one engine that uses a folder.
const LOCK: &str = "in-use";

/// Where kept prefixes go that memory has no room for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskRequest {
    /// The folder, made if it is not there. An engine has it for itself.
    pub folder: PathBuf,
    /// Most bytes of its files.
    pub budget: u64,
}

/// The tier of one engine.
#[derive(Debug)]
pub struct Disk {
    identity: Identity,
    folder: PathBuf,
    shelf: Shelf,
    clerks: Clerks,
    known: Arc<KnownTexts>,
    saving: Option<Saving>,
    loading: Option<Loading>,
    /// Why nothing more is written.
    off: Option<Fault>,
    /// Texts that do not fit the budget, or whose loading was given up for want of memory.
    skipped: HashSet<u64>,
    /// The clock of the tree when nothing was found that should be written.
    settled: Option<(u64, bool)>,
    /// Since when there has been nothing to do.
    resting: Option<Instant>,
    /// How long that must last.
    rest: Duration,
    saved_tokens: u64,
    restored_tokens: u64,
    discarded: u64,
    /// How many answers there were when they were last given to the clerk.
    answers: u64,
    /// Whether that one has not told yet how it went.
    answering: bool,
    _lock: File,
}

/// A text on its way to a file.
#[derive(Debug)]
struct Saving {
    /// Its node, pinned until everything is copied.
    node: Option<NodeId>,
    /// Slot of its state.
    state: usize,
    /// Its pages.
    pages: Vec<u32>,
    /// Blocks copied.
    next: usize,
    /// Where they go; none when all have gone, or no more will.
    blocks: Option<SyncSender<Vec<u8>>>,
    /// One for which there was no place yet.
    waiting: Option<Vec<u8>>,
}

/// A text on its way from files.
#[derive(Debug)]
struct Loading {
    /// It.
    ids: Vec<u32>,
    /// Its hash.
    hash: u64,
    /// The node of what of it is in memory, pinned.
    base: Option<NodeId>,
    /// Pages for the rest of it.
    pages: Vec<u32>,
    /// Slot for its state.
    state: usize,
    /// Blocks that have come.
    next: usize,
    /// Where they come.
    blocks: Receiver<Block>,
}

impl Disk {
    /// Opens the tier: finds what an earlier engine left in the folder, texts and answers, which `replay` remembers.
    ///
    /// # Errors
    /// Why there is none; everything else works.
    pub fn open(
        request: &DiskRequest,
        identity: Identity,
        known: Arc<KnownTexts>,
        replay: &Replay,
    ) -> Result<Disk, Fault> {
        let place = request.folder.display();
        let unusable = |error: io::Error| {
            Fault::new(
                "prefix_disk_unavailable",
                format!("The folder {place} cannot be used, so no prefixes are kept on disk."),
                "Choose a folder that this user may write to.",
            )
            .with("folder", place.to_string())
            .with_evidence(error.to_string())
        };
        let lock = lock(&request.folder).map_err(unusable)?.ok_or_else(|| {
            Fault::new(
                "prefix_disk_in_use",
                format!("Another engine keeps its prefixes in {place}, so this one keeps none on disk."),
                "Give every engine a folder of its own.",
            )
            .with("folder", place.to_string())
        })?;
        let (said, aside) = answers::read(&request.folder, &identity).unwrap_or_else(|why| {
            tracing::warn!(file = answers::NAME, "the kept answers are discarded: {why}");
            (Vec::new(), 0)
        });
        said.into_iter().for_each(|said| replay.remember(said.ids, said.prompt));
        let (shelf, discarded) =
            Shelf::read(&request.folder, &identity, request.budget, aside).map_err(unusable)?;
        let clerks = Clerks::start(request.folder.clone(), identity.clone()).map_err(unusable)?;
        tracing::info!(files = shelf.len(), bytes = shelf.used(), folder = %place, "prefixes are kept on disk");
        shelf.hashes().for_each(|hash| known.add_on_disk(hash));
        Ok(Disk {
            identity,
            folder: request.folder.clone(),
            shelf,
            clerks,
            known,
            saving: None,
            loading: None,
            off: None,
            skipped: HashSet::new(),
            settled: None,
            resting: None,
            rest: REST,
            saved_tokens: 0,
            restored_tokens: 0,
            discarded,
            answers: replay.count(),
            answering: false,
            _lock: lock,
        })
    }

    /// Texts are written as soon as there is nothing else to do.
    #[cfg(test)]
    pub fn rest_at_once(&mut self) {
        self.rest = Duration::ZERO;
    }

    /// True while something is on its way.
    pub fn is_busy(&self) -> bool {
        self.saving.is_some() || self.loading.is_some() || self.answering
    }

    /// For the status.
    pub fn describe(&self) -> PrefixDisk {
        PrefixDisk {
            folder: self.folder.to_string_lossy().into_owned(),
            budget: self.shelf.budget() as f64,
            used: self.shelf.used() as f64,
            files: self.shelf.len() as u32,
            saved_tokens: self.saved_tokens,
            restored_tokens: self.restored_tokens,
            discarded: self.discarded,
            off: self.off.clone(),
        }
    }

    /// Pages and a state that it owns, and nodes that it pinned, for the check.
    pub fn owned(&self) -> (&[u32], Option<usize>, Vec<NodeId>) {
        let loading = self.loading.as_ref();
        let pinned = self.saving.as_ref().and_then(|s| s.node).into_iter();
        (
            loading.map_or(&[], |loading| &loading.pages),
            loading.map(|loading| loading.state),
            pinned.chain(loading.and_then(|loading| loading.base)).collect(),
        )
    }

    /// Gives the answers to the clerk if there are new ones, as many of the latest as there is room for.
    fn write_answers(&mut self, replay: &Replay) {
        let count = replay.count();
        if count == self.answers {
            return;
        }
        self.answers = count;
        let room = self.shelf.room().min(self.shelf.budget() / ANSWERS_SHARE);
        let said = answers::that_fit(&replay.all(), &self.identity, room);
        if said.is_empty() {
            return;
        }
        self.shelf.set_aside(answers::file_bytes(&said, &self.identity));
        self.answering = self.clerks.write.send(Write::Answers(said)).is_ok();
    }

    /// Files that are no longer on the shelf.
    fn drop_files(&mut self, gone: Vec<Kept>) {
        gone.iter().for_each(|kept| self.known.remove_on_disk(kept.hash));
        // A clerk that has ended is noticed by the next save.
        let _ = self.clerks.write.send(Write::Remove(gone.into_iter().map(|kept| kept.name).collect()));
    }
}

/// Makes the folder if it is not there, and takes it for this process. None if another one has it.
fn lock(folder: &Path) -> io::Result<Option<File>> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(folder.join(LOCK))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}
