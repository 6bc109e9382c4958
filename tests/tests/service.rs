//! `hearth service` against a systemctl that only writes down what it was asked, and systemd's own judgement of the units.

use std::{ffi::OsStr, fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Command, process::Output};

use hearth_tests::house::{Plot, program};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A plot whose PATH begins with a systemctl of ours.
struct Managed {
    plot: Plot,
}

impl Managed {
    /// `answer` is what the fake does after writing its arguments down; its `$1 $2 ...` are without `--user`.
    fn new(answer: &str) -> Managed {
        let plot = Plot::new();
        let bin = plot.root().join("bin");
        fs::create_dir(&bin).expect("a fresh folder");
        let asked = plot.root().join("asked");
        let script = format!(
            "#!/bin/sh\necho \"$*\" >>'{}'\n[ \"$1\" = --user ] && shift\n{answer}\n",
            asked.display()
        );
        fs::write(bin.join("systemctl"), script).expect("a fresh file");
        fs::set_permissions(bin.join("systemctl"), fs::Permissions::from_mode(0o755)).expect("our file");
        Managed { plot }
    }

    fn service(&self, args: &[&str]) -> Output {
        let args: Vec<&OsStr> = ["service"].iter().chain(args).map(OsStr::new).collect();
        let path =
            format!("{}:{}", self.plot.root().join("bin").display(), std::env::var("PATH").expect("a PATH"));
        self.plot.command(&args).env("PATH", path).output().expect("hearth runs")
    }

    fn asked(&self) -> String {
        fs::read_to_string(self.plot.root().join("asked")).unwrap_or_default()
    }

    fn unit(&self) -> PathBuf {
        self.plot.root().join("config/systemd/user/hearth.service")
    }
}

fn refusal(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    serde_json::from_slice::<Value>(&output.stdout).expect("--json gives JSON")["error"].clone()
}

#[test]
fn a_service_is_installed_enabled_started_and_removed_again() {
    let managed = Managed::new("");
    let output = managed.service(&["install"]);
    assert!(output.status.success(), "{output:?}");
    let unit = fs::read_to_string(managed.unit()).unwrap();
    let line = unit.lines().find(|line| line.starts_with("ExecStart=")).unwrap();
    assert_eq!(line, format!("ExecStart=\"{}\" up", program().canonicalize().unwrap().display()));
    // The service must find the same settings and models as the shell it was installed from.
    for (name, folder) in [("XDG_CONFIG_HOME", "config"), ("HF_HOME", "huggingface")] {
        let expected = format!("Environment=\"{name}={}\"", managed.plot.root().join(folder).display());
        assert!(unit.contains(&expected), "{unit}");
    }
    let asked = managed.asked();
    let position = |what: &str| asked.find(what).unwrap_or_else(|| panic!("{what} was not asked: {asked}"));
    assert!(position("--user daemon-reload") < position("--user enable hearth.service"));
    assert!(position("--user enable hearth.service") < position("--user start hearth.service"));

    let output = managed.service(&["uninstall"]);
    assert!(output.status.success(), "{output:?}");
    assert!(!managed.unit().exists() && managed.asked().contains("--user disable --now hearth.service"));
    assert_eq!(refusal(&managed.service(&["uninstall", "--json"]))["code"], "not_installed");
}

#[test]
fn installing_again_keeps_what_was_once_decided_about_the_model() {
    let managed = Managed::new("");
    let starts = || fs::read_to_string(managed.unit()).unwrap().contains("up --start-last-good");
    assert!(managed.service(&["install"]).status.success() && !starts(), "nobody asked for a model");
    assert!(managed.service(&["install", "--start-model"]).status.success() && starts());
    assert!(managed.service(&["install"]).status.success() && starts(), "an update changes nothing");
    assert!(managed.service(&["install", "--no-start-model"]).status.success() && !starts());
}

#[test]
fn a_unit_of_somebody_else_is_not_overwritten() {
    let managed = Managed::new("");
    fs::create_dir_all(managed.unit().parent().unwrap()).unwrap();
    fs::write(managed.unit(), "[Service]\nExecStart=/bin/true\n").unwrap();
    for action in ["install", "uninstall"] {
        assert_eq!(refusal(&managed.service(&[action, "--json"]))["code"], "foreign_unit", "{action}");
    }
    assert_eq!(fs::read_to_string(managed.unit()).unwrap(), "[Service]\nExecStart=/bin/true\n");
}

