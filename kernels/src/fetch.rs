//! Ranges of files, read ahead by several threads in the order in which they will be wanted. A load knows that order before
//! it begins, because its memory was planned by a rehearsal; so the disk never waits for the load nor asks for less than it
//! can give. Used by `hearth-model`'s loader for devices with memory of their own; reads go past the page cache.

use crate::cpu::buffer::HostBuffer;
use crate::direct::{BLOCK, DirectFile};
use crate::{OpError, Result};
use std::collections::HashMap;
use std::io::Error;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Threads that read: one alone reaches a third of what a fast disk gives.
const READERS: usize = 4;
/// Buffers in turn: one is taken from, one is full, one is filled.
const BUFFERS: usize = 3;
/// Bytes that are read together: enough for all readers, and for a range in another order than its neighbours.
const BATCH: usize = 16 << 20;
/// Ranges with no more than this between them are read as one.
const GAP: u64 = 64 << 10;
/// What one thread reads at a time.
const PART: usize = 2 << 20;

/// Some bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRange {
    /// The file.
    pub file: Arc<Path>,
    /// Where they begin.
    pub offset: u64,
    /// How many.
    pub bytes: usize,
}

impl FileRange {
    /// Bytes `first .. first + bytes` of it.
    pub fn part(&self, first: usize, bytes: usize) -> FileRange {
        FileRange { file: self.file.clone(), offset: self.offset + first as u64, bytes }
    }
}

/// A stretch of a file as it is read: whole blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    file: usize,
    offset: u64,
    bytes: usize,
    /// Where it goes in the buffer.
    at: usize,
}

/// What is read together.
#[derive(Debug, Default, PartialEq, Eq)]
struct Batch {
    spans: Vec<Span>,
    /// Of each wanted range, in order: where it lies in the buffer.
    places: Vec<usize>,
    /// Bytes of the buffer.
    bytes: usize,
}

/// The ranges, arranged into batches; the files they name, each once.
struct Arranged {
    files: Vec<Arc<Path>>,
    batches: Vec<Batch>,
}

fn arrange(wanted: &[FileRange]) -> Arranged {
    let mut files: Vec<Arc<Path>> = Vec::new();
    let mut numbers: HashMap<Arc<Path>, usize> = HashMap::new();
    let mut batches = Vec::new();
    let mut batch: Vec<(usize, u64, usize)> = Vec::new();
    let mut size = 0;
    for range in wanted {
        let file = *numbers.entry(range.file.clone()).or_insert_with(|| {
            files.push(range.file.clone());
            files.len() - 1
        });
        if !batch.is_empty() && size + range.bytes > BATCH {
            batches.push(gather(&batch));
            batch.clear();
            size = 0;
        }
        batch.push((file, range.offset, range.bytes));
        size += range.bytes;
    }
    if !batch.is_empty() {
        batches.push(gather(&batch));
    }
    Arranged { files, batches }
}

/// Ranges that lie near each other become one span, whatever their order.
fn gather(ranges: &[(usize, u64, usize)]) -> Batch {
    let block = BLOCK as u64;
    let mut order: Vec<usize> = (0..ranges.len()).collect();
    order.sort_by_key(|&i| ranges[i]);
    let mut batch = Batch { places: vec![0; ranges.len()], ..Batch::default() };
    for i in order {
        let (file, offset, bytes) = ranges[i];
        let end = (offset + bytes as u64).next_multiple_of(block);
        let near = batch
            .spans
            .last_mut()
            .filter(|span| span.file == file && offset <= span.offset + span.bytes as u64 + GAP);
        let span = match near {
            Some(span) => {
                let longer = usize::try_from(end.saturating_sub(span.offset)).unwrap_or(usize::MAX);
                span.bytes = span.bytes.max(longer);
                *span
            }
            None => {
                let first = offset - offset % block;
                let at = batch.bytes;
                let bytes = usize::try_from(end - first).unwrap_or(usize::MAX);
                let span = Span { file, offset: first, bytes, at };
                batch.spans.push(span);
                span
            }
        };
        batch.bytes = span.at + span.bytes;
        batch.places[i] = span.at + usize::try_from(offset - span.offset).unwrap_or(usize::MAX);
    }
    batch
}

/// The most bytes of host memory that [`Fetch::start`] takes for these ranges.
pub fn buffer_bytes(wanted: &[FileRange]) -> u64 {
    let arranged = arrange(wanted);
    let largest = arranged.batches.iter().map(|batch| batch.bytes).max().unwrap_or(0);
    (largest * BUFFERS.min(arranged.batches.len())) as u64
}

/// A buffer with a batch in it, or why it could not be read.
type Filled = Result<HostBuffer>;

/// Ranges of files on their way.
#[derive(Debug)]
pub struct Fetch {
    wanted: Vec<FileRange>,
    /// Of each wanted range: its batch, and where it lies there.
    places: Vec<(usize, usize)>,
    next: usize,
    current: Option<(usize, HostBuffer)>,
    filled: Option<Receiver<Filled>>,
    empty: Option<Sender<HostBuffer>>,
    reader: Option<JoinHandle<()>>,
    taken: u64,
    total: u64,
}

