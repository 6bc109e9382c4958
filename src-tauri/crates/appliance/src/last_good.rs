//! The profile that served last, kept over restarts: what a service starts at boot, when asked to start a model at all. Written by
//! the supervisor at the moment an engine is ready, read by `Appliance::start`.

use std::{fs, io::ErrorKind, path::Path};

use crate::{control::types::Profile, places::write_whole};

/// Keeps a profile; a failure is told in the log and changes nothing else.
pub(crate) fn write(path: &Path, profile: &Profile) {
    let text = serde_json::to_vec(profile).expect("a profile is plain values, which JSON can hold");
    if let Err(error) = write_whole(path, &text) {
        tracing::warn!(%error, "the profile that serves was not kept for the next start");
    }
}

/// The profile that served last; null if none did, or if this version cannot read it any more.
pub(crate) fn read(path: &Path) -> Option<Profile> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "the profile that served last cannot be read");
            return None;
        }
    };
    let profile: Profile = serde_json::from_slice(&text)
        .inspect_err(|error| tracing::warn!(%error, path = %path.display(), "no profile that served last"))
        .ok()?;
    profile.check().is_ok().then_some(profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_served_is_started_again_and_rubbish_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last-good.json");
        assert_eq!(read(&path), None);
        let profile = Profile { model: "org/model".into(), context: Some(4096), ..Profile::default() };
        write(&path, &profile);
        assert_eq!(read(&path), Some(profile));
        for rubbish in [&b"{"[..], b"{\"model\": \"\"}", b"{\"unknown\": 1}", b"\xff"] {
            fs::write(&path, rubbish).unwrap();
            assert_eq!(read(&path), None, "{rubbish:?}");
        }
    }
}
