//! An opened checkpoint: its outline and the bytes of its tensors, through memory maps or as ranges of files. The door of this crate;
//! called by `hearth-model`'s loader and by whoever needs a tokenizer or template.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hearth_kernels::fetch::FileRange;
use hearth_kernels::{Fp8Scales, Nvfp4Global, PackedWeight, Values};
use serde_json::Value;

use crate::files::{Files, ShardBytes};
use crate::gguf::{self, Gguf, Import};
use crate::linear::{Global, dense_format};
use crate::matrix::{Converted, Matrix};
use crate::outline::{Outline, TensorOutline};
use crate::{CheckpointError, Dtype, LinearFormat, QuantConfig, Result, builtin, json};

/// Largest tokenizer that is read, bytes.
const MAX_TOKENIZER: u64 = 256 << 20;

/// A checkpoint whose tensors can be read.
///
/// Tensors are views of memory maps. Lengths are checked when it is opened; a file that another program shortens in
/// place afterwards ends this process with SIGBUS when the lost part is read, which no check here can prevent.
/// Downloads that rename a finished file over the old one are safe: the map keeps the old file.
#[derive(Debug)]
pub struct Checkpoint {
    name: String,
    files: Files,
    outline: Outline,
    bytes: Vec<ShardBytes>,
    /// The weight files, in the order of the outline's; none for the built-in model.
    paths: Vec<Arc<Path>>,
    tokenizer_config: Option<Value>,
    chat_template: Option<String>,
}

/// One stored tensor with its bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorView<'a> {
    /// Name in the checkpoint.
    pub name: &'a str,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: &'a [usize],
    /// The elements, little-endian, row-major. Not aligned.
    pub bytes: Cow<'a, [u8]>,
    /// Path of its file.
    pub file: &'a str,
}

impl Checkpoint {
    /// Opens a folder with `config.json` and safetensors files. Reads headers only; data is read when it is used.
    pub fn open(folder: &Path) -> Result<Checkpoint> {
        Self::from_files(Files::folder(folder)?, display_name(folder))
    }

    /// The model that ships in the binary, `ember`.
    pub fn builtin() -> Result<Checkpoint> {
        Self::from_files(Files::Embedded(builtin::FILES), builtin::NAME.into())
    }

    fn from_files(files: Files, name: String) -> Result<Checkpoint> {
        let (outline, bytes) = Outline::assemble(&files, true)?;
        let paths = match &files {
            Files::Folder(_) => outline.files.iter().map(|file| Path::new(file).into()).collect(),
            Files::Embedded(_) | Files::Made(..) => Vec::new(),
        };
        Self::assembled(name, files, outline, bytes, paths)
    }

    /// A GGUF file, or a set of them, that a family has told apart. Data is read when it is used.
    pub fn from_gguf(path: &Path, gguf: Gguf, import: Import) -> Result<Checkpoint> {
        let gguf::Opened { outline, bytes, paths, files } = gguf.opened(import)?;
        Self::assembled(gguf::model_name(path), files, outline, bytes, paths)
    }

    fn assembled(
        name: String,
        files: Files,
        outline: Outline,
        bytes: Vec<ShardBytes>,
        paths: Vec<Arc<Path>>,
    ) -> Result<Checkpoint> {
        let tokenizer_config: Option<Value> =
            json::read(&files, "tokenizer_config.json", json::MAX_CONFIG, "a JSON object")?;
        let chat_template = match json::text(&files, "chat_template.jinja")? {
            Some(template) => Some(template),
            None => tokenizer_config.as_ref().and_then(template_in).map(str::to_owned),
        };
        Ok(Checkpoint { name, files, outline, bytes, paths, tokenizer_config, chat_template })
    }

    /// Name to show: `org/model` in a Hugging Face cache, else the folder's name; `ember` for the built-in model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether this is the model that ships in the binary.
    pub fn is_builtin(&self) -> bool {
        matches!(self.files, Files::Embedded(_))
    }

    /// Everything but the data.
    pub fn outline(&self) -> &Outline {
        &self.outline
    }

    /// `config.json`, an object.
    pub fn config(&self) -> &Value {
        self.outline.config()
    }

    /// `generation_config.json`.
    pub fn generation_config(&self) -> Option<&Value> {
        self.outline.generation_config()
    }

    /// What the configuration says about quantization.
    pub fn quantization(&self) -> &QuantConfig {
        self.outline.quantization()
    }

