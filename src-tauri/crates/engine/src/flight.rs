//! A pass from its start to its tokens. Where the device computes while the host goes on, the next pass is started before
//! the tokens of this one are known here: it takes them from where the device chose them. Part of the engine's step.

use std::{borrow::Cow, time::Instant};

use hearth_kernels::sample::SampleRow;

use crate::{
    runner::{Runner, Sampled},
    schedule::Batch,
    sequence::{Ended, Sequence},
    status::Fault,
    step::Worker,
};

/// A pass that was started and whose tokens were not read yet.
#[derive(Debug)]
pub(crate) struct Flight {
    part: Batch,
    sampled: Sampled,
    /// Whose answer cannot be followed by its grammar any further.
    faults: Vec<(usize, Fault)>,
    begun: Instant,
    /// Behind drafts that nobody waited for, so that only their usual price tells when it began.
    behind_drafts: bool,
}

/// Seconds of a part.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spent {
    pub forward: f64,
    pub draft: f64,
    /// Whether `forward` was measured.
    pub measured: bool,
}

impl Flight {
    /// A request leaves the others behind. True if it had a row here; what comes of that is nobody's now.
    fn forget(&mut self, index: usize) -> bool {
        let part = &mut self.part;
        let place = part.members.iter().position(|member| member.index == index);
        if let Some(place) = place {
            part.members.remove(place);
            part.pass.segments.remove(place);
        }
        for member in part.members.iter_mut().filter(|member| member.index > index) {
            member.index -= 1;
        }
        place.is_some()
    }
}

impl<R: Runner> Worker<R> {
    /// Starts a part of a step: the model, then the choice of its tokens. Ends its requests if that fails.
    pub(crate) fn launch(&mut self, part: Batch) -> Result<Flight, Vec<(usize, Ended)>> {
        self.prepare_masks(&part);
        let (begun, behind_drafts) = (Instant::now(), std::mem::take(&mut self.drafting));
        if let Err(reason) = self.runner.run(&part.pass, &part.ids, &part.want) {
            return Err(self.failed(&part, &[], reason));
        }
        let faults = self.await_masks(&part);
        match self.sample(&part, 0) {
            Ok(sampled) => Ok(Flight { part, sampled, faults, begun, behind_drafts }),
            Err(reason) => Err(self.failed(&part, &[], reason)),
        }
    }

    /// Sees a part through: starts the one after it if that can be told by now, waits for the tokens, sends them, and drafts
    /// for the next round. Returns who ended. `alone`: nothing else belongs to this step.
    pub(crate) fn finish(&mut self, flight: Flight, alone: bool) -> Vec<(usize, Ended)> {
        let followed = if alone { self.follow(&flight) } else { Ok(()) };
        let Flight { part, sampled, faults, begun, behind_drafts } = flight;
        let given = self.runner.read(sampled).and_then(|given| self.settle_drafts().map(|()| given));
        let given = match given {
            Ok(given) => given,
            Err(reason) => return self.failed(&part, &[], reason),
        };
        let now = Instant::now();
        let forward = now.saturating_duration_since(begun.max(self.busy_until)).as_secs_f64();
        self.busy_until = now;
        let mut outcome = self.emit(&part, given, faults);
        let draft = match followed.and_then(|()| self.draft(&part, &outcome.valid)) {
            Ok(seconds) => seconds,
            Err(reason) => {
                let failed = self.failed(&part, &outcome.ended, reason);
                outcome.ended.extend(failed);
                0.0
            }
        };
        for member in &part.members {
            self.running[member.index].cut_drafts();
        }
        self.count(&part, &outcome, Spent { forward, draft, measured: !behind_drafts });
        outcome.ended
    }

    /// Starts the pass after `flight`, if there is one.
    fn follow(&mut self, flight: &Flight) -> Result<(), String> {
        let Some(part) = self.ahead(flight) else { return Ok(()) };
        // What is kept of the states as they are now must be copied before the next pass moves them on.
        for member in &flight.part.members {
            self.keep_page_end(member.index, 1, &[])?;
        }
        let begun = Instant::now();
        self.runner.run(&part.pass, &part.ids, &part.want)?;
        let sampled = self.sample(&part, 1)?;
        self.flying = Some(Flight { part, sampled, faults: Vec::new(), begun, behind_drafts: false });
        Ok(())
    }

