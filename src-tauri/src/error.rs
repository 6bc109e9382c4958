//! Why the window has no appliance to show: a code, a sentence and a next step for the waiting page.

use std::io;
use std::path::PathBuf;

use serde_json::{Value, json};

/// Everything that keeps the window from the dashboard.
#[derive(Debug, thiserror::Error)]
pub enum DesktopError {
    /// `hearth` is neither beside this program nor in PATH.
    #[error("The program `hearth` was not found.")]
    ProgramMissing {
        /// Where it was expected first.
        beside: PathBuf,
    },
    /// The program is there and would not run.
    #[error("The program `hearth` could not be run.")]
    CannotRun {
        /// What was run.
        program: PathBuf,
        /// The system's answer.
        cause: io::Error,
    },
    /// Its log or the record of it could not be written.
    #[error("Hearth's state folder cannot be written.")]
    StateFolder {
        /// File or folder.
        path: PathBuf,
        /// The system's answer.
        cause: io::Error,
    },
    /// It ended before it answered.
    #[error("Hearth ended while it was starting ({status}).")]
    EndedEarly {
        /// Exit status.
        status: String,
        /// The last lines it wrote.
        said: String,
    },
    /// It runs and does not answer.
    #[error("Hearth was started but does not answer after {seconds} seconds.")]
    NoAnswer {
        /// How long.
        seconds: u64,
        /// The last lines it wrote.
        said: String,
    },
    /// It answered before and does no more.
    #[error("Hearth is not running any more.")]
    Gone {
        /// The last lines it wrote, if this window started it.
        said: String,
    },
}

impl DesktopError {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            DesktopError::ProgramMissing { .. } => "hearth_missing",
            DesktopError::CannotRun { .. } => "hearth_cannot_run",
            DesktopError::StateFolder { .. } => "state_folder",
            DesktopError::EndedEarly { .. } => "ended_early",
            DesktopError::NoAnswer { .. } => "no_answer",
            DesktopError::Gone { .. } => "appliance_gone",
        }
    }

    fn next_step(&self) -> &'static str {
        match self {
            DesktopError::ProgramMissing { .. } => {
                "Install it beside this window's program, or build it with `bash installers/run.sh`."
            }
            DesktopError::CannotRun { .. } => "Check that the file may be executed, then try again.",
            DesktopError::StateFolder { .. } => "Check the folder's owner and free space, then try again.",
            DesktopError::EndedEarly { .. } => "Its last lines are below. Mend the cause, then try again.",
            DesktopError::NoAnswer { .. } => {
                "Its last lines are below. Try again, or run `hearth up` to watch it."
            }
            DesktopError::Gone { .. } => "Try again to start it; this window also returns when it is back.",
        }
    }

    fn evidence(&self) -> Option<String> {
        match self {
            DesktopError::ProgramMissing { beside } => {
                Some(format!("Looked for {} and in PATH.", beside.display()))
            }
            DesktopError::CannotRun { program, cause } => Some(format!("{}: {cause}", program.display())),
            DesktopError::StateFolder { path, cause } => Some(format!("{}: {cause}", path.display())),
            DesktopError::EndedEarly { said, .. }
            | DesktopError::NoAnswer { said, .. }
            | DesktopError::Gone { said, .. } => Some(said.clone()).filter(|said| !said.is_empty()),
        }
    }

    /// The shape of a fault of the control API: code, message, next_step, evidence.
    pub fn fault(&self) -> Value {
        json!({
            "code": self.code(),
            "message": self.to_string(),
            "next_step": self.next_step(),
            "evidence": self.evidence(),
        })
    }
}
