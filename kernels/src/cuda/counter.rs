//! A device that is only counted on: every allocation succeeds, nothing is copied or computed. A load that runs on it shows
//! what the real one will take, down to the gaps.

use super::gaps::{ALIGN, Gaps, aligned};
use super::gpu::{Gpu, Launch, Properties};
use crate::Result;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// More than any device has, and still far from the end of the numbers.
const BYTES: u64 = 1 << 60;

#[derive(Debug)]
pub(crate) struct Counter {
    /// The device it stands for.
    gpu: Arc<dyn Gpu>,
    gaps: Mutex<Gaps>,
}

impl Counter {
    /// Of a device like `gpu`, with nothing on it.
    pub fn of(gpu: Arc<dyn Gpu>) -> Counter {
        Counter { gpu, gaps: Mutex::new(Gaps::new(ALIGN, BYTES)) }
    }

    fn gaps(&self) -> MutexGuard<'_, Gaps> {
        self.gaps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a block must hold in which all allocations so far take place.
    pub fn reach(&self) -> u64 {
        self.gaps().reach()
    }
}

impl Gpu for Counter {
    fn device(&self) -> &'static str {
        self.gpu.device()
    }

    fn properties(&self) -> &Properties {
        self.gpu.properties()
    }

    fn available(&self) -> Result<u64> {
        self.gpu.available()
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        let none = crate::OpError::OutOfMemory { device: self.device(), bytes };
        self.gaps().take(aligned(bytes)).ok_or(none)
    }

    fn free(&self, address: u64) {
        self.gaps().give_back(address);
    }

    fn write(&self, _address: u64, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    fn read(&self, _address: u64, into: &mut [u8]) -> Result<()> {
        into.fill(0);
        Ok(())
    }

    fn copy(&self, _from: u64, _to: u64, _bytes: usize) -> Result<()> {
        Ok(())
    }

    fn fill(&self, _address: u64, _byte: u8, _bytes: usize) -> Result<()> {
        Ok(())
    }

    fn launch(&self, _launch: &Launch, _args: &[u8]) -> Result<()> {
        Ok(())
    }

    fn capture(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<u64> {
        body().map(|()| 1)
    }

    fn replay(&self, _graph: u64) -> Result<()> {
        Ok(())
    }

    fn drop_graph(&self, _graph: u64) {}

    fn time(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Option<f64>> {
        body().map(|()| None)
    }
}
