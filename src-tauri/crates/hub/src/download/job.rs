//! One model from the hub into the cache: check, fetch, verify, publish. It can be dropped at any moment and begun again; what was
//! fetched stays. Called by the queue and, where no appliance runs, by `hearth pull`.

use std::{collections::BTreeSet, future::Future, os::unix::fs::MetadataExt, path::PathBuf, sync::Arc};

use tokio::time::sleep;

use super::{
    Meter, Phase, Tactics,
    fetch::{Origin, blocking, fetch},
    part::{self, Part},
    space,
    verify::verify,
};
use crate::{HubCache, HubError, Listing, Remote, RepoFolder, listing::RemoteFile, locate::check_id};

/// A commit that was squashed away or force-pushed over is looked up again so often.
const CHANGES: u32 = 3;

/// What is to be downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Hugging Face id.
    pub id: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// The GGUF file to fetch of it; null: the model in safetensors.
    pub file: Option<String>,
    /// The commit an earlier run was pinned to.
    pub commit: Option<String>,
}

impl Wish {
    /// A model at a revision; null: `main`.
    ///
    /// # Errors
    /// `BadName` and `NoRevision` for what cannot be one.
    pub fn new(id: &str, revision: Option<&str>) -> Result<Wish, HubError> {
        check_id(id)?;
        let revision = revision.unwrap_or("main");
        let sound = (1..=200).contains(&revision.len())
            && revision.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/'))
            && !revision
                .split('/')
                .any(|part| part.is_empty() || part.starts_with(['.', '-']) || part.ends_with(".new"));
        if !sound {
            let revision = revision.chars().take(200).collect();
            return Err(HubError::NoRevision { id: id.into(), revision });
        }
        Ok(Wish { id: id.into(), revision: revision.into(), file: None, commit: None })
    }

    /// The same of one GGUF file. Whether there is one of this name, the hub will say.
    pub fn of_file(self, file: Option<String>) -> Wish {
        Wish { file, ..self }
    }
}

/// Downloads a model; returns its folder. Keeps trying as long as waiting can help.
///
/// # Errors
/// Everything that needs a person: `DiskFull`, `Gated`, `NotOnHub`, `Damaged`, `Busy` ...
pub async fn download(
    remote: &Remote,
    cache: &HubCache,
    wish: &Wish,
    tactics: Tactics,
    meter: &Arc<Meter>,
) -> Result<PathBuf, HubError> {
    let folder = RepoFolder::new(cache, &wish.id);
    let mut revision = wish.commit.as_ref().unwrap_or(&wish.revision).clone();
    let mut before: Vec<RemoteFile> = Vec::new();
    let mut changes = 0;
    loop {
        meter.phase(Phase::Checking);
        let listing = patiently(tactics, meter, || remote.listing(&wish.id, &revision)).await;
        let got = match listing {
            Ok(listing) => {
                forget(&folder, std::mem::replace(&mut before, listing.files.clone()), &listing.files);
                revision.clone_from(&listing.commit);
                bring(remote, &folder, wish, &listing, tactics, meter).await
            }
            Err(error) => Err(error),
        };
        // The commit is gone, or is not what it was: what the revision holds now is fetched, as far as it is not there.
        let look_again = match &got {
            Err(HubError::NoRevision { .. }) => revision != wish.revision,
            Err(HubError::Changed { .. }) => true,
            _ => false,
        };
        if !look_again || changes == CHANGES {
            return got;
        }
        changes += 1;
        revision.clone_from(&wish.revision);
    }
}

/// Removes the parts of files that the new listing no longer has.
fn forget(folder: &RepoFolder, before: Vec<RemoteFile>, now: &[RemoteFile]) {
    let kept: BTreeSet<&str> = now.iter().map(|file| file.blob.as_str()).collect();
    for file in before.iter().filter(|file| !kept.contains(file.blob.as_str())) {
        part::discard(folder, &file.blob);
    }
}

