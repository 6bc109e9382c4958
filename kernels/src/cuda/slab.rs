//! One block of device memory, planned before the first byte of a model is read, from which everything is given out. The
//! plan is a ceiling: what goes beyond it is refused with the plan in the message, instead of freezing a machine whose GPU
//! shares the host's memory, or failing in the middle of a request.
//!
//! One block also wastes nothing: the driver packs small allocations into chunks of 2 MiB and rounds.

use super::gaps::{ALIGN, Gaps, aligned};
use super::gpu::{Bounce, Gpu, Launch, Properties};
use crate::plan::refused;
use crate::sample::Arriving;
use crate::{MemoryPlan, OpError, Result};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A device that gives out memory from its slab only, once there is a plan; until then, as the device does.
#[derive(Debug)]
pub(crate) struct Slab {
    gpu: Arc<dyn Gpu>,
    planned: Mutex<Option<Planned>>,
    /// The first fault of the device.
    fault: Fault,
    launches: AtomicU64,
}

/// The first fault of a device.
#[derive(Debug, Clone, Default)]
struct Fault(Arc<Mutex<Option<OpError>>>);

impl Fault {
    fn first(&self) -> MutexGuard<'_, Option<OpError>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a fault that a call to the device ended with.
    fn noted<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error @ OpError::Device { .. }) = &result {
            self.first().get_or_insert_with(|| error.clone());
        }
        result
    }
}

/// Bytes on their way, whose fault would be the device's.
#[derive(Debug)]
struct Watched {
    bytes: Box<dyn Arriving>,
    fault: Fault,
}

impl Arriving for Watched {
    fn wait(self: Box<Self>) -> Result<Vec<u8>> {
        self.fault.noted(self.bytes.wait())
    }
}

#[derive(Debug)]
struct Planned {
    plan: MemoryPlan,
    base: u64,
    bytes: u64,
    gaps: Gaps,
}

impl Slab {
    /// Over `gpu`, without a plan yet.
    pub fn over(gpu: Arc<dyn Gpu>) -> Slab {
        Slab { gpu, planned: Mutex::default(), fault: Fault::default(), launches: AtomicU64::new(0) }
    }

    fn planned(&self) -> MutexGuard<'_, Option<Planned>> {
        self.planned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the block of `plan` at once; from now on nothing is given out beyond it. What was given out before stays.
    ///
    /// # Errors
    /// [`OpError::Plan`] if the device has not got that much, for example because another program took it since the plan
    /// was made, or if there is a plan already.
    pub fn plan(&self, plan: &MemoryPlan) -> Result<()> {
        let mut planned = self.planned();
        let available = self.gpu.available()?;
        let other = |reason: &str| {
            let table = plan.table(&[("available", available)]);
            Err(OpError::Plan { device: self.gpu.device(), reason: reason.into(), table })
        };
        if planned.is_some() {
            return other("the memory of this device is planned already");
        }
        if !plan.fits(available) {
            // Asked before it is taken: a host whose memory is overdrawn does not refuse, it stands still.
            return Err(refused(self.gpu.device(), plan, available));
        }
        let bytes = plan.block().checked_next_multiple_of(ALIGN).unwrap_or(u64::MAX);
        let base = match self.gpu.alloc(usize::try_from(bytes).unwrap_or(usize::MAX)) {
            Err(OpError::OutOfMemory { .. }) => {
                return other(
                    "the planned memory could not be had in one piece; another program may have taken it",
                );
            }
            result => result?,
        };
        *planned = Some(Planned { plan: plan.clone(), base, bytes, gaps: Gaps::new(base, bytes) });
        Ok(())
    }

    /// Bytes of the block from its start to the end of the highest allocation there ever was; 0 without a plan.
    pub fn reach(&self) -> u64 {
        self.planned().as_ref().map_or(0, |planned| planned.gaps.reach())
    }

    /// Kernels started or recorded so far.
    pub fn launches(&self) -> u64 {
        self.launches.load(Ordering::Relaxed)
    }

    /// The first fault of the device, if there was one.
    pub fn fault(&self) -> Option<OpError> {
        self.fault.first().clone()
    }

    /// Remembers a fault that a call to the device ended with.
    fn noted<T>(&self, result: Result<T>) -> Result<T> {
        self.fault.noted(result)
    }

    /// The device under the plan: for what is measured beside a model and gone in a moment.
    pub fn under(&self) -> &Arc<dyn Gpu> {
        &self.gpu
    }
}