    /// The pass after `flight`, if it will be the same whatever the tokens are: everybody writes and nobody drafts. Who ends
    /// with its token nevertheless has computed one row more of its text, and what was chosen after it is dropped.
    fn ahead(&mut self, flight: &Flight) -> Option<Batch> {
        let part = &flight.part;
        if !self.limits.ahead || part.members.len() != self.running.len() {
            return None;
        }
        let mut next = Batch::new(self.limits.exact);
        for (segment, member) in part.pass.segments.iter().zip(&part.members) {
            let sequence = &self.running[member.index];
            let drafts = sequence.request.mtp_depth.unwrap_or(self.depth).most() > 0;
            if !member.writes || segment.rows != 1 || drafts || !sequence.may_run_ahead() {
                return None;
            }
            if sequence.ends_with_next() {
                continue;
            }
            let id = flight.sampled.id(member.wanted.start)?;
            if sequence.pages.len() * self.limits.page_len < sequence.computed + 2 {
                let page = self.take_pages(1)?;
                self.running[member.index].pages.extend(page);
            }
            next.push_ahead(member.index, &self.running[member.index], id);
        }
        (!next.ids.is_empty()).then_some(next)
    }

    /// Begins the masks of the rows that will be sampled, so that they are computed beside the model.
    fn prepare_masks(&mut self, part: &Batch) {
        for (segment, member) in part.pass.segments.iter().zip(&part.members) {
            let sequence = &mut self.running[member.index];
            if member.wanted.is_empty() {
                continue;
            }
            let drafts = if member.writes { segment.rows - 1 } else { 0 };
            sequence.prepare(drafts);
        }
    }

    /// Waits for the masks of a part. Tells whose grammar fails.
    fn await_masks(&mut self, part: &Batch) -> Vec<(usize, Fault)> {
        let sampled = part.members.iter().filter(|member| !member.wanted.is_empty());
        let failed = |index: usize| Some((index, self.running[index].await_masks().err()?));
        sampled.map(|member| member.index).filter_map(failed).collect()
    }

    /// Starts choosing the tokens of a part that was just started, each as if the drafts before it were right; `ahead`: so
    /// many tokens before the first are not known yet.
    fn sample(&mut self, part: &Batch, ahead: usize) -> Result<Sampled, String> {
        let wanted = || part.members.iter().flat_map(|member| member.wanted.clone().map(move |_| member));
        let drafts_before: Vec<usize> =
            part.members.iter().flat_map(|member| 0..member.wanted.len()).collect();
        let seen: Vec<Cow<'_, [(u32, u32)]>> = wanted()
            .zip(&drafts_before)
            .map(|(member, row)| {
                let sequence = &self.running[member.index];
                sequence.seen.with(&sequence.drafts[..*row])
            })
            .collect();
        let rows: Vec<Option<SampleRow<'_>>> = wanted()
            .zip(&drafts_before)
            .zip(&seen)
            .map(|((member, row), seen)| {
                let sequence = &self.running[member.index];
                let position = sequence.ids.len() + row + ahead;
                let setting = sequence.setting(*row, position, seen, &self.tokenizer);
                let here = sequence.request.logprobs.is_some() || !self.runner.can_sample(&setting);
                (!here).then_some(setting)
            })
            .collect();
        self.runner.sample(self.tokenizer.len(), &rows)
    }

    /// Takes a request off the device, with a row of it perhaps on its way: gives back what it held.
    pub(crate) fn take_off(&mut self, index: usize, mut trusted: bool) -> Sequence {
        if let Some(flight) = &mut self.flying
            && flight.forget(index)
        {
            let sequence = &mut self.running[index];
            // The row holds its last token, so it is part of the text; unless none could be chosen.
            let known = sequence.computed < sequence.ids.len();
            sequence.computed += usize::from(known);
            trusted &= known;
        }
        self.leave(index, trusted);
        self.running.remove(index)
    }
}
