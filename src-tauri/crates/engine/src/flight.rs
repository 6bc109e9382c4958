//! A pass from its start to its tokens. Where the device computes while the host goes on, the next pass is started before
//! the tokens of this one are known here (`ahead`). Part of the engine's step.

use std::{borrow::Cow, time::Instant};

use hearth_kernels::sample::SampleRow;

use crate::{
    ahead::Told,
    runner::{Runner, Sampled},
    schedule::Batch,
    sequence::{Ended, Sequence},
    status::Fault,
    step::Worker,
};

/// A pass that was started and whose tokens were not read yet.
#[derive(Debug)]
pub(crate) struct Flight {
    pub part: Batch,
    pub sampled: Sampled,
    /// Whose answer cannot be followed by its grammar any further.
    pub faults: Vec<(usize, Fault)>,
    pub begun: Instant,
    /// The drafts among its rows of which so far only the device knows, so many each.
    pub proposed: Vec<(usize, Sampled)>,
    /// Seconds that drafts are thought to take which were started after `begun`, and which nobody waited for.
    pub drafted: f64,
    /// Per member, if it was started before the pass before it was read.
    pub told: Vec<Told>,
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
    /// A request leaves the others behind. How many rows it had here, if any; what comes of them is nobody's now.
    fn forget(&mut self, index: usize) -> Option<usize> {
        let part = &mut self.part;
        let place = part.members.iter().position(|member| member.index == index);
        let rows = place.map(|place| {
            part.members.remove(place);
            part.pass.segments.remove(place).rows
        });
        for member in part.members.iter_mut().filter(|member| member.index > index) {
            member.index -= 1;
        }
        rows
    }
}

impl<R: Runner> Worker<R> {
    /// Starts a part of a step: the model, then the choice of its tokens. Ends its requests if that fails.
    pub(crate) fn launch(&mut self, part: Batch) -> Result<Flight, Vec<(usize, Ended)>> {
        self.prepare_masks(&part);
        let (begun, proposed) = (Instant::now(), std::mem::take(&mut self.proposed));
        if let Err(reason) = self.runner.run(&part.pass, &part.ids, &part.want, &[]) {
            return Err(self.failed(&part, &[], reason));
        }
        let faults = self.await_masks(&part);
        match self.sample(&part) {
            Ok(sampled) => {
                Ok(Flight { part, sampled, faults, begun, proposed, drafted: 0.0, told: Vec::new() })
            }
            Err(reason) => Err(self.failed(&part, &[], reason)),
        }
    }

    /// Sees a part through: starts the one after it if that can be told by now, waits for the tokens, sends them, and drafts
    /// for the next round. Returns who ended. `alone`: nothing else belongs to this step.
    pub(crate) fn finish(&mut self, flight: Flight, alone: bool) -> Vec<(usize, Ended)> {
        let followed = if alone { self.follow(&flight) } else { Ok(()) };
        let Flight { part, sampled, faults, begun, proposed, drafted, .. } = flight;
        // Only their usual price tells when a pass behind drafts began that nobody waited for.
        let measured = proposed.is_empty();
        let given = self.runner.read(sampled).and_then(|given| self.settle_drafts(proposed).map(|()| given));
        let given = match given {
            Ok(given) => given,
            Err(reason) => return self.failed(&part, &[], reason),
        };
        let now = Instant::now();
        let spent = now.saturating_duration_since(begun.max(self.busy_until)).as_secs_f64();
        self.busy_until = now;
        let mut outcome = self.emit(&part, given, faults);
        self.land(&outcome);
        let flies = self.flying.is_some();
        let drafts = followed.and_then(|()| if flies { Ok(0.0) } else { self.draft(&part, &outcome.valid) });
        let draft = match drafts {
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
        let (forward, draft) = ((spent - drafted).max(0.0), draft + drafted.min(spent));
        self.count(&part, &outcome, Spent { forward, draft, measured });
        outcome.ended
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

    /// Starts choosing the tokens of a part that was just started, each as if the drafts before it were right.
    fn sample(&mut self, part: &Batch) -> Result<Sampled, String> {
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
                let position = sequence.ids.len() + row;
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
            && let Some(rows) = flight.forget(index)
        {
            trusted &= self.running[index].keep_first_row(rows);
        }
        self.leave(index, trusted);
        self.running.remove(index)
    }
}
