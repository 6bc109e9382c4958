//! Starting a pass before the tokens of the one before it are known here. Where nobody drafts, all but the tokens is known.
//! Where somebody does, only the device knows how many drafts are right: the head's steps and the next check are told as if
//! all were, and it takes back what was not (`hearth_kernels::rounds`). Part of the engine's step.

use std::{cmp::Reverse, collections::HashMap, time::Instant};

use hearth_kernels::{
    ops::Segment,
    rounds::{Follow, Following},
    sample::SampleRow,
};

use crate::{
    depth::Depth,
    emit::Outcome,
    flight::Flight,
    runner::{Runner, Sampled},
    schedule::{Batch, Member},
    sequence::Sequence,
    speculate::{Drafter, HeadRows, MEASURED},
    step::Worker,
};

/// What of a request's next round is told before its last one was read.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// The drafts that the next pass checks.
    drafts: Vec<u32>,
    /// Which rejections its rows are counted back by; None: all is known but the token.
    behind: Option<u32>,
}

impl<R: Runner> Worker<R> {
    /// Starts the pass after `flight`, with the drafts that it checks, if that can be told by now.
    pub(crate) fn follow(&mut self, flight: &Flight) -> Result<(), String> {
        if !self.limits.ahead || flight.part.members.len() != self.running.len() || !self.may_follow(flight) {
            return Ok(());
        }
        // Now and then drafts are waited for, to learn what they cost.
        let measured = self.draft_seconds.is_none() || (self.rounds + 1).is_multiple_of(MEASURED);
        if measured && self.running.iter().any(|sequence| self.may_draft(sequence)) {
            return Ok(());
        }
        let mut drafters = self.drafters(flight);
        if !drafters.is_empty() {
            let unread = flight.part.pass.segments.iter().map(|segment| segment.rows).max().unwrap_or(1);
            self.choose_depths(&mut drafters, unread);
        }
        let mut told: Vec<Told> = flight.part.members.iter().map(|_| Told::default()).collect();
        let rows = drafters.iter().map(|drafter| drafter.depth).sum::<usize>() + told.len();
        let room = self.limits.decode_rows.unwrap_or(usize::MAX).min(self.limits.max_rows);
        if rows > room || !self.have_pages(flight, &drafters) {
            return Ok(());
        }
        // What is kept of the states as they are now must be copied before the next pass moves them on.
        for (segment, member) in flight.part.pass.segments.iter().zip(&flight.part.members) {
            if segment.rows == 1 {
                self.keep_page_end(member.index, 1, &[])?;
            }
        }
        let begun = Instant::now();
        let levels = drafters.iter().map(|drafter| drafter.depth).max().unwrap_or(0);
        let proposed = self.draft_ahead(flight, drafters, &mut told)?;
        let (part, follows, told) = self.batch_ahead(flight, told);
        if part.ids.is_empty() {
            return Ok(());
        }
        self.runner.run(&part.pass, &part.ids, &part.want, &follows)?;
        let sampled = self.sample_ahead(&part, &told)?;
        let drafted = levels as f64 * self.draft_seconds.unwrap_or(0.0);
        self.flying = Some(Flight { part, sampled, faults: Vec::new(), begun, proposed, drafted, told });
        Ok(())
    }

    /// Whether nothing of the next pass depends on the tokens of `flight` but these themselves and how many there are.
    fn may_follow(&self, flight: &Flight) -> bool {
        let page = self.limits.page_len;
        flight.part.pass.segments.iter().zip(&flight.part.members).all(|(segment, member)| {
            let sequence = &self.running[member.index];
            let rows = segment.rows;
            let chosen = member.wanted.clone().all(|row| flight.sampled.id(row).is_some());
            // Without its drafts nobody could tell which of the rows are right.
            let told = sequence.drafts.len() + 1 >= rows;
            if !member.writes || !chosen || !told || !sequence.may_run_ahead(rows) {
                return false;
            }
            // Copying goes on where it went well; the state at a page's end must be kept before it is gone.
            let copies = sequence.echoes || (sequence.echoed && rows > 1);
            let fills = (sequence.computed + rows) / page > sequence.computed / page;
            !copies && (rows == 1 || !(fills || sequence.may_end_within(rows)))
        })
    }

    /// Whether a request drafts with the head, unless it rests.
    fn may_draft(&self, sequence: &Sequence) -> bool {
        self.drafts > 0
            && self.limits.mtp
            && match sequence.request.mtp_depth.unwrap_or(self.depth) {
                Depth::Auto => !sequence.acceptance.is_resting(),
                Depth::Fixed(depth) => depth > 0,
            }
    }

    /// Those whose hidden states pass through the head, each with its last row and no depth yet. Counts a round of rest for
    /// those that rest.
    fn drafters(&mut self, flight: &Flight) -> Vec<Drafter> {
        let mut drafters = Vec::new();
        for index in flight.part.members.iter().map(|member| member.index) {
            if self.may_draft(&self.running[index]) {
                drafters.push(Drafter { index, row: 0, depth: 0 });
            } else {
                self.running[index].acceptance.rests();
            }
        }
        drafters
    }

