//! Products of many rows (linear_prefill.cu, linear_fp4.cu): x is rounded once for each type of fragment, then every weight
//! takes a launch. Rounding to NVFP4 is opt-in; what it computes is defined by `fp4.rs`.

use super::Cuda;
use super::fp4::{self, Rounded, Source};
use super::gpu::{Args, Launch, bytes_of};
use super::linear::{Input, Job};
use super::pack::{TILE_COLS, TILE_ROWS};
use super::weight::Matrix;
use crate::{Result, WeightFormat};

/// Threads of a block; `THREADS` in linear_prefill.cuh.
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

/// `struct PrefillArgs` in linear_prefill.cu, `struct LinearFp4` in linear_fp4.cu.
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
    /// Groups of a row of NVFP4; rows of 16 bits are as wide as the matrix.
    groups: u32,
}

// SAFETY: repr(C); in each, every field starts where the one before ends, see the sizes.
unsafe impl Args for RoundArgs {}
unsafe impl Args for PrefillArgs {}
const _: () = assert!(size_of::<RoundArgs>() == 48 && size_of::<PrefillArgs>() == 88);

/// What x is rounded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    F16,
    Bf16,
    Nvfp4,
}

/// What the kernels of a weight take.
fn takes(cuda: &Cuda, job: &Job) -> To {
    match job.format {
        format if fp4::wanted(cuda, format) => To::Nvfp4,
        WeightFormat::Bf16 => To::Bf16,
        _ => To::F16,
    }
}

/// Rounds x, after its norm if there is one.
fn round(cuda: &Cuda, input: Input, to: To) -> Result<Rounded> {
    let (cols, rows) = (input.cols as u32, input.t as u32);
    let (kernel, name) = match to {
        To::F16 => ("linear_round_f16", "rows rounded to f16"),
        To::Bf16 => ("linear_round_bf16", "rows rounded to bf16"),
        To::Nvfp4 => {
            let source = Source { x: input.x, rows, stride: cols, cols, norm: input.norm, experts: None };
            return fp4::round(cuda, "rows rounded to nvfp4", input.t, &source);
        }
    };
    let padded = input.cols.next_multiple_of(TILE_COLS);
    let bytes = (input.t * padded * 2).next_multiple_of(256);
    let x = cuda.working(name, bytes + input.t * 4)?;
    let undo = x + bytes as u64;
    let (norm, eps, offset) = input.norm.unwrap_or_default();
    let padded = padded as u32;
    let args = RoundArgs { x: input.x, norm, out: x, undo, eps, offset, cols, padded };
    let grid = [rows, 1, 1];
    cuda.gpu.launch(&Launch { kernel, grid, block: THREADS, shared: 0, pdl: true }, bytes_of(&args))?;
    Ok(Rounded { x, undo, stride: padded })
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
    for to in [To::Nvfp4, To::F16, To::Bf16] {
        let mut rounded = None;
        for job in jobs.iter().filter(|job| takes(cuda, job) == to) {
            let rounded = match rounded {
                Some(rounded) => rounded,
                None => *rounded.insert(round(cuda, input, to)?),
            };
            let names = match to {
                To::Nvfp4 => Some(["linear_fp4_64", "linear_fp4_128"]),
                To::F16 | To::Bf16 => kernels(job),
            };
            if let Some(names) = names {
                multiply(cuda, input.t, &rounded, names, job)?;
            }
        }
    }
    Ok(())
}

fn multiply(cuda: &Cuda, t: usize, x: &Rounded, names: [&'static str; 2], job: &Job) -> Result<()> {
    let feature_blocks = (job.matrix.row_tiles as usize * TILE_ROWS).div_ceil(FEATURES);
    let blocks = |rows: usize| t.div_ceil(rows) * feature_blocks;
    // Blocks of 128 rows read half as many weights, if there are enough of them for all multiprocessors.
    let wide = t > 64 && blocks(128) >= cuda.properties().multiprocessors as usize;
    let rows = if wide { 128 } else { 64 };
    let args = PrefillArgs {
        matrix: job.matrix,
        x: x.x,
        undo: x.undo,
        out: job.out,
        stride: job.stride as u32,
        epilogue: job.epilogue as u32,
        t: t as u32,
        groups: x.stride,
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
