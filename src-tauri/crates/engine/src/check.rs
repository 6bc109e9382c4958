//! Checks that every page and every recurrent state belongs to exactly one owner, and that the tree of prefixes counts
//! right. Runs whenever the engine comes to rest, and after every step in tests.

use std::collections::HashSet;

use crate::{disk::Disk, pages::FreePages, prefix::Prefixes, runner::Runner, step::Worker};

impl<R: Runner> Worker<R> {
    /// The error says what is wrong.
    pub(crate) fn check(&self) -> Result<(), String> {
        let tree = self.prefixes.contents();
        let (on_the_way, loaded_state, pinned) = self.disk.as_ref().map(Disk::owned).unwrap_or_default();
        let own = self.running.iter().flat_map(|s| &s.pages[s.shared..]).chain(on_the_way);
        let pages = self.pages.list().iter().chain(&tree.pages).chain(own).map(|page| *page as usize);
        once("page", self.limits.pages, pages)?;
        let own = self
            .running
            .iter()
            .flat_map(|s| s.lanes.iter().copied().chain([s.slot]).chain(s.kept.map(|(slot, _)| slot)))
            .chain(loaded_state);
        once("state", self.limits.states, self.free_states.iter().copied().chain(tree.states).chain(own))?;
        let holders: Vec<_> = self.running.iter().filter_map(|s| s.node).chain(pinned).collect();
        self.prefixes.check(&holders)?;
        for sequence in &self.running {
            let path = self.prefixes.path(sequence.node);
            if path != sequence.pages[..sequence.shared] {
                return Err(format!("request {} does not run on the pages of its path", sequence.request.id));
            }
            if sequence.pages.len() * self.limits.page_len < sequence.computed {
                return Err(format!("request {} has too few pages", sequence.request.id));
            }
        }
        if self.suspended.iter().any(|s| s.node.is_some() || !s.pages.is_empty() || !s.lanes.is_empty()) {
            return Err("a request that has left holds something".into());
        }
        Ok(())
    }

    /// Drops everything that is kept of earlier texts and that nobody runs on.
    #[cfg(test)]
    pub(crate) fn forget(&mut self) {
        let evicted = self.prefixes.evict_pages(usize::MAX);
        self.pages.give_back(evicted.pages);
        self.free_states.extend(evicted.states);
    }

    /// At rest: if something is wrong, says so in the log and starts over with nothing kept, which loses time and no answer.
    pub(crate) fn check_at_rest(&mut self) {
        if let Err(reason) = self.check() {
            tracing::error!(
                reason,
                "the engine's books are wrong; what was kept of earlier texts is dropped"
            );
            if self.running.is_empty() {
                self.abandon_disk();
                self.pages = FreePages::new(self.limits.pages);
                self.prefixes = Prefixes::new(self.limits.page_len, self.board.known.clone());
                self.free_states = (0..self.limits.states).rev().collect();
            }
        }
    }
}

/// Every number below `count` comes exactly once.
fn once(what: &str, count: usize, numbers: impl Iterator<Item = usize>) -> Result<(), String> {
    let mut seen = HashSet::with_capacity(count);
    for number in numbers {
        if number >= count || !seen.insert(number) {
            return Err(format!("{what} {number} has two owners, or does not exist"));
        }
    }
    if seen.len() == count {
        Ok(())
    } else {
        Err(format!("{} of {count} {what}s have no owner", count - seen.len()))
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        oracle::Oracle,
        rig::{bench, request},
    };

    #[test]
    fn a_lost_page_a_lost_state_and_one_with_two_owners_are_found_and_at_rest_set_right() {
        let mut bench = bench(Oracle::default());
        let _events = bench.put(request(&[7; 9], 3));
        bench.run_dry();
        bench.worker.check().expect("whole");
        let page = bench.worker.pages.take(1).expect("some are free");
        assert!(bench.worker.check().expect_err("lost").contains("no owner"));
        bench.worker.pages.give_back([page.clone(), page].concat());
        assert!(bench.worker.check().expect_err("twice").contains("two owners"));
        bench.worker.check_at_rest();
        bench.worker.check().expect("set right");
        bench.worker.free_states.pop();
        assert!(bench.worker.check().expect_err("lost").contains("state"));
    }
}
