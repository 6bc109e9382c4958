//! Small text and JSON files of a checkpoint, with errors that name the file. Called by `outline` and `checkpoint`.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

use crate::files::Files;
use crate::{CheckpointError, Result};

/// Largest configuration file that is read, bytes.
pub(crate) const MAX_CONFIG: u64 = 64 << 20;

/// Reads and parses a JSON file of at most `limit` bytes; `None` if there is none. `expected` describes its content.
pub(crate) fn read<T: DeserializeOwned>(
    files: &Files,
    file: &str,
    limit: u64,
    expected: &str,
) -> Result<Option<T>> {
    let Some(bytes) = files.read(file, limit)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| CheckpointError::InvalidJson {
        file: files.label(file),
        expected: expected.into(),
        found: error.to_string(),
    })
}

/// Reads a UTF-8 text file; `None` if there is none.
pub(crate) fn text(files: &Files, file: &str) -> Result<Option<String>> {
    let Some(bytes) = files.read(file, MAX_CONFIG)? else { return Ok(None) };
    let text = match bytes {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map(str::to_owned),
        Cow::Owned(bytes) => String::from_utf8(bytes).map_err(|error| error.utf8_error()),
    };
    text.map(Some).map_err(|error| CheckpointError::InvalidJson {
        file: files.label(file),
        expected: "UTF-8 text".into(),
        found: error.to_string(),
    })
}
