//! Launchers of the row-wise ops (rows.cu).

use super::Cuda;
use super::gpu::{Args, Launch, bytes_of};
use super::linear::{norm_at, rows_at};
use super::weight::Matrix;
use crate::ops::{Norm, Pass};
use crate::sample::is_id;
use crate::{OpError, Result, Tensor, Weight};

/// Threads of a block; `THREADS` in rows.cu.
const THREADS: u32 = 256;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct EmbedArgs {
    table: Matrix,
    pass: u64,
    out: u64,
    chosen: u64,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct NormArgs {
    x: [u64; 2],
    weight: [u64; 2],
    out: u64,
    eps: [f32; 2],
    offset: [f32; 2],
    width: u32,
    stride: u32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct SwigluArgs {
    x: u64,
    out: u64,
    inter: u32,
    unused: u32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct GatherArgs {
    x: u64,
    pass: u64,
    out: u64,
    width: u32,
    first: u32,
}

// SAFETY: repr(C); in each, every field starts where the one before ends, see the sizes.
unsafe impl Args for EmbedArgs {}
unsafe impl Args for NormArgs {}
unsafe impl Args for SwigluArgs {}
unsafe impl Args for GatherArgs {}
const _: () = assert!(size_of::<EmbedArgs>() == 72 && size_of::<NormArgs>() == 64);
const _: () = assert!(size_of::<SwigluArgs>() == 24 && size_of::<GatherArgs>() == 32);

/// Runs `kernel` with one block per row, `across` of them beside each other.
fn launch<A: Args>(cuda: &Cuda, kernel: &'static str, rows: usize, across: u32, args: &A) -> Result<()> {
    if rows == 0 || across == 0 {
        return Ok(());
    }
    let grid = [rows as u32, across, 1];
    cuda.gpu.launch(&Launch { kernel, grid, block: THREADS, shared: 0, pdl: true }, bytes_of(args))
}

/// The op `embed`.
pub(crate) fn embed(cuda: &Cuda, table: &Weight, ids: &[u32], out: &mut Tensor) -> Result<()> {
    const OP: &str = "embed";
    let matrix = table.tiles(OP, "table")?.matrix;
    let out = rows_at(OP, "out", out, ids.len(), table.cols)?;
    if let Some(id) = ids.iter().find(|id| !is_id(**id, table.rows)) {
        return Err(OpError::shape(OP, "ids", format!("below {}", table.rows), id));
    }
    if matrix.paired != 0 {
        return Err(OpError::shape(OP, "table", "rows in their order", "gate and up rows interleaved"));
    }
    let pass = cuda.stage_ids(OP, ids)?;
    let args = EmbedArgs { table: matrix, pass, out, chosen: cuda.chosen.address() };
    launch(cuda, "rows_embed", ids.len(), 1, &args)
}

/// The op `rms_norm`.
pub(crate) fn rms_norm(cuda: &Cuda, pass: &Pass, x: &Tensor, norm: &Norm, out: &mut Tensor) -> Result<()> {
    const OP: &str = "rms_norm";
    let (t, width) = (pass.rows(), norm.weight.width());
    let (weight, eps, offset) = norm_at(OP, "weight", norm, width)?;
    let args = NormArgs {
        x: [rows_at(OP, "x", x, t, width)?; 2],
        weight: [weight; 2],
        out: rows_at(OP, "out", out, t, width)?,
        eps: [eps; 2],
        offset: [offset; 2],
        width: width as u32,
        stride: width as u32,
    };
    launch(cuda, "rows_norm", t, 1, &args)
}

/// The op `mtp_join`.
pub(crate) fn mtp_join(
    cuda: &Cuda,
    t: usize,
    embedding: &Tensor,
    norm_e: &Norm,
    hidden: &Tensor,
    norm_h: &Norm,
    out: &mut Tensor,
) -> Result<()> {
    const OP: &str = "mtp_join";
    let width = norm_e.weight.width();
    let (weight_e, eps_e, offset_e) = norm_at(OP, "embedding norm", norm_e, width)?;
    let (weight_h, eps_h, offset_h) = norm_at(OP, "hidden norm", norm_h, width)?;
    let args = NormArgs {
        x: [rows_at(OP, "embedding", embedding, t, width)?, rows_at(OP, "hidden", hidden, t, width)?],
        weight: [weight_e, weight_h],
        out: rows_at(OP, "out", out, t, 2 * width)?,
        eps: [eps_e, eps_h],
        offset: [offset_e, offset_h],
        width: width as u32,
        stride: 2 * width as u32,
    };
    launch(cuda, "rows_norm", t, 2, &args)
}

/// The op `swiglu`.
pub(crate) fn swiglu(cuda: &Cuda, pass: &Pass, x: &Tensor, out: &mut Tensor) -> Result<()> {
    const OP: &str = "swiglu";
    let (t, inter) = (pass.rows(), out.width());
    let x = rows_at(OP, "x", x, t, inter.saturating_mul(2))?;
    let out = rows_at(OP, "out", out, t, inter)?;
    let across = (inter as u32).div_ceil(THREADS);
    launch(cuda, "rows_swiglu", t, across, &SwigluArgs { x, out, inter: inter as u32, unused: 0 })
}

/// The ops `gather_rows` (the picks become `rows`) and `gather_picks` (they hold `rows` from `first` on).
pub(crate) fn gather(
    cuda: &Cuda,
    x: &Tensor,
    rows: &[u32],
    picked_from: Option<usize>,
    out: &mut Tensor,
) -> Result<()> {
    const OP: &str = "gather_rows";
    let width = x.width();
    let last = rows.iter().max().map_or(0, |last| *last as usize + 1);
    let x = rows_at(OP, "x", x, last, width)?;
    let out = rows_at(OP, "out", out, rows.len(), width)?;
    let (pass, first) = match picked_from {
        Some(first) => cuda.staged_picks(OP, first, rows)?,
        None => (cuda.stage_picks(OP, rows)?, 0),
    };
    launch(
        cuda,
        "rows_gather",
        rows.len(),
        1,
        &GatherArgs { x, pass, out, width: width as u32, first: first as u32 },
    )
}