    /// The content of `tokenizer.json`. Error: `checkpoint_missing_file` if the folder has none.
    pub fn tokenizer_json(&self) -> Result<Cow<'_, [u8]>> {
        const FILE: &str = "tokenizer.json";
        self.files.read(FILE, MAX_TOKENIZER)?.ok_or_else(|| CheckpointError::MissingFile {
            file: self.files.label(FILE),
            expected: "the tokenizer of the model".into(),
        })
    }

    /// `tokenizer_config.json`.
    pub fn tokenizer_config(&self) -> Option<&Value> {
        self.tokenizer_config.as_ref()
    }

    /// `chat_template.jinja`, else the template in `tokenizer_config.json`.
    pub fn chat_template(&self) -> Option<String> {
        self.chat_template.clone()
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.outline.names()
    }

    /// Names that start with `prefix`, sorted; costs as much as there are such names.
    pub fn names_under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.outline.names_under(prefix)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.outline.contains(name)
    }

    /// Bytes of all tensors.
    pub fn total_bytes(&self) -> u64 {
        self.outline.total_bytes()
    }

    /// Whether some matrices take memory of their own while they are loaded, or another size than in the file: those of a GGUF.
    pub fn is_converted(&self) -> bool {
        matches!(self.files, Files::Made(..))
    }

    /// One tensor as it is stored. Error: `tensor_missing`.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        self.outline.tensor(name).map(|tensor| self.view(tensor))
    }

    /// A bf16, f16 or f32 tensor of exactly this shape, in the model's own terms.
    pub fn dense(&self, name: &str, expected: &[usize]) -> Result<TensorView<'_>> {
        let tensor = self.outline.dense(name, expected)?;
        let mut view = self.view(tensor);
        if let Some(rows) = tensor.stored_rows() {
            let (dtype, bytes) = rows.undone(&view.bytes);
            (view.dtype, view.bytes) = (dtype, bytes.into());
        }
        Ok(view)
    }

    /// The matrix of a linear layer, `rows` output and `cols` input features, packed as it is stored, or converted if it is
    /// stored in a way that no kernel reads. `module` is the name without `.weight`. See [`Outline::linear`] for how its
    /// format is found.
    pub fn linear(&self, module: &str, rows: usize, cols: usize) -> Result<Matrix<'_>> {
        let linear = self.outline.linear(module, rows, cols)?;
        let codes = self.bytes_of(linear.weight);
        let global = match linear.global {
            None => None,
            Some(Global::Divide(tensor)) => Some(Nvfp4Global::Divide(self.positive(tensor)?)),
            Some(Global::Multiply(tensor)) => Some(Nvfp4Global::Multiply(self.positive(tensor)?)),
        };
        if let Some(stored) = linear.weight.stored_rows() {
            return Ok(Matrix::Converted(Converted::of(&stored, codes, linear.format, global)));
        }
        let values = match (linear.format, linear.scale, global) {
            (LinearFormat::Nvfp4, Some(scales), Some(global)) => {
                Values::Nvfp4 { nibbles: codes, scales: self.bytes_of(scales), global }
            }
            (LinearFormat::Fp8Tensor, Some(scales), _) => {
                Values::Fp8 { codes, scales: Fp8Scales::Tensor(floats(self.view(scales))?[0]) }
            }
            (LinearFormat::Fp8Row, Some(scales), _) => {
                Values::Fp8 { codes, scales: Fp8Scales::Row(floats(self.view(scales))?) }
            }
            (LinearFormat::Fp8Block128, Some(scales), _) => {
                Values::Fp8 { codes, scales: Fp8Scales::Block128(floats(self.view(scales))?) }
            }
            (format, ..) => dense_values(format, codes),
        };
        Ok(PackedWeight { rows, cols, values }.into())
    }

    /// Matrix `index` `[rows, cols]` of a stack `name` `[count, rows, cols]` in bf16, f16 or f32, as fused experts are
    /// stored.
    pub fn linear_slice(&self, name: &str, index: usize, rows: usize, cols: usize) -> Result<Matrix<'_>> {
        let tensor = self.outline.slice(name, index, rows, cols)?;
        let format = dense_format(tensor)?;
        let bytes = self.bytes_of(tensor);
        let size = bytes.len() / tensor.shape[0];
        let values = dense_values(format, &bytes[index * size..][..size]);
        Ok(PackedWeight { rows, cols, values }.into())
    }

    /// Where the bytes of a tensor lie on disk; None for the built-in model. Error: `tensor_missing`.
    pub fn range(&self, tensor: &str) -> Result<Option<FileRange>> {
        let Some(located) = self.outline.tensors.get(tensor) else {
            return self.outline.tensor(tensor).map(|_| None);
        };
        // Lengths were checked against the file's when it was opened.
        let (offset, bytes) = (located.entry.start, located.entry.bytes as usize);
        Ok(self.paths.get(located.file).map(|file| FileRange { file: file.clone(), offset, bytes }))
    }

    fn view<'a>(&'a self, tensor: TensorOutline<'a>) -> TensorView<'a> {
        let TensorOutline { name, dtype, shape, file, .. } = tensor;
        TensorView { name, dtype, shape, bytes: Cow::Borrowed(self.bytes_of(tensor)), file }
    }

    fn bytes_of(&self, tensor: TensorOutline<'_>) -> &[u8] {
        let located = self.outline.tensors.get(tensor.name).expect("outlines of tensors come from this map");
        let (start, length) = (located.entry.start as usize, located.entry.bytes as usize);
        &self.bytes[located.file].as_slice()[start..][..length]
    }

    /// The single f32 of an NVFP4 matrix's scale: a divisor or factor of zero cannot have been written.
    fn positive(&self, tensor: TensorOutline<'_>) -> Result<f32> {
        let view = self.view(tensor);
        let value = floats(view.clone())?[0];
        if value > 0.0 { Ok(value) } else { Err(wrong_value(view, "a positive scale", value)) }
    }
}

