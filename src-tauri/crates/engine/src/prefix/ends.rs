//! For the disk tier: which kept texts are worth writing down, and the paths to them: ends and branches, and on the way there
//! a state wherever enough was read since the last one to be worth its bytes.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
};

use crate::prefix::{NodeId, Prefixes};

/// A text that could be written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Its last node.
    pub node: NodeId,
    /// Hash of the text.
    pub hash: u64,
    /// Slot of the state after it.
    pub state: usize,
    /// When it was used last, by the tree's clock.
    pub used: u64,
}

/// Pages that a text must have beyond the longest beginning of it that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Apart {
    /// If it ends or branches there.
    pub ends: usize,
    /// If it goes on.
    pub between: usize,
}

/// When a text is to be written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// It would soon be pushed out.
    Soon,
    /// There is time: the one that was used last comes first.
    AtRest,
}

impl Prefixes {
    /// Counts changes of what is kept and held: as long as it stays, the answers below stay.
    pub fn clock(&self) -> u64 {
        self.clock
    }

    /// As [`Prefixes::hold`] for a copy that is made, which is no use of the text.
    pub fn pin(&mut self, node: Option<NodeId>) {
        self.pinned(node, true);
    }

    /// The copy is made.
    pub fn unpin(&mut self, node: Option<NodeId>) {
        self.pinned(node, false);
    }

    fn pinned(&mut self, node: Option<NodeId>, pin: bool) {
        let mut at = node;
        while let Some(id) = at {
            let node = self.node_mut(id);
            let before = node.holders;
            node.holders = if pin { before + 1 } else { before - 1 };
            at = node.parent;
            match (before, pin) {
                (0, true) => self.held += 1,
                (1, false) => self.held -= 1,
                _ => {}
            }
        }
    }

