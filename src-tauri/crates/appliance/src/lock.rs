//! One appliance per settings folder: a locked file that says who holds it. The kernel frees the lock with the process.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::ApplianceError;

/// What the lock file says, for the next one who comes and for the window that looks for a running appliance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Occupant {
    /// Process id of the appliance.
    pub pid: u32,
    /// `http://127.0.0.1:8000`; null until it listens.
    pub url: Option<String>,
}

/// The held lock; dropping it lets the next appliance in.
#[derive(Debug)]
pub struct SettingsLock {
    file: File,
}

impl SettingsLock {
    /// Takes the lock of a settings folder, or says who has it.
    pub fn take(folder: &Path) -> Result<SettingsLock, ApplianceError> {
        let path = folder.join("appliance.lock");
        let failed = |cause| ApplianceError::File { path: path.clone(), doing: "locked", cause };
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {
                let mut lock = SettingsLock { file };
                lock.tell(None).map_err(failed)?;
                Ok(lock)
            }
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                let occupant: Option<Occupant> = serde_json::from_str(&text).ok();
                Err(ApplianceError::Locked {
                    folder: folder.into(),
                    pid: occupant.as_ref().map(|o| o.pid),
                    url: occupant.and_then(|o| o.url),
                })
            }
            Err(TryLockError::Error(cause)) => Err(failed(cause)),
        }
    }

    /// Writes the address into the file.
    pub fn tell(&mut self, url: Option<String>) -> std::io::Result<()> {
        let text = serde_json::to_vec(&Occupant { pid: std::process::id(), url })?;
        self.file.rewind()?;
        self.file.set_len(0)?;
        self.file.write_all(&text)
    }
}

/// Who runs on a settings folder now; null if nobody does.
pub fn occupant(folder: &Path) -> Option<Occupant> {
    let mut file = File::open(folder.join("appliance.lock")).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            file.read_to_string(&mut text).ok()?;
            serde_json::from_str(&text).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_is_told_who_is_first() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = SettingsLock::take(folder.path()).unwrap();
        first.tell(Some("http://127.0.0.1:8123".into())).unwrap();
        let error = SettingsLock::take(folder.path()).unwrap_err();
        assert_eq!(error.code(), "already_running");
        let text = error.to_string();
        assert!(
            text.contains(&std::process::id().to_string()) && text.contains("http://127.0.0.1:8123"),
            "{text}"
        );
        assert_eq!(occupant(folder.path()).unwrap().url.as_deref(), Some("http://127.0.0.1:8123"));
        drop(first);
        assert_eq!(occupant(folder.path()), None);
        SettingsLock::take(folder.path()).unwrap();
    }
}
