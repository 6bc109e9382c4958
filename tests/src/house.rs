//! One `hearth up` with settings, state and sockets in a folder of its own and a port the system chose.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::wire::{Answer, send};

/// Longest wait for anything here; only a broken Hearth needs it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The program under test: `HEARTH_BIN`, else the one in the target folder of this test.
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("HEARTH_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a test has a path");
    let path = test.parent().and_then(Path::parent).expect("tests lie in target/*/deps").join("hearth");
    assert!(path.is_file(), "build the program first (cargo build -p hearth-cli), or set HEARTH_BIN");
    path
}

/// Folders for one appliance; it can be started on them several times.
pub struct Plot {
    root: tempfile::TempDir,
    hub: String,
}

impl Default for Plot {
    fn default() -> Plot {
        Plot::new()
    }
}

impl Plot {
    /// Empty folders.
    pub fn new() -> Plot {
        // A port on which nobody listens: no test reaches the real hub by accident.
        Plot { root: tempfile::tempdir().expect("a temporary folder"), hub: "http://127.0.0.1:9".into() }
    }

    /// The same with a hub at this address.
    pub fn with_hub(hub: &str) -> Plot {
        Plot { hub: hub.into(), ..Plot::new() }
    }

    /// The folder around all.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// The settings folder.
    pub fn config(&self) -> PathBuf {
        self.root().join("config/hearth")
    }

    /// Writes the settings file.
    pub fn settings(&self, text: &[u8]) -> &Plot {
        fs::create_dir_all(self.config()).expect("the folder can be made");
        fs::write(self.config().join("settings.toml"), text).expect("the file can be written");
        self
    }

    /// A `hearth` command that sees only these folders.
    pub fn command(&self, args: &[&OsStr]) -> Command {
        let mut command = Command::new(program());
        command.args(args).env("XDG_CONFIG_HOME", self.root().join("config"));
        command
            .env("XDG_STATE_HOME", self.root().join("state"))
            .env("XDG_RUNTIME_DIR", self.root().join("run"));
        command
            .env("HF_HOME", self.root().join("huggingface"))
            .env("HF_ENDPOINT", &self.hub)
            .env_remove("HF_HUB_CACHE")
            .env_remove("HF_HUB_OFFLINE")
            .env_remove("HF_TOKEN")
            .stdin(Stdio::null());
        command
    }

    /// Runs `hearth ARGS` that should refuse and end at once.
    pub fn refused(&self, args: &[&str]) -> Output {
        let args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
        let output = self.command(&args).output().expect("hearth runs");
        assert!(!output.status.success(), "it should have refused: {output:?}");
        output
    }

    /// Starts `hearth up` and waits for its line.
    pub fn up(&self, args: &[&str]) -> House<'_> {
        self.up_on(args, &mut |_| {})
    }

    /// The same on a machine that `prepare` makes: its environment.
    pub fn up_on(&self, args: &[&str], prepare: &mut dyn FnMut(&mut Command)) -> House<'_> {
        let args = ["up", "--json", "--port", "0"].iter().chain(args).map(OsStr::new).collect::<Vec<_>>();
        let log = fs::File::create(self.root().join("up.log")).expect("a log can be written");
        let mut command = self.command(&args);
        prepare(&mut command);
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("hearth runs");
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("stdout is piped"));
        out.read_line(&mut line).expect("a line");
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|_| {
            let log = fs::read_to_string(self.root().join("up.log")).unwrap_or_default();
            panic!("`hearth up` said {line:?} and {log}")
        });
        let port = said["port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
        assert_eq!(said["pid"], child.id());
        let token = fs::read_to_string(self.config().join("control-token")).expect("a token");
        House { plot: self, child, port, token }
    }
}

/// A running appliance; ended when dropped.
pub struct House<'a> {
    plot: &'a Plot,
    child: Child,
    /// Its port.
    pub port: u16,
    /// Its control token.
    pub token: String,
}

impl House<'_> {
    /// A call of the control API.
    pub fn api(&self, method: &str, path: &str, body: Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let bearer = format!("Bearer {}", self.token);
        send(self.port, method, path, &[("authorization", &bearer)], body.as_bytes())
    }

    /// A call of the clients' endpoint.
    pub fn post(&self, path: &str, body: Value) -> Answer {
        send(self.port, "POST", path, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    /// A chat request for up to `tokens` tokens.
    pub fn chat(&self, tokens: u32, stream: bool) -> Answer {
        let messages = json!([{ "role": "user", "content": "Count from one to one hundred." }]);
        let body = json!({ "model": "ember", "messages": messages, "max_tokens": tokens, "stream": stream, "temperature": 1.5,
            "seed": 7 });
        self.post("/v1/chat/completions", body)
    }

    /// The snapshot now.
    pub fn state(&self) -> Value {
        self.api("GET", "/api/state", Value::Null).json()
    }

    /// Waits until the engine's state is of this kind, and returns the snapshot.
    pub fn wait_for(&self, kind: &str) -> Value {
        let start = Instant::now();
        loop {
            let snapshot = self.state();
            if snapshot["state"]["kind"] == kind {
                return snapshot;
            }
            let found = &snapshot["state"];
            assert!(start.elapsed() < PATIENCE, "waited for {kind}, found {found}\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts the engine and waits until it serves.
    pub fn serve(&self) -> Value {
        assert_eq!(self.api("POST", "/api/engine/start", Value::Null).status, 202);
        self.wait_for("serving")
    }

    /// Process id of the appliance.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Engine processes of this appliance.
    pub fn engines(&self) -> Vec<u32> {
        children_of(self.child.id()).into_iter().filter(|pid| command_line(*pid).contains("--uds")).collect()
    }

    /// Kills the engine with SIGKILL.
    pub fn kill_engine(&self) -> u32 {
        let engines = self.engines();
        assert_eq!(engines.len(), 1, "one engine runs");
        signal(engines[0], Signal::KILL);
        engines[0]
    }

    /// Sends a signal to the appliance and waits for its end.
    pub fn end(mut self, with: Signal) -> std::process::ExitStatus {
        signal(self.child.id(), with);
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the appliance does not end\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the appliance and its engines wrote, for a failing test.
    pub fn log(&self) -> String {
        let read = |path| fs::read_to_string(self.plot.root().join(path)).unwrap_or_default();
        format!("--- appliance\n{}--- engine\n{}", read("up.log"), read("state/hearth/engine.log"))
    }
}

impl Drop for House<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal; the process may be gone already.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Whether a process exists and is not merely waiting to be collected.
pub fn lives(pid: u32) -> bool {
    status(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// Waits until a process is gone.
pub fn wait_gone(pid: u32) {
    let start = Instant::now();
    while lives(pid) {
        assert!(start.elapsed() < PATIENCE, "process {pid} lives on: {}", command_line(pid));
        thread::sleep(Duration::from_millis(10));
    }
}

fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

fn children_of(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("/proc");
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| status(*pid).is_some_and(|(state, of)| of == parent && state != 'Z')).collect()
}

/// State and parent from /proc/PID/stat; the name before them may hold spaces and brackets.
fn status(pid: u32) -> Option<(char, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut rest = text[text.rfind(')')? + 1..].split_ascii_whitespace();
    Some((rest.next()?.chars().next()?, rest.next()?.parse().ok()?))
}
