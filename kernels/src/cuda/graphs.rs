//! Recorded graphs of decode: which passes share one, how many there may be, and when they are made. A graph holds the
//! addresses and grids of its launches; everything else (positions, pages, ids) it finds on the device.

use super::tune::Tuned;
use super::variants::Variant;
use super::{Cuda, DECODE_ROWS};
use crate::ops::{Pass, Stretch};
use crate::{Records, Result};
use std::sync::PoisonError;

/// Most graphs; a pass of yet another shape runs as it comes.
const MOST: usize = 256;

/// Below and above these context tiers no launch differs: a row has at most 256 splits of 64 positions.
const TIERS: [usize; 2] = [256, 16_384];

/// What makes one recorded graph differ from another: whatever a grid or a kernel's name depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    stretch: Stretch,
    rows: usize,
    segments: usize,
    /// Rows of the longest segment, as far as attention takes them together.
    widest: usize,
    picks: usize,
    tier: usize,
    exact: bool,
    snapshots: bool,
    /// Where the pass lay: a graph holds its address.
    moves: u64,
}

/// The context tier of a pass: the power of two that holds its longest context. What a grid may depend on besides rows.
pub(crate) fn tier(pass: &Pass) -> usize {
    let longest = pass.segments.iter().map(|s| s.position.saturating_add(s.rows)).max().unwrap_or(1);
    longest.clamp(TIERS[0], TIERS[1]).next_power_of_two()
}

/// The contexts of which one lies in each tier, up to `context`.
fn tiers(context: usize) -> Vec<usize> {
    let mut tiers = Vec::new();
    let mut tier = TIERS[0];
    while tier < context.min(TIERS[1]) {
        tiers.push(tier);
        tier *= 2;
    }
    tiers.push(context);
    tiers
}

impl Cuda {
    fn key(&self, stretch: Stretch, pass: &Pass, picks: usize) -> Key {
        Key {
            stretch,
            rows: pass.rows(),
            segments: pass.segments.len(),
            widest: pass.segments.iter().map(|s| s.rows).max().unwrap_or(0).min(4),
            picks,
            tier: tier(pass),
            exact: pass.exact,
            snapshots: pass.segments.iter().any(|s| !s.snapshots.is_empty()),
            moves: self.staged().moves,
        }
    }

    /// The graph of a pass of this shape; false if there is none and no more can be had.
    fn known(&self, key: &Key) -> std::result::Result<u64, bool> {
        let graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        graphs.get(key).copied().ok_or(graphs.len() < MOST)
    }

    fn capture(&self, key: Key, body: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let graph = self.gpu.capture(body)?;
        self.graphs.lock().unwrap_or_else(PoisonError::into_inner).insert(key, graph);
        Ok(())
    }

    /// Runs the graph of the pass; without one runs `body`, and records it.
    pub(super) fn replay_or_run(
        &self,
        stretch: Stretch,
        pass: &Pass,
        picks: usize,
        body: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        if pass.rows() > DECODE_ROWS || self.counts() {
            return body();
        }
        let key = self.key(stretch, pass, picks);
        match self.known(&key) {
            Ok(graph) => self.gpu.replay(graph),
            Err(false) => body(),
            Err(true) => {
                // The first run may allocate working memory, which may not happen while recording.
                body()?;
                self.capture(key, body)
            }
        }
    }
}

impl Records for Cuda {
    fn record(
        &self,
        stretch: Stretch,
        pass: &Pass,
        picks: usize,
        body: &mut dyn FnMut() -> Result<()>,
    ) -> Result<bool> {
        if pass.rows() > DECODE_ROWS || self.counts() {
            return Ok(true);
        }
        let key = self.key(stretch, pass, picks);
        match self.known(&key) {
            Ok(_) => Ok(true),
            Err(false) => Ok(false),
            Err(true) => self.capture(key, body).map(|()| true),
        }
    }

    fn tune(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Vec<Tuned>> {
        self.tune_products(body)
    }

    fn force_variant(&self, variant: Option<Variant>) {
        self.variants.force(variant);
    }

    fn force_joining(&self, apart: Option<bool>) {
        self.variants.force_joining(apart);
    }

    fn recorded(&self) -> usize {
        self.graphs.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn launches(&self) -> u64 {
        self.slab.launches()
    }

    fn tiers(&self, context: usize) -> Vec<usize> {
        tiers(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Segment;

    fn at(position: usize) -> Pass {
        let segment = Segment { slot: 0, first_row: 0, rows: 1, position, pages: vec![], snapshots: vec![] };
        Pass { segments: vec![segment], exact: false }
    }

    #[test]
    fn every_context_lies_in_a_tier_that_is_recorded() {
        for context in [1, 100, 256, 257, 5000, 16_384, 40_000, 262_144] {
            let recorded: Vec<usize> =
                tiers(context).into_iter().map(|context| tier(&at(context - 1))).collect();
            for position in [0, context / 3, context / 2, context - 1] {
                assert!(recorded.contains(&tier(&at(position))), "{position} of {context}: {recorded:?}");
            }
            let mut once = recorded.clone();
            once.dedup();
            assert_eq!(once, recorded, "no tier is recorded twice");
            assert!(recorded.len() <= 7);
        }
    }
}
