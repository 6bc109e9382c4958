//! `attend_paged` for few rows: how attend_decode.cu splits their positions, and its launch, with that of attend_merge.cu where the
//! splits are joined apart.

use super::attention::GeneralArgs;
use super::attention_kernels::{self, HeadRoom};
use super::gpu::{Args, Launch, bytes_of};
use super::{Cuda, DECODE_ROWS, tier};
use crate::Result;
use crate::ops::{AttentionShape, KvFormat, Pass};

/// `struct AttendDecode` in attend_last.cuh.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct DecodeArgs {
    pass: u64,
    q: u64,
    keys: u64,
    values: u64,
    out: u64,
    partial: u64,
    counters: u64,
    first: u32,
    rows: u32,
    q_heads: u32,
    kv_heads: u32,
    q_stride: u32,
    page_len: u32,
    gated: u32,
    splits: u32,
    slots: u32,
    scale: f32,
}

// SAFETY: repr(C); seven u64, then ten numbers of 4 bytes: no padding.
unsafe impl Args for DecodeArgs {}
const _: () = assert!(size_of::<DecodeArgs>() == 96);

/// `struct AttendMerge` in attend_merge.cu.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct MergeArgs {
    pass: u64,
    q: u64,
    partial: u64,
    out: u64,
    first: u32,
    q_heads: u32,
    q_stride: u32,
    head_dim: u32,
    gated: u32,
    splits: u32,
    scale: f32,
    unused: u32,
}

// SAFETY: repr(C); four u64, then eight numbers of 4 bytes: no padding.
unsafe impl Args for MergeArgs {}
const _: () = assert!(size_of::<MergeArgs>() == 64);

/// Positions of a tile of the decode kernel; `BLOCK` in attend_split.cuh.
pub(super) const BLOCK: usize = 64;
/// Threads of a block of the merging kernel.
const MERGE_THREADS: usize = 256;
/// Dimensions of a head that one takes.
const MERGE_DIMS: usize = 64;
/// Splits that are joined before their sets are.
const SET: usize = 16;
/// Most blocks of a multiprocessor that are planned for: three hide each other's barriers better than two with more tiles.
const MOST_RESIDENT: usize = 3;
/// Most splits of a row: sets of sets.
const MOST_SPLITS: usize = SET * SET;
const _: () = assert!(MOST_SPLITS == MERGE_THREADS);

/// How the decode kernel runs over a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DecodePlan {
    kernel: &'static str,
    /// Most splits of a row, by device and heads alone.
    splits: usize,
    /// Splits that the longest context needs.
    used: usize,
    slots: u32,
    shared: u32,
}

impl DecodePlan {
    /// None where the kernel does not apply: f32 caches, heads of no [`HeadRoom`], more than 32 query heads to a key head (16
    /// where heads of 256 have room to spare), pages that are no multiple of a tile.
    pub fn new(
        cuda: &Cuda,
        pass: &Pass,
        shape: &AttentionShape,
        page_len: usize,
        format: KvFormat,
    ) -> Option<DecodePlan> {
        let octets = (shape.q_heads / shape.kv_heads).div_ceil(8);
        let together = pass.segments.iter().map(|s| s.rows).max().unwrap_or(1).min(4);
        if !page_len.is_multiple_of(BLOCK) {
            return None;
        }
        let head_room = HeadRoom::of(shape.head_dim)?;
        let (width, sizes) = (head_room.width(), head_room.units());
        let (least, tile) = (*sizes.iter().find(|units| **units >= octets)?, BLOCK * format.bytes(width));
        let wanted = (octets * together).min(4).next_power_of_two();
        let room = cuda.properties().shared as usize;
        // By the smallest block, whatever the rows are: how a row is split may depend on nothing but the device.
        let resident = (1..=MOST_RESIDENT)
            .rev()
            .find(|resident| slots(fixed_bytes(width, least), tile, room, *resident).is_some())?;
        let splits =
            (resident * cuda.properties().multiprocessors as usize / shape.kv_heads).clamp(1, MOST_SPLITS);
        // Fewer units where shared memory is too small for the queries of so many.
        let fitting = sizes.iter().rev().filter(|units| (least..=wanted.max(least)).contains(*units));
        fitting.copied().find_map(|units| {
            let kernel = attention_kernels::decode(format, head_room, units)?;
            let fixed = fixed_bytes(width, units);
            let slots = (1..=resident).rev().find_map(|resident| slots(fixed, tile, room, resident))?;
            Some(DecodePlan {
                kernel,
                splits,
                used: splits.min(tier(pass).div_ceil(BLOCK)),
                slots: slots as u32,
                shared: (fixed + slots * tile) as u32,
            })
        })
    }

