//! The inner loop for AVX-512: a register holds the 16 rows of a panel, `x` is broadcast from memory.
//!
//! With few rows in the tile, `WIDE` blocks are summed side by side: the sums of one block depend on each other, and the
//! scheduler is too small to reach the next block by itself. The order of every sum stays the same.

use crate::WeightFormat;
use crate::cpu::weight::{BLOCK, LANES, Panel, SCALE_COLS};
use std::arch::x86_64::*;
use std::ops::Range;
use std::sync::OnceLock;

/// True if this machine has what this file uses.
pub(crate) fn detected() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

/// How far ahead of its use a panel is fetched into the second cache, and then into the first, bytes; 0: not at all.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    far: usize,
    near: usize,
}

impl Ahead {
    /// Found by trial (kernels/results/NOTES.md). Intel: either alone is a fifth slower, and 4096 ahead as slow as
    /// nothing. AMD's own prefetching needs no help but across the end of a page.
    const INTEL: Ahead = Ahead { far: 2880, near: 576 };
    const AMD: Ahead = Ahead { far: 9216, near: 0 };

    /// What suits this machine.
    pub(crate) fn here() -> Ahead {
        static HERE: OnceLock<Ahead> = OnceLock::new();
        // The first word of the vendor's name, "AuthenticAMD" or another.
        *HERE.get_or_init(|| {
            if __cpuid(0).ebx == u32::from_le_bytes(*b"Auth") { Self::AMD } else { Self::INTEL }
        })
    }
}

/// See `Simd::begin`.
pub(crate) fn begin(panel: Panel<'_>) {
    for line in panel.bytes.chunks(64).take(Ahead::INTEL.far / 64) {
        // SAFETY: a prefetch may name any address and has no effect but on the cache.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}

/// See `Simd::multiply`. Reached only through a `Simd` that `detected` has allowed.
pub(crate) fn multiply(panel: Panel<'_>, blocks: Range<usize>, x: &[f32], totals: &mut [[f32; LANES]]) {
    macro_rules! widths {
        ($($rows:literal: $wide:literal),*) => {
            match totals.len() {
                // SAFETY: a Simd of this level exists only where `detected` was true.
                $($rows => unsafe { tile::<$rows, $wide>(panel, blocks, x, totals) },)*
                n => unreachable!("a tile holds 1 to 12 rows, not {n}"),
            }
        };
    }
    widths!(1: 4, 2: 4, 3: 4, 4: 2, 5: 1, 6: 1, 7: 1, 8: 1, 9: 1, 10: 1, 11: 1, 12: 1);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")]
fn tile<const R: usize, const WIDE: usize>(
    panel: Panel<'_>,
    blocks: Range<usize>,
    x: &[f32],
    out: &mut [[f32; LANES]],
) {
    // SAFETY: every total holds LANES numbers.
    let mut totals: [__m512; R] = std::array::from_fn(|i| unsafe { _mm512_loadu_ps(out[i].as_ptr()) });
    assert!(blocks.end <= panel.blocks && x.len() >= blocks.len() * BLOCK * R);
    let whole = blocks.start + blocks.len() / WIDE * WIDE;
    let rest = &x[(whole - blocks.start) * BLOCK * R..];
    // Offsets below stay within the panel: its bytes cover all its blocks.
    assert!(panel.bytes.len() >= panel.padded_bytes());
    // SAFETY: blocks and x were checked above; nvfp4 takes whole units of four blocks, as `Simd::multiply` promises.
    unsafe {
        match panel.format {
            WeightFormat::Nvfp4 => nvfp4::<R, WIDE>(panel, blocks, x, &mut totals),
            WeightFormat::Fp8 => {
                fp8::<R, WIDE>(panel, blocks.start..whole, x, &mut totals);
                fp8::<R, 1>(panel, whole..blocks.end, rest, &mut totals);
            }
            WeightFormat::Bf16 => {
                bf16::<R, WIDE>(panel, blocks.start..whole, x, &mut totals);
                bf16::<R, 1>(panel, whole..blocks.end, rest, &mut totals);
            }
            WeightFormat::F16 => f16::<R>(panel, blocks, x, &mut totals),
            WeightFormat::F32 => f32::<R>(panel, blocks, x, &mut totals),
        }
    }
    for (total, out) in totals.into_iter().zip(out) {
        // SAFETY: `out` holds LANES numbers.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), total) };
    }
}

/// sums[i] += w * x[k][i].
///
/// # Safety
/// `x` must point to R readable numbers.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn add<const R: usize>(sums: &mut [__m512; R], w: __m512, x: *const f32) {
    for (i, sum) in sums.iter_mut().enumerate() {
        // SAFETY: i < R, which the caller vouches for.
        *sum = _mm512_fmadd_ps(w, _mm512_set1_ps(unsafe { *x.add(i) }), *sum);
    }
}

/// totals += scale * sums.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_scaled<const R: usize>(totals: &mut [__m512; R], scale: __m512, sums: [__m512; R]) {
    for (total, sum) in totals.iter_mut().zip(sums) {
        *total = _mm512_fmadd_ps(scale, sum, *total);
    }
}

/// The scales of a block for the formats whose scales, if any, lie beside the panel.
#[inline]
#[target_feature(enable = "avx512f")]
fn scale(panel: Panel<'_>, block: usize) -> __m512 {
    if panel.block_scales.is_empty() {
        return _mm512_set1_ps(1.0);
    }
    let scales = &panel.block_scales[block * BLOCK / SCALE_COLS * LANES..][..LANES];
    // SAFETY: LANES numbers.
    unsafe { _mm512_loadu_ps(scales.as_ptr()) }
}

/// Asks for the cache lines that follow `at`, if few rows use each weight. Any address may be asked for.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn fetch<const R: usize>(at: *const u8, ahead: Ahead) {
    if R <= 4 {
        _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(ahead.far).cast());
        if ahead.near > 0 {
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(ahead.near).cast());
        }
    }
}

