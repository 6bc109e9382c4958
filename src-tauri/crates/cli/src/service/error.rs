//! What can go wrong with the service, as a code, a sentence and the next step.

use std::path::PathBuf;

/// A refusal or failure of `hearth service`.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// No systemd manager answers.
    #[error("systemd does not run here{}", after(.0))]
    NoSystemd(String),
    /// systemctl refused.
    #[error("`{command}` failed{}", after(.said))]
    Systemctl {
        /// What was run.
        command: String,
        /// What it wrote.
        said: String,
    },
    /// A unit of that name that Hearth did not write.
    #[error("{path} was not written by Hearth")]
    Foreign {
        /// The unit file.
        path: PathBuf,
    },
    /// A file or folder cannot be read or written.
    #[error("{path} cannot be {doing}: {cause}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// `read`, `written`, `removed` ...
        doing: &'static str,
        /// The system's reason.
        cause: std::io::Error,
    },
    /// A system unit is root's to write.
    #[error("a system service can be changed by root only")]
    NotRoot {
        /// The command to repeat with sudo.
        command: &'static str,
    },
    /// Root without a person behind it.
    #[error("it is not known whose settings and models the system service is for")]
    NobodyToRunAs,
    /// The account cannot be used.
    #[error("the service cannot run as {name:?}: {problem}")]
    BadAccount {
        /// The name given.
        name: String,
        /// Why not.
        problem: &'static str,
    },
    /// The user's and the system's manager would fight over the same settings.
    #[error("Hearth is installed as a {other} service already ({path})")]
    OtherScope {
        /// `user` or `system`.
        other: &'static str,
        /// Its unit file.
        path: PathBuf,
    },
    /// Nothing to remove.
    #[error("Hearth is not installed as a {scope} service")]
    NotInstalled {
        /// `user` or `system`.
        scope: &'static str,
    },
    /// The running program has no file that a unit could name.
    #[error("the program {path} cannot be named in a unit: {problem}")]
    Program {
        /// Where it was.
        path: PathBuf,
        /// Why not.
        problem: &'static str,
    },
    /// Neither HOME nor the XDG variables are set.
    #[error("there is no home folder: HOME is not set")]
    NoHome,
}

fn after(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

impl ServiceError {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            ServiceError::NoSystemd(_) => "no_systemd",
            ServiceError::Systemctl { .. } => "systemctl_failed",
            ServiceError::Foreign { .. } => "foreign_unit",
            ServiceError::File { .. } => "file",
            ServiceError::NotRoot { .. } => "not_root",
            ServiceError::NobodyToRunAs => "nobody_to_run_as",
            ServiceError::BadAccount { .. } => "bad_account",
            ServiceError::OtherScope { .. } => "other_scope",
            ServiceError::NotInstalled { .. } => "not_installed",
            ServiceError::Program { .. } => "bad_program",
            ServiceError::NoHome => "no_home",
        }
    }

    /// What to do about it, one sentence.
    pub fn next_step(&self) -> String {
        match self {
            ServiceError::NoSystemd(_) => {
                "Use `hearth up` under another supervisor, or write the unit elsewhere: `hearth service unit`.".into()
            }
            ServiceError::Systemctl { .. } => "Look at `systemctl status hearth` (with --user for a user service).".into(),
            ServiceError::Foreign { path } => format!("Move {} away first.", path.display()),
            ServiceError::File { .. } => "Check that the folder exists, belongs to you and has room.".into(),
            ServiceError::NotRoot { command } => {
                format!("Run `sudo {command}`, or leave --system away for a service of your own.")
            }
            ServiceError::NobodyToRunAs => "Name the account: --run-as NAME.".into(),
            ServiceError::BadAccount { .. } => "Name the account whose models and settings are used: --run-as NAME.".into(),
            ServiceError::OtherScope { other: "system", .. } => {
                "Remove that one first: `sudo hearth service uninstall --system`.".into()
            }
            ServiceError::OtherScope { .. } => "Remove that one first: `hearth service uninstall`.".into(),
            ServiceError::NotInstalled { scope: "user" } => {
                "See `hearth service status`; a system service is removed with --system.".into()
            }
            ServiceError::NotInstalled { .. } => "See `hearth service status`.".into(),
            ServiceError::Program { .. } => "Install Hearth in a folder that stays, such as /usr/local/bin, and run that one.".into(),
            ServiceError::NoHome => "Set HOME to your home folder.".into(),
        }
    }
}
