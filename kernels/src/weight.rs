//! Weights stay packed. `PackedWeight` borrows one matrix as a checkpoint stores it; `Weight` is one or several of
//! them, repacked once by `Ops::pack` into the layout the backend's kernels read.

use crate::cpu::weight::CpuWeight;
use crate::cuda::weight::CudaWeight;
use crate::{OpError, Result};

/// How the numbers of a weight are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightFormat {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// E4M3 codes with f32 scales per tensor, per row, or per 128x128 block.
    Fp8,
    /// E2M1 nibbles, an E4M3 scale per 16, one f32 scale per matrix.
    Nvfp4,
}

/// One matrix `[rows, cols]` (`rows` = output features, `cols` = input features) as the checkpoint stores it.
#[derive(Debug, Clone)]
pub struct PackedWeight<'a> {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// The stored numbers.
    pub values: Values<'a>,
}

/// The stored numbers of a [`PackedWeight`], little-endian, row-major.
#[derive(Debug, Clone)]
pub enum Values<'a> {
    /// `[rows, cols]` f32.
    F32(&'a [u8]),
    /// `[rows, cols]` f16.
    F16(&'a [u8]),
    /// `[rows, cols]` bf16.
    Bf16(&'a [u8]),
    /// `[rows, cols]` E4M3 codes: w = e4m3(code) * scale.
    Fp8 {
        /// One code per weight.
        codes: &'a [u8],
        /// Multipliers.
        scales: Fp8Scales,
    },
    /// w = e2m1(nibble) * e4m3(scale of its 16) (/ or *) global. Low nibble = even column.
    Nvfp4 {
        /// `[rows, cols / 2]`.
        nibbles: &'a [u8],
        /// `[rows, cols / 16]` E4M3 codes.
        scales: &'a [u8],
        /// The scale of the whole matrix.
        global: Nvfp4Global,
    },
}

/// The f32 scale of a whole NVFP4 matrix; the two writers disagree on its direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Nvfp4Global {
    /// compressed-tensors `weight_global_scale`: the block scale is divided by it, w = e2m1 * (scale / global).
    Divide(f32),
    /// ModelOpt `weight_scale_2`: w = e2m1 * scale * scale_2.
    Multiply(f32),
}

/// Multipliers of E4M3 codes.
#[derive(Debug, Clone, PartialEq)]
pub enum Fp8Scales {
    /// One for the matrix.
    Tensor(f32),
    /// One per row, `[rows]`.
    Row(Vec<f32>),
    /// One per 128x128 block, `[ceil(rows/128), ceil(cols/128)]` row-major.
    Block128(Vec<f32>),
}

/// A matrix as a checkpoint stores it, without its numbers: [`Numbers`] gives them as they are packed.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredWeight {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// How the numbers are stored.
    pub format: WeightFormat,
    /// What they are multiplied with.
    pub scales: StoredScales,
}

/// The scales of a stored matrix that are few; NVFP4's scales per 16 come with the numbers.
#[derive(Debug, Clone, PartialEq)]
pub enum StoredScales {
    /// None: F32, F16, bf16.
    None,
    /// Of E4M3 codes.
    Fp8(Fp8Scales),
    /// Of a whole NVFP4 matrix.
    Nvfp4(Nvfp4Global),
}

/// Rows of a stored matrix, while it is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Which of the stacked matrices.
    pub part: usize,
    /// Its first row.
    pub first: usize,
    /// How many rows.
    pub rows: usize,
    /// NVFP4's scales per 16 of these rows, instead of their numbers.
    pub scales: bool,
}

/// Gives the numbers of stored matrices, piece by piece.
pub trait Numbers {
    /// Gives the bytes of `piece`, row-major as [`Values`] has them, to `to`.
    ///
    /// # Errors
    /// They cannot be read, or those of `to`.
    fn give(&mut self, piece: Piece, to: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>;
}

impl PackedWeight<'_> {
    /// The matrix without its numbers.
    pub(crate) fn stored(&self) -> StoredWeight {
        let (format, scales) = match &self.values {
            Values::F32(_) => (WeightFormat::F32, StoredScales::None),
            Values::F16(_) => (WeightFormat::F16, StoredScales::None),
            Values::Bf16(_) => (WeightFormat::Bf16, StoredScales::None),
            Values::Fp8 { scales, .. } => (WeightFormat::Fp8, StoredScales::Fp8(scales.clone())),
            Values::Nvfp4 { global, .. } => (WeightFormat::Nvfp4, StoredScales::Nvfp4(*global)),
        };
        StoredWeight { rows: self.rows, cols: self.cols, format, scales }
    }
}

/// Matrices whose numbers lie in memory.
impl Numbers for &[PackedWeight<'_>] {
    fn give(&mut self, piece: Piece, to: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let Piece { part, first, rows, scales: only_scales } = piece;
        let part = &self[part];
        let window = |bytes: &[u8], row: usize, to: &mut dyn FnMut(&[u8]) -> Result<()>| {
            to(&bytes[first * row..(first + rows) * row])
        };
        let cols = part.cols;
        match part.values {
            Values::F32(bytes) => window(bytes, 4 * cols, to),
            Values::F16(bytes) | Values::Bf16(bytes) => window(bytes, 2 * cols, to),
            Values::Fp8 { codes, .. } => window(codes, cols, to),
            Values::Nvfp4 { scales, .. } if only_scales => window(scales, cols / 16, to),
            Values::Nvfp4 { nibbles, .. } => window(nibbles, cols / 2, to),
        }
    }
}

/// One or several matrices of one format and one width, stacked by rows, in the layout of the backend that packed them.
#[derive(Debug)]
pub struct Weight {
    /// Rows of all parts together.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Format of every part.
    pub format: WeightFormat,
    /// Bytes this weight occupies on the device = bytes read when it is used once.
    pub bytes: usize,
    pub(crate) storage: Storage,
}

/// The packed numbers, by the backend that packed them.
#[derive(Debug)]
pub(crate) enum Storage {
    /// Panels.
    Cpu(CpuWeight),
    /// Tiles in device memory.
    Cuda(CudaWeight),
}

impl Weight {
    /// The panels, for the CPU backend.
    pub(crate) fn panels(&self, op: &'static str, what: &'static str) -> Result<&CpuWeight> {
        match &self.storage {
            Storage::Cpu(weight) => Ok(weight),
            Storage::Cuda(_) => {
                Err(OpError::shape(op, what, "a weight packed for the CPU", "one packed for a GPU"))
            }
        }
    }

    /// The tiles, for the CUDA backend.
    pub(crate) fn tiles(&self, op: &'static str, what: &'static str) -> Result<&CudaWeight> {
        match &self.storage {
            Storage::Cuda(weight) => Ok(weight),
            Storage::Cpu(_) => {
                Err(OpError::shape(op, what, "a weight packed for a GPU", "one packed for the CPU"))
            }
        }
    }
}
