//! The paged cache of keys and values: its checks, and norm, rotation and append. Reading it is `attention`.

use super::Cpu;
use super::norm::norm_row;
use super::segments::check_pages;
use crate::ops::{AttentionShape, KvLayer, Norm, Pass};
use crate::{DType, OpError, Result, Tensor};
use half::bf16;

/// Pages and positions per page of a layer whose two tensors fit `shape`.
pub(crate) fn cache_size(
    op: &'static str,
    shape: &AttentionShape,
    cache: &KvLayer,
) -> Result<(usize, usize)> {
    let AttentionShape { q_heads, kv_heads, head_dim, rope_dims, .. } = *shape;
    if kv_heads == 0 || head_dim == 0 || q_heads == 0 || !q_heads.is_multiple_of(kv_heads) {
        return Err(OpError::shape(op, "shape", "query heads a multiple of key heads", format!("{shape:?}")));
    }
    if rope_dims > head_dim || !rope_dims.is_multiple_of(2) {
        return Err(OpError::shape(op, "rope_dims", format!("even, at most {head_dim}"), rope_dims));
    }
    let [pages, page_len, ..] = cache.k.shape[..] else {
        return Err(OpError::shape(
            op,
            "keys",
            "[pages, page_len, kv_heads, head_dim]",
            format!("{:?}", cache.k.shape),
        ));
    };
    cache.k.expect_shape(op, "keys", &[pages, page_len, kv_heads, head_dim])?;
    cache.v.expect_shape(op, "values", &[pages, page_len, kv_heads, head_dim])?;
    if !matches!(cache.k.dtype, DType::F32 | DType::Bf16) {
        return Err(OpError::shape(op, "keys", "F32 or Bf16", format!("{:?}", cache.k.dtype)));
    }
    cache.v.expect_dtype(op, "values", cache.k.dtype)?;
    cache.k.host::<u8>(op, "keys")?;
    cache.v.host::<u8>(op, "values")?;
    Ok((pages, page_len))
}

/// The op `attend_append`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn append(
    cpu: &Cpu,
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
    let (pages, page_len) = cache_size(OP, shape, cache)?;
    check_pages(OP, pass, pages, page_len)?;
    let AttentionShape { q_heads, kv_heads, head_dim, .. } = *shape;
    let (t, stride) = (pass.rows(), head_dim * if shape.gated { 2 } else { 1 });
    let q_weight = q_norm.weight.exact_f32(OP, "q norm", &[head_dim])?;
    let k_weight = k_norm.weight.exact_f32(OP, "k norm", &[head_dim])?;
    let q = q.rows_f32_mut(OP, "q", t, q_heads * stride)?;
    let k = k.rows_f32(OP, "k", t, kv_heads * head_dim)?;
    let v = v.rows_f32(OP, "v", t, kv_heads * head_dim)?;
    let frequencies = frequencies(shape);
    let mut normed = vec![0.0; head_dim];
    for segment in &pass.segments {
        for i in 0..segment.rows {
            let (row, position) = (segment.first_row + i, segment.position + i);
            let turns: Vec<(f32, f32)> = frequencies.iter().map(|f| turn(position, *f)).collect();
            for head in q[row * q_heads * stride..(row + 1) * q_heads * stride].chunks_exact_mut(stride) {
                norm_row(cpu.simd, &head[..head_dim], q_weight, q_norm.eps, q_norm.offset, &mut normed);
                rotate(&mut normed, &turns);
                head[..head_dim].copy_from_slice(&normed);
            }
            let page = segment.pages[position / page_len] as usize;
            for head in 0..kv_heads {
                let at = ((page * page_len + position % page_len) * kv_heads + head) * head_dim;
                let from = (row * kv_heads + head) * head_dim;
                norm_row(
                    cpu.simd,
                    &k[from..from + head_dim],
                    k_weight,
                    k_norm.eps,
                    k_norm.offset,
                    &mut normed,
                );
                rotate(&mut normed, &turns);
                store("keys", &mut cache.k, at, &normed)?;
                store("values", &mut cache.v, at, &v[from..from + head_dim])?;
            }
        }
    }
    Ok(())
}

/// inv_freq_i = theta^(-2i / rope_dims), rounded as the reference does (f32 power, then f32 reciprocal).
fn frequencies(shape: &AttentionShape) -> Vec<f32> {
    let dims = shape.rope_dims as f32;
    (0..shape.rope_dims / 2).map(|i| 1.0 / shape.rope_theta.powf(2.0 * i as f32 / dims)).collect()
}

/// Cosine and sine of an f32 angle, each rounded once.
fn turn(position: usize, frequency: f32) -> (f32, f32) {
    let angle = f64::from(position as f32 * frequency);
    (angle.cos() as f32, angle.sin() as f32)
}

/// Rotates the pairs (i, i + n) of the first 2n dimensions.
fn rotate(x: &mut [f32], turns: &[(f32, f32)]) {
    let half = turns.len();
    for (i, &(cos, sin)) in turns.iter().enumerate() {
        let (a, b) = (x[i], x[i + half]);
        x[i] = a * cos - b * sin;
        x[i + half] = b * cos + a * sin;
    }
}

/// Writes one head into the cache, rounding to its dtype.
fn store(what: &'static str, cache: &mut Tensor, at: usize, values: &[f32]) -> Result<()> {
    let op = "attend_append";
    match cache.dtype {
        DType::F32 => cache.host_mut(op, what)?[at..at + values.len()].copy_from_slice(values),
        _ => {
            let out = &mut cache.host_mut(op, what)?[at..at + values.len()];
            for (o, v) in out.iter_mut().zip(values) {
                *o = bf16::from_f32(*v).to_bits();
            }
        }
    }
    Ok(())
}
