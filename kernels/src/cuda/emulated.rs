//! The CUDA emulator as a device: the kernels run on the CPU, each thread a fiber (`kernels/emu`). Slow, and strict where a
//! GPU is lenient: what is out of bounds, unwritten, unsynchronised or stuck ends in an error that says where.

mod abi;

use super::Cuda;
use super::gpu::{Gpu, Launch, Properties};
use crate::{OpError, Result};
use abi::{
    RawDevice, RawError, RawOptions, hearth_emu_alloc, hearth_emu_create, hearth_emu_destroy,
    hearth_emu_fill, hearth_emu_free, hearth_emu_launch, hearth_emu_read, hearth_emu_units, hearth_emu_write,
};
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const DEVICE: &str = "emulated";

/// Shared memory that a block may have on GB10 (compute capability 12.1), bytes.
const SHARED: u32 = 99 * 1024;

/// In which order the threads of a block and the blocks of a grid run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ThreadOrder {
    /// By chance, from the seed.
    #[default]
    Random,
    /// The lowest first.
    Forward,
    /// The highest first.
    Reverse,
}

/// When `cp.async` copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AsyncCopies {
    /// At once: the earliest that a GPU may.
    Immediate,
    /// When the thread waits for the group, the latest that a GPU may; until then 0xFF lies there.
    #[default]
    Deferred,
}

/// Breaks an emulated device from outside, as a fault breaks a GPU: from then on every launch and copy ends with the same
/// error. For tests of what becomes of the process.
#[derive(Debug, Clone, Default)]
pub struct Breaker(Arc<AtomicBool>);

impl Breaker {
    /// Breaks the device.
    pub fn trip(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            return Err(fault("CUDA_ERROR_ILLEGAL_ADDRESS (700)", "the device was broken from outside"));
        }
        Ok(())
    }
}

