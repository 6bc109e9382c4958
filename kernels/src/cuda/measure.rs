//! What the device's memory can give, and timing with a cold cache: the figures that every kernel is held against.
//! `hearth bench` calls it. On the emulator the kernels run and there is no time to tell.

use super::Cuda;
use super::gpu::{Args, Gpu, Launch, bytes_of};
use super::memory::DeviceBuffer;
use crate::{Result, Tensor};
use std::sync::Arc;

/// Argument of the kernels of measure.cu.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct MeasureArgs {
    from: u64,
    to: u64,
    /// Of 16-byte words.
    count: u64,
}

const _: () = assert!(size_of::<MeasureArgs>() == 24);

// SAFETY: three u64, `repr(C)`: no padding.
unsafe impl Args for MeasureArgs {}

/// Threads of a block, as in measure.cu.
const THREADS: u32 = 512;

/// Blocks per multiprocessor, as in measure.cu.
const RESIDENT: u32 = 2;

/// Each figure is the median of this many measurements.
const REPEATS: usize = 9;

/// Runs within one measurement, so that the first's start does not count much.
const RUNS: usize = 4;

/// What a device's memory gives, bytes per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bandwidth {
    /// Reading alone.
    pub read: f64,
    /// Copying: bytes read plus bytes written.
    pub copy: f64,
    /// Seconds that a launch of a kernel that does nothing adds to a recorded graph of them.
    pub launch: f64,
}

impl Cuda {
    /// Measures the memory with buffers far larger than its cache; None on the emulator.
    ///
    /// # Errors
    /// When two buffers of an eighth of what is free, at most 1 GiB each, cannot be had; a fault of the device.
    pub fn measure_bandwidth(&self) -> Result<Option<Bandwidth>> {
        if self.is_emulated() {
            return Ok(None);
        }
        let bytes = usize::try_from(self.gpu.available()? / 8).unwrap_or(usize::MAX).min(1 << 30) & !0xffff;
        let probe = Probe::new(self.slab.under(), bytes)?;
        let time = |kernel| {
            probe.launch(kernel)?;
            median(REPEATS, || self.gpu.time(&mut || (0..RUNS).try_for_each(|_| probe.launch(kernel))))
        };
        let (Some(read), Some(copy)) = (time("measure_read")?, time("measure_copy")?) else {
            return Ok(None);
        };
        let moved = (RUNS * bytes) as f64;
        let Some(launch) = self.launch_seconds(&probe)? else { return Ok(None) };
        Ok(Some(Bandwidth { read: moved / read, copy: 2.0 * moved / copy, launch }))
    }

    /// Seconds per launch of a kernel that does nothing, within a recorded graph.
    fn launch_seconds(&self, probe: &Probe) -> Result<Option<f64>> {
        const LAUNCHES: usize = 1000;
        let graph =
            self.gpu.capture(&mut || (0..LAUNCHES).try_for_each(|_| probe.launch("measure_nothing")))?;
        let time = self
            .gpu
            .replay(graph)
            .and_then(|()| median(REPEATS, || self.gpu.time(&mut || self.gpu.replay(graph))));
        self.gpu.drop_graph(graph);
        Ok(time?.map(|seconds| seconds / LAUNCHES as f64))
    }

