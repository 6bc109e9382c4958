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
