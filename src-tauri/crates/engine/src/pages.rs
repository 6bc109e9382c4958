//! Which KV pages are free; `keep` and `admit` take them and give them back.

/// A free list over `0 .. pages`.
#[derive(Debug)]
pub struct FreePages {
    free: Vec<u32>,
    total: usize,
}

impl FreePages {
    /// All pages free.
    pub fn new(pages: usize) -> FreePages {
        FreePages { free: (0..pages as u32).rev().collect(), total: pages }
    }

    /// `count` pages, lowest numbers first, or None (and nothing taken) if there are too few.
    pub fn take(&mut self, count: usize) -> Option<Vec<u32>> {
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

    /// How many are free.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Pages in use, by requests or by what is kept of them.
    pub fn used(&self) -> usize {
        self.total - self.free.len()
    }

    /// The free pages, for the check.
    pub fn list(&self) -> &[u32] {
        &self.free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_never_given_twice_and_all_come_back() {
        let mut pages = FreePages::new(10);
        let a = pages.take(3).expect("ten are free");
        let b = pages.take(7).expect("seven are left");
        assert_eq!((a.len(), b.len()), (3, 7));
        let mut all: Vec<u32> = a.iter().chain(&b).copied().collect();
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
        assert_eq!(pages.take(1), None);
        pages.give_back(a);
        pages.give_back(b);
        assert_eq!((pages.used(), pages.take(10).map(|p| p.len())), (0, Some(10)));
    }

    #[test]
    fn a_refused_request_takes_nothing() {
        let mut pages = FreePages::new(4);
        assert_eq!(pages.take(5), None);
        assert_eq!(pages.used(), 0);
    }
}
