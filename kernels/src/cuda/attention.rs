//! Launchers of the attention ops: checks as the CPU makes them, then one launch each.

use super::attention_decode::{BLOCK, DecodePlan};
use super::attention_kernels::{self, HeadRoom};
use super::gpu::{Args, Launch, bytes_of};
use super::{Cuda, DECODE_ROWS};
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
pub(super) struct GeneralArgs {
    pub pass: u64,
    pub q: u64,
    pub keys: u64,
    pub values: u64,
    pub out: u64,
    pub q_heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    pub q_stride: u32,
    pub page_len: u32,
    pub format: u32,
    pub gated: u32,
    pub scale: f32,
}

// SAFETY: repr(C); five u64, then eight numbers of 4 bytes: no padding.
unsafe impl Args for GeneralArgs {}
const _: () = assert!(size_of::<GeneralArgs>() == 72);

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
        return plan.launch(cuda, t, &args, cache.format);
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
