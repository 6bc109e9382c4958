//! Tensors in host memory: allocation, upload with conversion, and reading back.

use super::buffer::{HostBuffer, Plain};
use crate::{DType, OpError, Result, Tensor};
use half::{bf16, f16};

/// A zeroed tensor.
pub(crate) fn zeros(dtype: DType, shape: &[usize]) -> Result<Tensor> {
    let bytes = Tensor::count(shape)
        .and_then(|n| n.checked_mul(dtype.size()))
        .ok_or(OpError::OutOfMemory { device: "cpu", bytes: usize::MAX })?;
    Ok(Tensor { dtype, shape: shape.to_vec(), buffer: HostBuffer::zeroed(bytes)? })
}

/// A tensor from little-endian bytes. Same dtype: copied; f32, f16 and bf16: converted, rounded to nearest even.
pub(crate) fn upload(from: DType, bytes: &[u8], dtype: DType, shape: &[usize]) -> Result<Tensor> {
    let mut tensor = zeros(dtype, shape)?;
    let expected = tensor.buffer.len() / dtype.size() * from.size();
    if bytes.len() != expected {
        return Err(OpError::shape(
            "upload",
            "bytes",
            format!("{expected} for {from:?} {shape:?}"),
            bytes.len(),
        ));
    }
    if from == dtype {
        tensor.buffer.as_mut_slice::<u8>().copy_from_slice(bytes);
        return Ok(tensor);
    }
    if from == DType::U32 || dtype == DType::U32 {
        return Err(OpError::shape("upload", "dtype", format!("{from:?}"), format!("{dtype:?}")));
    }
    for (i, element) in bytes.chunks_exact(from.size()).enumerate() {
        let value = match from {
            DType::F16 => f16::from_le_bytes([element[0], element[1]]).to_f32(),
            DType::Bf16 => bf16::from_le_bytes([element[0], element[1]]).to_f32(),
            _ => f32::from_le_bytes([element[0], element[1], element[2], element[3]]),
        };
        match dtype {
            DType::F16 => tensor.buffer.as_mut_slice::<u16>()[i] = f16::from_f32(value).to_bits(),
            DType::Bf16 => tensor.buffer.as_mut_slice::<u16>()[i] = bf16::from_f32(value).to_bits(),
            _ => tensor.buffer.as_mut_slice::<f32>()[i] = value,
        }
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
    Ok(x.buffer.as_slice::<T>()[first * x.width()..end * x.width()].to_vec())
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
