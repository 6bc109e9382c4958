//! `DeviceMemory` of the CUDA backend: what a model takes is found out by running its load and its largest passes on a
//! counter, then taken as one block.

use super::Cuda;
use super::counter::Counter;
use super::gpu::Gpu;
use super::memory::DeviceBuffer;
use super::pack::{TILE_COLS, TILE_ROWS, tile_bytes};
use super::pass::Staged;
use super::slab::Slab;
use super::weight::{CudaWeight, Matrix};
use crate::weight::Storage;
use crate::{DeviceMemory, MemoryPlan, Needs, OpError, Ops, Result, Weight, WeightFormat, WeightShape};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

/// Columns that share one block scale.
const SCALE_COLS: usize = 128;

/// What a packed matrix takes: bytes of its tiles, and of its row and block scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub row_tiles: usize,
    pub k_tiles: usize,
    pub tiles: usize,
    pub row_scales: usize,
    pub block_scales: usize,
}

/// The extent of a matrix of this shape; None if it is larger than any memory.
pub(crate) fn extent(shape: &WeightShape) -> Option<Extent> {
    let WeightShape { format, blocks, rows, cols, paired } = *shape;
    let row_tiles = if paired { (rows / 2).div_ceil(8) } else { rows.div_ceil(TILE_ROWS) };
    let k_tiles = cols.div_ceil(TILE_COLS);
    let tiles = row_tiles.checked_mul(k_tiles)?.checked_mul(tile_bytes(format))?;
    let row_scales = row_tiles * TILE_ROWS * 4;
    let scaled = blocks && format == WeightFormat::Fp8;
    let block_scales = if scaled { row_tiles * cols.div_ceil(SCALE_COLS) * 2 * 4 } else { 0 };
    Some(Extent { row_tiles, k_tiles, tiles, row_scales, block_scales })
}

impl Cuda {
    /// A backend that only counts, of the device behind `gpu`.
    pub(super) fn rehearse(gpu: Arc<dyn Gpu>) -> Result<Cuda> {
        let counter = Arc::new(Counter::of(gpu.clone()));
        // What ops keep for themselves is not counted as it grows, but when its final size is taken: `keep`.
        let growing: Arc<dyn Gpu> = Arc::new(Counter::of(gpu));
        let slab = Arc::new(Slab::over(counter.clone()));
        let staged = Mutex::new(Staged::new(&growing)?);
        Ok(Cuda {
            gpu: slab.clone(),
            growing,
            counter: Some(counter),
            slab,
            staged,
            graphs: Mutex::default(),
            working: Mutex::default(),
            outgrown: Mutex::default(),
            fp4: AtomicBool::new(false),
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

    fn reserve(&self, shape: &WeightShape) -> Result<Weight> {
        let WeightShape { format, rows, cols, paired, .. } = *shape;
        if self.counter.is_none() {
            return Err(self.unsupported("reserve", "a weight without numbers outside of a rehearsal"));
        }
        if paired && !rows.is_multiple_of(2) {
            let found = format!("{rows} together");
            return Err(OpError::shape("reserve", "gate and up rows", "equally many", found));
        }
        let none = OpError::OutOfMemory { device: self.device(), bytes: usize::MAX };
        let Extent { row_tiles, k_tiles, tiles, row_scales, block_scales } = extent(shape).ok_or(none)?;
        let tiles = DeviceBuffer::new(&self.gpu, tiles)?;
        let scales = DeviceBuffer::new(&self.gpu, row_scales + block_scales)?;
        let matrix = Matrix {
            tiles: tiles.address,
            row_scales: scales.address,
            block_scales: if block_scales == 0 { 0 } else { scales.address + row_scales as u64 },
            rows: rows as u32,
            cols: cols as u32,
            row_tiles: row_tiles as u32,
            k_tiles: k_tiles as u32,
            format: super::pack::format_code(format),
            paired: u32::from(paired),
        };
        let bytes = tiles.bytes + scales.bytes;
        let storage = Storage::Cuda(CudaWeight { matrix, _buffers: vec![tiles, scales] });
        Ok(Weight { rows, cols, format, bytes, storage })
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
        self.staged().widen(&self.gpu, needs.room)
    }
}

impl Needs {
    /// Bytes of all of it, before it is aligned.
    pub fn bytes(&self) -> u64 {
        let working: usize = self.working.iter().map(|(_, bytes)| bytes).sum();
        (working + self.room.bytes()) as u64
    }
}
