//! Reads Hugging Face checkpoints (safetensors, configuration, tokenizer files) and GGUF files. Yields packed tensors by name.
//!
//! [`Outline`] is a checkpoint without its data: dtypes, shapes, sizes and formats, for budgets. [`Checkpoint`] adds the
//! bytes through memory maps. Neither knows any model family; names are taken as they are.

mod builtin;
mod checkpoint;
mod dtype;
mod error;
mod files;
mod format;
pub mod gguf;
pub mod header;
mod json;
mod linear;
mod matrix;
mod outline;
mod quant;
mod shards;
mod sizes;

pub use checkpoint::{Checkpoint, TensorView};
pub use dtype::Dtype;
pub use error::CheckpointError;
pub use format::LinearFormat;
pub use gguf::Gguf;
pub use linear::{Global, Linear};
pub use matrix::Matrix;
pub use outline::{Outline, TensorOutline};
pub use quant::{QuantConfig, Writer};
pub use sizes::{Expanded, FormatBytes};

/// Result of reading a checkpoint.
pub type Result<T> = std::result::Result<T, CheckpointError>;
