//! The models Hearth suggests: a list that comes with the program and is versioned with it. It says only what was found in the
//! models' own files; what is not known is left out, and the hub is asked when a person looks at a model.

use serde::{Deserialize, Serialize};

/// The catalogue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// Grows with every change of the list.
    pub version: u32,
    /// Day on which it was last looked through, ISO 8601.
    pub checked: String,
    /// Best first.
    pub models: Vec<CatalogueEntry>,
}

/// One suggestion: a checkpoint, not a model in all its formats.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogueEntry {
    /// For people.
    pub name: String,
    /// Hugging Face id.
    pub repository: String,
    /// Commit to take; null: the newest.
    #[serde(default)]
    pub revision: Option<String>,
    /// `model_type` of its config.json.
    pub family: String,
    /// Parameters, all experts together; null if not known.
    #[serde(default)]
    pub parameters: Option<f64>,
    /// How its weights are stored, in words; null if it varies.
    #[serde(default)]
    pub format: Option<String>,
    /// Bytes of a download; null until the hub is asked.
    #[serde(default)]
    pub bytes: Option<f64>,
    /// Weights one token reads, bytes, batch 1 without drafts; null if not known.
    #[serde(default)]
    pub bytes_per_token: Option<f64>,
    /// Longest context, tokens; null if not known.
    #[serde(default)]
    pub context: Option<u32>,
    /// Drafter that comes with it; null if there is none or it is not known.
    #[serde(default)]
    pub drafter: Option<String>,
    /// Licence; null until the hub is asked.
    #[serde(default)]
    pub licence: Option<String>,
    /// A feature this program lacks and the checkpoint needs, besides its family; null if there is none.
    #[serde(default)]
    pub needs: Option<String>,
    /// What it is good for, one or two short sentences.
    pub good_for: String,
}

impl Catalogue {
    /// The list in this program.
    pub fn builtin() -> Catalogue {
        serde_json::from_str(include_str!("catalogue.json")).expect("the catalogue is read by a test")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::locate::is_id;

    #[test]
    fn every_entry_names_a_repository_once_and_has_sound_numbers() {
        let catalogue = Catalogue::builtin();
        let mut seen = BTreeSet::new();
        for entry in &catalogue.models {
            assert!(is_id(&entry.repository) && seen.insert(&entry.repository), "{}", entry.repository);
            for number in [entry.parameters, entry.bytes, entry.bytes_per_token].into_iter().flatten() {
                assert!(number > 1e9, "{}: {number}", entry.repository);
            }
            // Nothing stores more than four bytes per parameter.
            if let (Some(bytes), Some(parameters)) = (entry.bytes, entry.parameters) {
                assert!(bytes < 4.0 * parameters, "{}", entry.repository);
            }
        }
        assert!(catalogue.version > 0 && catalogue.models.len() > 5);
    }
}
