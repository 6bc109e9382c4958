//! The systemd unit as text: what it runs, when it comes back, and what it may touch. Pure; `service` writes it to its place.
//!
//! A user's manager may not drop capabilities, and where unprivileged user namespaces are restricted (Ubuntu 24.04, DGX OS) it may
//! not make mount namespaces either: such a line would keep the service from starting. So the user unit has only what works
//! without both, and the system unit has all of it.
//!
//! Left out on purpose, because CUDA needs it: `PrivateDevices`, `DevicePolicy` and `ProtectClock` (it implies a list of allowed
//! devices, which shuts out /dev/nvidia*), `MemoryDenyWriteExecute` (the driver compiles), `ProtectProc` (Hearth names who holds
//! memory and ports).

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

/// First line of every unit Hearth writes; a file without it belongs to somebody else.
pub const MARK: &str =
    "# Written by Hearth. Change it with `systemctl edit hearth`: an update writes this file anew.";

/// The flag of `hearth up` that starts the model that served last.
pub const START_LAST_GOOD: &str = "--start-last-good";

/// The account a system unit runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Name for `User=`.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Home folder.
    pub home: PathBuf,
}

/// What a unit is made for.
#[derive(Debug, Clone)]
pub struct Unit {
    /// The `hearth` program.
    pub program: PathBuf,
    /// Start the model that served last together with the appliance.
    pub start_model: bool,
    /// Variables that say where things are kept, for a manager that does not have the shell's.
    pub environment: Vec<(String, String)>,
    /// For the system's manager: who it runs as, and what that account's Hearth writes.
    pub system: Option<(Account, Vec<PathBuf>)>,
}

impl Unit {
    /// The file's text.
    pub fn text(&self) -> String {
        let mut text = format!("{MARK}\n");
        let mut section = |name: &str, lines: &[(&str, String)]| {
            let _ = writeln!(text, "\n[{name}]");
            for (key, value) in lines {
                let _ = writeln!(text, "{key}={value}");
            }
        };
        let mut unit = vec![
            ("Description", "Hearth, a private model endpoint".to_owned()),
            ("Documentation", "man:hearth(1)".into()),
            ("StartLimitIntervalSec", "300".into()),
            ("StartLimitBurst", "5".into()),
        ];
        if self.system.is_some() {
            unit.push(("After", "network.target nvidia-persistenced.service".into()));
        }
        section("Unit", &unit);
        section("Service", &self.service());
        let target = if self.system.is_some() { "multi-user.target" } else { "default.target" };
        section("Install", &[("WantedBy", target.into())]);
        text
    }

    fn service(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![("Type", "notify".to_owned()), ("NotifyAccess", "main".into())];
        if let Some((account, _)) = &self.system {
            lines.push(("User", account.name.clone()));
            lines.push(("Group", account.gid.to_string()));
            // Makes /dev/nvidia-uvm, which nobody but root can; a machine without the driver has no such program.
            lines.push(("ExecStartPre", "-+/usr/bin/nvidia-modprobe -u -c=0".into()));
        }
        let model = if self.start_model { format!(" {START_LAST_GOOD}") } else { String::new() };
        lines.push(("ExecStart", format!("{} up{model}", quoted(&self.program.to_string_lossy(), true))));
        lines.extend(
            self.environment
                .iter()
                .map(|(name, value)| ("Environment", quoted(&format!("{name}={value}"), false))),
        );
        let fixed = [
            // 2 is a refusal (a broken settings file, a port in use): starting again would be refused again.
            ("Restart", "on-failure"),
            ("RestartPreventExitStatus", "2"),
            ("RestartSec", "3"),
            // The appliance ends its engines itself and lets running requests finish first (30 s).
            ("KillMode", "mixed"),
            ("TimeoutStopSec", "45"),
            // An engine that the kernel ended for memory is the appliance's to start again.
            ("OOMPolicy", "continue"),
            ("LimitMEMLOCK", "infinity"),
            ("LimitNOFILE", "65536"),
            ("UMask", "0077"),
            ("NoNewPrivileges", "yes"),
            ("LockPersonality", "yes"),
            ("RestrictRealtime", "yes"),
            ("RestrictSUIDSGID", "yes"),
            ("RestrictNamespaces", "yes"),
            ("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6 AF_NETLINK"),
            ("SystemCallArchitectures", "native"),
            ("SystemCallFilter", "@system-service"),
            ("SystemCallErrorNumber", "EPERM"),
        ];
        lines.extend(fixed.map(|(key, value)| (key, value.to_owned())));
        if let Some((_, writes)) = &self.system {
            let sandbox = [
                ("CapabilityBoundingSet", ""),
                ("PrivateTmp", "yes"),
                ("ProtectSystem", "strict"),
                // Models may lie anywhere in it; only what is listed below may be written.
                ("ProtectHome", "read-only"),
                ("ProtectKernelTunables", "yes"),
                ("ProtectKernelModules", "yes"),
                ("ProtectKernelLogs", "yes"),
                ("ProtectControlGroups", "yes"),
                ("ProtectHostname", "yes"),
            ];
            lines.extend(sandbox.map(|(key, value)| (key, value.to_owned())));
            lines
                .extend(writes.iter().map(|path| ("ReadWritePaths", quoted(&path.to_string_lossy(), false))));
        }
        lines
    }
}

