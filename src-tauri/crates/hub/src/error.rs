//! What can be wrong with a model's name or place: a code for machines, a sentence for people, and the next step.

use std::path::PathBuf;

/// A model that was named and cannot be found or read.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Neither a folder nor a Hugging Face id.
    #[error(
        "{name:?} is not a model: expected `ember`, a folder, or a Hugging Face id such as Qwen/Qwen3.5-35B-A3B"
    )]
    BadName {
        /// What was given.
        name: String,
    },
    /// A well-formed id that is not in the cache.
    #[error("{id} is not on this machine (looked in {cache})")]
    NotInCache {
        /// Hugging Face id.
        id: String,
        /// The cache that was searched.
        cache: PathBuf,
    },
    /// The cache has the repository but no complete snapshot of it.
    #[error("{id} was downloaded only in part: {folder} holds no snapshot with a config.json")]
    NoSnapshot {
        /// Hugging Face id.
        id: String,
        /// Folder of the repository in the cache.
        folder: PathBuf,
    },
    /// A path that leads nowhere.
    #[error("there is no folder {path}")]
    NoFolder {
        /// The path.
        path: PathBuf,
    },
    /// A folder that holds no model.
    #[error("{path} is not a model folder: it has no config.json")]
    NoConfig {
        /// The folder.
        path: PathBuf,
    },
    /// A file that cannot be read.
    #[error("{path} cannot be read: {cause}")]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        cause: std::io::Error,
    },
    /// config.json is not JSON.
    #[error("{path} is not valid JSON: {cause}")]
    BadConfig {
        /// The file.
        path: PathBuf,
        /// Parser's reason with line and column.
        cause: serde_json::Error,
    },
    /// Paths travel as text in settings and messages.
    #[error("the path {path:?} is not valid UTF-8")]
    NotUtf8 {
        /// The path.
        path: PathBuf,
    },
}

impl HubError {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            HubError::BadName { .. } => "bad_model_name",
            HubError::NotInCache { .. } => "model_not_on_disk",
            HubError::NoSnapshot { .. } => "model_incomplete",
            HubError::NoFolder { .. } => "no_such_folder",
            HubError::NoConfig { .. } => "not_a_model_folder",
            HubError::Unreadable { .. } => "unreadable",
            HubError::BadConfig { .. } => "bad_config",
            HubError::NotUtf8 { .. } => "path_not_utf8",
        }
    }

    /// What to do about it, one sentence.
    pub fn next_step(&self) -> &'static str {
        match self {
            HubError::BadName { .. } => "Run `hearth list` to see the models on this machine.",
            HubError::NotInCache { .. } => {
                "Download it with `hf download`, or set HF_HOME to the cache that holds it."
            }
            HubError::NoSnapshot { .. } => "Download it again; a finished download keeps what is there.",
            HubError::NoFolder { .. } => "Check the path.",
            HubError::NoConfig { .. } => {
                "Point at the folder that holds config.json and the *.safetensors files."
            }
            HubError::Unreadable { .. } => "Check the permissions of the file.",
            HubError::BadConfig { .. } => "Download the file again.",
            HubError::NotUtf8 { .. } => "Rename the folder, or reach it through a link with a plain name.",
        }
    }
}