/// Sixteen E4M3 codes as 2^-8 of their value: the bits moved into f16, whose exponent bias is 8 higher.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
fn e4m3(codes: __m128i) -> __m512 {
    let wide = _mm256_slli_epi16::<8>(_mm256_cvtepu8_epi16(codes));
    _mm512_cvtph_ps(_mm256_and_si256(_mm256_srai_epi16::<1>(wide), _mm256_set1_epi16(0xbf80u16 as i16)))
}

/// # Safety
/// `blocks` must be whole units of four within the panel, WIDE a divisor of four, `x` as long as `blocks` are wide.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")]
unsafe fn nvfp4<const R: usize, const WIDE: usize>(
    panel: Panel<'_>,
    blocks: Range<usize>,
    x: &[f32],
    totals: &mut [__m512; R],
) {
    const UNIT: usize = 576;
    let ahead = Ahead::here();
    let mut x = x.as_ptr();
    // SAFETY: all offsets are those of the layout in `cpu::weight`, within the blocks that the caller vouches for; E2M1
    // holds sixteen numbers.
    unsafe {
        let table = _mm512_loadu_ps(crate::E2M1.as_ptr());
        for unit in blocks.start / 4..blocks.end / 4 {
            let unit = panel.bytes.as_ptr().add(unit * UNIT);
            for line in 0..UNIT / 64 {
                fetch::<R>(unit.wrapping_add(line * 64), ahead);
            }
            for first in (0..4).step_by(WIDE) {
                let mut sums = [[_mm512_setzero_ps(); R]; WIDE];
                for half in 0..2 {
                    let mut words: [__m512i; WIDE] = std::array::from_fn(|b| {
                        _mm512_loadu_si512(unit.add(64 + (first + b) * 128 + half * 64).cast())
                    });
                    for j in 0..8 {
                        for (b, word) in words.iter_mut().enumerate() {
                            // vpermps looks at the lowest four bits of each lane only.
                            let w = _mm512_permutexvar_ps(*word, table);
                            add(&mut sums[b], w, x.add((b * BLOCK + half * 8 + j) * R));
                            *word = _mm512_srli_epi32::<4>(*word);
                        }
                    }
                }
                for (b, sums) in sums.into_iter().enumerate() {
                    let scale = e4m3(_mm_loadu_si128(unit.add((first + b) * LANES).cast()));
                    add_scaled(totals, scale, sums);
                }
                x = x.add(WIDE * BLOCK * R);
            }
        }
    }
}

