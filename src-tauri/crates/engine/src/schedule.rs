//! Which rows run in the next step: one row of every request that is writing, and one chunk of the prompt of the request
//! that has waited longest for its first token. Called by the engine's step; changes nothing.

use hearth_kernels::ops::{Pass, Segment};

use crate::{runner::Limits, sequence::Sequence};

/// The rows of one step.
#[derive(Debug)]
pub struct Batch {
    /// What the model computes.
    pub pass: Pass,
    /// `[rows]` token ids.
    pub ids: Vec<u32>,
    /// Rows whose logits are wanted, ascending.
    pub want: Vec<u32>,
    /// Per wanted row: index of its sequence.
    pub writers: Vec<usize>,
    /// Per segment: index of its sequence.
    pub members: Vec<usize>,
    /// How many rows write, not read.
    pub decode_rows: usize,
    /// How many rows read a prompt.
    pub prefill_rows: usize,
}

/// The next step's rows, or None if nothing can run. `running` is in order of admission; those for which `paused` says
/// so are left out. While others write, at most `chunk` rows of a prompt are read, so that they need not wait long.
pub fn schedule(running: &[Sequence], paused: &[bool], limits: &Limits, chunk: usize) -> Option<Batch> {
    let mut batch = Batch {
        pass: Pass { segments: Vec::new(), exact: limits.exact },
        ids: Vec::new(),
        want: Vec::new(),
        writers: Vec::new(),
        members: Vec::new(),
        decode_rows: 0,
        prefill_rows: 0,
    };
    let ready = || running.iter().enumerate().filter(|(index, _)| !paused[*index]);
    for (index, sequence) in ready().filter(|(_, s)| !s.in_prefill()) {
        batch.push(index, sequence, 1);
        batch.decode_rows += 1;
    }
    if let Some((index, sequence)) = ready().find(|(_, s)| s.in_prefill()) {
        let room = limits.max_rows.saturating_sub(batch.decode_rows);
        let room = if batch.decode_rows > 0 { room.min(chunk) } else { room };
        let rows = room.min(sequence.ids.len() - sequence.computed);
        if rows > 0 {
            batch.push(index, sequence, rows);
            batch.prefill_rows = rows;
        }
    }
    (!batch.ids.is_empty()).then_some(batch)
}

impl Batch {
    fn push(&mut self, index: usize, sequence: &Sequence, rows: usize) {
        let first_row = self.ids.len();
        let end = sequence.computed + rows;
        self.ids.extend_from_slice(&sequence.ids[sequence.computed..end]);
        self.pass.segments.push(Segment {
            slot: sequence.slot,
            first_row,
            rows,
            position: sequence.computed,
            pages: sequence.pages.clone(),
            snapshots: Vec::new(),
        });
        self.members.push(index);
        if end == sequence.ids.len() {
            self.want.push((first_row + rows - 1) as u32);
            self.writers.push(index);
        }
    }

    /// Positions that the rows look back on, all together: what attention reads.
    pub fn context(&self) -> usize {
        self.pass.segments.iter().map(|s| s.position + s.rows).sum()
    }
}
