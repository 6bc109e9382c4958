//! Which texts the disk tier has: found by the hash of the text, the least recently used one goes first, and none goes
//! before what continues it. Owned by the engine thread; the files themselves are the clerks' business.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    time::SystemTime,
};

use crate::{
    disk::file::{ENDING, Header, Identity, Reading, UNFINISHED, Unusable, path_of},
    known::chained,
};

/// A file on the shelf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub header: Header,
    /// Hash of the text up to its end; 0 is no text.
    pub hash: u64,
    /// Hash of the text before it.
    pub before: u64,
    /// When its text was used last, by the clock of the tree.
    pub used: u64,
}

impl Kept {
    /// Position of the token after its last.
    pub fn end(&self) -> usize {
        self.header.first + self.header.tokens
    }
}

/// What is there, within a budget.
#[derive(Debug)]
pub struct Shelf {
    kept: HashMap<u64, Kept>,
    budget: u64,
    used: u64,
    /// Bytes of the budget that something else takes.
    aside: u64,
}

/// The hash of `text`, which continues one of hash `before` by whole pages.
pub fn hash_of(before: u64, text: &[u32], page_len: usize) -> u64 {
    text.chunks_exact(page_len).fold(before, chained)
}

impl Shelf {
    /// Empty.
    pub fn new(budget: u64) -> Shelf {
        Shelf { kept: HashMap::new(), budget, used: 0, aside: 0 }
    }

