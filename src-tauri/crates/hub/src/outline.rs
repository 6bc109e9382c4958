//! A model on the hub without its weights: configuration whole, and of each safetensors or GGUF file its header, read by ranges.
//! It is kept as a folder that looks like the model's own, each weight file being its header followed by a hole of the right
//! length. So whoever reads outlines of local folders reads these too, and a budget can be made before a byte is downloaded.

use std::{
    fs::{self, File},
    future::Future,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{task::JoinSet, time::sleep};

use crate::{
    HubError, Listing, Remote, Wish,
    found::{is_first_of_set, is_gguf},
    gguf::header_end,
    listing::RemoteFile,
};

/// What is asked for first of a file of weights: enough for the safetensors header of most.
const FIRST: u64 = 512 << 10;
/// A GGUF file has its tokenizer in its header, which takes megabytes; every further piece is so many times what is there.
const GROWTH: u64 = 8;
/// Longest header, as the reference implementation has it.
const LONGEST: u64 = 100_000_000;
/// Largest configuration or index that is read.
const TEXT_LIMIT: u64 = 64 << 20;
/// Files asked for at once.
const CONNECTIONS: usize = 8;
/// A person waits for this, so it is tried again only so often.
const TRIES: u32 = 3;
/// Outlines kept; the oldest go.
const KEPT: usize = 40;
/// Written last: a folder without it was interrupted.
const MARK: &str = ".hearth-listing.json";

/// A model on the hub.
#[derive(Debug, Clone)]
pub struct RemoteOutline {
    /// What the repository holds.
    pub listing: Listing,
    /// Files a download would bring.
    pub wanted: Vec<RemoteFile>,
    /// The folder that looks like the model's.
    pub folder: PathBuf,
    /// The GGUF file in it, of a set the first, if the wish was for one.
    pub file: Option<String>,
}

impl RemoteOutline {
    /// Reads an outline from the hub, or takes it from `store` if it is there at the same commit.
    ///
    /// # Errors
    /// Those of `Remote::listing` and `Listing::wanted`; `BadAnswer` for what is no file of weights.
    pub async fn read(remote: &Remote, store: &Path, wish: &Wish) -> Result<RemoteOutline, HubError> {
        let listing = again(|| remote.listing(&wish.id, &wish.revision)).await?;
        let wanted = listing.wanted(wish.file.as_deref())?;
        if let Some(known) = RemoteOutline::known(store, &wish.id, wish.file.as_deref())
            && known.listing.commit == listing.commit
        {
            return Ok(known);
        }
        let unwritable = |path: &Path| {
            let path = path.to_path_buf();
            move |cause| HubError::Unwritable { path, cause }
        };
        let folder = place(store, &wish.id, wish.file.as_deref());
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let fresh = store.join(format!(".new-{name}"));
        let _ = fs::remove_dir_all(&fresh);
        fs::create_dir_all(&fresh).map_err(unwritable(&fresh))?;
        let mut files = wanted.iter().filter(|file| is_read(&file.path)).cloned();
        let mut tasks = JoinSet::new();
        loop {
            while tasks.len() < CONNECTIONS
                && let Some(file) = files.next()
            {
                let (remote, id, commit) = (remote.clone(), wish.id.clone(), listing.commit.clone());
                let at = fresh.join(&file.path);
                tasks.spawn(async move { again(|| fetch(&remote, &id, &commit, &file, &at)).await });
            }
            match tasks.join_next().await {
                None => break,
                Some(Ok(done)) => done?,
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        let mark = fresh.join(MARK);
        let text = serde_json::to_vec(&listing).expect("a listing is plain values");
        fs::write(&mark, text).map_err(unwritable(&mark))?;
        let _ = fs::remove_dir_all(&folder);
        fs::rename(&fresh, &folder).map_err(unwritable(&folder))?;
        prune(store);
        Ok(RemoteOutline::of(listing, wanted, folder, wish.file.as_deref()))
    }

    /// The outline that was read last, of the model in safetensors or of one GGUF; the network is not asked.
    pub fn known(store: &Path, id: &str, file: Option<&str>) -> Option<RemoteOutline> {
        let folder = place(store, id, file);
        let listing: Listing = serde_json::from_slice(&fs::read(folder.join(MARK)).ok()?).ok()?;
        let wanted = listing.wanted(file).ok().filter(|_| listing.id == id)?;
        Some(RemoteOutline::of(listing, wanted, folder, file))
    }

    fn of(listing: Listing, wanted: Vec<RemoteFile>, folder: PathBuf, file: Option<&str>) -> RemoteOutline {
        let first = wanted.iter().map(|file| &file.path).find(|path| is_first_of_set(Path::new(path)));
        let file = file.map(|name| first.cloned().unwrap_or_else(|| name.to_owned()));
        RemoteOutline { listing, wanted, folder, file }
    }

    /// What looks like the model: the folder, or the GGUF file in it.
    pub fn path(&self) -> PathBuf {
        self.file.as_ref().map_or_else(|| self.folder.clone(), |file| self.folder.join(file))
    }

    /// Bytes of a whole download.
    pub fn bytes(&self) -> u64 {
        self.wanted.iter().map(|file| file.size).sum()
    }
}

fn place(store: &Path, id: &str, file: Option<&str>) -> PathBuf {
    let file = file.map(|file| format!("--{}", file.replace('/', "--"))).unwrap_or_default();
    store.join(format!("{}{file}", id.replace('/', "--")))
}

/// Configuration and weights; tokenizers are large and tell nothing about size.
fn is_read(path: &str) -> bool {
    is_gguf(Path::new(path))
        || path.ends_with(".safetensors")
        || path.ends_with(".safetensors.index.json")
        || matches!(path, "config.json" | "generation_config.json" | "hf_quant_config.json")
}

async fn again<T, F: Future<Output = Result<T, HubError>>>(ask: impl Fn() -> F) -> Result<T, HubError> {
    for attempt in 1..TRIES {
        match ask().await {
            Err(error) if error.passes() => sleep(attempt * Duration::from_millis(400)).await,
            other => return other,
        }
    }
    ask().await
}

async fn fetch(
    remote: &Remote,
    id: &str,
    commit: &str,
    file: &RemoteFile,
    at: &Path,
) -> Result<(), HubError> {
    let bad =
        |what: String| HubError::BadAnswer { host: remote.host(), what: format!("{}: {what}", file.path) };
    let (is_safetensors, is_gguf) = (file.path.ends_with(".safetensors"), is_gguf(Path::new(&file.path)));
    let first = if is_safetensors || is_gguf { FIRST.min(file.size) } else { file.size };
    if first > TEXT_LIMIT {
        return Err(bad(format!("{first} bytes of configuration")));
    }
    let mut bytes = remote.bytes(id, commit, file, 0, first).await?;
    if is_gguf {
        let end = loop {
            if let Some(end) = header_end(&bytes).map_err(bad)? {
                break end;
            }
            let (length, most) = (bytes.len() as u64, file.size.min(LONGEST));
            if length >= most {
                return Err(bad("its GGUF header has no end".into()));
            }
            let next = length.saturating_mul(GROWTH).min(most);
            bytes.extend(remote.bytes(id, commit, file, length, next).await?);
        };
        bytes.truncate(usize::try_from(end).unwrap_or(usize::MAX));
    }
    if is_safetensors {
        let length = bytes.first_chunk::<8>().map(|length| u64::from_le_bytes(*length));
        let length = length.filter(|length| *length <= LONGEST && length + 8 <= file.size);
        let end = length.ok_or_else(|| bad("it has no safetensors header".into()))? + 8;
        bytes.truncate(usize::try_from(end).unwrap_or(usize::MAX));
        bytes.extend(remote.bytes(id, commit, file, bytes.len() as u64, end).await?);
    }
    let write = || -> std::io::Result<()> {
        let mut out = File::create(at)?;
        out.write_all(&bytes)?;
        // The weights are a hole: they take no room.
        out.set_len(file.size)
    };
    write().map_err(|cause| HubError::Unwritable { path: at.into(), cause })
}

fn prune(store: &Path) {
    let age = |path: &PathBuf| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let mut folders: Vec<PathBuf> = fs::read_dir(store)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|p| p.is_dir())
        .collect();
    folders.sort_by_key(age);
    let surplus = folders.len().saturating_sub(KEPT);
    for folder in &folders[..surplus] {
        let _ = fs::remove_dir_all(folder);
    }
}
