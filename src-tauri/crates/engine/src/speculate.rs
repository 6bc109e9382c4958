//! Drafting, after a part of a step. The rows that proved valid pass through the MTP head, each with its next token, so that
//! the head has keys and values for all of the text; then it proposes the next tokens, one step per draft. A request whose
//! text repeats itself copies its drafts instead. Part of the engine's step.

use std::{
    cmp::Reverse,
    collections::HashMap,
    time::{Duration, Instant},
};

use hearth_kernels::{
    ops::{Pass, Segment},
    rounds::Follow,
    sample::{self, SampleRow},
};
use hearth_model::Seed;

use crate::{
    depth::{Depth, Price, choose},
    runner::{Given, Runner, Sampled},
    schedule::Batch,
    step::Worker,
    timing::Work,
};

/// Of so many rounds one is waited for draft by draft, where it need not be.
pub(crate) const MEASURED: u64 = 8;

/// A request that drafts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Drafter {
    /// Index of its sequence.
    pub index: usize,
    /// Row of the head's last step from which the next draft comes.
    pub row: u32,
    /// Tokens it drafts.
    pub depth: usize,
}

/// The rows of one step of the MTP head.
#[derive(Debug, Default)]
pub(crate) struct HeadRows {
    segments: Vec<Segment>,
    next_ids: Vec<u32>,
    /// Rows of the trunk, or of the head's last step, whose hidden states they continue.
    seeds: Vec<u32>,
}

impl HeadRows {
    /// Adds rows from `position` on, each continuing the state of a row from `seed` on.
    pub fn push(&mut self, slot: usize, pages: &[u32], position: usize, next_ids: &[u32], seed: u32) {
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

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.next_ids.len()
    }

    /// How many sequences they belong to.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// The last row of a segment.
    pub fn last_row(&self, segment: usize) -> u32 {
        let segment = &self.segments[segment];
        (segment.first_row + segment.rows - 1) as u32
    }
}

