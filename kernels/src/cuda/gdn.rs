//! Launches of the gated delta net: `cuda/gdn_*.cu`.
//!
//! A segment of at most [`DECODE_ROWS`] rows, or with snapshots, or in an exact pass, runs row after row; a longer one
//! with heads of 128 x 128 runs in chunks of 64 rows. Which it is depends on nothing beside the segment.

use super::gpu::{Args, Launch, bytes_of};
use super::{Cuda, DECODE_ROWS};
use crate::cpu::segments::check_slots;
use crate::ops::{GdnGates, GdnRows, GdnShape, Pass};
use crate::{DType, OpError, Result, Tensor};

/// Rows of a chunk, and of a block of the convolution.
const CHUNK: usize = 64;
/// The head size of the specialised kernels.
const DIM: usize = 128;
/// Threads of a block of `gdn_conv_*`: channels.
const CONV_THREADS: usize = 128;
/// Chunks prepared together: what they leave for the scan (16 MiB for 16 key and 32 value heads) stays in the second-level
/// cache of a GB10.
const GROUP: usize = 16;

/// `struct GdnConv` in gdn.cuh.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Conv {
    pass: u64,
    w: u64,
    state: u64,
    x: u64,
    borders: u64,
    channels: u32,
    width: u32,
}

/// `struct GdnStep` in gdn.cuh.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Step {
    pass: u64,
    qkv: u64,
    z: u64,
    a: u64,
    b: u64,
    a_log: u64,
    dt_bias: u64,
    out_norm: u64,
    state: u64,
    out: u64,
    k_heads: u32,
    v_heads: u32,
    k_dim: u32,
    v_dim: u32,
    eps: f32,
    offset: f32,
    most_rows: u32,
    unused: u32,
}

/// `struct GdnChunks` in gdn.cuh.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Chunks {
    step: Step,
    q: u64,
    k: u64,
    solve: u64,
    attend: u64,
    decays: u64,
    first: u32,
    count: u32,
}

// SAFETY: repr(C), 8-byte fields before 4-byte ones, an even number of those: no padding.
unsafe impl Args for Conv {}
// SAFETY: as above.
unsafe impl Args for Step {}
// SAFETY: as above; `Step` is a multiple of 8 bytes.
unsafe impl Args for Chunks {}
const _: () = assert!(size_of::<Conv>() == 48 && size_of::<Step>() == 112 && size_of::<Chunks>() == 160);

/// The op `gdn_conv`.
pub(crate) fn conv(cuda: &Cuda, pass: &Pass, w: &Tensor, state: &mut Tensor, x: &mut Tensor) -> Result<()> {
    const OP: &str = "gdn_conv";
    let [channels, width] = w.shape[..] else {
        return Err(OpError::shape(OP, "w", "[channels, width]", format!("{:?}", w.shape)));
    };
    if width < 2 || channels == 0 {
        let found = format!("{:?}", w.shape);
        return Err(OpError::shape(OP, "w", "at least one channel, width 2 or more", found));
    }
    let slots = state.shape.first().copied().unwrap_or(0);
    check_slots(OP, pass, slots)?;
    let held = width - 1;
    let blocks = row_blocks(pass.segments.iter().map(|s| s.rows));
    let cut = pass.segments.iter().any(|s| s.rows > CHUNK);
    let args = Conv {
        w: exact(w, OP, "w", &[channels, width])?,
        state: exact(state, OP, "state", &[slots, held, channels])?,
        x: rows(x, OP, "x", pass.rows(), channels)?,
        borders: if cut { cuda.working("gdn_conv borders", blocks * held * channels * 4)? } else { 0 },
        pass: cuda.stage(OP, pass)?,
        channels: narrow(OP, "channels", channels)?,
        width: narrow(OP, "width", width)?,
    };
    let grid = [channels.div_ceil(CONV_THREADS) as u32, narrow(OP, "rows", blocks)?, 1];
    let block = CONV_THREADS as u32;
    if cut {
        let borders = Launch { kernel: "gdn_conv_borders", grid, block, shared: 0, pdl: true };
        cuda.gpu.launch(&borders, bytes_of(&args))?;
    }
    let (kernel, shared) = match width {
        4 => ("gdn_conv_4", 0),
        _ => ("gdn_conv_any", shared(cuda, OP, "width", 2 * held * CONV_THREADS * 4)?),
    };
    cuda.gpu.launch(&Launch { kernel, grid, block, shared, pdl: true }, bytes_of(&args))
}

/// What the projections need to convolve their first output themselves: the pass, the weights and the state on the device.
/// None where the convolution has a launch of its own: another width than 4.
pub(crate) fn fused_conv(
    cuda: &Cuda,
    pass: &Pass,
    w: &Tensor,
    channels: usize,
    state: &Tensor,
) -> Result<Option<[u64; 3]>> {
    const OP: &str = "gdn_in";
    if w.shape != [channels, 4] {
        return Ok(None);
    }
    let slots = state.shape.first().copied().unwrap_or(0);
    check_slots(OP, pass, slots)?;
    let state = exact(state, OP, "state", &[slots, 3, channels])?;
    Ok(Some([cuda.stage(OP, pass)?, exact(w, OP, "conv", &[channels, 4])?, state]))
}

