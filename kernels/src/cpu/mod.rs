//! The CPU backend: plain, readable, and the definition of what every other backend must compute. One op family per
//! file; this one only names them.

mod attention;
pub mod bandwidth;
pub(crate) mod buffer;
pub(crate) mod draft_head;
mod gdn;
pub(crate) mod kv;
mod linear;
mod math;
pub(crate) mod memory;
mod moe;
mod moe_row;
mod norm;
pub(crate) mod pack;
mod pool;
mod sample;
pub(crate) mod segments;
mod simd;
pub(crate) mod weight;

use crate::cuda::DECODE_ROWS;
use crate::ops::{AttentionShape, Experts, GdnGates, GdnRows, GdnShape, KvLayer, Norm, Pass, Route};
use crate::rounds::{Follow, Settled};
use crate::sample::{Chosen, SampleRow};
use crate::{DType, Ops, PackedWeight, Result, Tensor, Weight, WeightFormat};

use buffer::{HostBuffer, Slab};
use pool::Pool;
pub use sample::choose;
pub use simd::Simd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The CPU backend.
#[derive(Debug)]
pub struct Cpu {
    pool: Pool,
    simd: Simd,
    slab: Mutex<Slab>,
    tiles: Mutex<Scratch>,
    results: Mutex<Scratch>,
    chosen: Mutex<sample::Ring>,
    fp4: Fp4,
}

/// When rows are rounded to NVFP4.
#[derive(Debug, Default)]
struct Fp4 {
    /// Asked for.
    on: AtomicBool,
    /// Forbidden by the pass that `begin` was told.
    exact: AtomicBool,
}

impl Cpu {
    /// A backend that computes on `threads` threads (default: as many as the machine offers this process) with the best
    /// SIMD level of the machine.
    pub fn new(threads: Option<usize>) -> Result<Cpu> {
        Cpu::with_simd(threads, Simd::available()[0])
    }

    /// As [`Cpu::new`], with a level of one's choice.
    pub fn with_simd(threads: Option<usize>, simd: Simd) -> Result<Cpu> {
        Ok(Cpu {
            pool: Pool::new(thread_count(threads))?,
            simd,
            slab: Mutex::default(),
            tiles: Mutex::new(Scratch::empty()?),
            results: Mutex::new(Scratch::empty()?),
            chosen: Mutex::default(),
            fp4: Fp4::default(),
        })
    }

    /// How many threads compute.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The SIMD level in use.
    pub fn simd(&self) -> Simd {
        self.simd
    }

    /// Where weights get their memory.
    fn slab(&self) -> MutexGuard<'_, Slab> {
        self.slab.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `t` rows are rounded to NVFP4 before products with NVFP4 weights.
    fn rounds_rows(&self, t: usize, exact: bool) -> bool {
        self.fp4.on.load(Ordering::Relaxed) && t > DECODE_ROWS && !exact
    }

    /// Space for interleaved rows.
    fn scratch(&self) -> MutexGuard<'_, Scratch> {
        self.tiles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tokens chosen last.
    fn chosen(&self) -> MutexGuard<'_, sample::Ring> {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Space for the results of an op before its epilogue.
    fn results(&self) -> MutexGuard<'_, Scratch> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number asked for, else what the machine offers this process.
fn thread_count(asked: Option<usize>) -> usize {
    asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get())).clamp(1, 1024)
}

/// Working memory that grows to the largest op seen and stays, so that serving allocates nothing large.
#[derive(Debug)]
struct Scratch(HostBuffer);

impl Scratch {
    fn empty() -> Result<Scratch> {
        Ok(Scratch(HostBuffer::zeroed(0)?))
    }

    /// `count` numbers of unspecified value.
    fn floats(&mut self, count: usize) -> Result<&mut [f32]> {
        if self.0.len() / 4 < count {
            // The old one goes first, so that both never exist at once.
            self.0 = HostBuffer::zeroed(0)?;
            self.0 = HostBuffer::zeroed(count.saturating_mul(4))?;
        }
        Ok(&mut self.0.as_mut_slice()[..count])
    }
}

