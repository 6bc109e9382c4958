//! Why the window has no appliance to show: a code, a sentence and a next step for the waiting page.

use std::io;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::words::Language;

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

    /// Sentence and next step.
    fn in_german(&self) -> (String, &'static str) {
        match self {
            DesktopError::ProgramMissing { .. } => (
                "Das Programm „hearth“ wurde nicht gefunden.".into(),
                "Es neben das Programm dieses Fensters legen, oder mit „bash installers/run.sh“ bauen.",
            ),
            DesktopError::CannotRun { .. } => (
                "Das Programm „hearth“ ließ sich nicht ausführen.".into(),
                "Prüfen, ob die Datei ausführbar ist, dann noch einmal versuchen.",
            ),
            DesktopError::StateFolder { .. } => (
                "Hearths Zustandsordner lässt sich nicht beschreiben.".into(),
                "Eigentümer und freien Platz des Ordners prüfen, dann noch einmal versuchen.",
            ),
            DesktopError::EndedEarly { status, .. } => (
                format!("Hearth endete, während es startete ({status})."),
                "Seine letzten Zeilen stehen unten. Die Ursache beheben, dann noch einmal versuchen.",
            ),
            DesktopError::NoAnswer { seconds, .. } => (
                format!("Hearth wurde gestartet, antwortet aber nach {seconds} Sekunden nicht."),
                "Seine letzten Zeilen stehen unten. Noch einmal versuchen, oder ihm mit „hearth up“ zusehen.",
            ),
            DesktopError::Gone { .. } => (
                "Hearth läuft nicht mehr.".into(),
                "Noch einmal versuchen, um es zu starten; ist es wieder da, kehrt dieses Fenster auch von selbst zurück.",
            ),
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
    pub fn fault(&self, language: Language) -> Value {
        let (message, next_step) = match language {
            Language::English => (self.to_string(), self.next_step()),
            Language::German => self.in_german(),
        };
        json!({
            "code": self.code(),
            "message": message,
            "next_step": next_step,
            "evidence": self.evidence(),
        })
    }
}
