//! The inner loop for NEON: a register holds 4 rows, so a panel is four quarters, one after the other.

use crate::WeightFormat;
use crate::cpu::weight::{BLOCK, LANES, Panel, SCALE_COLS};
use std::arch::aarch64::*;
use std::ops::Range;

/// Rows of a register.
const QUARTER: usize = 4;

/// See `Simd::multiply`. NEON is part of every aarch64 processor that Rust's targets name.
pub(crate) fn multiply(panel: Panel<'_>, blocks: Range<usize>, x: &[f32], totals: &mut [[f32; LANES]]) {
    macro_rules! widths {
        ($($n:literal),*) => {
            match totals.len() {
                // SAFETY: NEON is always there on this architecture.
                $($n => unsafe { tile::<$n>(panel, blocks, x, totals) },)*
                n => unreachable!("a tile holds 1 to 12 rows, not {n}"),
            }
        };
    }
    widths!(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12);
}

#[target_feature(enable = "neon")]
fn tile<const R: usize>(panel: Panel<'_>, blocks: Range<usize>, x: &[f32], out: &mut [[f32; LANES]]) {
    assert!(blocks.end <= panel.blocks && x.len() >= blocks.len() * BLOCK * R);
    assert!(panel.bytes.len() >= panel.padded_bytes());
    for quarter in 0..4 {
        // SAFETY: every total holds LANES numbers, four quarters.
        let mut totals: [float32x4_t; R] =
            std::array::from_fn(|i| unsafe { vld1q_f32(out[i][quarter * QUARTER..].as_ptr()) });
        // SAFETY: blocks, x and the panel were checked above.
        unsafe {
            match panel.format {
                WeightFormat::Nvfp4 => sum::<R, 0>(panel, quarter, blocks.clone(), x, &mut totals),
                WeightFormat::Fp8 => sum::<R, 1>(panel, quarter, blocks.clone(), x, &mut totals),
                WeightFormat::Bf16 => sum::<R, 2>(panel, quarter, blocks.clone(), x, &mut totals),
                WeightFormat::F16 => sum::<R, 3>(panel, quarter, blocks.clone(), x, &mut totals),
                WeightFormat::F32 => sum::<R, 4>(panel, quarter, blocks.clone(), x, &mut totals),
            }
        }
        for (total, out) in totals.into_iter().zip(out.iter_mut()) {
            // SAFETY: as above.
            unsafe { vst1q_f32(out[quarter * QUARTER..].as_mut_ptr(), total) };
        }
    }
}

/// Some blocks of one quarter of a panel. FORMAT: 0 nvfp4, 1 fp8, 2 bf16, 3 f16, 4 f32.
///
/// # Safety
/// `blocks` must lie within the panel, `x` be as long as they are wide.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn sum<const R: usize, const FORMAT: u8>(
    panel: Panel<'_>,
    quarter: usize,
    blocks: Range<usize>,
    x: &[f32],
    totals: &mut [float32x4_t; R],
) {
    let zero = vdupq_n_f32(0.0);
    let mut x = x.as_ptr();
    for block in blocks {
        let mut sums = [zero; R];
        for pair in 0..8 {
            // SAFETY: block and pair lie within the panel, and x advances 2 R numbers per pair.
            unsafe {
                let (even, odd) = pair_of::<FORMAT>(panel.bytes.as_ptr(), block, pair, quarter);
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = vfmaq_n_f32(*sum, even, *x.add(i));
                    *sum = vfmaq_n_f32(*sum, odd, *x.add(R + i));
                }
                x = x.add(2 * R);
            }
        }
        let scale = match FORMAT {
            // SAFETY: the 64 bytes of scales lead the unit of four blocks, within the panel.
            0 => unsafe {
                let at = panel.bytes.as_ptr().add(block / 4 * 576 + block % 4 * LANES + quarter * QUARTER);
                let codes = [*at, *at.add(1), *at.add(2), *at.add(3)].map(u32::from);
                e4m3(vld1q_u32(codes.as_ptr()))
            },
            _ if panel.block_scales.is_empty() => vdupq_n_f32(1.0),
            _ => {
                let scales = &panel.block_scales[block * BLOCK / SCALE_COLS * LANES + quarter * QUARTER..];
                // SAFETY: QUARTER numbers.
                unsafe { vld1q_f32(scales[..QUARTER].as_ptr()) }
            }
        };
        for (total, sum) in totals.iter_mut().zip(sums) {
            *total = vfmaq_f32(*total, scale, sum);
        }
    }
}

