//! Loops over rows of f32 numbers, written once and compiled for every SIMD level: the row-wise parts of the ops.
//!
//! Sums run in `WIDE` lanes and end left to right, so that they have one order whatever the length of a register.

use super::{Level, Simd};
use crate::cpu::math::{exp, sigmoid, silu};

/// Lanes of a sum.
const WIDE: usize = 64;
/// Columns of the delta net's state that are updated together; their sums stay in registers.
pub(crate) const STATE_COLS: usize = 64;
/// How many rows of the state are asked for ahead of their use.
#[cfg(target_arch = "x86_64")]
const ROWS_AHEAD: usize = 16;

/// a * b + c, fused where the level has the instruction.
#[inline(always)]
fn fma<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// One loop for all levels: a body that is inlined into a function per level.
macro_rules! for_every_level {
    ($(#[$doc:meta])* $name:ident = $body:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?) => {
        impl Simd {
            $(#[$doc])*
            #[allow(clippy::too_many_arguments)]
            pub(crate) fn $name(self, $($arg: $type),*) $(-> $result)? {
                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")]
                #[allow(clippy::too_many_arguments)]
                fn avx512($($arg: $type),*) $(-> $result)? {
                    $body::<true>($($arg),*)
                }
                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx2,fma,f16c")]
                #[allow(clippy::too_many_arguments)]
                fn avx2($($arg: $type),*) $(-> $result)? {
                    $body::<true>($($arg),*)
                }
                match self.0 {
                    Level::Scalar => $body::<false>($($arg),*),
                    // SAFETY: a Simd of this level exists only where its instructions were detected.
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx512 | Level::Vnni => unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx2 => unsafe { avx2($($arg),*) },
                    #[cfg(target_arch = "aarch64")]
                    Level::Neon => $body::<true>($($arg),*),
                }
            }
        }
    };
}

for_every_level!(
    /// All words joined by xor: reads everything, computes next to nothing.
    fold = fold_body(words: &[u64]) -> u64
);

#[inline(always)]
fn fold_body<const FUSED: bool>(words: &[u64]) -> u64 {
    let mut lanes = [0u64; WIDE];
    let (whole, rest) = words.as_chunks::<WIDE>();
    for chunk in whole {
        // As far ahead as reads fastest here (kernels/results/NOTES.md); without it the roof comes out a seventh too low.
        #[cfg(target_arch = "x86_64")]
        for line in chunk.chunks(8) {
            // SAFETY: a prefetch may name any address and has no effect but on the cache.
            unsafe {
                use std::arch::x86_64::*;
                _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().wrapping_byte_add(1536).cast());
            }
        }
        for (lane, word) in lanes.iter_mut().zip(chunk) {
            *lane ^= word;
        }
    }
    lanes.iter().chain(rest).fold(0, |all, word| all ^ word)
}

for_every_level!(
    /// Sum of a[i] b[i].
    dot = dot_body(a: &[f32], b: &[f32]) -> f32
);

#[inline(always)]
fn dot_body<const FUSED: bool>(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; WIDE];
    // Lanes that are only ever named by constants stay in registers.
    let mut add = |a: &[f32; WIDE], b: &[f32; WIDE]| {
        for i in 0..WIDE {
            lanes[i] = fma::<FUSED>(a[i], b[i], lanes[i]);
        }
    };
    let (whole_a, rest_a) = a.as_chunks::<WIDE>();
    let (whole_b, rest_b) = b.as_chunks::<WIDE>();
    for (a, b) in whole_a.iter().zip(whole_b) {
        add(a, b);
    }
    if !rest_a.is_empty() {
        let padded = |rest: &[f32]| {
            let mut all = [0.0; WIDE];
            all[..rest.len()].copy_from_slice(rest);
            all
        };
        add(&padded(rest_a), &padded(&rest_b[..rest_a.len()]));
    }
    let mut width = WIDE / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

for_every_level!(
    /// out[j] = factor * sum_i q[i] keys[j][i], keys `[out.len(), q.len()]`.
    scores = scores_body(q: &[f32], keys: &[f32], factor: f32, out: &mut [f32])
);

#[inline(always)]
fn scores_body<const FUSED: bool>(q: &[f32], keys: &[f32], factor: f32, out: &mut [f32]) {
    for (out, key) in out.iter_mut().zip(keys.chunks_exact(q.len())) {
        *out = factor * dot_body::<FUSED>(q, key);
    }
}

for_every_level!(
    /// out = x * scale * (weight + offset).
    scale_by_weight = scale_by_weight_body(x: &[f32], scale: f32, weight: &[f32], offset: f32, out: &mut [f32])
);

#[inline(always)]
fn scale_by_weight_body<const FUSED: bool>(
    x: &[f32],
    scale: f32,
    weight: &[f32],
    offset: f32,
    out: &mut [f32],
) {
    for ((o, x), w) in out.iter_mut().zip(x).zip(weight) {
        *o = x * scale * (w + offset);
    }
}

for_every_level!(
    /// out = silu(gate) * up.
    swiglu = swiglu_body(gate: &[f32], up: &[f32], out: &mut [f32])
);

#[inline(always)]
fn swiglu_body<const FUSED: bool>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((o, gate), up) in out.iter_mut().zip(gate).zip(up) {
        *o = silu(*gate) * up;
    }
}

