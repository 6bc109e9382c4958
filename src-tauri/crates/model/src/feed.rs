//! Where a load's numbers come from: maps in the host's memory, files that are read ahead of a device, or nowhere, when the
//! load is only rehearsed. Whatever the source, the loader asks in the same order; the rehearsal writes it down, and the
//! files are read in it.

use crate::ModelError;
use crate::error::at;
use crate::source::StoredMatrix;
use hearth_checkpoint::{CheckpointError, LinearFormat};
use hearth_kernels::fetch::{Fetch, FileRange};
use hearth_kernels::{
    DType, DeviceMemory, Fp8Scales, Numbers, Nvfp4Global, OpError, Piece, Result as OpResult, StoredScales,
    StoredWeight, Weight,
};
use std::cell::RefCell;

/// The source of a load's numbers.
pub(crate) enum Feed<'a> {
    /// The source's own memory: the backend copies from it.
    Memory,
    /// Files, read ahead; the device packs.
    Files(&'a dyn DeviceMemory, RefCell<Fetch>),
    /// A device that only counts. The ranges that will be wanted, if anybody wants to know.
    Rehearsed(&'a dyn DeviceMemory, RefCell<Option<Vec<FileRange>>>),
}

impl Feed<'_> {
    /// Gives the bytes of a range to `to`; on a rehearsal notes it.
    pub fn take(&self, range: &FileRange, to: &mut dyn FnMut(&[u8]) -> OpResult<()>) -> OpResult<()> {
        match self {
            Feed::Memory => Ok(()),
            Feed::Files(_, fetch) => to(fetch.borrow_mut().take(range)?),
            Feed::Rehearsed(_, wanted) => {
                if let Some(wanted) = wanted.borrow_mut().as_mut() {
                    wanted.push(range.clone());
                }
                Ok(())
            }
        }
    }

    /// Bytes taken so far, and in all; None where nobody counts.
    pub fn progress(&self) -> Option<(u64, u64)> {
        match self {
            Feed::Files(_, fetch) => Some(fetch.borrow().progress()),
            Feed::Memory | Feed::Rehearsed(..) => None,
        }
    }

    /// Whether one expert may speak for all: on a rehearsal that notes nothing.
    pub fn is_brief(&self) -> bool {
        matches!(self, Feed::Rehearsed(_, wanted) if wanted.borrow().is_none())
    }

    /// The matrix without its numbers; its scales are read.
    pub fn stored_weight(
        &self,
        matrix: &StoredMatrix,
        rows: usize,
        cols: usize,
    ) -> Result<StoredWeight, ModelError> {
        let (mut scales, mut global) = (None, None);
        if let Some(tensor) = matrix.scales.as_ref().filter(|_| matrix.format != LinearFormat::Nvfp4) {
            self.take(&tensor.range, &mut |bytes| {
                scales = Some(floats(tensor.dtype, bytes));
                Ok(())
            })
            .map_err(at(&tensor.name))?;
            if let Some(value) = scales.iter().flatten().find(|value| !value.is_finite()) {
                return Err(wrong(tensor, "finite scales", *value));
            }
        }
        if let Some((tensor, _)) = &matrix.global {
            self.take(&tensor.range, &mut |bytes| {
                global = floats(tensor.dtype, bytes).first().copied();
                Ok(())
            })
            .map_err(at(&tensor.name))?;
            if let Some(value) = global.filter(|value| !(value.is_finite() && *value > 0.0)) {
                return Err(wrong(tensor, "a positive scale", value));
            }
        }
        let divide = matrix.global.as_ref().is_some_and(|(_, divide)| *divide);
        Ok(head(matrix.format, rows, cols, scales, global.map(|value| (value, divide))))
    }
}

fn wrong(tensor: &crate::source::StoredTensor, expected: &str, found: f32) -> ModelError {
    CheckpointError::WrongValue {
        file: tensor.range.file.display().to_string(),
        tensor: tensor.name.clone(),
        expected: expected.into(),
        found: found.to_string(),
    }
    .into()
}

