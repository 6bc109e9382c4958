//! One file on its way into the cache: its bytes so far, a journal of which they are, and the lock that keeps other programs out.
//!
//! The journal never says more than the disk holds: bytes are flushed first, then it is replaced in one step. So it may be behind
//! after a power cut, which costs a few bytes fetched twice, but never ahead.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, ErrorKind},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Mutex,
};

use serde::{Deserialize, Serialize};

use super::ranges::Ranges;
use crate::{HubError, RepoFolder, listing::RemoteFile};

/// A file that is being fetched.
#[derive(Debug)]
pub(crate) struct Part {
    /// What the hub says about it.
    pub remote: RemoteFile,
    file: File,
    path: PathBuf,
    journal: PathBuf,
    blob: PathBuf,
    state: Mutex<State>,
    /// Released when the part is dropped. The same files that Hugging Face's own tools lock.
    _lock: File,
}

#[derive(Debug, Default)]
struct State {
    done: Ranges,
    /// Being fetched by some connection.
    claimed: Ranges,
    /// Length of `done` in the journal.
    kept: u64,
    /// Renamed into place: there is no part any more.
    finished: bool,
}

#[derive(Serialize, Deserialize)]
struct Journal {
    size: u64,
    done: Ranges,
}

impl Part {
    /// Opens or begins the part of a file in the cache. What an interrupted run of Hearth or of `hf download` left is taken over.
    pub fn open(folder: &RepoFolder, remote: &RemoteFile) -> Result<Part, HubError> {
        let lock = lock(folder, &remote.blob, &remote.path)?;
        let blob = folder.blob(&remote.blob);
        let named = |end: &str| blob.with_file_name(format!("{}.{end}", remote.blob));
        let (path, journal, theirs) = (named("hearth-part"), named("hearth-part.json"), named("incomplete"));
        if !path.exists() && theirs.exists() {
            adopt(&theirs, &path, &journal, remote.size).map_err(unwritable(&theirs))?;
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(unwritable(&path))?;
        let there = file.metadata().map_err(unwritable(&path))?.len();
        let kept = fs::read(&journal).ok().and_then(|bytes| serde_json::from_slice::<Journal>(&bytes).ok());
        // A part whose journal is lost, damaged or of another file begins anew.
        let done = kept
            .filter(|j| j.size == remote.size && j.done.is_sound(remote.size) && j.done.end() <= there)
            .map_or_else(Ranges::default, |journal| journal.done);
        let state = Mutex::new(State { kept: done.len(), done, ..State::default() });
        Ok(Part { remote: remote.clone(), file, path, journal, blob, state, _lock: lock })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Bytes that are there.
    pub fn done(&self) -> u64 {
        self.state().done.len()
    }

    /// Takes the next missing range of at most `most` bytes; none if all are there or being fetched.
    pub fn claim(&self, most: u64) -> Option<(u64, u64)> {
        let mut state = self.state();
        let (start, end) = state.done.first_gap(&state.claimed, self.remote.size, most)?;
        state.claimed.add(start, end);
        Some((start, end))
    }

    /// Gives back what of a claim was not fetched.
    pub fn release(&self, start: u64, end: u64) {
        self.state().claimed.remove(start, end);
    }

    /// Writes bytes at their place. Blocks.
    pub fn write(&self, start: u64, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all_at(bytes, start).map_err(|cause| full_or(&self.path, self.missing(), cause))?;
        self.state().done.add(start, start + bytes.len() as u64);
        Ok(())
    }

    fn missing(&self) -> u64 {
        self.remote.size - self.done()
    }

    /// Reserves the room of the whole file where the file system can, so that the disk cannot fill up half-way. Blocks.
    pub fn reserve(&self) -> Result<(), HubError> {
        let there = self.file.metadata().map_err(unwritable(&self.path))?.len();
        if self.remote.size == 0 || there >= self.remote.size {
            return Ok(());
        }
        let flags = rustix::fs::FallocateFlags::empty();
        match rustix::fs::fallocate(&self.file, flags, 0, self.remote.size) {
            Err(error) if error == rustix::io::Errno::NOSPC => {
                Err(full_or(&self.path, self.missing(), error.into()))
            }
            // Not every file system can; then each write finds out for itself.
            _ => Ok(()),
        }
    }

    /// Makes what is there survive a power cut. Blocks.
    pub fn keep(&self) -> Result<(), HubError> {
        let done = {
            let state = self.state();
            if state.finished || state.kept == state.done.len() {
                return Ok(());
            }
            state.done.clone()
        };
        self.file.sync_data().map_err(|cause| full_or(&self.path, self.missing(), cause))?;
        let kept = done.len();
        write_whole(&self.journal, &Journal { size: self.remote.size, done })
            .map_err(|cause| full_or(&self.journal, self.missing(), cause))?;
        self.state().kept = kept;
        Ok(())
    }

    /// Reads bytes back. Blocks.
    pub fn read(&self, start: u64, into: &mut [u8]) -> Result<usize, HubError> {
        self.file
            .read_at(into, start)
            .map_err(|cause| HubError::Unreadable { path: self.path.clone(), cause })
    }

    /// Length of the file on disk.
    pub fn length(&self) -> Result<u64, HubError> {
        let meta = self.metadata();
        meta.map(|meta| meta.len()).map_err(|cause| HubError::Unreadable { path: self.path.clone(), cause })
    }

    pub fn metadata(&self) -> io::Result<fs::Metadata> {
        self.file.metadata()
    }

    /// Forgets every byte: they are not what the hub has.
    pub fn begin_anew(&self) -> Result<(), HubError> {
        let _ = fs::remove_file(&self.journal);
        self.file.set_len(0).map_err(unwritable(&self.path))?;
        *self.state() = State::default();
        self.reserve()
    }

    /// Puts the verified file where the cache's readers look for it. Blocks.
    pub fn finish(&self) -> Result<(), HubError> {
        self.file.set_len(self.remote.size).map_err(unwritable(&self.path))?;
        self.file.sync_all().map_err(|cause| full_or(&self.path, 0, cause))?;
        fs::rename(&self.path, &self.blob).map_err(unwritable(&self.blob))?;
        self.state().finished = true;
        let _ = fs::remove_file(&self.journal);
        Ok(())
    }
}

/// Removes what is left of a file that will not be fetched. Another program's part stays.
pub(crate) fn discard(folder: &RepoFolder, blob: &str) {
    let Ok(_lock) = lock(folder, blob, blob) else { return };
    let at = folder.blob(blob);
    for end in ["hearth-part", "hearth-part.json"] {
        let _ = fs::remove_file(at.with_file_name(format!("{blob}.{end}")));
    }
}

/// Bytes of a file that an unfinished download has. No lock is taken: it may be growing.
pub(crate) fn left_over(folder: &RepoFolder, remote: &RemoteFile) -> u64 {
    let journal = folder.blob(&remote.blob).with_file_name(format!("{}.hearth-part.json", remote.blob));
    let journal = fs::read(journal).ok().and_then(|bytes| serde_json::from_slice::<Journal>(&bytes).ok());
    journal.filter(|j| j.size == remote.size && j.done.is_sound(j.size)).map_or(0, |j| j.done.len())
}

fn lock(folder: &RepoFolder, blob: &str, name: &str) -> Result<File, HubError> {
    let path = folder.lock(blob);
    for parent in [path.parent(), folder.blob(blob).parent()].into_iter().flatten() {
        fs::create_dir_all(parent).map_err(unwritable(parent))?;
    }
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(unwritable(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(HubError::Busy { file: name.into() }),
        // A file system without locks cannot hold two programs apart, and need not stop one.
        Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// Takes over what `hf download` fetched from the start of the file on.
fn adopt(theirs: &Path, path: &Path, journal: &Path, size: u64) -> io::Result<()> {
    let length = fs::metadata(theirs)?.len();
    if length == 0 || length > size {
        return Ok(());
    }
    File::open(theirs)?.sync_data()?;
    fs::rename(theirs, path)?;
    let mut done = Ranges::default();
    done.add(0, length);
    write_whole(journal, &Journal { size, done })
}

fn write_whole(path: &Path, journal: &Journal) -> io::Result<()> {
    use std::io::Write;
    let fresh = path.with_extension("json.new");
    let mut file = File::create(&fresh)?;
    file.write_all(&serde_json::to_vec(journal)?)?;
    file.sync_data()?;
    fs::rename(&fresh, path)
}

pub(crate) fn unwritable(path: &Path) -> impl FnOnce(io::Error) -> HubError {
    let path = path.to_path_buf();
    move |cause| HubError::Unwritable { path, cause }
}

/// A full disk or an exhausted quota is told as such.
fn full_or(path: &Path, needed: u64, cause: io::Error) -> HubError {
    let full =
        matches!(cause.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge);
    if !full {
        return HubError::Unwritable { path: path.into(), cause };
    }
    let folder = path.parent().unwrap_or(path).to_path_buf();
    let free = super::space::free(&folder).unwrap_or(0);
    HubError::DiskFull { folder, needed, free }
}
