//! `DeviceMemory` of the CUDA backend: what a model takes is found out by running its load and its largest passes on a
//! counter, then taken as one block.

use super::Cuda;
use super::counter::Counter;
use super::gpu::Gpu;
use super::memory::DeviceBuffer;
use super::pass::Staged;
use super::slab::Slab;
use crate::{DeviceMemory, MemoryPlan, Needs, Numbers, OpError, Ops, Result, StoredWeight, Weight};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

impl Cuda {
    /// A backend that only counts, of the device behind `gpu`.
    pub(super) fn rehearse(gpu: Arc<dyn Gpu>) -> Result<Cuda> {
        let counter = Arc::new(Counter::of(gpu.clone()));
        // What ops keep for themselves is not counted as it grows, but when its final size is taken: `keep`.
        let growing: Arc<dyn Gpu> = Arc::new(Counter::of(gpu));
        let slab = Arc::new(Slab::over(counter.clone()));
        let staged = Mutex::new(Staged::new(&growing)?);
        let chosen = super::sample::Ring::new(&growing)?;
        let rejected = super::rounds::Rejected::new(&growing)?;
        Ok(Cuda {
            gpu: slab.clone(),
            growing,
            counter: Some(counter),
            slab,
            staged,
            chosen,
            rejected,
            graphs: Mutex::default(),
            working: Mutex::default(),
            outgrown: Mutex::default(),
            fp4: AtomicBool::new(false),
            variants: super::variants::Variants::default(),
        })
    }

    /// Gives back all that ops kept for themselves, and the graphs that name it.
    fn forget_working(&self) {
        let graphs = std::mem::take(&mut *self.graphs.lock().unwrap_or_else(PoisonError::into_inner));
        graphs.values().for_each(|graph| self.gpu.drop_graph(*graph));
        self.working.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.outgrown.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl DeviceMemory for Cuda {
    fn rehearsal(&self) -> Result<Arc<dyn Ops>> {
        let rehearsal = Cuda::rehearse(self.slab.under().clone())?;
        rehearsal.set_fp4_activations(self.fp4())?;
        Ok(Arc::new(rehearsal))
    }

    fn pack_stored(&self, parts: &[StoredWeight], paired: bool, numbers: &mut dyn Numbers) -> Result<Weight> {
        super::pack::pack_stored(self, parts, paired, numbers)
    }

    fn taken(&self) -> u64 {
        self.counter.as_ref().map_or_else(|| self.slab.reach(), |counter| counter.reach())
    }

    fn needs(&self) -> Needs {
        let working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        let mut working: Vec<(&'static str, usize)> =
            working.iter().map(|(name, buffer)| (*name, buffer.bytes)).collect();
        // Always in one order: where they lie must not depend on chance.
        working.sort_unstable();
        Needs { working, room: self.staged().room() }
    }

    fn plan(&self, plan: &MemoryPlan) -> Result<()> {
        self.forget_working();
        self.slab.plan(plan)
    }

    fn keep(&self, needs: &Needs) -> Result<()> {
        self.forget_working();
        for &(name, bytes) in &needs.working {
            let buffer = DeviceBuffer::zeroed(&self.gpu, bytes)?;
            self.working.lock().unwrap_or_else(PoisonError::into_inner).insert(name, buffer);
        }
        self.staged().hold(&self.gpu, needs.room)
    }

    fn free_beside(&self) -> Option<u64> {
        self.slab.under().available().ok()
    }

    fn fault(&self) -> Option<OpError> {
        self.slab.fault()
    }
}

impl Needs {
    /// Bytes of all of it, before it is aligned.
    pub fn bytes(&self) -> u64 {
        let working: usize = self.working.iter().map(|(_, bytes)| bytes).sum();
        (working + self.room.bytes()) as u64
    }
}
