//! The models on this machine as cards: what a profile can name, whether Hearth can run it, and why not. Used by the control API
//! and `hearth list`.

use std::path::{Path, PathBuf};

use hearth_checkpoint::Checkpoint;
use hearth_engine::status::Fault;
use hearth_hub::{EMBER, FoundModel, HubCache, HubError, Location, locate};
use hearth_model::{ModelError, ModelSpec, family};

use crate::{control::types::ModelCard, error::sentence};

/// Ember, the models of the Hugging Face cache, and those in `folders`.
pub fn cards(folders: &[PathBuf]) -> Vec<ModelCard> {
    let mut cards = vec![ember()];
    if let Some(cache) = HubCache::from_env() {
        let ids = cache.ids();
        cards.extend(ids.iter().flat_map(|id| match cache.snapshot(id) {
            Ok(path) => in_cache(id, &path),
            Err(error) => vec![broken(id, &error)],
        }));
    }
    for folder in folders {
        // A profile is used from other working folders too.
        let found = hearth_hub::in_folder(&resolved(folder).unwrap_or_else(|_| folder.clone()));
        cards.extend(found.iter().map(|found| match found {
            Ok(found) => described(found),
            Err(error) => broken(&folder.to_string_lossy(), error),
        }));
    }
    cards
}

/// The models of a repository in the cache: itself, or its GGUF files, by their paths if there are several.
fn in_cache(id: &str, snapshot: &Path) -> Vec<ModelCard> {
    let card = |path: &Path, id: Option<&str>| match hearth_hub::read(path, id) {
        Ok(found) => described(&found),
        Err(error) => broken(id.unwrap_or(&path.to_string_lossy()), &error),
    };
    match hearth_hub::gguf_files(snapshot).as_slice() {
        files if files.is_empty() || snapshot.join("config.json").is_file() => vec![card(snapshot, Some(id))],
        [one] => vec![card(one, Some(id))],
        many => many.iter().map(|path| card(path, None)).collect(),
    }
}

/// The card of what a profile names.
pub fn card(model: &str) -> Result<ModelCard, HubError> {
    match locate(model, HubCache::from_env().as_ref())? {
        Location::BuiltIn => Ok(ember()),
        Location::Folder { path, id } => Ok(described(&hearth_hub::read(&path, id.as_deref())?)),
    }
}

/// A GGUF file, a folder that holds a model, or folders of models, as the settings keep it. The fault says why it is none.
pub(crate) fn importable(folder: &str) -> Result<PathBuf, Fault> {
    let path = hearth_hub::expanded(folder.trim());
    if !path.is_absolute() {
        let text = format!("{folder:?} does not say where on this machine it is.");
        let fault = Fault::new("not_absolute", text, "Give the whole path, beginning with / or ~/.");
        return Err(fault.with("folder", folder));
    }
    let path = resolved(&path).map_err(|_| fault(&HubError::NoFolder { path }))?;
    let found = hearth_hub::in_folder(&path);
    // What only lies there as GGUF was not chosen by its family: it is told at once if none of it can be run.
    let gguf =
        |found: &Result<FoundModel, HubError>| found.as_ref().is_ok_and(|f| hearth_hub::is_gguf(&f.path));
    if found.iter().all(gguf) {
        let mut faults = found.iter().flatten().map(|found| described(found).fault);
        if let Some(Some(first)) = faults.next()
            && faults.all(|fault| fault.is_some())
        {
            return Err(first);
        }
    }
    match found.into_iter().next() {
        None => Err(fault(&HubError::NoConfig { path })),
        Some(Err(error)) => Err(fault(&error)),
        Some(Ok(_)) => Ok(path),
    }
}

/// A path without links, but for a GGUF file its own name: in a cache it is a link to one that says nothing.
fn resolved(path: &Path) -> std::io::Result<PathBuf> {
    match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) if hearth_hub::is_gguf(path) => {
            path.metadata()?;
            Ok(folder.canonicalize()?.join(name))
        }
        _ => path.canonicalize(),
    }
}

/// A model that was not found, as a message.
pub fn fault(error: &HubError) -> Fault {
    Fault::new(error.code(), sentence(&error.to_string()), error.next_step()).with_fields(error)
}

/// A model that cannot be described, sized or run, as a message.
pub(crate) fn model_fault(error: &ModelError) -> Fault {
    Fault::new(error.code(), sentence(&error.to_string()), error.next_step()).with_fields(error)
}

fn ember() -> ModelCard {
    let card = ModelCard {
        id: EMBER.into(),
        name: "Ember".into(),
        demonstration: true,
        family: None,
        fault: None,
        bytes: 0.0,
        max_context: None,
        longest_context: None,
    };
    match Checkpoint::builtin() {
        Ok(checkpoint) => {
            let found = FoundModel {
                id: EMBER.into(),
                path: PathBuf::new(),
                config: checkpoint.config().clone(),
                bytes: checkpoint.total_bytes(),
            };
            ModelCard { id: card.id, name: card.name, demonstration: true, ..described(&found) }
        }
        Err(error) => {
            let fault = Fault::new(error.code(), sentence(&error.to_string()), "Install Hearth again.");
            ModelCard { fault: Some(fault.with_fields(&error)), ..card }
        }
    }
}

/// The card of a folder.
pub(crate) fn described(found: &FoundModel) -> ModelCard {
    let name = match hearth_hub::is_gguf(&found.path) {
        true => hearth_checkpoint::gguf::model_name(&found.path),
        false => found.id.trim_end_matches('/').rsplit('/').next().unwrap_or(&found.id).to_owned(),
    };
    let (spec, fault) = match spec(found) {
        Ok(spec) => (Some(spec), None),
        Err(error) => (None, Some(model_fault(&error))),
    };
    let tokens = |n: usize| u32::try_from(n).ok();
    let (max_context, longest_context) = match &spec {
        Some(spec) => (tokens(spec.context), tokens(spec.longest())),
        None => (None, None),
    };
    ModelCard {
        id: found.id.clone(),
        name,
        demonstration: false,
        family: spec.map(|spec| spec.family),
        fault,
        bytes: found.bytes as f64,
        max_context,
        longest_context,
    }
}

/// What the model is, by its config.json or, a GGUF, by its header.
fn spec(found: &FoundModel) -> Result<ModelSpec, ModelError> {
    match hearth_hub::is_gguf(&found.path) {
        true => family::read(hearth_model::outline(&found.path)?.config()),
        false => family::read(&found.config),
    }
}

fn broken(id: &str, error: &HubError) -> ModelCard {
    ModelCard {
        id: id.into(),
        name: id.rsplit('/').next().unwrap_or(id).into(),
        demonstration: false,
        family: None,
        fault: Some(fault(error)),
        bytes: 0.0,
        max_context: None,
        longest_context: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ember_can_be_run_and_says_what_it_is() {
        let ember = card("ember").unwrap();
        assert!(ember.demonstration && ember.fault.is_none() && ember.family.is_some(), "{ember:?}");
        assert!(ember.bytes > 1e6 && ember.max_context.is_some_and(|n| n >= 1024), "{ember:?}");
        assert_eq!(ember.longest_context, ember.max_context.map(|n| 4 * n));
    }

    #[test]
    fn a_model_of_another_family_is_shown_with_the_reason_why_it_cannot_run() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("other");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("config.json"), r#"{"model_type":"bloom"}"#).unwrap();
        let card = card(folder.to_str().unwrap()).unwrap();
        let fault = card.fault.expect("bloom cannot be run");
        assert!(card.family.is_none() && fault.message.contains("bloom"), "{fault:?}");
    }
}
