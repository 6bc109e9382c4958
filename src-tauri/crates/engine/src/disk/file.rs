//! The files of the disk tier. Each holds a stretch of a text: the keys and values of its pages and the recurrent state
//! at its end; its parent is the file that the text before it ends with.
//!
//! ```text
//! magic "HEARTHPX" · version u32 · length of the header u32 · header, JSON · tokens u32 each · seal
//! pages, then the parts of the state, each followed by its seal
//! ```
//!
//! Numbers are little-endian. A seal is the first half of the SHA-256 of what it stands behind; that of a page or part
//! covers the text and the place, too, so that no block passes for another. Nothing is used before its seal was checked.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use hearth_model::KeptSizes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Version of the format; a file of another one is not read.
pub const VERSION: u32 = 1;
/// How the names of the files end. Nothing else in the folder is touched.
pub const ENDING: &str = "hearthkv";
/// Of a file that is being written.
pub const UNFINISHED: &str = "hearthkv-unfinished";
const MAGIC: &[u8; 8] = b"HEARTHPX";
/// Bytes of a seal.
pub const SEAL: usize = 16;
/// Files of so many bytes are kept out of the page cache.
const LARGE: u64 = 4 << 20;
/// No header is longer.
const LONGEST_HEADER: usize = 1 << 20;

/// What must agree for a file to mean anything to an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Digest of the model, its weights, the options that change what is computed, device and version; see `identity`.
    pub model: String,
    /// Positions of a page.
    pub page_len: usize,
    /// Bytes of a page.
    pub page: usize,
    /// Bytes of the parts of a state.
    pub state: Vec<usize>,
}

impl Identity {
    /// Of a model whose pages and states have these sizes.
    pub fn new(model: String, page_len: usize, sizes: KeptSizes) -> Identity {
        Identity { model, page_len, page: sizes.page, state: sizes.state }
    }
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Whose it is.
    pub identity: Identity,
    /// Name of the file that the text before it ends with; none at the beginning of a text.
    pub parent: Option<String>,
    /// Position of its first token.
    pub first: usize,
    /// How many it holds: whole pages.
    pub tokens: usize,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It cannot be read.
    #[error("it cannot be read ({0})")]
    Io(#[from] io::Error),
    /// It is none of these files, or was changed.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// It was written in another version of the format.
    #[error("its format has version {0}, not {VERSION}")]
    Version(u32),
    /// It was written for another model, device, option or version of Hearth.
    #[error("it belongs to another model or to other options")]
    Foreign,
    /// The text that it continues is not there.
    #[error("the text before it is not there")]
    Orphan,
}

impl Header {
    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        self.begin_bytes() + self.blocks().map(|block| (block + SEAL) as u64).sum::<u64>()
    }

    /// Sizes of its pages and of the parts of its state, in order.
    pub fn blocks(&self) -> impl Iterator<Item = usize> + '_ {
        std::iter::repeat_n(self.identity.page, self.pages()).chain(self.identity.state.iter().copied())
    }

    /// Its pages.
    pub fn pages(&self) -> usize {
        self.tokens / self.identity.page_len.max(1)
    }

    fn begin_bytes(&self) -> u64 {
        (16 + self.json().len() + 4 * self.tokens + SEAL) as u64
    }

    fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and strings can be written")
    }

    fn begin(&self, tokens: &[u32]) -> Vec<u8> {
        let json = self.json();
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((json.len() as u32).to_le_bytes());
        bytes.extend(json);
        bytes.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
        let seal = seal(&[&bytes]);
        bytes.extend(seal);
        bytes
    }
}

/// The first half of the SHA-256 of all `parts`.
pub fn seal(parts: &[&[u8]]) -> [u8; SEAL] {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    let mut seal = [0; SEAL];
    seal.copy_from_slice(&hash.finalize()[..SEAL]);
    seal
}

/// The seal of block `index` of the file `name`.
fn block_seal(name: &str, index: usize, bytes: &[u8]) -> [u8; SEAL] {
    seal(&[name.as_bytes(), &(index as u64).to_le_bytes(), bytes])
}

