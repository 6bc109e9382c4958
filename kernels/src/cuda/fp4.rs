//! Rows rounded to NVFP4 for the FP4 tensor cores (fp4_quantise.cu), in the layout that fp4.cuh draws.

use super::Cuda;
use super::gpu::{Args, Launch, bytes_of};
use super::pack::TILE_COLS;
use crate::{Result, WeightFormat};

/// The compute capability that has the cores, and kernels for them: GB10.
pub(super) const CAPABILITY: (u32, u32) = (12, 1);
/// Columns of a group of a rounded row.
const GROUP_COLS: usize = 4 * TILE_COLS;
/// Bytes of a group; `FP4_GROUP`.
const GROUP_BYTES: usize = 144;
/// Rows of a block.
const BLOCK_ROWS: usize = 4;

/// `struct Fp4Quantise` of fp4.cuh.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct QuantiseArgs {
    x: u64,
    norm: u64,
    ids: u64,
    table: u64,
    out: u64,
    undo: u64,
    eps: f32,
    offset: f32,
    rows: u32,
    stride: u32,
    cols: u32,
    groups: u32,
    experts: u32,
    unused: u32,
}

// SAFETY: repr(C); six u64 then eight 4-byte fields leave no padding.
unsafe impl Args for QuantiseArgs {}
const _: () = assert!(size_of::<QuantiseArgs>() == 80);

/// Rows to round: f32 `[rows, stride]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    pub x: u64,
    pub rows: u32,
    pub stride: u32,
    /// Columns of the widest row.
    pub cols: u32,
    /// Weight, eps and offset of a norm that comes first.
    pub norm: Option<(u64, f32, f32)>,
    /// Each row's expert, the experts' matrices, and how many: rows are as wide as these.
    pub experts: Option<(u64, u64, u32)>,
}

/// Rounded rows, to NVFP4 or to 16 bits, as the kernels of prefill take them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rounded {
    /// `[rows, stride]`.
    pub x: u64,
    /// f32 `[rows]`: what sums are multiplied with.
    pub undo: u64,
    /// Groups of [`GROUP_BYTES`] in a row, or numbers of 16 bits.
    pub stride: u32,
}

impl Cuda {
    /// Whether prefill rounds rows to NVFP4 for weights of it.
    pub(super) fn fp4(&self) -> bool {
        self.fp4.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// Whether prefill's products with weights of this format go to the FP4 tensor cores.
pub(super) fn wanted(cuda: &Cuda, format: WeightFormat) -> bool {
    format == WeightFormat::Nvfp4 && cuda.fp4()
}

/// Rounds rows into the working memory `name`, taken for `room` of them, where they stay until its next use.
pub(super) fn round(cuda: &Cuda, name: &'static str, room: usize, source: &Source) -> Result<Rounded> {
    let (rows, groups) = (source.rows as usize, (source.cols as usize).div_ceil(GROUP_COLS));
    let bytes = (room * groups * GROUP_BYTES).next_multiple_of(256);
    let x = cuda.working(name, bytes + room * 4)?;
    let rounded = Rounded { x, undo: x + bytes as u64, stride: groups as u32 };
    let (norm, eps, offset) = source.norm.unwrap_or_default();
    let (ids, table, experts) = source.experts.unwrap_or_default();
    let args = QuantiseArgs {
        x: source.x,
        norm,
        ids,
        table,
        out: rounded.x,
        undo: rounded.undo,
        eps,
        offset,
        rows: source.rows,
        stride: source.stride,
        cols: source.cols,
        groups: rounded.stride,
        experts,
        unused: 0,
    };
    let launch = Launch {
        kernel: "fp4_quantise",
        grid: [rows.div_ceil(BLOCK_ROWS) as u32, 1, 1],
        block: 32 * BLOCK_ROWS as u32,
        shared: 0,
        pdl: true,
    };
    cuda.gpu.launch(&launch, bytes_of(&args))?;
    Ok(rounded)
}
