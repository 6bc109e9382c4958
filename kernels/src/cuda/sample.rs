//! Launches of sampling: `cuda/sample.cu`. The settings of the rows are copied to the device; the chosen ids stay there, in
//! a ring where the passes that follow find them, and a copy of them is sent back.

use super::gpu::{Args, Gpu, Launch, bytes_of};
use super::memory::DeviceBuffer;
use super::{Cuda, DECODE_ROWS};
use crate::sample::{Chosen, NOBODY, PLACES, Places, SampleRow};
use crate::{DType, OpError, Result, Tensor};
use std::sync::{Arc, Mutex, PoisonError};

/// Tokens of a part, at least.
const PART: usize = 4096;

/// `struct SampleRow` in sample.cu.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Row {
    seed: u64,
    position: u64,
    temperature: f32,
    top_p: f32,
    min_p: f32,
    top_k: u32,
    edits: u32,
    penalties: u32,
    biases: u32,
    bans: u32,
    mask: u32,
    behind: u32,
}

/// `struct SampleEdit` in sample.cu.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Edit {
    id: u32,
    repeat: f32,
    minus: f32,
}

/// `struct Sample` in sample.cu.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Sample {
    logits: u64,
    rows: u64,
    edits: u64,
    masks: u64,
    best: u64,
    best_ids: u64,
    ids: u64,
    rejected: u64,
    width: u32,
    tokens: u32,
    parts: u32,
    unused: u32,
}

// SAFETY: repr(C), 8-byte fields before 4-byte ones, an even number of those: no padding.
unsafe impl Args for Row {}
// SAFETY: three 4-byte fields.
unsafe impl Args for Edit {}
// SAFETY: as `Row`.
unsafe impl Args for Sample {}
const _: () = assert!(size_of::<Row>() == 56 && size_of::<Edit>() == 12 && size_of::<Sample>() == 80);

/// The tokens chosen last. At one address for ever: recorded graphs name it.
#[derive(Debug)]
pub(super) struct Ring {
    buffer: DeviceBuffer,
    places: Mutex<Places>,
}

impl Ring {
    pub fn new(gpu: &Arc<dyn Gpu>) -> Result<Ring> {
        Ok(Ring { buffer: DeviceBuffer::zeroed(gpu, 4 * PLACES)?, places: Mutex::default() })
    }

    pub fn address(&self) -> u64 {
        self.buffer.address
    }

    fn take(&self, op: &'static str, rows: usize) -> Result<usize> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).take(op, rows)
    }
}

/// The op `sample`.
pub(crate) fn sample(
    cuda: &Cuda,
    logits: &mut Tensor,
    tokens: usize,
    rows: &[SampleRow<'_>],
) -> Result<Chosen> {
    const OP: &str = "sample";
    let width = logits.width();
    if !(1..=width).contains(&tokens) {
        return Err(OpError::shape(OP, "tokens", format!("from 1 to {width}"), tokens));
    }
    rows.iter().try_for_each(|row| row.check(OP, tokens))?;
    if let Some(behind) = rows.iter().filter_map(|row| row.behind).find(|at| *at as usize >= DECODE_ROWS) {
        return Err(OpError::shape(OP, "round", format!("below {DECODE_ROWS}"), behind));
    }
    logits.expect_dtype(OP, "logits", DType::F32)?;
    logits.expect_rows(OP, "logits", rows.len(), width)?;
    let address = logits.address(OP, "logits")?;
    let first = cuda.chosen.take(OP, rows.len())?;
    if rows.is_empty() {
        return Ok(Chosen::here(first, Vec::new()));
    }

    let (mut settings, mut edits, mut masks) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        let first = edits.len();
        let counts = row.counts();
        edits.extend(row.edits().map(|(id, repeat, minus)| Edit { id, repeat, minus }));
        settings.push(Row {
            seed: row.seed,
            position: row.position,
            temperature: row.temperature,
            top_p: row.top_p,
            min_p: row.min_p,
            top_k: row.top_k,
            edits: first as u32,
            penalties: counts.penalties as u32,
            biases: counts.biases as u32,
            bans: counts.bans as u32,
            mask: if row.allowed.is_some() { masks.len() as u32 } else { NOBODY },
            behind: row.behind.unwrap_or(NOBODY),
        });
        masks.extend_from_slice(row.allowed.unwrap_or_default());
    }
    let parts = tokens.div_ceil(PART).min(64);
    let mut input: Vec<u8> = settings.iter().flat_map(bytes_of).copied().collect();
    let edits_at = input.len() as u64;
    input.extend(edits.iter().flat_map(bytes_of));
    let masks_at = input.len() as u64;
    input.extend(masks.iter().flat_map(|word| word.to_le_bytes()));
    let given = cuda.working("sample settings", input.len())?;
    cuda.gpu.write(given, &input)?;
    let partial = (rows.len() * parts * 4) as u64;
    let working = cuda.working("sample results", 2 * partial as usize)?;
    let args = Sample {
        logits: address,
        rows: given,
        edits: given + edits_at,
        masks: given + masks_at,
        best: working,
        best_ids: working + partial,
        ids: cuda.chosen.address() + 4 * first as u64,
        rejected: cuda.rejected.address(),
        width: narrow("width", width)?,
        tokens: narrow("tokens", tokens)?,
        parts: parts as u32,
        unused: 0,
    };
    let count = narrow("rows", rows.len())?;
    let launch = |kernel, grid, block| {
        cuda.gpu.launch(&Launch { kernel, grid, block, shared: 0, pdl: true }, bytes_of(&args))
    };
    if !edits.is_empty() {
        launch("sample_edit", [count, 1, 1], 256)?;
    }
    launch("sample_best", [parts as u32, count, 1], 256)?;
    launch("sample_pick", [count, 1, 1], 512)?;
    Ok(Chosen::there(first, cuda.gpu.fetch(args.ids, rows.len() * 4)?))
}

fn narrow(what: &'static str, n: usize) -> Result<u32> {
    u32::try_from(n).map_err(|_| OpError::shape("sample", what, "below 2^32", n))
}
