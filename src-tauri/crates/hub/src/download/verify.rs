//! Holds fetched files against what the hub says of them: size, and SHA-256 of large files or git's SHA-1 of small ones.

use std::sync::Arc;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::{Meter, fetch::blocking, part::Part};
use crate::HubError;

/// Bytes hashed in one go; between two a download can be paused.
const STRIDE: u64 = 32 << 20;
const BUFFER: usize = 1 << 20;

/// What is wrong with a part.
pub(super) type Wrong = Option<&'static str>;

/// Checks one part; none if it is what the hub has.
pub(super) async fn verify(parts: &Arc<Vec<Part>>, index: usize, meter: &Meter) -> Result<Wrong, HubError> {
    let remote = parts[index].remote.clone();
    if parts[index].length()? < remote.size {
        return Ok(Some("size"));
    }
    let mut hash = Hash::of(&remote.blob, remote.size);
    let mut at = 0;
    while at < remote.size {
        let (parts, end) = (parts.clone(), remote.size.min(at + STRIDE));
        hash = blocking(move || hash.with(&parts[index], at, end)).await?;
        meter.verified(end - at);
        at = end;
    }
    Ok((hash.hex() != remote.blob).then_some("checksum"))
}

enum Hash {
    Large(Sha256),
    Git(Sha1),
}

impl Hash {
    /// By the length of the name: 64 hex digits are SHA-256, 40 are git's object id (`blob LENGTH\0` comes before the bytes).
    fn of(blob: &str, size: u64) -> Hash {
        match blob.len() {
            64 => Hash::Large(Sha256::new()),
            _ => Hash::Git(Sha1::new().chain_update(format!("blob {size}\0"))),
        }
    }

    fn with(mut self, part: &Part, mut at: u64, end: u64) -> Result<Hash, HubError> {
        let mut buffer = vec![0; BUFFER];
        while at < end {
            let most = BUFFER.min(usize::try_from(end - at).unwrap_or(BUFFER));
            let read = part.read(at, &mut buffer[..most])?;
            if read == 0 {
                break;
            }
            match &mut self {
                Hash::Large(hash) => hash.update(&buffer[..read]),
                Hash::Git(hash) => hash.update(&buffer[..read]),
            }
            at += read as u64;
        }
        Ok(self)
    }

    fn hex(self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Hash::Large(hash) => hex(&hash.finalize()),
            Hash::Git(hash) => hex(&hash.finalize()),
        }
    }
}
