//! The CUDA backend: launchers over one set of kernels (`kernels/cuda`), on a GPU through its driver or on the CPU
//! through the emulator. One op family per file; this one names them.

mod attention;
mod attention_decode;
mod attention_kernels;
mod counter;
mod draft_head;
mod driver;
#[cfg(feature = "emulator")]
pub mod emulated;
mod fp4;
mod gaps;
mod gdn;
pub(crate) mod gpu;
mod graphs;
mod linear;
mod linear_prefill;
mod linear_ways;
mod measure;
pub(crate) mod memory;
mod moe;
mod moe_prefill;
mod pack;
mod pass;
mod planned;
mod rounds;
mod rows;
mod sample;
mod slab;
mod stream;
mod tune;
mod variants;
pub(crate) mod weight;

pub use gpu::Properties;
pub(crate) use graphs::tier;
pub use measure::Bandwidth;
pub(crate) use pass::Room;
pub use tune::Tuned;
pub use variants::Variant;

use crate::ops::{
    AttentionInputs, AttentionRowsMut, AttentionShape, Experts, GdnGates, GdnInputs, GdnRows, GdnRowsMut,
    GdnShape, KvLayer, Norm, Pass, Route, RouterInputs, Stretch,
};
use crate::rounds::{Follow, Settled};
use crate::sample::{Chosen, SampleRow};
use crate::{DType, DeviceMemory, OpError, Ops, PackedWeight, Records, Result, Tensor, Weight, WeightFormat};
use gpu::Gpu;
use linear::Epilogue;
use memory::DeviceBuffer;
use pass::Staged;
use slab::Slab;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most rows of a pass that runs as decode does; longer ones are prefill.
pub(crate) const DECODE_ROWS: usize = 16;

/// The CUDA backend.
#[derive(Debug)]
pub struct Cuda {
    /// The slab again, as the driver that everybody else takes it for.
    pub(crate) gpu: Arc<dyn Gpu>,
    /// Where what ops keep for themselves grows: the slab; on a rehearsal, where it is not counted.
    growing: Arc<dyn Gpu>,
    /// Set on a rehearsal: counts.
    counter: Option<Arc<counter::Counter>>,
    slab: Arc<Slab>,
    staged: Mutex<Staged>,
    /// The tokens chosen last, where the passes that follow find them.
    chosen: sample::Ring,
    rejected: rounds::Rejected,
    graphs: Mutex<HashMap<graphs::Key, u64>>,
    working: Mutex<HashMap<&'static str, DeviceBuffer>>,
    outgrown: Mutex<Vec<DeviceBuffer>>,
    /// Prefill rounds rows to NVFP4.
    fp4: AtomicBool,
    variants: variants::Variants,
}

impl Cuda {
    /// The backend on the GPU of this machine.
    ///
    /// # Errors
    /// [`OpError::Unavailable`] with the reason and what to do: no driver or an old one, no GPU or one without kernels, a
    /// build without GPU code.
    pub fn open() -> Result<Cuda> {
        Cuda::over(Arc::new(driver::Driver::open()?))
    }

    /// Whether NVIDIA's driver is installed, whatever [`Cuda::open`] makes of it.
    pub fn driver_is_installed() -> bool {
        driver::is_installed()
    }

    /// The backend over a driver.
    pub(crate) fn over(gpu: Arc<dyn Gpu>) -> Result<Cuda> {
        let slab = Arc::new(Slab::over(gpu));
        let gpu: Arc<dyn Gpu> = slab.clone();
        let staged = Mutex::new(Staged::new(&gpu)?);
        let chosen = sample::Ring::new(&gpu)?;
        let rejected = rounds::Rejected::new(&gpu)?;
        Ok(Cuda {
            growing: gpu.clone(),
            gpu,
            counter: None,
            slab,
            staged,
            chosen,
            rejected,
            graphs: Mutex::default(),
            working: Mutex::default(),
            outgrown: Mutex::default(),
            fp4: AtomicBool::new(false),
            variants: variants::Variants::default(),
        })
    }

    /// What the device is.
    pub fn properties(&self) -> &Properties {
        self.gpu.properties()
    }

    /// Whether this is a rehearsal.
    pub(crate) fn counts(&self) -> bool {
        self.counter.is_some()
    }

    fn staged(&self) -> MutexGuard<'_, Staged> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Address of at least `bytes` of working memory that belongs to `name`, zero when first given out. It grows to the
    /// largest size asked for and stays; what a kernel leaves there, the next finds.
    pub(crate) fn working(&self, name: &'static str, bytes: usize) -> Result<u64> {
        let mut working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(buffer) = working.get(name).filter(|buffer| buffer.bytes >= bytes) {
            return Ok(buffer.address);
        }
        // A rehearsal finds the largest size; without one, growing by doubles keeps moves few.
        let bytes = if self.counts() { bytes } else { bytes.next_power_of_two() };
        let buffer = DeviceBuffer::zeroed(&self.growing, bytes.max(256))?;
        let address = buffer.address;
        if let Some(old) = working.insert(name, buffer) {
            // A recorded graph may still name it.
            self.outgrown.lock().unwrap_or_else(PoisonError::into_inner).push(old);
        }
        Ok(address)
    }

