//! The models on this machine as cards: what a profile can name, whether Hearth can run it, and why not. Used by the control API
//! and `hearth list`.

use std::path::PathBuf;

use hearth_checkpoint::Checkpoint;
use hearth_engine::status::Fault;
use hearth_hub::{EMBER, FoundModel, HubCache, HubError, Location, locate};
use hearth_model::family;

use crate::{control::types::ModelCard, error::sentence};

/// Ember, the models of the Hugging Face cache, and those in `folders`.
pub fn cards(folders: &[PathBuf]) -> Vec<ModelCard> {
    let mut cards = vec![ember()];
    if let Some(cache) = HubCache::from_env() {
        let ids = cache.ids();
        cards.extend(ids.iter().map(|id| {
            match cache.snapshot(id).and_then(|path| hearth_hub::read(&path, Some(id))) {
                Ok(found) => described(&found),
                Err(error) => broken(id, &error),
            }
        }));
    }
    for folder in folders {
        // A profile is used from other working folders too.
        let found = hearth_hub::in_folder(&folder.canonicalize().unwrap_or_else(|_| folder.clone()));
        cards.extend(found.iter().map(|found| match found {
            Ok(found) => described(found),
            Err(error) => broken(&folder.to_string_lossy(), error),
        }));
    }
    cards
}

/// The card of what a profile names.
pub fn card(model: &str) -> Result<ModelCard, HubError> {
    match locate(model, HubCache::from_env().as_ref())? {
        Location::BuiltIn => Ok(ember()),
        Location::Folder { path, id } => Ok(described(&hearth_hub::read(&path, id.as_deref())?)),
    }
}

/// A folder that holds a model, or folders of models, as the settings keep it. The fault says why it is none.
pub(crate) fn importable(folder: &str) -> Result<PathBuf, Fault> {
    let path = hearth_hub::expanded(folder.trim());
    if !path.is_absolute() {
        let text = format!("{folder:?} does not say where on this machine it is.");
        return Err(Fault::new("not_absolute", text, "Give the whole path, beginning with / or ~/."));
    }
    let path = path.canonicalize().map_err(|_| fault(&HubError::NoFolder { path }))?;
    hearth_hub::refuse_gguf(&path).map_err(|error| fault(&error))?;
    match hearth_hub::in_folder(&path).into_iter().next() {
        None => Err(fault(&HubError::NoConfig { path })),
        Some(Err(error)) => Err(fault(&error)),
        Some(Ok(_)) => Ok(path),
    }
}

/// A model that was not found, as a message.
pub fn fault(error: &HubError) -> Fault {
    Fault::new(error.code(), sentence(&error.to_string()), error.next_step())
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
            ModelCard { fault: Some(fault), ..card }
        }
    }
}

/// The card of a folder.
pub(crate) fn described(found: &FoundModel) -> ModelCard {
    let name = found.id.trim_end_matches('/').rsplit('/').next().unwrap_or(&found.id).to_owned();
    let (family, max_context, fault) = match family::read(&found.config) {
        Ok(spec) => (Some(spec.family.clone()), u32::try_from(spec.context).ok(), None),
        Err(error) => {
            let fault = Fault::new(error.code(), sentence(&error.to_string()), error.next_step());
            (None, None, Some(fault))
        }
    };
    ModelCard {
        id: found.id.clone(),
        name,
        demonstration: false,
        family,
        fault,
        bytes: found.bytes as f64,
        max_context,
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
