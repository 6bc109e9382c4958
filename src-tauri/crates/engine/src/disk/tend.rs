//! What the engine's thread does for the disk tier, once per step: copies a slice of what is on its way, and begins the next
//! save; `admit` asks it to begin a load. Part of the engine's step.

use std::{
    sync::mpsc::{TryRecvError, TrySendError, sync_channel},
    time::Instant,
};

use crate::{
    disk::{
        Disk, DiskRequest, Identity, Loading, Saving,
        clerks::{BLOCKS, Block, Read, Saved, Write},
        file::{Header, name_of},
        shelf::Kept,
    },
    prefix::{Apart, End, When},
    runner::Runner,
    status::Fault,
    step::Worker,
};

/// Bytes copied per step: about a millisecond's worth.
const SLICE: usize = 8 << 20;
/// Pages that a file must save reading. Fewer are sooner computed than fetched, and not worth the writing.
const LEAST: usize = 4;
/// A state in the middle of a text is written where it takes at most so many times the bytes of the pages before it.
const STATES: usize = 4;
/// With fewer than one in so many pages free, the tree is about to push texts out.
const SHORT: usize = 8;

impl<R: Runner> Worker<R> {
    /// Opens the disk tier for a model with this digest. If that fails, the engine does without and says so.
    pub(crate) fn open_disk(&mut self, request: &DiskRequest, model: String) {
        let identity = Identity::new(model, self.limits.page_len, self.runner.kept_sizes());
        match Disk::open(request, identity, self.board.known.clone(), &self.board.replay) {
            Ok(disk) => {
                self.prefixes.start_clock(disk.shelf.len() as u64);
                self.disk = Some(disk);
            }
            Err(fault) => {
                tracing::warn!(evidence = ?fault.evidence, "{fault}");
                if let Some(model) = &mut self.board.lock().model {
                    model.notices.push(fault);
                }
            }
        }
    }

    /// A step's share of the work. `rests`: nobody waits for anything else.
    pub(crate) fn tend_disk(&mut self, rests: bool) {
        if self.disk.is_none() {
            return;
        }
        self.hear();
        let mut budget = SLICE;
        self.go_on_loading(&mut budget);
        self.go_on_saving(&mut budget);
        let Some(disk) = &mut self.disk else { return };
        if rests && disk.resting.is_none() {
            disk.skipped.clear();
        }
        disk.resting = rests.then(|| disk.resting.unwrap_or_else(Instant::now));
        let rested = disk.resting.is_some_and(|since| since.elapsed() >= disk.rest);
        if disk.saving.is_some() || disk.answering || disk.off.is_some() {
            return;
        }
        if rested {
            disk.write_answers(&self.board.replay);
        }
        let short = self.free_states.len() <= self.limits.slots.min(2)
            || self.pages.free() < self.limits.pages / SHORT;
        let when = if rested { When::AtRest } else { When::Soon };
        let state = Some((self.prefixes.clock(), rested));
        if (!rested && !short) || disk.settled == state {
            return;
        }
        let bytes = self.runner.kept_sizes();
        let state_pages = bytes.state.iter().sum::<usize>() / (STATES * bytes.page.max(1));
        let apart = Apart { ends: LEAST, between: state_pages.max(LEAST) };
        match self
            .prefixes
            .next_end(when, apart, &|hash| disk.shelf.has(hash) || disk.skipped.contains(&hash))
        {
            Some(end) => self.begin_saving(end),
            None => disk.settled = state,
        }
    }

    /// True while the disk tier has something to do that the engine's end must wait for. Everything that is worth it is
    /// written before that.
    pub(crate) fn disk_parts(&mut self) -> bool {
        let Some(disk) = &mut self.disk else { return false };
        if disk.rest.is_zero() && !disk.is_busy() && (disk.off.is_some() || disk.settled.is_some()) {
            return false;
        }
        if !disk.rest.is_zero() {
            disk.rest = std::time::Duration::ZERO;
            disk.settled = None;
        }
        true
    }

