//! What one call of the model runs: rows of one or several sequences. The engine's scheduler makes passes, the ops run them.

/// Some consecutive rows of one sequence inside a pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Which recurrent-state slot belongs to the sequence.
    pub slot: usize,
    /// First row of the pass that belongs to it.
    pub first_row: usize,
    /// How many rows.
    pub rows: usize,
    /// Position (0-based token index) of the first row; 0 starts the sequence with empty state.
    pub position: usize,
    /// KV pages of the sequence in order; page `i` holds positions `i * page_len ..`.
    pub pages: Vec<u32>,
    /// Empty: the state after the last row stays in `slot`. Otherwise one slot per row: the state after row i goes to
    /// `snapshots[i]`, and the next round starts from whichever was accepted; `slot` keeps what it held, unless named.
    pub snapshots: Vec<u32>,
}

/// What runs in one call of the model: the rows of one or several sequences, segments in row order without gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pass {
    /// The segments.
    pub segments: Vec<Segment>,
    /// True: prefill uses decode's arithmetic. On the CPU both are the same code.
    pub exact: bool,
}

impl Pass {
    /// Number of rows of all segments.
    pub fn rows(&self) -> usize {
        self.segments.iter().fold(0, |rows, s| rows.saturating_add(s.rows))
    }
}

/// Names a stretch of ops that a backend may record once and run again; see [`crate::Ops::replay`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stretch {
    /// Embedding to logits.
    Trunk,
    /// A step of the MTP head from hidden states of the trunk.
    DraftFirst,
    /// A step of the MTP head from its own.
    DraftNext,
}