/// The name of the file that holds `tokens` behind the text of `parent`.
pub fn name_of(parent: Option<&str>, tokens: &[u32]) -> String {
    let tokens: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    let digest = seal(&[parent.unwrap_or_default().as_bytes(), &tokens]);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where the file `name` lies.
pub fn path_of(folder: &Path, name: &str) -> PathBuf {
    folder.join(name).with_extension(ENDING)
}

/// A file that is being written: under another name until it is complete, and gone if it never is.
#[derive(Debug)]
pub struct Writing {
    out: Option<BufWriter<File>>,
    unfinished: PathBuf,
    finished: PathBuf,
    name: String,
    index: usize,
}

impl Writing {
    /// Begins a file that only its owner may read.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn begin(folder: &Path, name: &str, header: &Header, tokens: &[u32]) -> io::Result<Writing> {
        let finished = path_of(folder, name);
        let unfinished = finished.with_extension(UNFINISHED);
        // Left behind by an engine that ended at once; this one alone writes here.
        let _ = std::fs::remove_file(&unfinished);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        let out = Some(BufWriter::with_capacity(1 << 20, file));
        let mut writing = Writing { out, unfinished, finished, name: name.to_owned(), index: 0 };
        writing.put(&header.begin(tokens))?;
        Ok(writing)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.as_mut().map_or(Ok(()), |out| out.write_all(bytes))
    }

    /// Adds the next page, or the next part of the state.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn block(&mut self, bytes: &[u8]) -> io::Result<()> {
        let seal = block_seal(&self.name, self.index, bytes);
        self.index += 1;
        self.put(bytes)?;
        self.put(&seal)
    }

    /// The file is complete: from now on it has its name.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn finish(mut self) -> io::Result<()> {
        let Some(out) = self.out.take() else { return Ok(()) };
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        if file.metadata()?.len() >= LARGE {
            // Not for safety, which the seals give: only what is on disk leaves memory.
            file.sync_data()?;
            forget(&file);
        }
        std::fs::rename(&self.unfinished, &self.finished)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        // After `finish` it has another name.
        let _ = std::fs::remove_file(&self.unfinished);
    }
}

/// Takes a file out of the page cache, which on a machine with one memory for CPU and GPU is in the way of other things.
fn forget(file: &File) {
    // Advice; a refusal costs memory that the kernel takes back anyway.
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
}

/// A file whose beginning has been checked.
#[derive(Debug)]
pub struct Reading {
    from: BufReader<File>,
    /// What it holds.
    pub header: Header,
    /// Its tokens.
    pub tokens: Vec<u32>,
    name: String,
}