impl Gpu for Slab {
    fn alloc(&self, bytes: usize) -> Result<u64> {
        let mut planned = self.planned();
        let Some(Planned { plan, gaps, .. }) = planned.as_mut() else {
            return self.noted(self.gpu.alloc(bytes));
        };
        gaps.take(aligned(bytes)).ok_or_else(|| OpError::Plan {
            device: self.gpu.device(),
            reason: format!("{bytes} bytes more than the memory plan has"),
            table: plan.table(&[
                ("in use", gaps.used()),
                ("largest gap", gaps.largest()),
                ("asked for", bytes as u64),
            ]),
        })
    }

    fn free(&self, address: u64) {
        match self.planned().as_mut() {
            Some(planned) if (planned.base..planned.base + planned.bytes).contains(&address) => {
                planned.gaps.give_back(address);
            }
            _ => self.gpu.free(address),
        }
    }

    fn available(&self) -> Result<u64> {
        match self.planned().as_ref() {
            Some(planned) => Ok(planned.bytes - planned.gaps.used()),
            None => self.gpu.available(),
        }
    }

    fn device(&self) -> &'static str {
        self.gpu.device()
    }

    fn properties(&self) -> &Properties {
        self.gpu.properties()
    }

    fn pin(&self, bytes: usize) -> Result<Option<Box<dyn Bounce + '_>>> {
        self.gpu.pin(bytes)
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.noted(self.gpu.write(address, bytes))
    }

    fn read(&self, address: u64, into: &mut [u8]) -> Result<()> {
        self.noted(self.gpu.read(address, into))
    }

    fn fetch(&self, address: u64, bytes: usize) -> Result<Box<dyn Arriving>> {
        let bytes = self.noted(self.gpu.fetch(address, bytes))?;
        Ok(Box::new(Watched { bytes, fault: self.fault.clone() }))
    }

    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        self.noted(self.gpu.copy(from, to, bytes))
    }

    fn fill(&self, address: u64, byte: u8, bytes: usize) -> Result<()> {
        self.noted(self.gpu.fill(address, byte, bytes))
    }

    fn prefer_shared(&self, all: bool) {
        self.gpu.prefer_shared(all);
    }

    fn launch(&self, launch: &Launch, args: &[u8]) -> Result<()> {
        self.launches.fetch_add(1, Ordering::Relaxed);
        self.noted(self.gpu.launch(launch, args))
    }

    fn capture(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<u64> {
        self.noted(self.gpu.capture(body))
    }

    fn replay(&self, graph: u64) -> Result<()> {
        self.noted(self.gpu.replay(graph))
    }

    fn drop_graph(&self, graph: u64) {
        self.gpu.drop_graph(graph);
    }

    fn time(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Option<f64>> {
        self.noted(self.gpu.time(body))
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        if let Some(planned) = self.planned().take() {
            self.gpu.free(planned.base);
        }
    }
}

#[cfg(all(test, feature = "emulator"))]
mod tests {
    use super::*;
    use crate::cuda::Cuda;
    use crate::cuda::emulated::EmulatorOptions;
    use crate::plan::DeviceMemory;
    use crate::{DType, Ops};

    fn of(items: &[(&str, u64)]) -> MemoryPlan {
        let items = items.iter().map(|(name, bytes)| ((*name).to_string(), *bytes)).collect();
        MemoryPlan { items, ..MemoryPlan::default() }
    }

    fn planned(items: &[(&str, u64)]) -> Result<Cuda> {
        let cuda = Cuda::emulated(EmulatorOptions::default())?;
        cuda.plan(&of(items))?;
        Ok(cuda)
    }

    #[test]
    fn an_allocation_beyond_the_plan_is_refused_with_the_plan() {
        let cuda = planned(&[("weights", 3 << 20), ("keys and values", 1 << 20)]).expect("there is memory");
        let before = cuda.gpu.available().expect("the slab tells");
        let held = cuda.zeros(DType::F32, &[1 << 19]).expect("2 MiB of 4 MiB");
        let error = cuda.zeros(DType::F32, &[(1 << 19) + 1]).map(drop).expect_err("the rest is 2 MiB");
        let text = error.to_string();
        for part in [
            "2097156 bytes more than the memory plan has",
            "weights",
            "3.0 MiB",
            "keys and values",
            "planned",
            "4.0 MiB",
            "asked for",
            "2.0 MiB",
        ] {
            assert!(text.contains(part), "{part:?} is missing in: {text}");
        }
        drop(held);
        assert_eq!(cuda.gpu.available(), Ok(before));
        cuda.zeros(DType::F32, &[1 << 19]).expect("it was given back");
    }

    #[test]
    fn a_plan_that_does_not_fit_is_refused_before_anything_is_taken() {
        let error = planned(&[("weights", 1 << 60)]).expect_err("nobody has an exabyte");
        assert!(error.to_string().contains("more memory than the device has free"), "{error}");
        assert!(error.to_string().contains("available"), "{error}");
    }

    #[test]
    fn memory_that_somebody_took_after_it_was_planned_is_missed_by_name() {
        let cuda = Cuda::emulated(EmulatorOptions::default()).expect("the emulator opens");
        let free = cuda.gpu.available().expect("the host tells");
        // More was free when it was planned than now, and the plan needs what is between.
        let before = free + (8 << 30);
        let weights = ("weights", free + (2 << 30));
        let plan = MemoryPlan { available: Some(before), reserve: 1 << 30, ..of(&[weights]) };
        let text = cuda.plan(&plan).expect_err("it is gone").to_string();
        for part in
            ["another program has taken some", "available when planned", "weights", "left to everything"]
        {
            assert!(text.contains(part), "{part:?} is missing in: {text}");
        }
        // What never fitted is not blamed on others.
        let plan = MemoryPlan { available: Some(free), ..plan };
        let text = cuda.plan(&plan).expect_err("too large").to_string();
        assert!(text.contains("more memory than the device has free"), "{text}");
    }

    #[test]
    fn the_first_fault_of_a_device_is_remembered() {
        let options = EmulatorOptions::default();
        let breaker = options.breaker.clone();
        let cuda = Cuda::emulated(options).expect("the emulator opens");
        let tensor = cuda.zeros(DType::F32, &[4, 1]).expect("there is memory");
        assert_eq!(cuda.fault(), None);
        // What the device merely refuses is no fault.
        assert!(cuda.plan(&of(&[("all", 1 << 60)])).is_err());
        assert_eq!(cuda.fault(), None);
        breaker.trip();
        let error = cuda.read_rows(&tensor, 0, 4).expect_err("it is broken");
        assert!(error.to_string().contains("CUDA_ERROR_ILLEGAL_ADDRESS (700)"), "{error}");
        assert_eq!(cuda.fault(), Some(error));
    }

    #[test]
    fn what_must_stay_free_for_others_is_not_taken() {
        let cuda = Cuda::emulated(EmulatorOptions::default()).expect("the emulator opens");
        let plan = MemoryPlan { reserve: u64::MAX / 2, ..of(&[("all", 1 << 20)]) };
        assert!(cuda.plan(&plan).is_err());
        cuda.plan(&MemoryPlan { reserve: 1 << 20, ..plan }).expect("there is memory");
    }

    #[test]
    fn what_was_allocated_before_the_plan_is_given_back_to_the_device() {
        let cuda = Cuda::emulated(EmulatorOptions::default()).expect("the emulator opens");
        let before = cuda.zeros(DType::F32, &[64, 1]).expect("there is memory");
        cuda.plan(&of(&[("all", 1 << 20)])).expect("there is memory");
        let held = cuda.gpu.available();
        assert_eq!(cuda.read_rows(&before, 0, 64), Ok(vec![0.0; 64]));
        drop(before);
        assert_eq!(cuda.gpu.available(), held);
        let error = cuda.plan(&MemoryPlan::default()).expect_err("one plan is enough");
        assert!(error.to_string().contains("planned already"), "{error}");
    }

    #[test]
    fn what_is_given_out_is_aligned_and_apart() {
        let cuda = planned(&[("all", 1 << 20)]).expect("there is memory");
        let tensors: Vec<_> = [1, 63, 64, 65, 1000]
            .iter()
            .map(|&n| cuda.zeros(DType::F32, &[n]).expect("there is room"))
            .collect();
        let mut last = 0;
        for tensor in &tensors {
            let at = tensor.address("test", "tensor").expect("it is on the device");
            assert!(at.is_multiple_of(ALIGN) && at >= last, "{at}");
            last = at + 4 * tensor.shape.iter().product::<usize>() as u64;
        }
    }
}