impl PartialEq for Breaker {
    fn eq(&self, other: &Breaker) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Breaker {}

/// How an emulated device behaves. With the same options and the same calls it does the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmulatorOptions {
    /// Of the order in which threads and blocks run; every launch takes the next one.
    pub seed: u64,
    /// Which thread runs next.
    pub order: ThreadOrder,
    /// When asynchronous copies arrive.
    pub copies: AsyncCopies,
    /// Whether every access is checked: bounds to the byte, and races in shared memory.
    pub watch: bool,
    /// Seconds of computing that one block may take; more is a loop without an end.
    pub seconds: u32,
    /// Memory of the device, bytes.
    pub memory: u64,
    /// Multiprocessors it says it has.
    pub multiprocessors: u32,
    /// The compute capability it says it has. Whatever it says, all kernels are there.
    pub capability: (u32, u32),
    /// Breaks it.
    pub breaker: Breaker,
    /// None: it has no clock. Else the microseconds that it says a launch takes, of kernels whose names begin so; of others 1.
    /// Under the name [`PREFERRED`] those that it takes more where all kernels prefer shared memory.
    pub clock: Option<Vec<(&'static str, i64)>>,
}

/// See [`EmulatorOptions::clock`].
pub const PREFERRED: &str = "preferred";

impl Default for EmulatorOptions {
    fn default() -> EmulatorOptions {
        EmulatorOptions {
            seed: 0,
            order: ThreadOrder::default(),
            copies: AsyncCopies::default(),
            watch: true,
            seconds: 120,
            memory: 4 << 30,
            multiprocessors: 4,
            capability: (12, 1),
            breaker: Breaker::default(),
            clock: None,
        }
    }
}

impl Cuda {
    /// The backend over the emulator.
    ///
    /// # Errors
    /// [`OpError::Device`] when the system gives it no memory.
    pub fn emulated(options: EmulatorOptions) -> Result<Cuda> {
        Cuda::over(Arc::new(Emulator::new(options)?))
    }
}

/// An emulated device. Its methods are those of a driver; they take one caller at a time.
#[derive(Debug)]
pub struct Emulator {
    state: Mutex<State>,
    properties: Properties,
    breaker: Breaker,
    clock: Option<Vec<(&'static str, i64)>>,
    prefers_shared: AtomicBool,
}

/// What a graph is made of.
#[derive(Debug, Clone)]
enum Work {
    Launch { kernel: String, grid: [u32; 3], block: u32, shared: u32, args: Vec<u8> },
    Fill { at: u64, byte: u8, bytes: usize },
}

#[derive(Debug)]
struct State {
    device: NonNull<RawDevice>,
    recording: Option<Vec<Work>>,
    graphs: HashMap<u64, Vec<Work>>,
    last_graph: u64,
    /// By the clock, if there is one.
    microseconds: i64,
}

// SAFETY: the device is plain memory that belongs to no thread; `Mutex<State>` lets one thread at a time use it.
unsafe impl Send for State {}

impl Emulator {
    /// A device with nothing on it.
    ///
    /// # Errors
    /// [`OpError::Device`] when the system gives no memory for it.
    pub fn new(options: EmulatorOptions) -> Result<Emulator> {
        let raw = RawOptions {
            memory: options.memory,
            seed: options.seed,
            order: options.order as u32,
            copies: options.copies as u32,
            shared_limit: SHARED,
            watch: u32::from(options.watch),
            seconds: options.seconds,
            reserved: 0,
        };
        // SAFETY: the options are read during the call; the function refers to every unit of kernels, which links them.
        let device = unsafe {
            hearth_emu_units();
            hearth_emu_create(&raw)
        };
        let device = NonNull::new(device)
            .ok_or_else(|| fault("CUDA_ERROR_OUT_OF_MEMORY (2)", "no memory for the emulator"))?;
        let state = State { device, recording: None, graphs: HashMap::new(), last_graph: 0, microseconds: 0 };
        let properties = Properties {
            name: "CUDA emulator".to_string(),
            capability: options.capability,
            multiprocessors: options.multiprocessors,
            memory: options.memory,
            l2: 24 << 20,
            shared: SHARED,
            integrated: false,
            driver: String::new(),
        };
        Ok(Emulator {
            state: Mutex::new(state),
            properties,
            breaker: options.breaker,
            clock: options.clock,
            prefers_shared: AtomicBool::new(false),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `bytes` of 0xFF, aligned to 16, with an inaccessible page at the end.
    ///
    /// # Errors
    /// [`OpError::OutOfMemory`]; [`OpError::Device`] while a graph is recorded.
    pub fn alloc(&self, bytes: usize) -> Result<u64> {
        let state = self.state();
        state.not_recording("an allocation")?;
        let mut at = 0;
        // SAFETY: the device lives as long as the state; the function writes `at` and the error.
        state
            .call(|device, error| unsafe { hearth_emu_alloc(device, bytes as u64, &mut at, error) })
            .map_err(|_| OpError::OutOfMemory { device: DEVICE, bytes })?;
        Ok(at)
    }

    /// Gives a buffer back; its address stays inaccessible for ever. Other addresses are ignored.
    pub fn free(&self, at: u64) {
        // SAFETY: as in `alloc`; the function checks the address.
        let _ = self.state().call(|device, error| unsafe { hearth_emu_free(device, at, error) });
    }

    /// Copies to the device.
    ///
    /// # Errors
    /// [`OpError::Device`] if the bytes are not within one buffer, or while a graph is recorded.
    pub fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.breaker.check()?;
        let state = self.state();
        state.not_recording("a copy from the host")?;
        let (from, len) = (bytes.as_ptr().cast(), bytes.len() as u64);
        // SAFETY: `from` is readable for `len` bytes; the function checks the device's side.
        state.call(|device, error| unsafe { hearth_emu_write(device, at, from, len, error) })
    }

    /// Copies from the device.
    ///
    /// # Errors
    /// As [`Emulator::write`].
    pub fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        self.breaker.check()?;
        let state = self.state();
        state.not_recording("a copy to the host")?;
        let (to, len) = (into.as_mut_ptr().cast(), into.len() as u64);
        // SAFETY: `to` is writable for `len` bytes; the function checks the device's side.
        state.call(|device, error| unsafe { hearth_emu_read(device, at, to, len, error) })
    }

    /// Runs a kernel, or records it. `args` are the bytes of its argument.
    ///
    /// # Errors
    /// [`OpError::Device`]: what a driver would refuse, and every fault of the kernel.
    pub fn launch(&self, kernel: &str, grid: [u32; 3], block: u32, shared: u32, args: &[u8]) -> Result<()> {
        self.work(Work::Launch { kernel: kernel.to_string(), grid, block, shared, args: args.to_vec() })
    }

    fn work(&self, work: Work) -> Result<()> {
        self.breaker.check()?;
        let mut state = self.state();
        match &mut state.recording {
            Some(recording) => {
                recording.push(work);
                Ok(())
            }
            None => {
                state.microseconds += self.microseconds(&work);
                state.run(&work)
            }
        }
    }

    fn microseconds(&self, work: &Work) -> i64 {
        let (Work::Launch { kernel, .. }, Some(clock)) = (work, &self.clock) else { return 0 };
        let of = |begins: &dyn Fn(&str) -> bool| {
            clock.iter().find(|(name, _)| begins(name)).map(|(_, microseconds)| *microseconds)
        };
        let more =
            if self.prefers_shared.load(Ordering::Relaxed) { of(&|name| name == PREFERRED) } else { None };
        of(&|name| kernel.starts_with(name)).unwrap_or(1) + more.unwrap_or(0)
    }
}

impl State {
    fn call(&self, f: impl FnOnce(*mut RawDevice, *mut RawError) -> c_int) -> Result<()> {
        let mut error = RawError { code: [0; 64], what: [0; 2048] };
        if f(self.device.as_ptr(), &mut error) == 0 {
            return Ok(());
        }
        // SAFETY: both are filled by snprintf, which ends them with a zero within their size.
        let text =
            |chars: &[c_char]| unsafe { CStr::from_ptr(chars.as_ptr()) }.to_string_lossy().into_owned();
        Err(fault(&text(&error.code), &text(&error.what)))
    }