impl Reading {
    /// Opens the file `name` for an engine of this identity.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn open(folder: &Path, name: &str, identity: &Identity) -> Result<Reading, Unusable> {
        let file = File::open(path_of(folder, name))?;
        let length = file.metadata()?.len();
        let mut from = BufReader::with_capacity(1 << 16, file);
        let mut start = [0; 16];
        from.read_exact(&mut start).map_err(|_| Unusable::Damaged("it ends too early"))?;
        if &start[..8] != MAGIC {
            return Err(Unusable::Damaged("it does not begin as it should"));
        }
        let number = |at: usize| u32::from_le_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]);
        if number(8) != VERSION {
            return Err(Unusable::Version(number(8)));
        }
        let len = number(12) as usize;
        if len > LONGEST_HEADER {
            return Err(Unusable::Damaged("its header is too long"));
        }
        let mut json = vec![0; len];
        from.read_exact(&mut json).map_err(|_| Unusable::Damaged("it ends too early"))?;
        let header: Header =
            serde_json::from_slice(&json).map_err(|_| Unusable::Damaged("its header is none"))?;
        if header.identity != *identity {
            return Err(Unusable::Foreign);
        }
        let whole = header.tokens > 0 && header.tokens.is_multiple_of(identity.page_len.max(1));
        // Before anything of that size is asked for.
        if !whole || header.tokens as u64 > length / 4 || header.file_bytes() != length {
            return Err(Unusable::Damaged("it has not the length that it should have"));
        }
        let mut rest = vec![0; 4 * header.tokens + SEAL];
        from.read_exact(&mut rest).map_err(|_| Unusable::Damaged("it ends too early"))?;
        let (tokens, sealed) = rest.split_at(4 * header.tokens);
        if seal(&[&start, &json, tokens]) != sealed {
            return Err(Unusable::Damaged("the checksum of its beginning is wrong"));
        }
        let tokens: Vec<u32> =
            tokens.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        if name_of(header.parent.as_deref(), &tokens) != name {
            return Err(Unusable::Damaged("it has the name of another"));
        }
        Ok(Reading { from, header, tokens, name: name.to_owned() })
    }

    /// Reads block `index`: a page, or behind the pages a part of the state.
    ///
    /// # Errors
    /// It cannot be read, or is not what was written.
    pub fn block(&mut self, index: usize) -> Result<Vec<u8>, Unusable> {
        let before: usize = self.header.blocks().take(index).map(|block| block + SEAL).sum();
        let len = self.header.blocks().nth(index).ok_or(Unusable::Damaged("it ends too early"))?;
        let at = self.header.begin_bytes() + before as u64;
        // Blocks are mostly read one after the other, from what is buffered.
        let ahead = at as i64 - self.from.stream_position()? as i64;
        if ahead != 0 {
            self.from.seek_relative(ahead)?;
        }
        let mut bytes = vec![0; len];
        self.from.read_exact(&mut bytes)?;
        let mut sealed = [0; SEAL];
        self.from.read_exact(&mut sealed)?;
        if block_seal(&self.name, index, &bytes) != sealed {
            return Err(Unusable::Damaged("a checksum is wrong"));
        }
        Ok(bytes)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        forget(self.from.get_ref());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn identity() -> Identity {
        Identity::new("m".into(), 4, KeptSizes { page: 10, state: vec![3, 5] })
    }

    fn header(parent: Option<&str>) -> Header {
        Header { identity: identity(), parent: parent.map(str::to_owned), first: 0, tokens: 8 }
    }

    const TOKENS: [u32; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

    fn written(folder: &Path) -> String {
        let name = name_of(None, &TOKENS);
        let mut writing = Writing::begin(folder, &name, &header(None), &TOKENS).expect("a file");
        for (fill, len) in [(1, 10), (2, 10), (3, 3), (4, 5)] {
            writing.block(&vec![fill; len]).expect("room");
        }
        writing.finish().expect("renamed");
        name
    }

    #[test]
    fn what_was_written_is_read_in_any_order_and_only_by_its_owner() {
        let home = tempfile::tempdir().expect("a folder");
        let name = written(home.path());
        let path = path_of(home.path(), &name);
        let metadata = std::fs::metadata(&path).expect("it is there");
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        let mut reading = Reading::open(home.path(), &name, &identity()).expect("whole");
        assert_eq!((reading.header.file_bytes(), &reading.tokens[..]), (metadata.len(), &TOKENS[..]));
        for index in [3, 0, 1, 2, 0] {
            let expected = [vec![1; 10], vec![2; 10], vec![3; 3], vec![4; 5]][index].clone();
            assert_eq!(reading.block(index).expect("sealed"), expected);
        }
        assert!(reading.block(4).is_err());
        assert_eq!(std::fs::read_dir(home.path()).expect("a folder").count(), 1, "nothing is left over");
    }

    #[test]
    fn every_changed_byte_is_noticed_and_so_is_a_file_that_was_cut() {
        let home = tempfile::tempdir().expect("a folder");
        let name = written(home.path());
        let path = path_of(home.path(), &name);
        let whole = std::fs::read(&path).expect("it is there");
        let readable = || {
            let mut reading = Reading::open(home.path(), &name, &identity())?;
            (0..4).try_for_each(|index| reading.block(index).map(drop))
        };
        readable().expect("whole");
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 4;
            std::fs::write(&path, changed).expect("writable");
            assert!(readable().is_err(), "byte {at}");
        }
        for len in [0, 7, 15, 40, whole.len() - 1] {
            std::fs::write(&path, &whole[..len]).expect("writable");
            assert!(readable().is_err(), "{len} bytes");
        }
        std::fs::write(&path, [&whole[..], &[0]].concat()).expect("writable");
        assert!(readable().is_err(), "a byte too many");
        std::fs::write(&path, &whole).expect("writable");
        readable().expect("whole again");
    }

    #[test]
    fn a_file_of_another_model_another_version_or_under_another_name_is_not_used() {
        let home = tempfile::tempdir().expect("a folder");
        let name = written(home.path());
        for other in [
            Identity { model: "n".into(), ..identity() },
            Identity { page_len: 2, ..identity() },
            Identity { page: 20, ..identity() },
            Identity { state: vec![3], ..identity() },
        ] {
            let refused = Reading::open(home.path(), &name, &other).map(drop);
            assert!(matches!(refused, Err(Unusable::Foreign)), "{refused:?}");
        }
        let path = path_of(home.path(), &name);
        let renamed = name_of(None, &TOKENS[..4]);
        std::fs::copy(&path, path_of(home.path(), &renamed)).expect("copied");
        assert!(matches!(
            Reading::open(home.path(), &renamed, &identity()).map(drop),
            Err(Unusable::Damaged(_))
        ));
        let mut bytes = std::fs::read(&path).expect("it is there");
        bytes[8] = 9;
        std::fs::write(&path, bytes).expect("writable");
        assert!(matches!(
            Reading::open(home.path(), &name, &identity()).map(drop),
            Err(Unusable::Version(9))
        ));
    }

    #[test]
    fn a_file_that_is_never_finished_leaves_nothing() {
        let home = tempfile::tempdir().expect("a folder");
        let name = name_of(None, &TOKENS);
        let mut writing = Writing::begin(home.path(), &name, &header(None), &TOKENS).expect("a file");
        writing.block(&[0; 10]).expect("room");
        drop(writing);
        assert_eq!(std::fs::read_dir(home.path()).expect("a folder").count(), 0);
    }

    #[test]
    fn names_differ_by_what_stands_before() {
        let names = [None, Some("a"), Some("b")].map(|parent| name_of(parent, &TOKENS));
        assert!(names[0] != names[1] && names[1] != names[2]);
    }
}
