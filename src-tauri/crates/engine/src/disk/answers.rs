//! The answers that are read back as they were sampled (`replay`), in one file beside the texts: an engine that starts again
//! cuts a conversation into the tokens it was written in, or what is kept of it would not be found.
//!
//! ```text
//! magic "HEARTHAN" · version u32 · length of the identity u32 · identity, JSON
//! per answer, the oldest first: tokens of the prompt u32 · tokens in all u32 · tokens u32 each
//! seal of all that
//! ```

use std::{fs::OpenOptions, io, io::Write as _, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc};

use crate::{
    disk::file::{Identity, SEAL, Unusable, VERSION, seal},
    replay::Said,
};

/// Name of the file.
pub const NAME: &str = "answers.hearthsaid";
const UNFINISHED: &str = "answers.hearthsaid-unfinished";
const MAGIC: &[u8; 8] = b"HEARTHAN";

/// Of `said`, oldest first, the latest that fit into `most` bytes of a file.
pub fn that_fit(said: &[Arc<Said>], identity: &Identity, most: u64) -> Vec<Arc<Said>> {
    let mut left = most.saturating_sub(head(identity).len() as u64 + SEAL as u64);
    let fits = |said: &&Arc<Said>| {
        let rest = left.checked_sub(bytes_of(said));
        left = rest.unwrap_or(left);
        rest.is_some()
    };
    let mut latest: Vec<Arc<Said>> = said.iter().rev().take_while(fits).cloned().collect();
    latest.reverse();
    latest
}

/// Bytes of a file that holds `said`.
pub fn file_bytes(said: &[Arc<Said>], identity: &Identity) -> u64 {
    (head(identity).len() + SEAL) as u64 + said.iter().map(bytes_of).sum::<u64>()
}

fn bytes_of(said: &Arc<Said>) -> u64 {
    8 + 4 * said.ids.len() as u64
}

fn head(identity: &Identity) -> Vec<u8> {
    let json = serde_json::to_vec(identity).expect("numbers and strings can be written");
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((json.len() as u32).to_le_bytes());
    bytes.extend(json);
    bytes
}

/// Writes the file: under another name until it is complete.
///
/// # Errors
/// Those of the file system.
pub fn write(folder: &Path, identity: &Identity, said: &[Arc<Said>]) -> io::Result<()> {
    let mut bytes = head(identity);
    for said in said {
        bytes.extend((said.prompt as u32).to_le_bytes());
        bytes.extend((said.ids.len() as u32).to_le_bytes());
        bytes.extend(said.ids.iter().flat_map(|id| id.to_le_bytes()));
    }
    let sealed = seal(&[&bytes]);
    bytes.extend(sealed);
    let unfinished = folder.join(UNFINISHED);
    let _ = std::fs::remove_file(&unfinished);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(&bytes).and_then(|()| std::fs::rename(&unfinished, folder.join(NAME))).inspect_err(|_| {
        let _ = std::fs::remove_file(&unfinished);
    })
}

/// What an earlier engine of this identity left, oldest first, and the bytes of its file; nothing if there is none. A file
/// that cannot be used is removed.
///
/// # Errors
/// Why it cannot be used.
pub fn read(folder: &Path, identity: &Identity) -> Result<(Vec<Said>, u64), Unusable> {
    let path = folder.join(NAME);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        Err(error) => return Err(error.into()),
    };
    parse(&bytes, identity).map(|said| (said, bytes.len() as u64)).inspect_err(|_| {
        let _ = std::fs::remove_file(&path);
    })
}

fn parse(bytes: &[u8], identity: &Identity) -> Result<Vec<Said>, Unusable> {
    let damaged = Unusable::Damaged;
    let (text, sealed) =
        bytes.split_at_checked(bytes.len().saturating_sub(SEAL)).ok_or(damaged("it ends too early"))?;
    let number = |bytes: &[u8], at: usize| -> Result<u32, Unusable> {
        let four = bytes.get(at..at + 4).ok_or(Unusable::Damaged("it ends too early"))?;
        Ok(u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
    };
    if !text.starts_with(MAGIC) {
        return Err(damaged("it does not begin as it should"));
    }
    let version = number(text, 8)?;
    if version != VERSION {
        return Err(Unusable::Version(version));
    }
    if seal(&[text]) != sealed {
        return Err(damaged("its seal is broken"));
    }
    let head = head(identity);
    let mut rest = text.strip_prefix(&head[..]).ok_or(Unusable::Foreign)?;
    let mut said = Vec::new();
    while !rest.is_empty() {
        let (prompt, len) = (number(rest, 0)? as usize, number(rest, 4)? as usize);
        let (ids, behind) = rest[8..].split_at_checked(4 * len).ok_or(damaged("it ends too early"))?;
        if prompt > len {
            return Err(damaged("a prompt is longer than its text"));
        }
        let ids = ids.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        said.push(Said { ids, prompt });
        rest = behind;
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use hearth_model::KeptSizes;

    use super::*;

    fn identity(model: &str) -> Identity {
        Identity::new(model.into(), 4, KeptSizes { page: 8, state: vec![4] })
    }

    fn some() -> Vec<Arc<Said>> {
        [(vec![1, 2, 3], 2), (vec![7; 9], 4), (vec![], 0)]
            .map(|(ids, prompt)| Arc::new(Said { ids, prompt }))
            .to_vec()
    }

    #[test]
    fn what_is_written_is_read_back_by_an_engine_of_the_same_identity_only() {
        let home = tempfile::tempdir().expect("a folder");
        assert_eq!(read(home.path(), &identity("a")).expect("none is no fault").0, []);
        write(home.path(), &identity("a"), &some()).expect("writable");
        let (said, bytes) = read(home.path(), &identity("a")).expect("it is whole");
        assert_eq!(said, some().iter().map(|said| Said::clone(said)).collect::<Vec<_>>());
        assert_eq!(bytes, file_bytes(&some(), &identity("a")));
        assert_eq!(bytes, std::fs::metadata(home.path().join(NAME)).expect("it is there").len());
        assert!(matches!(read(home.path(), &identity("b")), Err(Unusable::Foreign)));
        assert!(!home.path().join(NAME).exists(), "what cannot be used is removed");
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_noticed() {
        let home = tempfile::tempdir().expect("a folder");
        write(home.path(), &identity("a"), &some()).expect("writable");
        let bytes = std::fs::read(home.path().join(NAME)).expect("it is there");
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 4;
            assert!(parse(&changed, &identity("a")).is_err(), "byte {at}");
            assert!(parse(&bytes[..at], &identity("a")).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn the_latest_that_fit_are_taken() {
        let all = file_bytes(&some(), &identity("a"));
        let fit = |most| that_fit(&some(), &identity("a"), most).len();
        assert_eq!([fit(all), fit(all - 1), fit(all - 20), fit(all - 21), fit(0)], [3, 2, 2, 1, 0]);
        assert_eq!(that_fit(&some(), &identity("a"), all - 1)[0].ids, [7; 9]);
    }
}
