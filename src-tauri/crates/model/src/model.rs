//! A loaded model: what the engine holds. Loads from any weight source, knows its sizes, and owns weights, KV pages,
//! recurrent state and scratch. `forward.rs` and `draft.rs` run it.

use crate::ModelError;
use crate::budget::Budget;
use crate::error::at;
use crate::family::{self, Names};
use crate::feed::Feed;
use crate::formats::FromSource;
use crate::loader::Loader;
use crate::options::{LoadOptions, LoadProgress, LoadStage, PAGE_LEN};
use crate::rehearsal::{self, Planned};
use crate::sampled::Wanted;
use crate::scratch::Scratch;
use crate::source::WeightSource;
use crate::spec::ModelSpec;
use crate::unused;
use crate::weights::{MixerWeights, Weights};
use hearth_kernels::cuda::Tuned;
use hearth_kernels::fetch::Fetch;
use hearth_kernels::{MemoryPlan, Needs, OpError, Ops, Tensor};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::sync::Arc;

/// Memory of a loaded model by part, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MemoryParts {
    /// Weights as the backend packed them, with norms and gate parameters.
    pub weights: u64,
    /// KV pages of all layers.
    pub kv: u64,
    /// Recurrent and convolution state of all slots and snapshots.
    pub state: u64,
    /// Activations and logits, and what the kernels keep for themselves.
    pub scratch: u64,
}

/// The recorded graphs of a device, for which the driver takes memory by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordedGraphs {
    /// How many.
    pub count: usize,
    /// Bytes that the plan has for them.
    pub planned: u64,
    /// By how many bytes less is free than before they were recorded; None where nobody tells. Where the device shares the
    /// host's memory, other programs have their part in it.
    pub taken: Option<u64>,
}

/// Logits of the wanted rows, `[rows, vocab]` f32 row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Logits {
    /// Rows, in the order they were asked for.
    pub rows: usize,
    /// Numbers per row.
    pub vocab: usize,
    /// `rows * vocab` numbers.
    pub values: Vec<f32>,
}

impl Logits {
    /// The numbers of row `i`.
    ///
    /// # Panics
    /// If there are not that many rows.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.vocab..(i + 1) * self.vocab]
    }
}

/// What a gated-delta-net layer remembers of a sequence, f32.
#[derive(Debug, Clone, PartialEq)]
pub struct RecurrentState {
    /// The last raw inputs of the convolution, `[conv_width - 1, channels]`.
    pub inputs: Vec<f32>,
    /// The matrices, `[v_heads, k_dim, v_dim]`.
    pub matrices: Vec<f32>,
}

/// A model ready to run.
pub struct Model {
    pub(crate) ops: Arc<dyn Ops>,
    pub(crate) spec: ModelSpec,
    pub(crate) options: LoadOptions,
    pub(crate) weights: Weights,
    pub(crate) scratch: Scratch,
    /// Rows of the last forward, whose hidden states can seed the MTP head.
    pub(crate) last_rows: usize,
    /// Rows of the last MTP step.
    pub(crate) last_mtp_rows: usize,
    /// Rows of the last pass, of the trunk or of the head, whose logits are wanted.
    pub(crate) wanted: Wanted,
    budget: Budget,
    memory: MemoryParts,
    graphs: Option<RecordedGraphs>,
    tuned: Vec<Tuned>,
}

/// How much of [`LoadStage::RecordGraphs`] choosing kernels is.
const TUNING: f64 = 0.3;

/// A checkpoint, and what it is under options.
#[derive(Clone, Copy)]
pub(crate) struct Described<'a> {
    pub source: &'a dyn WeightSource,
    pub spec: &'a ModelSpec,
    pub names: &'a Names,
    pub options: &'a LoadOptions,
    pub budget: &'a Budget,
}

