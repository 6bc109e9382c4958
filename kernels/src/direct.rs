//! Reads files past the page cache. A checkpoint is read once; where the GPU shares the host's memory, what the cache keeps
//! of it is missing for the model. Used for weights on their way to a device.

use crate::{OpError, Result};
use rustix::fs::{Advice, OFlags};
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// What offsets, lengths and addresses of direct reads are multiples of: a sector of any disk, and a page.
pub const BLOCK: usize = 4096;

/// Least bytes that are worth a thread of their own.
const PART: usize = 1 << 20;

/// A file that is read past the page cache where its file system can; elsewhere what was read is dropped from the cache.
#[derive(Debug)]
pub struct DirectFile {
    path: PathBuf,
    plain: File,
    /// None where the file system has no direct reads.
    direct: Option<File>,
    /// Set when a direct read was refused in spite of that.
    refused: AtomicBool,
    length: u64,
}

impl DirectFile {
    /// Opens a regular file.
    ///
    /// # Errors
    /// [`OpError::File`] if it cannot be read or is something else than a regular file.
    pub fn open(path: &Path) -> Result<DirectFile> {
        let fault =
            |error: &Error| OpError::File { path: path.display().to_string(), reason: error.to_string() };
        // Asked before it is opened, because opening a pipe would wait for a writer.
        if !std::fs::metadata(path).map_err(|e| fault(&e))?.is_file() {
            return Err(fault(&Error::other("it is not a regular file")));
        }
        let plain = File::open(path).map_err(|e| fault(&e))?;
        let length = plain.metadata().map_err(|e| fault(&e))?.len();
        let flags = i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0);
        let direct = OpenOptions::new().read(true).custom_flags(flags).open(path).ok();
        Ok(DirectFile { path: path.into(), plain, direct, refused: AtomicBool::new(false), length })
    }

    /// Length when it was opened, bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Whether reads go past the page cache, so far.
    pub fn is_direct(&self) -> bool {
        self.direct.is_some() && !self.refused.load(Ordering::Relaxed)
    }

    /// An error about this file.
    pub(crate) fn fault(&self, reason: impl std::fmt::Display) -> OpError {
        OpError::File { path: self.path.display().to_string(), reason: reason.to_string() }
    }

    /// Reads from `at` into `into` with up to `readers` threads, as far as the file goes; returns how many bytes that is.
    /// `at` and the length are multiples of [`BLOCK`]; direct reads happen if the address of `into` is one too.
    ///
    /// # Errors
    /// [`OpError::File`] with the system's words.
    pub fn read(&self, at: u64, into: &mut [u8], readers: usize) -> Result<usize> {
        let part = into.len().div_ceil(readers.max(1)).max(PART).next_multiple_of(BLOCK);
        let mut counts: Vec<std::io::Result<usize>> = Vec::new();
        std::thread::scope(|scope| {
            let mut handles = Vec::new();
            for (i, bytes) in into.chunks_mut(part).enumerate() {
                let from = at + (i * part) as u64;
                handles.push(scope.spawn(move || self.read_part(from, bytes)));
            }
            for handle in handles {
                counts.push(
                    handle.join().unwrap_or_else(|_| Err(Error::other("a reading thread ended early"))),
                );
            }
        });
        let mut total = 0;
        for count in counts {
            total += count.map_err(|e| self.fault(e))?;
        }
        Ok(total)
    }

    /// As [`DirectFile::read`], on this thread.
    pub(crate) fn read_part(&self, at: u64, into: &mut [u8]) -> std::io::Result<usize> {
        let direct = self.is_direct() && into.as_ptr().addr().is_multiple_of(BLOCK);
        if let Some(file) = self.direct.as_ref().filter(|_| direct) {
            match read_whole(file, at, into) {
                // Some file systems open a file so and then do not read it.
                Err(error) if error.kind() == ErrorKind::InvalidInput => {
                    self.refused.store(true, Ordering::Relaxed)
                }
                other => return other,
            }
        }
        let count = read_whole(&self.plain, at, into)?;
        if let Some(length) = NonZeroU64::new(count as u64) {
            // A hint: that it is not taken is no fault.
            let _ = rustix::fs::fadvise(&self.plain, at, Some(length), Advice::DontNeed);
        }
        Ok(count)
    }
}

/// Reads until `into` is full or the file ends.
fn read_whole(file: &File, at: u64, into: &mut [u8]) -> std::io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match file.read_at(&mut into[done..], at + done as u64) {
            Ok(0) => break,
            Ok(count) => {
                done += count;
                // A direct read stops within a block only at the end, and could not go on from there.
                if !done.is_multiple_of(BLOCK) && at + done as u64 >= file.metadata()?.len() {
                    break;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::buffer::HostBuffer;

    fn file_of(name: &str, bytes: usize) -> (PathBuf, Vec<u8>) {
        let content: Vec<u8> = (0..bytes).map(|i| (i * 31 + (i >> 9)) as u8).collect();
        let path = std::env::temp_dir().join(format!("hearth-direct-{name}-{}", std::process::id()));
        std::fs::write(&path, &content).expect("the folder for temporary files can be written");
        (path, content)
    }

    #[test]
    fn a_file_is_read_whole_by_several_readers_and_ends_where_it_ends() {
        let (path, content) = file_of("whole", 3 * PART + 12_345);
        let file = DirectFile::open(&path).expect("it is there");
        for readers in [1, 3, 4] {
            let mut buffer = HostBuffer::zeroed(4 * PART).expect("there is memory");
            let count = file.read(0, buffer.as_mut_slice(), readers).expect("it is read");
            assert_eq!(count, content.len());
            assert!(buffer.as_slice::<u8>()[..count] == content[..], "{readers} readers");
        }
        std::fs::remove_file(path).expect("it was there");
    }

    #[test]
    fn an_address_that_direct_reads_cannot_have_is_read_all_the_same() {
        let (path, content) = file_of("odd", 2 * BLOCK + 7);
        let file = DirectFile::open(&path).expect("it is there");
        let mut buffer = HostBuffer::zeroed(3 * BLOCK + 64).expect("there is memory");
        let odd = &mut buffer.as_mut_slice::<u8>()[64..64 + 2 * BLOCK];
        assert_eq!(file.read(BLOCK as u64, odd, 2), Ok(BLOCK + 7));
        assert!(odd[..BLOCK + 7] == content[BLOCK..]);
        std::fs::remove_file(path).expect("it was there");
    }

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        for path in ["/dev/zero", "/", "/nowhere/at/all"] {
            let error = DirectFile::open(Path::new(path)).expect_err("it cannot be read");
            assert!(matches!(error, OpError::File { .. }), "{error}");
        }
    }
}
