//! What a driver of a GPU does: memory, launches, recorded graphs. `Cuda` and its launchers are the only callers; the
//! drivers are the real one and the emulator.

use crate::host::HostMemory;
use crate::sample::Arriving;
use crate::{OpError, Result};
use std::fmt::Debug;

/// What is known of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Properties {
    /// The vendor's name of the device.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Memory of the device, bytes.
    pub memory: u64,
    /// Level-2 cache, bytes.
    pub l2: u64,
    /// Most shared memory of one block, bytes.
    pub shared: u32,
    /// True if the device shares the host's memory.
    pub integrated: bool,
    /// Version of the driver, empty for the emulator.
    pub driver: String,
}

/// One launch of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Launch {
    /// Name of the kernel.
    pub kernel: &'static str,
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Dynamic shared memory of a block, bytes.
    pub shared: u32,
    /// May start while its predecessor runs; the kernel waits by itself (programmatic dependent launch).
    pub pdl: bool,
}

/// A device. All work is ordered on one stream; addresses are device addresses.
pub(crate) trait Gpu: Send + Sync + Debug {
    /// Name of the backend: `cuda` or `emulated`.
    fn device(&self) -> &'static str;

    /// What the device is.
    fn properties(&self) -> &Properties;

    /// Bytes that may be allocated now. On a device that shares the host's memory that is what the host can spare: the
    /// driver's own figure counts the page cache as used there.
    fn available(&self) -> Result<u64> {
        available_on_host()
    }

    /// Memory, aligned to 256 bytes. Its contents are unspecified (the emulator fills it with 0xFF: NaN).
    fn alloc(&self, bytes: usize) -> Result<u64>;

    /// Gives memory of `alloc` back.
    fn free(&self, address: u64);

    /// Host memory that the driver copies from by itself, for loading; None where there is no such thing.
    fn pin(&self, bytes: usize) -> Result<Option<Box<dyn Bounce + '_>>> {
        let _ = bytes;
        Ok(None)
    }

    /// Copies to the device; `bytes` may be reused on return.
    fn write(&self, address: u64, bytes: &[u8]) -> Result<()>;

    /// Copies from the device, after all work before it.
    fn read(&self, address: u64, into: &mut [u8]) -> Result<()>;

    /// Starts copying from the device, in the order of the stream: what is started later does not delay the bytes.
    fn fetch(&self, address: u64, bytes: usize) -> Result<Box<dyn Arriving>> {
        let mut here = vec![0; bytes];
        self.read(address, &mut here)?;
        Ok(Box::new(Arrived(here)))
    }

    /// Copies within the device; the two stretches do not overlap.
    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()>;

    /// Sets every byte.
    fn fill(&self, address: u64, byte: u8, bytes: usize) -> Result<()>;

    /// From now on divides a multiprocessor's memory between shared memory and cache alike for all kernels, as much as there can be
    /// to shared memory; false: as each needs it, which is so at first. A kernel that needs another division than the one before
    /// it may have to wait until that has left. Nothing where a device knows no such thing.
    fn prefer_shared(&self, all: bool) {
        let _ = all;
    }

    /// Starts a kernel. `args` are the bytes of its one argument.
    fn launch(&self, launch: &Launch, args: &[u8]) -> Result<()>;

    /// Records what `body` launches and fills, without running it. Returns the graph's number.
    fn capture(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<u64>;

    /// Runs a recorded graph.
    fn replay(&self, graph: u64) -> Result<()>;

    /// Forgets a recorded graph.
    fn drop_graph(&self, graph: u64);

    /// Seconds that `body`'s work took on the device; None where time means nothing (the emulator).
    fn time(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Option<f64>>;
}

/// Bytes that are here.
#[derive(Debug)]
struct Arrived(Vec<u8>);

impl Arriving for Arrived {
    fn wait(self: Box<Self>) -> Result<Vec<u8>> {
        Ok(self.0)
    }
}

/// A buffer of host memory, aligned to a page, from which the device copies while the host does something else.
pub(crate) trait Bounce {
    /// The memory; not while a copy from it is on its way.
    fn bytes(&mut self) -> &mut [u8];

    /// Starts copying `count` bytes from byte `from` of it to the device address `to`, in the order of the stream.
    fn send(&mut self, from: usize, count: usize, to: u64) -> Result<()>;

    /// Waits until what was sent has been copied; at once if nothing was.
    fn wait(&mut self) -> Result<()>;
}

/// `MemAvailable` of /proc/meminfo, bytes: what can be had without swapping.
pub(crate) fn available_on_host() -> Result<u64> {
    let unknown = || OpError::Device {
        device: "host",
        code: "/proc/meminfo".into(),
        what: "does not tell how much memory is available".into(),
    };
    HostMemory::now().map(|memory| memory.available).ok_or_else(unknown)
}

/// Kernel arguments: plain values without padding, laid out as the kernel's struct.
///
/// # Safety
/// The type is `repr(C)`, has no padding, and every bit pattern of it is initialised.
pub(crate) unsafe trait Args: Copy {}

/// The bytes of a kernel's argument.
pub(crate) fn bytes_of<A: Args>(args: &A) -> &[u8] {
    // SAFETY: `Args` promises plain bytes without padding; the borrow keeps them alive.
    unsafe { std::slice::from_raw_parts((args as *const A).cast(), size_of::<A>()) }
}