/// Four E4M3 codes, one in the lowest byte of each lane: their bits moved into f32, whose exponent bias is 120 higher.
#[inline]
#[target_feature(enable = "neon")]
fn e4m3(codes: uint32x4_t) -> float32x4_t {
    let magnitude = vshlq_n_u32::<20>(vandq_u32(codes, vdupq_n_u32(0x7f)));
    let sign = vshlq_n_u32::<24>(vandq_u32(codes, vdupq_n_u32(0x80)));
    let two_to_120 = f32::from_bits((127 + 120) << 23);
    vmulq_n_f32(vreinterpretq_f32_u32(vorrq_u32(magnitude, sign)), two_to_120)
}

/// Four finite f16 numbers, one in the lower half of each lane: as above, with a bias 112 higher.
#[inline]
#[target_feature(enable = "neon")]
fn f16(bits: uint32x4_t) -> float32x4_t {
    let magnitude = vshlq_n_u32::<13>(vandq_u32(bits, vdupq_n_u32(0x7fff)));
    let sign = vshlq_n_u32::<16>(vandq_u32(bits, vdupq_n_u32(0x8000)));
    let two_to_112 = f32::from_bits((127 + 112) << 23);
    vmulq_n_f32(vreinterpretq_f32_u32(vorrq_u32(magnitude, sign)), two_to_112)
}

/// The weights of columns `2 * pair` and `2 * pair + 1` of a block, before their scales.
///
/// # Safety
/// The block must lie within the panel that starts at `panel`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn pair_of<const FORMAT: u8>(
    panel: *const u8,
    block: usize,
    pair: usize,
    quarter: usize,
) -> (float32x4_t, float32x4_t) {
    // SAFETY: all offsets are those of the layout in `cpu::weight`, within one block.
    unsafe {
        match FORMAT {
            0 => {
                let words = panel.add(block / 4 * 576 + 64 + block % 4 * 128 + pair / 4 * 64 + quarter * 16);
                let shift = vdupq_n_s32(-((pair % 4 * 8) as i32));
                let word = vshlq_u32(vld1q_u32(words.cast()), shift);
                (e2m1(word), e2m1(vshrq_n_u32::<4>(word)))
            }
            1 => {
                let codes = vmovl_u16(vld1_u16(panel.add(block * 256 + pair * 32 + quarter * 8).cast()));
                (e4m3(codes), e4m3(vshrq_n_u32::<8>(codes)))
            }
            2 => {
                let both = vld1q_u32(panel.add(block * 512 + pair * 64 + quarter * 16).cast());
                let high = vandq_u32(both, vdupq_n_u32(0xffff_0000));
                (vreinterpretq_f32_u32(vshlq_n_u32::<16>(both)), vreinterpretq_f32_u32(high))
            }
            3 => {
                let at = panel.add(block * 512 + pair * 64 + quarter * 8);
                (f16(vmovl_u16(vld1_u16(at.cast()))), f16(vmovl_u16(vld1_u16(at.add(32).cast()))))
            }
            _ => {
                let at = panel.add(block * 1024 + pair * 128 + quarter * 16);
                (vld1q_f32(at.cast()), vld1q_f32(at.add(64).cast()))
            }
        }
    }
}

/// The E2M1 number in the lowest four bits of each lane.
#[inline]
#[target_feature(enable = "neon")]
fn e2m1(word: uint32x4_t) -> float32x4_t {
    const TWICE: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
    // SAFETY: sixteen bytes.
    let table = unsafe { vld1q_s8(TWICE.as_ptr()) };
    let codes = vandq_u8(vreinterpretq_u8_u32(word), vdupq_n_u8(15));
    let twice = vreinterpretq_s32_s8(vqtbl1q_s8(table, codes));
    vcvtq_n_f32_s32::<1>(vshrq_n_s32::<24>(vshlq_n_s32::<24>(twice)))
}
