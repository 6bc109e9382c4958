//! Which kernels a product of at most 16 rows may run in, and with how much of a multiprocessor: the first by rule, the others for
//! `tune.rs` to try.

use super::DECODE_ROWS;
use super::gpu::Properties;
use super::linear::Job;
use super::pack::tile_bytes;
use super::variants::Variant;
use crate::WeightFormat;

/// Warps of a block; `WARPS` in linear_decode.cuh.
pub(super) const WARPS: usize = 8;
/// Bytes of a staged tile of one row with its `RowTile`; activation.cuh.
const STAGED_ROW: usize = 256 + 8;
/// Most rows between whose kernels there is a choice.
const CHOICE_ROWS: usize = 4;

/// What a launch runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Way {
    pub variant: Variant,
    pub kernel: &'static str,
    /// Shared memory of a block, bytes.
    pub shared: usize,
    /// Staged tiles of a warp: all it multiplies, or 1.
    pub slots: usize,
    /// Blocks that a multiprocessor is given.
    pub blocks: usize,
    /// Groups of tiles that a warp of linear_ring.cu has on their way; else 0.
    pub ring: u32,
}

/// Names of the kernels of a format: up to 4, 8, 16 rows, rows whose columns do not fit into shared memory, and up to 4
/// rows with more of the weights under way in each of fewer blocks.
macro_rules! kernels {
    ($format:literal) => {
        [
            concat!("linear_", $format, "_decode_4"),
            concat!("linear_", $format, "_decode_8"),
            concat!("linear_", $format, "_decode_16"),
            concat!("linear_", $format, "_decode_wide"),
            concat!("linear_", $format, "_decode_deep"),
        ]
    };
}

/// The kernels that convolve what they stored of the first weight, of whatever formats but f32; the last of 16-bit ones.
const CONVOLVING: [&str; 5] = [
    "linear_mixed_conv_4",
    "linear_mixed_conv_8",
    "linear_mixed_conv_16",
    "linear_mixed_conv_wide",
    "linear_mixed_conv_deep",
];

/// True for the formats that take most bytes a tile.
fn wide(job: &Job) -> bool {
    matches!(job.format, WeightFormat::Bf16 | WeightFormat::F16)
}

/// The kernels of a launch, and how many blocks of each their registers let a multiprocessor hold.
fn kernels(jobs: &[Job], convolves: bool) -> ([&'static str; 5], [usize; 5]) {
    if convolves {
        return (CONVOLVING, [3, 2, 2, 2, if jobs.iter().all(wide) { 2 } else { 0 }]);
    }
    let first = jobs[0].format;
    if jobs.iter().any(|job| job.format != first) {
        return (kernels!("mixed"), [3, 2, 2, 2, 0]);
    }
    match first {
        WeightFormat::F32 => (kernels!("f32"), [3, 3, 2, 2, 2]),
        WeightFormat::F16 => (kernels!("f16"), [4, 3, 2, 2, 2]),
        WeightFormat::Bf16 => (kernels!("bf16"), [4, 3, 2, 2, 2]),
        WeightFormat::Fp8 => (kernels!("fp8"), [4, 3, 2, 2, 2]),
        WeightFormat::Nvfp4 => (kernels!("nvfp4"), [3, 3, 2, 2, 2]),
    }
}

/// Shared memory of a block with so many groups of four rows and staged tiles per warp, of `t` rows.
fn shared_bytes(groups: usize, slots: usize, t: usize) -> usize {
    2 * WARPS * groups * 256 + WARPS * DECODE_ROWS * 4 + WARPS * slots * t * STAGED_ROW
}

/// Numbers of the kernels in [`kernels`]: by rows, of rows that do not fit, and of few blocks.
const WIDE: usize = 3;
const DEEP: usize = 4;

/// The ways for products of `t` rows, all weights of equal width, of f32 alone or not at all. There is one at least.
pub(super) fn ways(device: &Properties, jobs: &[Job], t: usize, convolves: bool) -> Vec<Way> {
    let (names, held) = kernels(jobs, convolves);
    let limit = device.shared as usize;
    let all = (jobs[0].matrix.k_tiles as usize).div_ceil(WARPS);
    let by_rows = if t <= 4 { 0 } else { t.div_ceil(8).min(2) };
    let fits = shared_bytes(1 << by_rows, all, t) <= limit;
    let (size, slots) = if fits { (by_rows, all) } else { (WIDE, 1) };
    let way = |size: usize, variant: Variant| {
        let shared = shared_bytes([1, 2, 4, 4, 1][size], slots, t);
        // Beyond what a multiprocessor holds at once, a block would stage x again instead of going on to its next unit.
        let blocks = held[size].min(limit / shared).max(1);
        Way { variant, kernel: names[size], shared, slots, blocks, ring: 0 }
    };
    // Few row tiles leave most of the device without a block, and 16-bit weights are the most bytes a tile: those blocks
    // ask for more at once.
    let tiles: usize = jobs.iter().map(|job| job.matrix.row_tiles as usize).sum();
    let few = tiles <= 2 * device.multiprocessors as usize || jobs.iter().all(wide);
    // Several formats in one launch have no such kernel, unless all are of 16 bits and convolved.
    let has_deep = size == 0 && held[DEEP] > 0;
    let deep = has_deep && few;
    let mut ways = vec![way(if deep { DEEP } else { size }, Variant::Registers)];
    if t > CHOICE_ROWS || size != 0 {
        return ways;
    }
    if has_deep {
        ways.push(if deep { way(0, Variant::Shallow) } else { way(DEEP, Variant::Deep) });
    }
    ways.extend(rings(limit, jobs, slots, t, convolves));
    ways
}

/// Bytes of a group of tiles in a ring: `Group::BYTES` in linear_ring.cu; none for f32.
fn group_bytes(format: WeightFormat) -> Option<usize> {
    match format {
        WeightFormat::F32 => None,
        WeightFormat::F16 | WeightFormat::Bf16 => Some(tile_bytes(format)),
        WeightFormat::Fp8 => Some(2 * tile_bytes(format) + 16),
        WeightFormat::Nvfp4 => Some(2 * tile_bytes(format)),
    }
}

/// The rings that there is room for.
fn rings(limit: usize, jobs: &[Job], slots: usize, t: usize, convolves: bool) -> Vec<Way> {
    let Some(groups) = jobs.iter().map(|job| group_bytes(job.format)).collect::<Option<Vec<usize>>>() else {
        return Vec::new();
    };
    let largest = groups.into_iter().max().unwrap_or(0);
    let kernel = if convolves { "linear_ring_conv" } else { "linear_ring" };
    let way = |(ring, blocks): (u32, usize)| {
        let shared = shared_bytes(1, slots, t) + WARPS * ring as usize * largest;
        let variant = Variant::Ring { groups: ring, blocks: blocks as u32 };
        // The device keeps 1 KiB of each block's for itself, beyond what one block may have.
        let fits = blocks * (shared + 1024) <= limit + 1024;
        fits.then_some(Way { variant, kernel, shared, slots, blocks, ring })
    };
    [(6, 1), (4, 1), (4, 2), (2, 1), (2, 2)].into_iter().filter_map(way).collect()
}