impl Ops for Cpu {
    fn device(&self) -> &'static str {
        "cpu"
    }

    fn scramble(&self, x: &mut Tensor, seed: u64) -> Result<()> {
        memory::scramble(x, seed)
    }

    fn set_fp4_activations(&self, on: bool) -> Result<()> {
        self.fp4.on.store(on, Ordering::Relaxed);
        Ok(())
    }

    fn begin(&self, pass: &Pass, _ids: &[u32], _picks: &[u32]) -> Result<()> {
        self.fp4.exact.store(pass.exact, Ordering::Relaxed);
        Ok(())
    }

    fn follow(&self, pass: &Pass, ids: &[u32], picks: &[u32], follows: &[Follow]) -> Result<Option<Settled>> {
        sample::follow(self, pass, ids, picks, follows)
    }

    fn zeros(&self, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        memory::zeros(dtype, shape)
    }

    fn upload(&self, from: DType, bytes: &[u8], dtype: DType, shape: &[usize]) -> Result<Tensor> {
        memory::upload(from, bytes, dtype, shape)
    }

    fn read_rows(&self, x: &Tensor, first: usize, rows: usize) -> Result<Vec<f32>> {
        memory::read_rows("read_rows", x, DType::F32, first, rows)
    }

    fn copy_rows(&self, x: &mut Tensor, from: usize, to: usize, rows: usize) -> Result<()> {
        let bytes = x.row_stretch("copy_rows", from, to, rows)?;
        x.host_mut::<u8>("copy_rows", "x")?.copy_within(bytes.from..bytes.from + bytes.len, bytes.to);
        Ok(())
    }

    fn read_bytes(&self, x: &Tensor, first: usize, rows: usize) -> Result<Vec<u8>> {
        let bytes = x.row_bytes("read_bytes", first, rows)?;
        Ok(x.host::<u8>("read_bytes", "x")?[bytes].to_vec())
    }

    fn write_bytes(&self, x: &mut Tensor, first: usize, bytes: &[u8]) -> Result<()> {
        let rows = x.whole_rows("write_bytes", bytes.len())?;
        let place = x.row_bytes("write_bytes", first, rows)?;
        x.host_mut::<u8>("write_bytes", "x")?[place].copy_from_slice(bytes);
        Ok(())
    }

    fn read_ids(&self, x: &Tensor, first: usize, rows: usize) -> Result<Vec<u32>> {
        memory::read_rows("read_ids", x, DType::U32, first, rows)
    }

    fn pack(&self, parts: &[PackedWeight<'_>]) -> Result<Weight> {
        pack::pack(self, parts)
    }

    fn embed(&self, table: &Weight, ids: &[u32], out: &mut Tensor) -> Result<()> {
        linear::embed(self, table, ids, out)
    }

    fn rms_norm(&self, pass: &Pass, x: &Tensor, norm: &Norm, out: &mut Tensor) -> Result<()> {
        norm::rms_norm(self, pass, x, norm, out)
    }

    fn linear(&self, t: usize, x: &Tensor, w: &Weight, out: &mut Tensor) -> Result<()> {
        self.linear_op("linear", t, x, w, out, false)
    }

    fn linear_add(&self, t: usize, x: &Tensor, w: &Weight, out: &mut Tensor) -> Result<()> {
        self.linear_op("linear_add", t, x, w, out, true)
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
        kv::append(self, pass, shape, q_norm, k_norm, q, k, v, cache)
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
        norm::swiglu(self, pass, x, out)
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
        norm::mtp_join(self, t, embedding, norm_e, hidden, norm_h, out)
    }

    fn gather_rows(&self, x: &Tensor, rows: &[u32], out: &mut Tensor) -> Result<()> {
        memory::gather_rows(x, rows, out)
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