/// # Safety
/// `blocks` must be a multiple of WIDE within the panel, `x` as long as they are wide.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")]
unsafe fn fp8<const R: usize, const WIDE: usize>(
    panel: Panel<'_>,
    blocks: Range<usize>,
    x: &[f32],
    totals: &mut [__m512; R],
) {
    let ahead = Ahead::here();
    let keep = _mm512_set1_epi16(0xbf80u16 as i16);
    let mut x = x.as_ptr();
    for first in blocks.step_by(WIDE) {
        let mut sums = [[_mm512_setzero_ps(); R]; WIDE];
        for quad in 0..4 {
            for (b, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the block lies within the panel, and x reaches as far, as the caller vouches for.
                unsafe {
                    let at = panel.bytes.as_ptr().add((first + b) * 256 + quad * 64);
                    fetch::<R>(at, ahead);
                    let codes = _mm512_loadu_si512(at.cast());
                    let even = _mm512_and_si512(_mm512_srai_epi16::<1>(_mm512_slli_epi16::<8>(codes)), keep);
                    let odd = _mm512_and_si512(_mm512_srai_epi16::<1>(codes), keep);
                    let x = x.add((b * BLOCK + quad * 4) * R);
                    add(sums, _mm512_cvtph_ps(_mm512_castsi512_si256(even)), x);
                    add(sums, _mm512_cvtph_ps(_mm512_castsi512_si256(odd)), x.add(R));
                    add(sums, _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(even)), x.add(2 * R));
                    add(sums, _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(odd)), x.add(3 * R));
                }
            }
        }
        for (b, sums) in sums.into_iter().enumerate() {
            add_scaled(totals, scale(panel, first + b), sums);
        }
        x = x.wrapping_add(WIDE * BLOCK * R);
    }
}

/// # Safety
/// As [`fp8`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")]
unsafe fn bf16<const R: usize, const WIDE: usize>(
    panel: Panel<'_>,
    blocks: Range<usize>,
    x: &[f32],
    totals: &mut [__m512; R],
) {
    let ahead = Ahead::here();
    let high = _mm512_set1_epi32(0xffff_0000u32 as i32);
    let mut x = x.as_ptr();
    for first in blocks.step_by(WIDE) {
        let mut sums = [[_mm512_setzero_ps(); R]; WIDE];
        for pair in 0..8 {
            for (b, sums) in sums.iter_mut().enumerate() {
                // SAFETY: as in `fp8`.
                unsafe {
                    let at = panel.bytes.as_ptr().add((first + b) * 512 + pair * 64);
                    fetch::<R>(at, ahead);
                    let both = _mm512_loadu_si512(at.cast());
                    let x = x.add((b * BLOCK + pair * 2) * R);
                    add(sums, _mm512_castsi512_ps(_mm512_slli_epi32::<16>(both)), x);
                    add(sums, _mm512_castsi512_ps(_mm512_and_si512(both, high)), x.add(R));
                }
            }
        }
        for (b, sums) in sums.into_iter().enumerate() {
            add_scaled(totals, scale(panel, first + b), sums);
        }
        x = x.wrapping_add(WIDE * BLOCK * R);
    }
}

/// # Safety
/// As [`fp8`] with WIDE = 1.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")]
unsafe fn f16<const R: usize>(panel: Panel<'_>, blocks: Range<usize>, x: &[f32], totals: &mut [__m512; R]) {
    let mut x = x.as_ptr();
    for block in blocks {
        let mut sums = [_mm512_setzero_ps(); R];
        for column in 0..BLOCK {
            // SAFETY: as in `fp8`.
            unsafe {
                let at = panel.bytes.as_ptr().add(block * 512 + column * 32);
                add(&mut sums, _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())), x.add(column * R));
            }
        }
        add_scaled(totals, scale(panel, block), sums);
        x = x.wrapping_add(BLOCK * R);
    }
}

/// # Safety
/// As [`fp8`] with WIDE = 1.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")]
unsafe fn f32<const R: usize>(panel: Panel<'_>, blocks: Range<usize>, x: &[f32], totals: &mut [__m512; R]) {
    let mut x = x.as_ptr();
    for block in blocks {
        let mut sums = [_mm512_setzero_ps(); R];
        for column in 0..BLOCK {
            // SAFETY: as in `fp8`.
            unsafe {
                let at = panel.bytes.as_ptr().add(block * 1024 + column * 64);
                add(&mut sums, _mm512_loadu_ps(at.cast()), x.add(column * R));
            }
        }
        add_scaled(totals, scale(panel, block), sums);
        x = x.wrapping_add(BLOCK * R);
    }
}
