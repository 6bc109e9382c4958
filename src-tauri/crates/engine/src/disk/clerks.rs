//! The two threads that write and read the files of the disk tier, so that the engine never waits for a disk: blocks come
//! and go through channels of a few places.

use std::{
    io::{self, ErrorKind},
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, SyncSender, channel},
    },
    time::SystemTime,
};

use crate::{
    disk::{
        answers,
        file::{Identity, Reading, Unusable, Writing, path_of},
        shelf::Kept,
    },
    replay::Said,
    status::Fault,
};

/// Blocks on their way at once; the engine's thread puts or takes as many as there are and goes on.
pub const BLOCKS: usize = 8;

/// What the writing clerk does.
#[derive(Debug)]
pub enum Write {
    /// Writes a file of the blocks that come. If they stop before they are all there, it is none.
    Save {
        /// What it holds.
        kept: Box<Kept>,
        /// Its tokens.
        tokens: Vec<u32>,
        /// Its blocks.
        blocks: Receiver<Vec<u8>>,
    },
    /// Writes the answers, in place of those that are there.
    Answers(Vec<Arc<Said>>),
    /// Notes that files were used.
    Touch(Vec<String>),
    /// Removes files.
    Remove(Vec<String>),
}

/// How a save ended.
#[derive(Debug)]
pub enum Saved {
    /// The file is there.
    Done(Box<Kept>),
    /// The answers are there.
    Answers,
    /// The blocks stopped.
    GivenUp,
    /// It cannot be written.
    Failed(Fault),
}

/// Reads the pages of a text, and the state at its end.
#[derive(Debug)]
pub struct Read {
    /// The files that make it up.
    pub chain: Vec<Kept>,
    /// The text.
    pub ids: Vec<u32>,
    /// Pages from the beginning that are not needed.
    pub skip: usize,
    /// Where the blocks go.
    pub blocks: SyncSender<Block>,
}

/// What comes of reading, in order: pages, then parts of the state, then `End`; or nothing more after `Broken`.
#[derive(Debug)]
pub enum Block {
    /// A page, or behind the pages a part of the state.
    Next(Vec<u8>),
    /// That was all, and all of it was as it was written.
    End,
    /// A file that cannot be used.
    Broken {
        /// Hash of the text it ends.
        hash: u64,
        /// Why.
        why: Unusable,
    },
}

/// Where work for the clerks goes, and what the writing one answers. They end when this does.
#[derive(Debug)]
pub struct Clerks {
    /// To the writing clerk.
    pub write: Sender<Write>,
    /// To the reading one.
    pub read: Sender<Read>,
    /// How saves ended.
    pub saved: Receiver<Saved>,
}

impl Clerks {
    /// Starts both over `folder`.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(folder: PathBuf, identity: Identity) -> io::Result<Clerks> {
        let (write, to_write) = channel();
        let (read, to_read) = channel();
        let (tell, saved) = channel();
        let (place, whose) = (folder.clone(), identity.clone());
        std::thread::Builder::new().name("prefix-writer".into()).spawn(move || {
            for work in to_write {
                match work {
                    Write::Save { kept, tokens, blocks } => {
                        // Nobody listens any more when the engine has ended.
                        let _ = tell.send(save(&place, kept, &tokens, &blocks));
                    }
                    Write::Answers(said) => {
                        let written = answers::write(&place, &whose, &said);
                        let _ = tell.send(match written {
                            Ok(()) => Saved::Answers,
                            Err(error) => Saved::Failed(fault(&error, &place)),
                        });
                    }
                    Write::Touch(names) => names.iter().for_each(|name| touch(&place, name)),
                    Write::Remove(names) => names.iter().for_each(|name| remove(&place, name)),
                }
            }
        })?;
        std::thread::Builder::new().name("prefix-reader".into()).spawn(move || {
            for work in to_read {
                let last = match load(&folder, &identity, &work) {
                    Ok(()) => Block::End,
                    Err((hash, why)) => Block::Broken { hash, why },
                };
                // Nobody listens if the load was given up.
                let _ = work.blocks.send(last);
            }
        })?;
        Ok(Clerks { write, read, saved })
    }
}

fn save(folder: &std::path::Path, kept: Box<Kept>, tokens: &[u32], blocks: &Receiver<Vec<u8>>) -> Saved {
    let write = || -> io::Result<bool> {
        let mut writing = Writing::begin(folder, &kept.name, &kept.header, tokens)?;
        for _ in kept.header.blocks() {
            let Ok(block) = blocks.recv() else { return Ok(false) };
            writing.block(&block)?;
        }
        writing.finish().map(|()| true)
    };
    match write() {
        Ok(true) => Saved::Done(kept),
        Ok(false) => Saved::GivenUp,
        Err(error) => Saved::Failed(fault(&error, folder)),
    }
}

/// Why nothing more is written.
fn fault(error: &io::Error, folder: &std::path::Path) -> Fault {
    let place = folder.display();
    let full = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
    let fault = if full {
        Fault::new(
            "prefix_disk_full",
            format!("There is no room left for kept prefixes in {place}; they are no longer kept on disk."),
            "Make room or choose a smaller budget, and start the engine again.",
        )
        .with("folder", place.to_string())
    } else {
        Fault::new(
            "prefix_disk_failed",
            format!("Kept prefixes cannot be written to {place}; they are no longer kept on disk."),
            "See what is wrong with the folder or the disk, and start the engine again.",
        )
        .with("folder", place.to_string())
    };
    fault.with_evidence(error.to_string())
}

fn touch(folder: &std::path::Path, name: &str) {
    // Only the order in which files go depends on it.
    let file = std::fs::File::options().append(true).open(path_of(folder, name));
    let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
}

fn remove(folder: &std::path::Path, name: &str) {
    if let Err(error) = std::fs::remove_file(path_of(folder, name))
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(%error, file = %path_of(folder, name).display(), "a kept prefix cannot be removed");
    }
}

/// Sends the blocks. The error names the file that cannot be used.
fn load(folder: &std::path::Path, identity: &Identity, work: &Read) -> Result<(), (u64, Unusable)> {
    for (i, kept) in work.chain.iter().enumerate() {
        let broken = |why: Unusable| (kept.hash, why);
        if kept.end() / identity.page_len <= work.skip && i + 1 < work.chain.len() {
            continue;
        }
        let mut reading = Reading::open(folder, &kept.name, identity).map_err(broken)?;
        let (first, pages) = (kept.header.first, kept.header.pages());
        if reading.header != kept.header || work.ids.get(first..kept.end()) != Some(&reading.tokens[..]) {
            return Err(broken(Unusable::Damaged("it holds another text")));
        }
        let skipped = work.skip.saturating_sub(first / identity.page_len).min(pages);
        let states = if i + 1 == work.chain.len() { identity.state.len() } else { 0 };
        for index in skipped..pages + states {
            let block = reading.block(index).map_err(broken)?;
            if work.blocks.send(Block::Next(block)).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}
