//! The bit-exact definition of every weight format, as plain f32 numbers. Used by tests, by the parity tools, and by
//! whoever wants to know what a stored weight means. Backends may fold a scale elsewhere, which moves the last bit.

use crate::weight::{StoredScales, StoredWeight};
use crate::{Fp8Scales, Nvfp4Global, OpError, PackedWeight, Result, Values, WeightFormat};
use half::{bf16, f16};

/// The sixteen E2M1 numbers (OCP Microscaling formats 1.0, section 5.3.3): bit 3 is the sign.
pub const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// The E4M3 number of a code (OCP 8-bit floating point 1.0, E4M3): no infinities, 0x7f and 0xff are NaN.
pub const fn e4m3(code: u8) -> f32 {
    let magnitude = match (code >> 3 & 15, code & 7) {
        (15, 7) => f32::NAN,
        (0, mantissa) => mantissa as f32 / 512.0,
        (exponent, mantissa) => f32::from_bits((exponent as u32 + 120) << 23 | (mantissa as u32) << 20),
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

/// All weights of one matrix, `[rows, cols]` row-major.
///
/// NVFP4: `e2m1 * (scale / global)` or `e2m1 * (scale * global)`; FP8: `e4m3 * scale`; every step rounded to f32, as the
/// reference implementations do (compressed-tensors `nvfp4-pack-quantized`, ModelOpt `NVFP4QTensor`, transformers
/// `Fp8Dequantize`).
pub fn dequantise(weight: &PackedWeight<'_>) -> Result<Vec<f32>> {
    check(weight)?;
    let (rows, cols) = (weight.rows, weight.cols);
    let mut out = Vec::new();
    out.try_reserve_exact(rows * cols).map_err(|_| OpError::OutOfMemory {
        device: "cpu",
        bytes: rows.saturating_mul(cols).saturating_mul(4),
    })?;
    match &weight.values {
        Values::F32(bytes) => {
            out.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])))
        }
        Values::F16(bytes) => {
            out.extend(bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()))
        }
        Values::Bf16(bytes) => {
            out.extend(bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()))
        }
        Values::Fp8 { codes, scales } => {
            for row in 0..rows {
                for col in 0..cols {
                    let scale = match scales {
                        Fp8Scales::Tensor(scale) => *scale,
                        Fp8Scales::Row(scales) => scales[row],
                        Fp8Scales::Block128(scales) => scales[row / 128 * cols.div_ceil(128) + col / 128],
                    };
                    out.push(e4m3(codes[row * cols + col]) * scale);
                }
            }
        }
        Values::Nvfp4 { nibbles, scales, global } => {
            for block in 0..rows * cols / 16 {
                let scale = match global {
                    Nvfp4Global::Divide(global) => e4m3(scales[block]) / global,
                    Nvfp4Global::Multiply(global) => e4m3(scales[block]) * global,
                };
                for byte in &nibbles[block * 8..block * 8 + 8] {
                    out.push(E2M1[usize::from(byte & 15)] * scale);
                    out.push(E2M1[usize::from(byte >> 4)] * scale);
                }
            }
        }
    }
    Ok(out)
}

/// Refuses a matrix whose stored parts do not have the sizes its shape asks for.
pub(crate) fn check(weight: &PackedWeight<'_>) -> Result<()> {
    let count = check_stored(&weight.stored())?;
    let expect = |what, expected, found| long(weight.rows, weight.cols, what, expected, found);
    match &weight.values {
        Values::F32(bytes) => expect("f32 bytes", count * 4, bytes.len()),
        Values::F16(bytes) => expect("f16 bytes", count * 2, bytes.len()),
        Values::Bf16(bytes) => expect("bf16 bytes", count * 2, bytes.len()),
        Values::Fp8 { codes, .. } => expect("fp8 codes", count, codes.len()),
        Values::Nvfp4 { nibbles, scales, .. } => {
            expect("nvfp4 nibbles", count / 2, nibbles.len())?;
            expect("nvfp4 scales", count / 16, scales.len())
        }
    }
}

fn long(rows: usize, cols: usize, what: &'static str, expected: usize, found: usize) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    let expected = format!("{expected} long for [{rows}, {cols}]");
    Err(OpError::shape("pack", what, expected, format!("{found} long")))
}

/// Refuses a stored matrix whose shape or scales make no sense; its number of elements.
pub(crate) fn check_stored(weight: &StoredWeight) -> Result<usize> {
    let (rows, cols) = (weight.rows, weight.cols);
    let count =
        rows.checked_mul(cols).filter(|n| *n > 0 && *n <= isize::MAX as usize / 4).ok_or_else(|| {
            OpError::shape(
                "pack",
                "weight",
                "at least one row and column that fit in memory",
                format!("[{rows}, {cols}]"),
            )
        })?;
    match (&weight.scales, weight.format) {
        (StoredScales::Fp8(Fp8Scales::Tensor(_)), WeightFormat::Fp8)
        | (StoredScales::None, WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Bf16) => Ok(count),
        (StoredScales::Fp8(Fp8Scales::Row(scales)), WeightFormat::Fp8) => {
            long(rows, cols, "fp8 row scales", rows, scales.len()).map(|()| count)
        }
        (StoredScales::Fp8(Fp8Scales::Block128(scales)), WeightFormat::Fp8) => {
            let blocks = rows.div_ceil(128) * cols.div_ceil(128);
            long(rows, cols, "fp8 block scales", blocks, scales.len()).map(|()| count)
        }
        (StoredScales::Nvfp4(_), WeightFormat::Nvfp4) if cols.is_multiple_of(16) => Ok(count),
        (StoredScales::Nvfp4(_), WeightFormat::Nvfp4) => {
            Err(OpError::shape("pack", "nvfp4 columns", "a multiple of 16", cols))
        }
        (scales, format) => {
            Err(OpError::shape("pack", "scales", format!("those of {format:?}"), format!("{scales:?}")))
        }
    }
}
