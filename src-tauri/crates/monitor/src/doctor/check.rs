//! What a check says: its state, one sentence, what was seen, and how to put it right.

use serde::{Deserialize, Serialize};
use ts_rs::TS;

use super::said::Said;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(rename_all = "snake_case")]
pub enum CheckState {
    /// Nothing to do.
    Pass,
    /// Not looked at, or nothing to look at; the finding says why.
    Skipped,
    /// It works, but slower, hotter or tighter than it should.
    Warn,
    /// Something does not work until it is put right.
    Fail,
}

/// What Hearth can do itself when a person presses the button.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(rename_all = "snake_case")]
pub enum FixAction {
    /// Take other users' rights off Hearth's own files.
    CloseFiles,
    /// Look whether Hugging Face answers; the only check that leaves the machine.
    AskHub,
}

/// How to put it right.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Fix {
    /// One or two sentences.
    pub text: Said,
    /// Commands for a terminal, in order; each is complete.
    pub commands: Vec<String>,
    /// What a button can do instead.
    pub action: Option<FixAction>,
}

impl Fix {
    /// Words alone.
    pub(super) fn words(text: Said) -> Fix {
        Fix { text, ..Fix::default() }
    }

    /// Words and one command.
    pub(super) fn command(text: Said, command: impl Into<String>) -> Fix {
        Fix { text, commands: vec![command.into()], action: None }
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Check {
    /// Stable, snake_case.
    pub code: String,
    /// What is looked at, two or three words.
    pub title: String,
    /// How it came out.
    pub state: CheckState,
    /// One sentence: what was found.
    pub finding: Said,
    /// What was seen, one thing a line.
    pub evidence: Vec<Said>,
    /// How to put it right; null if there is nothing to do.
    pub fix: Option<Fix>,
}

/// Writes the checks of one subject: code and title are said once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject(pub &'static str, pub &'static str);

impl Subject {
    fn check(self, state: CheckState, finding: Said, fix: Option<Fix>) -> Check {
        let Subject(code, title) = self;
        Check { code: code.into(), title: title.into(), state, finding, evidence: Vec::new(), fix }
    }

    pub(super) fn pass(self, finding: Said) -> Check {
        self.check(CheckState::Pass, finding, None)
    }

    pub(super) fn skipped(self, finding: Said) -> Check {
        self.check(CheckState::Skipped, finding, None)
    }

    pub(super) fn warn(self, finding: Said, fix: Fix) -> Check {
        self.check(CheckState::Warn, finding, Some(fix))
    }

    pub(super) fn fail(self, finding: Said, fix: Fix) -> Check {
        self.check(CheckState::Fail, finding, Some(fix))
    }
}

impl Check {
    /// The same check with what was seen.
    pub(super) fn seen(mut self, evidence: impl IntoIterator<Item = Said>) -> Check {
        self.evidence.extend(evidence);
        self
    }
}