    /// Median of the seconds that `body`'s work takes when nothing of what it reads is in the cache; None on the emulator,
    /// where `body` runs once.
    ///
    /// # Errors
    /// Those of `body`; a fault of the device; no memory for twice the size of the cache.
    pub fn time_cold(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Option<f64>> {
        let probe = Probe::new(
            self.slab.under(),
            usize::try_from(2 * self.gpu.properties().l2).unwrap_or(1 << 26).max(1 << 20),
        )?;
        median(REPEATS, || {
            // Reads and writes other memory, twice the size of the cache each.
            if !self.is_emulated() {
                probe.launch("measure_copy")?;
            }
            self.gpu.time(body)
        })
    }

    /// Seconds of `body`'s launches as a recorded graph: the median of some replays, each of which follows another.
    pub(crate) fn time_recorded(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Option<f64>> {
        // By its clock, if it has one.
        if self.is_emulated() {
            return self.gpu.time(body);
        }
        let graph = self.gpu.capture(body)?;
        let time = || self.gpu.time(&mut || self.gpu.replay(graph));
        let first = time().and_then(|_| time());
        // Long ones need no many repetitions.
        let result = first.and_then(|first| match first {
            Some(first) if first > 0.1 => Ok(Some(first)),
            _ => median(REPEATS, || {
                self.gpu.replay(graph)?;
                time()
            }),
        });
        self.gpu.drop_graph(graph);
        result
    }

    fn is_emulated(&self) -> bool {
        self.gpu.device() != "cuda"
    }
}

/// The op `scramble`.
pub(crate) fn scramble(cuda: &Cuda, x: &mut Tensor, seed: u64) -> Result<()> {
    // Fewer than 16 bytes at the end stay as they are.
    let count = x.bytes() / 16;
    let args = MeasureArgs { from: seed, to: x.address("scramble", "x")?, count: count as u64 };
    if count == 0 {
        return Ok(());
    }
    let blocks = cuda.properties().multiprocessors * RESIDENT;
    let launch =
        Launch { kernel: "measure_scramble", grid: [blocks, 1, 1], block: THREADS, shared: 0, pdl: true };
    cuda.gpu.launch(&launch, bytes_of(&args))
}

/// Two buffers to read and copy between.
struct Probe {
    gpu: Arc<dyn Gpu>,
    from: DeviceBuffer,
    to: DeviceBuffer,
    blocks: u32,
}

impl Probe {
    /// Buffers of `bytes` bytes, a multiple of 16.
    fn new(gpu: &Arc<dyn Gpu>, bytes: usize) -> Result<Probe> {
        let blocks = gpu.properties().multiprocessors * RESIDENT;
        let from = DeviceBuffer::zeroed(gpu, bytes)?;
        let to = DeviceBuffer::new(gpu, bytes.max(4 * blocks as usize))?;
        Ok(Probe { gpu: gpu.clone(), from, to, blocks })
    }

    fn launch(&self, kernel: &'static str) -> Result<()> {
        let args = MeasureArgs {
            from: self.from.address,
            to: self.to.address,
            count: (self.from.bytes / 16) as u64,
        };
        let (grid, block) = if kernel == "measure_nothing" { (1, 32) } else { (self.blocks, THREADS) };
        self.gpu.launch(&Launch { kernel, grid: [grid, 1, 1], block, shared: 0, pdl: true }, bytes_of(&args))
    }
}

/// The median of `repeats` measurements; None as soon as one is.
fn median(repeats: usize, mut measure: impl FnMut() -> Result<Option<f64>>) -> Result<Option<f64>> {
    let mut seconds = Vec::with_capacity(repeats);
    for _ in 0..repeats {
        let Some(one) = measure()? else { return Ok(None) };
        seconds.push(one);
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds.get(repeats / 2).copied())
}

#[cfg(all(test, feature = "emulator"))]
mod tests {
    use super::*;
    use crate::cuda::emulated::EmulatorOptions;

    /// A probe whose source holds numbered words, on the emulator.
    fn numbered(words: u32) -> (Cuda, Probe, Vec<u8>) {
        let cuda = Cuda::emulated(EmulatorOptions::default()).expect("the emulator opens");
        let probe = Probe::new(&cuda.gpu, words as usize * 4).expect("there is memory");
        let bytes: Vec<u8> = (0..words).flat_map(|i| (i.wrapping_mul(0x9E37_79B9)).to_le_bytes()).collect();
        cuda.gpu.write(probe.from.address, &bytes).expect("the source is there");
        (cuda, probe, bytes)
    }

    #[test]
    fn the_reading_kernel_reads_every_word_once() {
        // More than one round of every block, and an odd tail.
        let (cuda, probe, bytes) = numbered(4 * (512 * 8 * 8 + 77));
        probe.launch("measure_read").expect("it runs");
        let mut found = vec![0; 4 * probe.blocks as usize];
        cuda.gpu.read(probe.to.address, &mut found).expect("it can be read");
        let fold = |bytes: &[u8]| {
            bytes.chunks_exact(4).fold(0, |all, b| all ^ u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        };
        assert_eq!(fold(&found), fold(&bytes));
    }

    #[test]
    fn the_copying_kernel_copies_every_word_and_no_more() {
        let (cuda, probe, bytes) = numbered(4 * (512 * 8 * 8 + 77));
        probe.launch("measure_copy").expect("it runs");
        let mut found = vec![0; probe.to.bytes];
        cuda.gpu.read(probe.to.address, &mut found).expect("it can be read");
        assert!(found == bytes);
    }

    #[test]
    fn the_emulator_has_no_time_to_tell() {
        let options = EmulatorOptions { memory: 1 << 28, ..EmulatorOptions::default() };
        let cuda = Cuda::emulated(options).expect("the emulator opens");
        let mut ran = 0;
        let time = cuda.time_cold(&mut || {
            ran += 1;
            Ok(())
        });
        assert_eq!((time, ran), (Ok(None), 1));
    }

    #[test]
    fn the_median_of_an_odd_number_of_measurements_is_the_middle_one() {
        let mut times = [5.0, 1.0, 4.0].into_iter();
        assert_eq!(median(3, || Ok(times.next())), Ok(Some(4.0)));
    }
}
