//! The inner loop for NVFP4 on AVX-512 with VNNI and VBMI: exact sums of integers, at half the instructions of floating
//! point. All other formats go through `avx512`.
//!
//! A block of 16 numbers of `x` becomes 24-bit integers with a common power of two, each cut into three signed bytes. A
//! weight is half an integer, and `vpdpbusd` multiplies four columns at once; since it wants one side unsigned, twice the
//! weight comes with `OFFSET` added, which the sum of `x` takes away again. The sum of a block is exact:
//! 16 columns * 12 * 2^23 stays below 2^31, and what overflows on the way comes back (arithmetic modulo 2^32). So one
//! rounding per number of `x`, by 2^-23 of the largest of its block at most, replaces the sixteen roundings of a sum in f32.

use super::super::weight::{BLOCK, LANES, Panel};
use super::avx512::{self, Ahead, fetch};
use std::arch::x86_64::*;
use std::ops::Range;

/// Makes twice a weight, -12 to 12, an unsigned number.
const OFFSET: i32 = 12;
/// Words of an encoded block: four of high bytes (columns 0 2 4 6, 1 3 5 7, 8 10 12 14, 9 11 13 15), four of middle
/// bytes, four of low bytes, -OFFSET times the sum, the scale as f32, and two unused. As many as the block has columns.
const WORDS: usize = BLOCK;
/// Bytes of four blocks of a panel.
const UNIT: usize = 576;

/// Byte i: twice the weight of code i % 16, plus `OFFSET`. Four times the same, so that index bits above the code need not
/// be cleared.
const TABLE: [u8; 64] = {
    let mut table = [0; 64];
    let mut i = 0;
    while i < 64 {
        table[i] = ((crate::E2M1[i % 16] * 2.0) as i32 + OFFSET) as u8;
        i += 1;
    }
    table
};
/// Byte 2 i + 1: the place of scale i, of the first and of the last two blocks of a unit.
const SPREAD: [[u8; 64]; 2] = {
    let mut spread = [[0; 64]; 2];
    let mut i = 0;
    while i < 64 {
        spread[0][i] = (i / 2) as u8;
        spread[1][i] = (i / 2 + 32) as u8;
        i += 1;
    }
    spread
};

/// True if this machine has what this file uses.
pub(crate) fn detected() -> bool {
    avx512::detected() && is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vbmi")
}

/// The blocks of one row, encoded: block b at `out[b * stride ..]`. Its last block is filled up with zeros.
/// Reached only where `Simd::encodes` is true.
pub(crate) fn encode(x: &[f32], stride: usize, out: &mut [f32]) {
    let blocks = x.len().div_ceil(BLOCK);
    assert!(blocks == 0 || out.len() >= (blocks - 1) * stride + WORDS, "no room for the encoded row");
    // SAFETY: a Simd of this level exists only where `detected` was true, and `out` has room.
    unsafe { encode_blocks(x, stride, out) }
}

/// # Safety
/// `out` must hold `WORDS` words at every multiple of `stride` up to the last block of `x`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi")]
unsafe fn encode_blocks(x: &[f32], stride: usize, out: &mut [f32]) {
    // Byte 4 c + 2 - part of the integers holds a digit of column c.
    let mut order = [0u8; 64];
    for (part, half, odd, i) in (0..48).map(|i| (i / 16, i / 8 % 2, i / 4 % 2, i % 4)) {
        let column = half * 8 + i * 2 + odd;
        order[part * 16 + half * 8 + odd * 4 + i] = (column * 4 + 2 - part) as u8;
    }
    // SAFETY: 64 bytes.
    let order = unsafe { _mm512_loadu_si512(order.as_ptr().cast()) };
    let digits = _mm512_set1_epi32(0x0080_8080);
    for (block, x) in x.chunks(BLOCK).enumerate() {
        let there = (0xffffu32 >> (BLOCK - x.len())) as __mmask16;
        // SAFETY: the mask leaves out what lies behind the end.
        let x = unsafe { _mm512_maskz_loadu_ps(there, x.as_ptr()) };
        let largest =
            _mm512_reduce_max_epu32(_mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fff_ffff)));
        // Bits of an infinite number or of none: the whole block is none.
        let finite = largest < 0x7f80_0000;
        // A little is added, so that the largest stays below 0x7f7f7f and its digits below 128. The smallest exponent
        // keeps the factor a normal number.
        let exponent = ((f32::from_bits(largest) * (1.0 + 1.0 / 128.0)).to_bits() >> 23).clamp(24, 255);
        let factor = f32::from_bits((149 + 127 - exponent) << 23);
        let scale = if finite { f32::from_bits((exponent + 127 - 150) << 23) } else { f32::NAN };
        let whole = _mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(factor)));
        let whole = _mm512_maskz_mov_epi32(if finite { 0xffff } else { 0 }, whole);
        let sum = _mm512_reduce_add_epi32(whole);
        // Signed digits: with 128 added to each they are the plain bytes of the sum.
        let bytes = _mm512_xor_si512(_mm512_add_epi32(whole, digits), digits);
        // SAFETY: the caller vouches for the room.
        unsafe {
            let out = out.as_mut_ptr().add(block * stride);
            _mm512_storeu_si512(out.cast(), _mm512_permutexvar_epi8(order, bytes));
            out.add(12).cast::<i32>().write_unaligned(-OFFSET * sum);
            out.add(13).write(scale);
        }
    }
}

