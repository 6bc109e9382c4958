//! What a caller decides about a model before it is loaded, and how loading reports itself.

use crate::draft_head::DraftHead;
use crate::kv::KvTypes;
use crate::{ModelError, ModelSpec};

/// Positions in one page of KV.
pub const PAGE_LEN: usize = 64;

/// What a model may take of a memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimit {
    /// Bytes that are free now.
    pub available: u64,
    /// Bytes of these that stay with everybody else.
    pub reserve: u64,
}

impl MemoryLimit {
    /// Bytes that the model may take.
    pub fn usable(&self) -> u64 {
        self.available.saturating_sub(self.reserve)
    }
}

/// How a model is to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOptions {
    /// Longest context of a sequence, tokens. Beyond the model's own, positions are stretched: `ModelSpec::stretched`.
    pub context: usize,
    /// Sequences held at the same time, each with its recurrent state and a context of KV.
    pub slots: usize,
    /// Recurrent states held beside those of the slots: for drafts that may be rejected, and for prefixes that are kept.
    /// They are the slots from `slots` on.
    pub snapshots: usize,
    /// How keys and values are kept, layer by layer.
    pub kv: KvTypes,
    /// Load the MTP head, if the model has one.
    pub mtp: bool,
    /// Which head the MTP head's drafts are proposed with.
    pub draft_head: DraftHead,
    /// Prefill with decode's arithmetic; whoever builds a `Pass` copies it there.
    pub exact: bool,
    /// Most rows of one pass: the chunk of prefill.
    pub max_rows: usize,
    /// Refuse to load if the planned memory is larger; None: whatever the device has.
    pub memory_limit: Option<MemoryLimit>,
    /// Let the device measure which of its kernels is the fastest for each product of a decode step, where it has several.
    /// Results do not depend on it.
    pub tune: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions {
            context: 4096,
            slots: 1,
            snapshots: 0,
            kv: KvTypes::default(),
            mtp: false,
            draft_head: DraftHead::default(),
            exact: false,
            max_rows: 512,
            memory_limit: None,
            tune: true,
        }
    }
}

impl LoadOptions {
    /// Pages of KV in the pool: a whole context for every slot.
    pub fn pages(&self) -> usize {
        self.slots.saturating_mul(self.context.div_ceil(PAGE_LEN))
    }

    /// Snapshots for `slots` requests that draft so many tokens per round: each may have to return to the state after any
    /// of them, and some states are kept for the texts of later requests.
    pub fn snapshots_for(slots: usize, drafts: usize) -> usize {
        slots.saturating_mul(drafts + 4).saturating_add(8)
    }

    /// Recurrent states that are held: one per sequence, and the snapshots.
    pub fn states(&self) -> usize {
        self.slots.saturating_add(self.snapshots)
    }

    /// Most rows of logits computed at once: one per sequence, and a block of a prompt's.
    pub(crate) fn head_rows(&self) -> usize {
        self.slots.max(32).min(self.max_rows)
    }

    pub(crate) fn check(&self, spec: &ModelSpec) -> Result<(), ModelError> {
        let within = |option, value: usize, most: usize| {
            if (1..=most).contains(&value) {
                return Ok(());
            }
            Err(ModelError::Option {
                option,
                expected: format!("from 1 to {most}"),
                found: value.to_string(),
            })
        };
        // Positions are exact in f32 up to here.
        within("context", self.context, 1 << 24)?;
        if self.context > spec.longest() {
            return Err(spec.beyond(self.context));
        }
        within("max-requests", self.slots, 4096)?;
        within("chunk", self.max_rows, 65_536)?;
        if self.snapshots > 65_536 {
            return Err(ModelError::Option {
                option: "snapshots",
                expected: "at most 65536".to_owned(),
                found: self.snapshots.to_string(),
            });
        }
        self.kv.check(spec)?;
        self.draft_head.check(spec)?;
        if u32::try_from(self.pages()).is_err() {
            return Err(ModelError::Option {
                option: "context",
                expected: format!("small enough for {} requests at once", self.slots),
                found: self.context.to_string(),
            });
        }
        Ok(())
    }
}

/// The steps of loading, in order. The engine adds its warm-up after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadStage {
    /// Sizing everything.
    Plan,
    /// Reading and repacking weights.
    ReadWeights,
    /// Allocating KV pages, state and scratch.
    AllocateKv,
    /// Choosing kernels and recording the passes of decode, where the device does that.
    RecordGraphs,
}

impl LoadStage {
    /// The stage's name in reports.
    pub fn name(self) -> &'static str {
        match self {
            LoadStage::Plan => "plan",
            LoadStage::ReadWeights => "read weights",
            LoadStage::AllocateKv => "allocate KV",
            LoadStage::RecordGraphs => "record graphs",
        }
    }
}

/// How far loading is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadProgress {
    /// The current step.
    pub stage: LoadStage,
    /// How much of this stage is done, 0 to 1.
    pub fraction: f64,
    /// Bytes of files read so far, and in all; None where they are not counted.
    pub bytes: Option<(u64, u64)>,
}