    /// True while something is on its way from or to the disk.
    pub(crate) fn disk_is_busy(&self) -> bool {
        self.disk.as_ref().is_some_and(Disk::is_busy)
    }

    /// Takes in how the last save ended.
    fn hear(&mut self) {
        let Some(disk) = &mut self.disk else { return };
        let node = match disk.clerks.saved.try_recv() {
            Err(TryRecvError::Empty) => return,
            Err(TryRecvError::Disconnected) if disk.off.is_some() => return,
            Err(TryRecvError::Disconnected) => {
                let fault = Fault::new(
                    "prefix_disk_failed",
                    "The thread that keeps prefixes on disk has ended; they are no longer kept there.",
                    "Start the engine again, and report the log if it happens twice.",
                );
                return self.switch_disk_off(fault);
            }
            Ok(Saved::Done(kept)) => {
                disk.saved_tokens += kept.header.tokens as u64;
                disk.known.add_on_disk(kept.hash);
                disk.shelf.add(*kept);
                disk.saving.take().and_then(|saving| saving.node)
            }
            Ok(Saved::Answers) => {
                disk.answering = false;
                return;
            }
            Ok(Saved::GivenUp) => disk.saving.take().and_then(|saving| saving.node),
            Ok(Saved::Failed(fault)) => return self.switch_disk_off(fault),
        };
        self.prefixes.unpin(node);
    }

    /// Writes nothing more; what is there can still be read.
    fn switch_disk_off(&mut self, fault: Fault) {
        tracing::error!(evidence = ?fault.evidence, "{fault}");
        let Some(disk) = &mut self.disk else { return };
        let node = disk.saving.take().and_then(|saving| saving.node);
        disk.answering = false;
        disk.off = Some(fault.clone());
        self.prefixes.unpin(node);
        if let Some(model) = &mut self.board.lock().model {
            model.notices.push(fault);
        }
    }

    fn begin_saving(&mut self, end: End) {
        let Some(disk) = &mut self.disk else { return };
        let page = self.limits.page_len;
        let trail = self.prefixes.trail(Some(end.node));
        let written = trail.iter().rposition(|id| disk.shelf.has(self.prefixes.hash(*id)));
        let before = written.map_or(0, |at| self.prefixes.hash(trail[at]));
        let start = written.map_or(0, |at| at + 1);
        let tokens: Vec<u32> =
            trail[start..].iter().flat_map(|id| self.prefixes.tokens(*id)).copied().collect();
        let parent = disk.shelf.get(before).map(|kept| kept.name.clone());
        let name = name_of(parent.as_deref(), &tokens);
        let identity = disk.identity.clone();
        let header = Header { identity, parent, first: start * page, tokens: tokens.len() };
        let uses = self.prefixes.uses();
        let Some(gone) = disk.shelf.make_room(header.file_bytes(), before, end.used, &uses) else {
            disk.skipped.insert(end.hash);
            return;
        };
        disk.drop_files(gone);
        let used = disk.shelf.touch(before, end.used);
        let (blocks, receiver) = sync_channel(BLOCKS);
        let kept = Box::new(Kept { name, header, hash: end.hash, before, used: end.used });
        let save = Write::Save { kept, tokens, blocks: receiver };
        // An ended clerk is noticed by `hear`.
        let _ = disk.clerks.write.send(Write::Touch(used));
        let _ = disk.clerks.write.send(save);
        disk.saving = Some(Saving {
            node: Some(end.node),
            state: end.state,
            pages: trail[start..].iter().map(|id| self.prefixes.page(*id)).collect(),
            next: 0,
            blocks: Some(blocks),
            waiting: None,
        });
        self.prefixes.pin(Some(end.node));
    }