    /// Attention of `t` rows in strips of 16. What the splits of a row found is joined by the last of their blocks, or by a launch of
    /// its own.
    pub fn launch(&self, cuda: &Cuda, t: usize, general: &GeneralArgs, format: KvFormat) -> Result<()> {
        let GeneralArgs { pass, q, out, q_heads, kv_heads, q_stride, head_dim, gated, .. } = *general;
        let sets = self.splits.div_ceil(SET);
        let parts = DECODE_ROWS * q_heads as usize * (self.splits + sets);
        let partial = cuda.working("attend partial", 4 * parts * (head_dim as usize + 4))?;
        let apart = self.used > 1 && cuda.variants.joins_apart();
        // By which blocks know that they are the last; none are where a launch of its own joins.
        let counters = match apart {
            true => 0,
            false => cuda.working("attend counters", 4 * DECODE_ROWS * kv_heads as usize * (sets + 1))?,
        };
        for first in (0..t).step_by(DECODE_ROWS) {
            let (first, rows) = (first as u32, DECODE_ROWS.min(t - first) as u32);
            let args = DecodeArgs {
                pass,
                q,
                keys: general.keys,
                values: general.values,
                out,
                partial,
                counters,
                first,
                rows,
                q_heads,
                kv_heads,
                q_stride,
                page_len: general.page_len,
                gated,
                splits: self.splits as u32,
                slots: self.slots,
                scale: general.scale,
            };
            let grid = [self.used as u32, kv_heads, rows];
            let launch = Launch { kernel: self.kernel, grid, block: 128, shared: self.shared, pdl: true };
            cuda.gpu.launch(&launch, bytes_of(&args))?;
            if !apart {
                continue;
            }
            let args = MergeArgs {
                pass,
                q,
                partial,
                out,
                first,
                q_heads,
                q_stride,
                head_dim,
                gated,
                splits: self.splits as u32,
                // `Layout::MIXED_SCALE` of attend_tile.cuh.
                scale: if format == KvFormat::Fp8 { 1.0 / 16384.0 } else { 1.0 },
                unused: 0,
            };
            let grid = [q_heads, head_dim.div_ceil(MERGE_DIMS as u32), rows];
            let block = MERGE_THREADS as u32;
            let launch = Launch { kernel: "attend_merge", grid, block, shared: 0, pdl: true };
            cuda.gpu.launch(&launch, bytes_of(&args))?;
        }
        Ok(())
    }
}

/// Shared memory of a block of the decode kernel without its tiles: queries, weights, peaks and factors of its units.
fn fixed_bytes(width: usize, units: usize) -> usize {
    units * (width / 16 * 512 + 4 * 512 + 4 * 32 + 32)
}

/// Tiles of a block when `resident` of them share a multiprocessor whose blocks may have `room` bytes; three blocks only
/// where each still has three tiles: two copies under way while one is used.
fn slots(fixed: usize, tile: usize, room: usize, resident: usize) -> Option<usize> {
    let least = if resident > 2 { 3 } else { 2 };
    let each = room / resident - if resident > 1 { 1024 } else { 0 };
    [6, 4, 3, 2].into_iter().filter(|slots| *slots >= least).find(|slots| fixed + slots * tile <= each)
}