impl TensorView<'_> {
    /// The elements as f32. Only for the three dense float dtypes; error: `tensor_wrong_dtype`.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let two = |to_f32: fn([u8; 2]) -> f32| {
            self.bytes.chunks_exact(2).map(|b| to_f32([b[0], b[1]])).collect::<Vec<f32>>()
        };
        match self.dtype {
            Dtype::F32 => {
                Ok(self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
            }
            Dtype::Bf16 => Ok(two(|b| half::bf16::from_le_bytes(b).to_f32())),
            Dtype::F16 => Ok(two(|b| half::f16::from_le_bytes(b).to_f32())),
            found => Err(CheckpointError::WrongDtype {
                file: self.file.into(),
                tensor: self.name.into(),
                expected: "BF16, F16 or F32".into(),
                found: found.name().into(),
            }),
        }
    }
}

/// Scales as f32, all finite.
fn floats(view: TensorView<'_>) -> Result<Vec<f32>> {
    let values = view.to_f32()?;
    match values.iter().find(|value| !value.is_finite()) {
        Some(&value) => Err(wrong_value(view, "finite scales", value)),
        None => Ok(values),
    }
}

fn wrong_value(view: TensorView<'_>, expected: &str, found: f32) -> CheckpointError {
    CheckpointError::WrongValue {
        file: view.file.into(),
        tensor: view.name.into(),
        expected: expected.into(),
        found: found.to_string(),
    }
}

fn dense_values(format: LinearFormat, bytes: &[u8]) -> Values<'_> {
    match format {
        LinearFormat::F32 => Values::F32(bytes),
        LinearFormat::F16 => Values::F16(bytes),
        _ => Values::Bf16(bytes),
    }
}

/// The chat template of a tokenizer configuration: a string, or the one named `default` of a list.
fn template_in(tokenizer_config: &Value) -> Option<&str> {
    match tokenizer_config.get("chat_template")? {
        Value::Array(named) => named
            .iter()
            .find(|t| t.get("name").and_then(Value::as_str) == Some("default"))?
            .get("template")?
            .as_str(),
        template => template.as_str(),
    }
}

/// `org/model` for `.../models--org--model/snapshots/REVISION`, else the last part of the path.
fn display_name(folder: &Path) -> String {
    let absolute: PathBuf = std::path::absolute(folder).unwrap_or_else(|_| folder.into());
    let mut parts = absolute.components().rev().filter_map(|part| match part {
        std::path::Component::Normal(name) => Some(name.to_string_lossy()),
        _ => None,
    });
    let last = parts.next().unwrap_or_default();
    if parts.next().as_deref() == Some("snapshots")
        && let Some(repository) = parts.next()
        && let Some(id) = repository.strip_prefix("models--")
    {
        return id.replacen("--", "/", 1);
    }
    last.into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_in_the_hugging_face_cache_is_called_by_its_repository() {
        let path = "/h/hub/models--nvidia--Qwen3.6-35B-A3B-NVFP4/snapshots/0123abc";
        assert_eq!(display_name(Path::new(path)), "nvidia/Qwen3.6-35B-A3B-NVFP4");
        assert_eq!(display_name(Path::new("/models/my-model/")), "my-model");
        assert_eq!(display_name(Path::new("/")), "");
    }

    #[test]
    fn a_template_list_gives_the_default_one() {
        let config = serde_json::json!({"chat_template": [
            {"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]});
        assert_eq!(template_in(&config), Some("b"));
        assert_eq!(template_in(&serde_json::json!({"chat_template": "c"})), Some("c"));
        assert_eq!(template_in(&serde_json::json!({})), None);
    }
}
