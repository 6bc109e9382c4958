//! The real GPU behind `trait Gpu`, through NVIDIA's driver (libcuda.so.1), which is looked for when the program runs and
//! never linked. The kernels are finished machine code (build/nvcc.rs), all loaded when the device is opened.
//!
//! One engine thread owns the device: all work goes to one stream, in order. Source: CUDA driver API 13.0.

mod device;
mod fetch;
mod kernels;
mod pinned;

pub(super) use device::is_installed;

use super::gpu::{Bounce, Gpu, Launch, Properties, available_on_host};
use crate::sample::Arriving;
use crate::{OpError, Result};
use cudarc::driver::sys;
use device::{Device, check};
use fetch::Fetches;
use kernels::Kernels;
use pinned::{Pinned, PinnedBuffer};
use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Name of this backend in errors.
const DEVICE: &str = "cuda";

/// A GPU, opened.
pub(crate) struct Driver {
    stream: sys::CUstream,
    kernels: Kernels,
    pinned: Mutex<Pinned>,
    fetches: Fetches,
    graphs: Mutex<HashMap<u64, sys::CUgraphExec>>,
    next_graph: AtomicU64,
    recording: AtomicBool,
    /// Whether the last thing in the stream is a kernel: only after one may another start early. What follows a copy, a
    /// mark in time or the begin of a recording waits in the ordinary way.
    after_kernel: AtomicBool,
    /// Last, because fields are dropped in this order and all others live in its context.
    device: Device,
}

// SAFETY: the handles are names of objects that the driver guards itself; what this struct changes is behind mutexes.
unsafe impl Send for Driver {}
// SAFETY: as above. Every call makes the context current on the calling thread first.
unsafe impl Sync for Driver {}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("properties", &self.device.properties).finish_non_exhaustive()
    }
}

impl Driver {
    /// Opens the best GPU that this build has code for and loads every kernel.
    ///
    /// # Errors
    /// [`OpError::Unavailable`], with what to do: no driver, a driver that is too old, no GPU, a GPU Hearth has no kernels
    /// for, a build without GPU code. [`OpError::Device`] if the driver refuses something it should not.
    pub fn open() -> Result<Driver> {
        let device = Device::open()?;
        let mut stream = null_mut();
        // SAFETY: the context is current (Device::open); `stream` is written on success.
        check(
            unsafe { sys::cuStreamCreate(&mut stream, sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32) },
            || "creating the stream".into(),
        )?;
        let kernels = Kernels::load(&device)?;
        let pinned = Pinned::new(stream)?;
        let fetches = Fetches::new(stream, device.context())?;
        Ok(Driver {
            stream,
            kernels,
            pinned: Mutex::new(pinned),
            fetches,
            graphs: Mutex::default(),
            next_graph: AtomicU64::new(1),
            recording: AtomicBool::new(false),
            after_kernel: AtomicBool::new(false),
            device,
        })
    }

    /// What must not happen while a graph is recorded, because it would be lost or would wait for ever.
    fn not_recording(&self, what: &str) -> Result<()> {
        if self.recording.load(Ordering::Relaxed) {
            return Err(OpError::Device {
                device: DEVICE,
                code: "recording".into(),
                what: format!("{what} cannot be part of a recorded graph"),
            });
        }
        Ok(())
    }

    /// The stream, for anything but a kernel.
    fn stream(&self) -> sys::CUstream {
        self.after_kernel.store(false, Ordering::Relaxed);
        self.stream
    }

    fn pinned(&self) -> MutexGuard<'_, Pinned> {
        self.after_kernel.store(false, Ordering::Relaxed);
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn graphs(&self) -> MutexGuard<'_, HashMap<u64, sys::CUgraphExec>> {
        self.graphs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a graph of what the stream recorded ready to run. Takes `recorded` over.
    fn instantiate(&self, recorded: sys::CUgraph) -> Result<sys::CUgraphExec> {
        let mut graph = null_mut();
        // SAFETY: `recorded` comes from cuStreamEndCapture and is destroyed once, here.
        let made = unsafe {
            let made = sys::cuGraphInstantiateWithFlags(&mut graph, recorded, 0);
            sys::cuGraphDestroy(recorded);
            made
        };
        check(made, || "preparing a recorded graph".into())?;
        // So that the first replay costs what the tenth does.
        // SAFETY: both handles are alive.
        check(unsafe { sys::cuGraphUpload(graph, self.stream) }, || "uploading a recorded graph".into())?;
        Ok(graph)
    }
}

