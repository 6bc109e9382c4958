//! The gated delta net: its causal convolution and its recurrence.

use super::Cpu;
use super::math::{sigmoid, softplus};
use super::norm::norm_row;
use super::pool::columns;
use super::segments::{check_slots, runs};
use super::simd::STATE_COLS;
use crate::ops::{GdnGates, GdnRows, GdnShape, Pass};
use crate::{OpError, Result, Tensor};

/// Channels of a convolution task.
const TASK_CHANNELS: usize = 512;
/// Rows whose keys and queries are prepared together, so that a part of the state stays in the first cache for them.
const ROWS: usize = 16;

/// The op `gdn_conv`.
pub(crate) fn conv(cpu: &Cpu, pass: &Pass, w: &Tensor, state: &mut Tensor, x: &mut Tensor) -> Result<()> {
    const OP: &str = "gdn_conv";
    let [channels, width] = w.shape[..] else {
        return Err(OpError::shape(OP, "w", "[channels, width]", format!("{:?}", w.shape)));
    };
    if width < 2 || channels == 0 {
        return Err(OpError::shape(
            OP,
            "w",
            "at least one channel, width 2 or more",
            format!("{:?}", w.shape),
        ));
    }
    let slots = state.shape.first().copied().unwrap_or(0);
    check_slots(OP, pass, slots)?;
    let held = width - 1;
    let w = w.exact_f32(OP, "w", &[channels, width])?;
    state.expect_shape(OP, "state", &[slots, held, channels])?;
    let state = state.rows_f32_mut(OP, "state", slots * held, channels)?;
    let x = x.rows_f32_mut(OP, "x", pass.rows(), channels)?;
    for run in runs(pass) {
        let state = run.enter(state, held * channels);
        let x = &mut x[run.first_row * channels..][..run.rows * channels];
        let mut tasks: Vec<_> = columns(state, channels, TASK_CHANNELS)
            .into_iter()
            .zip(columns(x, channels, TASK_CHANNELS))
            .collect();
        cpu.pool.chunks(&mut tasks, 1, |task, columns| {
            let (state, x) = &mut columns[0];
            let (first, count) = (task * TASK_CHANNELS, x.width());
            // Many short stretches: the machine would not see the next one coming.
            cpu.simd.soon(&w[first * width..][..width * count]);
            (0..held).for_each(|j| cpu.simd.soon(state.row(j)));
            let mut taps = vec![0.0; width * count];
            let mut history = vec![0.0; held * count];
            cpu.simd.transpose(&w[first * width..][..width * count], width, &mut taps);
            for j in 0..held {
                history[j * count..(j + 1) * count].copy_from_slice(state.row(j));
            }
            for i in 0..run.rows {
                cpu.simd.convolve(&taps, &mut history, x.row(i));
            }
            for j in 0..held {
                state.row(j).copy_from_slice(&history[j * count..(j + 1) * count]);
            }
        });
    }
    Ok(())
}