/// A stored matrix of a format; scales that nobody read are ones.
pub(crate) fn head(
    format: LinearFormat,
    rows: usize,
    cols: usize,
    scales: Option<Vec<f32>>,
    global: Option<(f32, bool)>,
) -> StoredWeight {
    let many = |count: usize| match scales.clone() {
        Some(scales) => scales,
        None => vec![1.0; count],
    };
    let scales = match format {
        LinearFormat::F32 | LinearFormat::F16 | LinearFormat::Bf16 => StoredScales::None,
        LinearFormat::Fp8Tensor => {
            StoredScales::Fp8(Fp8Scales::Tensor(many(1).first().copied().unwrap_or(1.0)))
        }
        LinearFormat::Fp8Row => StoredScales::Fp8(Fp8Scales::Row(many(rows))),
        LinearFormat::Fp8Block128 => {
            StoredScales::Fp8(Fp8Scales::Block128(many(rows.div_ceil(128) * cols.div_ceil(128))))
        }
        LinearFormat::Nvfp4 => StoredScales::Nvfp4(match global {
            Some((value, true)) => Nvfp4Global::Divide(value),
            Some((value, false)) => Nvfp4Global::Multiply(value),
            None => Nvfp4Global::Multiply(1.0),
        }),
    };
    StoredWeight { rows, cols, format: format.weight_format(), scales }
}

/// Matrices that are packed together, with their scales.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    pub heads: Vec<StoredWeight>,
    /// Each with its rows; None lies in no file.
    pub matrices: Vec<(Option<StoredMatrix>, usize)>,
}

impl Prepared {
    /// Has the device pack them, with the numbers of `feed`.
    pub fn pack(&mut self, feed: &Feed<'_>, memory: &dyn DeviceMemory, paired: bool) -> OpResult<Weight> {
        let mut numbers = FromFeed { feed, matrices: &self.matrices };
        memory.pack_stored(&self.heads, paired, &mut numbers)
    }
}

/// Numbers of stored matrices from a feed; matrices that lie in no file give none.
struct FromFeed<'a> {
    feed: &'a Feed<'a>,
    matrices: &'a [(Option<StoredMatrix>, usize)],
}

impl Numbers for FromFeed<'_> {
    fn give(&mut self, piece: Piece, to: &mut dyn FnMut(&[u8]) -> OpResult<()>) -> OpResult<()> {
        let Piece { part, first, rows, scales } = piece;
        let (Some(matrix), all) = &self.matrices[part] else { return Ok(()) };
        if let Some(stored) = &matrix.rows {
            let (row, mut converted) = (stored.bytes(), Vec::new());
            for (first, rows) in stored.change.runs(first, rows) {
                let range = matrix.numbers.part(first * row, rows * row);
                self.feed.take(&range, &mut |bytes| {
                    stored.convert(bytes, scales, &mut converted);
                    Ok(())
                })?;
            }
            // On a rehearsal there is nothing.
            return if converted.is_empty() { Ok(()) } else { to(&converted) };
        }
        let range = match (&matrix.scales, scales) {
            (Some(tensor), true) => &tensor.range,
            (None, true) => return Ok(()),
            (_, false) => &matrix.numbers,
        };
        let row = range.bytes / all;
        self.feed.take(&range.part(first * row, rows * row), to)
    }
}

/// Stored numbers as f32.
fn floats(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let two = |to_f32: fn([u8; 2]) -> f32| bytes.chunks_exact(2).map(|b| to_f32([b[0], b[1]])).collect();
    match dtype {
        DType::F16 => two(|b| half::f16::from_le_bytes(b).to_f32()),
        DType::Bf16 => two(|b| half::bf16::from_le_bytes(b).to_f32()),
        _ => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
    }
}

/// Refuses a dense tensor that holds what is not a finite number.
pub(crate) fn refuse_non_numbers(name: &str, dtype: DType, bytes: &[u8]) -> Result<(), ModelError> {
    match floats(dtype, bytes).iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        at_index => Err(at(name)(OpError::NotFinite { what: "its values", at: at_index })),
    }
}
