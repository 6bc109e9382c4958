//! Tensors in host memory: allocation, upload with conversion, and reading back.

use super::buffer::{HostBuffer, Plain};
use crate::splitmix::{STEP, splitmix64};
use crate::tensor::Buffer;
use crate::{DType, OpError, Result, Tensor};
use half::{bf16, f16};

/// A zeroed tensor.
pub(crate) fn zeros(dtype: DType, shape: &[usize]) -> Result<Tensor> {
    let bytes = Tensor::count(shape)
        .and_then(|n| n.checked_mul(dtype.size()))
        .ok_or(OpError::OutOfMemory { device: "cpu", bytes: usize::MAX })?;
    Ok(Tensor { dtype, shape: shape.to_vec(), buffer: Buffer::Host(HostBuffer::zeroed(bytes)?) })
}

/// The op `scramble`: SplitMix64 over `seed`, with the bits left out that would make a number infinite or NaN.
pub(crate) fn scramble(x: &mut Tensor, seed: u64) -> Result<()> {
    // Fewer than 16 bytes at the end stay as they are, as on a device.
    let bytes = x.host_mut::<u8>("scramble", "x")?;
    let whole = bytes.len() / 16 * 16;
    for (i, word) in bytes[..whole].chunks_exact_mut(8).enumerate() {
        let number = splitmix64(seed.wrapping_add((i as u64 + 1).wrapping_mul(STEP)));
        word.copy_from_slice(&(number & 0xbbbb_bbbb_bbbb_bbbb).to_le_bytes());
    }
    Ok(())
}

/// A tensor from little-endian bytes. Same dtype: copied; f32, f16 and bf16: converted, rounded to nearest even.
pub(crate) fn upload(from: DType, bytes: &[u8], dtype: DType, shape: &[usize]) -> Result<Tensor> {
    const OP: &str = "upload";
    let mut tensor = zeros(dtype, shape)?;
    let expected = tensor.buffer.len() / dtype.size() * from.size();
    if bytes.len() != expected {
        return Err(OpError::shape(OP, "bytes", format!("{expected} for {from:?} {shape:?}"), bytes.len()));
    }
    if from == dtype {
        tensor.host_mut::<u8>(OP, "tensor")?.copy_from_slice(bytes);
        return Ok(tensor);
    }
    if [from, dtype].iter().any(|dtype| matches!(dtype, DType::U32 | DType::U8)) {
        return Err(OpError::shape(OP, "dtype", format!("{from:?}"), format!("{dtype:?}")));
    }
    let values = bytes.chunks_exact(from.size()).map(|element| match from {
        DType::F16 => f16::from_le_bytes([element[0], element[1]]).to_f32(),
        DType::Bf16 => bf16::from_le_bytes([element[0], element[1]]).to_f32(),
        _ => f32::from_le_bytes([element[0], element[1], element[2], element[3]]),
    });
    if dtype == DType::F32 {
        for (to, value) in tensor.host_mut::<f32>(OP, "tensor")?.iter_mut().zip(values) {
            *to = value;
        }
        return Ok(tensor);
    }
    for (to, value) in tensor.host_mut::<u16>(OP, "tensor")?.iter_mut().zip(values) {
        *to = if dtype == DType::F16 {
            f16::from_f32(value).to_bits()
        } else {
            bf16::from_f32(value).to_bits()
        };
    }
    Ok(tensor)
}

/// Rows `first .. first + rows` of a tensor of `dtype`.
pub(crate) fn read_rows<T: Plain>(
    op: &'static str,
    x: &Tensor,
    dtype: DType,
    first: usize,
    rows: usize,
) -> Result<Vec<T>> {
    x.expect_dtype(op, "x", dtype)?;
    let end = first.saturating_add(rows);
    x.expect_rows(op, "x", end, x.width())?;
    Ok(x.host::<T>(op, "x")?[first * x.width()..end * x.width()].to_vec())
}

/// The op `gather_rows`.
pub(crate) fn gather_rows(x: &Tensor, rows: &[u32], out: &mut Tensor) -> Result<()> {
    const OP: &str = "gather_rows";
    let width = x.width();
    let last = rows.iter().max().map_or(0, |last| *last as usize + 1);
    let x = x.rows_f32(OP, "x", last, width)?;
    let out = out.rows_f32_mut(OP, "out", rows.len(), width)?;
    for (i, &row) in rows.iter().enumerate() {
        out[i * width..(i + 1) * width].copy_from_slice(&x[row as usize * width..][..width]);
    }
    Ok(())
}