impl Fetch {
    /// Opens the files and begins to read `wanted`, in this order.
    ///
    /// # Errors
    /// [`OpError::File`] for a file that cannot be opened or is shorter than a range of it; no memory; no thread.
    pub fn start(wanted: Vec<FileRange>) -> Result<Fetch> {
        let Arranged { files, batches } = arrange(&wanted);
        let mut opened: HashMap<Arc<Path>, DirectFile> = HashMap::new();
        for path in &files {
            opened.insert(path.clone(), DirectFile::open(path)?);
        }
        for range in &wanted {
            let file = &opened[&range.file];
            let end = range.offset.saturating_add(range.bytes as u64);
            if end > file.length() {
                return Err(file.fault(format!("it has {} bytes, {end} are needed", file.length())));
            }
        }
        let files: Vec<DirectFile> = files.iter().filter_map(|path| opened.remove(path)).collect();
        let places: Vec<(usize, usize)> = batches
            .iter()
            .enumerate()
            .flat_map(|(number, batch)| batch.places.iter().map(move |place| (number, *place)))
            .collect();
        let largest = batches.iter().map(|batch| batch.bytes).max().unwrap_or(0);
        let (empty, to_fill) = channel();
        let (fill, filled) = channel();
        for _ in 0..BUFFERS.min(batches.len()) {
            // The reader lives until its end of the channel is gone, which is in this function.
            let _ = empty.send(HostBuffer::zeroed(largest)?);
        }
        let reader = std::thread::Builder::new()
            .name("load".into())
            .spawn(move || read_all(&files, &batches, &to_fill, &fill))
            .map_err(|e| OpError::Threads { device: "cpu", threads: 1, reason: e.to_string() })?;
        let total = wanted.iter().map(|range| range.bytes as u64).sum();
        Ok(Fetch {
            wanted,
            places,
            next: 0,
            current: None,
            filled: Some(filled),
            empty: Some(empty),
            reader: Some(reader),
            taken: 0,
            total,
        })
    }

    /// The bytes of the next range, which is `range`.
    ///
    /// # Errors
    /// [`OpError::File`] if it cannot be read; [`OpError::Shape`] for another range than the next.
    pub fn take(&mut self, range: &FileRange) -> Result<&[u8]> {
        if self.wanted.get(self.next) != Some(range) {
            let expected = format!("{:?}", self.wanted.get(self.next));
            return Err(OpError::shape("load", "next range", expected, format!("{range:?}")));
        }
        let (batch, at) = self.places[self.next];
        if self.current.as_ref().is_none_or(|(current, _)| *current != batch) {
            if let (Some((_, buffer)), Some(empty)) = (self.current.take(), &self.empty) {
                // A reader that is done needs no more buffers.
                let _ = empty.send(buffer);
            }
            let ended = || OpError::File {
                path: range.file.display().to_string(),
                reason: "the thread that reads it ended early".into(),
            };
            let filled = self.filled.as_ref().and_then(|filled| filled.recv().ok()).ok_or_else(ended)?;
            self.current = Some((batch, filled?));
        }
        self.next += 1;
        self.taken += range.bytes as u64;
        let (_, buffer) = self.current.as_ref().expect("it was put there above");
        Ok(&buffer.as_slice::<u8>()[at..at + range.bytes])
    }

    /// Bytes taken so far, and of all ranges.
    pub fn progress(&self) -> (u64, u64) {
        (self.taken, self.total)
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        // Without them the reader ends after the batch it is at.
        (self.filled, self.empty) = (None, None);
        if let Some(reader) = self.reader.take() {
            // It has nothing to say any more.
            let _ = reader.join();
        }
    }
}

/// Fills buffers with batches as long as somebody wants them.
fn read_all(files: &[DirectFile], batches: &[Batch], empty: &Receiver<HostBuffer>, fill: &Sender<Filled>) {
    for batch in batches {
        let Ok(mut buffer) = empty.recv() else { return };
        let read = read_batch(files, batch, buffer.as_mut_slice());
        let failed = read.is_err();
        if fill.send(read.map(|()| buffer)).is_err() || failed {
            return;
        }
    }
}

