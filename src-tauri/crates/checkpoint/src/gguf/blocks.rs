//! What the bytes of a GGUF block stand for: the bit-exact definition of each block type as plain f32 numbers, every product and
//! sum rounded to f32 in the order in which ggml's reference does it. Used by `rows`, which expands matrices at load.
//!
//! Facts from ggml (`ggml-common.h`, `gguf-py/gguf/quants.py`); checked against its decoder bit for bit, see
//! `tests/fixtures/README.md`.

use half::f16;
use hearth_kernels::{E2M1, e4m3};

use super::types::{GgufType, MOST_ELEMENTS};

/// Numbers of a block.
pub(crate) type Block = [f32; MOST_ELEMENTS];

/// The sixteen steps of IQ4_NL and IQ4_XS.
const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Writes the numbers of one block into the front of `out`. False for types that have no decoder here.
pub(crate) fn decode(kind: GgufType, block: &[u8], out: &mut Block) -> bool {
    debug_assert_eq!(block.len(), kind.bytes());
    match kind {
        GgufType::Q4_0 => halves(half_at(block, 0), &block[2..], out, |q| f32::from(q as i8 - 8)),
        GgufType::Q4_1 => {
            let (d, m) = (half_at(block, 0), half_at(block, 2));
            halves(d, &block[4..], out, f32::from);
            out[..32].iter_mut().for_each(|x| *x += m);
        }
        GgufType::Q5_0 => fifth_bit(block, 2, out, |q| f32::from(q as i8 - 16), 0.0),
        GgufType::Q5_1 => fifth_bit(block, 4, out, f32::from, half_at(block, 2)),
        GgufType::Q8_0 => {
            let d = half_at(block, 0);
            block[2..].iter().zip(out).for_each(|(q, x)| *x = d * f32::from(*q as i8));
        }
        GgufType::Q2K => q2_k(block, out),
        GgufType::Q3K => q3_k(block, out),
        GgufType::Q4K => q4_k(block, &block[16..], None, out),
        GgufType::Q5K => q4_k(block, &block[48..], Some(&block[16..48]), out),
        GgufType::Q6K => q6_k(block, out),
        GgufType::Iq4Nl => halves(half_at(block, 0), &block[2..], out, iq4),
        GgufType::Iq4Xs => iq4_xs(block, out),
        GgufType::Mxfp4 => {
            // E8M0: a power of two; 2^-127 is no normal f32.
            let scale = match block[0] {
                0 => f32::from_bits(0x0040_0000),
                exponent => f32::from_bits(u32::from(exponent) << 23),
            };
            halves(scale, &block[1..], out, |q| E2M1[usize::from(q)]);
        }
        GgufType::Nvfp4 => {
            for part in 0..4 {
                let scale = e4m3(nvfp4_scale(block[part]));
                for (j, byte) in block[4 + 8 * part..][..8].iter().enumerate() {
                    out[16 * part + j] = scale * E2M1[usize::from(byte & 15)];
                    out[16 * part + 8 + j] = scale * E2M1[usize::from(byte >> 4)];
                }
            }
        }
        _ => return false,
    }
    true
}

