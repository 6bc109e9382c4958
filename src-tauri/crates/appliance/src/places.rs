//! Where the appliance keeps things: settings and keys, history and logs, sockets. All folders are 0700.

use std::{
    env, fs,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::ApplianceError;

/// Longest path of a Unix socket: `sun_path` has 108 bytes and ends with a zero (unix(7)).
const SOCKET_PATH_LIMIT: usize = 107;

/// The folders of one appliance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Settings, token, lock: `$XDG_CONFIG_HOME/hearth`.
    pub config: PathBuf,
    /// History, logs, measured figures: `$XDG_STATE_HOME/hearth`.
    pub state: PathBuf,
    /// Sockets: `$XDG_RUNTIME_DIR/hearth`, or a folder in `state`.
    pub runtime: PathBuf,
}

impl Places {
    /// The folders the XDG base directory specification gives; relative paths in the variables are ignored, as it asks.
    pub fn from_env() -> Result<Places, ApplianceError> {
        let folder = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = |rest: &str| folder("HOME").map(|home| home.join(rest)).ok_or(ApplianceError::NoHome);
        let config = folder("XDG_CONFIG_HOME").map_or_else(|| home(".config"), Ok)?.join("hearth");
        let state = folder("XDG_STATE_HOME").map_or_else(|| home(".local/state"), Ok)?.join("hearth");
        // Set, but not there: a container or `su` without a session.
        let session = folder("XDG_RUNTIME_DIR").filter(|dir| dir.is_dir());
        let runtime = session.map_or_else(|| state.join("run"), |dir| dir.join("hearth"));
        Ok(Places { config, state, runtime })
    }

    /// Creates what is missing, closes to others what is open, and removes sockets of appliances that were killed.
    pub fn prepare(&self) -> Result<(), ApplianceError> {
        [&self.config, &self.state, &self.runtime]
            .into_iter()
            .try_for_each(|folder| private_folder(folder))?;
        for entry in fs::read_dir(&self.runtime).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|name| name.strip_prefix("engine-")?.split_once('-'));
            // Another appliance, with other settings, may share this folder.
            if owner
                .is_some_and(|(pid, _)| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
            {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    /// The settings file.
    pub fn settings(&self) -> PathBuf {
        self.config.join("settings.toml")
    }

    /// The profile that served last.
    pub(crate) fn last_good(&self) -> PathBuf {
        self.state.join("last-good.json")
    }

    /// Prefixes that an engine keeps on disk.
    pub(crate) fn prefixes(&self) -> PathBuf {
        self.state.join("prefixes")
    }

    /// The control token.
    pub fn token(&self) -> PathBuf {
        self.config.join("control-token")
    }

    /// A path for a socket, in `runtime` or, where that path is too long for a socket, in a private folder of the temp folder.
    pub fn socket(&self, name: &str) -> Result<PathBuf, ApplianceError> {
        let path = self.runtime.join(name);
        if path.as_os_str().len() <= SOCKET_PATH_LIMIT {
            return Ok(path);
        }
        let folder = env::temp_dir().join(format!("hearth-{}", rustix::process::getuid().as_raw()));
        // Anybody may put a link of this name there and so choose the folder.
        if let Ok(meta) = fs::symlink_metadata(&folder)
            && !meta.is_dir()
        {
            return Err(ApplianceError::Foreign { path: folder, uid: meta.uid() });
        }
        private_folder(&folder)?;
        Ok(folder.join(name))
    }
}

/// Creates a folder for us alone. One that belongs to somebody else is refused: its owner could swap what is in it.
fn private_folder(path: &Path) -> Result<(), ApplianceError> {
    let failed = |doing| move |cause| ApplianceError::File { path: path.into(), doing, cause };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("created"))?;
    let meta = fs::metadata(path).map_err(failed("read"))?;
    if meta.uid() != rustix::process::getuid().as_raw() {
        return Err(ApplianceError::Foreign { path: path.into(), uid: meta.uid() });
    }
    if meta.mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed("closed to others"))?;
    }
    Ok(())
}

/// Writes a file so that a reader, or a crash, sees the old text or the new one and never a part. Mode 0600.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), ApplianceError> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let failed = |cause| ApplianceError::File { path: path.into(), doing: "written", cause };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let fresh = path.with_file_name(name);
    let write = || -> std::io::Result<()> {
        let _ = fs::remove_file(&fresh);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    write().map_err(|cause| {
        let _ = fs::remove_file(&fresh);
        failed(cause)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(root: &Path) -> Places {
        Places { config: root.join("c"), state: root.join("s"), runtime: root.join("r") }
    }

    #[test]
    fn folders_are_made_private_even_if_they_were_open() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        fs::create_dir(&places.config).unwrap();
        fs::set_permissions(&places.config, fs::Permissions::from_mode(0o755)).unwrap();
        places.prepare().unwrap();
        for folder in [&places.config, &places.state, &places.runtime] {
            assert_eq!(fs::metadata(folder).unwrap().mode() & 0o777, 0o700, "{folder:?}");
        }
    }

    #[test]
    fn sockets_of_killed_appliances_are_removed_and_no_others() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        places.prepare().unwrap();
        let file = |name: &str| places.runtime.join(name);
        let own = format!("engine-{}-1.sock", std::process::id());
        // No process has this number: it is above the kernel's limit.
        for name in ["engine-4194399-1.sock", &own, "else.sock", "engine-x-1.sock"] {
            fs::write(file(name), "").unwrap();
        }
        places.prepare().unwrap();
        assert!(!file("engine-4194399-1.sock").exists());
        assert!(file(&own).exists() && file("else.sock").exists() && file("engine-x-1.sock").exists());
    }

    #[test]
    fn a_runtime_folder_too_deep_for_a_socket_gets_one_that_fits() {
        let root = tempfile::tempdir().unwrap();
        let mut places = places(root.path());
        places.runtime = root.path().join("x".repeat(120));
        let socket = places.socket("engine-1-1.sock").unwrap();
        assert!(socket.as_os_str().len() <= SOCKET_PATH_LIMIT, "{socket:?}");
        let folder = fs::metadata(socket.parent().unwrap()).unwrap();
        assert_eq!(folder.mode() & 0o077, 0);
        places.runtime = root.path().join("r");
        assert!(places.socket("a.sock").unwrap().starts_with(root.path()));
    }

    #[test]
    fn a_file_is_written_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        fs::write(&path, "old").unwrap();
        write_whole(&path, b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(write_whole(&root.path().join("no/such/file"), b"x").is_err());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "nothing is left behind");
    }
}
