//! Texts that were computed before: a tree of full KV pages by the tokens in them, some with the recurrent state after
//! their last position. A request starts from the deepest state on its text's path. Owned by the engine thread; `cache`
//! moves pages and states in and out.
//!
//! Ideas: RadixAttention (arXiv 2312.07104) for the tree, Marconi (arXiv 2411.19379) for what a state is worth.

mod ends;

use std::{collections::HashMap, sync::Arc};

use crate::known::{KnownTexts, chained};
pub use ends::{Apart, End, When};

/// Number of a node.
pub type NodeId = usize;

#[derive(Debug)]
struct Node {
    parent: Option<NodeId>,
    children: HashMap<Box<[u32]>, NodeId>,
    tokens: Box<[u32]>,
    page: u32,
    /// Of the text up to its end.
    hash: u64,
    /// Slot of the recurrent state after the page.
    state: Option<usize>,
    /// Pages from the root, this one included.
    depth: usize,
    /// Requests that run on this page or a deeper one of its branch.
    holders: u32,
    /// When a request last ran on it.
    used: u64,
}

/// What is known of a text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// The node to start from: the deepest with a state.
    pub node: Option<NodeId>,
    /// Its state.
    pub state: Option<usize>,
    /// The pages up to there.
    pub pages: Vec<u32>,
    /// How many pages are known altogether. Behind the last state they cannot be used, but another request had the same
    /// text up to there: it is where texts branch.
    pub branch: usize,
}

/// The tree.
#[derive(Debug)]
pub struct Prefixes {
    nodes: Vec<Option<Node>>,
    vacant: Vec<NodeId>,
    roots: HashMap<Box<[u32]>, NodeId>,
    page_len: usize,
    clock: u64,
    held: usize,
    /// Told of every state.
    known: Arc<KnownTexts>,
}

/// Something that was pushed out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Its pages.
    pub pages: Vec<u32>,
    /// Its states.
    pub states: Vec<usize>,
}

impl Prefixes {
    /// Empty; a page holds `page_len` tokens. `known` is told what states there are.
    pub fn new(page_len: usize, known: Arc<KnownTexts>) -> Prefixes {
        known.clear();
        Prefixes {
            nodes: Vec::new(),
            vacant: Vec::new(),
            roots: HashMap::new(),
            page_len: page_len.max(1),
            clock: 0,
            held: 0,
            known,
        }
    }

    fn node(&self, id: NodeId) -> &Node {
        self.nodes[id]
            .as_ref()
            .expect("ids are handed out for nodes that live, and held or removed here only")
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes[id]
            .as_mut()
            .expect("ids are handed out for nodes that live, and held or removed here only")
    }

    /// What is known of `ids`. At least one token is left to compute, because its logits are needed.
    pub fn find(&self, ids: &[u32]) -> Known {
        let mut known = Known::default();
        let (mut pages, mut children) = (Vec::new(), &self.roots);
        for tokens in ids[..ids.len().saturating_sub(1)].chunks_exact(self.page_len) {
            let Some(&id) = children.get(tokens) else { break };
            let node = self.node(id);
            pages.push(node.page);
            if node.state.is_some() {
                (known.node, known.state) = (Some(id), node.state);
                known.pages.clone_from(&pages);
            }
            children = &node.children;
        }
        known.branch = pages.len();
        known
    }

    /// The child of `parent` with these tokens, or a new one that takes over `page`. The page that is not needed, if there
    /// was such a child, comes back.
    pub fn insert(&mut self, parent: Option<NodeId>, tokens: &[u32], page: u32) -> (NodeId, Option<u32>) {
        let children = parent.map_or(&self.roots, |parent| &self.node(parent).children);
        if let Some(&id) = children.get(tokens) {
            let known = self.node(id).page;
            return (id, (known != page).then_some(page));
        }
        let node = Node {
            parent,
            children: HashMap::new(),
            tokens: tokens.into(),
            page,
            hash: chained(parent.map_or(0, |parent| self.node(parent).hash), tokens),
            state: None,
            depth: parent.map_or(0, |parent| self.node(parent).depth) + 1,
            holders: 0,
            used: self.clock,
        };
        let id = self.vacant.pop().unwrap_or(self.nodes.len());
        if id == self.nodes.len() {
            self.nodes.push(None);
        }
        self.nodes[id] = Some(node);
        match parent {
            Some(parent) => self.node_mut(parent).children.insert(tokens.into(), id),
            None => self.roots.insert(tokens.into(), id),
        };
        (id, None)
    }

