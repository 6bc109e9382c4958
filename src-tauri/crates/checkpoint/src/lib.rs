//! Reads Hugging Face checkpoints: safetensors, configuration, tokenizer files. Yields packed tensors by name.
//!
//! [`Outline`] is a checkpoint without its data: dtypes, shapes, sizes and formats, for budgets. [`Checkpoint`] adds the
//! bytes through memory maps. Neither knows any model family; names are taken as they are.

mod builtin;
mod checkpoint;
mod dtype;
mod error;
mod files;
mod format;
pub mod header;
mod json;
mod linear;
mod outline;
mod quant;
mod shards;
mod sizes;

pub use checkpoint::{Checkpoint, TensorView};
pub use dtype::Dtype;
pub use error::CheckpointError;
pub use format::LinearFormat;
pub use linear::{Global, Linear};
pub use outline::{Outline, TensorOutline};
pub use quant::{QuantConfig, Writer};
pub use sizes::FormatBytes;

/// Result of reading a checkpoint.
pub type Result<T> = std::result::Result<T, CheckpointError>;