    /// The error of an op that has no kernel for this.
    pub(crate) fn unsupported(&self, op: &'static str, what: impl Into<String>) -> OpError {
        OpError::Unsupported { op, what: what.into(), device: self.gpu.device() }
    }
}

impl Ops for Cuda {
    fn device(&self) -> &'static str {
        self.gpu.device()
    }

    fn identity(&self) -> String {
        let Properties { name, capability: (major, minor), driver, .. } = self.properties();
        let fp4 = if self.fp4() { ", NVFP4 activations" } else { "" };
        if driver.is_empty() {
            return format!("{name}{fp4}");
        }
        format!("{name} ({major}.{minor}), driver {driver}{fp4}")
    }

    fn runs_ahead(&self) -> bool {
        true
    }

    fn decode_rows(&self) -> Option<usize> {
        Some(DECODE_ROWS)
    }

    fn available_memory(&self) -> Option<u64> {
        if self.properties().integrated { None } else { self.gpu.available().ok() }
    }

    fn memory(&self) -> Option<&dyn DeviceMemory> {
        Some(self)
    }

    fn records(&self) -> Option<&dyn Records> {
        Some(self)
    }

    fn bandwidth(&self) -> Result<Option<Bandwidth>> {
        self.measure_bandwidth()
    }

    fn set_fp4_activations(&self, on: bool) -> Result<()> {
        let (major, minor) = self.properties().capability;
        if on && (major, minor) != fp4::CAPABILITY {
            let what = format!("rounding to NVFP4 on compute capability {major}.{minor} (12.1 is needed)");
            return Err(self.unsupported("fp4_activations", what));
        }
        self.fp4.store(on, Ordering::Relaxed);
        Ok(())
    }

    fn begin(&self, pass: &Pass, ids: &[u32], picks: &[u32]) -> Result<()> {
        self.stage_with("begin", pass, ids, picks).map(drop)
    }

    fn follow(&self, pass: &Pass, ids: &[u32], picks: &[u32], follows: &[Follow]) -> Result<Option<Settled>> {
        rounds::follow(self, pass, ids, picks, follows).map(|()| None)
    }

    fn replay(
        &self,
        stretch: Stretch,
        pass: &Pass,
        picks: usize,
        body: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        self.replay_or_run(stretch, pass, picks, body)
    }

    fn time(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Option<f64>> {
        self.time_recorded(body)
    }

    fn scramble(&self, x: &mut Tensor, seed: u64) -> Result<()> {
        measure::scramble(self, x, seed)
    }

    fn zeros(&self, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        memory::zeros(self, dtype, shape)
    }

    fn upload(&self, from: DType, bytes: &[u8], dtype: DType, shape: &[usize]) -> Result<Tensor> {
        memory::upload(self, from, bytes, dtype, shape)
    }

    fn read_rows(&self, x: &Tensor, first: usize, rows: usize) -> Result<Vec<f32>> {
        let bytes = memory::read_rows(self, "read_rows", x, DType::F32, first, rows)?;
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    fn copy_rows(&self, x: &mut Tensor, from: usize, to: usize, rows: usize) -> Result<()> {
        let bytes = x.row_stretch("copy_rows", from, to, rows)?;
        let base = x.address("copy_rows", "x")?;
        if bytes.len == 0 {
            return Ok(());
        }
        self.gpu.copy(base + bytes.from as u64, base + bytes.to as u64, bytes.len)
    }

    fn read_bytes(&self, x: &Tensor, first: usize, rows: usize) -> Result<Vec<u8>> {
        memory::read_rows(self, "read_bytes", x, x.dtype, first, rows)
    }

    fn write_bytes(&self, x: &mut Tensor, first: usize, bytes: &[u8]) -> Result<()> {
        let rows = x.whole_rows("write_bytes", bytes.len())?;
        let place = x.row_bytes("write_bytes", first, rows)?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.gpu.write(x.address("write_bytes", "x")? + place.start as u64, bytes)
    }

    fn read_ids(&self, x: &Tensor, first: usize, rows: usize) -> Result<Vec<u32>> {
        let bytes = memory::read_rows(self, "read_ids", x, DType::U32, first, rows)?;
        Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    fn pack(&self, parts: &[PackedWeight<'_>]) -> Result<Weight> {
        pack::pack(self, parts, false)
    }

    fn pack_gate_up(&self, parts: &[PackedWeight<'_>]) -> Result<Weight> {
        pack::pack(self, parts, true)
    }

    fn gdn_in(
        &self,
        pass: &Pass,
        x: &Tensor,
        norm: &Norm,
        weights: GdnInputs<'_>,
        conv_state: &mut Tensor,
        _h: &mut Tensor,
        out: GdnRowsMut<'_>,
    ) -> Result<()> {
        self.gdn_in_op(pass, x, norm, weights, conv_state, out)
    }

    fn attend_in(
        &self,
        pass: &Pass,
        x: &Tensor,
        norm: &Norm,
        weights: AttentionInputs<'_>,
        _h: &mut Tensor,
        out: AttentionRowsMut<'_>,
    ) -> Result<()> {
        self.attend_in_op(pass, x, norm, weights, out)
    }

    fn ffn_in(
        &self,
        pass: &Pass,
        x: &Tensor,
        norm: &Norm,
        gate_up: &Weight,
        h: &mut Tensor,
        both: &mut Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        self.ffn_in_op(pass, x, norm, gate_up, h, both, out)
    }

    fn embed(&self, table: &Weight, ids: &[u32], out: &mut Tensor) -> Result<()> {
        rows::embed(self, table, ids, out)
    }

    fn rms_norm(&self, pass: &Pass, x: &Tensor, norm: &Norm, out: &mut Tensor) -> Result<()> {
        rows::rms_norm(self, pass, x, norm, out)
    }

    fn linear(&self, t: usize, x: &Tensor, w: &Weight, out: &mut Tensor) -> Result<()> {
        self.linear_op("linear", t, x, w, out, Epilogue::Store)
    }

    fn linear_add(&self, t: usize, x: &Tensor, w: &Weight, out: &mut Tensor) -> Result<()> {
        self.linear_op("linear_add", t, x, w, out, Epilogue::Add)
    }

    fn gdn_conv(&self, pass: &Pass, w: &Tensor, state: &mut Tensor, x: &mut Tensor) -> Result<()> {
        gdn::conv(self, pass, w, state, x)
    }

    fn gdn_step(
        &self,
        pass: &Pass,
        shape: &GdnShape,
        rows: GdnRows<'_>,
        gates: &GdnGates,
        state: &mut Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        gdn::step(self, pass, shape, rows, gates, state, out)
    }

    fn attend_append(
        &self,
        pass: &Pass,
        shape: &AttentionShape,
        q_norm: &Norm,
        k_norm: &Norm,
        q: &mut Tensor,
        k: &Tensor,
        v: &Tensor,
        cache: &mut KvLayer,
    ) -> Result<()> {
        attention::append(self, pass, shape, q_norm, k_norm, q, k, v, cache)
    }

    fn attend_paged(
        &self,
        pass: &Pass,
        shape: &AttentionShape,
        q: &Tensor,
        cache: &KvLayer,
        out: &mut Tensor,
    ) -> Result<()> {
        attention::paged(self, pass, shape, q, cache, out)
    }

    fn experts(&self, gate_up: Vec<Weight>, down: Vec<Weight>, max_inter: usize) -> Result<Experts> {
        moe::experts(self, gate_up, down, max_inter)
    }

    fn moe_in(
        &self,
        pass: &Pass,
        x: &Tensor,
        norm: &Norm,
        weights: RouterInputs<'_>,
        h: &mut Tensor,
        route: &mut Route,
    ) -> Result<()> {
        moe::moe_in(self, pass, x, norm, weights, h, route)
    }

    fn moe_route(
        &self,
        pass: &Pass,
        x: &Tensor,
        router: &Weight,
        shared_gate: Option<&Weight>,
        normalise: bool,
        route: &mut Route,
    ) -> Result<()> {
        moe::route(self, pass, x, router, shared_gate, normalise, route)
    }

    fn moe_gate_up(
        &self,
        pass: &Pass,
        x: &Tensor,
        route: &Route,
        experts: &Experts,
        act: &mut Tensor,
    ) -> Result<()> {
        moe::gate_up(self, pass, x, route, experts, act)
    }

    fn moe_down(
        &self,
        pass: &Pass,
        act: &Tensor,
        route: &Route,
        experts: &Experts,
        out: &mut Tensor,
    ) -> Result<()> {
        moe::down(self, pass, act, route, experts, out)
    }

    fn swiglu(&self, pass: &Pass, x: &Tensor, out: &mut Tensor) -> Result<()> {
        rows::swiglu(self, pass, x, out)
    }

    fn mtp_join(
        &self,
        t: usize,
        embedding: &Tensor,
        norm_e: &Norm,
        hidden: &Tensor,
        norm_h: &Norm,
        out: &mut Tensor,
    ) -> Result<()> {
        rows::mtp_join(self, t, embedding, norm_e, hidden, norm_h, out)
    }

    fn gather_picks(&self, x: &Tensor, first: usize, rows: &[u32], out: &mut Tensor) -> Result<()> {
        rows::gather(self, x, rows, Some(first), out)
    }

    fn gather_rows(&self, x: &Tensor, rows: &[u32], out: &mut Tensor) -> Result<()> {
        rows::gather(self, x, rows, None, out)
    }

    fn draft_head(&self, head: &Weight, ids: &[u32], format: WeightFormat) -> Result<Weight> {
        draft_head::draft_head(self, head, ids, format)
    }

    fn spread_logits(&self, t: usize, x: &Tensor, place: &Tensor, out: &mut Tensor) -> Result<()> {
        draft_head::spread(self, t, x, place, out)
    }

    fn sample(&self, logits: &mut Tensor, tokens: usize, rows: &[SampleRow<'_>]) -> Result<Chosen> {
        sample::sample(self, logits, tokens, rows)
    }
}