    /// The nodes from the root to `node`.
    pub fn trail(&self, node: Option<NodeId>) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = std::iter::successors(node, |id| self.node(*id).parent).collect();
        nodes.reverse();
        nodes
    }

    /// Hash of the text up to a node's end.
    pub fn hash(&self, id: NodeId) -> u64 {
        self.node(id).hash
    }

    /// The tokens of a node.
    pub fn tokens(&self, id: NodeId) -> &[u32] {
        &self.node(id).tokens
    }

    /// The node of the longest text of whole pages that `ids` begins with, whether or not one can start from there, and its
    /// pages. At least one token is left.
    pub fn deepest(&self, ids: &[u32]) -> (Option<NodeId>, usize) {
        let (mut deepest, mut children) = (None, &self.roots);
        for tokens in ids[..ids.len().saturating_sub(1)].chunks_exact(self.page_len) {
            let Some(&id) = children.get(tokens) else { break };
            deepest = Some(id);
            children = &self.node(id).children;
        }
        (deepest, deepest.map_or(0, |id| self.node(id).depth))
    }

    /// When the texts in the tree were used last, by their hashes.
    pub fn uses(&self) -> HashMap<u64, u64> {
        self.live().map(|id| (self.node(id).hash, self.node(id).used)).collect()
    }

    /// The clock goes on from `clock`, which is later than anything so far.
    pub fn start_clock(&mut self, clock: u64) {
        self.clock = self.clock.max(clock);
    }

    /// The text to write down next: one with a state at its end that is not `written`, and far enough from what is.
    pub fn next_end(&self, when: When, apart: Apart, written: &dyn Fn(u64) -> bool) -> Option<End> {
        let mut continued: HashSet<NodeId> = HashSet::new();
        let stateful: Vec<NodeId> = self.live().filter(|id| self.node(*id).state.is_some()).collect();
        for &id in &stateful {
            let mut at = self.node(id).parent;
            while let Some(above) = at.filter(|above| continued.insert(*above)) {
                at = self.node(above).parent;
            }
        }
        let ends = |id: NodeId| !continued.contains(&id) || self.node(id).children.len() > 1;
        // The first on the way to `id`, so that what follows it is written behind it.
        let first = |id: NodeId| {
            let mut known = 0;
            for (depth, at) in (1..).zip(self.trail(Some(id))) {
                let least = if ends(at) { apart.ends } else { apart.between };
                if written(self.node(at).hash) {
                    known = depth;
                } else if self.node(at).state.is_some() && depth - known >= least {
                    return Some(at);
                }
            }
            None
        };
        let mut in_turn = stateful;
        match when {
            When::AtRest => in_turn.sort_by_key(|id| Reverse(self.node(*id).used)),
            When::Soon => {
                in_turn.sort_by(|a, b| self.worth(*a).total_cmp(&self.worth(*b)));
                // The others may be used before their turn comes.
                in_turn.truncate(in_turn.len().div_ceil(4));
            }
        }
        let chosen = in_turn.into_iter().filter(|id| ends(*id)).find_map(first)?;
        let node = self.node(chosen);
        Some(End { node: chosen, hash: node.hash, state: node.state?, used: node.used })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const APART: Apart = Apart { ends: 1, between: 1 };

    /// A tree with the texts, each of whole pages of 4, with a state at its end; their last nodes.
    fn tree(texts: &[Vec<u32>]) -> (Prefixes, Vec<NodeId>) {
        let mut tree = Prefixes::new(4, Arc::default());
        let mut page = 0;
        let ends = texts.iter().enumerate().map(|(state, text)| {
            let mut node = None;
            for tokens in text.chunks_exact(4) {
                node = Some(tree.insert(node, tokens, page).0);
                page += 1;
            }
            let node = node.expect("a page");
            tree.set_state(node, state);
            tree.hold(None, Some(node));
            tree.release(Some(node));
            node
        });
        let ends = ends.collect();
        (tree, ends)
    }

    fn text(pages: u32, fill: u32) -> Vec<u32> {
        (0..4 * pages).map(|i| if i < 8 { i } else { fill + i }).collect()
    }

    /// All that is written, in order.
    fn order(tree: &Prefixes, apart: Apart) -> Vec<NodeId> {
        let (mut written, mut order) = (Vec::new(), Vec::new());
        while let Some(end) = tree.next_end(When::AtRest, apart, &|hash| written.contains(&hash)) {
            order.push(end.node);
            written.push(end.hash);
            assert!(order.len() < 9);
        }
        order
    }

    #[test]
    fn ends_and_branches_are_written_and_between_them_what_is_far_enough() {
        let long = text(9, 100);
        let (tree, ends) = tree(&[long[..8].to_vec(), long[..16].to_vec(), long.clone(), text(7, 500)]);
        let apart = |ends, between| Apart { ends, between };
        // The last one first, behind the beginning that both share; of the other one not the middle.
        assert_eq!(order(&tree, apart(1, 9)), [ends[0], ends[3], ends[2]]);
        assert_eq!(order(&tree, apart(1, 2)), [ends[0], ends[3], ends[1], ends[2]]);
        assert_eq!(order(&tree, apart(3, 9)), [ends[3], ends[2]], "the beginning is short");
        assert!(order(&tree, apart(10, 10)).is_empty());
    }

    #[test]
    fn before_they_are_pushed_out_those_go_first_that_are_worth_least() {
        let texts: Vec<Vec<u32>> = (0..8).map(|i| vec![i; 16]).collect();
        let (mut tree, ends) = tree(&texts);
        let first = tree.next_end(When::Soon, APART, &|_| false).expect("something is kept");
        assert_eq!(first.node, ends[0]);
        let second = tree.next_end(When::Soon, APART, &|hash| hash == first.hash).expect("a quarter is two");
        assert_eq!(second.node, ends[1]);
        assert_eq!(tree.next_end(When::Soon, APART, &|hash| [first.hash, second.hash].contains(&hash)), None);
        assert_eq!(tree.evict_state(), Some(first.state), "as it said");
    }

    #[test]
    fn what_is_pinned_stays_and_is_not_used() {
        let (mut tree, ends) = tree(&[text(4, 1), text(4, 2)]);
        tree.pin(Some(ends[0]));
        tree.check(&[ends[0]]).expect("counted");
        assert_eq!(tree.evict_pages(10).pages.len(), 2, "of the other text, but for what both share");
        tree.unpin(Some(ends[0]));
        tree.check(&[]).expect("counted");
        assert_eq!(tree.deepest(&[&text(4, 1)[..], &[0]].concat()), (Some(ends[0]), 4));
        assert_eq!(tree.deepest(&text(4, 1)).1, 3, "a token is left");
        assert_eq!(tree.trail(Some(ends[0])).len(), 4);
    }
}
