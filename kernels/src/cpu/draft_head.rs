//! The head that drafts are proposed with: rows of the model's head, rounded to fewer bits, and logits of some tokens in their
//! places among all. Made once, at load; the launcher of the GPU's makes the same checks.

use super::Cpu;
use super::weight::{BLOCK, LANES};
use crate::narrow::{to_e2m1, to_e4m3, to_nvfp4};
use crate::weight::Storage;
use crate::{
    DType, Fp8Scales, Nvfp4Global, OpError, PackedWeight, Result, Tensor, Values, Weight, WeightFormat,
};
use half::{bf16, f16};

/// Refuses rows that are not there and formats that cannot hold the head.
pub(crate) fn check(op: &'static str, head: &Weight, ids: &[u32], format: WeightFormat) -> Result<()> {
    if ids.is_empty() {
        return Err(OpError::shape(op, "ids", "at least one row", "none"));
    }
    if let Some(id) = ids.iter().find(|id| **id as usize >= head.rows) {
        return Err(OpError::shape(op, "ids", format!("below {}", head.rows), id));
    }
    if format != head.format && !matches!(format, WeightFormat::Fp8 | WeightFormat::Nvfp4) {
        let expected = format!("{:?}, Fp8 or Nvfp4", head.format);
        return Err(OpError::shape(op, "format", expected, format!("{format:?}")));
    }
    if format == WeightFormat::Nvfp4 && !head.cols.is_multiple_of(16) {
        return Err(OpError::shape(op, "nvfp4 columns", "a multiple of 16", head.cols));
    }
    Ok(())
}

/// 2^k that brings `most` into [2^7, 2^8) for FP8 and [2^10, 2^11) for NVFP4, and 2^-k.
fn factor(format: WeightFormat, most: f32) -> (f32, f32) {
    let top = if format == WeightFormat::Fp8 { 261 } else { 264 };
    let exponent = (top - (most.to_bits() >> 23)).min(253);
    (f32::from_bits(exponent << 23), f32::from_bits((254 - exponent) << 23))
}

/// The op `draft_head`.
pub(crate) fn draft_head(cpu: &Cpu, head: &Weight, ids: &[u32], format: WeightFormat) -> Result<Weight> {
    const OP: &str = "draft_head";
    check(OP, head, ids, format)?;
    let panels = head.panels(OP, "head")?;
    let (rows, cols) = (ids.len(), head.cols);
    let kept = format == head.format && panels.block_scales.len() == 0;
    let numbers = match format {
        WeightFormat::F32 => 4 * cols,
        WeightFormat::F16 | WeightFormat::Bf16 => 2 * cols,
        WeightFormat::Fp8 => cols,
        WeightFormat::Nvfp4 => cols / 2,
    };
    let scales = if format == WeightFormat::Nvfp4 { cols / 16 } else { 0 };
    // A row as it is stored, its scales per 16, and its own scale.
    let mut stored = vec![0u8; rows * (numbers + scales + 4)];
    cpu.pool.chunks(&mut stored, numbers + scales + 4, |i, stored| {
        let (panel, r) = (panels.panel(ids[i] as usize / LANES), ids[i] as usize % LANES);
        let mut x: Vec<f32> =
            (0..cols).map(|c| panel.value(c / BLOCK, c % BLOCK, r) * panel.scale(c / BLOCK, r)).collect();
        let mut scale = panel.row_scales[r];
        if !kept {
            let (up, down) = factor(format, x.iter().fold(0.0f32, |most, x| most.max(x.abs())));
            x.iter_mut().for_each(|x| *x *= up);
            scale *= down;
        }
        let (to, rest) = stored.split_at_mut(numbers);
        let (groups, own) = rest.split_at_mut(scales);
        own.copy_from_slice(&scale.to_le_bytes());
        match format {
            WeightFormat::F32 => {
                to.chunks_exact_mut(4).zip(&x).for_each(|(to, x)| to.copy_from_slice(&x.to_le_bytes()));
            }
            WeightFormat::F16 => {
                let two = |x: f32| f16::from_f32(x).to_le_bytes();
                to.chunks_exact_mut(2).zip(&x).for_each(|(to, x)| to.copy_from_slice(&two(*x)));
            }
            WeightFormat::Bf16 => {
                let two = |x: f32| bf16::from_f32(x).to_le_bytes();
                to.chunks_exact_mut(2).zip(&x).for_each(|(to, x)| to.copy_from_slice(&two(*x)));
            }
            WeightFormat::Fp8 => to.iter_mut().zip(&x).for_each(|(to, x)| *to = to_e4m3(*x)),
            WeightFormat::Nvfp4 if kept => {
                for (c, pair) in to.iter_mut().enumerate() {
                    let code = |c: usize| to_e2m1(panel.value(c / BLOCK, c % BLOCK, r));
                    *pair = code(2 * c) | code(2 * c + 1) << 4;
                }
                groups.iter_mut().enumerate().for_each(|(i, scale)| *scale = to_e4m3(panel.scale(i, r)));
            }
            WeightFormat::Nvfp4 => {
                for ((codes, scale), x) in to.chunks_exact_mut(8).zip(groups).zip(x.chunks_exact(16)) {
                    *scale = to_nvfp4(x, codes);
                }
            }
        }
    });
    let part = |from: usize, len: usize| -> Vec<u8> {
        stored.chunks_exact(numbers + scales + 4).flat_map(|row| &row[from..from + len]).copied().collect()
    };
    let (numbers, groups, own) = (part(0, numbers), part(numbers, scales), part(numbers + scales, 4));
    let own: Vec<f32> = own.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let values = match format {
        WeightFormat::F32 => Values::F32(&numbers),
        WeightFormat::F16 => Values::F16(&numbers),
        WeightFormat::Bf16 => Values::Bf16(&numbers),
        WeightFormat::Fp8 => Values::Fp8 { codes: &numbers, scales: Fp8Scales::Row(own.clone()) },
        WeightFormat::Nvfp4 => {
            Values::Nvfp4 { nibbles: &numbers, scales: &groups, global: Nvfp4Global::Multiply(1.0) }
        }
    };
    let mut packed = super::pack::pack(cpu, &[PackedWeight { rows, cols, values }])?;
    if let Storage::Cpu(weight) = &mut packed.storage {
        // A checkpoint's NVFP4 has one scale for all rows; here each has its own.
        weight.row_scales.as_mut_slice::<f32>()[..rows].copy_from_slice(&own);
    }
    Ok(packed)
}

/// The op `spread_logits`.
pub(crate) fn spread(cpu: &Cpu, t: usize, x: &Tensor, place: &Tensor, out: &mut Tensor) -> Result<()> {
    const OP: &str = "spread_logits";
    let (kept, vocab) = (x.width(), out.width());
    place.expect_dtype(OP, "place", DType::U32)?;
    place.expect_shape(OP, "place", &[vocab])?;
    let place = place.host::<u32>(OP, "place")?;
    let x = x.rows_f32(OP, "x", t, kept)?;
    let out = out.rows_f32_mut(OP, "out", t, vocab)?;
    cpu.pool.chunks(out, vocab.max(1), |i, out| {
        let x = &x[i * kept..(i + 1) * kept];
        for (out, place) in out.iter_mut().zip(place) {
            *out = x.get(*place as usize).copied().unwrap_or(f32::NEG_INFINITY);
        }
    });
    Ok(())
}
