//! The folder of one repository in the cache, as Hugging Face's own tools lay it out: `blobs/HASH` holds the bytes,
//! `snapshots/COMMIT/NAME` links to them, `refs/BRANCH` names a commit, and `.locks/` lies beside all repositories.
//! Layout: https://huggingface.co/docs/huggingface_hub/guides/manage-cache

use std::{
    collections::BTreeSet,
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
};

use hf_hub::{Cache, Repo};

use crate::{HubCache, HubError, download::part, listing::RemoteFile};

/// The folder of one repository.
#[derive(Debug, Clone)]
pub struct RepoFolder {
    cache: PathBuf,
    repo: Repo,
}

/// What deleting a model would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// The folder that goes.
    pub folder: PathBuf,
    /// Bytes that are free afterwards, unfinished parts included.
    pub frees: u64,
}

impl RepoFolder {
    /// The folder of `id`, which need not exist. The id must have been checked.
    pub(crate) fn new(cache: &HubCache, id: &str) -> RepoFolder {
        RepoFolder { cache: cache.root().into(), repo: Repo::model(id.into()) }
    }

    /// The folder itself.
    pub fn path(&self) -> PathBuf {
        self.cache.join(self.repo.folder_name())
    }

    pub(crate) fn blob(&self, blob: &str) -> PathBuf {
        self.path().join("blobs").join(blob)
    }

    pub(crate) fn lock(&self, blob: &str) -> PathBuf {
        self.locks().join(format!("{blob}.lock"))
    }

    fn locks(&self) -> PathBuf {
        self.cache.join(".locks").join(self.repo.folder_name())
    }

    /// The folder of a commit.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        Cache::new(self.cache.clone()).repo(self.repo.clone()).pointer_path(commit)
    }

    /// Whether the cache has this file whole: as a blob, which every tool that writes this cache renames into place when it is
    /// complete.
    pub(crate) fn has(&self, file: &RemoteFile) -> bool {
        fs::metadata(self.blob(&file.blob)).is_ok_and(|meta| meta.is_file() && meta.len() == file.size)
    }

    /// Bytes of a file that are here, whole or in part.
    pub fn fetched(&self, file: &RemoteFile) -> u64 {
        if self.has(file) { file.size } else { part::left_over(self, file) }
    }

    /// Shows fetched files as a snapshot and as what the revision is now. config.json, by which a model is found, comes last.
    pub(crate) fn publish(&self, revision: &str, commit: &str, files: &[RemoteFile]) -> Result<(), HubError> {
        let snapshot = self.snapshot(commit);
        let unwritable = |path: &Path| {
            let path = path.to_path_buf();
            move |cause| HubError::Unwritable { path, cause }
        };
        fs::create_dir_all(&snapshot).map_err(unwritable(&snapshot))?;
        let (last, first): (Vec<_>, Vec<_>) = files.iter().partition(|file| file.path == "config.json");
        for file in first.into_iter().chain(last) {
            let at = snapshot.join(&file.path);
            let target = Path::new("../../blobs").join(&file.blob);
            link(&target, &at).map_err(unwritable(&at))?;
        }
        // A commit names itself.
        if revision != commit {
            let at = self.path().join("refs").join(revision);
            let parent = at.parent().unwrap_or(&at);
            fs::create_dir_all(parent).map_err(unwritable(parent))?;
            let fresh = at.with_extension("new");
            fs::write(&fresh, commit).and_then(|()| fs::rename(&fresh, &at)).map_err(unwritable(&at))?;
        }
        Ok(())
    }

    /// Deletes what unfinished downloads left, except what another program is fetching now.
    pub fn sweep(&self) {
        let entries = fs::read_dir(self.path().join("blobs")).into_iter().flatten().flatten();
        for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
            if let Some(blob) = name.strip_suffix(".hearth-part") {
                part::discard(self, blob);
            }
        }
        // Only what is empty goes: a repository with snapshots stays as it is.
        for folder in [self.path().join("blobs"), self.path()] {
            let _ = fs::remove_dir(folder);
        }
    }

    /// What deleting would free. Bytes are those on the disk: links and files with several names count once.
    pub fn removal(&self) -> Result<Removal, HubError> {
        let folder = self.path();
        let mut seen = BTreeSet::new();
        let frees = on_disk(&folder, &mut seen)
            .map_err(|cause| HubError::Unreadable { path: folder.clone(), cause })?;
        Ok(Removal { folder, frees })
    }

    /// Deletes the repository from the cache. It disappears at once; its bytes go after that.
    pub fn remove(&self) -> Result<Removal, HubError> {
        let removal = self.removal()?;
        let unwritable = |cause| HubError::Unwritable { path: removal.folder.clone(), cause };
        let doomed =
            self.cache.join(format!(".hearth-removed-{}-{}", std::process::id(), self.repo.folder_name()));
        fs::rename(&removal.folder, &doomed).map_err(unwritable)?;
        fs::remove_dir_all(&doomed).map_err(unwritable)?;
        let _ = fs::remove_dir_all(self.locks());
        Ok(removal)
    }
}

/// A symbolic link, replacing what is there.
fn link(target: &Path, at: &Path) -> io::Result<()> {
    let fresh = at.with_extension("hearth-link");
    let _ = fs::remove_file(&fresh);
    symlink(target, &fresh)?;
    fs::rename(&fresh, at)
}

fn on_disk(path: &Path, seen: &mut BTreeSet<(u64, u64)>) -> io::Result<u64> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    if !meta.is_dir() {
        // 512 bytes each, stat(2). A part that is not filled yet has fewer than its length.
        return Ok(if seen.insert((meta.dev(), meta.ino())) { meta.blocks() * 512 } else { 0 });
    }
    fs::read_dir(path)?.try_fold(0, |sum, entry| Ok(sum + on_disk(&entry?.path(), seen)?))
}
