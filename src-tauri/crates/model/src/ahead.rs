//! What happens to the passes of decode before the first request comes. The device measures which of its kernels is the fastest
//! for each of their products; then all are recorded: every number of requests that write, with and without drafts, at every
//! context tier of the device. What is not among them is recorded when it first runs.

use crate::ModelError;
use crate::draft::Seed;
use crate::error::at;
use crate::forward::as_op_errors;
use crate::model::Model;
use crate::options::{LoadOptions, PAGE_LEN};
use crate::weights::MixerWeights;
use hearth_kernels::cuda::Tuned;
use hearth_kernels::ops::{Pass, Segment, Stretch};

/// Rows of a sequence in the widest pass that is recorded: a token and three drafts.
const WIDEST: usize = 4;

/// Tokens of the context at which kernels are chosen.
const TUNED_AT: usize = 1024;

/// A pass of decode: so many sequences with so many rows each, and what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    stretch: Stretch,
    sequences: usize,
    rows: usize,
}

/// What is recorded, the most frequent first. `decode_rows`: most rows of a pass that the device records.
pub(crate) fn shapes(options: &LoadOptions, decode_rows: usize, mtp: bool) -> Vec<Shape> {
    let most = decode_rows.min(options.max_rows);
    let all = |stretch, rows: usize| {
        (1..=options.slots.min(most / rows)).map(move |sequences| Shape { stretch, sequences, rows })
    };
    let mut shapes: Vec<Shape> = all(Stretch::Trunk, 1).collect();
    if mtp {
        shapes.extend(all(Stretch::DraftNext, 1));
        for rows in 1..=WIDEST {
            shapes.extend(all(Stretch::Trunk, rows).filter(|shape| shape.rows > 1));
            shapes.extend(all(Stretch::DraftFirst, rows));
        }
    }
    shapes
}

/// The passes in which kernels are chosen: of one row, of some, and of the draft head.
fn tuned_shapes(options: &LoadOptions, decode_rows: usize, mtp: bool) -> Vec<Shape> {
    let most = decode_rows.min(options.max_rows);
    let one = |stretch| Shape { stretch, sequences: 1, rows: 1 };
    let several = match mtp {
        true => Shape { rows: WIDEST.min(most), ..one(Stretch::Trunk) },
        false => Shape { sequences: options.slots.min(WIDEST).min(most), ..one(Stretch::Trunk) },
    };
    let mut shapes = vec![one(Stretch::Trunk)];
    shapes.extend(Some(several).filter(|shape| shape.sequences * shape.rows > 1));
    shapes.extend(Some(one(Stretch::DraftNext)).filter(|_| mtp));
    shapes.retain(|_| most > 0);
    shapes
}

/// A pass that can be recorded.
struct Prepared {
    pass: Pass,
    ids: Vec<u32>,
    /// All rows of the pass.
    every: Vec<u32>,
    /// Rows whose logits are wanted.
    want: Vec<u32>,
    picks: Vec<u32>,
}

impl Model {
    /// Lets the device choose kernels. The passes run on the first slots and pages, which hold nothing yet. `done` is told how far
    /// it is, 0 to 1.
    pub(crate) fn tune(&mut self, done: &mut dyn FnMut(f64)) -> Result<Vec<Tuned>, ModelError> {
        let ops = self.ops.clone();
        let Some(records) = ops.records().filter(|_| self.options().tune) else { return Ok(Vec::new()) };
        let options = self.options().clone();
        let shapes = tuned_shapes(&options, self.decode_rows().unwrap_or(0), self.spec.mtp.is_some());
        let mut tuned = Vec::new();
        for (i, shape) in shapes.iter().enumerate() {
            let Some(prepared) = self.prepared(*shape, TUNED_AT.min(options.context), options.exact) else {
                continue;
            };
            ops.begin(&prepared.pass, &prepared.ids, &prepared.picks).map_err(at("choosing kernels"))?;
            let mut body = || self.launch(shape.stretch, &prepared);
            as_op_errors(ops.as_ref(), &mut body, &mut |body| {
                tuned.extend(records.tune(body)?);
                Ok(())
            })?;
            done((i + 1) as f64 / shapes.len() as f64);
        }
        (self.last_rows, self.last_mtp_rows) = (0, 0);
        Ok(tuned)
    }

    /// Records all [`shapes`] at all tiers. `done` is told how much is recorded, 0 to 1.
    pub(crate) fn record_ahead(&mut self, done: &mut dyn FnMut(f64)) -> Result<(), ModelError> {
        let ops = self.ops.clone();
        let Some(records) = ops.records() else { return Ok(()) };
        let options = self.options().clone();
        let shapes = shapes(&options, self.decode_rows().unwrap_or(0), self.spec.mtp.is_some());
        let tiers = records.tiers(options.context);
        let all = shapes.len() * tiers.len();
        for (i, (shape, tier)) in
            shapes.iter().flat_map(|shape| tiers.iter().map(move |tier| (shape, *tier))).enumerate()
        {
            if !self.record(*shape, tier, options.exact)? {
                break;
            }
            done((i + 1) as f64 / all as f64);
        }
        (self.last_rows, self.last_mtp_rows) = (0, 0);
        Ok(())
    }

