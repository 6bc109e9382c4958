//! One engine process: started, waited for, killed. The engine dies with the appliance because the kernel's parent-death signal is
//! bound to the *thread* that forked, so all engines are forked by one thread that never ends, and because the engine
//! reads a pipe whose other end only the appliance holds.

use std::{
    io,
    os::{
        fd::OwnedFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, OnceLock, mpsc as sync_mpsc},
    thread,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::oneshot;

use super::LogBook;
use crate::{ApplianceError, control::types::Profile};

/// Set in the engine's environment to the appliance's pid; see `keeper` in the CLI.
const KEEPER: &str = "HEARTH_KEEPER";

/// The engine's exit code for a fault that another try would meet again.
pub(super) const DETERMINISTIC_EXIT: i32 = 3;

/// The engine's exit code when its device has failed.
pub(super) const DEVICE_EXIT: i32 = 4;

/// A running engine. Dropping it kills the engine.
#[derive(Debug)]
pub(super) struct EngineProcess {
    handle: OwnedFd,
    /// Resolves when the process is gone.
    pub exit: oneshot::Receiver<ExitStatus>,
    socket: PathBuf,
    _keeper: ChildStdin,
}

impl EngineProcess {
    /// Starts `program serve MODEL --uds SOCKET ...` in its own process group (so that Ctrl-C reaches only the appliance,
    /// which lets it finish). Prefixes go to the folder `prefixes`, if the profile wants them kept; if not, it is removed.
    pub(super) fn start(
        program: &Path,
        profile: &Profile,
        reserve: Option<f64>,
        anyway: bool,
        socket: &Path,
        prefixes: &Path,
        log: &Arc<LogBook>,
    ) -> Result<EngineProcess, ApplianceError> {
        let failed = |cause| ApplianceError::Spawn { program: program.into(), cause };
        let _ = std::fs::remove_file(socket);
        let mut command = Command::new(program);
        command.arg("serve").arg("--uds").arg(socket);
        command.args(["--max-requests", &profile.max_requests.to_string(), "--kv", &profile.kv]);
        command.args(["--mtp-depth", &profile.mtp_depth, "--draft-head", &profile.draft_head]);
        if let Some(file) = &profile.draft_vocabulary {
            command.arg("--draft-vocabulary").arg(file);
        }
        if let Some(context) = profile.context {
            command.args(["--context", &context.to_string()]);
        }
        if let Some(bytes) = reserve {
            command.args(["--memory-reserve", &(bytes / (1u64 << 30) as f64).to_string()]);
        }
        if profile.exact {
            command.arg("--exact");
        } else if profile.fp4_activations {
            command.arg("--fp4-activations");
        }
        if anyway {
            command.arg("--anyway");
        }
        match profile.prefix_disk_gib {
            Some(gib) => {
                command.arg("--prefix-disk").arg(prefixes).args(["--prefix-disk-gib", &gib.to_string()]);
            }
            // Prompts can be read from what was kept. Mostly there is nothing.
            None => _ = std::fs::remove_dir_all(prefixes),
        }
        command.args([
            "--max-waiting",
            &profile.max_waiting.to_string(),
            "--chunk",
            &profile.chunk.to_string(),
        ]);
        let sampling = &profile.sampling;
        let numbers = [
            ("--temperature", sampling.temperature),
            ("--top-p", sampling.top_p),
            ("--min-p", sampling.min_p),
            ("--top-k", sampling.top_k.map(f64::from)),
        ];
        for (name, value) in numbers {
            command.args(value.map(|value| [name.to_owned(), value.to_string()]).into_iter().flatten());
        }
        command.arg("--").arg(&profile.model);
        command.env(KEEPER, std::process::id().to_string()).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());

        let mut child = fork_from_the_lasting_thread(command).map_err(failed)?;
        let keeper = child.stdin.take().expect("stdin is piped above");
        let pid = Pid::from_child(&child);
        // Before anybody waits for the child its pid cannot be given to another process, so this handle is surely the child's.
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(error.into()));
            }
        };
        if let Some(pipe) = child.stdout.take() {
            log.follow(pipe);
        }
        if let Some(pipe) = child.stderr.take() {
            log.follow(pipe);
        }
        let (tell, exit) = oneshot::channel();
        let wait = move || {
            if let Ok(status) = child.wait() {
                let _ = tell.send(status);
            }
        };
        thread::Builder::new().name("engine-wait".into()).spawn(wait).map_err(failed)?;
        Ok(EngineProcess { handle, exit, socket: socket.into(), _keeper: keeper })
    }

    /// Asks the engine to end.
    pub(super) fn terminate(&self) {
        let _ = pidfd_send_signal(&self.handle, Signal::TERM);
    }

    /// Ends it.
    pub(super) fn kill(&self) {
        let _ = pidfd_send_signal(&self.handle, Signal::KILL);
    }
}

impl Drop for EngineProcess {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// `exit status 3` or `signal 9 (SIGKILL)`, for people.
pub(super) fn describe(status: ExitStatus) -> String {
    let name = |signal| match signal {
        4 => " (illegal instruction)",
        6 => " (abort)",
        7 => " (bus error: a model file may have been cut short while it was read)",
        9 => " (killed: by a person, or by the system for want of memory)",
        11 => " (segmentation fault)",
        15 => " (terminated)",
        _ => "",
    };
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("signal {signal}{}", name(signal)),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => "an unknown end".into(),
    }
}

type Fork = (Command, sync_mpsc::Sender<io::Result<std::process::Child>>);

fn fork_from_the_lasting_thread(command: Command) -> io::Result<std::process::Child> {
    static FORKS: OnceLock<io::Result<sync_mpsc::Sender<Fork>>> = OnceLock::new();
    let forks = FORKS.get_or_init(|| {
        let (send, receive) = sync_mpsc::channel::<Fork>();
        thread::Builder::new().name("engine-fork".into()).spawn(move || {
            // The sender lives in a static, so this loop ends with the process and not before.
            for (mut command, answer) in receive {
                let _ = answer.send(command.spawn());
            }
        })?;
        Ok(send)
    });
    let gone = || io::Error::other("the thread that starts engines is gone");
    let forks = forks.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
    let (answer, child) = sync_mpsc::channel();
    forks.send((command, answer)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}
