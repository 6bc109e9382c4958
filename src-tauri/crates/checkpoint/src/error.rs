//! What can be wrong with a checkpoint. Every variant says where it looked and what it wanted, so that a person can
//! tell a half-finished download from a format that Hearth does not read.

use serde::{Serialize, Serializer};

/// A refused checkpoint. `file` is a path as text; `expected` and `found` are phrases for a sentence.
#[derive(Debug, thiserror::Error, Serialize)]
#[serde(untagged)]
#[allow(missing_docs, reason = "the fields have the same meaning in every variant, told above")]
pub enum CheckpointError {
    /// The operating system refused to read something.
    #[error("{file}: could not be read: {source}")]
    Unreadable {
        file: String,
        #[serde(serialize_with = "as_text")]
        source: std::io::Error,
    },
    /// A path that is not valid UTF-8; it could not be shown, logged or sent as JSON.
    #[error("{file}: the path is not valid UTF-8")]
    PathNotUtf8 { file: String },
    /// The path is not a folder.
    #[error("{file}: expected a folder with a model, found {found}")]
    NotAFolder { file: String, found: String },
    /// A file that a checkpoint must have is not there.
    #[error("{file}: missing; expected {expected}")]
    MissingFile { file: String, expected: String },
    /// A file is larger than any real one of its kind.
    #[error("{file}: expected at most {limit} bytes, found {bytes}")]
    FileTooLarge { file: String, limit: u64, bytes: u64 },
    /// A text or JSON file does not hold what it should.
    #[error("{file}: expected {expected}, found {found}")]
    InvalidJson { file: String, expected: String, found: String },
    /// The header of a safetensors file is unusable as a whole.
    #[error("{file}: expected {expected}, found {found}")]
    InvalidHeader { file: String, expected: String, found: String },
    /// An element type that safetensors does not define.
    #[error("{file}: tensor {tensor}: expected a safetensors dtype, found {found:?}")]
    UnknownDtype { file: String, tensor: String, found: String },
    /// A tensor's entry in the header contradicts itself or its neighbours.
    #[error("{file}: tensor {tensor}: expected {expected}, found {found}")]
    InvalidEntry { file: String, tensor: String, expected: String, found: String },
    /// The file ends before the tensor does.
    #[error("{file}: cut short: tensor {tensor} needs a file of {expected} bytes, found {found} bytes")]
    Truncated { file: String, tensor: String, expected: u64, found: u64 },
    /// No file has the tensor.
    #[error("{file}: tensor {tensor} is missing; expected {expected}, found {found}")]
    MissingTensor { file: String, tensor: String, expected: String, found: String },
    /// Two places have the tensor, or two forms of the same weight exist.
    #[error("{file}: tensor {tensor} is doubled: expected it once, found it also {found}")]
    DoubledTensor { file: String, tensor: String, found: String },
    /// The shape is not the one the model asks for.
    #[error("{file}: tensor {tensor} should have shape {expected}, found {found}")]
    WrongShape { file: String, tensor: String, expected: String, found: String },
    /// The element type is not one that is understood in this place.
    #[error("{file}: tensor {tensor} should be {expected}, found {found}")]
    WrongDtype { file: String, tensor: String, expected: String, found: String },
    /// A scale that no writer produces (zero, negative, not finite).
    #[error("{file}: tensor {tensor} should hold {expected}, found {found}")]
    WrongValue { file: String, tensor: String, expected: String, found: String },
    /// A quantization that Hearth does not read.
    #[error("{file}: unknown quantization {found:?} ({place}); expected {expected}")]
    UnknownQuantization { file: String, place: String, expected: String, found: String },
    /// The header of a GGUF file is unusable, or its tokenizer is of a kind that Hearth does not read.
    #[error("{file}: expected {expected}, found {found}")]
    InvalidGguf { file: String, expected: String, found: String },
    /// An element type that nobody defined when this Hearth was made.
    #[error("{file}: tensor {tensor} has the unknown GGUF {found}")]
    UnknownGgufType { file: String, tensor: String, found: String },
    /// An element type that Hearth does not compute with.
    #[error("{file}: tensor {tensor} is stored as {found}, which Hearth does not read; it reads {expected}")]
    UnsupportedGgufType { file: String, tensor: String, expected: String, found: String },
    /// The tensors say one format and the configuration another.
    #[error("{file}: tensor {tensor}: the configuration says {expected}, the file holds {found}")]
    QuantizationMismatch { file: String, tensor: String, expected: String, found: String },
}

/// The system's reason, in its words.
fn as_text<S: Serializer>(reason: &std::io::Error, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(reason)
}

