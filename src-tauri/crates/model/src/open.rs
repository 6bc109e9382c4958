//! Opens what a person names as a model: a folder with safetensors files, or a GGUF file. Called by the engine, the appliance and the
//! command line.

use crate::ModelError;
use crate::family;
use hearth_checkpoint::{Checkpoint, Gguf, Outline, gguf};
use std::path::Path;

/// The checkpoint at `path`, with its data.
///
/// # Errors
/// Those of the files, and for a GGUF those of [`family::import`].
pub fn open(path: &Path) -> Result<Checkpoint, ModelError> {
    if !gguf::is_gguf(path) {
        return Ok(Checkpoint::open(path)?);
    }
    let file = Gguf::open(path)?;
    let import = family::import(&file)?;
    Ok(Checkpoint::from_gguf(path, file, import)?)
}

/// The checkpoint at `path` without its data.
///
/// # Errors
/// As [`open`].
pub fn outline(path: &Path) -> Result<Outline, ModelError> {
    if !gguf::is_gguf(path) {
        return Ok(Outline::read(path)?);
    }
    let file = Gguf::open(path)?;
    let import = family::import(&file)?;
    Ok(Outline::from_gguf(&file, import)?)
}
