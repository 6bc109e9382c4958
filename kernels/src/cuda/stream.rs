//! Bytes of a file to the device: several threads read into one pinned buffer while the other is copied from. Never a map
//! of the file: on a GPU that shares the host's memory its pages would be there twice.

use super::Cuda;
use super::gpu::{Bounce, Gpu};
use super::memory::DeviceBuffer;
use crate::cpu::buffer::HostBuffer;
use crate::direct::{BLOCK, DirectFile};
use crate::tensor::Buffer;
use crate::{DType, OpError, Result, Tensor};

/// Size of each of the two buffers: long enough for a disk's full speed on every reader.
const CHUNK: usize = 32 << 20;

/// Threads that read: one alone reaches a third of what a fast disk gives.
const READERS: usize = 4;

impl Cuda {
    /// A tensor whose bytes lie at `offset` of `file` as `dtype`, row-major.
    ///
    /// # Errors
    /// [`OpError::File`] if the file is too short or cannot be read; no memory; a fault of the device.
    pub fn upload_file(
        &self,
        file: &DirectFile,
        offset: u64,
        dtype: DType,
        shape: &[usize],
    ) -> Result<Tensor> {
        let bytes = Tensor::count(shape)
            .and_then(|n| n.checked_mul(dtype.size()))
            .ok_or(OpError::OutOfMemory { device: self.gpu.device(), bytes: usize::MAX })?;
        let buffer = DeviceBuffer::new(&self.gpu, bytes)?;
        copy_file_range(&*self.gpu, file, offset, bytes, buffer.address, CHUNK)?;
        Ok(Tensor { dtype, shape: shape.to_vec(), buffer: Buffer::Device(buffer) })
    }
}

/// Copies bytes `offset .. offset + bytes` of `file` to the device address `to`, through two buffers of `chunk` bytes, a
/// multiple of [`BLOCK`]. Has been read, and is on its way in the order of the stream, when it returns.
fn copy_file_range(
    gpu: &dyn Gpu,
    file: &DirectFile,
    offset: u64,
    bytes: usize,
    to: u64,
    chunk: usize,
) -> Result<()> {
    let end = offset.saturating_add(bytes as u64);
    if end > file.length() {
        return Err(file.fault(format!("it has {} bytes, {end} are needed", file.length())));
    }
    if bytes == 0 {
        return Ok(());
    }
    let first = offset - offset % BLOCK as u64;
    // A small range needs no large buffers.
    let chunk = chunk.min(usize::try_from(end - first).unwrap_or(chunk).next_multiple_of(BLOCK));
    let mut buffers = [bounce(gpu, chunk)?, bounce(gpu, chunk)?];
    let mut at = first;
    for turn in 0.. {
        if at >= end {
            break;
        }
        let buffer = &mut buffers[turn % 2];
        buffer.wait()?;
        let wanted = usize::try_from(end - at).unwrap_or(chunk).min(chunk);
        let found = file.read(at, &mut buffer.bytes()[..wanted.next_multiple_of(BLOCK)], READERS)?;
        if found < wanted {
            return Err(file.fault("it became shorter while it was read"));
        }
        let skip = usize::try_from(offset.saturating_sub(at)).unwrap_or(0);
        buffer.send(skip, wanted - skip, to + (at + skip as u64 - offset))?;
        at += chunk as u64;
    }
    buffers.iter_mut().try_for_each(|buffer| buffer.wait())
}

/// The device's pinned memory, or ordinary memory where there is no such thing.
fn bounce<'a>(gpu: &'a dyn Gpu, bytes: usize) -> Result<Box<dyn Bounce + 'a>> {
    match gpu.pin(bytes)? {
        Some(pinned) => Ok(pinned),
        None => Ok(Box::new(Ordinary { gpu, memory: HostBuffer::zeroed(bytes)? })),
    }
}

/// A bounce buffer of ordinary memory, copied from before `send` returns.
struct Ordinary<'a> {
    gpu: &'a dyn Gpu,
    memory: HostBuffer,
}

impl Bounce for Ordinary<'_> {
    fn bytes(&mut self) -> &mut [u8] {
        self.memory.as_mut_slice()
    }

    fn send(&mut self, from: usize, count: usize, to: u64) -> Result<()> {
        self.gpu.write(to, &self.memory.as_slice::<u8>()[from..from + count])
    }

    fn wait(&mut self) -> Result<()> {
        Ok(())
    }
}

#[cfg(all(test, feature = "emulator"))]
mod tests {
    use super::*;
    use crate::cuda::emulated::EmulatorOptions;

    #[test]
    fn any_range_of_a_file_arrives_whatever_its_offset_and_length() {
        let content: Vec<u8> = (0..200_003_usize).map(|i| (i * 131 + (i >> 8)) as u8).collect();
        let path = std::env::temp_dir().join(format!("hearth-stream-{}", std::process::id()));
        std::fs::write(&path, &content).expect("the folder for temporary files can be written");
        let file = DirectFile::open(&path).expect("it is there");
        let cuda = Cuda::emulated(EmulatorOptions::default()).expect("the emulator opens");
        for (offset, bytes) in
            [(0, 200_003), (4096, 8192), (8191, 1), (5, 4091), (123, 100_001), (200_003, 0)]
        {
            let buffer = DeviceBuffer::new(&cuda.gpu, bytes.max(1)).expect("there is memory");
            copy_file_range(&*cuda.gpu, &file, offset, bytes, buffer.address, 2 * BLOCK)
                .expect("it is copied");
            let mut found = vec![0; bytes];
            cuda.gpu.read(buffer.address, &mut found).expect("it can be read");
            assert!(found == content[offset as usize..offset as usize + bytes], "{bytes} at {offset}");
        }
        let refused = cuda.upload_file(&file, 200_000, DType::F32, &[1]).expect_err("it ends before");
        assert!(refused.to_string().ends_with("it has 200003 bytes, 200004 are needed"), "{refused}");
        std::fs::remove_file(path).expect("it was there");
    }
}
