//! Launches of sampling: `cuda/sample.cu`. The settings of the rows are copied to the device, the chosen ids back.

use super::gpu::{Args, Launch, bytes_of};
use super::{Cuda, gpu::Gpu};
use crate::sample::SampleRow;
use crate::{DType, OpError, Result, Tensor};

/// No mask; no token.
const NOBODY: u32 = u32::MAX;
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
    bans: u32,
    mask: u32,
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
const _: () = assert!(size_of::<Row>() == 48 && size_of::<Edit>() == 12 && size_of::<Sample>() == 72);

/// The op `sample`.
pub(crate) fn sample(
    cuda: &Cuda,
    logits: &mut Tensor,
    tokens: usize,
    rows: &[SampleRow<'_>],
) -> Result<Vec<Option<u32>>> {
    const OP: &str = "sample";
    let width = logits.width();
    if tokens > width {
        return Err(OpError::shape(OP, "tokens", format!("at most {width}"), tokens));
    }
    rows.iter().try_for_each(|row| row.check(OP, tokens))?;
    logits.expect_dtype(OP, "logits", DType::F32)?;
    logits.expect_rows(OP, "logits", rows.len(), width)?;
    let address = logits.address(OP, "logits")?;
    if rows.is_empty() || tokens == 0 {
        return Ok(vec![None; rows.len()]);
    }

    let (mut settings, mut edits, mut masks) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        let first = edits.len();
        edits.extend(row.edits().map(|(id, repeat, minus)| Edit { id, repeat, minus }));
        settings.push(Row {
            seed: row.seed,
            position: row.position,
            temperature: row.temperature,
            top_p: row.top_p,
            min_p: row.min_p,
            top_k: row.top_k,
            edits: first as u32,
            penalties: (edits.len() - first - row.banned.len()) as u32,
            bans: row.banned.len() as u32,
            mask: if row.allowed.is_some() { masks.len() as u32 } else { NOBODY },
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
    let working = cuda.working("sample results", 2 * partial as usize + rows.len() * 4)?;
    let args = Sample {
        logits: address,
        rows: given,
        edits: given + edits_at,
        masks: given + masks_at,
        best: working,
        best_ids: working + partial,
        ids: working + 2 * partial,
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
    read(&*cuda.gpu, args.ids, rows.len())
}

/// The ids that the kernels left.
fn read(gpu: &dyn Gpu, at: u64, count: usize) -> Result<Vec<Option<u32>>> {
    let mut bytes = vec![0; count * 4];
    gpu.read(at, &mut bytes)?;
    let ids = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    Ok(ids.map(|id| (id != NOBODY).then_some(id)).collect())
}

fn narrow(what: &'static str, n: usize) -> Result<u32> {
    u32::try_from(n).map_err(|_| OpError::shape("sample", what, "below 2^32", n))
}
