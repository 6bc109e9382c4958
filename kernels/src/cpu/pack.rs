//! Repacks checkpoint matrices into panels (see `weight`). Runs once per weight, at load.

use super::Cpu;
use super::weight::{BLOCK, CpuWeight, LANES, SCALE_COLS, unit_bytes, unit_cols};
use crate::{
    Fp8Scales, Nvfp4Global, OpError, PackedWeight, Result, Values, Weight, WeightFormat, dequantise,
    weight::{Storage, StoredWeight},
};

/// Format, rows and columns of the stack of `parts`. All must have the same format and width.
pub(crate) fn stacked(parts: &[PackedWeight<'_>]) -> Result<(WeightFormat, usize, usize)> {
    parts.iter().try_for_each(dequantise::check)?;
    alike(&parts.iter().map(PackedWeight::stored).collect::<Vec<_>>())
}

/// The same of matrices without their numbers, each of which makes sense by itself.
pub(crate) fn alike(parts: &[StoredWeight]) -> Result<(WeightFormat, usize, usize)> {
    let first =
        parts.first().ok_or_else(|| OpError::shape("pack", "parts", "at least one matrix", "none"))?;
    let mut rows = 0usize;
    for part in parts {
        if part.format != first.format {
            let (expected, found) = (format!("{:?}", first.format), format!("{:?}", part.format));
            return Err(OpError::shape("pack", "format", expected, found));
        }
        if part.cols != first.cols {
            return Err(OpError::shape("pack", "columns", first.cols, part.cols));
        }
        rows = rows.saturating_add(part.rows);
    }
    Ok((first.format, rows, first.cols))
}

/// Stacks `parts` by rows into one weight.
pub(crate) fn pack(cpu: &Cpu, parts: &[PackedWeight<'_>]) -> Result<Weight> {
    let (kind, rows, cols) = stacked(parts)?;
    parts.iter().try_for_each(refuse_non_numbers)?;
    let block_scaled =
        parts.iter().any(|p| matches!(&p.values, Values::Fp8 { scales: Fp8Scales::Block128(_), .. }));
    let mut storage = CpuWeight::zeroed(&mut cpu.slab(), kind, rows, cols, block_scaled)?;
    let mut row = 0;
    for part in parts {
        write_scales(&mut storage, part, row, block_scaled);
        let panel_bytes = storage.panel_bytes;
        let first = row / LANES;
        let panels = &mut storage.panels.as_mut_slice::<u8>()[first * panel_bytes..];
        cpu.pool.chunks(panels, panel_bytes, |group, panel| {
            for lane in 0..LANES {
                // Rows of this part only; the others have been written or follow.
                let r = ((first + group) * LANES + lane).checked_sub(row).filter(|r| *r < part.rows);
                if let Some(r) = r {
                    write_row(panel, part, r, lane);
                }
            }
        });
        row += part.rows;
    }
    Ok(Weight { rows, cols, format: kind, bytes: storage.bytes(), storage: Storage::Cpu(storage) })
}

/// No weight may hold what is not a finite number: it would make every answer worthless, and the kernels move E4M3 and f16
/// bits without looking for such codes.
fn refuse_non_numbers(part: &PackedWeight<'_>) -> Result<()> {
    let not_a_number = |what: &'static str, at: Option<usize>| match at {
        Some(_) => Err(OpError::NotFinite { what, at }),
        None => Ok(()),
    };
    match &part.values {
        Values::Fp8 { codes, .. } => not_a_number("fp8 codes", codes.iter().position(|c| c & 0x7f == 0x7f)),
        Values::Nvfp4 { scales, .. } => {
            not_a_number("nvfp4 scales", scales.iter().position(|c| c & 0x7f == 0x7f))
        }
        Values::F16(bytes) => {
            not_a_number("f16 weights", bytes.chunks_exact(2).position(|b| b[1] & 0x7c == 0x7c))
        }
        Values::Bf16(bytes) => not_a_number(
            "bf16 weights",
            bytes.chunks_exact(2).position(|b| b[1] & 0x7f == 0x7f && b[0] & 0x80 == 0x80),
        ),
        Values::F32(bytes) => not_a_number(
            "f32 weights",
            bytes.chunks_exact(4).position(|b| b[3] & 0x7f == 0x7f && b[2] & 0x80 == 0x80),
        ),
    }
}

/// Row and block scales of one part whose first row is `first`.
fn write_scales(storage: &mut CpuWeight, part: &PackedWeight<'_>, first: usize, block_scaled: bool) {
    let scale_blocks = part.cols.div_ceil(SCALE_COLS);
    let row_scales = storage.row_scales.as_mut_slice::<f32>();
    let block_scales = storage.block_scales.as_mut_slice::<f32>();
    for r in 0..part.rows {
        let row = first + r;
        let whole = match &part.values {
            Values::Fp8 { scales: Fp8Scales::Tensor(scale), .. } => *scale,
            Values::Fp8 { scales: Fp8Scales::Row(scales), .. } => scales[r],
            Values::Nvfp4 { global: Nvfp4Global::Divide(global), .. } => 1.0 / global,
            Values::Nvfp4 { global: Nvfp4Global::Multiply(global), .. } => *global,
            _ => 1.0,
        };
        row_scales[row] = whole;
        if block_scaled {
            for block in 0..scale_blocks {
                block_scales[(row / LANES * scale_blocks + block) * LANES + row % LANES] = match &part.values
                {
                    Values::Fp8 { scales: Fp8Scales::Block128(scales), .. } => {
                        scales[r / 128 * scale_blocks + block]
                    }
                    _ => 1.0,
                };
            }
        }
    }
}

/// Row `r` of a part into lane `lane` of its panel.
fn write_row(panel: &mut [u8], part: &PackedWeight<'_>, r: usize, lane: usize) {
    let cols = part.cols;
    match &part.values {
        Values::F32(bytes) => {
            for (c, value) in bytes[r * cols * 4..(r + 1) * cols * 4].chunks_exact(4).enumerate() {
                let at = c / BLOCK * 1024 + (c % BLOCK * LANES + lane) * 4;
                panel[at..at + 4].copy_from_slice(value);
            }
        }
        Values::F16(bytes) => {
            for (c, value) in bytes[r * cols * 2..(r + 1) * cols * 2].chunks_exact(2).enumerate() {
                let at = c / BLOCK * 512 + (c % BLOCK * LANES + lane) * 2;
                panel[at..at + 2].copy_from_slice(value);
            }
        }
        Values::Bf16(bytes) => {
            for (pair, value) in bytes[r * cols * 2..(r + 1) * cols * 2].chunks(4).enumerate() {
                let at = (pair * LANES + lane) * 4;
                panel[at..at + value.len()].copy_from_slice(value);
            }
        }
        Values::Fp8 { codes, .. } => {
            for (pair, value) in codes[r * cols..(r + 1) * cols].chunks(2).enumerate() {
                let at = (pair * LANES + lane) * 2;
                panel[at..at + value.len()].copy_from_slice(value);
            }
        }
        Values::Nvfp4 { nibbles, scales, .. } => {
            let unit = unit_bytes(WeightFormat::Nvfp4);
            let per_unit = unit_cols(WeightFormat::Nvfp4) / BLOCK;
            let row_scales = &scales[r * cols / 16..(r + 1) * cols / 16];
            let row_nibbles = &nibbles[r * cols / 2..(r + 1) * cols / 2];
            for (block, (scale, bytes)) in row_scales.iter().zip(row_nibbles.chunks_exact(8)).enumerate() {
                let start = block / per_unit * unit;
                panel[start + block % per_unit * LANES + lane] = *scale;
                for (half, word) in bytes.chunks_exact(4).enumerate() {
                    let at = start + 64 + block % per_unit * 128 + (half * LANES + lane) * 4;
                    panel[at..at + 4].copy_from_slice(word);
                }
            }
        }
    }
}
