//! Which rows run in the next step: the rows of every request that is writing (its last token and the drafts after it), and
//! a chunk of one prompt, as `policy` decides. Called by the engine's step; changes nothing.

use std::{cmp::Reverse, ops::Range, time::Instant};

use hearth_kernels::ops::{Pass, Segment};

use crate::{
    policy::Policy,
    runner::Limits,
    sequence::Sequence,
    timing::{Timing, Work},
};

/// The rows of one step, or of a part of it.
#[derive(Debug)]
pub struct Batch {
    /// What the model computes.
    pub pass: Pass,
    /// `[rows]` token ids; drafts and tokens that only the device knows as it names them (`Sampled::id`).
    pub ids: Vec<u32>,
    /// Rows whose logits are wanted, ascending.
    pub want: Vec<u32>,
    /// Per segment: whose it is.
    pub members: Vec<Member>,
}

/// Whose rows a segment holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Index of its sequence.
    pub index: usize,
    /// True: the last token and drafts; false: a chunk of the prompt.
    pub writes: bool,
    /// Which of the wanted rows are its.
    pub wanted: Range<usize>,
}

/// The next step's rows, or None if nothing can run. `running` is in order of admission; those for which `paused` says
/// so are left out.
pub fn schedule(
    running: &[Sequence],
    paused: &[bool],
    limits: &Limits,
    policy: Policy,
    timing: &Timing,
) -> Option<Batch> {
    let mut batch = Batch::new(limits.exact);
    let now = Instant::now();
    let ready = || running.iter().enumerate().filter(|(index, _)| !paused[*index]);
    let mut room = limits.max_rows;
    // Everybody's next token comes before anybody's draft.
    let mut writers: Vec<_> = ready().filter(|(_, s)| !s.in_prefill()).take(room).collect();
    room -= writers.len();
    // In one order of lengths: a backend that records its steps has a record for every sequence of them.
    writers.sort_by_key(|(_, sequence)| Reverse(sequence.drafts.len()));
    let mut writing = Vec::with_capacity(writers.len());
    for (index, sequence) in writers {
        let drafts = sequence.drafts.len().min(room);
        room -= drafts;
        batch.push(index, sequence, 1 + drafts);
        writing.push(sequence.writing(1 + drafts, now));
    }
    let readers: Vec<_> = ready().filter(|(_, s)| s.in_prefill()).collect();
    let reading: Vec<_> = readers.iter().map(|(_, sequence)| sequence.reading(now)).collect();
    if let Some(chosen) = policy.read(&reading, timing) {
        let (index, sequence) = readers[chosen];
        let rows = policy.chunk(&writing, &reading[chosen], timing, room).min(sequence.readable());
        if rows > 0 {
            batch.push(index, sequence, rows);
        }
    }
    (!batch.ids.is_empty()).then_some(batch)
}

impl Batch {
    /// No rows.
    pub fn new(exact: bool) -> Batch {
        Batch {
            pass: Pass { segments: Vec::new(), exact },
            ids: Vec::new(),
            want: Vec::new(),
            members: Vec::new(),
        }
    }

    fn push(&mut self, index: usize, sequence: &Sequence, rows: usize) {
        let first_row = self.ids.len();
        let end = sequence.computed + rows;
        let writes = !sequence.in_prefill();
        let known = end.min(sequence.ids.len());
        self.ids.extend_from_slice(&sequence.ids[sequence.computed..known]);
        self.ids.extend_from_slice(&sequence.drafts[..end - known]);
        self.pass.segments.push(Segment {
            slot: sequence.slot,
            first_row,
            rows,
            position: sequence.computed,
            pages: sequence.pages.clone(),
            snapshots: if writes { sequence.snapshots(rows) } else { Vec::new() },
        });
        let first_wanted = self.want.len();
        if writes {
            self.want.extend((first_row..first_row + rows).map(|row| row as u32));
        } else if end == sequence.ids.len() {
            self.want.push((first_row + rows - 1) as u32);
        }
        self.members.push(Member { index, writes, wanted: first_wanted..self.want.len() });
    }

    /// Appends a segment of another batch, with its rows and what is wanted of them.
    pub(crate) fn take_over(&mut self, from: &Batch, segment: usize) {
        let (mut moved, member) = (from.pass.segments[segment].clone(), &from.members[segment]);
        self.ids.extend_from_slice(&from.ids[moved.first_row..moved.first_row + moved.rows]);
        let first_wanted = self.want.len();
        let first_row = self.ids.len() - moved.rows;
        let wanted = from.want[member.wanted.clone()].iter();
        self.want.extend(wanted.map(|row| row - moved.first_row as u32 + first_row as u32));
        moved.first_row = first_row;
        self.pass.segments.push(moved);
        self.members.push(Member { wanted: first_wanted..self.want.len(), ..member.clone() });
    }

    /// What the rows are, for prices and counters.
    pub fn work(&self) -> Work {
        let mut work = Work::default();
        for (segment, member) in self.pass.segments.iter().zip(&self.members) {
            let rows = if member.writes { &mut work.decode_rows } else { &mut work.prefill_rows };
            *rows += segment.rows;
            // Positions that the rows look back on: what attention reads.
            work.context += segment.position + segment.rows;
        }
        work
    }
}