/// What a checkpoint is, under options: the MTP head only if it is asked for.
fn describe(
    checkpoint: &dyn WeightSource,
    options: &LoadOptions,
) -> Result<(ModelSpec, Names, Budget), ModelError> {
    let mut spec = family::read(checkpoint.config())?;
    family::settle(&mut spec, &|tensor| checkpoint.contains(tensor));
    if !options.mtp {
        spec.mtp = None;
    }
    options.check(&spec)?;
    let spec = spec.stretched(options.context)?;
    let names = family::names(&spec);
    let budget = Budget::of(&spec, &FromSource(checkpoint), options)?;
    Ok((spec, names, budget))
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("spec", &self.spec)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Model {
    /// Loads a model. Everything is sized before the first weight is read, and nothing is allocated afterwards.
    ///
    /// `checkpoint` is a `&Checkpoint` or any other [`WeightSource`]. With `options.mtp` the MTP head is loaded if the
    /// model has one; `spec().mtp` tells.
    ///
    /// # Errors
    /// Unknown family, impossible config, missing or damaged or unused tensors, options out of range, a plan above
    /// `options.memory_limit`, or a refusal of the backend.
    pub fn load(
        checkpoint: &dyn WeightSource,
        ops: Arc<dyn Ops>,
        options: LoadOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Model, ModelError> {
        let mut tell = |stage, fraction, bytes| progress(LoadProgress { stage, fraction, bytes });
        tell(LoadStage::Plan, 0.0, None);
        let (spec, names, budget) = describe(checkpoint, &options)?;
        unused::refuse(checkpoint, &spec, &names)?;
        let described =
            Described { source: checkpoint, spec: &spec, names: &names, options: &options, budget: &budget };
        let Planned { plan, loading, needs, wanted } = rehearsal::plan(&described, &ops, true)?;
        if let Some(limit) = options.memory_limit.filter(|limit| plan.total() > limit.usable()) {
            return Err(ModelError::DoesNotFit { plan: Box::new(plan), available: limit.available });
        }
        let mut feed = Feed::Memory;
        if let Some(memory) = ops.memory() {
            memory.plan(&plan).map_err(at("memory"))?;
            memory.keep(&loading).map_err(at("memory"))?;
            if !wanted.is_empty() {
                feed = Feed::Files(memory, RefCell::new(Fetch::start(wanted).map_err(at("weights"))?));
            }
        }
        tell(LoadStage::Plan, 1.0, None);

        tell(LoadStage::ReadWeights, 0.0, feed.progress());
        let loader = Loader {
            source: checkpoint,
            ops: ops.as_ref(),
            spec: &spec,
            names: &names,
            options: &options,
            feed: &feed,
        };
        let weights = loader.load(&mut |fraction, bytes| tell(LoadStage::ReadWeights, fraction, bytes))?;
        drop(feed);
        tell(LoadStage::AllocateKv, 0.0, None);
        if let Some(memory) = ops.memory() {
            // Packing is over; what it used is there for the rest.
            memory.keep(&Needs::default()).map_err(at("memory"))?;
        }
        let scratch = Scratch::allocate(ops.as_ref(), &spec, &options)?;
        let mut working = 0;
        if let Some(memory) = ops.memory() {
            memory.keep(&needs).map_err(at("working memory"))?;
            working = needs.bytes();
        }
        tell(LoadStage::AllocateKv, 1.0, None);
        let mut model = Model::assemble(ops, spec, options, weights, scratch, budget);
        model.memory.scratch += working;
        tell(LoadStage::RecordGraphs, 0.0, None);
        let free = |ops: &dyn Ops| ops.memory().and_then(|memory| memory.free_beside());
        let before = free(model.ops.as_ref());
        model.tuned = model.tune(&mut |done| tell(LoadStage::RecordGraphs, TUNING * done, None))?;
        // Without a choice it took no time.
        let begin = if model.tuned.is_empty() { 0.0 } else { TUNING };
        let recorded = |done: f64| begin + (1.0 - begin) * done;
        model.record_ahead(&mut |done| tell(LoadStage::RecordGraphs, recorded(done), None))?;
        let taken = before.zip(free(model.ops.as_ref())).map(|(before, after)| before.saturating_sub(after));
        let count = model.ops.records().map(|records| records.recorded());
        model.graphs =
            count.map(|count| RecordedGraphs { count, planned: rehearsal::graphs_of(&plan), taken });
        tell(LoadStage::RecordGraphs, 1.0, None);
        Ok(model)
    }

    /// What a load with these options would take of the device's memory, item by item. Reads headers, no tensor.
    ///
    /// # Errors
    /// As [`Model::load`], but for the limit.
    pub fn plan(
        checkpoint: &dyn WeightSource,
        ops: &Arc<dyn Ops>,
        options: &LoadOptions,
    ) -> Result<MemoryPlan, ModelError> {
        let (spec, names, budget) = describe(checkpoint, options)?;
        let described =
            Described { source: checkpoint, spec: &spec, names: &names, options, budget: &budget };
        Ok(rehearsal::plan(&described, ops, false)?.plan)
    }

    /// A model of parts that were made for each other.
    pub(crate) fn assemble(
        ops: Arc<dyn Ops>,
        spec: ModelSpec,
        options: LoadOptions,
        weights: Weights,
        scratch: Scratch,
        budget: Budget,
    ) -> Model {
        let memory = MemoryParts {
            weights: weights.matrix_bytes() + budget.weights.vectors + budget.mtp_weights.vectors,
            kv: budget.kv,
            state: budget.state,
            scratch: budget.scratch,
        };
        Model {
            ops,
            spec,
            options,
            weights,
            scratch,
            last_rows: 0,
            last_mtp_rows: 0,
            wanted: Wanted::default(),
            budget,
            memory,
            graphs: None,
            tuned: Vec::new(),
        }
    }

    /// What the model is; `mtp` is set only if the head is loaded.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Which kernels the device chose for products of decode, and what that gave; empty where it had no choice.
    pub fn tuned(&self) -> &[Tuned] {
        &self.tuned
    }

    /// The options it was loaded with.
    pub fn options(&self) -> &LoadOptions {
        &self.options
    }

    /// The plan it was loaded by.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Memory it holds.
    pub fn memory(&self) -> MemoryParts {
        self.memory
    }

    /// The recorded graphs; None on a backend that records none.
    pub fn recorded_graphs(&self) -> Option<RecordedGraphs> {
        self.graphs
    }

    /// Numbers in a row of logits.
    pub fn vocab(&self) -> usize {
        self.spec.vocab
    }

    /// The first fault of the device. After one nothing can be computed in this process.
    pub fn device_fault(&self) -> Option<OpError> {
        self.ops.memory()?.fault()
    }

    /// Most rows of a pass that the backend computes as it decodes; None if it computes all passes alike. Rows that
    /// write belong into passes no longer than this.
    pub fn decode_rows(&self) -> Option<usize> {
        self.ops.decode_rows()
    }

    /// Positions in a page of KV.
    pub fn page_len(&self) -> usize {
        PAGE_LEN
    }

    /// Pages in the pool; page ids are `0 .. pages()`.
    pub fn pages(&self) -> usize {
        self.options.pages()
    }

    /// Estimated bytes read by one decode step of `rows` sequences whose contexts add up to `context` tokens.
    pub fn bytes_per_step(&self, rows: usize, context: usize) -> u64 {
        self.budget.read_per_step(rows, context)
    }

    /// Copies the recurrent state of slot `from` to slot `to`, in all layers.
    ///
    /// # Errors
    /// [`ModelError::Pass`] for slots that do not exist, otherwise those of the backend.
    pub fn copy_state(&mut self, from: usize, to: usize) -> Result<(), ModelError> {
        let states = self.options.states();
        if let Some(slot) = [from, to].into_iter().find(|slot| *slot >= states) {
            let (expected, found) = (format!("below {states}"), slot.to_string());
            return Err(ModelError::Pass { what: "slot", expected, found });
        }
        for (i, layer) in self.weights.layers.iter_mut().enumerate() {
            let MixerWeights::GatedDeltaNet(g) = &mut layer.mixer else { continue };
            for tensor in [&mut g.conv_state, &mut g.state] {
                // Rows of the ops are rows of the last axis.
                let width = tensor.shape.last().copied().unwrap_or(0).max(1);
                let rows = tensor.shape[1..].iter().product::<usize>() / width;
                self.ops
                    .copy_rows(tensor, from * rows, to * rows, if from == to { 0 } else { rows })
                    .map_err(at(format!("layer {i}: state")))?;
            }
        }
        Ok(())
    }

    /// Recurrent state of one slot in one gated-delta-net layer. None for layers without such state, or a slot that
    /// does not exist.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn recurrent_state(&self, layer: usize, slot: usize) -> Result<Option<RecurrentState>, ModelError> {
        let Some(MixerWeights::GatedDeltaNet(g)) = self.weights.layers.get(layer).map(|l| &l.mixer) else {
            return Ok(None);
        };
        if slot >= self.options.states() {
            return Ok(None);
        }
        let read = |tensor: &Tensor| {
            // Rows of the ops are rows of the last axis.
            let width = tensor.shape.last().copied().unwrap_or(0).max(1);
            let rows = tensor.shape[1..].iter().product::<usize>() / width;
            self.ops.read_rows(tensor, slot * rows, rows).map_err(at(format!("layer {layer}: state")))
        };
        Ok(Some(RecurrentState { inputs: read(&g.conv_state)?, matrices: read(&g.state)? }))
    }
}
