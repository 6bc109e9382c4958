//! The account a system service runs as: looked up where the system looks (files, LDAP), never root.

use std::{
    env, fs,
    os::unix::fs::{DirBuilderExt, chown},
    path::Path,
    process::Command,
};

use super::{error::ServiceError, unit::Account};

/// The named account, else the one that called `sudo`.
pub fn find(name: Option<String>) -> Result<Account, ServiceError> {
    let name = name.or_else(|| env::var("SUDO_USER").ok()).ok_or(ServiceError::NobodyToRunAs)?;
    let bad = |problem| ServiceError::BadAccount { name: name.clone(), problem };
    let output = Command::new("getent").args(["passwd", "--", &name]).output();
    let output = output.map_err(|_| bad("the program getent is missing"))?;
    let account =
        read(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| bad("there is no such account"))?;
    if account.uid == 0 {
        return Err(bad("a model server has no business being root"));
    }
    Ok(account)
}

/// From a line of passwd(5).
fn read(line: &str) -> Option<Account> {
    let fields: Vec<&str> = line.lines().next()?.split(':').collect();
    let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
    Some(Account { name: name.into(), uid: uid.parse().ok()?, gid: gid.parse().ok()?, home: home.into() })
}

/// Creates a folder and what is missing above it, each for the account alone, when root makes them in somebody's home.
pub fn make_folder(path: &Path, account: &Account) -> Result<(), ServiceError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent() {
        make_folder(above, account)?;
    }
    let made = fs::DirBuilder::new().mode(0o700).create(path);
    made.and_then(|()| chown(path, Some(account.uid), Some(account.gid)))
        .map_err(|cause| ServiceError::File { path: path.into(), doing: "created", cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_passwd_is_an_account_and_half_a_line_is_none() {
        let account = read("ada:x:1000:1001:Ada Lovelace,,,:/home/ada:/bin/bash\n").unwrap();
        assert_eq!((account.name.as_str(), account.uid, account.gid), ("ada", 1000, 1001));
        assert_eq!(account.home, Path::new("/home/ada"));
        assert_eq!(read(""), None);
        assert_eq!(read("ada:x:many:1001::/home/ada:/bin/sh"), None);
        assert_eq!(read("ada:x:1000"), None);
    }

    #[test]
    fn the_service_never_runs_as_root_or_as_nobody_knows_whom() {
        assert_eq!(find(Some("root".into())).unwrap_err().code(), "bad_account");
        assert_eq!(find(Some("no-such-account-here".into())).unwrap_err().code(), "bad_account");
    }
}
