//! GGUF files, the format of llama.cpp: one file, or a numbered set, with configuration, tokenizer and tensors. [`Gguf`] is what
//! the files say; a family of `hearth-model` tells what of it is which part of a checkpoint ([`Import`]), and from then on it is
//! an [`Outline`](crate::Outline) or a [`Checkpoint`](crate::Checkpoint) like any other.

mod blocks;
mod change;
mod cursor;
pub mod header;
mod import;
mod rows;
mod tokenizer;
mod types;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

pub use change::{Change, Numbers, Tiling};
pub use header::{GgufEntry, Header};
pub(crate) use import::Opened;
pub use import::{Import, Imported};
pub use rows::StoredRows;
pub use types::GgufType;

use crate::files::{self, ShardBytes};
use crate::{CheckpointError, Result};

/// Most files of a set.
const MOST_FILES: u64 = 1000;

/// What GGUF files say.
#[derive(Debug)]
pub struct Gguf {
    /// The files, in the order of the set.
    files: Vec<PathBuf>,
    /// Their bytes.
    maps: Vec<ShardBytes>,
    metadata: Map<String, Value>,
    tensors: BTreeMap<String, (usize, GgufEntry)>,
}

/// Whether a path looks like a GGUF file. Only its name is looked at.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|kind| kind.eq_ignore_ascii_case("gguf"))
}

/// The name of a GGUF file as a model's: without its ending, and without its number in a set.
pub fn model_name(path: &Path) -> String {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    match numbered(&stem) {
        Some((name, ..)) => name.to_owned(),
        None => stem,
    }
}

/// `(NAME, i, n)` of `NAME-0000i-of-0000n`.
fn numbered(stem: &str) -> Option<(&str, u64, u64)> {
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (name, number) = rest.rsplit_once('-')?;
    let number_of = |text: &str| (text.len() == 5).then(|| text.parse::<u64>().ok())?;
    let (number, count) = (number_of(number)?, number_of(count)?);
    (1..=count).contains(&number).then_some((name, number, count))
}

/// The files of the set that a path belongs to, first to last; the path itself if it has no number.
pub fn set(path: &Path) -> Vec<PathBuf> {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or("gguf");
    match stem.and_then(numbered) {
        Some((name, _, count)) if count <= MOST_FILES => (1..=count)
            .map(|number| path.with_file_name(format!("{name}-{number:05}-of-{count:05}.{ending}")))
            .collect(),
        _ => vec![path.to_owned()],
    }
}

impl Gguf {
    /// Opens a file, and the others of its set. Reads headers only.
    pub fn open(path: &Path) -> Result<Gguf> {
        let paths = set(path);
        let mut gguf =
            Gguf { files: Vec::new(), maps: Vec::new(), metadata: Map::new(), tensors: BTreeMap::new() };
        let mut promised = None;
        for (number, path) in paths.iter().enumerate() {
            if path.to_str().is_none() {
                return Err(CheckpointError::PathNotUtf8 { file: path.to_string_lossy().into_owned() });
            }
            let file = path.display().to_string();
            let map = files::map(path)?.ok_or_else(|| CheckpointError::MissingFile {
                file: file.clone(),
                expected: match paths.len() {
                    1 => "a GGUF file".into(),
                    count => format!("it, since it is one of a set of {count}"),
                },
            })?;
            let bytes = map.as_slice();
            let Header { metadata, tensors } = header::read(&file, bytes, bytes.len() as u64)?;
            let count_in = |key: &str| metadata.get(key).and_then(Value::as_u64);
            let (at, count) =
                (count_in("split.no").unwrap_or(0), count_in("split.count").unwrap_or(1).max(1));
            if (at, count) != (number as u64, paths.len() as u64) {
                return Err(CheckpointError::InvalidGguf {
                    file,
                    expected: format!("file {} of a set of {}, as its name says", number + 1, paths.len()),
                    found: format!("file {} of {count}", at.saturating_add(1)),
                });
            }
            promised = promised.or(count_in("split.tensors.count"));
            for (tensor, entry) in tensors {
                if let Some((before, _)) = gguf.tensors.get(&tensor) {
                    let found = format!("in {}", gguf.files[*before].display());
                    return Err(CheckpointError::DoubledTensor { file, tensor, found });
                }
                gguf.tensors.insert(tensor, (number, entry));
            }
            if number == 0 {
                gguf.metadata = metadata;
            }
            gguf.files.push(path.clone());
            gguf.maps.push(map);
        }
        let found = gguf.tensors.len() as u64;
        match promised.filter(|promised| paths.len() > 1 && *promised != found) {
            Some(promised) => Err(CheckpointError::InvalidGguf {
                file: gguf.label(),
                expected: format!("{promised} tensors in the set"),
                found: found.to_string(),
            }),
            None => Ok(gguf),
        }
    }

    /// The first file's path, for messages.
    pub fn label(&self) -> String {
        self.files.first().map(|file| file.display().to_string()).unwrap_or_default()
    }

    /// Keys and values; of a set, the first file's.
    pub fn metadata(&self) -> &Map<String, Value> {
        &self.metadata
    }

    /// What kind of model it is, by llama.cpp's name; empty if the file does not say.
    pub fn architecture(&self) -> &str {
        self.metadata.get("general.architecture").and_then(Value::as_str).unwrap_or_default()
    }

    /// A tensor's type and shape.
    pub fn tensor(&self, name: &str) -> Option<&GgufEntry> {
        self.tensors.get(name).map(|(_, entry)| entry)
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }
}
