//! How the CPU backend lays weights out: panels of 16 rows, each panel contiguous along the columns, so that a lane of a
//! SIMD register is one output feature and a row's weights stream from memory once. Written by `pack`, read by `panel`.
//!
//! A panel is a sequence of blocks of 16 columns (`j` = column in the block, `r` = row in the panel):
//!
//!   f32    1024 bytes   f32 at [j][r]
//!   f16     512 bytes   f16 at [j][r]
//!   bf16    512 bytes   u32 at [j / 2][r], low half = even column
//!   fp8     256 bytes   u16 at [j / 2][r], low byte = even column
//!   nvfp4   576 bytes   per four blocks: E4M3 scales [4][r], then u32 at [4][j / 8][r], lowest nibble = first column
//!
//! Rows are padded to 16 and columns to a whole unit with zeros.

use super::buffer::{HostBuffer, Slab};
use crate::{E2M1, Result, WeightFormat, e4m3};
use half::{bf16, f16};

/// Rows of a panel.
pub(crate) const LANES: usize = 16;
/// Columns of a block: the stretch that is summed before it is added to the row's total.
pub(crate) const BLOCK: usize = 16;
/// Columns that share one scale in `block_scales`.
pub(crate) const SCALE_COLS: usize = 128;

/// Packed weights in the CPU layout.
#[derive(Debug)]
pub(crate) struct CpuWeight {
    pub format: WeightFormat,
    pub panels: HostBuffer,
    /// Number of panels.
    pub groups: usize,
    /// Blocks of 16 columns per panel, padding included.
    pub blocks: usize,
    /// Bytes of a panel.
    pub panel_bytes: usize,
    /// Block scales of a panel.
    panel_scales: usize,
    /// `[groups * 16]` f32: what a finished row is multiplied with (FP8 row scale, NVFP4 global scale, else 1).
    pub row_scales: HostBuffer,
    /// `[groups, ceil(cols / 128), 16]` f32 for FP8 with block scales, else empty.
    pub block_scales: HostBuffer,
}

/// One panel, borrowed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Panel<'a> {
    pub format: WeightFormat,
    pub bytes: &'a [u8],
    pub blocks: usize,
    pub row_scales: &'a [f32],
    /// `[ceil(cols / 128), 16]`, or empty.
    pub block_scales: &'a [f32],
}

/// Columns are padded to a multiple of this.
pub(crate) fn unit_cols(format: WeightFormat) -> usize {
    match format {
        WeightFormat::Nvfp4 => 4 * BLOCK,
        _ => BLOCK,
    }
}

/// Bytes of `unit_cols` columns of a panel.
pub(crate) fn unit_bytes(format: WeightFormat) -> usize {
    match format {
        WeightFormat::F32 => 1024,
        WeightFormat::F16 | WeightFormat::Bf16 => 512,
        WeightFormat::Fp8 => 256,
        WeightFormat::Nvfp4 => 576,
    }
}

impl CpuWeight {
    /// A zeroed weight for `rows` x `cols` from `slab`.
    pub fn zeroed(
        slab: &mut Slab,
        format: WeightFormat,
        rows: usize,
        cols: usize,
        block_scaled: bool,
    ) -> Result<CpuWeight> {
        let groups = rows.div_ceil(LANES);
        let units = cols.div_ceil(unit_cols(format));
        let scale_blocks = if block_scaled { cols.div_ceil(SCALE_COLS) } else { 0 };
        Ok(CpuWeight {
            format,
            panels: slab.zeroed(groups * units * unit_bytes(format))?,
            groups,
            blocks: units * unit_cols(format) / BLOCK,
            panel_bytes: units * unit_bytes(format),
            panel_scales: scale_blocks * LANES,
            row_scales: slab.zeroed(groups * LANES * 4)?,
            block_scales: slab.zeroed(groups * scale_blocks * LANES * 4)?,
        })
    }

    /// Bytes of the whole weight.
    pub fn bytes(&self) -> usize {
        self.panels.len() + self.row_scales.len() + self.block_scales.len()
    }

    /// Columns with padding.
    pub fn padded_cols(&self) -> usize {
        self.blocks * BLOCK
    }

    /// Panel `group`: rows `16 * group ..`.
    pub fn panel(&self, group: usize) -> Panel<'_> {
        let (bytes, scales) = (self.panel_bytes, self.panel_scales);
        Panel {
            format: self.format,
            bytes: &self.panels.as_slice()[group * bytes..(group + 1) * bytes],
            blocks: self.blocks,
            row_scales: &self.row_scales.as_slice()[group * LANES..(group + 1) * LANES],
            block_scales: &self.block_scales.as_slice()[group * scales..(group + 1) * scales],
        }
    }
}

impl Panel<'_> {
    /// Bytes of all blocks.
    pub fn padded_bytes(&self) -> usize {
        match self.format {
            WeightFormat::Nvfp4 => self.blocks / 4 * unit_bytes(self.format),
            _ => self.blocks * unit_bytes(self.format),
        }
    }

    /// Scale of row `r` in `block`.
    pub fn scale(&self, block: usize, r: usize) -> f32 {
        match self.format {
            WeightFormat::Nvfp4 => e4m3(self.bytes[block / 4 * 576 + block % 4 * LANES + r]),
            _ if self.block_scales.is_empty() => 1.0,
            _ => self.block_scales[block * BLOCK / SCALE_COLS * LANES + r],
        }
    }

    /// The weight at column `j` of `block`, row `r`, before its scales.
    pub fn value(&self, block: usize, j: usize, r: usize) -> f32 {
        let two = |at: usize| [self.bytes[at], self.bytes[at + 1]];
        match self.format {
            WeightFormat::F32 => {
                let at = block * 1024 + (j * LANES + r) * 4;
                let [a, b] = two(at);
                let [c, d] = two(at + 2);
                f32::from_le_bytes([a, b, c, d])
            }
            WeightFormat::F16 => f16::from_le_bytes(two(block * 512 + (j * LANES + r) * 2)).to_f32(),
            WeightFormat::Bf16 => {
                bf16::from_le_bytes(two(block * 512 + (j / 2 * LANES + r) * 4 + j % 2 * 2)).to_f32()
            }
            WeightFormat::Fp8 => e4m3(self.bytes[block * 256 + (j / 2 * LANES + r) * 2 + j % 2]),
            WeightFormat::Nvfp4 => {
                let word = block / 4 * 576 + 64 + block % 4 * 128 + (j / 8 * LANES + r) * 4;
                E2M1[usize::from(self.bytes[word + j % 8 / 2] >> (j % 2 * 4) & 15)]
            }
        }
    }
}
