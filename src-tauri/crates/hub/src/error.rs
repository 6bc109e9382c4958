//! What can be wrong with a model's name or place, on disk or on the hub: a code for machines, a sentence for people, and the
//! next step.

use std::{fmt::Display, io, path::PathBuf, time::Duration};

use serde::{Serialize, Serializer};

/// A model that was named and cannot be found, read, fetched or kept.
#[derive(Debug, thiserror::Error, Serialize)]
#[serde(untagged)]
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
    /// A repository of GGUF files, of which somebody has to choose one.
    #[error("{place} holds GGUF files, of which one has to be chosen: {}", list(files))]
    Gguf {
        /// The repository.
        place: String,
        /// Names of those that can be.
        files: Vec<String>,
    },
    /// A repository without the file that was asked for.
    #[error("{place} has no GGUF file {file:?}; it has: {}", list(files))]
    NoSuchFile {
        /// The repository.
        place: String,
        /// The name.
        file: String,
        /// Names of those that can be chosen.
        files: Vec<String>,
    },
    /// A folder with several GGUF models.
    #[error("{path} holds {count} GGUF models")]
    SeveralGguf {
        /// The folder.
        path: PathBuf,
        /// How many.
        count: usize,
    },
    /// A file that cannot be read.
    #[error("{path} cannot be read: {cause}")]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        #[serde(serialize_with = "as_text")]
        cause: io::Error,
    },
    /// A file that cannot be written, for another reason than a full disk.
    #[error("{path} cannot be written: {cause}")]
    Unwritable {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        #[serde(serialize_with = "as_text")]
        cause: io::Error,
    },
    /// config.json is not JSON.
    #[error("{path} is not valid JSON: {cause}")]
    BadConfig {
        /// The file.
        path: PathBuf,
        /// Parser's reason with line and column.
        #[serde(serialize_with = "as_text")]
        cause: serde_json::Error,
    },
    /// Paths travel as text in settings and messages.
    #[error("the path {path:?} is not valid UTF-8")]
    NotUtf8 {
        /// The path.
        path: PathBuf,
    },
    /// The environment names no place for the cache.
    #[error("there is no place for downloads: HF_HUB_CACHE, HF_HOME and HOME are not set")]
    NoCache,
    /// HF_ENDPOINT is no address.
    #[error("HF_ENDPOINT is {found:?}, which is not an http address")]
    BadEndpoint {
        /// What it is.
        found: String,
    },
    /// Network access was switched off.
    #[error("HF_HUB_OFFLINE is set, so nothing is asked of the hub")]
    Offline,
    /// No connection, or it was lost.
    #[error("{host} cannot be reached: {cause}")]
    Unreachable {
        /// The host.
        host: String,
        /// What the connection said.
        cause: String,
    },
    /// A connection that stopped delivering.
    #[error("{host} has sent nothing for {} s", .after.as_secs())]
    Stalled {
        /// The host.
        host: String,
        /// The limit that passed.
        #[serde(serialize_with = "as_seconds")]
        after: Duration,
    },
    /// The server asks to wait, or has a fault of its own.
    #[error("{host} answered with status {status}")]
    ServerFault {
        /// The host.
        host: String,
        /// HTTP status, 408, 429 or 5xx.
        status: u16,
        /// How long it asked to wait.
        #[serde(skip)]
        wait: Option<Duration>,
    },
    /// No such repository, or a private one.
    #[error("{id} is not on the hub, or it is private")]
    NotOnHub {
        /// Hugging Face id.
        id: String,
    },
    /// The repository is there, the revision is not.
    #[error("{id} has no revision {revision}")]
    NoRevision {
        /// Hugging Face id.
        id: String,
        /// Branch, tag or commit.
        revision: String,
    },
    /// The conditions of the repository have to be accepted first.
    #[error("{id} is gated: its owner wants its conditions to be accepted first")]
    Gated {
        /// Hugging Face id.
        id: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The token is not accepted.
    #[error("the Hugging Face token is refused")]
    BadToken,
    /// An answer that does not follow the hub's protocol.
    #[error("{host} gave an answer that is not understood: {what}")]
    BadAnswer {
        /// The host.
        host: String,
        /// What is wrong with it.
        what: String,
    },
    /// A file is not what the listing of its commit said.
    #[error("{file} was changed on the hub while it was fetched")]
    Changed {
        /// The file.
        file: String,
    },
    /// The repository holds no weights that Hearth reads.
    #[error("{id} holds no safetensors")]
    NoWeights {
        /// Hugging Face id.
        id: String,
    },
    /// What was fetched is not what the hub says it should be, twice.
    #[error("{file} came damaged twice: its {what} is not the one the hub gives")]
    Damaged {
        /// The file.
        file: String,
        /// `size` or `checksum`.
        what: &'static str,
    },
    /// The disk has too little room.
    #[error("{} GB are needed in {folder}, {} GB are free", gb(*.needed), gb(*.free))]
    DiskFull {
        /// Where.
        folder: PathBuf,
        /// Bytes still to be written, with the margin.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// Another program is fetching the same file.
    #[error("another program is downloading {file}")]
    Busy {
        /// The file.
        file: String,
    },
}

/// A reason in the words of whoever gave it.
fn as_text<S: Serializer>(reason: &impl Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(reason)
}

fn as_seconds<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(time.as_secs())
}