for_every_level!(
    /// out *= silu(z).
    times_silu = times_silu_body(z: &[f32], out: &mut [f32])
);

#[inline(always)]
fn times_silu_body<const FUSED: bool>(z: &[f32], out: &mut [f32]) {
    for (o, z) in out.iter_mut().zip(z) {
        *o *= silu(*z);
    }
}

for_every_level!(
    /// out = x * factor, times sigmoid(gate) if there is one.
    scale_and_gate = scale_and_gate_body(x: &[f32], factor: f32, gate: Option<&[f32]>, out: &mut [f32])
);

#[inline(always)]
fn scale_and_gate_body<const FUSED: bool>(x: &[f32], factor: f32, gate: Option<&[f32]>, out: &mut [f32]) {
    for (o, x) in out.iter_mut().zip(x) {
        *o = x * factor;
    }
    if let Some(gate) = gate {
        for (o, gate) in out.iter_mut().zip(gate) {
            *o *= sigmoid(*gate);
        }
    }
}

for_every_level!(
    /// out += factor * x.
    add_scaled = add_scaled_body(x: &[f32], factor: f32, out: &mut [f32])
);

#[inline(always)]
fn add_scaled_body<const FUSED: bool>(x: &[f32], factor: f32, out: &mut [f32]) {
    for (o, x) in out.iter_mut().zip(x) {
        *o = fma::<FUSED>(*x, factor, *o);
    }
}

for_every_level!(
    /// x = x * keep + sum_j weights[j] values[j], values `[weights.len(), x.len()]`, j in order.
    mix = mix_body(x: &mut [f32], keep: f32, weights: &[f32], values: &[f32])
);

#[inline(always)]
fn mix_body<const FUSED: bool>(x: &mut [f32], keep: f32, weights: &[f32], values: &[f32]) {
    let width = x.len();
    let (whole, rest) = x.as_chunks_mut::<WIDE>();
    for (c, x) in whole.iter_mut().enumerate() {
        let mut sums = x.map(|x| x * keep);
        for (weight, row) in weights.iter().zip(values.chunks_exact(width)) {
            for (sum, v) in sums.iter_mut().zip(&row[c * WIDE..(c + 1) * WIDE]) {
                *sum = fma::<FUSED>(*weight, *v, *sum);
            }
        }
        *x = sums;
    }
    let first = width - rest.len();
    for (c, x) in rest.iter_mut().enumerate() {
        *x *= keep;
        for (weight, row) in weights.iter().zip(values.chunks_exact(width)) {
            *x = fma::<FUSED>(*weight, row[first + c], *x);
        }
    }
}

for_every_level!(
    /// Rows of `width` numbers become `width` rows.
    transpose = transpose_body(x: &[f32], width: usize, out: &mut [f32])
);

#[inline(always)]
fn transpose_body<const FUSED: bool>(x: &[f32], width: usize, out: &mut [f32]) {
    if width == 4 {
        let (columns, _) = x.as_chunks::<4>();
        let (a, rest) = out.split_at_mut(columns.len());
        let (b, rest) = rest.split_at_mut(columns.len());
        let (c, d) = rest.split_at_mut(columns.len());
        for ((((x, a), b), c), d) in columns.iter().zip(a).zip(b).zip(c).zip(d) {
            [*a, *b, *c, *d] = *x;
        }
        return;
    }
    let columns = x.len() / width;
    for (i, row) in x.chunks_exact(width).enumerate() {
        for (j, value) in row.iter().enumerate() {
            out[j * columns + i] = *value;
        }
    }
}

for_every_level!(
    /// bf16 numbers as f32.
    widen = widen_body(bits: &[u16], out: &mut [f32])
);

#[inline(always)]
fn widen_body<const FUSED: bool>(bits: &[u16], out: &mut [f32]) {
    for (o, bits) in out.iter_mut().zip(bits) {
        *o = f32::from_bits(u32::from(*bits) << 16);
    }
}

for_every_level!(
    /// x = exp(x - most).
    exp_minus = exp_minus_body(x: &mut [f32], most: f32)
);

