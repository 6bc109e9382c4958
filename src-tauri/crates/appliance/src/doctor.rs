//! The doctor as the control API and `hearth doctor` call it: where to look, the attempt to load the GPU code in a process of its
//! own, what a button may put right, and the report.

use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use hearth_hub::HubCache;
use hearth_monitor::{
    DriverLibrary, GpuProbe, Host,
    doctor::{self as checks, Check, CheckState, CudaAttempt, Facts, FixAction, Redactor, Scope},
};
use serde::{Deserialize, Serialize};
use tokio::{process::Command, time::timeout};
use ts_rs::TS;

use crate::{ApplianceError, Places, control::types::Settings, lock::occupant};

/// Loading every kernel takes a second or two; a driver that hangs must not hang the doctor.
const CUDA_PATIENCE: Duration = Duration::from_secs(45);
/// Two seconds of readings.
const SAMPLES: u32 = 8;
/// Lines of the engine's log in the report.
const LOG_LINES: usize = 200;

/// What the doctor found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Diagnosis {
    /// Unix milliseconds.
    pub time_ms: f64,
    /// Hearth's version.
    pub version: String,
    /// The worst of the checks.
    pub state: CheckState,
    /// All checks, in the order in which a person would look.
    pub checks: Vec<Check>,
}

/// Where the doctor looks.
#[derive(Debug, Clone)]
pub struct Doctor {
    /// Settings, keys and logs of the appliance.
    pub places: Places,
    /// The `hearth` program, which loads the GPU code in a process of its own.
    pub program: PathBuf,
}

impl Doctor {
    /// Looks at everything; takes a few seconds on a machine with a GPU. Leaves the machine only if `hub` is set.
    pub async fn examine(&self, hub: bool) -> Diagnosis {
        let facts = self.facts(hub).await;
        diagnosis(&facts)
    }

    /// The same, and everything that helps somebody else to understand it, as one text without secrets, names and paths.
    pub async fn report(&self, hub: bool) -> String {
        let facts = self.facts(hub).await;
        let read = |path: PathBuf| {
            fs::read_to_string(path).unwrap_or_else(|error| format!("cannot be read: {error}"))
        };
        let log = read(self.places.state.join("engine.log"));
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        let sections = [("Settings", read(self.places.settings())), ("Last lines of the engine's log", tail)];
        checks::report(&facts, &checks::diagnose(&facts), &sections, &self.redactor())
    }

    async fn facts(&self, hub: bool) -> Facts {
        let cuda = self.attempt_cuda().await;
        let doctor = self.clone();
        let look = tokio::task::spawn_blocking(move || {
            let hub = hub.then(|| {
                let var = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
                let proxy = var("HTTPS_PROXY").or_else(|| var("https_proxy"));
                checks::attempt_hub(var("HF_ENDPOINT").as_deref(), proxy.as_deref())
            });
            checks::gather(&Scope { cuda, hub, ..doctor.scope() })
        });
        look.await.unwrap_or_default()
    }

    fn scope(&self) -> Scope {
        let settings = Settings::read(&self.places.settings()).unwrap_or_default();
        let running = occupant(&self.places.config);
        let listens = running
            .as_ref()
            .and_then(|running| running.url.as_deref()?.strip_prefix("http://")?.parse::<SocketAddr>().ok());
        let host = settings.host.parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let address = listens.map_or((host, settings.port), |at| (at.ip(), at.port()));
        Scope {
            root: "/".into(),
            config: self.places.config.clone(),
            state: self.places.state.clone(),
            models: HubCache::from_env().map(|cache| cache.root().into()),
            address,
            keepers: running.map(|running| running.pid).into_iter().chain([std::process::id()]).collect(),
            version: env!("CARGO_PKG_VERSION").into(),
            samples: SAMPLES,
            cuda: None,
            hub: None,
        }
    }

