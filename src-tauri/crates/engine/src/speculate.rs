//! Drafting, after a part of a step. The rows that proved valid pass through the MTP head, each with its next token, so that
//! the head has keys and values for all of the text; then it proposes the next tokens, one step per draft. A request whose
//! text repeats itself copies its drafts instead. Part of the engine's step.

use std::{cmp::Reverse, time::Instant};

use hearth_kernels::ops::{Pass, Segment};
use hearth_model::Seed;

use crate::{
    depth::{Depth, Price, choose},
    runner::Runner,
    schedule::Batch,
    step::Worker,
    timing::Work,
};

/// A request that drafts.
#[derive(Debug, Clone, Copy)]
struct Drafter {
    /// Index of its sequence.
    index: usize,
    /// Row of the head's last step from which the next draft comes.
    row: u32,
    /// Tokens it drafts.
    depth: usize,
}

/// The rows of one step of the MTP head.
#[derive(Debug, Default)]
struct HeadRows {
    segments: Vec<Segment>,
    next_ids: Vec<u32>,
    /// Rows of the trunk, or of the head's last step, whose hidden states they continue.
    seeds: Vec<u32>,
}

impl HeadRows {
    /// Adds rows from `position` on, each continuing the state of a row from `seed` on.
    fn push(&mut self, slot: usize, pages: &[u32], position: usize, next_ids: &[u32], seed: u32) {
        let (first_row, rows) = (self.next_ids.len(), next_ids.len());
        self.next_ids.extend_from_slice(next_ids);
        self.seeds.extend(seed..seed + rows as u32);
        self.segments.push(Segment {
            slot,
            first_row,
            rows,
            position,
            pages: pages.to_vec(),
            snapshots: Vec::new(),
        });
    }
}

impl<R: Runner> Worker<R> {
    /// Brings the head up to date with `part`, of whose members so many rows are `valid` each, and drafts for the next
    /// round.
    pub(crate) fn draft(&mut self, part: &Batch, valid: &[usize]) -> Result<(), String> {
        if self.drafts == 0 {
            return Ok(());
        }
        let mtp = self.limits.mtp;
        let mut rows = HeadRows::default();
        let mut drafters = Vec::new();
        let mut members: Vec<_> = part.pass.segments.iter().zip(&part.members).zip(valid).collect();
        // In one order of lengths, as in `schedule`.
        members.sort_by_key(|(_, valid)| Reverse(**valid));
        for ((segment, member), &valid) in members {
            let sequence = &mut self.running[member.index];
            if valid == 0 {
                continue;
            }
            let echoes = !sequence.in_prefill() && self.offer_echo(member.index);
            let sequence = &mut self.running[member.index];
            let rests = self.depth == Depth::Auto && member.writes && sequence.acceptance.rests();
            let heads = mtp && !rests;
            if heads {
                let next_ids = &sequence.ids[segment.position + 1..=segment.position + valid];
                // Onto the pages of the step: by now the request may share another's, which are not to be written.
                let seed = segment.first_row as u32;
                rows.push(sequence.slot, &segment.pages, segment.position, next_ids, seed);
            }
            if !sequence.in_prefill() && (heads || echoes) {
                let row = (rows.next_ids.len() as u32).saturating_sub(1);
                drafters.push(Drafter { index: member.index, row, depth: 0 });
            }
        }
        self.choose_depths(&mut drafters);
        for drafter in &mut drafters {
            let sequence = &mut self.running[drafter.index];
            if sequence.echoed {
                // It has its drafts; the head need not propose any.
                sequence.drafts.truncate(drafter.depth);
                drafter.depth = 0;
            }
        }
        drafters.retain(|drafter| drafter.depth > 0);
        if rows.segments.is_empty() {
            return Ok(());
        }
        // A chunk of a prompt would make a step of the head look dearer than it is.
        let alike = part.members.iter().all(|member| member.writes);
        let mut want: Vec<u32> = drafters.iter().map(|drafter| drafter.row).collect();
        let mut logits = self.head_step(rows, true, &want, alike && !want.is_empty())?;
        for level in 1.. {
            self.take_drafts(&mut drafters, logits, level);
            drafters.retain(|drafter| drafter.depth > level);
            if drafters.is_empty() {
                break;
            }
            let mut rows = HeadRows::default();
            for (row, drafter) in drafters.iter_mut().enumerate() {
                let sequence = &self.running[drafter.index];
                let newest = &sequence.drafts[level - 1..];
                let position = sequence.computed + level - 1;
                rows.push(sequence.slot, &sequence.pages, position, newest, drafter.row);
                drafter.row = row as u32;
            }
            want = (0..drafters.len() as u32).collect();
            logits = self.head_step(rows, false, &want, true)?;
        }
        Ok(())
    }