impl<R: Runner> Worker<R> {
    /// Brings the head up to date with `part`, of whose members so many rows are `valid` each, and drafts for the next
    /// round. Returns the seconds that takes, or is thought to take.
    pub(crate) fn draft(&mut self, part: &Batch, valid: &[usize]) -> Result<f64, String> {
        if self.drafts == 0 {
            return Ok(0.0);
        }
        let begun = Instant::now();
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
            sequence.echoes = false;
            let rests = match sequence.request.mtp_depth.unwrap_or(self.depth) {
                Depth::Auto => member.writes && sequence.acceptance.rests(),
                Depth::Fixed(depth) => member.writes && depth == 0,
            };
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
        self.choose_depths(&mut drafters, 0);
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
            return Ok(begun.elapsed().as_secs_f64());
        }
        // A chunk of a prompt would make a step of the head look dearer than it is.
        let mut timed = part.members.iter().all(|member| member.writes);
        let unseen = self.may_draft_unseen(&drafters);
        let want: Vec<u32> = drafters.iter().map(|drafter| drafter.row).collect();
        let mut step_begun = Instant::now();
        self.head_step(rows, true, &want, &[])?;
        let mut levels = 0;
        while !drafters.is_empty() {
            levels += 1;
            let sampled = self.sample_drafts(&drafters, levels)?;
            if unseen && (0..drafters.len()).all(|row| sampled.id(row).is_some()) {
                self.leave_drafts(&drafters, sampled);
            } else {
                let given = self.runner.read(sampled)?;
                self.take_drafts(&mut drafters, given);
                if std::mem::replace(&mut timed, true) {
                    let seconds = step_begun.elapsed().as_secs_f64();
                    let known = self.draft_seconds.unwrap_or(seconds);
                    self.draft_seconds = Some(0.9 * known + 0.1 * seconds);
                }
            }
            drafters.retain(|drafter| drafter.depth > levels);
            if drafters.is_empty() {
                break;
            }
            let mut rows = HeadRows::default();
            for (row, drafter) in drafters.iter_mut().enumerate() {
                let sequence = &self.running[drafter.index];
                let newest = &sequence.drafts[levels - 1..];
                let position = sequence.computed + levels - 1;
                rows.push(sequence.slot, &sequence.pages, position, newest, drafter.row);
                drafter.row = row as u32;
            }
            let want: Vec<u32> = (0..drafters.len() as u32).collect();
            step_begun = Instant::now();
            self.head_step(rows, false, &want, &[])?;
        }
        if self.proposed.is_empty() {
            return Ok(begun.elapsed().as_secs_f64());
        }
        // Nobody waited for them, so they take what drafts took lately.
        let seconds = levels as f64 * self.draft_seconds.unwrap_or(0.0);
        self.busy_until = begun + Duration::from_secs_f64(seconds);
        Ok(seconds)
    }

    /// Whether the drafts of this round may stay on the device until the model has checked them. Now and then they are
    /// waited for, to learn what they cost.
    fn may_draft_unseen(&mut self, drafters: &[Drafter]) -> bool {
        self.rounds += 1;
        self.limits.ahead
            && self.draft_seconds.is_some()
            && !self.rounds.is_multiple_of(MEASURED)
            && drafters.iter().all(|drafter| self.running[drafter.index].may_draft_unseen())
    }

    /// Lets a request copy its drafts if its text repeats itself and copying has not just proved wrong.
    fn offer_echo(&mut self, index: usize) -> bool {
        let sequence = &mut self.running[index];
        sequence.drafts = sequence.echo.propose(&sequence.ids, self.drafts);
        sequence.echoed = !sequence.drafts.is_empty();
        let auto = sequence.request.mtp_depth.unwrap_or(self.depth) == Depth::Auto;
        if sequence.echoed && auto && sequence.echo_acceptance.rests() {
            sequence.drafts.clear();
            sequence.echoed = false;
        }
        sequence.echoed
    }

    /// Decides how many tokens each drafts; `unread`: most tokens of a request that are on their way and unknown.
    pub(crate) fn choose_depths(&mut self, drafters: &mut [Drafter], unread: usize) {
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
            if sequence.pages.len() * self.limits.page_len < sequence.computed + unread + self.drafts
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
        let (mut rooms, mut choosing) = (Vec::new(), Vec::new());
        let indices: Vec<usize> = drafters.iter().map(|drafter| drafter.index).collect();
        let writers = self.running.iter_mut().enumerate().filter(|(index, _)| indices.contains(index));
        for ((_, sequence), drafter) in writers.zip(drafters.iter_mut()) {
            let held = sequence.pages.len() * self.limits.page_len;
            let pages = held.saturating_sub(sequence.computed + unread);
            let mut room =
                sequence.room_for_drafts(unread).min(sequence.lanes.len()).min(self.drafts).min(pages);
            if sequence.echoed && unread == 0 {
                room = room.min(sequence.drafts.len());
            }
            match sequence.request.mtp_depth.unwrap_or(self.depth) {
                Depth::Fixed(depth) => drafter.depth = depth.min(room),
                Depth::Auto => {
                    let echoed = sequence.echoed && unread == 0;
                    let acceptance =
                        if echoed { &mut sequence.echo_acceptance } else { &mut sequence.acceptance };
                    rooms.push((acceptance, room));
                    choosing.push(drafter);
                }
            }
        }
        for (drafter, depth) in choosing.into_iter().zip(choose(&mut rooms, price)) {
            drafter.depth = depth;
        }
    }

    /// Starts choosing what the head proposes for the drafters, in their order. The draw is the one that will check it: the
    /// better the head knows the model's distribution, the likelier both draw the same.
    fn sample_drafts(&mut self, drafters: &[Drafter], level: usize) -> Result<Sampled, String> {
        let rows: Vec<Option<SampleRow<'_>>> = drafters
            .iter()
            .map(|drafter| {
                let sequence = &self.running[drafter.index];
                let setting = sequence.draft_setting(sequence.ids.len() + level - 1, &self.tokenizer);
                self.runner.can_sample(&setting).then_some(setting)
            })
            .collect();
        self.runner.sample(self.tokenizer.len(), &rows)
    }

    /// Takes what the head proposed.
    fn take_drafts(&mut self, drafters: &mut [Drafter], given: Vec<Given>) {
        for (drafter, given) in drafters.iter_mut().zip(given) {
            let sequence = &mut self.running[drafter.index];
            let token = match given {
                Given::Token(token) => token,
                Given::Logits(mut logits) => {
                    let position = sequence.ids.len() + sequence.drafts.len();
                    let tokens = self.tokenizer.len().min(logits.len());
                    sample::choose(&mut logits[..tokens], &sequence.draft_setting(position, &self.tokenizer))
                }
            };
            match token {
                Some(token) => sequence.drafts.push(token),
                // A head that computes no numbers is no reason to fail: the model itself will tell.
                None => drafter.depth = 0,
            }
        }
    }

    /// Leaves what the head proposed where the device chose it: the next steps take it from there.
    fn leave_drafts(&mut self, drafters: &[Drafter], sampled: Sampled) {
        for (row, drafter) in drafters.iter().enumerate() {
            self.running[drafter.index].drafts.extend(sampled.id(row));
        }
        self.proposed.push((drafters.len(), sampled));
    }

    /// Learns what was proposed, of which so far only the device knew.
    pub(crate) fn settle_drafts(&mut self, proposed: Vec<(usize, Sampled)>) -> Result<(), String> {
        if proposed.is_empty() {
            return Ok(());
        }
        let mut known = HashMap::new();
        for (rows, sampled) in proposed {
            let ids: Vec<Option<u32>> = (0..rows).map(|row| sampled.id(row)).collect();
            for (id, given) in ids.into_iter().flatten().zip(self.runner.read(sampled)?) {
                known.insert(id, if let Given::Token(token) = given { token } else { None });
            }
        }
        self.running.iter_mut().for_each(|sequence| sequence.settle_drafts(&known));
        Ok(())
    }

    /// Starts a step of the head.
    pub(crate) fn head_step(
        &mut self,
        rows: HeadRows,
        first: bool,
        want: &[u32],
        follows: &[Follow],
    ) -> Result<(), String> {
        let pass = Pass { segments: rows.segments, exact: self.limits.exact };
        let seed = if first { Seed::Forward(&rows.seeds) } else { Seed::Draft(&rows.seeds) };
        self.runner.draft(&pass, &rows.next_ids, seed, want, follows)
    }
}