    /// What an earlier engine of this identity left in `folder`, with `aside` bytes of the budget taken by something else.
    /// Everything else that bears our names is removed, with a line
    /// in the log. Returns how many files were removed that could not be used, too.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn read(
        folder: &Path,
        identity: &Identity,
        budget: u64,
        aside: u64,
    ) -> std::io::Result<(Shelf, u64)> {
        let mut shelf = Shelf::new(budget);
        shelf.aside = aside;
        let mut found = Vec::new();
        let mut discarded = 0;
        let mut discard = |name: &str, why: &Unusable| {
            tracing::warn!(file = %path_of(folder, name).display(), "a kept prefix is discarded: {why}");
            let _ = std::fs::remove_file(path_of(folder, name));
            discarded += 1;
        };
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
            match path.extension().and_then(|ending| ending.to_str()) {
                Some(UNFINISHED) => {
                    tracing::info!(file = %path.display(), "removing a file that was never finished");
                    let _ = std::fs::remove_file(&path);
                }
                Some(ENDING) => match Reading::open(folder, &name, identity) {
                    Ok(mut reading) => {
                        let written = path.metadata().and_then(|m| m.modified());
                        let tokens = std::mem::take(&mut reading.tokens);
                        found.push((
                            written.unwrap_or(SystemTime::UNIX_EPOCH),
                            name,
                            reading.header.clone(),
                            tokens,
                        ));
                    }
                    Err(why) => discard(&name, &why),
                },
                _ => {}
            }
        }
        // What was used longest ago first, as their numbers shall have that order; then parents before children.
        found.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let order: HashMap<String, u64> =
            found.iter().zip(1..).map(|((_, name, ..), used)| (name.clone(), used)).collect();
        found.sort_by_key(|(_, _, header, _)| header.first);
        let mut hashes: HashMap<String, (u64, usize)> = HashMap::new();
        for (_, name, header, tokens) in found {
            let before = match &header.parent {
                None => Some((0, 0)),
                Some(parent) => hashes.get(parent).copied(),
            };
            let Some((before, _)) = before.filter(|(_, end)| *end == header.first) else {
                discard(&name, &Unusable::Orphan);
                continue;
            };
            let hash = hash_of(before, &tokens, identity.page_len);
            let used = order.get(&name).copied().unwrap_or(0);
            let kept = Kept { name: name.clone(), header, hash, before, used };
            hashes.insert(name, (hash, kept.end()));
            shelf.used += kept.header.file_bytes();
            shelf.kept.insert(hash, kept);
        }
        for gone in shelf.make_room(0, 0, u64::MAX, &HashMap::new()).unwrap_or_default() {
            let _ = std::fs::remove_file(path_of(folder, &gone.name));
        }
        Ok((shelf, discarded))
    }

    /// Whether the text of this hash is there.
    pub fn has(&self, hash: u64) -> bool {
        self.kept.contains_key(&hash)
    }

    /// The file that a text of this hash ends with.
    pub fn get(&self, hash: u64) -> Option<&Kept> {
        self.kept.get(&hash)
    }

    /// Most bytes of all files.
    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// Bytes of all files, and of what was set aside.
    pub fn used(&self) -> u64 {
        self.used + self.aside
    }

    /// Bytes that may be set aside.
    pub fn room(&self) -> u64 {
        self.budget.saturating_sub(self.used)
    }

    /// So many bytes of the budget are taken by something else.
    pub fn set_aside(&mut self, bytes: u64) {
        self.aside = bytes;
    }

    /// How many files there are.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Hashes of all texts.
    pub fn hashes(&self) -> impl Iterator<Item = u64> + '_ {
        self.kept.keys().copied()
    }

    /// The files that make up the longest text there is that `ids` begins with and goes on behind, in order.
    pub fn longest(&self, ids: &[u32], page_len: usize) -> Vec<Kept> {
        let mut hash = 0;
        let mut last = None;
        if !self.kept.is_empty() {
            for (i, page) in ids[..ids.len().saturating_sub(1)].chunks_exact(page_len).enumerate() {
                hash = chained(hash, page);
                let end = (i + 1) * page_len;
                last = self.kept.get(&hash).filter(|kept| kept.end() == end).or(last);
            }
        }
        let before = |kept: &&Kept| self.kept.get(&kept.before);
        let mut chain: Vec<Kept> = std::iter::successors(last, before).cloned().collect();
        chain.reverse();
        chain
    }

    /// Notes that a text is used at `clock`, with all that it continues. Returns the files' names.
    pub fn touch(&mut self, hash: u64, clock: u64) -> Vec<String> {
        let mut at = hash;
        let mut names = Vec::new();
        while let Some(kept) = self.kept.get_mut(&at) {
            kept.used = kept.used.max(clock);
            names.push(kept.name.clone());
            at = kept.before;
        }
        names
    }

    /// Adds a file.
    pub fn add(&mut self, kept: Kept) {
        self.used += kept.header.file_bytes();
        if let Some(old) = self.kept.insert(kept.hash, kept) {
            self.used -= old.header.file_bytes();
        }
    }

    /// Takes files off until there is room for one of `bytes` behind the text of hash `before`, which stays. Only what was used
    /// before `clock` goes, be it on disk or in memory (`uses`): so nothing is written for what is asked for less. None, and
    /// nothing taken off, if that is not enough.
    pub fn make_room(
        &mut self,
        bytes: u64,
        before: u64,
        clock: u64,
        uses: &HashMap<u64, u64>,
    ) -> Option<Vec<Kept>> {
        let mut stays: HashSet<u64> = HashSet::new();
        let mut at = before;
        while let Some(kept) = self.kept.get(&at) {
            stays.insert(at);
            at = kept.before;
        }
        let mut gone = Vec::new();
        while self.used.saturating_add(bytes) > self.budget.saturating_sub(self.aside) {
            let continued: HashSet<u64> = self.kept.values().map(|kept| kept.before).collect();
            let last = |kept: &Kept| kept.used.max(uses.get(&kept.hash).copied().unwrap_or(0));
            let may_go = |kept: &&Kept| {
                !continued.contains(&kept.hash) && !stays.contains(&kept.hash) && last(kept) < clock
            };
            let least = self.kept.values().filter(may_go).min_by_key(|kept| last(kept)).map(|kept| kept.hash);
            let Some(kept) = least.and_then(|hash| self.take(hash)) else {
                gone.into_iter().for_each(|kept| self.add(kept));
                return None;
            };
            gone.push(kept);
        }
        Some(gone)
    }

    /// Takes a file off, and those that continue its text, which mean nothing without it.
    pub fn remove(&mut self, hash: u64) -> Vec<Kept> {
        let mut gone: Vec<Kept> = self.take(hash).into_iter().collect();
        let mut next = 0;
        while let Some(before) = gone.get(next).map(|kept| kept.hash) {
            let children: Vec<u64> =
                self.kept.values().filter(|kept| kept.before == before).map(|kept| kept.hash).collect();
            gone.extend(children.into_iter().filter_map(|child| self.take(child)));
            next += 1;
        }
        gone
    }

    fn take(&mut self, hash: u64) -> Option<Kept> {
        let kept = self.kept.remove(&hash)?;
        self.used -= kept.header.file_bytes();
        Some(kept)
    }
}

#[cfg(test)]
mod tests {
    use hearth_model::KeptSizes;

    use super::*;
    use crate::disk::file::{Writing, name_of};

    fn identity() -> Identity {
        Identity::new("m".into(), 4, KeptSizes { page: 100, state: vec![50] })
    }

    /// `pages` pages of text behind `parent`, filled with `fill`.
    fn kept(parent: Option<&Kept>, pages: usize, fill: u32) -> (Kept, Vec<u32>) {
        let tokens = vec![fill; 4 * pages];
        let (before, first) = parent.map_or((0, 0), |parent| (parent.hash, parent.end()));
        let parent = parent.map(|parent| parent.name.clone());
        let name = name_of(parent.as_deref(), &tokens);
        let header = Header { identity: identity(), parent, first, tokens: tokens.len() };
        let hash = hash_of(before, &tokens, 4);
        (Kept { name, header, before, hash, used: u64::from(fill) }, tokens)
    }

    fn write(folder: &Path, kept: &Kept, tokens: &[u32]) {
        let mut writing = Writing::begin(folder, &kept.name, &kept.header, tokens).expect("a file");
        kept.header.blocks().for_each(|len| writing.block(&vec![7; len]).expect("room"));
        writing.finish().expect("renamed");
    }