    /// The page of a node.
    pub fn page(&self, id: NodeId) -> u32 {
        self.node(id).page
    }

    /// True if the state after this node is kept.
    pub fn has_state(&self, id: NodeId) -> bool {
        self.node(id).state.is_some()
    }

    /// Keeps a state after a node that has none.
    pub fn set_state(&mut self, id: NodeId, slot: usize) {
        let before = self.node_mut(id).state.replace(slot);
        debug_assert_eq!(before, None, "a state would be lost");
        self.known.add(self.node(id).hash);
    }

    /// A request runs on the path to `to`, where so far it ran on the path to `from`, which is a part of it.
    pub fn hold(&mut self, from: Option<NodeId>, to: Option<NodeId>) {
        self.clock += 1;
        let (clock, mut at) = (self.clock, to);
        while let Some(id) = at.filter(|_| at != from) {
            let node = self.node_mut(id);
            node.holders += 1;
            node.used = clock;
            at = node.parent;
            if node.holders == 1 {
                self.held += 1;
            }
        }
    }

    /// A request runs no longer on the path to `node`.
    pub fn release(&mut self, node: Option<NodeId>) {
        self.clock += 1;
        let (clock, mut at) = (self.clock, node);
        while let Some(id) = at {
            let node = self.node_mut(id);
            node.holders -= 1;
            node.used = clock;
            at = node.parent;
            if node.holders == 0 {
                self.held -= 1;
            }
        }
    }

    /// Tokens between a node and the nearest state above it: what must be computed again without a state here.
    fn saved(&self, id: NodeId) -> usize {
        let node = self.node(id);
        let mut at = node.parent;
        while let Some(above) = at.map(|id| self.node(id)) {
            if above.state.is_some() {
                return (node.depth - above.depth) * self.page_len;
            }
            at = above.parent;
        }
        node.depth * self.page_len
    }

    /// What a state is worth: the computation it saves, the less the longer nobody asked for it. All states are of one
    /// size, so this is per byte.
    fn worth(&self, id: NodeId) -> f64 {
        self.saved(id) as f64 / (1 + self.clock - self.node(id).used) as f64
    }

    /// Pushes out the state that is worth least. Whoever runs beyond it has a copy.
    pub fn evict_state(&mut self) -> Option<usize> {
        let ids = self.live().filter(|id| self.node(*id).state.is_some());
        let least = ids.min_by(|a, b| self.worth(*a).total_cmp(&self.worth(*b)))?;
        self.known.remove(self.node(least).hash);
        self.node_mut(least).state.take()
    }

    /// Pushes out pages that nobody runs on, `count` or more if there are so many, from the ends of the branches that are
    /// worth least. Pages behind the last state of a branch go first: nobody can start from them.
    pub fn evict_pages(&mut self, count: usize) -> Evicted {
        let mut evicted = Evicted::default();
        while evicted.pages.len() < count {
            let ends = self.live().filter(|id| {
                let node = self.node(*id);
                node.holders == 0 && node.children.is_empty()
            });
            let worth = |id: &NodeId| if self.has_state(*id) { self.worth(*id) } else { 0.0 };
            let used = |id: &NodeId| self.node(*id).used;
            let least =
                ends.min_by(|a, b| worth(a).total_cmp(&worth(b)).then(used(a).cmp(&used(b))).then(b.cmp(a)));
            let Some(mut end) = least else { break };
            // Up the branch until there is another child, a holder, or a state to start from.
            loop {
                let node = self.remove(end);
                evicted.pages.push(node.page);
                evicted.states.extend(node.state);
                let Some(parent) = node.parent.filter(|_| evicted.pages.len() < count) else { break };
                let above = self.node(parent);
                if !above.children.is_empty() || above.holders > 0 || above.state.is_some() {
                    break;
                }
                end = parent;
            }
        }
        evicted
    }

