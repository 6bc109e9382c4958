//! Room on the disk that downloads go to.

use std::{io, path::Path};

/// Left free for everything else on that disk.
pub(crate) const MARGIN: u64 = 1 << 30;

/// Bytes this user may still write where `path` is, or will be.
pub(crate) fn free(path: &Path) -> io::Result<u64> {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(there)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