    /// Makes sure that there are pages for the next pass of everybody.
    fn have_pages(&mut self, flight: &Flight, drafters: &[Drafter]) -> bool {
        let depths: HashMap<usize, usize> = drafters.iter().map(|d| (d.index, d.depth)).collect();
        flight.part.pass.segments.iter().zip(&flight.part.members).all(|(segment, member)| {
            let sequence = &self.running[member.index];
            let rows = 1 + depths.get(&member.index).copied().unwrap_or(0);
            let need = (sequence.computed + segment.rows + rows).div_ceil(self.limits.page_len);
            let missing = need.saturating_sub(sequence.pages.len());
            if missing == 0 || (segment.rows == 1 && sequence.ends_with_next()) {
                return true;
            }
            let Some(pages) = self.take_pages(missing) else { return false };
            self.running[member.index].pages.extend(pages);
            true
        })
    }

    /// Brings the head up to date with the rows of `flight` and drafts for the round after it.
    fn draft_ahead(
        &mut self,
        flight: &Flight,
        mut drafters: Vec<Drafter>,
        told: &mut [Told],
    ) -> Result<Vec<(usize, Sampled)>, String> {
        let mut proposed = Vec::new();
        if drafters.is_empty() {
            return Ok(proposed);
        }
        self.rounds += 1;
        let part = &flight.part;
        let place = |index: usize| part.members.iter().position(|m| m.index == index).expect("it is in it");
        let mut heads: Vec<usize> = drafters.iter().map(|drafter| place(drafter.index)).collect();
        // In one order of lengths, as in `schedule`.
        heads.sort_by_key(|at| (Reverse(part.pass.segments[*at].rows), part.members[*at].index));
        let (mut rows, mut last, mut follows) = (HeadRows::default(), HashMap::new(), Vec::new());
        for at in heads {
            let (segment, member) = (&part.pass.segments[at], &part.members[at]);
            let ids: Vec<u32> = member.wanted.clone().filter_map(|row| flight.sampled.id(row)).collect();
            let slot = self.running[member.index].slot;
            rows.push(slot, &segment.pages, segment.position, &ids, segment.first_row as u32);
            last.insert(member.index, rows.rows() as u32 - 1);
            follows.extend(self.behind(flight, at, rows.segments() - 1, Following::Head { want: None }));
        }
        drafters.retain(|drafter| drafter.depth > 0);
        for drafter in &mut drafters {
            drafter.row = last[&drafter.index];
        }
        let want: Vec<u32> = drafters.iter().map(|drafter| drafter.row).collect();
        for follow in &mut follows {
            let row = rows.last_row(follow.segment);
            let wanted = want.iter().position(|wanted| *wanted == row);
            follow.kind = Following::Head { want: wanted.map(|at| rows.rows() + at) };
        }
        self.head_step(rows, true, &want, &follows)?;
        for level in 1.. {
            if drafters.is_empty() {
                break;
            }
            let rows: Vec<Option<SampleRow<'_>>> = drafters
                .iter()
                .map(|drafter| {
                    let (at, sequence) = (place(drafter.index), &self.running[drafter.index]);
                    let position = sequence.ids.len() + part.pass.segments[at].rows + level - 1;
                    let round = chosen(flight, at);
                    let behind = follows.iter().position(|follow| follow.chosen == round);
                    let setting = sequence.draft_setting(position, &self.tokenizer);
                    Some(SampleRow { behind: behind.map(|at| at as u32), ..setting })
                })
                .collect();
            let sampled = self.runner.sample(self.tokenizer.len(), &rows)?;
            for (row, drafter) in drafters.iter().enumerate() {
                told[place(drafter.index)].drafts.extend(sampled.id(row));
            }
            proposed.push((drafters.len(), sampled));
            drafters.retain(|drafter| drafter.depth > level);
            if drafters.is_empty() {
                break;
            }
            let mut rows = HeadRows::default();
            follows.clear();
            for (row, drafter) in drafters.iter_mut().enumerate() {
                let at = place(drafter.index);
                let sequence = &self.running[drafter.index];
                let position = sequence.computed + part.pass.segments[at].rows + level - 1;
                let newest = &told[at].drafts[level - 1..level];
                rows.push(sequence.slot, &sequence.pages, position, newest, drafter.row);
                follows.extend(self.behind(flight, at, row, Following::Draft { seeded: level == 1 }));
                drafter.row = row as u32;
            }
            let want: Vec<u32> = (0..drafters.len() as u32).collect();
            self.head_step(rows, false, &want, &follows)?;
        }
        Ok(proposed)
    }

