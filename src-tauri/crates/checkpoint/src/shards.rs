//! Decides which safetensors files of a folder belong to the checkpoint: those an index names, or one file, or a
//! numbered set, and beside them the extra files some writers put the MTP head in. Called by `outline`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use crate::files::Files;
use crate::{CheckpointError, Result, json};

/// Largest index that is read, bytes.
const MAX_INDEX: u64 = 100 << 20;

/// The weight files of a checkpoint.
#[derive(Debug)]
pub(crate) struct ShardList {
    /// File names, sorted, each once.
    pub files: Vec<String>,
    /// What an index promises: its own file name, and for each tensor the file that must hold it.
    pub index: Option<(String, BTreeMap<String, String>)>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: WeightMap,
}

/// Tensor to file, as pairs, so that a name given twice is not lost.
struct WeightMap(Vec<(String, String)>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = WeightMap;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensor names and file names")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<WeightMap, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(WeightMap(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// Files that hold an MTP head or other weights that the main writer left out; read wherever they lie.
fn is_extra(name: &str) -> bool {
    name.ends_with(".safetensors")
        && ["mtp", "model_extra_tensors", "model-mtp", "model_mtp"]
            .iter()
            .any(|start| name.starts_with(start))
}

/// Lists the weight files of a folder.
pub(crate) fn list(files: &Files) -> Result<ShardList> {
    let present = files.weight_files()?;
    let missing = |expected: String| CheckpointError::MissingFile { file: files.folder_label(), expected };
    let indices: Vec<&String> = present.iter().filter(|name| name.ends_with(".index.json")).collect();
    let index = match indices.as_slice() {
        [] => None,
        [one] => Some((*one).clone()),
        many if many.iter().any(|name| *name == "model.safetensors.index.json") => {
            Some("model.safetensors.index.json".into())
        }
        many => return Err(missing(format!("one index of safetensors files, found {many:?}"))),
    };
    let (mut chosen, index) = match index {
        Some(index) => {
            let map = read_index(files, &index)?;
            let mut named: Vec<String> = map.values().cloned().collect();
            named.sort();
            named.dedup();
            if let Some(absent) = named.iter().find(|name| present.binary_search(name).is_err()) {
                let file = files.label(absent);
                return Err(CheckpointError::MissingFile {
                    file,
                    expected: format!("it, since {index} names it"),
                });
            }
            (named, Some((index, map)))
        }
        None => (without_index(files, &present)?, None),
    };
    chosen.extend(present.into_iter().filter(|name| is_extra(name)));
    chosen.sort();
    chosen.dedup();
    Ok(ShardList { files: chosen, index })
}

fn without_index(files: &Files, present: &[String]) -> Result<Vec<String>> {
    let missing = |expected: String| CheckpointError::MissingFile { file: files.folder_label(), expected };
    if present.iter().any(|name| name == "model.safetensors") {
        return Ok(vec!["model.safetensors".into()]);
    }
    let numbered: Vec<(&String, u32, u32)> =
        present.iter().filter_map(|name| numbers(name).map(|(i, n)| (name, i, n))).collect();
    if let Some(&(first, _, count)) = numbered.first() {
        let complete = numbered.len() == count as usize
            && numbered.iter().enumerate().all(|(at, &(_, i, n))| n == count && i as usize == at + 1);
        if !complete {
            return Err(missing(format!(
                "all {count} files of the set of {first}, found {}",
                numbered.len()
            )));
        }
        return Ok(numbered.into_iter().map(|(name, ..)| name.clone()).collect());
    }
    let rest: Vec<&String> = present.iter().filter(|name| !is_extra(name)).collect();
    match rest.as_slice() {
        [one] => Ok(vec![(*one).clone()]),
        [] => Err(missing("model.safetensors or model.safetensors.index.json".into())),
        many => Err(missing(format!("an index that says which of these belong together: {many:?}"))),
    }
}

/// `(i, n)` of `NAME-0000i-of-0000n.safetensors`.
fn numbers(name: &str) -> Option<(u32, u32)> {
    let (rest, count) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
    let (_, number) = rest.rsplit_once('-')?;
    Some((number.parse().ok()?, count.parse().ok()?))
}

fn read_index(files: &Files, index: &str) -> Result<BTreeMap<String, String>> {
    let read: Option<Index> = json::read(files, index, MAX_INDEX, "an index with a weight_map")?;
    let pairs = read.map(|index| index.weight_map.0).unwrap_or_default();
    let label = || files.label(index);
    let mut map = BTreeMap::new();
    for (tensor, file) in pairs {
        if file.contains(['/', '\\', '\0']) || !file.ends_with(".safetensors") {
            let expected = format!("a safetensors file beside it for tensor {tensor}");
            return Err(CheckpointError::InvalidJson { file: label(), expected, found: format!("{file:?}") });
        }
        if let Some(before) = map.insert(tensor.clone(), file) {
            let found = format!("in the same weight_map, there in {before}");
            return Err(CheckpointError::DoubledTensor { file: label(), tensor, found });
        }
    }
    if map.is_empty() {
        let expected = "a weight_map with tensors".into();
        return Err(CheckpointError::InvalidJson { file: label(), expected, found: "an empty one".into() });
    }
    Ok(map)
}
