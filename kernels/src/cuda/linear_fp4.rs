//! Products of many rows with NVFP4 weights on FP4 tensor cores (linear_fp4.cu): x is rounded to NVFP4 once, then every weight
//! takes a launch. Opt-in; what it computes is defined by `fp4.rs`.

use super::Cuda;
use super::fp4::{self, GROUP_BYTES, Rounded, Source};
use super::gpu::{Args, Launch, bytes_of};
use super::linear::{Input, Job};
use super::pack::TILE_ROWS;
use super::weight::Matrix;
use crate::{Result, WeightFormat};

/// Threads of a block; `THREADS` in linear_fp4.cu.
const THREADS: u32 = 256;
/// Features of a block.
const FEATURES: usize = 8 * TILE_ROWS;
/// Bytes of a row of x in a block's shared memory, all stages.
const SHARED_ROW: usize = 3 * GROUP_BYTES;

/// `struct LinearFp4` in linear_fp4.cu.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct ProductArgs {
    matrix: Matrix,
    x: u64,
    undo: u64,
    out: u64,
    stride: u32,
    epilogue: u32,
    t: u32,
    groups: u32,
}

// SAFETY: repr(C); every field starts where the one before ends, see the size.
unsafe impl Args for ProductArgs {}
const _: () = assert!(size_of::<ProductArgs>() == 88);

/// True if the product is to be computed here.
pub(super) fn wanted(cuda: &Cuda, job: &Job) -> bool {
    cuda.fp4() && job.format == WeightFormat::Nvfp4
}

/// Products of any number of rows. All weights are `input.cols` wide and [`wanted`].
pub(super) fn prefill(cuda: &Cuda, input: Input, jobs: &[Job]) -> Result<()> {
    let cols = input.cols as u32;
    let source =
        Source { x: input.x, rows: input.t as u32, stride: cols, cols, norm: input.norm, experts: None };
    let rounded = fp4::round(cuda, "rows rounded to nvfp4", input.t, &source)?;
    jobs.iter().try_for_each(|job| multiply(cuda, input.t, &rounded, job))
}

fn multiply(cuda: &Cuda, t: usize, rounded: &Rounded, job: &Job) -> Result<()> {
    let feature_blocks = (job.matrix.row_tiles as usize * TILE_ROWS).div_ceil(FEATURES);
    let blocks = |rows: usize| t.div_ceil(rows) * feature_blocks;
    // Blocks of 128 rows turn half as many weights into operands, if there are enough of them for all multiprocessors.
    let wide = t > 64 && blocks(128) >= cuda.properties().multiprocessors as usize;
    let rows = if wide { 128 } else { 64 };
    let args = ProductArgs {
        matrix: job.matrix,
        x: rounded.x,
        undo: rounded.undo,
        out: job.out,
        stride: job.stride as u32,
        epilogue: job.epilogue as u32,
        t: t as u32,
        groups: rounded.groups,
    };
    let launch = Launch {
        kernel: if wide { "linear_fp4_128" } else { "linear_fp4_64" },
        grid: [blocks(rows) as u32, 1, 1],
        block: THREADS,
        shared: (rows * SHARED_ROW) as u32,
        pdl: true,
    };
    cuda.gpu.launch(&launch, bytes_of(&args))
}