/// The op `gdn_step`.
pub(crate) fn step(
    cpu: &Cpu,
    pass: &Pass,
    shape: &GdnShape,
    rows: GdnRows<'_>,
    gates: &GdnGates,
    state: &mut Tensor,
    out: &mut Tensor,
) -> Result<()> {
    const OP: &str = "gdn_step";
    let GdnShape { k_heads, v_heads, k_dim, v_dim, .. } = *shape;
    if k_heads == 0 || v_heads == 0 || !v_heads.is_multiple_of(k_heads) || k_dim == 0 || v_dim == 0 {
        return Err(OpError::shape(OP, "shape", "value heads a multiple of key heads", format!("{shape:?}")));
    }
    let (t, channels) = (pass.rows(), shape.channels());
    let slots = state.shape.first().copied().unwrap_or(0);
    check_slots(OP, pass, slots)?;
    let qkv = rows.qkv.rows_f32(OP, "qkv", t, channels)?;
    let z = rows.z.rows_f32(OP, "z", t, v_heads * v_dim)?;
    let a = rows.a.rows_f32(OP, "a", t, v_heads)?;
    let b = rows.b.rows_f32(OP, "b", t, v_heads)?;
    let a_log = gates.a_log.exact_f32(OP, "a_log", &[v_heads])?;
    let dt_bias = gates.dt_bias.exact_f32(OP, "dt_bias", &[v_heads])?;
    let norm = gates.out_norm.weight.exact_f32(OP, "out_norm", &[v_dim])?;
    state.expect_shape(OP, "state", &[slots, v_heads, k_dim, v_dim])?;
    let size = k_dim * v_dim;
    let state = state.rows_f32_mut(OP, "state", slots * v_heads * k_dim, v_dim)?;
    let out = out.rows_f32_mut(OP, "out", t, v_heads * v_dim)?;

    for run in runs(pass) {
        let state = run.enter(state, v_heads * size);
        let out = &mut out[run.first_row * v_heads * v_dim..][..run.rows * v_heads * v_dim];
        let mut tasks: Vec<_> =
            state.chunks_exact_mut(size).zip(columns(out, v_heads * v_dim, v_dim)).collect();
        cpu.pool.chunks(&mut tasks, 1, |head, task| {
            let (s, out) = &mut task[0];
            let key_head = head / (v_heads / k_heads);
            let rate = -a_log[head].exp();
            let (mut q, mut k) = (vec![0.0; ROWS * k_dim], vec![0.0; ROWS * k_dim]);
            let mut o = vec![0.0; ROWS * v_dim];
            let mut factors = [(0.0, 0.0); ROWS];
            for first in (0..run.rows).step_by(ROWS) {
                let count = ROWS.min(run.rows - first);
                let row_of = |i: usize| run.first_row + first + i;
                for i in 0..count {
                    let row = &qkv[row_of(i) * channels..][..channels];
                    unit(
                        cpu,
                        &row[key_head * k_dim..][..k_dim],
                        (k_dim as f32).powf(-0.5),
                        &mut q[i * k_dim..],
                    );
                    unit(cpu, &row[(k_heads + key_head) * k_dim..][..k_dim], 1.0, &mut k[i * k_dim..]);
                    let at = row_of(i) * v_heads + head;
                    factors[i] = ((rate * softplus(a[at] + dt_bias[head])).exp(), sigmoid(b[at]));
                }
                for column in (0..v_dim).step_by(STATE_COLS) {
                    let width = STATE_COLS.min(v_dim - column);
                    for i in 0..count {
                        let v = &qkv[row_of(i) * channels + 2 * k_heads * k_dim + head * v_dim + column..]
                            [..width];
                        let (k, q) = (&k[i * k_dim..][..k_dim], &q[i * k_dim..][..k_dim]);
                        let (decay, beta) = factors[i];
                        let o = &mut o[i * v_dim + column..][..width];
                        cpu.simd.delta_rule(s, v_dim, column, k, q, v, decay, beta, o);
                    }
                }
                for i in 0..count {
                    let out = out.row(first + i);
                    norm_row(
                        cpu.simd,
                        &o[i * v_dim..][..v_dim],
                        norm,
                        gates.out_norm.eps,
                        gates.out_norm.offset,
                        out,
                    );
                    cpu.simd.times_silu(&z[(row_of(i) * v_heads + head) * v_dim..][..v_dim], out);
                }
            }
        });
    }
    Ok(())
}

/// `out = x * rsqrt(|x|^2 + 1e-6) * factor`.
fn unit(cpu: &Cpu, x: &[f32], factor: f32, out: &mut [f32]) {
    let scale = 1.0 / (cpu.simd.dot(x, x) + 1e-6).sqrt() * factor;
    for (o, x) in out.iter_mut().zip(x) {
        *o = x * scale;
    }
}
