//! Plans a model's memory on a device: the load and the largest passes run on a backend that only counts. What they took
//! there is what the real load takes, to the byte. Where the host's memory is used, the budget is the plan.

use crate::ModelError;
use crate::ahead;
use crate::budget::Budget;
use crate::error::at;
use crate::family::Place;
use crate::feed::Feed;
use crate::formats::{Formats, FromSource};
use crate::loader::Loader;
use crate::model::{Described, Model};
use crate::options::{LoadOptions, PAGE_LEN};
use crate::parts;
use crate::scratch::Scratch;
use hearth_kernels::fetch::FileRange;
use hearth_kernels::ops::{Pass, Segment};
use hearth_kernels::{MemoryPlan, Needs, Ops};
use std::cell::RefCell;
use std::sync::Arc;

/// Host memory through which files are read: three buffers of a batch and its largest piece, in `hearth_kernels::fetch`.
const READING: u64 = 160 << 20;

/// What stands in a plan for the memory in which weights of a GGUF are expanded.
const EXPANDING: &str = "expanding weights";
/// That memory for a device, which takes matrices in stages of 32 MiB: a buffer that grows to one of them.
const CONVERTING: u64 = 64 << 20;

/// Launches of a layer in decode, at most, and what the driver keeps of one in a recorded graph: its arguments (up to 600
/// bytes) and its own description. An assumption: what the driver takes is measured when they are recorded, and an engine
/// says so where it is more.
const LAUNCHES: usize = 10;
const NODE: u64 = 2048;

/// What they are called in a plan.
const GRAPHS: &str = "recorded graphs (estimated)";

/// Bytes that a plan has for recorded graphs.
pub(crate) fn graphs_of(plan: &MemoryPlan) -> u64 {
    plan.beside.iter().filter(|(name, _)| name == GRAPHS).map(|(_, bytes)| bytes).sum()
}

/// A plan, with what [`hearth_kernels::DeviceMemory::keep`] takes of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Planned {
    pub plan: MemoryPlan,
    /// What packing needs while weights are read.
    pub loading: Needs,
    /// What the ops need while requests run.
    pub needs: Needs,
    /// What is read from files, in this order; empty if nothing is.
    pub wanted: Vec<FileRange>,
}

/// Name and bytes of what the budget counts.
fn items(budget: &Budget) -> Vec<(String, u64)> {
    let items = [
        ("weights", budget.weights.total()),
        ("weights of the MTP head", budget.mtp_weights.total()),
        ("keys and values", budget.kv),
        ("recurrent state", budget.state),
        ("activations and logits", budget.scratch),
    ];
    items.into_iter().filter(|(_, bytes)| *bytes > 0).map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}

/// Bytes of the largest matrix, or of the two that are packed together: what converting them takes where they are converted whole.
fn largest(described: &Described<'_>) -> Result<u64, ModelError> {
    let Described { source, spec, names, .. } = *described;
    let formats = FromSource(source);
    let bytes = |module: &str, rows: usize, cols: usize| {
        Ok::<_, ModelError>(formats.format(module, rows, cols)?.bytes(rows as u64, cols as u64))
    };
    let mut most = bytes(&names.embedding(), spec.vocab, spec.hidden)?;
    if !spec.tied_head {
        most = most.max(bytes(&names.head(), spec.vocab, spec.hidden)?);
    }
    for (i, layer) in spec.layers.iter().enumerate() {
        for m in parts::matrices(layer, spec.hidden) {
            let one = bytes(&names.matrix(Place::Layer(i), m.matrix, 0), m.rows, m.cols)?;
            most = most.max(2 * one);
        }
    }
    Ok(most)
}