/// A GGUF scale of NVFP4 as the E4M3 code that means the same: it has no sign, and its highest code is zero.
pub(crate) fn nvfp4_scale(code: u8) -> u8 {
    match code & 0x7f {
        0x7f => 0,
        code => code,
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// 32 numbers: the low nibbles of 16 bytes, then the high ones.
fn halves(d: f32, nibbles: &[u8], out: &mut Block, number: impl Fn(u8) -> f32) {
    for (j, byte) in nibbles[..16].iter().enumerate() {
        out[j] = d * number(byte & 15);
        out[16 + j] = d * number(byte >> 4);
    }
}

fn iq4(q: u8) -> f32 {
    f32::from(IQ4[usize::from(q)])
}

/// 32 numbers of 5 bits: a u32 of fifth bits at `at`, then nibbles.
fn fifth_bit(block: &[u8], at: usize, out: &mut Block, number: impl Fn(u8) -> f32, m: f32) {
    let d = half_at(block, 0);
    let bit = |i: usize| (block[at + i / 8] >> (i % 8) & 1) << 4;
    for (j, byte) in block[at + 4..][..16].iter().enumerate() {
        out[j] = d * number(byte & 15 | bit(j)) + m;
        out[16 + j] = d * number(byte >> 4 | bit(16 + j)) + m;
    }
}

/// 16 scales and minima of 4 bits, 64 bytes of 2-bit numbers, d and dmin last.
fn q2_k(block: &[u8], out: &mut Block) {
    let (d, dmin) = (half_at(block, 80), half_at(block, 82));
    for (i, x) in out.iter_mut().enumerate() {
        let scale = block[i / 16];
        let q = block[16 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        *x = d * f32::from(scale & 15) * f32::from(q) - dmin * f32::from(scale >> 4);
    }
}

/// 32 bytes of third bits, 64 bytes of 2-bit numbers, 12 bytes of 6-bit scales, d last.
fn q3_k(block: &[u8], out: &mut Block) {
    let (d, scales) = (half_at(block, 108), &block[96..108]);
    for (i, x) in out.iter_mut().enumerate() {
        let part = i / 16;
        let low = scales[part % 8] >> (part / 8 * 4) & 15;
        let high = scales[8 + part % 4] >> (part / 4 * 2) & 3;
        let scale = (low | high << 4) as i8 - 32;
        let q = (block[32 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3) as i8;
        // The third bit is stored turned round: without it, four less.
        let q = q - if block[i % 32] >> (i / 32) & 1 == 0 { 4 } else { 0 };
        *x = d * f32::from(scale) * f32::from(q);
    }
}

/// Scale and minimum of the eighth `j` of a Q4_K or Q5_K block, 6 bits each, from its 12 bytes.
fn scale_and_min(scales: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (scales[j] & 63, scales[j + 4] & 63)
    } else {
        let (low, high) = (scales[j + 4], |at: usize| scales[at] >> 6 << 4);
        (low & 15 | high(j - 4), low >> 4 | high(j))
    };
    (f32::from(scale), f32::from(min))
}

/// d, dmin, 12 bytes of scales and minima; four runs of 32 bytes, low nibbles first; for Q5_K a fifth bit per number.
fn q4_k(block: &[u8], nibbles: &[u8], fifths: Option<&[u8]>, out: &mut Block) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    for j in 0..8 {
        let (scale, min) = scale_and_min(&block[4..16], j);
        let (scale, min) = (d * scale, dmin * min);
        for i in 0..32 {
            let fifth = fifths.map_or(0, |bits| (bits[i] >> j & 1) << 4);
            let q = nibbles[j / 2 * 32 + i] >> (j % 2 * 4) & 15 | fifth;
            out[32 * j + i] = scale * f32::from(q) - min;
        }
    }
}

/// 128 bytes of low nibbles, 64 of 2 high bits, 16 signed scales, d last.
fn q6_k(block: &[u8], out: &mut Block) {
    let d = half_at(block, 208);
    for (i, x) in out.iter_mut().enumerate() {
        let (half, j) = (i / 128, i % 128);
        let low = block[half * 64 + j % 64] >> (j / 64 * 4) & 15;
        let high = block[128 + half * 32 + j % 32] >> (j / 32 * 2) & 3;
        let scale = block[192 + i / 16] as i8;
        *x = d * f32::from(scale) * f32::from((low | high << 4) as i8 - 32);
    }
}

/// d, 16 high bits and 4 bytes of low bits of eight scales, four nibbles' worth of 32 numbers each.
fn iq4_xs(block: &[u8], out: &mut Block) {
    let (d, high) = (half_at(block, 0), u16::from_le_bytes([block[2], block[3]]));
    for j in 0..8 {
        let low = block[4 + j / 2] >> (j % 2 * 4) & 15;
        let scale = (low | ((high >> (2 * j) & 3) as u8) << 4) as i8 - 32;
        let scale = d * f32::from(scale);
        for (i, byte) in block[8 + 16 * j..][..16].iter().enumerate() {
            out[32 * j + i] = scale * iq4(byte & 15);
            out[32 * j + 16 + i] = scale * iq4(byte >> 4);
        }
    }
}
