//! Families: one file each, `config.json` -> [`ModelSpec`] and tensor names; `gguf` does the same for GGUF files. The only place
//! that knows model types.

pub(crate) mod fields;
mod gguf;
mod names;
mod qwen3_5;
mod rotary;

pub use gguf::import;
pub use names::{Names, Place};

use crate::{ModelError, ModelSpec};
use serde_json::Value;

/// Reads a model's `config.json`.
///
/// # Errors
/// [`ModelError::UnknownFamily`] for a `model_type` without an adapter, [`ModelError::Config`] for a field that is
/// missing or impossible, [`ModelError::Unsupported`] for a feature without code. Never panics, whatever the JSON.
pub fn read(config: &Value) -> Result<ModelSpec, ModelError> {
    let found = config.get("model_type").and_then(Value::as_str).unwrap_or("(none)");
    if qwen3_5::MODEL_TYPES.contains(&found) {
        return qwen3_5::read(config);
    }
    Err(ModelError::UnknownFamily {
        found: found.chars().take(60).collect(),
        known: qwen3_5::MODEL_TYPES.join(", "),
    })
}

/// The tensor names of a spec.
pub fn names(spec: &ModelSpec) -> Names {
    Names::new(&spec.prefix, qwen3_5::matrix, qwen3_5::vector)
}

/// The spec as this folder really stores it: tensor names with or without the infix, MTP head present or not.
/// `contains` tells whether a tensor exists.
pub fn settle(spec: &mut ModelSpec, contains: &dyn Fn(&str) -> bool) {
    qwen3_5::settle(spec, contains);
}