    fn run(&self, work: &Work) -> Result<()> {
        // SAFETY: name and argument are readable for their lengths; the functions check everything on the device's side.
        self.call(|device, error| unsafe {
            match work {
                Work::Launch { kernel, grid, block, shared, args } => hearth_emu_launch(
                    device,
                    kernel.as_ptr().cast(),
                    kernel.len() as u64,
                    grid.as_ptr(),
                    *block,
                    *shared,
                    args.as_ptr().cast(),
                    args.len() as u32,
                    error,
                ),
                Work::Fill { at, byte, bytes } => hearth_emu_fill(device, *at, *byte, *bytes as u64, error),
            }
        })
    }

    fn not_recording(&self, what: &str) -> Result<()> {
        match self.recording {
            None => Ok(()),
            Some(_) => Err(fault(
                "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED (900)",
                &format!("{what} while a graph is recorded"),
            )),
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // SAFETY: made by hearth_emu_create, and nobody uses it any more.
        unsafe { hearth_emu_destroy(self.device.as_ptr()) }
    }
}

impl Gpu for Emulator {
    fn device(&self) -> &'static str {
        DEVICE
    }

    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        Emulator::alloc(self, bytes)
    }

    fn free(&self, address: u64) {
        Emulator::free(self, address);
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        Emulator::write(self, address, bytes)
    }

    fn read(&self, address: u64, into: &mut [u8]) -> Result<()> {
        Emulator::read(self, address, into)
    }

    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        // By way of the host: both ends are checked as they are for everybody else.
        let mut between = vec![0; bytes];
        Emulator::read(self, from, &mut between)?;
        Emulator::write(self, to, &between)
    }

