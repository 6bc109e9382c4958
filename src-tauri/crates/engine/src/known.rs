//! Which beginnings of texts are known, so that the API's threads can tell how much of a prompt is left to read without
//! asking the engine's. Written by the tree of prefixes, read when a request is submitted; an answer may be a step old.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Hashes of the texts after which a state is kept.
#[derive(Debug, Default)]
pub struct KnownTexts(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    memory: HashSet<u64>,
    disk: HashSet<u64>,
}

/// The hash of a text that continues one of hash `before` (0 for none) by a page.
pub fn chained(before: u64, page: &[u32]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (before, page).hash(&mut hasher);
    hasher.finish()
}

impl KnownTexts {
    fn lock(&self) -> MutexGuard<'_, Places> {
        // Every change is a single insertion or removal.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A state is kept after the text of this hash.
    pub fn add(&self, hash: u64) {
        self.lock().memory.insert(hash);
    }

    /// It is no longer.
    pub fn remove(&self, hash: u64) {
        self.lock().memory.remove(&hash);
    }

    /// Nothing is kept in memory any more.
    pub fn clear(&self) {
        self.lock().memory.clear();
    }

    /// The text of this hash can be read from disk.
    pub fn add_on_disk(&self, hash: u64) {
        self.lock().disk.insert(hash);
    }

    /// It cannot any more.
    pub fn remove_on_disk(&self, hash: u64) {
        self.lock().disk.remove(&hash);
    }

    /// Tokens of `ids` that need not be read, all but the last at most.
    pub fn positions(&self, ids: &[u32], page_len: usize) -> usize {
        let known = self.lock();
        let (mut hash, mut positions) = (0, 0);
        if known.memory.is_empty() && known.disk.is_empty() {
            return 0;
        }
        let pages = ids[..ids.len().saturating_sub(1)].chunks_exact(page_len.max(1));
        for (i, page) in pages.enumerate() {
            hash = chained(hash, page);
            if known.memory.contains(&hash) || known.disk.contains(&hash) {
                positions = (i + 1) * page_len;
            }
        }
        positions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_known_beginning_counts_and_a_token_is_left() {
        let known = KnownTexts::default();
        let ids: Vec<u32> = (0..12).collect();
        assert_eq!(known.positions(&ids, 4), 0);
        let first = chained(0, &ids[..4]);
        let second = chained(first, &ids[4..8]);
        known.add(second);
        assert_eq!(known.positions(&ids, 4), 8, "though nothing is kept after the first page");
        assert_eq!(known.positions(&ids[..8], 4), 0, "its last token must be read");
        assert_eq!(known.positions(&[&ids[4..], &ids[..4]].concat(), 4), 0);
        known.add(first);
        assert_eq!(known.positions(&ids[..8], 4), 4);
        known.remove(second);
        assert_eq!(known.positions(&ids, 4), 4);
        known.add_on_disk(second);
        assert_eq!(known.positions(&ids, 4), 8);
        known.clear();
        assert_eq!(known.positions(&ids, 4), 8, "it is still on disk");
        known.remove_on_disk(second);
        assert_eq!(known.positions(&ids, 4), 0);
    }
}
