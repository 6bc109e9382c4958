//! RMS norm, its two-headed form for MTP, and SwiGLU: the row-wise ops.

use super::Cpu;
use super::simd::Simd;
use crate::ops::{Norm, Pass};
use crate::{Result, Tensor};

/// Rows of a task when there are many.
const TASK_ROWS: usize = 8;

/// `out = x * rsqrt(mean(x^2) + eps) * (weight + offset)` over one row.
pub(crate) fn norm_row(simd: Simd, x: &[f32], weight: &[f32], eps: f32, offset: f32, out: &mut [f32]) {
    let scale = 1.0 / (simd.dot(x, x) / x.len() as f32 + eps).sqrt();
    simd.scale_by_weight(x, scale, weight, offset, out);
}

/// The op `rms_norm`.
pub(crate) fn rms_norm(cpu: &Cpu, pass: &Pass, x: &Tensor, norm: &Norm, out: &mut Tensor) -> Result<()> {
    let (t, width) = (pass.rows(), norm.weight.width());
    let weight = norm.weight.exact_f32("rms_norm", "weight", &[width])?;
    let x = x.rows_f32("rms_norm", "x", t, width)?;
    let out = out.rows_f32_mut("rms_norm", "out", t, width)?;
    cpu.pool.chunks(out, TASK_ROWS * width, |task, out| {
        let x = &x[task * TASK_ROWS * width..][..out.len()];
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            norm_row(cpu.simd, x, weight, norm.eps, norm.offset, out);
        }
    });
    Ok(())
}

/// The op `mtp_join`.
pub(crate) fn mtp_join(
    cpu: &Cpu,
    t: usize,
    embedding: &Tensor,
    norm_e: &Norm,
    hidden: &Tensor,
    norm_h: &Norm,
    out: &mut Tensor,
) -> Result<()> {
    const OP: &str = "mtp_join";
    let width = norm_e.weight.width();
    let weight_e = norm_e.weight.exact_f32(OP, "embedding norm", &[width])?;
    let weight_h = norm_h.weight.exact_f32(OP, "hidden norm", &[width])?;
    let embedding = embedding.rows_f32(OP, "embedding", t, width)?;
    let hidden = hidden.rows_f32(OP, "hidden", t, width)?;
    let out = out.rows_f32_mut(OP, "out", t, 2 * width)?;
    cpu.pool.chunks(out, 2 * width, |i, out| {
        let (left, right) = out.split_at_mut(width);
        let row = i * width..(i + 1) * width;
        norm_row(cpu.simd, &embedding[row.clone()], weight_e, norm_e.eps, norm_e.offset, left);
        norm_row(cpu.simd, &hidden[row], weight_h, norm_h.eps, norm_h.offset, right);
    });
    Ok(())
}

/// The op `swiglu`.
pub(crate) fn swiglu(cpu: &Cpu, pass: &Pass, x: &Tensor, out: &mut Tensor) -> Result<()> {
    let (t, inter) = (pass.rows(), out.width());
    let x = x.rows_f32("swiglu", "x", t, 2 * inter)?;
    let out = out.rows_f32_mut("swiglu", "out", t, inter)?;
    cpu.pool.chunks(out, inter, |i, out| {
        let (gate, up) = x[i * 2 * inter..(i + 1) * 2 * inter].split_at(inter);
        cpu.simd.swiglu(gate, up, out);
    });
    Ok(())
}
