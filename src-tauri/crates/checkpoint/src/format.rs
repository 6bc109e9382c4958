//! The weight formats a linear layer can have in a checkpoint, and their sizes. Used by `linear` to say what it found
//! and by `quant` to say what the configuration promises; `hearth-model`'s budget sizes weights with it.

use hearth_kernels::WeightFormat;

/// How one matrix is stored, granularity of its scales included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LinearFormat {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// E4M3 codes, one scale for the matrix.
    Fp8Tensor,
    /// E4M3 codes, one scale per row.
    Fp8Row,
    /// E4M3 codes, one scale per 128x128 block.
    Fp8Block128,
    /// E2M1 nibbles, an E4M3 scale per 16, one f32 scale.
    Nvfp4,
}

impl LinearFormat {
    /// The kernels' name for it, which leaves the granularity out.
    pub fn weight_format(self) -> WeightFormat {
        match self {
            Self::F32 => WeightFormat::F32,
            Self::F16 => WeightFormat::F16,
            Self::Bf16 => WeightFormat::Bf16,
            Self::Fp8Tensor | Self::Fp8Row | Self::Fp8Block128 => WeightFormat::Fp8,
            Self::Nvfp4 => WeightFormat::Nvfp4,
        }
    }

    /// Whether the numbers are rounded ones with scales.
    pub fn is_quantized(self) -> bool {
        !matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }

    /// Bytes of a `[rows, cols]` matrix with its scales, f32 ones: numbers that a step reads once.
    pub fn bytes(self, rows: u64, cols: u64) -> u64 {
        let count = rows.saturating_mul(cols);
        match self {
            Self::F32 => count.saturating_mul(4),
            Self::F16 | Self::Bf16 => count.saturating_mul(2),
            Self::Fp8Tensor => count.saturating_add(4),
            Self::Fp8Row => count.saturating_add(rows.saturating_mul(4)),
            Self::Fp8Block128 => {
                count.saturating_add(rows.div_ceil(128).saturating_mul(cols.div_ceil(128)).saturating_mul(4))
            }
            Self::Nvfp4 => (count / 2).saturating_add(count / 16).saturating_add(4),
        }
    }
}

impl std::fmt::Display for LinearFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Fp8Tensor => "FP8 with one scale",
            Self::Fp8Row => "FP8 with a scale per row",
            Self::Fp8Block128 => "FP8 with a scale per 128x128 block",
            Self::Nvfp4 => "NVFP4",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nvfp4_takes_four_and_a_half_bits_per_weight() {
        assert_eq!(LinearFormat::Nvfp4.bytes(512, 2048), 512 * 2048 * 9 / 16 + 4);
    }

    #[test]
    fn cut_blocks_have_a_scale_too() {
        assert_eq!(LinearFormat::Fp8Block128.bytes(129, 257), 129 * 257 + 2 * 3 * 4);
    }
}