/// The op `gdn_step`.
pub(crate) fn step(
    cuda: &Cuda,
    pass: &Pass,
    shape: &GdnShape,
    input: GdnRows<'_>,
    gates: &GdnGates,
    state: &mut Tensor,
    out: &mut Tensor,
) -> Result<()> {
    const OP: &str = "gdn_step";
    let GdnShape { k_heads, v_heads, k_dim, v_dim, .. } = *shape;
    if k_heads == 0 || v_heads == 0 || !v_heads.is_multiple_of(k_heads) || k_dim == 0 || v_dim == 0 {
        return Err(OpError::shape(OP, "shape", "value heads a multiple of key heads", format!("{shape:?}")));
    }
    let t = pass.rows();
    let slots = state.shape.first().copied().unwrap_or(0);
    check_slots(OP, pass, slots)?;
    let special = k_dim == DIM && v_dim == DIM;
    let most_rows = if special && !pass.exact { DECODE_ROWS } else { u32::MAX as usize };
    let args = Step {
        qkv: rows(input.qkv, OP, "qkv", t, shape.channels())?,
        z: rows(input.z, OP, "z", t, v_heads * v_dim)?,
        a: rows(input.a, OP, "a", t, v_heads)?,
        b: rows(input.b, OP, "b", t, v_heads)?,
        a_log: exact(&gates.a_log, OP, "a_log", &[v_heads])?,
        dt_bias: exact(&gates.dt_bias, OP, "dt_bias", &[v_heads])?,
        out_norm: exact(&gates.out_norm.weight, OP, "out_norm", &[v_dim])?,
        state: exact(state, OP, "state", &[slots, v_heads, k_dim, v_dim])?,
        out: rows(out, OP, "out", t, v_heads * v_dim)?,
        pass: cuda.stage(OP, pass)?,
        k_heads: narrow(OP, "key heads", k_heads)?,
        v_heads: narrow(OP, "value heads", v_heads)?,
        k_dim: narrow(OP, "k_dim", k_dim)?,
        v_dim: narrow(OP, "v_dim", v_dim)?,
        eps: gates.out_norm.eps,
        offset: gates.out_norm.offset,
        most_rows: most_rows as u32,
        unused: 0,
    };
    let chunked: Vec<usize> = pass
        .segments
        .iter()
        .filter(|s| s.rows > most_rows && s.snapshots.is_empty())
        .map(|s| s.rows)
        .collect();
    let grid = [args.v_heads, pass.segments.len() as u32, 1];
    if chunked.len() < pass.segments.len() {
        let (kernel, block, shared) = match special {
            true => ("gdn_step_128", 512, 0),
            false => ("gdn_step_any", 128, shared(cuda, OP, "head size", (2 * k_dim + v_dim) * 4)?),
        };
        cuda.gpu.launch(&Launch { kernel, grid, block, shared, pdl: true }, bytes_of(&args))?;
    }
    let chunks = row_blocks(chunked.into_iter());
    let group = chunks.min(GROUP);
    if chunks == 0 {
        return Ok(());
    }
    let keys = (group * k_heads * CHUNK * DIM * 2) as u64;
    let squares = (group * v_heads * CHUNK * CHUNK * 2) as u64;
    let decays = (group * v_heads * 2 * CHUNK * 4) as u64;
    let working = cuda.working("gdn_step chunks", (2 * keys + 2 * squares + decays) as usize)?;
    for first in (0..chunks).step_by(GROUP) {
        let count = GROUP.min(chunks - first) as u32;
        let args = Chunks {
            step: args,
            q: working,
            k: working + keys,
            solve: working + 2 * keys,
            attend: working + 2 * keys + squares,
            decays: working + 2 * keys + 2 * squares,
            first: first as u32,
            count,
        };
        let prepare = [args.step.k_heads, count, 1];
        for (kernel, grid, shared) in [("gdn_prepare", prepare, 68_608), ("gdn_scan", grid, 99_328)] {
            cuda.gpu.launch(&Launch { kernel, grid, block: 256, shared, pdl: true }, bytes_of(&args))?;
        }
    }
    Ok(())
}

/// How many blocks of 64 rows segments of so many rows make, each starting anew.
fn row_blocks(rows: impl Iterator<Item = usize>) -> usize {
    rows.map(|rows| rows.div_ceil(CHUNK)).sum()
}

/// Address of the first `t` rows of an f32 `[>= t, width]` tensor.
fn rows(x: &Tensor, op: &'static str, what: &'static str, t: usize, width: usize) -> Result<u64> {
    x.expect_dtype(op, what, DType::F32)?;
    x.expect_rows(op, what, t, width)?;
    x.address(op, what)
}

/// Address of an f32 tensor of exactly this shape.
fn exact(x: &Tensor, op: &'static str, what: &'static str, shape: &[usize]) -> Result<u64> {
    x.expect_dtype(op, what, DType::F32)?;
    x.expect_shape(op, what, shape)?;
    x.address(op, what)
}

fn narrow(op: &'static str, what: &'static str, n: usize) -> Result<u32> {
    u32::try_from(n).map_err(|_| OpError::shape(op, what, "below 2^32", n))
}

/// `bytes` of shared memory, if a block may have as much.
fn shared(cuda: &Cuda, op: &'static str, what: &str, bytes: usize) -> Result<u32> {
    let most = cuda.properties().shared;
    u32::try_from(bytes)
        .ok()
        .filter(|bytes| *bytes <= most)
        .ok_or_else(|| cuda.unsupported(op, format!("a {what} that needs {bytes} bytes of shared memory")))
}
