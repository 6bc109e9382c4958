//! Products of many rows (linear_prefill.cu): x is rounded once for each type of fragment, then every weight takes a launch.

use super::Cuda;
use super::gpu::{Args, Launch, bytes_of};
use super::linear::{Input, Job};
use super::pack::{TILE_COLS, TILE_ROWS};
use super::weight::Matrix;
use crate::{Result, WeightFormat};

/// Threads of a block; `THREADS` in linear_prefill.cu.
const THREADS: u32 = 256;
/// Features of a block.
const FEATURES: usize = 8 * TILE_ROWS;
/// Bytes of a row of x in a block's shared memory, all stages.
const SHARED_ROW: usize = 3 * 144;

/// `struct RoundArgs` in linear_prefill.cu.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RoundArgs {
    x: u64,
    norm: u64,
    out: u64,
    undo: u64,
    eps: f32,
    offset: f32,
    cols: u32,
    padded: u32,
}

/// `struct PrefillArgs` in linear_prefill.cu.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct PrefillArgs {
    matrix: Matrix,
    x: u64,
    undo: u64,
    out: u64,
    stride: u32,
    epilogue: u32,
    t: u32,
    unused: u32,
}

// SAFETY: repr(C); in each, every field starts where the one before ends, see the sizes.
unsafe impl Args for RoundArgs {}
unsafe impl Args for PrefillArgs {}
const _: () = assert!(size_of::<RoundArgs>() == 48 && size_of::<PrefillArgs>() == 88);

/// x as tensor cores take it.
struct Rounded {
    x: u64,
    undo: u64,
}

/// Rounds x, after its norm if there is one, to f16 or bf16.
fn round(cuda: &Cuda, input: Input, bfloat: bool) -> Result<Rounded> {
    let padded = input.cols.next_multiple_of(TILE_COLS);
    let bytes = (input.t * padded * 2).next_multiple_of(256);
    let (kernel, name) = match bfloat {
        true => ("linear_round_bf16", "rows rounded to bf16"),
        false => ("linear_round_f16", "rows rounded to f16"),
    };
    let x = cuda.working(name, bytes + input.t * 4)?;
    let undo = x + bytes as u64;
    let (norm, eps, offset) = input.norm.unwrap_or_default();
    let (cols, padded) = (input.cols as u32, padded as u32);
    let args = RoundArgs { x: input.x, norm, out: x, undo, eps, offset, cols, padded };
    let grid = [input.t as u32, 1, 1];
    cuda.gpu.launch(&Launch { kernel, grid, block: THREADS, shared: 0, pdl: true }, bytes_of(&args))?;
    Ok(Rounded { x, undo })
}

/// The kernels of a weight, for blocks of 64 and of 128 rows; None: it has none.
fn kernels(job: &Job) -> Option<[&'static str; 2]> {
    match (job.format, job.matrix.block_scales != 0) {
        (WeightFormat::F32, _) => None,
        (WeightFormat::F16, _) => Some(["linear_f16_prefill_64", "linear_f16_prefill_128"]),
        (WeightFormat::Bf16, _) => Some(["linear_bf16_prefill_64", "linear_bf16_prefill_128"]),
        (WeightFormat::Fp8, false) => Some(["linear_fp8_prefill_64", "linear_fp8_prefill_128"]),
        (WeightFormat::Fp8, true) => Some(["linear_fp8_block_prefill_64", "linear_fp8_block_prefill_128"]),
        (WeightFormat::Nvfp4, _) => Some(["linear_nvfp4_prefill_64", "linear_nvfp4_prefill_128"]),
    }
}

/// True if the weight has kernels for many rows. f32 has none: such weights are small and run as decode does.
pub(super) fn possible(job: &Job) -> bool {
    kernels(job).is_some()
}

/// Products of any number of rows. All weights are `input.cols` wide and [`possible`].
pub(super) fn prefill(cuda: &Cuda, input: Input, jobs: &[Job]) -> Result<()> {
    for bfloat in [false, true] {
        let of_type = || jobs.iter().filter(|job| (job.format == WeightFormat::Bf16) == bfloat);
        if of_type().next().is_none() {
            continue;
        }
        let rounded = round(cuda, input, bfloat)?;
        for job in of_type() {
            multiply(cuda, input.t, &rounded, job)?;
        }
    }
    Ok(())
}

fn multiply(cuda: &Cuda, t: usize, rounded: &Rounded, job: &Job) -> Result<()> {
    let Some(names) = kernels(job) else { return Ok(()) };
    let feature_blocks = (job.matrix.row_tiles as usize * TILE_ROWS).div_ceil(FEATURES);
    let blocks = |rows: usize| t.div_ceil(rows) * feature_blocks;
    // Blocks of 128 rows read less, if there are enough of them for all multiprocessors.
    let wide = t > 64 && blocks(128) >= cuda.properties().multiprocessors as usize;
    let rows = if wide { 128 } else { 64 };
    let args = PrefillArgs {
        matrix: job.matrix,
        x: rounded.x,
        undo: rounded.undo,
        out: job.out,
        stride: job.stride as u32,
        epilogue: job.epilogue as u32,
        t: t as u32,
        unused: 0,
    };
    let launch = Launch {
        kernel: names[usize::from(wide)],
        grid: [blocks(rows) as u32, 1, 1],
        block: THREADS,
        shared: (rows * SHARED_ROW) as u32,
        pdl: true,
    };
    cuda.gpu.launch(&launch, bytes_of(&args))
}
