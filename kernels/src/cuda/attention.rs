//! Launchers of the attention ops: checks as the CPU makes them, then one launch each.

use super::attention_kernels::{self, HeadRoom};
use super::gpu::{Args, Launch, bytes_of};
use super::{Cuda, DECODE_ROWS, tier};
use crate::cpu::kv::check_shape;
use crate::cpu::segments::check_pages;
use crate::ops::{AttentionShape, KvFormat, KvLayer, Norm, Pass};
use crate::{DType, OpError, Result, Tensor};

/// Largest head size the kernels take.
const HEAD_DIM: usize = 256;
/// Vectors per block of `attend_append`.
const APPEND_WARPS: usize = 4;

/// `struct AttendAppend` in attend_append.cu.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct AppendArgs {
    pass: u64,
    q: u64,
    k: u64,
    v: u64,
    q_norm: u64,
    k_norm: u64,
    keys: u64,
    values: u64,
    rows: u32,
    q_heads: u32,
    kv_heads: u32,
    head_dim: u32,
    q_stride: u32,
    page_len: u32,
    format: u32,
    half: u32,
    q_eps: f32,
    k_eps: f32,
    q_offset: f32,
    k_offset: f32,
    magnitude: f32,
    unused: u32,
    frequencies: [f32; HEAD_DIM / 2],
}

// SAFETY: repr(C); eight u64, then 142 numbers of 4 bytes: no padding.
unsafe impl Args for AppendArgs {}
const _: () = assert!(size_of::<AppendArgs>() == 632);

/// `struct AttendGeneral` in attend_general.cu.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct GeneralArgs {
    pass: u64,
    q: u64,
    keys: u64,
    values: u64,
    out: u64,
    q_heads: u32,
    kv_heads: u32,
    head_dim: u32,
    q_stride: u32,
    page_len: u32,
    format: u32,
    gated: u32,
    scale: f32,
}

// SAFETY: repr(C); five u64, then eight numbers of 4 bytes: no padding.
unsafe impl Args for GeneralArgs {}
const _: () = assert!(size_of::<GeneralArgs>() == 72);

/// `struct AttendDecode` in attend_merge.cuh.
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

/// `struct AttendPrefill` in attend_prefill.cu.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct PrefillArgs {
    pass: u64,
    q: u64,
    keys: u64,
    values: u64,
    out: u64,
    q_heads: u32,
    kv_heads: u32,
    q_stride: u32,
    page_len: u32,
    gated: u32,
    scale: f32,
}

// SAFETY: repr(C); five u64, then six numbers of 4 bytes: no padding.
unsafe impl Args for PrefillArgs {}
const _: () = assert!(size_of::<PrefillArgs>() == 64);

/// The number of a format in kv.cuh.
fn format_number(format: KvFormat) -> u32 {
    match format {
        KvFormat::F32 => 0,
        KvFormat::Bf16 => 1,
        KvFormat::Fp8 => 2,
        KvFormat::Nvfp4 => 3,
    }
}

/// Positions per page of a cache that fits shape and pass.
fn check(op: &'static str, pass: &Pass, shape: &AttentionShape, cache: &KvLayer) -> Result<usize> {
    check_shape(op, shape)?;
    if shape.head_dim > HEAD_DIM {
        return Err(OpError::shape(op, "head_dim", format!("at most {HEAD_DIM}"), shape.head_dim));
    }
    let (pages, page_len) = cache.size(op, shape.kv_heads, shape.head_dim)?;
    check_pages(op, pass, pages, page_len)?;
    Ok(page_len)
}

/// Numbers of a query head: with its gate, if it has one.
fn stride(shape: &AttentionShape) -> usize {
    shape.head_dim * if shape.gated { 2 } else { 1 }
}

/// Address of the first `t` rows of an f32 tensor.
fn rows_at(op: &'static str, what: &'static str, x: &Tensor, t: usize, width: usize) -> Result<u64> {
    x.expect_dtype(op, what, DType::F32)?;
    x.expect_rows(op, what, t, width)?;
    x.address(op, what)
}

