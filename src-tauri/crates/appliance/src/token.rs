//! The control token: 256 random bits in a file that only its owner may read. Whoever can read the file may steer the appliance.

use std::{
    fs,
    io::Read,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use subtle::ConstantTimeEq;

use crate::{ApplianceError, places::write_whole};

/// The token in memory. It is not printed by `{:?}`.
#[derive(Clone)]
pub struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// Reads the token, or makes one. A file that others could read is replaced with a new token, because the old one may be
    /// known; a file of another user is refused. The flag says that the token was replaced.
    pub fn load(path: &Path) -> Result<(Token, bool), ApplianceError> {
        let failed = |doing| move |cause| ApplianceError::File { path: path.into(), doing, cause };
        // O_NOFOLLOW: a link in place of the file would let somebody choose the token.
        let mut options = fs::OpenOptions::new();
        options.read(true).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
        let mut replaced = false;
        match options.open(path) {
            Ok(file) => {
                let meta = file.metadata().map_err(failed("read"))?;
                if meta.uid() != rustix::process::getuid().as_raw() {
                    return Err(ApplianceError::Foreign { path: path.into(), uid: meta.uid() });
                }
                let mut text = String::new();
                let whole = file.take(1024).read_to_string(&mut text).is_ok();
                let token = text.trim();
                let sound = whole && token.len() == 64 && token.bytes().all(|b| b.is_ascii_hexdigit());
                if meta.mode() & 0o077 == 0 && sound {
                    return Ok((Token(token.to_owned()), false));
                }
                replaced = true;
            }
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
            Err(cause) => return Err(failed("read")(cause)),
        }
        let mut bits = [0u8; 32];
        getrandom::fill(&mut bits).map_err(|e| failed("created")(std::io::Error::other(e.to_string())))?;
        let token: String = bits.iter().map(|byte| format!("{byte:02x}")).collect();
        write_whole(path, token.as_bytes())?;
        Ok((Token(token), replaced))
    }

    /// Compares in a time that does not tell where the difference is.
    pub fn matches(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
    }

    /// The text, to be put into the address that is given to the person.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_token_is_made_once_and_only_its_owner_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control-token");
        let (first, replaced) = Token::load(&path).unwrap();
        assert!(!replaced && first.reveal().len() == 64);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let (second, _) = Token::load(&path).unwrap();
        assert!(first.matches(second.reveal()));
        assert!(!first.matches("") && !first.matches(&first.reveal()[..63]));
    }

    #[test]
    fn a_token_that_others_could_read_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control-token");
        let (old, _) = Token::load(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let (new, replaced) = Token::load(&path).unwrap();
        assert!(replaced && !old.matches(new.reveal()));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn an_empty_file_or_a_link_gives_no_token_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control-token");
        write_whole(&path, b"").unwrap();
        let (token, replaced) = Token::load(&path).unwrap();
        assert!(replaced && !token.matches(""));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(Token::load(&link).is_err());
    }
}