fn gb(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e9)
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
            HubError::Gguf { .. } => "gguf_not_supported",
            HubError::NoSuchFile { .. } => "no_such_file",
            HubError::SeveralGguf { .. } => "gguf_ambiguous",
            HubError::Unreadable { .. } => "unreadable",
            HubError::Unwritable { .. } => "unwritable",
            HubError::BadConfig { .. } => "bad_config",
            HubError::NotUtf8 { .. } => "path_not_utf8",
            HubError::NoCache => "no_cache_folder",
            HubError::BadEndpoint { .. } => "bad_endpoint",
            HubError::Offline => "hub_offline",
            HubError::Unreachable { .. } => "hub_unreachable",
            HubError::Stalled { .. } => "hub_stalled",
            HubError::ServerFault { status: 429, .. } => "hub_busy",
            HubError::ServerFault { .. } => "hub_fault",
            HubError::NotOnHub { .. } => "not_on_hub",
            HubError::NoRevision { .. } => "no_such_revision",
            HubError::Gated { .. } => "gated_model",
            HubError::BadToken => "bad_hub_token",
            HubError::BadAnswer { .. } => "hub_answer",
            HubError::Changed { .. } => "changed_on_hub",
            HubError::NoWeights { .. } => "no_weights",
            HubError::Damaged { .. } => "damaged_download",
            HubError::DiskFull { .. } => "disk_full",
            HubError::Busy { .. } => "download_busy",
        }
    }

    /// Whether waiting helps: the fault lies between here and the server, not in what was asked for.
    pub fn passes(&self) -> bool {
        matches!(
            self,
            HubError::Unreachable { .. }
                | HubError::Stalled { .. }
                | HubError::ServerFault { .. }
                | HubError::BadAnswer { .. }
        )
    }

    /// What to do about it, one sentence.
    pub fn next_step(&self) -> &'static str {
        match self {
            HubError::BadName { .. } => "Run `hearth list` to see the models on this machine.",
            HubError::NotInCache { .. } => {
                "Download it with `hearth pull`, or set HF_HOME to the cache that holds it."
            }
            HubError::NoSnapshot { .. } => "Download it again; a finished download keeps what is there.",
            HubError::NoFolder { .. } => "Check the path.",
            HubError::NoConfig { .. } => {
                "Point at the folder that holds config.json and the *.safetensors files, or at a GGUF file."
            }
            HubError::Gguf { .. } => {
                "Choose one of the files (on the page Models, or with hearth pull ID --file NAME.gguf), or a safetensors version of this model."
            }
            HubError::NoSuchFile { .. } => "Give one of these names.",
            HubError::SeveralGguf { .. } => "Give the path of one of the files.",
            HubError::Unreadable { .. } => "Check the permissions of the file.",
            HubError::Unwritable { .. } => "Check that the folder belongs to you and its disk is writable.",
            HubError::BadConfig { .. } => "Download the file again.",
            HubError::NotUtf8 { .. } => "Rename the folder, or reach it through a link with a plain name.",
            HubError::NoCache => "Set HF_HOME to a folder with room for models.",
            HubError::BadEndpoint { .. } => {
                "Unset HF_ENDPOINT, or set it to an address like https://huggingface.co."
            }
            HubError::Offline => "Unset HF_HUB_OFFLINE to download or search.",
            HubError::Unreachable { .. } | HubError::Stalled { .. } => {
                "Check this machine's connection; what was fetched is kept and a download goes on by itself."
            }
            HubError::ServerFault { status: 429, .. } => {
                "Wait; it goes on by itself. A Hugging Face token raises the limit."
            }
            HubError::ServerFault { .. } => {
                "Wait; what was fetched is kept and a download goes on by itself."
            }
            HubError::NotOnHub { .. } => {
                "Check the spelling; for a private model, give a Hugging Face token."
            }
            HubError::NoRevision { .. } => "Leave the revision out to get the newest one.",
            HubError::Gated { with_token: false, .. } => {
                "Accept its conditions on huggingface.co, then give a token of that account."
            }
            HubError::Gated { .. } => {
                "Open its page on huggingface.co with the account of the token, accept the conditions, and try again."
            }
            HubError::BadToken => "Make a new token with read access at huggingface.co/settings/tokens.",
            HubError::BadAnswer { .. } => {
                "Check whether a proxy or sign-in page stands between, or HF_ENDPOINT points elsewhere."
            }
            HubError::Changed { .. } => "Start the download again; what did not change is kept.",
            HubError::NoWeights { .. } => "Choose a model that is published as safetensors.",
            HubError::Damaged { .. } => "Check the connection and the disk, then start the download again.",
            HubError::DiskFull { .. } => {
                "Make room, or set HF_HOME to a larger disk, then go on; what was fetched is kept."
            }
            HubError::Busy { .. } => "Wait for it to end, or end it, then go on.",
        }
    }
}

/// A few names for a sentence.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    if text.is_empty() { "none".into() } else { text }
}
