//! Small copies to the host that are started now and waited for later: the ids that a pass has chosen, while the next pass
//! runs already. Used by the driver's `fetch`.

use super::device::{Context, Event, check};
use crate::Result;
use crate::rounds::DRAFTS;
use crate::sample::{Arriving, PLACES};
use cudarc::driver::sys;
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, PoisonError};

/// Copies that may be on their way before memory is pinned for more: two rounds of drafts with their checks.
const READY: usize = 2 * (1 + DRAFTS);
/// Bytes of one fetch, at most.
const FETCH: usize = 4 * PLACES;

/// Pinned memory for small copies to the host that nobody waits for yet.
pub(super) struct Fetches {
    stream: sys::CUstream,
    context: Context,
    /// Those that are not in use. Some are made at the start; more only if more are on their way at once.
    idle: Arc<Mutex<Vec<FetchSlot>>>,
}

struct FetchSlot {
    host: *mut u8,
    arrived: Event,
}

// SAFETY: the slot is the only owner of its memory, which belongs to no thread.
unsafe impl Send for FetchSlot {}

impl FetchSlot {
    fn new() -> Result<FetchSlot> {
        let arrived = Event::new(false)?;
        let mut host = null_mut();
        // SAFETY: `host` is written on success; it belongs to the slot until its drop.
        check(unsafe { sys::cuMemHostAlloc(&mut host, FETCH, 0) }, || {
            format!("pinning {FETCH} bytes of host memory")
        })?;
        Ok(FetchSlot { host: host.cast(), arrived })
    }
}

impl Drop for FetchSlot {
    fn drop(&mut self) {
        // SAFETY: from cuMemHostAlloc, freed once; whoever drops it has waited for its copy, or the stream has ended.
        unsafe { sys::cuMemFreeHost(self.host.cast()) };
    }
}

impl Fetches {
    /// For copies on `stream`. The context is current, here and when it is dropped.
    pub fn new(stream: sys::CUstream, context: Context) -> Result<Fetches> {
        let idle = (0..READY).map(|_| FetchSlot::new()).collect::<Result<Vec<_>>>()?;
        Ok(Fetches { stream, context, idle: Arc::new(Mutex::new(idle)) })
    }

    /// Starts a copy of `bytes` bytes, at most [`FETCH`], in the order of the stream.
    pub fn start(&self, address: u64, bytes: usize) -> Result<Box<dyn Arriving>> {
        assert!(bytes <= FETCH, "fetches are small");
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let slot = idle.map_or_else(FetchSlot::new, Ok)?;
        // SAFETY: the slot holds `bytes` bytes and is read after the copy ended (`Fetched::wait`). The caller names device
        // memory of its own.
        check(unsafe { sys::cuMemcpyDtoHAsync_v2(slot.host.cast(), address, bytes, self.stream) }, || {
            format!("copying {bytes} bytes from the device")
        })?;
        slot.arrived.record(self.stream)?;
        let (idle, context) = (self.idle.clone(), self.context);
        Ok(Box::new(Fetched { slot: Some(slot), bytes, idle, context }))
    }

    /// Gives the memory back.
    pub fn free(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A copy on its way.
struct Fetched {
    slot: Option<FetchSlot>,
    bytes: usize,
    idle: Arc<Mutex<Vec<FetchSlot>>>,
    context: Context,
}

impl std::fmt::Debug for Fetched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetched").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Arriving for Fetched {
    fn wait(mut self: Box<Self>) -> Result<Vec<u8>> {
        self.context.make_current()?;
        let Some(slot) = &self.slot else { return Ok(Vec::new()) };
        slot.arrived.wait()?;
        let mut bytes = vec![0; self.bytes];
        // SAFETY: the copy has ended; the slot holds as many bytes.
        unsafe { std::ptr::copy_nonoverlapping(slot.host, bytes.as_mut_ptr(), self.bytes) };
        self.give_back();
        Ok(bytes)
    }
}

impl Fetched {
    fn give_back(&mut self) {
        let slot = self.slot.take();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).extend(slot);
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        let arrived = self.context.make_current().and_then(|()| match &self.slot {
            Some(slot) => slot.arrived.wait(),
            None => Ok(()),
        });
        match arrived {
            Ok(()) => self.give_back(),
            // The copy may still be under way: the memory stays taken.
            Err(_) => std::mem::forget(self.slot.take()),
        }
    }
}
