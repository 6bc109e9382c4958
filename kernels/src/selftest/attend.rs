//! The cases of attention: its projections, and caches that were filled the same way everywhere.

use super::Scale;
use super::cases::{PAGE, Sizes};
use super::random::{Random, pass, poisoned};
use crate::ops::{AttentionInputs, AttentionRowsMut, AttentionShape, KvFormat, KvLayer};
use crate::{Ops, Result, WeightFormat};

fn attention_shape(s: &Sizes) -> AttentionShape {
    AttentionShape {
        q_heads: s.heads,
        kv_heads: 2,
        head_dim: s.head_dim,
        rope_dims: s.head_dim / 4,
        rope_theta: 1e7,
        yarn: None,
        scale: (s.head_dim as f32).powf(-0.5),
        gated: true,
    }
}

pub(super) fn attend_in(ops: &dyn Ops, scale: Scale, seed: u64) -> Result<Vec<f32>> {
    let (mut random, s) = (Random::new(seed), scale.sizes());
    let shape = attention_shape(&s);
    let (queries, keys) = (2 * shape.q_heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let q = random.weight(ops, WeightFormat::Fp8, queries, s.hidden, false)?;
    let k = random.weight(ops, WeightFormat::Fp8, keys, s.hidden, false)?;
    let v = random.weight(ops, WeightFormat::Fp8, keys, s.hidden, false)?;
    let (x, norm) = (random.tensor(ops, &[2, s.hidden])?, random.norm(ops, s.hidden, 1.0)?);
    let mut h = poisoned(ops, &[2, s.hidden])?;
    let (mut out_q, mut out_k) = (poisoned(ops, &[2, queries])?, poisoned(ops, &[2, keys])?);
    let mut out_v = poisoned(ops, &[2, keys])?;
    let weights = AttentionInputs { q: &q, k: &k, v: &v };
    let rows = AttentionRowsMut { q: &mut out_q, k: &mut out_k, v: &mut out_v };
    ops.attend_in(&pass(2, 0, PAGE), &x, &norm, weights, &mut h, rows)?;
    let mut all = ops.read_rows(&out_q, 0, 2)?;
    all.extend(ops.read_rows(&out_k, 0, 2)?);
    all.extend(ops.read_rows(&out_v, 0, 2)?);
    Ok(all)
}

/// Few heads that lie within the kernels of a larger size.
pub(super) fn heads_of(head_dim: usize) -> AttentionShape {
    AttentionShape { q_heads: 4, head_dim, rope_dims: 16, ..attention_shape(&Scale::Small.sizes()) }
}

pub(super) fn attend(ops: &dyn Ops, scale: Scale, seed: u64, format: KvFormat, t: usize) -> Result<Vec<f32>> {
    attend_heads(ops, seed, &attention_shape(&scale.sizes()), format, t)
}

/// A context of more parts than are joined at once: 141 on an H200, all 48 of a GB10.
pub(super) fn attend_long(ops: &dyn Ops, scale: Scale, seed: u64) -> Result<Vec<f32>> {
    let before = if scale == Scale::Full { 9_000 } else { 9 * PAGE };
    attend_behind(ops, seed, &attention_shape(&scale.sizes()), KvFormat::Fp8, before, 2)
}

pub(super) fn attend_heads(
    ops: &dyn Ops,
    seed: u64,
    shape: &AttentionShape,
    format: KvFormat,
    t: usize,
) -> Result<Vec<f32>> {
    attend_behind(ops, seed, shape, format, PAGE + 5, t)
}

/// A prompt of `before` tokens in small cuts, so that the cache is filled the same way everywhere, then `t` rows at once.
fn attend_behind(
    ops: &dyn Ops,
    seed: u64,
    shape: &AttentionShape,
    format: KvFormat,
    before: usize,
    t: usize,
) -> Result<Vec<f32>> {
    let mut random = Random::new(seed);
    let (queries, keys) = (2 * shape.q_heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let (q_norm, k_norm) = (random.norm(ops, shape.head_dim, 1.0)?, random.norm(ops, shape.head_dim, 1.0)?);
    let pages = (before + t).div_ceil(PAGE);
    let cache = format.shape(pages, PAGE, shape.kv_heads, shape.head_dim);
    let empty = || ops.zeros(format.dtype(), &cache);
    let mut cache = KvLayer { format, k: empty()?, v: empty()? };
    let mut out = poisoned(ops, &[t, shape.q_heads * shape.head_dim])?;
    let mut at = 0;
    while at < before + t {
        let rows = if at < before { (before - at).min(16) } else { t };
        let mut q = random.tensor(ops, &[rows, queries])?;
        let (k, v) = (random.tensor(ops, &[rows, keys])?, random.tensor(ops, &[rows, keys])?);
        let pages = (0..pages as u32).rev().collect();
        let mut pass = pass(rows, at, PAGE);
        pass.segments[0].pages = pages;
        ops.attend_append(&pass, shape, &q_norm, &k_norm, &mut q, &k, &v, &mut cache)?;
        if at == before {
            ops.attend_paged(&pass, shape, &q, &cache, &mut out)?;
        }
        at += rows;
    }
    ops.read_rows(&out, 0, t)
}