#[test]
fn without_systemd_nothing_is_written_and_it_is_said() {
    let managed = Managed::new(
        "echo 'System has not been booted with systemd as init system (PID 1). Can not operate.' >&2; exit 1",
    );
    let fault = refusal(&managed.service(&["install", "--json"]));
    assert_eq!(fault["code"], "no_systemd");
    assert!(fault["next_step"].as_str().unwrap().contains("hearth up"), "{fault}");
    assert!(!managed.unit().exists());
}

#[test]
fn a_hearth_that_runs_already_is_left_alone_and_named() {
    let managed = Managed::new("");
    let house = managed.plot.up(&[]);
    let output = managed.service(&["install", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(done["note"].as_str().unwrap().contains("runs already"), "{done}");
    assert_eq!(done["url"], json!(format!("http://127.0.0.1:{}", house.port)));
    assert!(!managed.asked().contains("start hearth.service"), "{}", managed.asked());
    assert_eq!(house.state()["state"]["kind"], "stopped");
}

#[test]
fn status_tells_unit_process_and_endpoint() {
    let managed = Managed::new(
        "[ \"$1\" = show ] && printf 'ActiveState=failed\\nUnitFileState=enabled\\nMainPID=0\\n'; true",
    );
    let output = managed.service(&["status", "--json"]);
    let none: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &none["services"]), (Some(3), &json!([])));
    assert!(managed.service(&["install", "--no-start"]).status.success());
    let house = managed.plot.up(&[]);
    let output = managed.service(&["status", "--json"]);
    let some: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3), "a failed service does not run");
    let service = &some["services"][0];
    assert_eq!(
        (&service["scope"], &service["active"], &service["pid"]),
        (&json!("user"), &json!("failed"), &Value::Null)
    );
    assert_eq!(some["appliance"]["url"], json!(format!("http://127.0.0.1:{}", house.port)));
}

#[test]
fn a_start_with_the_last_good_profile_takes_the_one_that_served_and_not_the_one_that_was_chosen_later() {
    let plot = Plot::new();
    plot.settings(b"[profile]\nmodel = \"ember\"\ncontext = 512\n");
    let house = plot.up(&[]);
    house.serve();
    let mut settings = house.api("GET", "/api/settings", Value::Null).json();
    settings["profile"]["model"] = json!("/no/such/model");
    assert_eq!(house.api("PUT", "/api/settings", settings).status, 200);
    assert!(house.end(Signal::TERM).success());

    let house = plot.up(&["--start-last-good"]);
    let snapshot = house.wait_for("serving");
    assert_eq!(
        (&snapshot["profile"]["model"], &snapshot["profile"]["context"]),
        (&json!("ember"), &json!(512))
    );
}

/// systemd's own checks; a machine without systemd has nothing to check with.
#[test]
fn systemd_accepts_both_units_and_rates_the_system_one_as_well_protected() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("skipped: there is no systemd-analyze here");
        return;
    }
    let managed = Managed::new("");
    let account = account();
    let units = [(vec!["unit"], "user", 70), (vec!["unit", "--system", "--run-as", &account], "system", 35)];
    for (args, scope, most) in units {
        let output = managed.service(&args);
        assert!(output.status.success(), "{output:?}");
        let path = managed.plot.root().join("hearth.service");
        fs::write(&path, output.stdout).unwrap();
        let analyze = |args: &[&str]| {
            let mut command = Command::new("systemd-analyze");
            // Without a session there is no such folder, and the user's manager wants one.
            command.env("XDG_RUNTIME_DIR", managed.plot.root());
            let output = command.arg(format!("--{scope}")).args(args).arg(&path).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            (output.status.success(), text.into_owned())
        };
        let (accepted, text) = analyze(&["verify", "--man=no"]);
        assert!(accepted && !text.contains("hearth.service:"), "{scope}: {text}");
        // 0 is the best exposure, 100 the worst; a user's manager cannot do what the last third is about.
        let (protected, text) =
            analyze(&["security", "--offline=true", "--no-pager", &format!("--threshold={most}")]);
        assert!(protected, "{scope}: {text}");
    }
}

/// An account of this machine that is not root.
fn account() -> String {
    let accounts = fs::read_to_string("/etc/passwd").expect("every Linux has accounts");
    let fields = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let name = fields
        .filter(|fields| fields.len() > 5 && fields[2] != "0")
        .map(|fields| fields[0].to_owned())
        .next();
    name.expect("an account besides root")
}