impl CheckpointError {
    /// A stable name for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "checkpoint_unreadable",
            Self::PathNotUtf8 { .. } => "path_not_utf8",
            Self::NotAFolder { .. } => "checkpoint_not_a_folder",
            Self::MissingFile { .. } => "checkpoint_missing_file",
            Self::FileTooLarge { .. } => "checkpoint_file_too_large",
            Self::InvalidJson { .. } => "checkpoint_invalid_json",
            Self::InvalidHeader { .. } => "safetensors_invalid_header",
            Self::UnknownDtype { .. } => "safetensors_unknown_dtype",
            Self::InvalidEntry { .. } => "safetensors_invalid_entry",
            Self::Truncated { .. } => "safetensors_cut_short",
            Self::MissingTensor { .. } => "tensor_missing",
            Self::DoubledTensor { .. } => "tensor_doubled",
            Self::WrongShape { .. } => "tensor_wrong_shape",
            Self::WrongDtype { .. } => "tensor_wrong_dtype",
            Self::WrongValue { .. } => "tensor_wrong_value",
            Self::UnknownQuantization { .. } => "unknown_quantization",
            Self::InvalidGguf { .. } => "gguf_invalid",
            Self::UnknownGgufType { .. } | Self::UnsupportedGgufType { .. } => "gguf_type_not_supported",
            Self::QuantizationMismatch { .. } => "quantization_mismatch",
        }
    }

    /// The file at fault, as text.
    pub fn file(&self) -> &str {
        match self {
            Self::Unreadable { file, .. }
            | Self::PathNotUtf8 { file }
            | Self::NotAFolder { file, .. }
            | Self::MissingFile { file, .. }
            | Self::FileTooLarge { file, .. }
            | Self::InvalidJson { file, .. }
            | Self::InvalidHeader { file, .. }
            | Self::UnknownDtype { file, .. }
            | Self::InvalidEntry { file, .. }
            | Self::Truncated { file, .. }
            | Self::MissingTensor { file, .. }
            | Self::DoubledTensor { file, .. }
            | Self::WrongShape { file, .. }
            | Self::WrongDtype { file, .. }
            | Self::WrongValue { file, .. }
            | Self::UnknownQuantization { file, .. }
            | Self::InvalidGguf { file, .. }
            | Self::UnknownGgufType { file, .. }
            | Self::UnsupportedGgufType { file, .. }
            | Self::QuantizationMismatch { file, .. } => file,
        }
    }

    /// The tensor at fault, where there is one.
    pub fn tensor(&self) -> Option<&str> {
        match self {
            Self::UnknownDtype { tensor, .. }
            | Self::InvalidEntry { tensor, .. }
            | Self::Truncated { tensor, .. }
            | Self::MissingTensor { tensor, .. }
            | Self::DoubledTensor { tensor, .. }
            | Self::WrongShape { tensor, .. }
            | Self::WrongDtype { tensor, .. }
            | Self::WrongValue { tensor, .. }
            | Self::UnknownGgufType { tensor, .. }
            | Self::UnsupportedGgufType { tensor, .. }
            | Self::QuantizationMismatch { tensor, .. } => Some(tensor),
            _ => None,
        }
    }

    /// What a person can do about it, one sentence.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "Check that the file exists and that this user may read it.",
            Self::PathNotUtf8 { .. } => "Rename the folder so that its path is valid UTF-8.",
            Self::NotAFolder { .. } => {
                "Give the folder that holds config.json and the safetensors files, or a GGUF file."
            }
            Self::MissingFile { .. } | Self::MissingTensor { .. } | Self::Truncated { .. } => {
                "Download the model again; the copy on this disk is incomplete."
            }
            Self::UnknownQuantization { .. } => {
                "Choose a copy of the model in bf16, FP8 or NVFP4 (compressed-tensors or ModelOpt)."
            }
            Self::WrongShape { .. } | Self::WrongDtype { .. } | Self::QuantizationMismatch { .. } => {
                "Check that config.json and the weights belong to the same model."
            }
            Self::UnknownGgufType { .. } | Self::UnsupportedGgufType { .. } => {
                "Choose another file of this model, such as Q8_0, Q6_K, Q4_K_M or BF16."
            }
            Self::FileTooLarge { .. }
            | Self::InvalidGguf { .. }
            | Self::InvalidJson { .. }
            | Self::InvalidHeader { .. }
            | Self::UnknownDtype { .. }
            | Self::InvalidEntry { .. }
            | Self::DoubledTensor { .. }
            | Self::WrongValue { .. } => "Download the file again, or ask whoever made it; it is not valid.",
        }
    }
}
