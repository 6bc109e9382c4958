//! Which bytes of a file are there: sorted, disjoint half-open ranges. Used by `part`.

use serde::{Deserialize, Serialize};

/// A set of byte positions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Adds `start..end`.
    pub fn add(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let from = self.0.partition_point(|r| r.1 < start);
        let to = from + self.0[from..].partition_point(|r| r.0 <= end);
        let merged = match self.0.get(from..to) {
            Some([first, .., last]) => (first.0.min(start), last.1.max(end)),
            Some([one]) => (one.0.min(start), one.1.max(end)),
            _ => (start, end),
        };
        self.0.splice(from..to, [merged]);
    }

    /// Takes `start..end` out.
    pub fn remove(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let cut = |&(a, b): &(u64, u64)| [(a, b.min(start)), (a.max(end), b)];
        self.0 = self.0.iter().flat_map(cut).filter(|(a, b)| a < b).collect();
    }

    /// Number of positions in it.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|(a, b)| b - a).sum()
    }

    /// The first positions below `size` that are neither here nor in `other`, at most `most` of them.
    pub fn first_gap(&self, other: &Ranges, size: u64, most: u64) -> Option<(u64, u64)> {
        let mut both = self.clone();
        other.0.iter().for_each(|&(a, b)| both.add(a, b));
        let mut at = 0;
        for &(a, b) in &both.0 {
            if a > at {
                return gap(at, a.min(size), most);
            }
            at = b;
        }
        gap(at, size, most)
    }

    /// Whether it is sorted, disjoint and below `size`, as one that was read from a file may not be.
    pub fn is_sound(&self, size: u64) -> bool {
        let ordered = self.0.windows(2).all(|pair| pair[0].1 < pair[1].0);
        ordered && self.0.iter().all(|(a, b)| a < b && *b <= size)
    }

    /// End of the last range.
    pub fn end(&self) -> u64 {
        self.0.last().map_or(0, |r| r.1)
    }
}

fn gap(start: u64, end: u64, most: u64) -> Option<(u64, u64)> {
    (start < end).then(|| (start, end.min(start.saturating_add(most))))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn it_holds_what_a_plain_set_of_numbers_holds() {
        // A fixed pseudo-random walk; every step is held against a set that stores each position.
        let (mut ranges, mut plain, mut x) = (Ranges::default(), BTreeSet::new(), 7u64);
        for step in 0..3000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (start, length) = ((x >> 33) % 200, (x >> 50) % 20);
            match step % 4 {
                0 => {
                    ranges.remove(start, start + length);
                    plain.retain(|i| !(start..start + length).contains(i));
                }
                _ => {
                    ranges.add(start, start + length);
                    plain.extend(start..start + length);
                }
            }
            assert!(ranges.is_sound(300), "{ranges:?}");
            assert_eq!(ranges.len(), plain.len() as u64);
            let free = (0..300u64).find(|i| !plain.contains(i)).map(|first| {
                (first, (first..300).take(9).find(|i| plain.contains(i)).unwrap_or(300.min(first + 9)))
            });
            assert_eq!(ranges.first_gap(&Ranges::default(), 300, 9), free);
        }
    }

    #[test]
    fn a_gap_is_outside_both_sets() {
        let (mut done, mut claimed) = (Ranges::default(), Ranges::default());
        done.add(0, 10);
        claimed.add(10, 20);
        assert_eq!(done.first_gap(&claimed, 100, 5), Some((20, 25)));
        claimed.add(20, 100);
        assert_eq!(done.first_gap(&claimed, 100, 5), None);
        assert_eq!(Ranges::default().first_gap(&Ranges::default(), 0, 5), None);
    }

    #[test]
    fn ranges_from_a_damaged_journal_are_seen_to_be_unsound() {
        for text in ["[[5,3]]", "[[0,5],[4,9]]", "[[0,5],[5,9]]", "[[0,200]]", "[[9,12],[0,3]]"] {
            assert!(!serde_json::from_str::<Ranges>(text).unwrap().is_sound(100), "{text}");
        }
    }
}
