//! A checkpoint without its data: configuration, quantization, and dtype, shape and size of every tensor. This is all
//! that a budget needs, and it is read in milliseconds. `Checkpoint` adds the bytes.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::files::{Files, ShardBytes};
use crate::gguf::{Change, GgufType, StoredRows};
use crate::header::Entry;
use crate::{CheckpointError, Dtype, QuantConfig, Result, json, shards};

/// What the headers and the configuration of a checkpoint say.
#[derive(Debug)]
pub struct Outline {
    pub(crate) label: String,
    pub(crate) config: Value,
    pub(crate) generation_config: Option<Value>,
    pub(crate) quantization: QuantConfig,
    /// Paths of the weight files, for messages.
    pub(crate) files: Vec<String>,
    pub(crate) tensors: BTreeMap<String, Located>,
}

/// A tensor and the file it lies in.
#[derive(Debug, Clone)]
pub(crate) struct Located {
    pub file: usize,
    pub entry: Entry,
    /// What a GGUF file has done to it.
    pub change: Option<Change>,
}

/// A tensor without its bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TensorOutline<'a> {
    /// Name in the checkpoint.
    pub name: &'a str,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: &'a [usize],
    /// Size in bytes.
    pub bytes: u64,
    /// Path of its file.
    pub file: &'a str,
    /// What a GGUF file has done to it, and whoever reads it must undo.
    pub change: Option<Change>,
}

impl TensorOutline<'_> {
    /// How the rows of this matrix are to be converted; None if they are what they seem.
    pub fn stored_rows(&self) -> Option<StoredRows> {
        let kind = match self.dtype {
            Dtype::Gguf(kind) => kind,
            _ if self.change.is_none() => return None,
            Dtype::F32 => GgufType::F32,
            Dtype::F16 => GgufType::F16,
            _ => GgufType::Bf16,
        };
        let cols = self.shape.last().copied().unwrap_or(1);
        Some(StoredRows { kind, cols, change: self.change.unwrap_or_default() })
    }

    /// Bytes of it when it is loaded, converted if need be.
    pub fn loaded_bytes(&self) -> u64 {
        let rows = self.shape.iter().rev().skip(1).fold(1u64, |rows, side| rows.saturating_mul(*side as u64));
        let cols = self.shape.last().copied().unwrap_or(1) as u64;
        match self.dtype {
            Dtype::Gguf(kind) => kind.kept().map_or(self.bytes, |format| format.bytes(rows, cols)),
            _ => self.bytes,
        }
    }
}

impl Outline {
    /// Reads configuration and headers of a folder; no tensor data is touched.
    pub fn read(folder: &Path) -> Result<Outline> {
        Ok(Self::assemble(&Files::folder(folder)?, false)?.0)
    }

    /// Reads an outline and, if `with_bytes`, opens each weight file, in the order of `Outline::files`.
    pub(crate) fn assemble(files: &Files, with_bytes: bool) -> Result<(Outline, Vec<ShardBytes>)> {
        const OBJECT: &str = "a JSON object";
        let config: Value = json::read(files, "config.json", json::MAX_CONFIG, OBJECT)?.ok_or_else(|| {
            CheckpointError::MissingFile {
                file: files.label("config.json"),
                expected: "the configuration of the model".into(),
            }
        })?;
        if !config.is_object() {
            return Err(CheckpointError::InvalidJson {
                file: files.label("config.json"),
                expected: OBJECT.into(),
                found: "another JSON value".into(),
            });
        }
        let generation_config = json::read(files, "generation_config.json", json::MAX_CONFIG, OBJECT)?;
        let modelopt: Option<Value> = json::read(files, "hf_quant_config.json", json::MAX_CONFIG, OBJECT)?;
        let (config_file, modelopt_file) = (files.label("config.json"), files.label("hf_quant_config.json"));
        let quantization = QuantConfig::read_at(&config, &config_file, modelopt.as_ref(), &modelopt_file)?;

        let list = shards::list(files)?;
        let mut tensors: BTreeMap<String, Located> = BTreeMap::new();
        let (mut labels, mut bytes): (Vec<String>, Vec<ShardBytes>) = (Vec::new(), Vec::new());
        for (number, file) in list.files.iter().enumerate() {
            let label = files.label(file);
            let shard = files.shard(file, with_bytes)?.ok_or_else(|| CheckpointError::MissingFile {
                file: label.clone(),
                expected: "the weights it held a moment ago".into(),
            })?;
            for (tensor, entry) in shard.entries {
                if let Some(before) = tensors.get(&tensor) {
                    let found = format!("in {}", labels[before.file]);
                    return Err(CheckpointError::DoubledTensor { file: label, tensor, found });
                }
                tensors.insert(tensor, Located { file: number, entry, change: None });
            }
            labels.push(label);
            bytes.extend(shard.bytes);
        }
        if let Some((index, map)) = list.index {
            for (tensor, file) in map {
                let found = match tensors.get(&tensor).map(|located| &list.files[located.file]) {
                    Some(holder) if *holder == file => continue,
                    Some(holder) => format!("it in {holder}"),
                    None => "it in no file".into(),
                };
                let expected = format!("it here, since {index} says so");
                return Err(CheckpointError::MissingTensor {
                    file: files.label(&file),
                    tensor,
                    expected,
                    found,
                });
            }
        }
        let label = files.folder_label();
        Ok((Outline { label, config, generation_config, quantization, files: labels, tensors }, bytes))
    }

    /// `config.json`, an object.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// `generation_config.json`.
    pub fn generation_config(&self) -> Option<&Value> {
        self.generation_config.as_ref()
    }

    /// What the configuration says about quantization.
    pub fn quantization(&self) -> &QuantConfig {
        &self.quantization
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Names that start with `prefix`, sorted; costs as much as there are such names.
    pub fn names_under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.tensors
            .range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded))
            .map(|(name, _)| name.as_str())
            .take_while(move |name| name.starts_with(prefix))
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// One tensor, if there is one of this name.
    pub fn get(&self, name: &str) -> Option<TensorOutline<'_>> {
        let (name, located) = self.tensors.get_key_value(name)?;
        Some(self.describe(name, located))
    }

    /// One tensor. Error: `tensor_missing`.
    pub fn tensor(&self, name: &str) -> Result<TensorOutline<'_>> {
        self.get(name).ok_or_else(|| self.missing(name, "a tensor of this name", "none"))
    }

    /// All tensors, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = TensorOutline<'_>> {
        self.tensors.iter().map(|(name, located)| self.describe(name, located))
    }

    /// Bytes of all tensors.
    pub fn total_bytes(&self) -> u64 {
        self.tensors.values().fold(0, |sum, located| sum.saturating_add(located.entry.bytes))
    }

    fn describe<'a>(&'a self, name: &'a str, located: &'a Located) -> TensorOutline<'a> {
        let Entry { dtype, shape, bytes, .. } = &located.entry;
        TensorOutline {
            name,
            dtype: *dtype,
            shape,
            bytes: *bytes,
            file: &self.files[located.file],
            change: located.change,
        }
    }

    pub(crate) fn missing(&self, tensor: &str, expected: &str, found: &str) -> CheckpointError {
        CheckpointError::MissingTensor {
            file: self.label.clone(),
            tensor: tensor.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }
}
