//! Copies between host memory and the device through pinned memory, which is what the driver copies from without waiting.

use super::Bounce;
use super::device::{Device, Event, check};
use crate::Result;
use cudarc::driver::sys;
use std::ptr::null_mut;

/// Bytes of one slot. A step's metadata is some KiB; a chunk of a load fills it.
const SLOT: usize = 4 << 20;

/// Pinned memory for copies in both directions.
pub(super) struct Pinned {
    stream: sys::CUstream,
    /// Written round about: while one is copied from, the other is filled.
    slots: [Slot; 2],
    /// The slot that is being filled, and how far.
    current: usize,
    used: usize,
}

struct Slot {
    host: *mut u8,
    /// Passed when the copies from this slot have been done.
    copied: Event,
}

impl Slot {
    fn new() -> Result<Slot> {
        let copied = Event::new(false)?;
        let mut host = null_mut();
        // SAFETY: `host` is written on success; it belongs to the slot until `Pinned::free`.
        check(unsafe { sys::cuMemHostAlloc(&mut host, SLOT, 0) }, || {
            format!("pinning {SLOT} bytes of host memory")
        })?;
        Ok(Slot { host: host.cast(), copied })
    }
}

impl Pinned {
    /// Two slots for copies on `stream`. The context is current, here and in all that follows.
    pub fn new(stream: sys::CUstream) -> Result<Pinned> {
        Ok(Pinned { stream, slots: [Slot::new()?, Slot::new()?], current: 0, used: 0 })
    }

    /// Starts copying `bytes` to the device; they may be reused on return.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            if self.used == SLOT {
                self.turn()?;
            }
            let count = (bytes.len() - done).min(SLOT - self.used);
            // SAFETY: `used + count <= SLOT`, and every copy from this part of the slot was waited for in `turn`. The
            // caller names device memory of its own.
            let code = unsafe {
                let from = self.slots[self.current].host.add(self.used);
                std::ptr::copy_nonoverlapping(bytes.as_ptr().add(done), from, count);
                sys::cuMemcpyHtoDAsync_v2(address + done as u64, from.cast(), count, self.stream)
            };
            check(code, || format!("copying {count} bytes to the device"))?;
            done += count;
            // The next copy begins on a cache line of its own.
            self.used = (self.used + count).next_multiple_of(64);
        }
        Ok(())
    }

    /// Takes the other slot, once what was copied from it has arrived.
    fn turn(&mut self) -> Result<()> {
        self.slots[self.current].copied.record(self.stream)?;
        self.current = 1 - self.current;
        self.used = 0;
        self.slots[self.current].copied.wait()
    }

    /// Copies from the device, after all work before.
    pub fn read(&mut self, address: u64, into: &mut [u8]) -> Result<()> {
        for (i, part) in into.chunks_mut(SLOT).enumerate() {
            // This slot may hold bytes that are still being copied from; the other is free.
            self.turn()?;
            let slot = &self.slots[self.current];
            // SAFETY: the slot is free (`turn`) and holds `part.len() <= SLOT` bytes; it is read after the copy ended.
            unsafe {
                let at = address + (i * SLOT) as u64;
                check(sys::cuMemcpyDtoHAsync_v2(slot.host.cast(), at, part.len(), self.stream), || {
                    format!("copying {} bytes from the device", part.len())
                })?;
                check(sys::cuStreamSynchronize(self.stream), || "waiting for the GPU".into())?;
                std::ptr::copy_nonoverlapping(slot.host, part.as_mut_ptr(), part.len());
            }
        }
        Ok(())
    }

    /// Gives the memory back.
    ///
    /// # Safety
    /// No copy is under way, and nothing is copied any more.
    pub unsafe fn free(&mut self) {
        for slot in &mut self.slots {
            // SAFETY: from cuMemHostAlloc, freed once: the pointer is cleared.
            unsafe { sys::cuMemFreeHost(std::mem::replace(&mut slot.host, null_mut()).cast()) };
        }
    }
}

/// A buffer for loading, given back when it goes.
pub(super) struct PinnedBuffer<'a> {
    device: &'a Device,
    stream: sys::CUstream,
    host: *mut u8,
    bytes: usize,
    copied: Event,
}

impl PinnedBuffer<'_> {
    /// `bytes` bytes that are copied from on `stream`. The context is current.
    pub fn new(device: &Device, stream: sys::CUstream, bytes: usize) -> Result<PinnedBuffer<'_>> {
        let copied = Event::new(false)?;
        let mut host = null_mut();
        // SAFETY: `host` is written on success; it belongs to the buffer until its drop.
        check(unsafe { sys::cuMemHostAlloc(&mut host, bytes, 0) }, || {
            format!("pinning {bytes} bytes of host memory")
        })?;
        Ok(PinnedBuffer { device, stream, host: host.cast(), bytes, copied })
    }
}

impl Bounce for PinnedBuffer<'_> {
    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the memory is ours and holds `bytes` bytes; cuMemHostAlloc gives memory of the system, which is zeroed.
        unsafe { std::slice::from_raw_parts_mut(self.host, self.bytes) }
    }

    fn send(&mut self, from: usize, count: usize, to: u64) -> Result<()> {
        assert!(from + count <= self.bytes, "the range lies in the buffer");
        self.device.make_current()?;
        // SAFETY: the range lies in the buffer, which lives until the copy is done: `drop` waits. The caller names device
        // memory of its own.
        let code = unsafe { sys::cuMemcpyHtoDAsync_v2(to, self.host.add(from).cast(), count, self.stream) };
        check(code, || format!("copying {count} bytes to the device"))?;
        self.copied.record(self.stream)
    }

    fn wait(&mut self) -> Result<()> {
        self.device.make_current()?;
        self.copied.wait()
    }
}

impl Drop for PinnedBuffer<'_> {
    fn drop(&mut self) {
        if self.wait().is_ok() {
            // SAFETY: from cuMemHostAlloc, freed once; no copy is under way.
            unsafe { sys::cuMemFreeHost(self.host.cast()) };
        }
    }
}