impl Gpu for Driver {
    fn device(&self) -> &'static str {
        DEVICE
    }

    fn properties(&self) -> &Properties {
        &self.device.properties
    }

    fn available(&self) -> Result<u64> {
        if self.device.properties.integrated {
            // The driver's answer counts the page cache as used there.
            return available_on_host();
        }
        self.device.make_current()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: both are written on success.
        check(unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) }, || "asking for free memory".into())?;
        Ok(free as u64)
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        self.not_recording("an allocation")?;
        self.device.make_current()?;
        let mut address = 0;
        // SAFETY: `address` is written on success.
        match unsafe { sys::cuMemAlloc_v2(&mut address, bytes.max(1)) } {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Err(OpError::OutOfMemory { device: DEVICE, bytes }),
            code => check(code, || format!("allocating {bytes} bytes")).map(|()| address),
        }
    }

    fn free(&self, address: u64) {
        if self.device.make_current().is_ok() {
            // SAFETY: the caller got `address` from `alloc`; the driver waits for work that uses it. Nothing can be done
            // about a refusal.
            unsafe { sys::cuMemFree_v2(address) };
        }
    }

    fn pin(&self, bytes: usize) -> Result<Option<Box<dyn Bounce + '_>>> {
        self.not_recording("pinning memory")?;
        self.device.make_current()?;
        Ok(Some(Box::new(PinnedBuffer::new(&self.device, self.stream(), bytes)?)))
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.not_recording("a copy from the host")?;
        self.device.make_current()?;
        self.pinned().write(address, bytes)
    }

    fn read(&self, address: u64, into: &mut [u8]) -> Result<()> {
        self.not_recording("a copy to the host")?;
        self.device.make_current()?;
        self.pinned().read(address, into)
    }

    fn fetch(&self, address: u64, bytes: usize) -> Result<Box<dyn Arriving>> {
        self.not_recording("a copy to the host")?;
        self.device.make_current()?;
        self.after_kernel.store(false, Ordering::Relaxed);
        self.fetches.start(address, bytes)
    }

    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        self.not_recording("a copy on the device")?;
        self.device.make_current()?;
        // SAFETY: the caller names two stretches of `bytes` bytes of device memory of its own.
        check(unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, self.stream()) }, || {
            format!("copying {bytes} bytes on the device")
        })
    }

    fn fill(&self, address: u64, byte: u8, bytes: usize) -> Result<()> {
        self.device.make_current()?;
        // SAFETY: the caller names `bytes` bytes of device memory of its own.
        check(unsafe { sys::cuMemsetD8Async(address, byte, bytes, self.stream()) }, || {
            format!("filling {bytes} bytes")
        })
    }

    fn prefer_shared(&self, all: bool) {
        if self.device.make_current().is_ok() {
            self.kernels.prefer_shared(all);
        }
    }

    fn launch(&self, launch: &Launch, args: &[u8]) -> Result<()> {
        self.device.make_current()?;
        let kernel = self.kernels.get(launch, args.len())?;
        let after_kernel = self.after_kernel.swap(true, Ordering::Relaxed);
        // SAFETY: the union is plain bytes; the one member that is read is set.
        let mut pdl: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
        pdl.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        pdl.value.programmaticStreamSerializationAllowed = 1;
        let config = sys::CUlaunchConfig {
            gridDimX: launch.grid[0],
            gridDimY: launch.grid[1],
            gridDimZ: launch.grid[2],
            blockDimX: launch.block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared,
            hStream: self.stream,
            attrs: &mut pdl,
            numAttrs: u32::from(launch.pdl && after_kernel),
        };
        let mut arguments = [args.as_ptr().cast_mut().cast::<c_void>()];
        // SAFETY: the kernel has one argument of `args.len()` bytes (`Kernels::get`), which the driver copies before it
        // returns; `config` and its attribute live as long.
        let code = unsafe { sys::cuLaunchKernelEx(&config, kernel, arguments.as_mut_ptr(), null_mut()) };
        check(code, || {
            format!("starting {} with grid {:?}, block {}", launch.kernel, launch.grid, launch.block)
        })
    }

    fn capture(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<u64> {
        self.not_recording("another recording")?;
        self.device.make_current()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive.
        check(unsafe { sys::cuStreamBeginCapture_v2(self.stream(), mode) }, || "recording a graph".into())?;
        self.recording.store(true, Ordering::Relaxed);
        let ran = body();
        self.recording.store(false, Ordering::Relaxed);
        let mut recorded = null_mut();
        // SAFETY: ends what was begun above, whatever `body` said; `recorded` is null if the recording broke.
        let ended = unsafe { sys::cuStreamEndCapture(self.stream(), &mut recorded) };
        if ran.is_err() && !recorded.is_null() {
            // SAFETY: nobody else has it.
            unsafe { sys::cuGraphDestroy(recorded) };
        }
        ran?;
        check(ended, || "ending the recording of a graph".into())?;
        let graph = self.instantiate(recorded)?;
        let number = self.next_graph.fetch_add(1, Ordering::Relaxed);
        self.graphs().insert(number, graph);
        Ok(number)
    }

    fn replay(&self, graph: u64) -> Result<()> {
        self.not_recording("another graph")?;
        self.device.make_current()?;
        let Some(recorded) = self.graphs().get(&graph).copied() else {
            return Err(OpError::Device {
                device: DEVICE,
                code: "no such graph".into(),
                what: format!("replaying graph {graph}"),
            });
        };
        // SAFETY: both handles are alive.
        check(unsafe { sys::cuGraphLaunch(recorded, self.stream()) }, || format!("replaying graph {graph}"))
    }

    fn drop_graph(&self, graph: u64) {
        let recorded = self.graphs().remove(&graph);
        if let (Some(recorded), Ok(())) = (recorded, self.device.make_current()) {
            // SAFETY: it was removed from the table, so this happens once; the driver lets a running graph end.
            unsafe { sys::cuGraphExecDestroy(recorded) };
        }
    }

    fn time(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Option<f64>> {
        self.not_recording("a measurement")?;
        self.device.make_current()?;
        let (begin, end) = (device::Event::new(true)?, device::Event::new(true)?);
        begin.record(self.stream())?;
        body()?;
        end.record(self.stream())?;
        end.wait()?;
        Ok(Some(begin.seconds_to(&end)?))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.device.make_current().is_err() {
            return;
        }
        // SAFETY: nobody can use the handles any more; the work that does has ended first.
        unsafe {
            sys::cuStreamSynchronize(self.stream);
            for (_, graph) in self.graphs().drain() {
                sys::cuGraphExecDestroy(graph);
            }
            self.kernels.unload();
            self.pinned().free();
            self.fetches.free();
            sys::cuStreamDestroy_v2(self.stream);
        }
    }
}