/// Address of a norm's weight.
fn norm_at(op: &'static str, what: &'static str, norm: &Norm, width: usize) -> Result<u64> {
    norm.weight.expect_dtype(op, what, DType::F32)?;
    norm.weight.expect_shape(op, what, &[width])?;
    norm.weight.address(op, what)
}

/// The op `attend_append`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn append(
    cuda: &Cuda,
    pass: &Pass,
    shape: &AttentionShape,
    q_norm: &Norm,
    k_norm: &Norm,
    q: &mut Tensor,
    k: &Tensor,
    v: &Tensor,
    cache: &mut KvLayer,
) -> Result<()> {
    const OP: &str = "attend_append";
    let page_len = check(OP, pass, shape, cache)?;
    let AttentionShape { q_heads, kv_heads, head_dim, .. } = *shape;
    let t = pass.rows();
    let mut args = AppendArgs {
        pass: 0,
        q: rows_at(OP, "q", q, t, q_heads * stride(shape))?,
        k: rows_at(OP, "k", k, t, kv_heads * head_dim)?,
        v: rows_at(OP, "v", v, t, kv_heads * head_dim)?,
        q_norm: norm_at(OP, "q norm", q_norm, head_dim)?,
        k_norm: norm_at(OP, "k norm", k_norm, head_dim)?,
        keys: cache.k.address(OP, "keys")?,
        values: cache.v.address(OP, "values")?,
        rows: t as u32,
        q_heads: q_heads as u32,
        kv_heads: kv_heads as u32,
        head_dim: head_dim as u32,
        q_stride: stride(shape) as u32,
        page_len: page_len as u32,
        format: format_number(cache.format),
        half: shape.rope_dims as u32 / 2,
        q_eps: q_norm.eps,
        k_eps: k_norm.eps,
        q_offset: q_norm.offset,
        k_offset: k_norm.offset,
        magnitude: shape.magnitude(),
        unused: 0,
        frequencies: [0.0; HEAD_DIM / 2],
    };
    if t == 0 {
        return Ok(());
    }
    for (to, frequency) in args.frequencies.iter_mut().zip(shape.frequencies()) {
        *to = frequency;
    }
    args.pass = cuda.stage(OP, pass)?;
    let blocks = (t * (q_heads + 2 * kv_heads)).div_ceil(APPEND_WARPS);
    let launch = Launch {
        kernel: "attend_append",
        grid: [blocks as u32, 1, 1],
        block: 32 * APPEND_WARPS as u32,
        shared: 0,
        pdl: true,
    };
    cuda.gpu.launch(&launch, bytes_of(&args))
}

/// The op `attend_paged`.
pub(crate) fn paged(
    cuda: &Cuda,
    pass: &Pass,
    shape: &AttentionShape,
    q: &Tensor,
    cache: &KvLayer,
    out: &mut Tensor,
) -> Result<()> {
    const OP: &str = "attend_paged";
    let page_len = check(OP, pass, shape, cache)?;
    let AttentionShape { q_heads, kv_heads, head_dim, .. } = *shape;
    let t = pass.rows();
    let mut args = GeneralArgs {
        pass: 0,
        q: rows_at(OP, "q", q, t, q_heads * stride(shape))?,
        keys: cache.k.address(OP, "keys")?,
        values: cache.v.address(OP, "values")?,
        out: rows_at(OP, "out", out, t, q_heads * head_dim)?,
        q_heads: q_heads as u32,
        kv_heads: kv_heads as u32,
        head_dim: head_dim as u32,
        q_stride: stride(shape) as u32,
        page_len: page_len as u32,
        format: format_number(cache.format),
        gated: u32::from(shape.gated),
        scale: shape.scale,
    };
    if t == 0 {
        return Ok(());
    }
    args.pass = cuda.stage(OP, pass)?;
    if t > DECODE_ROWS
        && !pass.exact
        && let Some(launch) = prefill_launch(pass, shape, page_len, cache.format)
    {
        let GeneralArgs {
            pass,
            q,
            keys,
            values,
            out,
            q_heads,
            kv_heads,
            q_stride,
            page_len,
            gated,
            scale,
            ..
        } = args;
        let args =
            PrefillArgs { pass, q, keys, values, out, q_heads, kv_heads, q_stride, page_len, gated, scale };
        return cuda.gpu.launch(&launch, bytes_of(&args));
    }
    if let Some(plan) = DecodePlan::new(cuda, pass, shape, page_len, cache.format) {
        return decode(cuda, pass, &args, &plan);
    }
    let grid = [(t * q_heads) as u32, 1, 1];
    let launch = Launch { kernel: "attend_general", grid, block: 128, shared: 0, pdl: true };
    cuda.gpu.launch(&launch, bytes_of(&args))
}

