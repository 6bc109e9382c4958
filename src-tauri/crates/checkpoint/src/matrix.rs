//! The matrix of a linear layer as the kernels take it: borrowed from the file, or converted out of a GGUF's blocks. Made by
//! `Checkpoint::linear`.

use hearth_kernels::{Nvfp4Global, PackedWeight, Values};

use crate::LinearFormat;
use crate::gguf::StoredRows;

/// One matrix with its numbers.
#[derive(Debug, Clone)]
pub enum Matrix<'a> {
    /// As it lies in the file.
    Stored(PackedWeight<'a>),
    /// Converted; holds memory of its own.
    Converted(Converted),
}

/// A matrix out of a GGUF file.
#[derive(Debug, Clone)]
pub struct Converted {
    rows: usize,
    cols: usize,
    format: LinearFormat,
    numbers: Vec<u8>,
    scales: Vec<u8>,
    global: Nvfp4Global,
}

impl Converted {
    /// All rows of a matrix. `global` is NVFP4's scale of the whole.
    pub(crate) fn of(
        stored: &StoredRows,
        bytes: &[u8],
        format: LinearFormat,
        global: Option<Nvfp4Global>,
    ) -> Converted {
        let numbers = stored.whole(bytes, false);
        let scales = if format == LinearFormat::Nvfp4 { stored.whole(bytes, true) } else { Vec::new() };
        let global = global.unwrap_or(Nvfp4Global::Multiply(1.0));
        let rows = bytes.len() / stored.bytes().max(1);
        Converted { rows, cols: stored.cols, format, numbers, scales, global }
    }
}

impl Matrix<'_> {
    /// What the kernels take.
    pub fn packed(&self) -> PackedWeight<'_> {
        let converted = match self {
            Matrix::Stored(packed) => return packed.clone(),
            Matrix::Converted(converted) => converted,
        };
        let numbers = converted.numbers.as_slice();
        let values = match converted.format {
            LinearFormat::F32 => Values::F32(numbers),
            LinearFormat::F16 => Values::F16(numbers),
            LinearFormat::Nvfp4 => {
                Values::Nvfp4 { nibbles: numbers, scales: &converted.scales, global: converted.global }
            }
            _ => Values::Bf16(numbers),
        };
        PackedWeight { rows: converted.rows, cols: converted.cols, values }
    }
}

impl<'a> From<PackedWeight<'a>> for Matrix<'a> {
    fn from(packed: PackedWeight<'a>) -> Self {
        Matrix::Stored(packed)
    }
}