/// See `Simd::multiply`; `x` as `encode` wrote it, `[blocks, totals.len(), WORDS]`.
pub(crate) fn multiply(panel: Panel<'_>, blocks: Range<usize>, x: &[f32], totals: &mut [[f32; LANES]]) {
    macro_rules! widths {
        ($($rows:literal)*) => {
            match totals.len() {
                // SAFETY: a Simd of this level exists only where `detected` was true.
                $($rows => unsafe { tile::<$rows>(panel, blocks, x, totals) },)*
                n => unreachable!("a tile holds 1 to 12 rows, not {n}"),
            }
        };
    }
    widths!(1 2 3 4 5 6 7 8 9 10 11 12);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni,fma,f16c")]
fn tile<const R: usize>(panel: Panel<'_>, blocks: Range<usize>, x: &[f32], out: &mut [[f32; LANES]]) {
    assert!(blocks.end <= panel.blocks && x.len() >= blocks.len() * WORDS * R && out.len() == R);
    assert!(
        blocks.start.is_multiple_of(4)
            && blocks.end.is_multiple_of(4)
            && panel.bytes.len() >= panel.padded_bytes()
    );
    // SAFETY: 64 bytes each; every total holds LANES numbers; the panel and x were checked above.
    unsafe {
        let table = _mm512_loadu_si512(TABLE.as_ptr().cast());
        let spread = [0, 1].map(|half: usize| _mm512_loadu_si512(SPREAD[half].as_ptr().cast()));
        let mut totals: [__m512; R] = std::array::from_fn(|i| _mm512_loadu_ps(out[i].as_ptr()));
        let mut x = x.as_ptr();
        let ahead = Ahead::here();
        for unit in blocks.start / 4..blocks.end / 4 {
            let unit = panel.bytes.as_ptr().add(unit * UNIT);
            for line in 0..UNIT / 64 {
                fetch::<R>(unit.wrapping_add(line * 64), ahead);
            }
            let scales = scales(_mm512_loadu_si512(unit.cast()), spread);
            // Counted, so that the compiler unrolls it and the scales stay in registers.
            #[allow(clippy::needless_range_loop)]
            for b in 0..4 {
                let words = unit.add(64 + b * 128);
                let first = _mm512_loadu_si512(words.cast());
                let second = _mm512_loadu_si512(words.add(64).cast());
                let weights = [
                    _mm512_permutexvar_epi8(first, table),
                    _mm512_permutexvar_epi8(_mm512_srli_epi32::<4>(first), table),
                    _mm512_permutexvar_epi8(second, table),
                    _mm512_permutexvar_epi8(_mm512_srli_epi32::<4>(second), table),
                ];
                for total in &mut totals {
                    *total = add_block(weights, scales[b], x, *total);
                    x = x.add(WORDS);
                }
            }
        }
        for (total, out) in totals.into_iter().zip(out) {
            _mm512_storeu_ps(out.as_mut_ptr(), total);
        }
    }
}

/// 2^-8 of the scales of four blocks, as `avx512::e4m3`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,f16c")]
fn scales(codes: __m512i, spread: [__m512i; 2]) -> [__m512; 4] {
    let keep = _mm512_set1_epi16(0xbf80u16 as i16);
    let halves = spread.map(|spread| {
        let moved = _mm512_maskz_permutexvar_epi8(0xaaaa_aaaa_aaaa_aaaa, spread, codes);
        _mm512_and_si512(_mm512_srai_epi16::<1>(moved), keep)
    });
    [
        _mm512_cvtph_ps(_mm512_castsi512_si256(halves[0])),
        _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(halves[0])),
        _mm512_cvtph_ps(_mm512_castsi512_si256(halves[1])),
        _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(halves[1])),
    ]
}

