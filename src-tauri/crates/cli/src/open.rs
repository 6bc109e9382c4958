//! Opens the model a command names. Used by `bench` and `logits`.

use hearth_checkpoint::Checkpoint;
use hearth_hub::{HubCache, Location};
use hearth_model::ModelError;

/// `ember`, a folder, a GGUF file, or a Hugging Face id in the cache.
pub fn open(model: &str) -> anyhow::Result<Checkpoint> {
    let place = hearth_hub::locate(model, HubCache::from_env().as_ref());
    let place = place.map_err(|e| anyhow::anyhow!("{e}. {}", e.next_step()))?;
    match place {
        Location::BuiltIn => Checkpoint::builtin().map_err(ModelError::from),
        Location::Folder { path, .. } => hearth_model::open(&path),
    }
    .map_err(with_next_step)
}

/// The error with what to do about it.
pub fn with_next_step(error: ModelError) -> anyhow::Error {
    let table = error.evidence().map(|table| format!("\n{table}")).unwrap_or_default();
    anyhow::anyhow!("{error}. {}{table}", error.next_step())
}