    fn remove(&mut self, id: NodeId) -> Node {
        let node = self.nodes[id].take().expect("only live nodes are removed");
        match node.parent {
            Some(parent) => self.node_mut(parent).children.remove(&node.tokens),
            None => self.roots.remove(&node.tokens),
        };
        if node.state.is_some() {
            self.known.remove(node.hash);
        }
        self.vacant.push(id);
        node
    }

    fn live(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.iter().enumerate().filter(|(_, node)| node.is_some()).map(|(id, _)| id)
    }

    /// Pages that somebody runs on.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Pages in the tree.
    pub fn pages(&self) -> usize {
        self.nodes.len() - self.vacant.len()
    }

    /// Places for nodes, used and vacant.
    #[cfg(test)]
    pub fn places(&self) -> usize {
        self.nodes.len()
    }

    /// The pages from the root to a node; none without one.
    pub fn path(&self, node: Option<NodeId>) -> Vec<u32> {
        let above = |id: &NodeId| self.node(*id).parent;
        let mut pages: Vec<u32> = std::iter::successors(node, above).map(|id| self.node(id).page).collect();
        pages.reverse();
        pages
    }

    /// Everything in the tree, for the check.
    pub fn contents(&self) -> Evicted {
        let nodes = || self.live().map(|id| self.node(id));
        Evicted {
            pages: nodes().map(|node| node.page).collect(),
            states: nodes().filter_map(|node| node.state).collect(),
        }
    }

