//! What running requests leave behind for later ones, and where pages and recurrent states come from: moves them between
//! the free lists, the requests and the tree of prefixes. Part of the engine's step.

use crate::{runner::Runner, sequence::Sequence, step::Worker};

/// Positions between two states that are kept of a long prompt, unless that makes more than [`MOST_MARKS`].
const STRIDE: usize = 4096;
const MOST_MARKS: usize = 16;

impl<R: Runner> Worker<R> {
    /// `count` pages: free ones, or those of the prefixes that are worth least. None, and nothing changed, if there are too
    /// few.
    pub(crate) fn take_pages(&mut self, count: usize) -> Option<Vec<u32>> {
        let missing = count.saturating_sub(self.pages.free());
        if missing > self.prefixes.pages() - self.prefixes.held() {
            // What is on its way to or from the disk gives way to what runs.
            self.give_up_saving(None);
            let again = self.give_up_loading() || missing <= self.prefixes.pages() - self.prefixes.held();
            return if again { self.take_pages(count) } else { None };
        }
        if missing > 0 {
            let evicted = self.prefixes.evict_pages(missing);
            self.pages.give_back(evicted.pages);
            self.free_states.extend(evicted.states);
        }
        self.pages.take(count)
    }

    /// A recurrent state: a free one, or that of the prefix that is worth least.
    pub(crate) fn take_state(&mut self) -> Option<usize> {
        self.free_states.pop().or_else(|| {
            let evicted = self.prefixes.evict_state();
            evicted.inspect(|state| self.give_up_saving(Some(*state)))
        })
    }

    /// Where the reading of `ids` shall pause to keep a state, ascending, beyond the `start` positions that are known:
    /// where another request's text branched off, after the system block, before the last turns, every few thousand
    /// tokens, and at the end.
    pub(crate) fn marks(&self, ids: &[u32], start: usize, branch: usize) -> Vec<usize> {
        let page = self.limits.page_len;
        let last = ids.len().saturating_sub(1) / page * page;
        let turn = self.tokenizer.turn_start();
        let turns: Vec<usize> =
            ids.iter().enumerate().filter(|(_, id)| Some(**id) == turn).map(|(i, _)| i).collect();
        let of_turns = turns.get(1).into_iter().chain(turns.iter().rev().take(2)).copied();
        let stride = STRIDE.max((ids.len() / MOST_MARKS).next_multiple_of(page)).next_multiple_of(page);
        let mut marks: Vec<usize> = (1..).map(|i| i * stride).take_while(|mark| *mark < last).collect();
        marks.extend(of_turns.chain([branch, last]).map(|position| position / page * page));
        // A pause costs a pass of its own; a page or two is sooner read again.
        marks.retain(|mark| (start + 2 * page..=last).contains(mark));
        marks.sort_unstable();
        marks.dedup();
        marks
    }

    /// Puts the first `positions` of a request into the tree, full pages only, and the request on that path.
    fn share(&mut self, index: usize, positions: usize) {
        let page = self.limits.page_len;
        let sequence = &mut self.running[index];
        let (before, mut node) = (sequence.node, sequence.node);
        for i in sequence.shared..positions / page {
            let tokens = &sequence.ids[i * page..(i + 1) * page];
            let (id, spare) = self.prefixes.insert(node, tokens, sequence.pages[i]);
            if let Some(spare) = spare {
                // Another request computed the same at the same time; from now on both run on its page.
                sequence.pages[i] = self.prefixes.page(id);
                self.pages.give_back(vec![spare]);
            }
            node = Some(id);
        }
        sequence.shared = sequence.shared.max(positions / page);
        sequence.node = node;
        self.prefixes.hold(before, node);
    }

    /// Called when a request has read up to `computed`: keeps pages and state if that is one of its marks.
    pub(crate) fn keep_mark(&mut self, index: usize) -> Result<(), String> {
        let sequence = &mut self.running[index];
        if sequence.marks.first() != Some(&sequence.computed) {
            return Ok(());
        }
        sequence.marks.remove(0);
        let (positions, slot) = (sequence.computed, sequence.slot);
        self.share(index, positions);
        let node = self.running[index].node.filter(|node| !self.prefixes.has_state(*node));
        if let Some(node) = node
            && let Some(state) = self.take_state()
        {
            self.prefixes.set_state(node, state);
            self.runner.copy_state(slot, state)?;
        }
        Ok(())
    }

    /// Called before a request that writes advances by `valid` rows: if a page becomes full, keeps the state after it, so
    /// that the next turn of the conversation starts there. `snapshots` says where the rows left their states.
    pub(crate) fn keep_page_end(
        &mut self,
        index: usize,
        valid: usize,
        snapshots: &[u32],
    ) -> Result<(), String> {
        let page = self.limits.page_len;
        let sequence = &self.running[index];
        let position = (sequence.computed + valid) / page * page;
        if position <= sequence.computed {
            return Ok(());
        }
        let row = position - sequence.computed - 1;
        let from = snapshots.get(row).map_or(sequence.slot, |slot| *slot as usize);
        let kept = match sequence.kept {
            Some((slot, _)) => Some(slot),
            None => self.take_state(),
        };
        self.running[index].kept = kept.map(|slot| (slot, position));
        kept.map_or(Ok(()), |slot| self.runner.copy_state(from, slot))
    }

    /// Takes back what a request held. Unless its state cannot be trusted, its full pages stay in the tree, with the state
    /// after them if that is known.
    pub(crate) fn leave(&mut self, index: usize, trusted: bool) {
        let page = self.limits.page_len;
        let full = self.running[index].computed / page * page;
        if trusted && full > 0 {
            self.share(index, full);
            let sequence = &mut self.running[index];
            let here = sequence.kept.filter(|(_, position)| *position == full).map(|(slot, _)| slot);
            let state = here.or((sequence.computed == full).then_some(sequence.slot));
            if let Some((node, state)) = sequence.node.zip(state)
                && !self.prefixes.has_state(node)
            {
                if here.is_some() {
                    sequence.kept = None;
                } else if let Some((slot, _)) = sequence.kept.take() {
                    // The request's own state becomes the tree's, so the other one is what comes back.
                    sequence.slot = slot;
                } else {
                    sequence.slot = NO_STATE;
                }
                self.prefixes.set_state(node, state);
            }
        }
        let sequence = &mut self.running[index];
        self.pages.give_back(sequence.pages.split_off(sequence.shared));
        let states = sequence.lanes.drain(..).chain([sequence.slot]).chain(sequence.kept.take().map(|k| k.0));
        self.free_states.extend(states.filter(|state| *state != NO_STATE));
        self.prefixes.release(sequence.node.take());
        sequence.vacate();
    }
}

/// A slot that was given away.
const NO_STATE: usize = usize::MAX;

impl Sequence {
    /// Forgets pages and states, which others have now.
    fn vacate(&mut self) {
        self.pages.clear();
        self.drafts.clear();
        self.marks.clear();
        (self.shared, self.computed, self.slot) = (0, 0, NO_STATE);
    }
}
