//! What the engine needs of a model: one call that computes rows. A trait so that scheduling is tested with a runner that
//! computes nothing; `hearth_model::Model` is the real one (see `load`).

use hearth_kernels::ops::Pass;

use crate::status::EngineMemory;

/// Sizes that a runner was loaded with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens of one request, prompt and answer together.
    pub context: usize,
    /// Requests computed at once: recurrent-state slots `0 .. slots`.
    pub slots: usize,
    /// Most rows of a pass.
    pub max_rows: usize,
    /// Positions of a KV page.
    pub page_len: usize,
    /// KV pages `0 .. pages`.
    pub pages: usize,
    /// Prefill uses decode's arithmetic.
    pub exact: bool,
}

/// A model that computes rows. Owned by the engine thread.
pub trait Runner {
    /// Sizes.
    fn limits(&self) -> Limits;

    /// Computes the rows of `pass` (`ids` `[rows]`), and gives the logits of the rows in `want`, row-major.
    /// The error is a sentence.
    fn forward(&mut self, pass: &Pass, ids: &[u32], want: &[u32]) -> Result<Vec<f32>, String>;

    /// Bytes a pass of so many rows reads, with so many positions of context in all its rows together.
    fn bytes_per_step(&self, rows: usize, context: usize) -> u64;

    /// What was allocated; `kv_used` is the engine's business and zero here.
    fn memory(&self) -> EngineMemory;
}
