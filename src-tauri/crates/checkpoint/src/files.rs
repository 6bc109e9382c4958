//! Where the bytes of a checkpoint come from: a folder on disk, or files embedded in the binary. Called by `outline`
//! and `checkpoint`. The only `unsafe` of the crate, the memory map, is here.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::header::{self, Entry};
use crate::{CheckpointError, Result};

/// A set of files by name.
#[derive(Debug)]
pub(crate) enum Files {
    /// A folder on disk.
    Folder(PathBuf),
    /// Name and content of each file.
    Embedded(&'static [(&'static str, &'static [u8])]),
    /// The small files that a GGUF file stands for, and its path.
    Made(String, Vec<(&'static str, Vec<u8>)>),
}

/// One opened safetensors file: its tensors in file order and, if asked for, its bytes.
pub(crate) struct Shard {
    /// Tensors with their places.
    pub entries: Vec<(String, Entry)>,
    /// The whole file.
    pub bytes: Option<ShardBytes>,
}

/// The bytes of one safetensors file.
///
/// A map shares its pages with the file. The length is checked against the header when the file is opened; should
/// another program shorten the file in place afterwards, the kernel answers a later read with SIGBUS and the process
/// ends. Programs that replace a file by renaming a new one over it, as downloads do, cause no such fault.
#[derive(Debug)]
pub(crate) enum ShardBytes {
    /// A memory map of a file.
    Map(Mmap),
    /// A part of the binary.
    Embedded(&'static [u8]),
}

impl ShardBytes {
    pub fn as_slice(&self) -> &[u8] {
        match self {
            ShardBytes::Map(map) => map,
            ShardBytes::Embedded(bytes) => bytes,
        }
    }
}

impl Files {
    /// A folder, after checking that it is one and that its path can be written down.
    pub fn folder(path: &Path) -> Result<Files> {
        if path.to_str().is_none() {
            return Err(CheckpointError::PathNotUtf8 { file: path.to_string_lossy().into_owned() });
        }
        let label = path.display().to_string();
        let kind = fs::metadata(path)
            .map_err(|source| CheckpointError::Unreadable { file: label.clone(), source })?
            .file_type();
        if kind.is_dir() {
            return Ok(Files::Folder(path.into()));
        }
        let found = if kind.is_file() { "a file" } else { "something that is neither file nor folder" };
        Err(CheckpointError::NotAFolder { file: label, found: found.into() })
    }

    /// The file's path for messages.
    pub fn label(&self, file: &str) -> String {
        match self {
            Files::Folder(folder) => folder.join(file).display().to_string(),
            Files::Embedded(_) => format!("ember/{file}"),
            Files::Made(gguf, _) => format!("{gguf}/{file}"),
        }
    }

    /// The folder for messages.
    pub fn folder_label(&self) -> String {
        match self {
            Files::Folder(folder) => folder.display().to_string(),
            Files::Embedded(_) => "ember".into(),
            Files::Made(gguf, _) => gguf.clone(),
        }
    }

    /// Names of all files that end in `.safetensors` or `.safetensors.index.json`, sorted.
    pub fn weight_files(&self) -> Result<Vec<String>> {
        let is_one = |name: &str| name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
        let mut names = Vec::new();
        match self {
            Files::Embedded(files) => names.extend(files.iter().map(|(name, _)| (*name).to_owned())),
            Files::Made(..) => {}
            Files::Folder(folder) => {
                let unreadable = |source| CheckpointError::Unreadable { file: self.folder_label(), source };
                for item in fs::read_dir(folder).map_err(unreadable)? {
                    match item.map_err(unreadable)?.file_name().into_string() {
                        Ok(name) => names.push(name),
                        Err(name) => {
                            let lossy = name.to_string_lossy();
                            if is_one(&lossy) {
                                return Err(CheckpointError::PathNotUtf8 { file: self.label(&lossy) });
                            }
                        }
                    }
                }
            }
        }
        names.retain(|name| is_one(name));
        names.sort();
        Ok(names)
    }

    /// A whole small file of at most `limit` bytes; `None` if there is none of that name.
    pub fn read(&self, file: &str, limit: u64) -> Result<Option<Cow<'_, [u8]>>> {
        let folder = match self {
            Files::Embedded(files) => {
                return Ok(files
                    .iter()
                    .find(|(name, _)| *name == file)
                    .map(|(_, bytes)| Cow::Borrowed(*bytes)));
            }
            Files::Made(_, files) => {
                let found = files.iter().find(|(name, _)| *name == file);
                return Ok(found.map(|(_, bytes)| Cow::Borrowed(bytes.as_slice())));
            }
            Files::Folder(folder) => folder,
        };
        let Some((opened, length)) = open(&folder.join(file))? else { return Ok(None) };
        let too_large = |bytes| CheckpointError::FileTooLarge { file: self.label(file), limit, bytes };
        if length > limit {
            return Err(too_large(length));
        }
        let mut bytes = Vec::new();
        opened
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| CheckpointError::Unreadable { file: self.label(file), source })?;
        if bytes.len() as u64 > limit {
            return Err(too_large(bytes.len() as u64));
        }
        Ok(Some(Cow::Owned(bytes)))
    }

    /// Reads the header of a safetensors file; maps the file too if `with_bytes`. `None` if there is no such file.
    pub fn shard(&self, file: &str, with_bytes: bool) -> Result<Option<Shard>> {
        let label = self.label(file);
        let folder = match self {
            Files::Embedded(files) => {
                let Some((_, bytes)) = files.iter().find(|(name, _)| *name == file) else { return Ok(None) };
                let entries = header::read(&label, *bytes, bytes.len() as u64)?;
                return Ok(Some(Shard { entries, bytes: with_bytes.then_some(ShardBytes::Embedded(bytes)) }));
            }
            Files::Made(..) => return Ok(None),
            Files::Folder(folder) => folder,
        };
        let Some((opened, length)) = open(&folder.join(file))? else { return Ok(None) };
        let entries = header::read(&label, &opened, length)?;
        let bytes = if with_bytes { Some(mapped(&label, &opened, length)?) } else { None };
        Ok(Some(Shard { entries, bytes }))
    }
}

/// Maps a regular file (following links); `None` if there is none.
pub(crate) fn map(path: &Path) -> Result<Option<ShardBytes>> {
    let Some((opened, length)) = open(path)? else { return Ok(None) };
    if length == 0 {
        // There is no empty map.
        return Ok(Some(ShardBytes::Embedded(&[])));
    }
    mapped(&path.display().to_string(), &opened, length).map(Some)
}

fn mapped(label: &str, opened: &File, length: u64) -> Result<ShardBytes> {
    // SAFETY: the map is read-only and private to this process; entries are checked against its length. What remains is
    // another program shortening the file in place, see `ShardBytes`.
    let map = unsafe { Mmap::map(opened) }
        .map_err(|source| CheckpointError::Unreadable { file: label.into(), source })?;
    if map.len() as u64 != length {
        return Err(CheckpointError::InvalidHeader {
            file: label.into(),
            expected: format!("a file of {length} bytes"),
            found: format!("{} bytes; it changed while it was opened", map.len()),
        });
    }
    Ok(ShardBytes::Map(map))
}

/// Opens a regular file (following links) and tells its length. Pipes and devices are refused, since they block or never end.
fn open(path: &Path) -> Result<Option<(File, u64)>> {
    let unreadable = |source| CheckpointError::Unreadable { file: path.display().to_string(), source };
    let is_regular = match fs::metadata(path) {
        Ok(metadata) => metadata.is_file(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    if !is_regular {
        return Err(unreadable(std::io::Error::other("it is not a regular file")));
    }
    let file = File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    Ok(Some((file, length)))
}
