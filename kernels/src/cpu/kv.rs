//! The paged cache of keys and values: its checks, and norm, rotation and append. Reading it is `attention`.

use super::norm::norm_row;
use super::segments::check_pages;
use super::{Cpu, Simd};
use crate::kv::Place;
use crate::narrow::{E4M3, from_nvfp4, to_e4m3, to_nvfp4};
use crate::ops::{AttentionShape, KvFormat, KvLayer, Norm, Pass};
use crate::{OpError, Result, Tensor};
use half::bf16;

/// Refuses heads that do not fit together.
pub(crate) fn check_shape(op: &'static str, shape: &AttentionShape) -> Result<()> {
    let AttentionShape { q_heads, kv_heads, head_dim, rope_dims, .. } = *shape;
    if kv_heads == 0 || head_dim == 0 || q_heads == 0 || !q_heads.is_multiple_of(kv_heads) {
        return Err(OpError::shape(op, "shape", "query heads a multiple of key heads", format!("{shape:?}")));
    }
    if rope_dims > head_dim || !rope_dims.is_multiple_of(2) {
        return Err(OpError::shape(op, "rope_dims", format!("even, at most {head_dim}"), rope_dims));
    }
    Ok(())
}

/// Pages and positions per page of a layer whose two tensors fit `shape`.
pub(crate) fn cache_size(
    op: &'static str,
    shape: &AttentionShape,
    cache: &KvLayer,
) -> Result<(usize, usize)> {
    check_shape(op, shape)?;
    let size = cache.size(op, shape.kv_heads, shape.head_dim)?;
    cache.k.host::<u8>(op, "keys")?;
    cache.v.host::<u8>(op, "values")?;
    Ok(size)
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
    let (frequencies, magnitude) = (shape.frequencies(), shape.magnitude());
    let mut normed = vec![0.0; head_dim];
    for segment in &pass.segments {
        for i in 0..segment.rows {
            let (row, position) = (segment.first_row + i, segment.position + i);
            let turns: Vec<(f32, f32)> = frequencies.iter().map(|f| turn(position, *f, magnitude)).collect();
            for head in q[row * q_heads * stride..(row + 1) * q_heads * stride].chunks_exact_mut(stride) {
                norm_row(cpu.simd, &head[..head_dim], q_weight, q_norm.eps, q_norm.offset, &mut normed);
                rotate(&mut normed, &turns);
                head[..head_dim].copy_from_slice(&normed);
            }
            let page = segment.pages[position / page_len] as usize;
            for head in 0..kv_heads {
                let at = Place::of(cache, page, head, position % page_len, head_dim);
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
                store("keys", cache.format, &mut cache.k, at, &normed)?;
                store("values", cache.format, &mut cache.v, at, &v[from..from + head_dim])?;
            }
        }
    }
    Ok(())
}

/// Cosine and sine of position * frequency, each rounded once, times `magnitude`. The product of two 24-bit numbers is exact
/// in f64: at a million positions one rounded to f32 would be off by 1/32 of a radian.
fn turn(position: usize, frequency: f32, magnitude: f32) -> (f32, f32) {
    let angle = position as f64 * f64::from(frequency);
    (angle.cos() as f32 * magnitude, angle.sin() as f32 * magnitude)
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

/// Writes one vector into the cache, rounding to its format.
fn store(what: &'static str, format: KvFormat, cache: &mut Tensor, at: Place, values: &[f32]) -> Result<()> {
    const OP: &str = "attend_append";
    let (start, len) = (at.values, values.len());
    match format {
        KvFormat::F32 => cache.host_mut::<f32>(OP, what)?[start..start + len].copy_from_slice(values),
        KvFormat::Bf16 => {
            let out = &mut cache.host_mut::<u16>(OP, what)?[start..start + len];
            for (o, v) in out.iter_mut().zip(values) {
                *o = bf16::from_f32(*v).to_bits();
            }
        }
        KvFormat::Fp8 => {
            let out = &mut cache.host_mut::<u8>(OP, what)?[start..start + len];
            for (o, v) in out.iter_mut().zip(values) {
                *o = to_e4m3(*v);
            }
        }
        KvFormat::Nvfp4 => {
            let bytes = cache.host_mut::<u8>(OP, what)?;
            for (i, group) in values.chunks_exact(16).enumerate() {
                bytes[at.scales + i] = to_nvfp4(group, &mut bytes[start + 8 * i..start + 8 * i + 8]);
            }
        }
    }
    Ok(())
}

/// Reads one vector back as f32.
pub(crate) fn load(simd: Simd, format: KvFormat, cache: &Tensor, at: Place, out: &mut [f32]) -> Result<()> {
    const OP: &str = "attend_paged";
    const WHAT: &str = "cache";
    let (start, len) = (at.values, out.len());
    match format {
        KvFormat::F32 => out.copy_from_slice(&cache.host::<f32>(OP, WHAT)?[start..start + len]),
        KvFormat::Bf16 => simd.widen(&cache.host(OP, WHAT)?[start..start + len], out),
        KvFormat::Fp8 => {
            for (o, code) in out.iter_mut().zip(&cache.host::<u8>(OP, WHAT)?[start..start + len]) {
                *o = E4M3[usize::from(*code)];
            }
        }
        KvFormat::Nvfp4 => {
            let bytes = cache.host::<u8>(OP, WHAT)?;
            let (codes, scales) = (&bytes[start..start + len / 2], &bytes[at.scales..at.scales + len / 16]);
            from_nvfp4(codes, scales, out);
        }
    }
    Ok(())
}
