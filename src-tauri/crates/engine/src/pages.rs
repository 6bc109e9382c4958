//! Which KV pages are free. The engine takes the pages of a request when it gets a slot and gives them back when it ends.

/// A free list over `0 .. pages`.
#[derive(Debug)]
pub struct FreePages {
    free: Vec<u32>,
    total: usize,
    page_len: usize,
}

impl FreePages {
    /// All pages free; a page holds `page_len` positions.
    pub fn new(pages: usize, page_len: usize) -> FreePages {
        FreePages { free: (0..pages as u32).rev().collect(), total: pages, page_len: page_len.max(1) }
    }

    /// Pages for `positions` tokens, lowest numbers first, or None (and nothing taken) if there are too few.
    pub fn take(&mut self, positions: usize) -> Option<Vec<u32>> {
        let count = positions.div_ceil(self.page_len);
        let rest = self.free.len().checked_sub(count)?;
        let mut taken = self.free.split_off(rest);
        taken.reverse();
        Some(taken)
    }

    /// Gives pages back.
    pub fn give_back(&mut self, mut pages: Vec<u32>) {
        pages.reverse();
        self.free.append(&mut pages);
        debug_assert!(self.free.len() <= self.total, "a page was given back twice");
    }

    /// Pages that belong to requests.
    pub fn used(&self) -> usize {
        self.total - self.free.len()
    }

    /// Share of the pool in use, 0..1.
    pub fn used_share(&self) -> f64 {
        if self.total == 0 { 0.0 } else { self.used() as f64 / self.total as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_never_given_twice_and_all_come_back() {
        let mut pages = FreePages::new(10, 16);
        let a = pages.take(33).expect("ten are free");
        let b = pages.take(7 * 16).expect("seven are left");
        assert_eq!((a.len(), b.len()), (3, 7));
        let mut all: Vec<u32> = a.iter().chain(&b).copied().collect();
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
        assert_eq!(pages.take(1), None);
        pages.give_back(a);
        pages.give_back(b);
        assert_eq!((pages.used(), pages.take(160).map(|p| p.len())), (0, Some(10)));
    }

    #[test]
    fn a_refused_request_takes_nothing() {
        let mut pages = FreePages::new(4, 8);
        assert_eq!(pages.take(33), None);
        assert_eq!(pages.used(), 0);
    }
}
