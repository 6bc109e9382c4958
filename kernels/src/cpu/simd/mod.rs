//! Which SIMD instructions this machine has, and the inner loops written for each. `linear` is the only caller of
//! `Simd::multiply`.
//!
//! The sum of a row has one order, whatever runs beside it: within a block of 16 columns left to right, then
//! `total += scale * block`, blocks left to right, and last the row scale. Levels may differ in the last bit (fused or
//! separate multiply and add); one level never differs from itself.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
mod vector;
#[cfg(target_arch = "x86_64")]
mod vnni;

use super::weight::{BLOCK, LANES, Panel};
use crate::WeightFormat;
use std::ops::Range;

pub(crate) use vector::STATE_COLS;

/// Most rows a tile may hold.
pub(crate) const TILE: usize = 12;

/// A SIMD level that this machine has been found to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Simd(Level);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-512 with byte products.
    #[cfg(target_arch = "x86_64")]
    Vnni,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Simd {
    /// All levels of this machine, best first; the last is plain code.
    pub fn available() -> Vec<Simd> {
        let levels = [
            #[cfg(target_arch = "x86_64")]
            (vnni::detected(), Level::Vnni),
            #[cfg(target_arch = "x86_64")]
            (avx512::detected(), Level::Avx512),
            #[cfg(target_arch = "x86_64")]
            (avx2::detected(), Level::Avx2),
            #[cfg(target_arch = "aarch64")]
            (true, Level::Neon),
            (true, Level::Scalar),
        ];
        levels.into_iter().filter(|(there, _)| *there).map(|(_, level)| Simd(level)).collect()
    }

    /// Name for messages and benchmark tables.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Level::Vnni => "avx512vnni",
            #[cfg(target_arch = "aarch64")]
            Level::Neon => "neon",
        }
    }

    /// Whether this level wants `x` encoded for weights of `format`.
    pub(crate) fn encodes(self, format: WeightFormat) -> bool {
        #[cfg(target_arch = "x86_64")]
        let vnni = self.0 == Level::Vnni;
        #[cfg(not(target_arch = "x86_64"))]
        let vnni = false;
        vnni && format == WeightFormat::Nvfp4
    }

    /// Encodes row `i` of a tile of `rows` rows, where `encodes` asks for it: every block of columns in place of its
    /// own 16 numbers, `[blocks, rows, 16]`. `out` is the tile; it must be zero beyond the columns of `x`.
    pub(crate) fn encode(self, x: &[f32], i: usize, rows: usize, out: &mut [f32]) {
        let (stride, out) = (rows * BLOCK, &mut out[i * BLOCK..]);
        #[cfg(target_arch = "x86_64")]
        vnni::encode(x, stride, out);
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("no level of this processor encodes {} numbers by {stride} into {}", x.len(), out.len());
    }

    /// totals[i][r] += sum_k w[r][k] x[k][i] over the columns of `blocks`, for `x` as `[columns of blocks, totals.len()]`.
    /// At most `TILE` rows; NVFP4 blocks come in whole units of four. Ends with `finish`.
    pub(crate) fn multiply(
        self,
        panel: Panel<'_>,
        blocks: Range<usize>,
        x: &[f32],
        totals: &mut [[f32; LANES]],
    ) {
        assert!(x.len() >= blocks.len() * BLOCK * totals.len(), "the tile is shorter than the panel is wide");
        match self.0 {
            Level::Scalar => scalar::multiply(panel, blocks, x, totals),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2::multiply(panel, blocks, x, totals),
            #[cfg(target_arch = "x86_64")]
            Level::Vnni if self.encodes(panel.format) => vnni::multiply(panel, blocks, x, totals),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Vnni => avx512::multiply(panel, blocks, x, totals),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => neon::multiply(panel, blocks, x, totals),
        }
    }

    /// Asks for the cache lines of `data`, which is needed soon but not yet.
    #[inline]
    pub(crate) fn soon<T>(self, data: &[T]) {
        #[cfg(target_arch = "x86_64")]
        for line in (0..size_of_val(data)).step_by(64) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch may name any address and has no effect but on the cache.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(data.as_ptr().wrapping_byte_add(line).cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = data;
    }

    /// Asks for the beginning of a panel that nothing has asked for yet.
    pub(crate) fn begin(self, panel: Panel<'_>) {
        #[cfg(target_arch = "x86_64")]
        if matches!(self.0, Level::Avx512 | Level::Vnni) {
            avx512::begin(panel);
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = panel;
    }

    /// Applies what is common to a row: its scale, and the factor by which a level reads E4M3 numbers too small.
    pub(crate) fn finish(self, panel: Panel<'_>, totals: &mut [[f32; LANES]]) {
        let factor = match (self.0, panel.format) {
            #[cfg(target_arch = "x86_64")]
            (Level::Avx2 | Level::Avx512 | Level::Vnni, WeightFormat::Nvfp4 | WeightFormat::Fp8) => 256.0,
            _ => 1.0,
        };
        for total in totals {
            for (value, scale) in total.iter_mut().zip(panel.row_scales) {
                *value = *value * factor * scale;
            }
        }
    }
}