    fn fill(&self, address: u64, byte: u8, bytes: usize) -> Result<()> {
        self.work(Work::Fill { at: address, byte, bytes })
    }

    fn prefer_shared(&self, all: bool) {
        self.prefers_shared.store(all, Ordering::Relaxed);
    }

    fn launch(&self, launch: &Launch, args: &[u8]) -> Result<()> {
        Emulator::launch(self, launch.kernel, launch.grid, launch.block, launch.shared, args)
    }

    fn capture(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<u64> {
        {
            let mut state = self.state();
            state.not_recording("a second recording")?;
            state.recording = Some(Vec::new());
        }
        let result = body();
        let mut state = self.state();
        let recorded = state.recording.take().unwrap_or_default();
        result?;
        state.last_graph += 1;
        let graph = state.last_graph;
        state.graphs.insert(graph, recorded);
        Ok(graph)
    }

    fn replay(&self, graph: u64) -> Result<()> {
        self.breaker.check()?;
        let mut state = self.state();
        state.not_recording("a replay")?;
        let works = state
            .graphs
            .get(&graph)
            .ok_or_else(|| fault("CUDA_ERROR_INVALID_HANDLE (400)", "there is no such graph"))?;
        works.iter().try_for_each(|work| state.run(work))?;
        let taken: i64 = works.iter().map(|work| self.microseconds(work)).sum();
        state.microseconds += taken;
        Ok(())
    }

    fn drop_graph(&self, graph: u64) {
        self.state().graphs.remove(&graph);
    }

    fn time(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Option<f64>> {
        let before = self.state().microseconds;
        body()?;
        let taken = self.state().microseconds - before;
        Ok(self.clock.as_ref().map(|_| taken as f64 / 1e6))
    }
}

fn fault(code: &str, what: &str) -> OpError {
    OpError::Device { device: DEVICE, code: code.to_string(), what: what.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(gpu: &Emulator, at: u64) -> [u8; 4] {
        let mut bytes = [0; 4];
        gpu.read(at, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_graph_runs_what_was_recorded_each_time_it_is_replayed_and_not_before() {
        let gpu = Emulator::new(EmulatorOptions::default()).unwrap();
        let (from, to) = (gpu.alloc(4).unwrap(), gpu.alloc(4).unwrap());
        let graph = gpu
            .capture(&mut || {
                gpu.fill(to, 5, 4)?;
                gpu.fill(from, 7, 2)
            })
            .unwrap();
        assert_eq!((bytes(&gpu, from), bytes(&gpu, to)), ([0xff; 4], [0xff; 4]));
        for _ in 0..2 {
            gpu.write(from, &[1, 2, 3, 4]).unwrap();
            gpu.write(to, &[0; 4]).unwrap();
            gpu.replay(graph).unwrap();
            assert_eq!((bytes(&gpu, from), bytes(&gpu, to)), ([7, 7, 3, 4], [5; 4]));
        }
        gpu.drop_graph(graph);
        assert!(matches!(gpu.replay(graph), Err(OpError::Device { .. })));
    }

    #[test]
    fn what_waits_or_allocates_is_refused_while_a_graph_is_recorded() {
        let gpu = Emulator::new(EmulatorOptions::default()).unwrap();
        let at = gpu.alloc(4).unwrap();
        let refused = gpu.capture(&mut || {
            assert!(gpu.alloc(4).is_err() && gpu.read(at, &mut [0; 4]).is_err());
            assert!(gpu.capture(&mut || Ok(())).is_err());
            gpu.write(at, &[0; 4])
        });
        assert!(matches!(refused, Err(OpError::Device { code, .. }) if code.contains("(900)")));
        gpu.write(at, &[0; 4]).unwrap();
    }
}
