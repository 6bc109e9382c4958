//! What can go wrong in the appliance itself, as a code, a sentence and the next step.

use std::{fmt::Display, net::SocketAddr, path::PathBuf};

use hearth_engine::status::Fault;
use serde::{Serialize, Serializer};

/// A refusal or failure of the appliance.
#[derive(Debug, thiserror::Error, Serialize)]
#[serde(untagged)]
pub enum ApplianceError {
    /// Neither XDG variables nor HOME are set.
    #[error("there is no home folder to keep settings in: HOME and XDG_CONFIG_HOME are not set")]
    NoHome,
    /// A file or folder cannot be read or written.
    #[error("{path} cannot be {doing}: {cause}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// `read`, `written`, `created` ...
        doing: &'static str,
        /// The system's reason.
        #[serde(serialize_with = "as_text")]
        cause: std::io::Error,
    },
    /// A folder or file of ours that belongs to somebody else.
    #[error("{path} belongs to another user (uid {uid})")]
    Foreign {
        /// The file or folder.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// The settings file is not what it should be; it is left as it is.
    #[error("{path}, line {line}: {problem}")]
    Settings {
        /// The settings file.
        path: PathBuf,
        /// 1-based.
        line: usize,
        /// What is wrong, with the key.
        problem: String,
    },
    /// A setting sent over the control API or the command line.
    #[error("{key}: {problem}")]
    BadSetting {
        /// Dotted key.
        key: &'static str,
        /// What is wrong with the value given.
        problem: String,
    },
    /// Another appliance uses this settings folder.
    #[error("another Hearth appliance{} already uses the settings in {folder}", at(.pid, .url))]
    Locked {
        /// The settings folder.
        folder: PathBuf,
        /// Its process, if it told.
        pid: Option<u32>,
        /// Its address, if it told.
        url: Option<String>,
    },
    /// The port is taken.
    #[error("port {} is in use by {holder}", .address.port())]
    PortInUse {
        /// Where Hearth wanted to listen.
        address: SocketAddr,
        /// The process, as well as it is known.
        holder: String,
    },
    /// Listening failed for another reason.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// Where.
        address: String,
        /// The system's reason.
        #[serde(serialize_with = "as_text")]
        cause: std::io::Error,
    },
    /// The history file cannot be used.
    #[error("the history {path} cannot be opened: {cause}")]
    History {
        /// The database.
        path: PathBuf,
        /// SQLite's reason.
        #[serde(serialize_with = "as_text")]
        cause: rusqlite::Error,
    },
    /// The conversations cannot be read or written.
    #[error("the chats cannot be kept: {cause}")]
    Chats {
        /// SQLite's reason.
        cause: String,
    },
    /// The benchmarks cannot be read or written.
    #[error("the benchmarks cannot be kept: {cause}")]
    Benchmarks {
        /// SQLite's reason.
        cause: String,
    },
    /// The engine's process cannot be started.
    #[error("the engine cannot be started from {program}: {cause}")]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The system's reason.
        #[serde(serialize_with = "as_text")]
        cause: std::io::Error,
    },
    /// There is no appliance to talk to.
    #[error("no Hearth appliance runs on the settings in {folder}")]
    NotRunning {
        /// The settings folder.
        folder: PathBuf,
    },
    /// There is one, but it does not answer.
    #[error("the appliance at {url} does not answer: {cause}")]
    NoAnswer {
        /// Its address.
        url: String,
        /// What happened.
        cause: String,
    },
}

/// A reason in the words of whoever gave it.
fn as_text<S: Serializer>(reason: &impl Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(reason)
}

fn at(pid: &Option<u32>, url: &Option<String>) -> String {
    let pid = pid.map(|pid| format!(" (pid {pid})"));
    let url = url.as_ref().map(|url| format!(" at {url}"));
    pid.unwrap_or_default() + &url.unwrap_or_default()
}

impl ApplianceError {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            ApplianceError::NoHome => "no_home",
            ApplianceError::File { .. } => "file",
            ApplianceError::Foreign { .. } => "foreign_file",
            ApplianceError::Settings { .. } => "bad_settings_file",
            ApplianceError::BadSetting { .. } => "bad_setting",
            ApplianceError::Locked { .. } => "already_running",
            ApplianceError::PortInUse { .. } => "port_in_use",
            ApplianceError::Listen { .. } => "cannot_listen",
            ApplianceError::History { .. } => "history",
            ApplianceError::Chats { .. } => "chats",
            ApplianceError::Benchmarks { .. } => "benchmarks",
            ApplianceError::Spawn { .. } => "spawn",
            ApplianceError::NotRunning { .. } => "not_running",
            ApplianceError::NoAnswer { .. } => "no_answer",
        }
    }

    /// What to do about it, one sentence.
    pub fn next_step(&self) -> String {
        match self {
            ApplianceError::NoHome => {
                "Set XDG_CONFIG_HOME and XDG_STATE_HOME to folders that may be written.".into()
            }
            ApplianceError::File { .. } => {
                "Check that the folder exists, belongs to you and has room.".into()
            }
            ApplianceError::Foreign { path, .. } => {
                format!("Give it back with `chown`, or remove {} and start again.", path.display())
            }
            ApplianceError::Settings { path, .. } => {
                format!("Correct the line, or move {} away to start with the defaults.", path.display())
            }
            ApplianceError::BadSetting { .. } => "Choose another value.".into(),
            ApplianceError::Locked { url: Some(url), .. } => {
                format!("Open {url}, or stop that appliance first.")
            }
            ApplianceError::Locked { .. } => "Use the running appliance, or stop it first.".into(),
            ApplianceError::PortInUse { address, .. } => format!(
                "Stop that process, or choose another port: `hearth up --port {}`.",
                address.port().checked_add(1).unwrap_or(8000)
            ),
            ApplianceError::Listen { .. } => "Choose an address of this machine.".into(),
            ApplianceError::History { .. } => "Move the file away; a new history is begun.".into(),
            ApplianceError::Chats { .. } | ApplianceError::Benchmarks { .. } => {
                "Check that the disk has room and that Hearth's state folder is yours.".into()
            }
            ApplianceError::Spawn { .. } => "Install Hearth again; its program was moved or removed.".into(),
            ApplianceError::NotRunning { .. } => "Start one with `hearth up`.".into(),
            ApplianceError::NoAnswer { .. } => {
                "Try again; if it stays so, stop that process and run `hearth up`.".into()
            }
        }
    }

    /// The same as a message.
    pub fn fault(&self) -> Fault {
        let evidence = match self {
            ApplianceError::Settings { problem, .. } => Some(problem.clone()),
            _ => None,
        };
        let fault = Fault::new(self.code(), sentence(&self.to_string()), self.next_step());
        Fault { evidence, ..fault.with_fields(self) }
    }
}

/// First letter large, a full stop at the end. A path or a Hugging Face id stays as it is spelt.
pub(crate) fn sentence(text: &str) -> String {
    let text = text.trim();
    if text.split_whitespace().next().is_some_and(|word| word.contains('/')) {
        let stop = if text.ends_with(['.', '!', '?']) { "" } else { "." };
        return format!("{text}{stop}");
    }
    let mut chars = text.chars();
    let start: String = chars.next().map(|c| c.to_uppercase().collect()).unwrap_or_default();
    let stop = if text.ends_with(['.', '!', '?']) { "" } else { "." };
    format!("{start}{}{stop}", chars.as_str())
}