fn read_batch(files: &[DirectFile], batch: &Batch, mut into: &mut [u8]) -> Result<()> {
    let mut parts = Vec::new();
    for span in &batch.spans {
        let (mine, rest) = into.split_at_mut(span.bytes);
        into = rest;
        let chunks = mine.chunks_mut(PART).enumerate();
        parts.extend(chunks.map(|(i, chunk)| (&files[span.file], span.offset + (i * PART) as u64, chunk)));
    }
    let readers = READERS.min(parts.len());
    let parts = Mutex::new(parts);
    let failed = Mutex::new(None);
    let work = || {
        loop {
            let Some((file, at, chunk)) = parts.lock().unwrap_or_else(PoisonError::into_inner).pop() else {
                return;
            };
            let needed = usize::try_from(file.length() - at.min(file.length())).unwrap_or(usize::MAX);
            let read = file.read_part(at, chunk).and_then(|found| {
                let short = found < needed.min(chunk.len());
                if short { Err(Error::other("it became shorter while it was read")) } else { Ok(()) }
            });
            if let Err(error) = read {
                let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.get_or_insert_with(|| file.fault(error));
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        (1..readers).for_each(|_| drop(scope.spawn(work)));
        work();
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        None => Ok(()),
        Some(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn file_of(name: &str, bytes: usize) -> (Arc<Path>, Vec<u8>) {
        let content: Vec<u8> = (0..bytes).map(|i| (i * 131 + (i >> 8) * 7) as u8).collect();
        let path: PathBuf = std::env::temp_dir().join(format!("hearth-fetch-{name}-{}", std::process::id()));
        std::fs::write(&path, &content).expect("the folder for temporary files can be written");
        (path.into(), content)
    }

    fn range(file: &Arc<Path>, offset: u64, bytes: usize) -> FileRange {
        FileRange { file: file.clone(), offset, bytes }
    }

    #[test]
    fn ranges_arrive_in_the_order_they_are_wanted_wherever_they_lie() {
        let (first, a) = file_of("first", 21 << 20);
        let (second, b) = file_of("second", 70_001);
        let mut wanted = vec![
            range(&second, 70_000, 1),
            range(&first, 16 << 20, 5 << 20),
            range(&first, 3, 17),
            range(&second, 0, 70_001),
            range(&first, 0, 0),
            range(&first, 1 << 20, 17 << 20),
            range(&first, 5, 17),
        ];
        wanted.extend((0..200).rev().map(|i| range(&first, i * 100_000 + 1, 75_000)));
        let mut fetch = Fetch::start(wanted.clone()).expect("the files are there");
        let mut done = 0;
        for range in &wanted {
            let content = if range.file == first { &a } else { &b };
            let at = range.offset as usize;
            let bytes = fetch.take(range).expect("it is read");
            assert!(bytes == &content[at..at + range.bytes], "{range:?}");
            done += range.bytes as u64;
            assert_eq!(fetch.progress().0, done);
        }
        assert_eq!(fetch.progress(), (done, done));
        assert!(matches!(fetch.take(&wanted[0]), Err(OpError::Shape { .. })), "nothing is left");
        drop(fetch);
        for path in [first, second] {
            std::fs::remove_file(path).expect("it was there");
        }
    }

    #[test]
    fn neighbours_in_a_file_are_read_at_once_and_in_whole_blocks() {
        let file: Arc<Path> = Path::new("weights").into();
        // A down, a gate and an up matrix with scales behind each, wanted in another order.
        let wanted = [
            range(&file, 100_000, 50_000),
            range(&file, 150_000, 500),
            range(&file, 10_000, 80_000),
            range(&file, 90_000, 500),
            range(&file, 9 << 20, 10),
        ];
        let Arranged { batches, files } = arrange(&wanted);
        assert_eq!((files.len(), batches.len()), (1, 1));
        let spans: Vec<(u64, usize)> = batches[0].spans.iter().map(|s| (s.offset, s.bytes)).collect();
        assert_eq!(spans, [(8192, 151_552 - 8192), (9 << 20, 4096)]);
        assert!(batches[0].spans.iter().all(|s| s.at.is_multiple_of(BLOCK)));
        assert_eq!(buffer_bytes(&wanted), batches[0].bytes as u64);
    }

    #[test]
    fn a_file_that_is_too_short_is_refused_before_anything_is_read() {
        let (file, _) = file_of("short", 10_000);
        for (offset, bytes) in [(9_999, 5000), (1 << 30, 1), (0, 1 << 20)] {
            let error = Fetch::start(vec![range(&file, offset, bytes)]).map(drop).expect_err("too short");
            assert!(error.to_string().contains("it has 10000 bytes"), "{error}");
        }
        std::fs::remove_file(&*file).expect("it was there");
    }

    #[test]
    fn a_file_that_is_cut_while_it_is_read_is_an_error_and_one_that_nobody_takes_from_is_no_hang() {
        let (file, _) = file_of("cut", 0);
        let whole = std::fs::OpenOptions::new().write(true).open(&*file).expect("it can be written");
        whole.set_len(80 << 20).expect("it can grow");
        let wanted: Vec<FileRange> = (0..5).map(|i| range(&file, i * (16 << 20), 16 << 20)).collect();
        let mut fetch = Fetch::start(wanted.clone()).expect("the file is whole");
        fetch.take(&wanted[0]).expect("it is whole");
        whole.set_len(60 << 20).expect("it can be cut");
        let rest: Result<()> = wanted[1..].iter().try_for_each(|range| fetch.take(range).map(drop));
        assert!(rest.expect_err("the end is gone").to_string().contains("became shorter"));
        drop(Fetch::start(wanted[..2].to_vec()).expect("these are there"));
        std::fs::remove_file(&*file).expect("it was there");
    }
}
