//! A dense buffer on one device with its dtype and shape. Allocated by `Ops::zeros` and `Ops::upload` only.

use crate::cpu::buffer::{HostBuffer, Plain};
use crate::cuda::memory::DeviceBuffer;
use crate::{OpError, Result};
use std::ops::Range;

/// Element type of a [`Tensor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// Unsigned 32-bit.
    U32,
    /// Bytes: packed keys and values.
    U8,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 | DType::U32 => 4,
            DType::F16 | DType::Bf16 => 2,
            DType::U8 => 1,
        }
    }
}

/// A dense row-major buffer.
#[derive(Debug)]
pub struct Tensor {
    /// Element type.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    pub(crate) buffer: Buffer,
}

/// Rows to copy within a tensor, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowStretch {
    pub from: usize,
    pub to: usize,
    pub len: usize,
}

/// Where a tensor's bytes are.
#[derive(Debug)]
pub(crate) enum Buffer {
    /// In memory that the CPU backend computes on.
    Host(HostBuffer),
    /// In memory of a GPU.
    Device(DeviceBuffer),
}

impl Buffer {
    /// Size in bytes.
    pub fn len(&self) -> usize {
        match self {
            Buffer::Host(buffer) => buffer.len(),
            Buffer::Device(buffer) => buffer.bytes,
        }
    }
}

/// An argument that lies in the memory of another backend than the op's.
fn elsewhere(op: &'static str, what: &'static str, here: &str, there: &str) -> OpError {
    OpError::shape(op, what, format_args!("a tensor in {here} memory"), format_args!("one in {there} memory"))
}

impl Tensor {
    /// Number of elements; `None` if it does not fit in memory's address range.
    pub(crate) fn count(shape: &[usize]) -> Option<usize> {
        shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n))
    }

    /// Bytes the tensor occupies.
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The whole tensor as elements of `T`, for the CPU backend.
    pub(crate) fn host<T: Plain>(&self, op: &'static str, what: &'static str) -> Result<&[T]> {
        match &self.buffer {
            Buffer::Host(buffer) => Ok(buffer.as_slice()),
            Buffer::Device(_) => Err(elsewhere(op, what, "the CPU's", "a GPU's")),
        }
    }

    /// As [`Tensor::host`], writable.
    pub(crate) fn host_mut<T: Plain>(&mut self, op: &'static str, what: &'static str) -> Result<&mut [T]> {
        match &mut self.buffer {
            Buffer::Host(buffer) => Ok(buffer.as_mut_slice()),
            Buffer::Device(_) => Err(elsewhere(op, what, "the CPU's", "a GPU's")),
        }
    }

    /// The tensor's address on its device, for the CUDA backend.
    pub(crate) fn address(&self, op: &'static str, what: &'static str) -> Result<u64> {
        match &self.buffer {
            Buffer::Device(buffer) => Ok(buffer.address),
            Buffer::Host(_) => Err(elsewhere(op, what, "a GPU's", "the CPU's")),
        }
    }

    /// Size of the last dimension (1 for a scalar).
    pub(crate) fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// How many rows of `width()` elements there are. Counted from the memory, as `shape` is public.
    pub(crate) fn row_count(&self) -> usize {
        (self.buffer.len() / self.dtype.size()).checked_div(self.width()).unwrap_or(0)
    }

    /// The bytes of rows `from .. from + rows` and where those from row `to` on begin. Refuses rows that are not there
    /// or that overlap.
    pub(crate) fn row_stretch(
        &self,
        op: &'static str,
        from: usize,
        to: usize,
        rows: usize,
    ) -> Result<RowStretch> {
        let end = from.max(to).saturating_add(rows);
        if end > self.row_count() {
            return Err(OpError::shape(op, "x", format!("at least {end} rows"), self.row_count()));
        }
        if from.abs_diff(to) < rows {
            return Err(OpError::shape(op, "rows", format!("at most {}", from.abs_diff(to)), rows));
        }
        let row = self.width() * self.dtype.size();
        Ok(RowStretch { from: from * row, to: to * row, len: rows * row })
    }

    /// The bytes of rows `first .. first + rows`. Refuses rows that are not there.
    pub(crate) fn row_bytes(&self, op: &'static str, first: usize, rows: usize) -> Result<Range<usize>> {
        let end = first.saturating_add(rows);
        if end > self.row_count() {
            return Err(OpError::shape(op, "x", format!("at least {end} rows"), self.row_count()));
        }
        let row = self.width() * self.dtype.size();
        Ok(first * row..end * row)
    }

    /// How many rows `bytes` bytes are. Refuses a part of a row.
    pub(crate) fn whole_rows(&self, op: &'static str, bytes: usize) -> Result<usize> {
        let row = self.width() * self.dtype.size();
        if row == 0 || !bytes.is_multiple_of(row) {
            return Err(OpError::shape(op, "bytes", format!("a multiple of {row}"), bytes));
        }
        Ok(bytes / row)
    }

    /// Refuses every dtype but `dtype`.
    pub(crate) fn expect_dtype(&self, op: &'static str, what: &'static str, dtype: DType) -> Result<()> {
        if self.dtype == dtype {
            return Ok(());
        }
        Err(OpError::shape(op, what, format!("{dtype:?}"), format!("{:?}", self.dtype)))
    }

    /// Refuses fewer than `t` rows or another width than `width`.
    pub(crate) fn expect_rows(
        &self,
        op: &'static str,
        what: &'static str,
        t: usize,
        width: usize,
    ) -> Result<()> {
        if self.width() == width && self.row_count() >= t {
            return Ok(());
        }
        Err(OpError::shape(op, what, format!("[>= {t}, {width}]"), format!("{:?}", self.shape)))
    }

    /// The first `t` rows of an f32 `[>= t, width]` tensor.
    pub(crate) fn rows_f32(
        &self,
        op: &'static str,
        what: &'static str,
        t: usize,
        width: usize,
    ) -> Result<&[f32]> {
        self.expect_dtype(op, what, DType::F32)?;
        self.expect_rows(op, what, t, width)?;
        Ok(&self.host(op, what)?[..t * width])
    }

    /// As [`Tensor::rows_f32`], writable.
    pub(crate) fn rows_f32_mut(
        &mut self,
        op: &'static str,
        what: &'static str,
        t: usize,
        width: usize,
    ) -> Result<&mut [f32]> {
        self.expect_dtype(op, what, DType::F32)?;
        self.expect_rows(op, what, t, width)?;
        Ok(&mut self.host_mut(op, what)?[..t * width])
    }

    /// All elements of an f32 tensor of exactly this shape.
    pub(crate) fn exact_f32(&self, op: &'static str, what: &'static str, shape: &[usize]) -> Result<&[f32]> {
        self.expect_dtype(op, what, DType::F32)?;
        self.expect_shape(op, what, shape)?;
        self.host(op, what)
    }

    /// Refuses every other shape.
    pub(crate) fn expect_shape(&self, op: &'static str, what: &'static str, shape: &[usize]) -> Result<()> {
        if self.shape == shape && Tensor::count(shape) == Some(self.buffer.len() / self.dtype.size()) {
            return Ok(());
        }
        Err(OpError::shape(op, what, format!("{shape:?}"), format!("{:?}", self.shape)))
    }
}