#[inline(always)]
fn exp_minus_body<const FUSED: bool>(x: &mut [f32], most: f32) {
    for x in x {
        *x = exp(*x - most);
    }
}

for_every_level!(
    /// One tap-by-tap step of the causal convolution over some channels: `x` becomes silu of the sum, `history`
    /// (`[taps - 1, channels]`, oldest first) moves on by one row. `taps` is `[taps, channels]`.
    convolve = convolve_body(taps: &[f32], history: &mut [f32], x: &mut [f32])
);

#[inline(always)]
fn convolve_body<const FUSED: bool>(taps: &[f32], history: &mut [f32], x: &mut [f32]) {
    let channels = x.len();
    let held = history.len() / channels;
    let mut sums = [0.0f32; WIDE];
    for first in (0..channels).step_by(WIDE) {
        let count = WIDE.min(channels - first);
        let sums = &mut sums[..count];
        let row = |j: usize| j * channels + first..j * channels + first + count;
        for ((sum, tap), old) in sums.iter_mut().zip(&taps[row(0)]).zip(&history[row(0)]) {
            *sum = tap * old;
        }
        for j in 1..held {
            for ((sum, tap), old) in sums.iter_mut().zip(&taps[row(j)]).zip(&history[row(j)]) {
                *sum = fma::<FUSED>(*tap, *old, *sum);
            }
        }
        let x = &mut x[first..first + count];
        for ((sum, tap), raw) in sums.iter_mut().zip(&taps[row(held)]).zip(&*x) {
            *sum = fma::<FUSED>(*tap, *raw, *sum);
        }
        for j in 1..held {
            history.copy_within(row(j), row(j - 1).start);
        }
        history[row(held - 1)].copy_from_slice(x);
        for (x, sum) in x.iter_mut().zip(sums) {
            *x = silu(*sum);
        }
    }
}

for_every_level!(
    /// One row of the delta rule on columns `first ..` (at most `STATE_COLS`, as many as `v` holds) of a state
    /// `[k.len(), stride]`: s = decay s; s += k (beta (v - s^T k)); o = s^T q.
    delta_rule = delta_rule_body(
        state: &mut [f32], stride: usize, first: usize, k: &[f32], q: &[f32], v: &[f32], decay: f32, beta: f32, o: &mut [f32]
    )
);

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn delta_rule_body<const FUSED: bool>(
    state: &mut [f32],
    stride: usize,
    first: usize,
    k: &[f32],
    q: &[f32],
    v: &[f32],
    decay: f32,
    beta: f32,
    o: &mut [f32],
) {
    if let (Ok(v), Ok(o)) = (<&[f32; STATE_COLS]>::try_from(v), <&mut [f32; STATE_COLS]>::try_from(&mut *o)) {
        let mut sums = [0.0f32; STATE_COLS];
        for (row, k) in state.chunks_exact(stride).zip(k) {
            // The columns of a row are too few for the machine to see what comes next.
            #[cfg(target_arch = "x86_64")]
            for line in (0..STATE_COLS).step_by(16) {
                use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                let at = row.as_ptr().wrapping_add(ROWS_AHEAD * stride + first + line);
                // SAFETY: a prefetch may name any address and has no effect but on the cache.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
            }
            let row: &[f32; STATE_COLS] =
                row[first..first + STATE_COLS].try_into().expect("the length is the constant");
            for i in 0..STATE_COLS {
                sums[i] = fma::<FUSED>(decay * row[i], *k, sums[i]);
            }
        }
        let delta: [f32; STATE_COLS] = std::array::from_fn(|i| beta * (v[i] - sums[i]));
        let mut sums = [0.0f32; STATE_COLS];
        for ((row, k), q) in state.chunks_exact_mut(stride).zip(k).zip(q) {
            let row: &mut [f32; STATE_COLS] =
                (&mut row[first..first + STATE_COLS]).try_into().expect("the length is the constant");
            for i in 0..STATE_COLS {
                row[i] = fma::<FUSED>(*k, delta[i], decay * row[i]);
                sums[i] = fma::<FUSED>(row[i], *q, sums[i]);
            }
        }
        *o = sums;
        return;
    }
    for (i, (v, o)) in v.iter().zip(o).enumerate() {
        let mut sum = 0.0;
        for (row, k) in state.chunks_exact(stride).zip(k) {
            sum = fma::<FUSED>(decay * row[first + i], *k, sum);
        }
        let delta = beta * (v - sum);
        *o = 0.0;
        for ((row, k), q) in state.chunks_exact_mut(stride).zip(k).zip(q) {
            row[first + i] = fma::<FUSED>(*k, delta, decay * row[first + i]);
            *o = fma::<FUSED>(row[first + i], *q, *o);
        }
    }
}
