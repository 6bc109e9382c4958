//! Host memory of a tensor or weight: zeroed, aligned to a cache line, refused (not aborted) when it cannot be had.
//! Used by `Tensor`, `CpuWeight` and the scratch space of the CPU backend.
//!
//! Memory is mapped and the kernel is asked for huge pages: with 4 KiB pages a core spends a third of a decode step on
//! address translation (kernels/results/NOTES.md). Weights share large mappings, since one expert alone is smaller than
//! a huge page.

use crate::{OpError, Result};
use std::ptr::NonNull;
use std::sync::Arc;

/// Alignment of every buffer: one cache line, one AVX-512 register.
const ALIGN: usize = 64;
/// Size and alignment of a huge page on x86-64 and (with 4 KiB base pages) on aarch64.
const HUGE: usize = 2 << 20;
/// Size of the mappings that weights share.
const SHARED: usize = 64 << 20;

/// Some zero-initialised, 64-byte aligned bytes of a mapping, which nobody else refers to.
#[derive(Debug)]
pub(crate) struct HostBuffer {
    start: NonNull<u8>,
    bytes: usize,
    /// None if there are no bytes.
    _mapping: Option<Arc<Mapping>>,
}

// SAFETY: the buffer alone refers to its bytes; `&self` only reads and `&mut self` only writes.
unsafe impl Send for HostBuffer {}
// SAFETY: as above: shared access is read-only.
unsafe impl Sync for HostBuffer {}

/// Element types that any bit pattern is valid for.
pub(crate) trait Plain: Copy + Send + Sync + 'static {}
impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for u64 {}
impl Plain for f32 {}

impl HostBuffer {
    /// `bytes` zeroed bytes.
    pub fn zeroed(bytes: usize) -> Result<HostBuffer> {
        if bytes == 0 {
            return Ok(HostBuffer { start: dangling(), bytes, _mapping: None });
        }
        let mapping = Arc::new(Mapping::zeroed(bytes)?);
        Ok(HostBuffer { start: mapping.start, bytes, _mapping: Some(mapping) })
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// The whole buffer as elements of `T`; a rest shorter than one element is left out.
    pub fn as_slice<T: Plain>(&self) -> &[T] {
        // SAFETY: start is aligned to 64 (more than any Plain type needs), the memory is initialised and ours, any bit
        // pattern is a valid T, and the length stays within our bytes.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.bytes / size_of::<T>()) }
    }

    /// As [`HostBuffer::as_slice`], writable.
    pub fn as_mut_slice<T: Plain>(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.bytes / size_of::<T>()) }
    }
}

/// A non-null, aligned address for a buffer without memory.
fn dangling() -> NonNull<u8> {
    #[repr(align(64))]
    struct CacheLine;
    NonNull::<CacheLine>::dangling().cast()
}

/// Gives out buffers from shared mappings, one after the other; a mapping goes when its last buffer goes.
#[derive(Debug, Default)]
pub(crate) struct Slab {
    current: Option<Arc<Mapping>>,
    used: usize,
}

impl Slab {
    /// `bytes` zeroed bytes.
    pub fn zeroed(&mut self, bytes: usize) -> Result<HostBuffer> {
        if bytes == 0 || bytes > SHARED / 4 {
            return HostBuffer::zeroed(bytes);
        }
        let mapping = match self.current.take() {
            Some(mapping) if mapping.bytes - self.used >= bytes => mapping,
            _ => {
                self.used = 0;
                Arc::new(Mapping::zeroed(SHARED)?)
            }
        };
        // SAFETY: `used + bytes` lies within the mapping; `used` only grows, so no byte is given out twice.
        let start = unsafe { mapping.start.add(self.used) };
        self.used += bytes.next_multiple_of(ALIGN);
        self.used = self.used.min(mapping.bytes);
        self.current = Some(mapping.clone());
        Ok(HostBuffer { start, bytes, _mapping: Some(mapping) })
    }
}

/// A private anonymous mapping.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
    /// What was mapped: up to one huge page more, for the alignment.
    whole: (NonNull<u8>, usize),
}

// SAFETY: a mapping is only an address range; access to it goes through buffers.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn zeroed(bytes: usize) -> Result<Mapping> {
        use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
        let refused = OpError::OutOfMemory { device: "cpu", bytes };
        let huge = bytes >= HUGE;
        let length = bytes.checked_add(if huge { HUGE } else { 0 }).ok_or(refused.clone())?;
        if length > isize::MAX as usize {
            return Err(refused);
        }
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches nothing that exists.
        let mapped = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        };
        let first = mapped.ok().and_then(|at| NonNull::new(at.cast::<u8>())).ok_or(refused)?;
        let mut start = first;
        if huge {
            // SAFETY: the offset to the next huge page is below HUGE, which was mapped in addition.
            start = unsafe { first.add(first.as_ptr().align_offset(HUGE)) };
            // SAFETY: the range lies within the mapping, and the advice changes no content. Without huge pages it is
            // slower, not wrong, so a refusal is no error.
            #[cfg(target_os = "linux")]
            let _ = unsafe { madvise(start.as_ptr().cast(), bytes, Advice::LinuxHugepage) };
        }
        Ok(Mapping { start, bytes, whole: (first, length) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `zeroed`, and no buffer refers to it any more. The only error there is, a range
        // that is no mapping, cannot occur.
        let _ = unsafe { rustix::mm::munmap(self.whole.0.as_ptr().cast(), self.whole.1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_a_slab_are_zeroed_aligned_and_apart() {
        let mut slab = Slab::default();
        let sizes = (0..200).map(|i| i * 7919 % (SHARED / 3)).chain([0, 1, SHARED / 4, SHARED]);
        let mut buffers: Vec<HostBuffer> = sizes.map(|n| slab.zeroed(n).expect("a few mappings")).collect();
        for (i, buffer) in buffers.iter_mut().enumerate() {
            assert_eq!(buffer.as_slice::<u8>().as_ptr().align_offset(ALIGN), 0);
            assert!(buffer.as_slice::<u8>().iter().all(|b| *b == 0));
            buffer.as_mut_slice::<u8>().fill(i as u8);
        }
        for (i, buffer) in buffers.iter().enumerate() {
            assert!(buffer.as_slice::<u8>().iter().all(|b| *b == i as u8), "buffer {i}");
        }
    }

    #[test]
    fn a_buffer_outlives_its_slab() {
        let mut slab = Slab::default();
        let mut one = slab.zeroed(100).expect("small");
        drop(slab);
        one.as_mut_slice::<u32>().fill(7);
        assert_eq!(one.as_slice::<u32>(), [7; 25]);
    }
}
