//! The inner loop for AVX2 with FMA: a register holds 8 rows, so a panel is two halves, one after the other.

use crate::WeightFormat;
use crate::cpu::weight::{BLOCK, LANES, Panel, SCALE_COLS};
use std::arch::x86_64::*;
use std::ops::Range;

/// Rows of a register.
const HALF: usize = 8;

/// True if this machine has what this file uses.
pub(crate) fn detected() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// See `Simd::multiply`. Reached only through a `Simd` that `detected` has allowed.
pub(crate) fn multiply(panel: Panel<'_>, blocks: Range<usize>, x: &[f32], totals: &mut [[f32; LANES]]) {
    macro_rules! widths {
        ($($n:literal),*) => {
            match totals.len() {
                // SAFETY: a Simd of this level exists only where `detected` was true.
                $($n => unsafe { tile::<$n>(panel, blocks, x, totals) },)*
                n => unreachable!("a tile holds 1 to 12 rows, not {n}"),
            }
        };
    }
    widths!(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn tile<const R: usize>(panel: Panel<'_>, blocks: Range<usize>, x: &[f32], out: &mut [[f32; LANES]]) {
    assert!(blocks.end <= panel.blocks && x.len() >= blocks.len() * BLOCK * R);
    assert!(panel.bytes.len() >= panel.padded_bytes());
    for half in 0..2 {
        // SAFETY: every total holds LANES numbers, two halves.
        let mut totals: [__m256; R] =
            std::array::from_fn(|i| unsafe { _mm256_loadu_ps(out[i][half * HALF..].as_ptr()) });
        // SAFETY: blocks, x and the panel were checked above.
        unsafe {
            match panel.format {
                WeightFormat::Nvfp4 => sum::<R, 0>(panel, half, blocks.clone(), x, &mut totals),
                WeightFormat::Fp8 => sum::<R, 1>(panel, half, blocks.clone(), x, &mut totals),
                WeightFormat::Bf16 => sum::<R, 2>(panel, half, blocks.clone(), x, &mut totals),
                WeightFormat::F16 => sum::<R, 3>(panel, half, blocks.clone(), x, &mut totals),
                WeightFormat::F32 => sum::<R, 4>(panel, half, blocks.clone(), x, &mut totals),
            }
        }
        for (total, out) in totals.into_iter().zip(out.iter_mut()) {
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(out[half * HALF..].as_mut_ptr(), total) };
        }
    }
}

/// Some blocks of one half of a panel. FORMAT: 0 nvfp4, 1 fp8, 2 bf16, 3 f16, 4 f32.
///
/// # Safety
/// `blocks` must lie within the panel, `x` be as long as they are wide.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn sum<const R: usize, const FORMAT: u8>(
    panel: Panel<'_>,
    half: usize,
    blocks: Range<usize>,
    x: &[f32],
    totals: &mut [__m256; R],
) {
    let mut x = x.as_ptr();
    for block in blocks {
        let mut sums = [_mm256_setzero_ps(); R];
        for pair in 0..8 {
            // SAFETY: block and pair lie within the panel, and x advances 2 R numbers per pair.
            unsafe {
                let (even, odd) = pair_of::<FORMAT>(panel.bytes.as_ptr(), block, pair, half);
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm256_fmadd_ps(even, _mm256_set1_ps(*x.add(i)), *sum);
                    *sum = _mm256_fmadd_ps(odd, _mm256_set1_ps(*x.add(R + i)), *sum);
                }
                x = x.add(2 * R);
            }
        }
        let scale = match FORMAT {
            // SAFETY: the 64 bytes of scales lead the unit of four blocks, within the panel.
            0 => unsafe {
                let at = panel.bytes.as_ptr().add(block / 4 * 576 + block % 4 * LANES + half * HALF);
                e4m3(_mm_cvtepu8_epi16(_mm_loadl_epi64(at.cast())))
            },
            _ if panel.block_scales.is_empty() => _mm256_set1_ps(1.0),
            _ => {
                let scales = &panel.block_scales[block * BLOCK / SCALE_COLS * LANES + half * HALF..][..HALF];
                // SAFETY: HALF numbers.
                unsafe { _mm256_loadu_ps(scales.as_ptr()) }
            }
        };
        for (total, sum) in totals.iter_mut().zip(sums) {
            *total = _mm256_fmadd_ps(scale, sum, *total);
        }
    }
}

/// Eight E4M3 codes (one per 16 bits) as 2^-8 of their value: their bits moved into f16.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn e4m3(codes: __m128i) -> __m256 {
    let moved = _mm_srai_epi16::<1>(_mm_slli_epi16::<8>(codes));
    _mm256_cvtph_ps(_mm_and_si128(moved, _mm_set1_epi16(0xbf80u16 as i16)))
}

/// The weights of columns `2 * pair` and `2 * pair + 1` of a block, before their scales.
///
/// # Safety
/// The block must lie within the panel that starts at `panel`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pair_of<const FORMAT: u8>(
    panel: *const u8,
    block: usize,
    pair: usize,
    half: usize,
) -> (__m256, __m256) {
    // SAFETY: all offsets are those of the layout in `cpu::weight`, within one block.
    unsafe {
        match FORMAT {
            0 => {
                let words = panel.add(block / 4 * 576 + 64 + block % 4 * 128 + pair / 4 * 64 + half * 32);
                let shift = _mm_cvtsi32_si128((pair % 4 * 8) as i32);
                let word = _mm256_srl_epi32(_mm256_loadu_si256(words.cast()), shift);
                (e2m1(word), e2m1(_mm256_srli_epi32::<4>(word)))
            }
            1 => {
                let codes = _mm_loadu_si128(panel.add(block * 256 + pair * 32 + half * 16).cast());
                (e4m3(codes), e4m3(_mm_srli_epi16::<8>(codes)))
            }
            2 => {
                let both = _mm256_loadu_si256(panel.add(block * 512 + pair * 64 + half * 32).cast());
                let high = _mm256_set1_epi32(0xffff_0000u32 as i32);
                (
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(both)),
                    _mm256_castsi256_ps(_mm256_and_si256(both, high)),
                )
            }
            3 => {
                let at = panel.add(block * 512 + pair * 64 + half * 16);
                (
                    _mm256_cvtph_ps(_mm_loadu_si128(at.cast())),
                    _mm256_cvtph_ps(_mm_loadu_si128(at.add(32).cast())),
                )
            }
            _ => {
                let at = panel.add(block * 1024 + pair * 128 + half * 32);
                (_mm256_loadu_ps(at.cast()), _mm256_loadu_ps(at.add(64).cast()))
            }
        }
    }
}

/// The E2M1 number in the lowest four bits of each lane.
#[inline]
#[target_feature(enable = "avx2")]
fn e2m1(word: __m256i) -> __m256 {
    // vpermps looks at the lowest three bits of each lane only: the magnitude.
    let magnitude = _mm256_permutevar8x32_ps(_mm256_setr_ps(0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0), word);
    let sign = _mm256_and_si256(_mm256_slli_epi32::<28>(word), _mm256_set1_epi32(i32::MIN));
    _mm256_xor_ps(magnitude, _mm256_castsi256_ps(sign))
}
