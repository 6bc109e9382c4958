//! The engine's output: the last lines in memory for the dashboard, all of it in a file that is turned over when it grows.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::Mutex,
    thread,
};

const LINES_KEPT: usize = 2000;
const LINE_LIMIT: u64 = 8 * 1024;
const FILE_LIMIT: u64 = 4 << 20;

/// Bounded log of the engines.
#[derive(Debug)]
pub struct LogBook {
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    lines: VecDeque<String>,
    file: Option<File>,
    written: u64,
}

impl LogBook {
    /// Appends to `path`; a file that cannot be opened leaves the lines in memory only.
    pub fn open(path: PathBuf) -> LogBook {
        let file = append_to(&path);
        let written = file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |meta| meta.len());
        LogBook { path, inner: Mutex::new(Inner { lines: VecDeque::new(), file, written }) }
    }

    /// The last `n` lines, oldest first.
    pub fn tail(&self, n: usize) -> Vec<String> {
        let inner = self.inner.lock().expect("no holder of the log panics");
        inner.lines.iter().skip(inner.lines.len().saturating_sub(n)).cloned().collect()
    }

    /// Adds a line.
    pub fn add(&self, line: &str) {
        let mut inner = self.inner.lock().expect("no holder of the log panics");
        if inner.lines.len() == LINES_KEPT {
            inner.lines.pop_front();
        }
        inner.lines.push_back(line.to_owned());
        if inner.written > FILE_LIMIT {
            let _ = fs::rename(&self.path, self.path.with_extension("log.1"));
            inner.file = append_to(&self.path);
            inner.written = 0;
        }
        if let Some(file) = &mut inner.file
            && writeln!(file, "{line}").is_ok()
        {
            inner.written += line.len() as u64 + 1;
        }
    }

    /// Copies a pipe into the log until it ends, on a thread of its own.
    pub(super) fn follow(self: &std::sync::Arc<Self>, pipe: impl Read + Send + 'static) {
        let log = self.clone();
        let copy = move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            // A line without end is cut into pieces, so that a broken engine cannot fill the memory.
            while (&mut pipe).take(LINE_LIMIT).read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                log.add(String::from_utf8_lossy(&line).trim_end());
                line.clear();
            }
        };
        if let Err(error) = thread::Builder::new().name("engine-log".into()).spawn(copy) {
            tracing::warn!(%error, "the engine's output is not followed");
        }
    }
}

fn append_to(path: &std::path::Path) -> Option<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path).ok()
}

#[cfg(test)]
mod tests {
    use std::{io::Cursor, sync::Arc, time::Duration};

    use super::*;

    #[test]
    fn only_the_last_lines_stay_in_memory_and_the_file_is_turned_over() {
        let folder = tempfile::tempdir().unwrap();
        let log = LogBook::open(folder.path().join("engine.log"));
        let long = "x".repeat(4000);
        for i in 0..3000 {
            log.add(&format!("{i} {long}"));
        }
        assert_eq!(log.tail(usize::MAX).len(), LINES_KEPT);
        assert!(log.tail(1)[0].starts_with("2999 "));
        assert!(fs::metadata(folder.path().join("engine.log")).unwrap().len() <= FILE_LIMIT + 8192);
        assert!(folder.path().join("engine.log.1").exists());
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let log = Arc::new(LogBook::open(folder.path().join("engine.log")));
        log.follow(Cursor::new(vec![b'y'; 20_000]));
        let start = std::time::Instant::now();
        while log.tail(10).len() < 3 && start.elapsed() < Duration::from_secs(20) {
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(log.tail(10).iter().map(String::len).sum::<usize>(), 20_000);
    }
}