    /// Recurrent states there are; as many as one likes without recurrent layers.
    fn states(&self) -> usize {
        let recurrent = self.weights.layers.iter().find_map(|layer| match &layer.mixer {
            MixerWeights::GatedDeltaNet(g) => g.state.shape.first().copied(),
            MixerWeights::FullAttention(_) => None,
        });
        recurrent.unwrap_or(usize::MAX)
    }

    /// A pass whose sequences end at `context`; None where the model was not loaded for one of this shape.
    fn prepared(&self, shape: Shape, context: usize, exact: bool) -> Option<Prepared> {
        let Shape { stretch, sequences, rows } = shape;
        // Drafts may be rejected, so each row of them leaves a state in a place of its own.
        let snapshotting = stretch == Stretch::Trunk && rows > 1;
        let states = if snapshotting { sequences * (rows + 1) } else { sequences };
        if rows > context || states > self.states() {
            return None;
        }
        let pages: Vec<u32> = (0..context.div_ceil(PAGE_LEN) as u32).collect();
        let snapshots = |slot: usize| {
            let first = sequences + slot * rows;
            if snapshotting { (first as u32..(first + rows) as u32).collect() } else { Vec::new() }
        };
        let segment = |slot| Segment {
            slot,
            first_row: slot * rows,
            rows,
            position: context - rows,
            pages: pages.clone(),
            snapshots: snapshots(slot),
        };
        let pass = Pass { segments: (0..sequences).map(segment).collect(), exact };
        let count = sequences * rows;
        let every: Vec<u32> = (0..count as u32).collect();
        // A step of the head is asked for each sequence's last row, the trunk for all of them.
        let last: Vec<u32> = (1..=sequences).map(|i| (i * rows - 1) as u32).collect();
        let (want, picks) = match stretch {
            Stretch::Trunk => (every.clone(), every.clone()),
            Stretch::DraftFirst | Stretch::DraftNext => (last.clone(), [&every[..], &last[..]].concat()),
        };
        (want.len() <= self.scratch.picked.shape[0]).then(|| Prepared {
            pass,
            ids: vec![0; count],
            every,
            want,
            picks,
        })
    }

    fn launch(&mut self, stretch: Stretch, prepared: &Prepared) -> Result<(), ModelError> {
        let Prepared { pass, ids, every, want, .. } = prepared;
        match stretch {
            Stretch::Trunk => self.launch_forward(pass, ids, want),
            Stretch::DraftFirst => self.launch_mtp(pass, ids, Seed::Forward(every), want),
            Stretch::DraftNext => self.launch_mtp(pass, ids, Seed::Draft(every), want),
        }
    }

    /// Records one pass whose sequences end at `context`; false if the device takes no more.
    fn record(&mut self, shape: Shape, context: usize, exact: bool) -> Result<bool, ModelError> {
        let Some(prepared) = self.prepared(shape, context, exact) else { return Ok(true) };
        let ops = self.ops.clone();
        let Some(records) = ops.records() else { return Ok(false) };
        ops.begin(&prepared.pass, &prepared.ids, &prepared.picks).map_err(at("recording"))?;
        let mut body = || self.launch(shape.stretch, &prepared);
        let mut more = false;
        as_op_errors(ops.as_ref(), &mut body, &mut |body| {
            more = records.record(shape.stretch, &prepared.pass, prepared.picks.len(), body)?;
            Ok(())
        })?;
        Ok(more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_requests_is_recorded_and_drafts_as_far_as_rows_reach() {
        let options = LoadOptions { slots: 6, ..LoadOptions::default() };
        let plain = shapes(&options, 16, false);
        let sequences: Vec<usize> = plain.iter().map(|shape| shape.sequences).collect();
        assert_eq!(sequences, [1, 2, 3, 4, 5, 6]);
        let drafting = shapes(&options, 16, true);
        assert!(drafting.iter().all(|shape| shape.sequences * shape.rows <= 16));
        let verified =
            |rows| drafting.iter().filter(|s| s.stretch == Stretch::Trunk && s.rows == rows).count();
        assert_eq!([verified(1), verified(2), verified(3), verified(4)], [6, 6, 5, 4]);
        assert_eq!(shapes(&LoadOptions { max_rows: 2, ..options }, 16, false).len(), 2);
    }

    #[test]
    fn kernels_are_chosen_for_one_row_and_for_several() {
        let of = |slots, decode_rows, mtp| -> Vec<(usize, usize)> {
            let options = LoadOptions { slots, ..LoadOptions::default() };
            tuned_shapes(&options, decode_rows, mtp).iter().map(|s| (s.sequences, s.rows)).collect()
        };
        assert_eq!(of(1, 16, false), [(1, 1)]);
        assert_eq!(of(8, 16, false), [(1, 1), (4, 1)]);
        assert_eq!(of(1, 16, true), [(1, 1), (1, 4), (1, 1)]);
        assert_eq!(of(1, 0, true), []);
    }
}