    /// Recounts from the requests' nodes what the tree believes. The error says what is wrong.
    pub fn check(&self, holders: &[NodeId]) -> Result<(), String> {
        let mut counted: HashMap<NodeId, u32> = HashMap::new();
        for &holder in holders {
            let mut at = Some(holder);
            while let Some(id) = at {
                *counted.entry(id).or_default() += 1;
                at = self.nodes.get(id).and_then(Option::as_ref).ok_or("a held node is gone")?.parent;
            }
        }
        for id in self.live() {
            let node = self.node(id);
            let expected = counted.get(&id).copied().unwrap_or(0);
            if node.holders != expected {
                return Err(format!("node {id} counts {} holders of {expected}", node.holders));
            }
            let siblings = node.parent.map_or(&self.roots, |parent| &self.node(parent).children);
            if siblings.get(&node.tokens) != Some(&id) {
                return Err(format!("node {id} is not where its tokens lead"));
            }
            if node.depth != node.parent.map_or(0, |parent| self.node(parent).depth) + 1 {
                return Err(format!("node {id} has depth {}", node.depth));
            }
        }
        if self.held != counted.len() {
            return Err("the count of held pages is wrong".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inserts full pages of `ids`, pages numbered from `first`; the node of the last.
    fn put(tree: &mut Prefixes, ids: &[u32], first: u32) -> NodeId {
        let mut node = None;
        for (i, tokens) in ids.chunks_exact(4).enumerate() {
            node = Some(tree.insert(node, tokens, first + i as u32).0);
        }
        node.expect("at least a page")
    }

    fn tree_of_four() -> Prefixes {
        Prefixes::new(4, Arc::default())
    }

    fn text(len: u32, from: u32) -> Vec<u32> {
        (from..from + len).collect()
    }

    #[test]
    fn a_text_starts_from_the_deepest_state_and_leaves_a_token_to_compute() {
        let mut tree = tree_of_four();
        let ids = text(16, 0);
        let end = put(&mut tree, &ids, 10);
        assert_eq!(tree.find(&ids), Known { branch: 3, ..Known::default() });
        let second = put(&mut tree, &ids[..8], 10);
        tree.set_state(second, 7);
        let known = tree.find(&ids);
        assert_eq!(
            (known.node, known.state, known.pages, known.branch),
            (Some(second), Some(7), vec![10, 11], 3)
        );
        tree.set_state(end, 8);
        assert_eq!(tree.find(&ids).state, Some(7), "the last token must be computed");
        assert_eq!(tree.find(&text(17, 0)).state, Some(8));
        assert_eq!(tree.find(&[ids[..8].to_vec(), text(9, 90)].concat()).branch, 2);
        assert_eq!(tree.find(&text(16, 1)).branch, 0);
        assert_eq!(tree.find(&[]), Known::default());
    }

    #[test]
    fn a_page_that_is_known_already_comes_back() {
        let mut tree = tree_of_four();
        let (node, spare) = tree.insert(None, &text(4, 0), 3);
        assert_eq!(spare, None);
        assert_eq!(tree.insert(None, &text(4, 0), 5), (node, Some(5)));
        assert_eq!(tree.insert(None, &text(4, 0), 3), (node, None));
    }

    #[test]
    fn what_somebody_runs_on_stays_and_the_rest_goes_from_its_ends() {
        let mut tree = tree_of_four();
        let long = put(&mut tree, &text(16, 0), 0);
        let middle = put(&mut tree, &text(8, 0), 0);
        tree.hold(None, Some(middle));
        tree.set_state(long, 1);
        let evicted = tree.evict_pages(10);
        assert_eq!(evicted, Evicted { pages: vec![3, 2], states: vec![1] });
        assert_eq!((tree.pages(), tree.held(), tree.contents().states.len()), (2, 2, 0));
        tree.check(&[middle]).expect("whole");
        tree.release(Some(middle));
        assert_eq!(tree.evict_pages(1).pages, [1]);
        assert_eq!(tree.evict_pages(5).pages, [0]);
        assert_eq!(tree.evict_pages(1), Evicted::default());
        tree.check(&[]).expect("whole");
    }

    #[test]
    fn holding_a_deeper_page_counts_only_what_is_new() {
        let mut tree = tree_of_four();
        let end = put(&mut tree, &text(16, 0), 0);
        let start = put(&mut tree, &text(4, 0), 0);
        tree.hold(None, Some(start));
        tree.hold(Some(start), Some(end));
        tree.check(&[end]).expect("whole");
        assert!(tree.check(&[start]).is_err() && tree.check(&[end, end]).is_err(), "the check can fail");
        tree.release(Some(end));
        tree.check(&[]).expect("whole");
    }

    #[test]
    fn the_state_that_saves_least_and_was_not_asked_for_goes_first() {
        let mut tree = tree_of_four();
        let long = put(&mut tree, &text(40, 0), 0);
        let near = put(&mut tree, &text(36, 0), 0);
        let other = put(&mut tree, &text(8, 100), 20);
        tree.set_state(long, 1);
        tree.set_state(near, 2);
        tree.set_state(other, 3);
        // 4 tokens after another state; then 8 tokens of a text against 36.
        assert_eq!(tree.evict_state(), Some(1));
        assert_eq!(tree.evict_state(), Some(3));
        tree.set_state(other, 3);
        for _ in 0..20 {
            tree.hold(None, Some(other));
            tree.release(Some(other));
        }
        assert_eq!(tree.evict_state(), Some(2), "long ago outweighs long");
    }

    #[test]
    fn pages_behind_the_last_state_go_before_those_one_can_start_from() {
        let mut tree = tree_of_four();
        let kept = put(&mut tree, &text(8, 0), 0);
        tree.set_state(kept, 1);
        put(&mut tree, &text(16, 0), 0);
        put(&mut tree, &text(8, 50), 8);
        let evicted = tree.evict_pages(4);
        assert_eq!(evicted.states, Vec::<usize>::new());
        assert_eq!(tree.find(&text(9, 0)).state, Some(1));
    }
}