/// Tries again for as long as waiting can help.
async fn patiently<T, F: Future<Output = Result<T, HubError>>>(
    tactics: Tactics,
    meter: &Meter,
    ask: impl Fn() -> F,
) -> Result<T, HubError> {
    let mut failures = 0;
    loop {
        match ask().await {
            Err(error) if error.passes() => {
                failures += 1;
                let pause = tactics.pause(failures, &error);
                meter.trouble(&error, pause);
                sleep(pause).await;
            }
            other => return other,
        }
    }
}

async fn bring(
    remote: &Remote,
    folder: &RepoFolder,
    wish: &Wish,
    listing: &Listing,
    tactics: Tactics,
    meter: &Arc<Meter>,
) -> Result<PathBuf, HubError> {
    let files = listing.wanted(wish.file.as_deref())?;
    // Two files of the same content are one blob.
    let mut seen = BTreeSet::new();
    let blobs: Vec<RemoteFile> =
        files.iter().filter(|file| seen.insert(file.blob.clone())).cloned().collect();
    let bytes: u64 = blobs.iter().map(|file| file.size).sum();
    let missing: Vec<RemoteFile> = blobs.into_iter().filter(|file| !folder.has(file)).collect();

    let place = folder.clone();
    let parts =
        blocking(move || missing.iter().map(|file| Part::open(&place, file)).collect::<Result<Vec<_>, _>>());
    let guard = Kept(Arc::new(parts.await?));
    let parts = &guard.0;
    let left: u64 = parts.iter().map(|part| part.remote.size - part.done()).sum();
    meter.plan(&listing.commit, files.len(), bytes, bytes - left);
    let reserved = parts.clone();
    let place = folder.clone();
    blocking(move || make_room(&place, &reserved)).await?;

    let origin = Origin { remote: remote.clone(), id: wish.id.clone(), commit: listing.commit.clone() };
    let mut damaged = BTreeSet::new();
    loop {
        meter.phase(Phase::Fetching);
        fetch(&origin, parts, tactics, meter).await?;
        meter.phase(Phase::Verifying);
        meter.verifying(parts.iter().map(|part| part.remote.size).sum());
        let mut again = false;
        for (index, part) in parts.iter().enumerate() {
            let Some(what) = verify(parts, index, meter).await? else { continue };
            tracing::warn!(file = part.remote.path, what, "a downloaded file is damaged");
            if !damaged.insert(index) {
                part.begin_anew()?;
                return Err(HubError::Damaged { file: part.remote.path.clone(), what });
            }
            meter.lost(part.done());
            part.begin_anew()?;
            again = true;
        }
        if !again {
            break;
        }
    }
    let (place, revision, commit) = (folder.clone(), wish.revision.clone(), listing.commit.clone());
    let parts = parts.clone();
    let moved = wish.commit.as_ref().is_some_and(|pinned| *pinned != commit);
    blocking(move || {
        parts.iter().try_for_each(Part::finish)?;
        place.publish(&revision, &commit, &files)?;
        if moved {
            // What an earlier run fetched of a commit that is gone.
            place.sweep();
        }
        Ok(place.snapshot(&commit))
    })
    .await
}

/// Checks the room for all that is missing before the first byte, and reserves it where that can be done.
fn make_room(folder: &RepoFolder, parts: &[Part]) -> Result<(), HubError> {
    let needed: u64 = parts.iter().map(|part| part.remote.size.saturating_sub(part.on_disk())).sum();
    if needed == 0 {
        return Ok(());
    }
    let path = folder.path();
    if let Ok(free) = space::free(&path)
        && free < needed + space::MARGIN
    {
        return Err(HubError::DiskFull { folder: path, needed: needed + space::MARGIN, free });
    }
    parts.iter().try_for_each(Part::reserve)
}

impl Part {
    /// Bytes the file takes on the disk now, reserved ones included.
    fn on_disk(&self) -> u64 {
        // 512 bytes each, stat(2).
        self.metadata().map_or(0, |meta| meta.blocks() * 512)
    }
}

/// Parts whose journals are written when the download ends, in whatever way.
struct Kept(Arc<Vec<Part>>);

impl Drop for Kept {
    fn drop(&mut self) {
        for part in self.0.iter() {
            if let Err(error) = part.keep() {
                tracing::warn!(%error, "some of what was fetched will be fetched again");
            }
        }
    }
}