    fn go_on_saving(&mut self, budget: &mut usize) {
        let Some(saving) = self.disk.as_mut().and_then(|disk| disk.saving.as_mut()) else { return };
        while let Some(blocks) = &saving.blocks {
            let block = match saving.waiting.take() {
                Some(block) => block,
                None if *budget == 0 => return,
                None => {
                    let states = saving.next.checked_sub(saving.pages.len());
                    let read = match (saving.pages.get(saving.next), states) {
                        (Some(page), _) => self.runner.read_page(*page),
                        (None, part) => self.runner.read_state(saving.state, part.unwrap_or(0)),
                    };
                    match read {
                        Ok(block) => block,
                        Err(reason) => {
                            let fault = Fault::new(
                                "prefix_disk_failed",
                                "A kept prefix cannot be copied from the device; they are no longer kept on disk.",
                                "Start the engine again, and report the log if it happens twice.",
                            );
                            return self.switch_disk_off(fault.with_evidence(reason));
                        }
                    }
                }
            };
            let len = block.len();
            match blocks.try_send(block) {
                Ok(()) => {
                    *budget = budget.saturating_sub(len.max(1));
                    saving.next += 1;
                }
                Err(TrySendError::Full(block)) => {
                    saving.waiting = Some(block);
                    return;
                }
                // The clerk has given up, and says why.
                Err(TrySendError::Disconnected(_)) => saving.blocks = None,
            }
            let parts = self.runner.kept_sizes().state.len();
            if saving.next == saving.pages.len() + parts {
                saving.blocks = None;
            }
        }
        // Everything is copied; the clerk has yet to say that it is written.
        let node = saving.node.take();
        self.prefixes.unpin(node);
    }

    /// Stops writing a text whose pages or state are needed for something else.
    pub(crate) fn give_up_saving(&mut self, state: Option<usize>) {
        let Some(saving) = self.disk.as_mut().and_then(|disk| disk.saving.as_mut()) else { return };
        if saving.blocks.is_some() && state.is_none_or(|state| state == saving.state) {
            (saving.blocks, saving.waiting) = (None, None);
            let node = saving.node.take();
            self.prefixes.unpin(node);
        }
    }

    /// The files of a text that `ids` begins with, if they hold enough that memory does not.
    fn on_disk(&self, ids: &[u32]) -> Vec<Kept> {
        let Some(disk) = &self.disk else { return Vec::new() };
        let page = self.limits.page_len;
        let chain = disk.shelf.longest(ids, page);
        let worth = |last: &Kept| {
            last.end() / page >= self.prefixes.find(ids).pages.len() + LEAST
                && !disk.skipped.contains(&last.hash)
        };
        if chain.last().is_some_and(worth) { chain } else { Vec::new() }
    }

    /// True if a request with this text shall wait, because some of it is on its way from the disk, or will be next.
    pub(crate) fn is_fetched(&mut self, ids: &[u32]) -> bool {
        let Some(disk) = &self.disk else { return false };
        if let Some(loading) = &disk.loading
            && ids.starts_with(&loading.ids)
        {
            return true;
        }
        let busy = disk.loading.is_some();
        let chain = self.on_disk(ids);
        !chain.is_empty() && (busy || self.begin_loading(ids, chain))
    }

    /// False if there is no memory for it.
    fn begin_loading(&mut self, ids: &[u32], chain: Vec<Kept>) -> bool {
        let page = self.limits.page_len;
        let Some(last) = chain.last() else { return false };
        let (hash, end) = (last.hash, last.end());
        let (base, skip) = self.prefixes.deepest(&ids[..=end]);
        self.prefixes.pin(base);
        let state = self.take_state();
        let pages = state.and_then(|_| self.take_pages(end / page - skip));
        let (Some(state), Some(pages)) = (state, pages) else {
            self.prefixes.unpin(base);
            self.free_states.extend(state);
            return false;
        };
        let Some(disk) = &mut self.disk else { return false };
        let (sender, blocks) = sync_channel(BLOCKS);
        let used = disk.shelf.touch(hash, self.prefixes.clock() + 1);
        let _ = disk.clerks.write.send(Write::Touch(used));
        let ids = ids[..end].to_vec();
        // An ended clerk shows by the closed channel.
        let _ = disk.clerks.read.send(Read { chain, ids: ids.clone(), skip, blocks: sender });
        disk.loading = Some(Loading { ids, hash, base, pages, state, next: 0, blocks });
        true
    }

