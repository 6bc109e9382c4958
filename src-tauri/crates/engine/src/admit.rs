//! Who gets to run: gives waiting requests a slot, pages and the deepest state their text starts with; takes pages back
//! from the youngest when there are too few, to compute them again later. Part of the engine's step.

use crate::{
    policy::Candidate,
    queue::Waiting,
    runner::Runner,
    sequence::{Ended, Sequence},
    step::Worker,
};

impl<R: Runner> Worker<R> {
    /// Gives free slots to requests: first to those that had to leave, then to waiting ones as the policy orders them. A
    /// request whose text is being read for another one, or from the disk, waits for that.
    pub(crate) fn admit(&mut self) {
        while self.running.len() < self.limits.slots {
            if let Some(sequence) = self.suspended.pop() {
                if let Err(sequence) = self.start(Box::new(sequence)) {
                    self.suspended.push(*sequence);
                    return;
                }
                continue;
            }
            let queue = self.queue.clone();
            let Some(waiting) = queue.take(|waiting| self.next(waiting)) else { return };
            if let Err(sequence) = self.start(Box::new(Sequence::admit(waiting))) {
                self.suspended.push(*sequence);
                return;
            }
        }
    }

    /// Which of the waiting requests is next.
    fn next(&mut self, waiting: &[&Waiting]) -> Option<usize> {
        let free: Vec<usize> = (0..waiting.len())
            .filter(|i| {
                let ids = &waiting[*i].request.prompt;
                !self.is_being_read(ids) && !self.is_fetched(ids)
            })
            .collect();
        let candidate = |i: &usize| {
            let request = &waiting[*i].request;
            let account = |sequence: &&Sequence| sequence.request.account == request.account;
            Candidate {
                unknown: request.prompt.len()
                    - self.prefixes.find(&request.prompt).pages.len() * self.limits.page_len,
                waited: waiting[*i].arrived.elapsed().as_secs_f64(),
                priority: request.priority,
                siblings: self.running.iter().filter(account).count(),
            }
        };
        let candidates: Vec<Candidate> = free.iter().map(candidate).collect();
        self.policy.admit(&candidates, &self.timing).map(|chosen| free[chosen])
    }

    /// True if another request is reading a text that `ids` begins with, further than is known yet. It will keep a state
    /// where the two part.
    fn is_being_read(&mut self, ids: &[u32]) -> bool {
        if !self.running.iter().any(Sequence::in_prefill) {
            return false;
        }
        let page = self.limits.page_len;
        let known = self.prefixes.find(ids).pages.len() * page;
        for sequence in self.running.iter_mut().filter(|sequence| sequence.in_prefill()) {
            let equal = sequence.ids.iter().zip(&ids[..ids.len() - 1]).take_while(|(a, b)| a == b).count();
            // Its last token is sampled from, so no state is kept after all of it.
            let common = equal.min(sequence.ids.len() - 1) / page * page;
            if common <= known || common <= sequence.computed {
                continue;
            }
            if let Err(place) = sequence.marks.binary_search(&common) {
                sequence.marks.insert(place, common);
            }
            return true;
        }
        false
    }

    /// Gives a request a slot, pages for all its tokens and one more, and the deepest state its text starts with. Gives it
    /// back if there are too few pages.
    fn start(&mut self, mut sequence: Box<Sequence>) -> Result<(), Box<Sequence>> {
        // Before the text is looked up, as it may push a state out.
        let Some(slot) = self.take_state() else { return Err(sequence) };
        let known = self.prefixes.find(&sequence.ids);
        self.prefixes.hold(None, known.node);
        let count = (sequence.ids.len() + 1).div_ceil(self.limits.page_len) - known.pages.len();
        let Some(fresh) = self.take_pages(count) else {
            self.prefixes.release(known.node);
            self.free_states.push(slot);
            return Err(sequence);
        };
        let page = self.limits.page_len;
        sequence.slot = slot;
        sequence.shared = known.pages.len();
        sequence.computed = sequence.shared * page;
        sequence.marks = self.marks(&sequence.ids, sequence.computed, known.branch * page);
        sequence.pages = [known.pages, fresh].concat();
        sequence.node = known.node;
        sequence.begin();
        self.board.lock().counters.cached_tokens += sequence.computed as u64;
        self.running.push(*sequence);
        if let Some(state) = known.state
            && let Err(reason) = self.runner.copy_state(state, slot)
        {
            let error = crate::EngineError::Step { reason };
            self.running.last_mut().expect("it was just pushed").spoiled = true;
            self.end(vec![(self.running.len() - 1, Ended::Failed(error.fault()))]);
        }
        Ok(())
    }

    /// Makes sure that every request that writes has pages for its next rows. Without memory drafts go first, then the
    /// youngest request leaves its pages and continues when there is room again.
    pub(crate) fn make_room(&mut self) {
        let mut index = 0;
        while index < self.running.len() {
            let sequence = &self.running[index];
            let rows = if sequence.in_prefill() { 0 } else { 1 + sequence.drafts.len() };
            let need = (sequence.computed + rows).div_ceil(self.limits.page_len);
            let missing = need.saturating_sub(sequence.pages.len());
            if missing == 0 {
                index += 1;
            } else if let Some(fresh) = self.take_pages(missing) {
                self.running[index].pages.extend(fresh);
                index += 1;
            } else if !self.running[index].drafts.is_empty() {
                self.running[index].drafts.clear();
            } else {
                // The youngest; itself, if it is alone.
                let last = self.running.len() - 1;
                self.suspend(last);
            }
        }
    }

    /// Takes a request off the device. Its pages stay known as long as nobody needs them.
    fn suspend(&mut self, index: usize) {
        let sequence = self.take_off(index, true);
        tracing::info!(id = sequence.request.id, "a request leaves its pages to others for now");
        self.board.lock().counters.preemptions += 1;
        self.suspended.push(sequence);
    }
}