    fn names(kept: &[Kept]) -> Vec<&str> {
        kept.iter().map(|kept| kept.name.as_str()).collect()
    }

    #[test]
    fn the_longest_text_is_found_with_all_that_it_continues() {
        let mut shelf = Shelf::new(1 << 20);
        let (a, a_text) = kept(None, 2, 1);
        let (b, b_text) = kept(Some(&a), 3, 2);
        shelf.add(a.clone());
        shelf.add(b.clone());
        let text = [&a_text[..], &b_text, &[9, 9]].concat();
        assert_eq!(names(&shelf.longest(&text, 4)), [&a.name, &b.name]);
        assert_eq!(names(&shelf.longest(&text[..20], 4)), [&a.name], "its last token must be computed");
        assert_eq!(names(&shelf.longest(&text[..19], 4)), [&a.name]);
        assert!(shelf.longest(&b_text, 4).is_empty());
        assert!(shelf.longest(&[], 4).is_empty());
    }

    #[test]
    fn what_was_used_longest_ago_goes_first_and_nothing_before_what_continues_it() {
        let (a, _) = kept(None, 1, 1);
        let (b, _) = kept(Some(&a), 1, 2);
        let (c, _) = kept(None, 1, 3);
        let size = a.header.file_bytes();
        let mut shelf = Shelf::new(b.header.file_bytes() + 2 * size);
        for one in [&a, &b, &c] {
            shelf.add(one.clone());
        }
        let nowhere = HashMap::new();
        assert_eq!(shelf.make_room(1, 0, 2, &nowhere), None, "b was used at 2, and a is continued");
        assert_eq!(shelf.len(), 3);
        assert_eq!(names(&shelf.make_room(1, 0, 9, &nowhere).expect("room")), [&b.name]);
        shelf.add(b.clone());
        let in_memory = HashMap::from([(b.hash, 7)]);
        assert_eq!(names(&shelf.make_room(1, 0, 9, &in_memory).expect("room")), [&c.name]);
        shelf.add(c.clone());
        assert_eq!(shelf.touch(b.hash, 5), [b.name.clone(), a.name.clone()]);
        assert_eq!(names(&shelf.make_room(1, 0, 9, &nowhere).expect("room")), [&c.name]);
        assert_eq!(shelf.make_room(1 << 30, 0, 9, &nowhere), None, "more than the budget");
        assert_eq!(shelf.len(), 2);
        // Behind b there is no room for as much as b and a take.
        assert_eq!(shelf.make_room(size + 1, b.hash, 9, &nowhere), None);
        assert_eq!(names(&shelf.remove(a.hash)), [&a.name, &b.name]);
        assert_eq!((shelf.used(), shelf.len()), (0, 0));
    }

    #[test]
    fn an_engine_finds_what_the_last_one_left_and_removes_what_it_cannot_use() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path();
        let (a, a_text) = kept(None, 2, 1);
        let (b, b_text) = kept(Some(&a), 3, 2);
        let (orphan, orphan_text) = kept(Some(&b), 1, 4);
        let (lost, _) = kept(Some(&orphan), 1, 5);
        let (damaged, damaged_text) = kept(None, 1, 6);
        write(folder, &a, &a_text);
        write(folder, &b, &b_text);
        write(folder, &damaged, &damaged_text);
        let nobody = Header { parent: Some(lost.name), ..orphan.header.clone() };
        let orphan = Kept { name: name_of(nobody.parent.as_deref(), &orphan_text), header: nobody, ..orphan };
        write(folder, &orphan, &orphan_text);
        let path = path_of(folder, &damaged.name);
        let bytes = std::fs::read(&path).expect("it is there");
        std::fs::write(&path, &bytes[..bytes.len() - 1]).expect("writable");
        std::fs::write(folder.join("00.hearthkv-unfinished"), "x").expect("writable");
        std::fs::write(folder.join("letter.txt"), "mine").expect("writable");

        let (shelf, discarded) = Shelf::read(folder, &identity(), 1 << 20, 0).expect("readable");
        assert_eq!((shelf.len(), discarded), (2, 2));
        let text = [&a_text[..], &b_text, &[9]].concat();
        assert_eq!(names(&shelf.longest(&text, 4)), [&a.name, &b.name]);
        let left: HashSet<String> = std::fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("readable").file_name().into_string().expect("a name"))
            .collect();
        let expected = [format!("{}.hearthkv", a.name), format!("{}.hearthkv", b.name), "letter.txt".into()];
        assert_eq!(left, HashSet::from(expected));

        // With a smaller budget the end of the text goes.
        let (shelf, _) = Shelf::read(folder, &identity(), a.header.file_bytes(), 0).expect("readable");
        assert_eq!(names(&shelf.longest(&text, 4)), [&a.name]);
        assert!(!path_of(folder, &b.name).exists());
    }
}
