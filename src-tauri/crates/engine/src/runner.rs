//! What the engine needs of a model: calls that compute rows. A trait so that scheduling is tested with a runner that
//! computes nothing; `hearth_model::Model` is the real one (see `load`).

use hearth_kernels::ops::Pass;
use hearth_model::Seed;

use crate::status::{EngineMemory, Fault};

/// Sizes that a runner was loaded with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens of one request, prompt and answer together.
    pub context: usize,
    /// Requests computed at once.
    pub slots: usize,
    /// Recurrent states `0 .. states`: at least one per request, the others for drafts and for kept prefixes.
    pub states: usize,
    /// Most rows of a pass.
    pub max_rows: usize,
    /// Most rows of a pass that writes, where a longer one is computed in another arithmetic; None where all are alike.
    pub decode_rows: Option<usize>,
    /// Positions of a KV page.
    pub page_len: usize,
    /// KV pages `0 .. pages`.
    pub pages: usize,
    /// Whether there is an MTP head, so that `draft` may be called.
    pub mtp: bool,
    /// Prefill uses decode's arithmetic.
    pub exact: bool,
}

/// A model that computes rows. Owned by the engine thread. Errors are sentences.
pub trait Runner {
    /// Sizes.
    fn limits(&self) -> Limits;

    /// Computes the rows of `pass` (`ids` `[rows]`), and gives the logits of the rows in `want`, row-major.
    fn forward(&mut self, pass: &Pass, ids: &[u32], want: &[u32]) -> Result<Vec<f32>, String>;

    /// A step of the MTP head: row i joins the token after its own, `next_ids[i]`, with the hidden state that `seed` names,
    /// and the logits of the rows in `want` predict the token after that. Only called if `limits().mtp`.
    fn draft(
        &mut self,
        pass: &Pass,
        next_ids: &[u32],
        seed: Seed<'_>,
        want: &[u32],
    ) -> Result<Vec<f32>, String>;

    /// Copies recurrent state `from` to `to`.
    fn copy_state(&mut self, from: usize, to: usize) -> Result<(), String>;

    /// Bytes a pass of so many rows reads, with so many positions of context in all its rows together.
    fn bytes_per_step(&self, rows: usize, context: usize) -> u64;

    /// What was allocated; `kv_used` is the engine's business and zero here.
    fn memory(&self) -> EngineMemory;

    /// Why nothing can be computed any more, once that is so: the device has failed.
    fn device_fault(&self) -> Option<Fault> {
        None
    }
}