    /// Loads the GPU code in a child: a fault of CUDA poisons a process for good, and a context holds memory.
    async fn attempt_cuda(&self) -> Option<CudaAttempt> {
        if GpuProbe::open().library() == DriverLibrary::Missing {
            return None;
        }
        let mut command = Command::new(&self.program);
        command
            .args(["doctor", "--load-gpu-code"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let failed = |words: String| Some(CudaAttempt { words, loaded: false });
        match timeout(CUDA_PATIENCE, command.output()).await {
            Err(_) => failed(format!("no answer in {} s", CUDA_PATIENCE.as_secs())),
            Ok(Err(error)) => failed(format!("the attempt could not be started: {error}")),
            Ok(Ok(output)) => serde_json::from_slice(&output.stdout)
                .map_or_else(|_| failed(format!("the attempt ended with {}", output.status)), Some),
        }
    }

    /// Does what a button promises.
    pub fn mend(&self, action: FixAction) -> Result<(), ApplianceError> {
        match action {
            FixAction::CloseFiles => close(&self.places.config),
            // Looking is all that this takes.
            FixAction::AskHub => Ok(()),
        }
    }

    fn redactor(&self) -> Redactor {
        let home = env::var_os("HOME").map(PathBuf::from);
        let user = env::var("USER").or_else(|_| env::var("LOGNAME")).ok();
        Redactor::new(
            &secrets(&self.places.config),
            home.as_deref(),
            user.as_deref(),
            Some(&Host::read().name),
        )
    }
}

fn diagnosis(facts: &Facts) -> Diagnosis {
    let checks = checks::diagnose(facts);
    Diagnosis {
        time_ms: crate::supervisor::now_ms(),
        version: facts.version.clone(),
        state: checks.iter().map(|check| check.state).max().unwrap_or(CheckState::Skipped),
        checks,
    }
}

/// Every word of the key files that is long enough to be a key, and the token of Hugging Face.
fn secrets(config: &Path) -> Vec<String> {
    let entries = fs::read_dir(config).into_iter().flatten().flatten().map(|entry| entry.path());
    let keys = entries.filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name != "settings.toml" && !name.ends_with(".lock")
    });
    let hub = HubCache::from_env().and_then(|cache| Some(cache.root().parent()?.join("token")));
    let texts = keys.chain(hub).filter_map(|path| fs::read_to_string(path).ok());
    let texts =
        texts.chain(["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"].iter().filter_map(|name| env::var(name).ok()));
    texts
        .flat_map(|text| text.split(['"', '\'', ' ', '\n', '=']).map(str::to_owned).collect::<Vec<_>>())
        .filter(|word| word.len() >= 12)
        .collect()
}

/// Takes other users' rights off a folder and the files in it. Links are left alone: what they lead to is not ours to change.
fn close(config: &Path) -> Result<(), ApplianceError> {
    let me = rustix::process::getuid().as_raw();
    let inside = fs::read_dir(config).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in std::iter::once(config.to_path_buf()).chain(inside) {
        let failed = |cause| ApplianceError::File { path: path.clone(), doing: "closed to others", cause };
        let meta = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.map_err(failed)?,
        };
        if meta.is_symlink() || meta.mode() & 0o077 == 0 {
            continue;
        }
        if meta.uid() != me {
            return Err(ApplianceError::Foreign { path, uid: meta.uid() });
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(meta.mode() & 0o700)).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doctor(root: &Path, program: &str) -> Doctor {
        let places = Places { config: root.join("c"), state: root.join("s"), runtime: root.join("r") };
        places.prepare().unwrap();
        Doctor { places, program: program.into() }
    }

    #[tokio::test]
    async fn keys_that_others_can_read_are_found_closed_and_then_pass() {
        let folder = tempfile::tempdir().unwrap();
        let doctor = doctor(folder.path(), "/bin/false");
        let key = doctor.places.config.join("keys.toml");
        fs::write(&key, "x").unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        let outside = folder.path().join("outside");
        fs::write(&outside, "x").unwrap();
        fs::set_permissions(&outside, fs::Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::symlink(&outside, doctor.places.config.join("link")).unwrap();
        let state = |facts: &Facts| {
            let check =
                checks::diagnose(facts).into_iter().find(|check| check.code == "permissions").unwrap();
            (check.state, check.fix.and_then(|fix| fix.action))
        };
        let facts = checks::gather(&Scope { samples: 1, ..doctor.scope() });
        assert_eq!(state(&facts), (CheckState::Fail, Some(FixAction::CloseFiles)));
        doctor.mend(FixAction::CloseFiles).unwrap();
        let facts = checks::gather(&Scope { samples: 1, ..doctor.scope() });
        assert_eq!(state(&facts), (CheckState::Pass, None));
        assert_eq!(
            fs::metadata(&outside).unwrap().mode() & 0o777,
            0o644,
            "what a link leads to is left alone"
        );
    }

    #[tokio::test]
    async fn the_report_holds_settings_and_log_and_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let doctor = doctor(folder.path(), "/bin/false");
        fs::write(doctor.places.token(), "0123456789abcdef0123456789abcdef").unwrap();
        fs::write(doctor.places.settings(), "port = 8123\n").unwrap();
        let log = "old line\n".repeat(300) + "the token 0123456789abcdef0123456789abcdef was seen\n";
        fs::write(doctor.places.state.join("engine.log"), log).unwrap();
        let text = doctor.report(false).await;
        assert!(text.contains("port = 8123") && text.contains("<secret> was seen"), "{text}");
        assert!(!text.contains("0123456789abcdef"), "{text}");
        assert_eq!(text.matches("old line").count(), LOG_LINES - 1);
    }

    #[tokio::test]
    async fn the_worst_check_is_the_state_of_all_and_nothing_leaves_the_machine_unasked() {
        let folder = tempfile::tempdir().unwrap();
        let found = doctor(folder.path(), "/bin/false").examine(false).await;
        let worst = found.checks.iter().map(|check| check.state).max();
        assert_eq!(Some(found.state), worst);
        let hub = found.checks.iter().find(|check| check.code == "hub").unwrap();
        assert_eq!(hub.state, CheckState::Skipped);
    }
}