/// Whether a unit's text starts the model together with the appliance.
pub fn starts_model(text: &str) -> bool {
    text.lines()
        .filter(|line| line.starts_with("ExecStart="))
        .any(|line| line.split_ascii_whitespace().any(|word| word == START_LAST_GOOD))
}

/// One word of a unit file (systemd.syntax(7)): in quotes, specifiers and, in commands, variables switched off.
fn quoted(word: &str, command: bool) -> String {
    let mut text = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '%' => text.push_str("%%"),
            '$' if command => text.push_str("$$"),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

/// The folders that Hearth writes: settings, state, and the Hugging Face cache, for an account with this home.
pub fn written_folders(home: &Path, environment: &[(String, String)]) -> Vec<PathBuf> {
    let given =
        |name: &str| environment.iter().find(|(key, _)| key == name).map(|(_, value)| PathBuf::from(value));
    let config = given("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config")).join("hearth");
    let state = given("XDG_STATE_HOME").unwrap_or_else(|| home.join(".local/state")).join("hearth");
    let models = given("HF_HOME").unwrap_or_else(|| home.join(".cache/huggingface"));
    [config, state, models].into_iter().chain(given("HF_HUB_CACHE")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> Unit {
        Unit { program: "/usr/bin/hearth".into(), start_model: false, environment: Vec::new(), system: None }
    }

    fn system() -> Unit {
        let account = Account { name: "ada".into(), uid: 1000, gid: 1000, home: "/home/ada".into() };
        let writes = written_folders(&account.home, &[]);
        Unit { system: Some((account, writes)), ..user() }
    }

    fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
        text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
    }

    #[test]
    fn the_model_is_started_only_if_it_was_asked_for() {
        let text = user().text();
        assert_eq!(values(&text, "ExecStart"), ["\"/usr/bin/hearth\" up"]);
        assert!(!starts_model(&text));
        let text = Unit { start_model: true, ..user() }.text();
        assert_eq!(values(&text, "ExecStart"), ["\"/usr/bin/hearth\" up --start-last-good"]);
        assert!(starts_model(&text));
    }

    #[test]
    fn a_user_unit_has_nothing_that_a_users_manager_cannot_do() {
        let text = user().text();
        for key in [
            "User",
            "CapabilityBoundingSet",
            "ProtectSystem",
            "ProtectHome",
            "PrivateTmp",
            "ProtectKernelModules",
        ] {
            assert!(values(&text, key).is_empty(), "{key}");
        }
        assert_eq!(values(&text, "WantedBy"), ["default.target"]);
    }

    #[test]
    fn no_unit_shuts_the_gpu_out_or_stops_when_an_engine_runs_out_of_memory() {
        for text in [user().text(), system().text()] {
            for key in [
                "PrivateDevices",
                "DevicePolicy",
                "DeviceAllow",
                "ProtectClock",
                "MemoryDenyWriteExecute",
                "MemoryMax",
            ] {
                assert!(values(&text, key).is_empty(), "{key}");
            }
            assert_eq!(values(&text, "OOMPolicy"), ["continue"]);
        }
    }

    #[test]
    fn a_system_unit_runs_as_the_person_and_writes_only_to_hearths_folders() {
        let text = system().text();
        assert_eq!(values(&text, "User"), ["ada"]);
        assert_eq!(values(&text, "CapabilityBoundingSet"), [""]);
        assert_eq!(values(&text, "ProtectSystem"), ["strict"]);
        let writes = [
            "\"/home/ada/.config/hearth\"",
            "\"/home/ada/.local/state/hearth\"",
            "\"/home/ada/.cache/huggingface\"",
        ];
        assert_eq!(values(&text, "ReadWritePaths"), writes);
    }

    #[test]
    fn paths_with_spaces_quotes_and_percent_signs_reach_systemd_as_they_are() {
        let program = PathBuf::from("/opt/my \"100%\" $HOME/hearth");
        let environment = vec![("HF_HOME".into(), "/data/a b%c".into())];
        let text = Unit { program, environment, ..user() }.text();
        assert_eq!(values(&text, "ExecStart"), ["\"/opt/my \\\"100%%\\\" $$HOME/hearth\" up"]);
        assert_eq!(values(&text, "Environment"), ["\"HF_HOME=/data/a b%%c\""]);
    }

    #[test]
    fn folders_follow_the_variables_that_are_set() {
        let set = vec![("XDG_STATE_HOME".into(), "/s".into()), ("HF_HUB_CACHE".into(), "/h".into())];
        let folders = written_folders(Path::new("/home/ada"), &set);
        let expected = ["/home/ada/.config/hearth", "/s/hearth", "/home/ada/.cache/huggingface", "/h"];
        assert_eq!(folders, expected.map(PathBuf::from));
    }
}