    /// Lets a request copy its drafts if its text repeats itself and copying has not just proved wrong.
    fn offer_echo(&mut self, index: usize) -> bool {
        let sequence = &mut self.running[index];
        sequence.drafts = sequence.echo.propose(&sequence.ids, self.drafts);
        sequence.echoed = !sequence.drafts.is_empty();
        if sequence.echoed && self.depth == Depth::Auto && sequence.echo_acceptance.rests() {
            sequence.drafts.clear();
            sequence.echoed = false;
        }
        sequence.echoed
    }

    /// Decides how many tokens each drafts.
    fn choose_depths(&mut self, drafters: &mut [Drafter]) {
        if drafters.is_empty() {
            return;
        }
        drafters.sort_unstable_by_key(|drafter| drafter.index);
        let mut context = 0;
        for drafter in drafters.iter() {
            context += self.running[drafter.index].computed;
            while self.running[drafter.index].lanes.len() < self.drafts
                && let Some(state) = self.take_state()
            {
                self.running[drafter.index].lanes.push(state);
            }
            // The head runs ahead of the text, perhaps onto the next page.
            let sequence = &self.running[drafter.index];
            if sequence.pages.len() * self.limits.page_len < sequence.computed + self.drafts
                && let Some(page) = self.take_pages(1)
            {
                self.running[drafter.index].pages.extend(page);
            }
        }
        let work = Work { decode_rows: drafters.len(), prefill_rows: 0, context };
        let price = Price {
            step: self.timing.seconds(work),
            row: self.timing.row(),
            draft: self.draft_seconds.unwrap_or(0.0),
        };
        let mut rooms = Vec::new();
        let indices: Vec<usize> = drafters.iter().map(|drafter| drafter.index).collect();
        let writers = self.running.iter_mut().enumerate().filter(|(index, _)| indices.contains(index));
        for (_, sequence) in writers {
            let pages = (sequence.pages.len() * self.limits.page_len).saturating_sub(sequence.computed);
            let mut room = sequence.room_for_drafts().min(sequence.lanes.len()).min(self.drafts).min(pages);
            if sequence.echoed {
                room = room.min(sequence.drafts.len());
                rooms.push((&mut sequence.echo_acceptance, room));
            } else {
                rooms.push((&mut sequence.acceptance, room));
            }
        }
        for (drafter, depth) in drafters.iter_mut().zip(choose(self.depth, &mut rooms, price)) {
            drafter.depth = depth;
        }
    }

    /// Takes the tokens that the head proposes for the drafters, in their order. The draw is the one that will check it:
    /// the better the head knows the model's distribution, the likelier both draw the same.
    fn take_drafts(&mut self, drafters: &mut [Drafter], mut logits: Vec<f32>, level: usize) {
        let vocab = logits.len().checked_div(drafters.len()).unwrap_or(0).max(1);
        for (drafter, row) in drafters.iter_mut().zip(logits.chunks_mut(vocab)) {
            let position = self.running[drafter.index].ids.len() + level - 1;
            match self.pick(drafter.index, position, row) {
                Some(token) => self.running[drafter.index].drafts.push(token),
                // A head that computes no numbers is no reason to fail: the model itself will tell.
                None => drafter.depth = 0,
            }
        }
    }

    /// One step of the head; `timed` ones set the price of a draft.
    fn head_step(
        &mut self,
        rows: HeadRows,
        first: bool,
        want: &[u32],
        timed: bool,
    ) -> Result<Vec<f32>, String> {
        let pass = Pass { segments: rows.segments, exact: self.limits.exact };
        let seed = if first { Seed::Forward(&rows.seeds) } else { Seed::Draft(&rows.seeds) };
        let begun = Instant::now();
        let logits = self.runner.draft(&pass, &rows.next_ids, seed, want)?;
        if timed {
            let seconds = begun.elapsed().as_secs_f64();
            self.draft_seconds =
                Some(self.draft_seconds.map_or(seconds, |known| 0.9 * known + 0.1 * seconds));
        }
        Ok(logits)
    }
}