    fn go_on_loading(&mut self, budget: &mut usize) {
        while *budget > 0 {
            let Some(loading) = self.disk.as_mut().and_then(|disk| disk.loading.as_mut()) else { return };
            let written = match loading.blocks.try_recv() {
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => Err("the thread that reads has ended".to_owned()),
                Ok(Block::Next(block)) => {
                    *budget = budget.saturating_sub(block.len().max(1));
                    let part = loading.next.checked_sub(loading.pages.len());
                    loading.next += 1;
                    match (loading.pages.get(loading.next - 1), part) {
                        (Some(page), _) => self.runner.write_page(*page, &block),
                        (None, part) => self.runner.write_state(loading.state, part.unwrap_or(0), &block),
                    }
                }
                Ok(Block::End) => {
                    self.take_over();
                    return;
                }
                Ok(Block::Broken { hash, why }) => {
                    self.discard(hash, &why.to_string());
                    return;
                }
            };
            if let Err(reason) = written {
                let hash = loading.hash;
                self.discard(hash, &reason);
                return;
            }
        }
    }

    /// All of a text has come: it becomes part of the tree.
    fn take_over(&mut self) {
        let Some(disk) = &mut self.disk else { return };
        let Some(Loading { ids, base, pages, state, .. }) = disk.loading.take() else { return };
        let page = self.limits.page_len;
        disk.restored_tokens += (pages.len() * page) as u64;
        let skip = ids.len() / page - pages.len();
        let mut node = base;
        for (tokens, number) in ids.chunks_exact(page).skip(skip).zip(pages) {
            // Meanwhile somebody may have computed the same.
            let (id, spare) = self.prefixes.insert(node, tokens, number);
            self.pages.give_back(spare.into_iter().collect());
            node = Some(id);
        }
        match node.filter(|node| !self.prefixes.has_state(*node)) {
            Some(node) => self.prefixes.set_state(node, state),
            None => self.free_states.push(state),
        }
        // Used just now, by whoever waits for it.
        self.prefixes.hold(None, node);
        self.prefixes.release(node);
        self.prefixes.unpin(base);
    }

    /// Removes a file that cannot be used, and what continues it, and ends the load that met it.
    fn discard(&mut self, hash: u64, why: &str) {
        self.give_up_loading();
        let Some(disk) = &mut self.disk else { return };
        let gone = disk.shelf.remove(hash);
        if let Some(kept) = gone.first() {
            tracing::warn!(file = kept.name, files = gone.len(), "a kept prefix is discarded: {why}");
        }
        disk.discarded += gone.len() as u64;
        disk.drop_files(gone);
    }

    /// Ends a load whose memory is needed for something else. True if there was one.
    pub(crate) fn give_up_loading(&mut self) -> bool {
        let Some(disk) = &mut self.disk else { return false };
        let Some(Loading { base, pages, state, hash, .. }) = disk.loading.take() else { return false };
        disk.skipped.insert(hash);
        self.prefixes.unpin(base);
        self.pages.give_back(pages);
        self.free_states.push(state);
        true
    }

    /// Forgets what was on its way, when the tree it refers to is dropped.
    pub(crate) fn abandon_disk(&mut self) {
        if let Some(disk) = &mut self.disk {
            disk.loading = None;
            disk.settled = None;
            if let Some(saving) = &mut disk.saving {
                (saving.blocks, saving.waiting, saving.node) = (None, None, None);
            }
        }
    }
}
