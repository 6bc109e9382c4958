//! Which parts of a block of addresses are given out: first fit, neighbours joined. Under the slab and under its rehearsal,
//! so that both put the same allocations in the same places.

use std::collections::BTreeMap;

/// Alignment of every allocation.
pub(super) const ALIGN: u64 = 256;

/// `bytes` as it is given out; u64::MAX if there is no such size.
pub(super) fn aligned(bytes: usize) -> u64 {
    (bytes.max(1) as u64).checked_next_multiple_of(ALIGN).unwrap_or(u64::MAX)
}

#[derive(Debug)]
pub(super) struct Gaps {
    /// Address and bytes of the gaps; no two of them touch.
    free: BTreeMap<u64, u64>,
    /// Address and bytes of what was given out.
    taken: BTreeMap<u64, u64>,
    base: u64,
    used: u64,
    /// End of the highest allocation there ever was.
    end: u64,
}

impl Gaps {
    /// One gap.
    pub fn new(base: u64, bytes: u64) -> Gaps {
        let free = BTreeMap::from([(base, bytes)]);
        Gaps { free, taken: BTreeMap::new(), base, used: 0, end: base }
    }

    /// The lowest gap that is large enough: what is allocated while loading stays, so gaps are few.
    pub fn take(&mut self, bytes: u64) -> Option<u64> {
        let (&at, &gap) = self.free.iter().find(|(_, gap)| **gap >= bytes)?;
        self.free.remove(&at);
        if gap > bytes {
            self.free.insert(at + bytes, gap - bytes);
        }
        self.taken.insert(at, bytes);
        self.used += bytes;
        self.end = self.end.max(at + bytes);
        Some(at)
    }

    /// Joins what is given back with the gaps beside it.
    pub fn give_back(&mut self, at: u64) {
        let Some(bytes) = self.taken.remove(&at) else { return };
        self.used -= bytes;
        let (mut from, mut to) = (at, at + bytes);
        if let Some((&before, _)) =
            self.free.range(..at).next_back().filter(|(before, gap)| **before + **gap == at)
        {
            self.free.remove(&before);
            from = before;
        }
        if let Some(after) = self.free.remove(&to) {
            to += after;
        }
        self.free.insert(from, to - from);
    }

    /// Bytes given out now.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Bytes from the base to the end of the highest allocation there ever was.
    pub fn reach(&self) -> u64 {
        self.end - self.base
    }

    /// Bytes of the largest gap.
    pub fn largest(&self) -> u64 {
        self.free.values().copied().max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_join_whatever_the_order_in_which_memory_comes_back() {
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut gaps = Gaps::new(4096, 4 * ALIGN);
            let at: Vec<u64> = (0..3).map(|_| gaps.take(ALIGN).expect("there is room")).collect();
            assert_eq!(at, [4096, 4096 + ALIGN, 4096 + 2 * ALIGN]);
            order.iter().for_each(|&i| gaps.give_back(at[i]));
            assert_eq!((gaps.free, gaps.used), (BTreeMap::from([(4096, 4 * ALIGN)]), 0), "{order:?}");
        }
    }

    #[test]
    fn the_reach_counts_gaps_and_what_has_been_given_back() {
        let mut gaps = Gaps::new(4096, 1 << 20);
        let first = gaps.take(ALIGN).expect("there is room");
        let second = gaps.take(2 * ALIGN).expect("there is room");
        gaps.give_back(first);
        gaps.give_back(second);
        assert_eq!((gaps.used(), gaps.reach(), gaps.largest()), (0, 3 * ALIGN, 1 << 20));
    }
}
