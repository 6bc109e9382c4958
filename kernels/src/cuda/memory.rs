//! Device memory behind tensors and weights: freed when its owner goes.

use super::Cuda;
use super::gpu::Gpu;
use crate::tensor::Buffer;
use crate::{DType, OpError, Result, Tensor};
use std::sync::Arc;

/// Some bytes of a device.
#[derive(Debug)]
pub(crate) struct DeviceBuffer {
    /// Device address, aligned to 256; 0 if there are no bytes.
    pub address: u64,
    /// Size.
    pub bytes: usize,
    gpu: Arc<dyn Gpu>,
}

impl DeviceBuffer {
    /// `bytes` bytes of unspecified contents.
    pub fn new(gpu: &Arc<dyn Gpu>, bytes: usize) -> Result<DeviceBuffer> {
        let address = if bytes == 0 { 0 } else { gpu.alloc(bytes)? };
        Ok(DeviceBuffer { address, bytes, gpu: gpu.clone() })
    }

    /// `bytes` zeroes.
    pub fn zeroed(gpu: &Arc<dyn Gpu>, bytes: usize) -> Result<DeviceBuffer> {
        let buffer = DeviceBuffer::new(gpu, bytes)?;
        if bytes > 0 {
            gpu.fill(buffer.address, 0, bytes)?;
        }
        Ok(buffer)
    }

    /// A copy of `bytes`.
    pub fn from_host(gpu: &Arc<dyn Gpu>, bytes: &[u8]) -> Result<DeviceBuffer> {
        let buffer = DeviceBuffer::new(gpu, bytes.len())?;
        if !bytes.is_empty() {
            gpu.write(buffer.address, bytes)?;
        }
        Ok(buffer)
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if self.address != 0 {
            self.gpu.free(self.address);
        }
    }
}

/// The op `zeros`.
pub(crate) fn zeros(cuda: &Cuda, dtype: DType, shape: &[usize]) -> Result<Tensor> {
    let bytes = Tensor::count(shape)
        .and_then(|n| n.checked_mul(dtype.size()))
        .ok_or(OpError::OutOfMemory { device: cuda.gpu.device(), bytes: usize::MAX })?;
    let buffer = DeviceBuffer::zeroed(&cuda.gpu, bytes)?;
    Ok(Tensor { dtype, shape: shape.to_vec(), buffer: Buffer::Device(buffer) })
}

/// The op `upload`: converted on the host, then copied.
pub(crate) fn upload(
    cuda: &Cuda,
    from: DType,
    bytes: &[u8],
    dtype: DType,
    shape: &[usize],
) -> Result<Tensor> {
    let converted = crate::cpu::memory::upload(from, bytes, dtype, shape)?;
    let buffer = DeviceBuffer::from_host(&cuda.gpu, converted.host::<u8>("upload", "tensor")?)?;
    Ok(Tensor { dtype, shape: shape.to_vec(), buffer: Buffer::Device(buffer) })
}

/// Bytes of rows `first .. first + rows` of a tensor of `dtype`.
pub(crate) fn read_rows(
    cuda: &Cuda,
    op: &'static str,
    x: &Tensor,
    dtype: DType,
    first: usize,
    rows: usize,
) -> Result<Vec<u8>> {
    x.expect_dtype(op, "x", dtype)?;
    x.expect_rows(op, "x", first.saturating_add(rows), x.width())?;
    let row = x.width() * dtype.size();
    let mut bytes = vec![0; rows * row];
    if !bytes.is_empty() {
        cuda.gpu.read(x.address(op, "x")? + (first * row) as u64, &mut bytes)?;
    }
    Ok(bytes)
}