/// The plan of a model that `ops` would load. Reads no tensor. `in_detail`: with what will be read.
///
/// # Errors
/// Those of sizing a model, and what a load would refuse for its shapes.
pub(crate) fn plan(
    described: &Described<'_>,
    ops: &Arc<dyn Ops>,
    in_detail: bool,
) -> Result<Planned, ModelError> {
    let Described { source, spec, names, options, budget } = *described;
    let mut planned = Planned::default();
    planned.plan.items = items(budget);
    if let Some(limit) = options.memory_limit {
        (planned.plan.reserve, planned.plan.available) = (limit.reserve, Some(limit.available));
    }
    let Some(device) = ops.memory() else {
        if source.is_converted() {
            planned.plan.beside.push((EXPANDING.to_owned(), largest(described)?));
        }
        return Ok(planned);
    };
    let load = |ops: &dyn Ops, memory, wanted| {
        let feed = Feed::Rehearsed(memory, RefCell::new(wanted));
        let loader = Loader { source, ops, spec, names, options, feed: &feed };
        let weights = loader.load(&mut |_, _| {})?;
        let Feed::Rehearsed(_, wanted) = feed else { return Ok((weights, Vec::new())) };
        Ok::<_, ModelError>((weights, wanted.into_inner().unwrap_or_default()))
    };
    // Once to learn what packing needs, which must lie there before the first weight.
    let first = device.rehearsal().map_err(at("rehearsal"))?;
    let Some(memory) = first.memory() else { return Ok(planned) };
    load(first.as_ref(), memory, None)?;
    planned.loading = memory.needs();

    let counting = device.rehearsal().map_err(at("rehearsal"))?;
    let Some(memory) = counting.memory() else { return Ok(planned) };
    memory.keep(&planned.loading).map_err(at("rehearsal"))?;
    let (weights, wanted) = load(counting.as_ref(), memory, in_detail.then(Vec::new))?;
    planned.wanted = wanted;
    memory.keep(&Needs::default()).map_err(at("rehearsal"))?;
    let scratch = Scratch::allocate(counting.as_ref(), spec, options)?;
    let ops = counting.clone();
    let mut model = Model::assemble(ops, spec.clone(), options.clone(), weights, scratch, budget.clone());
    run_largest(&mut model)?;
    planned.needs = memory.needs();
    memory.keep(&planned.needs).map_err(at("rehearsal"))?;

    let plan = &mut planned.plan;
    plan.items.push(("working memory of the kernels".to_owned(), planned.needs.bytes()));
    // Tiles are 16 by 64, rows have scales, experts a table, all begins at a multiple of 256; and while weights are read, they
    // pass through memory that is used otherwise later, as far as it fits.
    let rest = memory.taken().saturating_sub(plan.block());
    plan.items.push(("padding, row scales, tables, staging".to_owned(), rest));
    let decode_rows = model.decode_rows().unwrap_or(0);
    let tiers = counting.records().map_or(0, |records| records.tiers(options.context).len());
    let graphs = ahead::shapes(options, decode_rows, spec.mtp.is_some()).len() * tiers;
    let nodes = (spec.layers.len() * LAUNCHES + LAUNCHES) as u64;
    plan.beside.push((GRAPHS.to_owned(), graphs.min(256) as u64 * nodes * NODE));
    if counting.available_memory().is_none() {
        plan.beside.push(("buffers for reading".to_owned(), READING));
        if source.is_converted() {
            plan.beside.push((EXPANDING.to_owned(), CONVERTING));
        }
    }
    Ok(planned)
}

/// Runs the passes that ask most of the ops: every width of decode at the longest context, and the longest chunk as one
/// sequence and beside many others, in both arithmetics.
fn run_largest(model: &mut Model) -> Result<(), ModelError> {
    let LoadOptions { context, slots, max_rows, .. } = *model.options();
    let decode = model.decode_rows().unwrap_or(0).min(max_rows).min(context);
    for rows in 1..=decode {
        run(model, &[rows], false)?;
        if (2..=slots).contains(&rows) {
            run(model, &vec![1; rows], false)?;
        }
    }
    let longest = max_rows.min(context);
    for exact in [false, true] {
        run(model, &[longest], exact)?;
        // The others one row each, the first the rest.
        let others = slots.min(max_rows).saturating_sub(1);
        let first = max_rows.saturating_sub(others).clamp(1, longest);
        let rows: Vec<usize> = [first].into_iter().chain(vec![1; others]).collect();
        run(model, &rows, exact)?;
    }
    model.rehearse_sampling()
}

/// One pass with so many rows per sequence, each at the end of its context, through the trunk and the MTP head.
fn run(model: &mut Model, rows: &[usize], exact: bool) -> Result<(), ModelError> {
    let options = model.options();
    let (context, pages) = (options.context, options.context.div_ceil(PAGE_LEN) as u32);
    let mut first_row = 0;
    let mut segments = Vec::with_capacity(rows.len());
    for (slot, &rows) in rows.iter().enumerate() {
        let position = context.saturating_sub(rows);
        let pages = (0..pages).collect();
        segments.push(Segment { slot, first_row, rows, position, pages, snapshots: Vec::new() });
        first_row += rows;
    }
    let pass = Pass { segments, exact };
    let ids = vec![0; first_row];
    let all: Vec<u32> = (0..first_row as u32).collect();
    // As many picks as there can be: a seed and a wanted row for each row of the MTP head.
    let picks = [all.as_slice(), all.as_slice()].concat();
    model.ops.begin(&pass, &ids, &picks).map_err(at("rehearsal"))?;
    let want = &all[..model.scratch.picked.shape[0].min(first_row)];
    // The logits are zeros, and reading them costs memory of the host: the head's launches are all that counts.
    model.launch_forward(&pass, &ids, want)?;
    if model.spec.mtp.is_some() {
        model.launch_mtp(&pass, &ids, crate::Seed::Forward(&all), want)?;
    }
    Ok(())
}
