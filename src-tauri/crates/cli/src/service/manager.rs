//! One systemd manager, the user's or the system's: where its units lie, and `systemctl` with what it answers.

use std::{
    collections::HashMap,
    env, fs,
    io::ErrorKind,
    path::PathBuf,
    process::{Command, Stdio},
};

use super::{error::ServiceError, unit::MARK};

/// The unit's name.
pub const NAME: &str = "hearth.service";

/// Whose manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// `systemctl --user`.
    User,
    /// `systemctl`.
    System,
}

/// How the unit stands, in systemd's words.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// `active`, `inactive`, `failed`, `activating` ...; empty if the manager does not answer.
    pub active: String,
    /// `enabled`, `disabled` ...
    pub enabled: String,
    /// Process id; null if none runs.
    pub pid: Option<u32>,
}

impl Scope {
    /// `user` or `system`.
    pub fn word(self) -> &'static str {
        match self {
            Scope::User => "user",
            Scope::System => "system",
        }
    }

    /// The other one.
    pub fn other(self) -> Scope {
        match self {
            Scope::User => Scope::System,
            Scope::System => Scope::User,
        }
    }

    /// `systemctl` as a person would type it.
    pub fn systemctl(self) -> &'static str {
        match self {
            Scope::User => "systemctl --user",
            Scope::System => "systemctl",
        }
    }

    /// The unit file.
    pub fn path(self) -> Result<PathBuf, ServiceError> {
        match self {
            Scope::System => Ok(PathBuf::from("/etc/systemd/system").join(NAME)),
            Scope::User => {
                let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
                let config = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
                Ok(config.ok_or(ServiceError::NoHome)?.join("systemd/user").join(NAME))
            }
        }
    }

    /// The text of the unit that Hearth wrote; null if there is none.
    ///
    /// # Errors
    /// `Foreign` for a file of that name that somebody else wrote.
    pub fn installed(self) -> Result<Option<String>, ServiceError> {
        let path = self.path()?;
        match fs::read_to_string(&path) {
            Ok(text) if text.starts_with(MARK) => Ok(Some(text)),
            Ok(_) => Err(ServiceError::Foreign { path }),
            Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(ServiceError::File { path, doing: "read", cause }),
        }
    }

    /// Runs systemctl; returns what it wrote.
    pub fn run(self, args: &[&str]) -> Result<String, ServiceError> {
        let mut command = Command::new("systemctl");
        if self == Scope::User {
            command.arg("--user");
        }
        let output = command.args(args).stdin(Stdio::null()).output();
        let output = output.map_err(|cause| ServiceError::NoSystemd(format!("systemctl: {cause}")))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        let said = text(&output.stderr);
        // What systemctl says without a manager: no systemd as process 1, or no session bus.
        if said.contains("not been booted with systemd") || said.contains("Failed to connect to") {
            return Err(ServiceError::NoSystemd(said.lines().next().unwrap_or_default().into()));
        }
        Err(ServiceError::Systemctl { command: format!("{} {}", self.systemctl(), args.join(" ")), said })
    }

    /// How the unit stands; unknown parts are empty.
    pub fn standing(self) -> Standing {
        let shown = self.run(&["show", NAME, "--property=ActiveState,UnitFileState,MainPID"]);
        shown.map_or_else(|_| Standing::default(), |text| Standing::read(&text))
    }
}

impl Standing {
    /// From the lines of `systemctl show`.
    fn read(text: &str) -> Standing {
        let values: HashMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
        let word = |key: &str| values.get(key).copied().unwrap_or_default().to_owned();
        let pid = values.get("MainPID").and_then(|pid| pid.parse().ok()).filter(|pid| *pid != 0);
        Standing { active: word("ActiveState"), enabled: word("UnitFileState"), pid }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemds_answer_is_read_whatever_its_order_and_no_process_is_null() {
        let standing = Standing::read("MainPID=412\nUnitFileState=enabled\nActiveState=active\n");
        let expected = Standing { active: "active".into(), enabled: "enabled".into(), pid: Some(412) };
        assert_eq!(standing, expected);
        assert_eq!(Standing::read("MainPID=0\nActiveState=inactive\n").pid, None);
        assert_eq!(Standing::read(""), Standing::default());
    }
}
