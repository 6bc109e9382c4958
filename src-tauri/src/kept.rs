//! The appliance that this window started: running it, remembering it, stopping it. Called by `link`.
//!
//! Other programs depend on the endpoint, the window is only a view of it; so the appliance outlives a window that
//! crashes or is killed. It is written down in the state folder by process id and start time, and the next window
//! takes it as its own: Quit there stops it. An appliance that a person or systemd started is never written down.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::error::DesktopError;

/// How long running requests may take to end.
const LAST_REQUESTS: Duration = Duration::from_secs(15);
/// How long an appliance may take to end that lets no request end any more.
const LAST_WORDS: Duration = Duration::from_secs(5);
const LOG_TAIL: u64 = 2_000;

/// What is written down: enough to know the process again, also after its number was given to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pid: i32,
    /// Clock ticks between boot and its start, from /proc/PID/stat.
    started: u64,
}

impl Record {
    fn of(pid: i32) -> Option<Record> {
        Some(Record { pid, started: start_time(pid)? })
    }

    fn is_running(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }
}

/// An appliance whose end is this window's business.
#[derive(Debug)]
pub struct Kept {
    record: Record,
    folder: PathBuf,
    /// None if an earlier window started it.
    child: Option<Child>,
}

impl Kept {
    /// Runs `program up [--port N]` in its own process group, its output in a log, and writes it down.
    pub fn start(program: &Path, port: Option<u16>, folder: &Path) -> Result<Kept, DesktopError> {
        let blame = |path: PathBuf| move |cause| DesktopError::StateFolder { path, cause };
        fs::create_dir_all(folder).map_err(blame(folder.to_owned()))?;
        let log = log_path(folder);
        let out = File::create(&log).map_err(blame(log.clone()))?;
        let err = out.try_clone().map_err(blame(log))?;
        let mut command = Command::new(program);
        command.arg("up");
        if let Some(port) = port {
            command.args(["--port", &port.to_string()]);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .map_err(|cause| DesktopError::CannotRun { program: program.to_owned(), cause })?;
        let pid = child.id().expect("a child that was not waited for has an id");
        let pid = i32::try_from(pid).expect("Linux process ids fit in 31 bits");
        let ended = || DesktopError::EndedEarly { status: "at once".into(), said: said(folder) };
        let record = Record::of(pid).ok_or_else(ended)?;
        let kept = Kept { record, folder: folder.to_owned(), child: Some(child) };
        write_record(folder, &kept.record).map_err(blame(record_path(folder)))?;
        Ok(kept)
    }

    /// The appliance with this process id, if an earlier window started it.
    pub fn adopt(pid: i32, folder: &Path) -> Option<Kept> {
        let record: Record = serde_json::from_slice(&fs::read(record_path(folder)).ok()?).ok()?;
        (record.pid == pid && record.is_running()).then(|| Kept {
            record,
            folder: folder.to_owned(),
            child: None,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.record.pid
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<String> {
        match &mut self.child {
            Some(child) => match child.try_wait() {
                Ok(Some(status)) => Some(status.to_string()),
                Ok(None) => None,
                Err(cause) => Some(cause.to_string()),
            },
            None if self.record.is_running() => None,
            None => Some("it is gone".into()),
        }
    }

    /// Asks it to end, then to end at once, then kills it. The engine goes with it each time.
    pub async fn stop(mut self) {
        let pid = Pid::from_raw(self.record.pid);
        for (signal, patience) in
            [(Signal::TERM, LAST_REQUESTS), (Signal::TERM, LAST_WORDS), (Signal::KILL, LAST_WORDS)]
        {
            if let (None, Some(pid)) = (self.ended(), pid) {
                // The only error left is that it has just ended, which the next look sees.
                let _ = kill_process(pid, signal);
            }
            let deadline = Instant::now() + patience;
            while self.ended().is_none() && Instant::now() < deadline {
                sleep(Duration::from_millis(50)).await;
            }
        }
        self.forget();
    }

    /// Removes the record: the process has ended, or turned out not to be the one that answers.
    pub fn forget(&self) {
        let _ = fs::remove_file(record_path(&self.folder));
    }
}

fn record_path(folder: &Path) -> PathBuf {
    folder.join("desktop-appliance.json")
}

fn log_path(folder: &Path) -> PathBuf {
    folder.join("desktop-appliance.log")
}

/// Whole or not at all: a half-written record would lose the appliance.
fn write_record(folder: &Path, record: &Record) -> io::Result<()> {
    let fresh = folder.join("desktop-appliance.json.incomplete");
    fs::write(&fresh, serde_json::to_vec(record)?)?;
    fs::rename(&fresh, record_path(folder))
}

/// The last lines of the log of the appliance that a window started.
pub fn said(folder: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log_path(folder))?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
        let mut tail = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut tail)?;
        Ok(tail)
    };
    let tail = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&tail);
    let lines: Vec<_> =
        text.lines().filter(|line| !line.trim().is_empty() && !line.contains("token=")).collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

/// Field 22 of /proc/PID/stat; None for no process and for one that has ended and was not yet collected.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name, stands in parentheses and may itself hold spaces and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" { None } else { fields.nth(18)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by a process of its own: a file that this one has open for writing may be open in a child that another test has
    /// just forked, too, and cannot be run until that is gone.
    fn program(folder: &Path, text: &str) -> PathBuf {
        let (text_file, path) = (folder.join("text"), folder.join("hearth"));
        fs::write(&text_file, text).unwrap();
        let done =
            std::process::Command::new("install").arg("-m755").args([&text_file, &path]).status().unwrap();
        assert!(done.success());
        path
    }

    #[tokio::test]
    async fn an_appliance_is_adopted_by_the_next_window_and_stopped_by_it() {
        let folder = tempfile::tempdir().unwrap();
        let program = program(folder.path(), "#!/bin/sh\nexec sleep 600\n");
        let first = Kept::start(&program, Some(21_000), folder.path()).unwrap();
        let pid = first.pid();
        assert!(Kept::adopt(pid + 1, folder.path()).is_none(), "another process is another appliance");
        let second = Kept::adopt(pid, folder.path()).expect("it runs and was written down");
        // The first window still collects the dead child, as init does for one whose parent died.
        tokio::join!(second.stop(), first.stop());
        assert_eq!(start_time(pid), None);
        assert!(Kept::adopt(pid, folder.path()).is_none());
    }

    #[test]
    fn a_process_that_only_has_the_same_number_is_not_taken_for_ours() {
        let folder = tempfile::tempdir().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let real = Record::of(own).unwrap();
        write_record(folder.path(), &Record { started: real.started + 1, ..real }).unwrap();
        assert!(Kept::adopt(own, folder.path()).is_none());
    }

    #[test]
    fn a_damaged_record_is_no_record() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(record_path(folder.path()), b"{\"pid\": 1, \"sta").unwrap();
        assert!(Kept::adopt(1, folder.path()).is_none());
    }

    #[tokio::test]
    async fn the_last_words_of_one_that_fails_are_kept_without_its_token() {
        let folder = tempfile::tempdir().unwrap();
        let text = "#!/bin/sh\nsleep 0.2\necho 'http://127.0.0.1:8000/#token=abc'\necho 'port 8000 is in use' >&2\nexit 3\n";
        let mut kept = Kept::start(&program(folder.path(), text), None, folder.path()).unwrap();
        while kept.ended().is_none() {
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(kept.ended().unwrap(), "exit status: 3");
        assert_eq!(said(folder.path()), "port 8000 is in use");
    }
}
