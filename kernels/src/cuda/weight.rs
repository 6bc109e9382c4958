//! How weights lie in device memory: tiles of 16 rows by 64 columns, in the order in which the lanes of a warp hold the
//! A operand of a 16x8x16 matrix product. Written by `pack`, read by `kernels/cuda/tile.cuh`, which draws the layout.

use super::gpu::Args;
use super::memory::DeviceBuffer;

/// Packed weights in the device layout.
#[derive(Debug)]
pub(crate) struct CudaWeight {
    /// What kernels are told.
    pub matrix: Matrix,
    /// The memory it points into.
    pub _buffers: Vec<DeviceBuffer>,
}

/// A packed matrix as kernels see it; `struct Matrix` in `tile.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Matrix {
    /// Address of the tiles, row tiles outermost.
    pub tiles: u64,
    /// Address of `[row_tiles * 16]` f32, what a finished row is multiplied with.
    pub row_scales: u64,
    /// Address of `[row_tiles, ceil(cols / 128), 2]` f32 for FP8 with block scales, else 0.
    pub block_scales: u64,
    /// Rows without padding.
    pub rows: u32,
    /// Columns without padding.
    pub cols: u32,
    /// Tiles along the rows.
    pub row_tiles: u32,
    /// Tiles along the columns.
    pub k_tiles: u32,
    /// 0 f32, 1 f16, 2 bf16, 3 fp8, 4 nvfp4.
    pub format: u32,
    /// 1: eight gate rows and eight up rows in each tile.
    pub paired: u32,
}

// SAFETY: repr(C); three u64 then six u32 leave no padding.
unsafe impl Args for Matrix {}
const _: () = assert!(size_of::<Matrix>() == 48);