    /// The next pass, what of it goes on from rounds that nobody has read, and per member what was told of it. Who ends with
    /// the token that is on its way has no row.
    fn batch_ahead(&self, flight: &Flight, told: Vec<Told>) -> (Batch, Vec<Follow>, Vec<Told>) {
        let mut order: Vec<(usize, Told)> = told.into_iter().enumerate().collect();
        order.sort_by_key(|(at, told)| (Reverse(told.drafts.len()), flight.part.members[*at].index));
        let (mut next, mut follows, mut kept) = (Batch::new(self.limits.exact), Vec::new(), Vec::new());
        for (at, mut told) in order {
            let (segment, member) = (&flight.part.pass.segments[at], &flight.part.members[at]);
            let sequence = &self.running[member.index];
            if segment.rows == 1 && sequence.ends_with_next() {
                continue;
            }
            let Some(id) = flight.sampled.id(member.wanted.end - 1) else { continue };
            next.push_ahead(member.index, sequence, segment.rows, id, &told.drafts);
            let states = segment.snapshots.clone();
            let number = next.members.len() - 1;
            if let Some(follow) = self.behind(flight, at, number, Following::Trunk { states }) {
                told.behind = Some(follows.len() as u32);
                follows.push(follow);
            }
            kept.push(told);
        }
        (next, follows, kept)
    }

    /// How segment `number` of a pass goes on from the rows of member `at`; None if these are one row, of which all is known.
    fn behind(&self, flight: &Flight, at: usize, number: usize, kind: Following) -> Option<Follow> {
        let (segment, member) = (&flight.part.pass.segments[at], &flight.part.members[at]);
        let drafts = &self.running[member.index].drafts;
        let drafts = drafts.get(..segment.rows - 1).filter(|drafts| !drafts.is_empty())?;
        Some(Follow { segment: number, chosen: chosen(flight, at), drafts: drafts.to_vec(), kind })
    }

    /// Starts choosing the tokens of a pass that was told ahead.
    fn sample_ahead(&mut self, part: &Batch, told: &[Told]) -> Result<Sampled, String> {
        let rows: Vec<Option<SampleRow<'_>>> = (part.pass.segments.iter().zip(&part.members).zip(told))
            .flat_map(|((segment, member), told)| {
                (0..segment.rows).map(move |row| (segment, member, told, row))
            })
            .map(|(segment, member, told, row)| {
                let sequence = &self.running[member.index];
                // A row's token stands behind the row.
                let setting = sequence.setting(0, segment.position + row + 1, &[], &self.tokenizer);
                Some(SampleRow { behind: told.behind, ..setting })
            })
            .collect();
        self.runner.sample(self.tokenizer.len(), &rows)
    }

    /// After a pass was read and its tokens written: what was told of the one that is on its way becomes what is so.
    pub(crate) fn land(&mut self, outcome: &Outcome) {
        let Some(flight) = &mut self.flying else { return };
        let members = flight.part.members.iter().zip(&mut flight.part.pass.segments);
        for ((member, segment), told) in members.zip(&mut flight.told) {
            let ended = outcome.ended.iter().any(|(index, _)| *index == member.index);
            let sequence = &mut self.running[member.index];
            if !ended && told.behind.is_some() {
                segment.position = sequence.computed;
                segment.slot = sequence.slot;
                segment.snapshots = sequence.snapshots(segment.rows);
            }
            sequence.drafts = std::mem::take(&mut told.drafts);
            sequence.echoed = false;
        }
        // Where text repeats itself by now, the round after the next copies from it.
        let most = self.drafts;
        for member in &flight.part.members {
            let sequence = &mut self.running[member.index];
            if sequence.request.mtp_depth.unwrap_or(self.depth).most() > 0 {
                let rests = sequence.echo_acceptance.is_resting();
                sequence.echoes = !rests && !sequence.echo.propose(&sequence.ids, most).is_empty();
            }
        }
    }
}

/// The id of the token chosen after the first row of member `at`.
fn chosen(flight: &Flight, at: usize) -> u32 {
    let first = flight.part.members[at].wanted.start;
    flight.sampled.id(first).expect("`may_follow` saw that all of them are chosen")
}

impl Batch {
    /// Adds the rows after the `unread` ones that are on their way, as if the drafts among those were right; `id` stands for
    /// the token that is chosen after the last.
    fn push_ahead(&mut self, index: usize, sequence: &Sequence, unread: usize, id: u32, drafts: &[u32]) {
        let (first_row, rows) = (self.ids.len(), 1 + drafts.len());
        self.ids.push(id);
        self.ids.extend_from_slice(drafts);
        self.pass.segments.push(Segment {
            slot: sequence.slot,
            first_row,
            rows,
            position: sequence.computed + unread,
            pages: sequence.pages.clone(),
            snapshots: sequence.snapshots(rows),
        });
        self.want.extend((first_row..first_row + rows).map(|row| row as u32));
        self.members.push(Member { index, writes: true, wanted: first_row..first_row + rows });
    }
}

impl Sequence {
    /// A pass of it was started that nobody will read: its first row holds the last token, so it is part of the text. False
    /// if none could be chosen.
    ///
    /// Where an answer ends before the last right draft the pass began behind that, so the state is that of another text.
    /// Nobody will start from it: it would have to stand at a page's end, and no round that may fill a page is followed.
    pub(crate) fn keep_first_row(&mut self, rows: usize) -> bool {
        let known = self.computed < self.ids.len();
        if known {
            self.advance(rows, 1);
        }
        known
    }
}