/// Queries of a block of the prefill kernel: rows times the query heads of a key head.
const QUERIES: usize = 64;
/// Positions it takes at a time.
const PREFILL_BLOCK: usize = 32;

/// How the prefill kernel runs over a pass; None where it does not apply.
fn prefill_launch(pass: &Pass, shape: &AttentionShape, page_len: usize, format: KvFormat) -> Option<Launch> {
    let AttentionShape { q_heads, kv_heads, head_dim, .. } = *shape;
    let room = HeadRoom::of(head_dim)?;
    let (kernel, width) = (attention_kernels::prefill(format, room)?, room.width());
    let group = q_heads / kv_heads;
    if group > QUERIES || !page_len.is_multiple_of(BLOCK) {
        return None;
    }
    let blocks: usize = pass.segments.iter().map(|s| s.rows.div_ceil(QUERIES / group)).sum();
    let wide = 2 * width * (QUERIES + 2 * PREFILL_BLOCK);
    let kept = 2 * PREFILL_BLOCK * format.bytes(width);
    let shared = (wide + kept + 4 * QUERIES) as u32;
    Some(Launch { kernel, grid: [blocks as u32, kv_heads as u32, 1], block: 128, shared, pdl: true })
}

/// Positions of a tile of the decode kernel.
const BLOCK: usize = 64;
/// Splits merged at a time.
const SET: usize = 16;
/// Most blocks of a multiprocessor that are planned for: three hide each other's barriers better than two with more tiles.
const MOST_RESIDENT: usize = 3;
/// Most splits of a row: sets of sets.
const MOST_SPLITS: usize = SET * SET;

/// How the decode kernel runs over a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DecodePlan {
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
    fn new(
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

/// Launches the decode kernel over strips of rows.
fn decode(cuda: &Cuda, pass: &Pass, general: &GeneralArgs, plan: &DecodePlan) -> Result<()> {
    let (q_heads, kv_heads) = (general.q_heads as usize, general.kv_heads as usize);
    let sets = plan.splits.div_ceil(SET);
    let parts = DECODE_ROWS * q_heads * (plan.splits + sets);
    let partial = cuda.working("attend partial", 4 * parts * (general.head_dim as usize + 4))?;
    let counters = cuda.working("attend counters", 4 * DECODE_ROWS * kv_heads * (sets + 1))?;
    let t = pass.rows();
    for first in (0..t).step_by(DECODE_ROWS) {
        let rows = DECODE_ROWS.min(t - first);
        let args = DecodeArgs {
            pass: general.pass,
            q: general.q,
            keys: general.keys,
            values: general.values,
            out: general.out,
            partial,
            counters,
            first: first as u32,
            rows: rows as u32,
            q_heads: general.q_heads,
            kv_heads: general.kv_heads,
            q_stride: general.q_stride,
            page_len: general.page_len,
            gated: general.gated,
            splits: plan.splits as u32,
            slots: plan.slots,
            scale: general.scale,
        };
        let launch = Launch {
            kernel: plan.kernel,
            grid: [plan.used as u32, general.kv_heads, rows as u32],
            block: 128,
            shared: plan.shared,
            pdl: true,
        };
        cuda.gpu.launch(&launch, bytes_of(&args))?;
    }
    Ok(())
}