/// total + scale * (weights . x) for one encoded block.
///
/// # Safety
/// `x` must point to WORDS readable words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni")]
unsafe fn add_block(weights: [__m512i; 4], scale: __m512, x: *const f32, total: __m512) -> __m512 {
    // SAFETY: the caller vouches for WORDS words.
    let word = |i: usize| _mm512_set1_epi32(unsafe { x.add(i).cast::<i32>().read_unaligned() });
    let mut parts = [_mm512_setzero_si512(), _mm512_setzero_si512(), word(12)];
    for (i, weights) in weights.into_iter().enumerate() {
        for (part, sum) in parts.iter_mut().enumerate() {
            *sum = _mm512_dpbusd_epi32(*sum, weights, word(part * 4 + i));
        }
    }
    let [high, middle, low] = parts;
    let sum = _mm512_add_epi32(_mm512_slli_epi32::<8>(high), middle);
    let sum = _mm512_add_epi32(_mm512_slli_epi32::<8>(sum), low);
    // SAFETY: as above.
    let scale = _mm512_mul_ps(scale, _mm512_set1_ps(unsafe { *x.add(13) }));
    _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(sum), total)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the words of a block say, and what the sum in them says.
    fn decode(words: &[f32]) -> ([f64; BLOCK], i32) {
        let byte = |part: usize, column: usize| {
            let word = words[part * 4 + column / 8 * 2 + column % 2].to_bits();
            i64::from((word >> (column % 8 / 2 * 8)) as i8)
        };
        // Half of the scale is for weights that come doubled.
        let scale = f64::from(words[13]) * 2.0;
        let number = |c: usize| (byte(0, c) << 16) + (byte(1, c) << 8) + byte(2, c);
        (std::array::from_fn(|c| number(c) as f64 * scale), words[12].to_bits() as i32)
    }

    #[test]
    fn an_encoded_block_keeps_every_number_to_a_24_bit_part_of_its_largest() {
        if !detected() {
            return;
        }
        // From numbers too small to be normal up to the largest; mantissas at and around the edge of three digits.
        let edges = [0x7f_ffffu32, 0x7f_7f7f, 0x7f_7f80, 0x7e_0000, 0x00_0000, 0x40_8080];
        for exponent in (0..255).step_by(2).chain([254]) {
            for edge in edges {
                let most = f32::from_bits(exponent << 23 | edge);
                let mut x: [f32; BLOCK] = std::array::from_fn(|c| most * ((c as f32 - 8.3) / 8.3));
                (x[3], x[4]) = (-most, most);
                let mut words = [0.0; WORDS];
                encode(&x, WORDS, &mut words);
                let (numbers, sum) = decode(&words);
                // Below 2^-103 the step no longer shrinks.
                let allowed = (f64::from(most) * (1.0 + 1.0 / 128.0) * 2f64.powi(-23)).max(2f64.powi(-126));
                let mut all = 0;
                for (x, number) in x.iter().zip(numbers) {
                    assert!(
                        (f64::from(*x) - number).abs() <= allowed,
                        "{x:e} became {number:e} beside {most:e}"
                    );
                    all += (number / (f64::from(words[13]) * 2.0)) as i32;
                }
                assert_eq!(sum, -OFFSET * all);
            }
        }
    }

    #[test]
    fn a_block_with_a_number_that_is_none_has_no_scale() {
        if !detected() {
            return;
        }
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; 2 * BLOCK];
            x[BLOCK + 5] = bad;
            let mut words = [0.0; 2 * WORDS];
            encode(&x, WORDS, &mut words);
            assert!(words[13].is_finite() && words[WORDS + 13].is_nan());
        }
    }
}
