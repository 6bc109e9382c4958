//! Matrix products with packed weights: `linear`, and the projections of a layer with their norm and epilogue in one launch.
//! Up to 16 rows, and more under `exact` in strips of 16, go to linear_decode.cu or linear_ring.cu; the rest to
//! linear_prefill.cu.

use super::gpu::{Args, Launch, bytes_of};
use super::linear_ways::{self, WARPS, Way};
use super::pack::tile_bytes;
use super::variants::Product;
use super::weight::Matrix;
use super::{Cuda, DECODE_ROWS, gdn, linear_prefill};
use crate::ops::{AttentionInputs, AttentionRowsMut, GdnInputs, GdnRowsMut, Norm, Pass};
use crate::{DType, OpError, Ops, Result, Tensor, Weight, WeightFormat};

/// Most weights of one launch.
const JOBS: usize = 4;

/// What is done with a finished sum; `enum Epilogue` in linear.cuh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Epilogue {
    /// out = sum.
    Store = 0,
    /// out += sum.
    Add = 1,
    /// out = silu(gate) * up, of a paired weight.
    Swiglu = 2,
}

/// One weight and where its product goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    pub matrix: Matrix,
    pub format: WeightFormat,
    /// f32 `[t, stride]`.
    pub out: u64,
    pub stride: usize,
    pub epilogue: Epilogue,
}

/// Rows that are multiplied: f32 `[t, cols]`, normed first if there is a norm (address of its weight, eps, offset).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input {
    pub x: u64,
    pub t: usize,
    pub cols: usize,
    pub norm: Option<(u64, f32, f32)>,
    /// What the first weight's outputs are convolved with: the pass on the device, the weights and the state.
    pub conv: Option<[u64; 3]>,
}

/// `struct LinearJob` in linear_decode.cuh.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct JobArgs {
    matrix: Matrix,
    out: u64,
    stride: u32,
    epilogue: u32,
    first: u32,
    blocks: u32,
}

/// `struct LinearArgs` in linear_decode.cuh.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct DecodeArgs {
    jobs: [JobArgs; JOBS],
    x: u64,
    norm: u64,
    eps: f32,
    offset: f32,
    t: u32,
    cols: u32,
    job_count: u32,
    slots: u32,
    conv: [u64; 3],
    ring: u32,
    unused: u32,
}

// SAFETY: repr(C); every field starts where the one before ends, see the sizes.
unsafe impl Args for DecodeArgs {}
const _: () = assert!(size_of::<JobArgs>() == 72 && size_of::<DecodeArgs>() == 360);

/// Deals at most `slots` blocks to the jobs in proportion to their bytes: none gets more than it has row tiles, each gets one.
fn deal(jobs: &[Job], slots: usize) -> Vec<u32> {
    let bytes =
        |job: &Job| job.matrix.row_tiles as usize * job.matrix.k_tiles as usize * tile_bytes(job.format);
    let all: usize = jobs.iter().map(bytes).sum::<usize>().max(1);
    let share = |job: &Job| {
        let fair = (slots as u128 * bytes(job) as u128 / all as u128) as u32;
        fair.clamp(1, job.matrix.row_tiles)
    };
    jobs.iter().map(share).collect()
}

/// Products of at most 16 rows. All weights are `input.cols` wide.
fn decode(cuda: &Cuda, input: Input, jobs: &[Job]) -> Result<()> {
    // No kernel reads f32 and another format. What is convolved is the first weight's, which is of no f32 then.
    let (full, rest): (Vec<Job>, Vec<Job>) = jobs.iter().partition(|job| job.format == WeightFormat::F32);
    if !full.is_empty() && !rest.is_empty() {
        decode(cuda, Input { conv: None, ..input }, &full)?;
        return decode(cuda, input, &rest);
    }
    let properties = cuda.properties();
    let convolves = input.conv.is_some();
    let ways = linear_ways::ways(properties, jobs, input.t, convolves);
    let product = Product {
        weights: jobs.iter().map(|job| (job.format, job.matrix.row_tiles)).collect(),
        k_tiles: jobs[0].matrix.k_tiles,
        several: input.t > 1,
        convolves,
    };
    let Way { kernel, shared, slots, blocks, ring, .. } = cuda.variants.of(product, &ways);
    let blocks = deal(jobs, blocks * properties.multiprocessors as usize);
    let mut args = DecodeArgs {
        jobs: [JobArgs { matrix: jobs[0].matrix, out: 0, stride: 0, epilogue: 0, first: 0, blocks: 0 }; JOBS],
        x: input.x,
        norm: 0,
        eps: 0.0,
        offset: 0.0,
        t: input.t as u32,
        cols: input.cols as u32,
        job_count: jobs.len() as u32,
        slots: slots as u32,
        conv: input.conv.unwrap_or_default(),
        ring,
        unused: 0,
    };
    if let Some((weight, eps, offset)) = input.norm {
        (args.norm, args.eps, args.offset) = (weight, eps, offset);
    }
    let mut first = 0;
    for ((job, blocks), args) in jobs.iter().zip(blocks).zip(&mut args.jobs) {
        let (stride, epilogue) = (job.stride as u32, job.epilogue as u32);
        *args = JobArgs { matrix: job.matrix, out: job.out, stride, epilogue, first, blocks };
        first += blocks;
    }
    let launch =
        Launch { kernel, grid: [first, 1, 1], block: 32 * WARPS as u32, shared: shared as u32, pdl: true };
    cuda.gpu.launch(&launch, bytes_of(&args))
}

/// Products of any number of rows in decode's arithmetic.
fn strips(cuda: &Cuda, input: Input, jobs: &[Job]) -> Result<()> {
    for first in (0..input.t).step_by(DECODE_ROWS) {
        let t = DECODE_ROWS.min(input.t - first);
        let input = Input { x: input.x + (first * input.cols * 4) as u64, t, ..input };
        let at = |job: &Job| Job { out: job.out + (first * job.stride * 4) as u64, ..*job };
        decode(cuda, input, &jobs.iter().map(at).collect::<Vec<Job>>())?;
    }
    Ok(())
}

/// Products of any number of rows, in decode's arithmetic or in prefill's.
fn products(cuda: &Cuda, input: Input, jobs: &[Job]) -> Result<()> {
    if input.t <= DECODE_ROWS || cuda.staged().exact() {
        return strips(cuda, input, jobs);
    }
    // Weights without a prefill kernel run as decode does.
    let (fast, rest): (Vec<Job>, Vec<Job>) = jobs.iter().partition(|job| linear_prefill::possible(job));
    if !rest.is_empty() {
        strips(cuda, input, &rest)?;
    }
    linear_prefill::prefill(cuda, input, &fast)
}

/// Address of the first `t` rows of an f32 tensor.
pub(crate) fn rows_at(
    op: &'static str,
    what: &'static str,
    x: &Tensor,
    t: usize,
    width: usize,
) -> Result<u64> {
    x.expect_dtype(op, what, DType::F32)?;
    x.expect_rows(op, what, t, width)?;
    x.address(op, what)
}

/// Weight, eps and offset of a norm over `width`.
pub(crate) fn norm_at(
    op: &'static str,
    what: &'static str,
    norm: &Norm,
    width: usize,
) -> Result<(u64, f32, f32)> {
    norm.weight.expect_dtype(op, what, DType::F32)?;
    norm.weight.expect_shape(op, what, &[width])?;
    Ok((norm.weight.address(op, what)?, norm.eps, norm.offset))
}

/// A product of `t` rows with `w` into `out`, stored.
fn store(op: &'static str, what: &'static str, t: usize, w: &Weight, out: &Tensor) -> Result<Job> {
    let matrix = w.tiles(op, what)?.matrix;
    let out = rows_at(op, what, out, t, w.rows)?;
    Ok(Job { matrix, format: w.format, out, stride: w.rows, epilogue: Epilogue::Store })
}

/// Refuses a weight of another width.
fn expect_cols(op: &'static str, what: &'static str, w: &Weight, cols: usize) -> Result<()> {
    if w.cols == cols {
        return Ok(());
    }
    Err(OpError::shape(op, what, format!("[{}, {cols}]", w.rows), format!("[{}, {}]", w.rows, w.cols)))
}

impl Cuda {
    /// The ops `linear` and `linear_add`.
    pub(crate) fn linear_op(
        &self,
        op: &'static str,
        t: usize,
        x: &Tensor,
        w: &Weight,
        out: &mut Tensor,
        epilogue: Epilogue,
    ) -> Result<()> {
        let input = Input { x: rows_at(op, "x", x, t, w.cols)?, t, cols: w.cols, norm: None, conv: None };
        let job = Job { epilogue, ..store(op, "out", t, w, out)? };
        if t == 0 {
            return Ok(());
        }
        products(self, input, &[job])
    }

    /// The norm and several projections of the same rows.
    fn projections(
        &self,
        op: &'static str,
        pass: &Pass,
        x: &Tensor,
        norm: &Norm,
        to: &[(&'static str, &Weight, &mut Tensor)],
        conv: Option<[u64; 3]>,
    ) -> Result<()> {
        let (t, cols) = (pass.rows(), norm.weight.width());
        let input = Input {
            x: rows_at(op, "x", x, t, cols)?,
            t,
            cols,
            norm: Some(norm_at(op, "norm", norm, cols)?),
            conv,
        };
        let mut jobs = Vec::with_capacity(JOBS);
        for (what, w, out) in to {
            expect_cols(op, what, w, cols)?;
            jobs.push(store(op, what, t, w, out)?);
        }
        if t == 0 {
            return Ok(());
        }
        products(self, input, &jobs)
    }

    /// The op `gdn_in`.
    pub(crate) fn gdn_in_op(
        &self,
        pass: &Pass,
        x: &Tensor,
        norm: &Norm,
        weights: GdnInputs<'_>,
        conv_state: &mut Tensor,
        out: GdnRowsMut<'_>,
    ) -> Result<()> {
        let to = [
            ("qkv", weights.qkv, &mut *out.qkv),
            ("z", weights.z, out.z),
            ("a", weights.a, out.a),
            ("b", weights.b, out.b),
        ];
        let convolves = (1..=DECODE_ROWS).contains(&pass.rows()) && weights.qkv.format != WeightFormat::F32;
        let conv = match convolves {
            true => gdn::fused_conv(self, pass, weights.conv, weights.qkv.rows, conv_state)?,
            false => None,
        };
        self.projections("gdn_in", pass, x, norm, &to, conv)?;
        if conv.is_some() {
            return Ok(());
        }
        self.gdn_conv(pass, weights.conv, conv_state, out.qkv)
    }

    /// The op `attend_in`.
    pub(crate) fn attend_in_op(
        &self,
        pass: &Pass,
        x: &Tensor,
        norm: &Norm,
        weights: AttentionInputs<'_>,
        out: AttentionRowsMut<'_>,
    ) -> Result<()> {
        let to = [("q", weights.q, out.q), ("k", weights.k, out.k), ("v", weights.v, out.v)];
        self.projections("attend_in", pass, x, norm, &to, None)
    }

    /// The op `ffn_in`.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn ffn_in_op(
        &self,
        pass: &Pass,
        x: &Tensor,
        norm: &Norm,
        gate_up: &Weight,
        h: &mut Tensor,
        both: &mut Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        const OP: &str = "ffn_in";
        let (t, cols) = (pass.rows(), norm.weight.width());
        let input = Input {
            x: rows_at(OP, "x", x, t, cols)?,
            t,
            cols,
            norm: Some(norm_at(OP, "norm", norm, cols)?),
            conv: None,
        };
        expect_cols(OP, "gate_up", gate_up, cols)?;
        let matrix = gate_up.tiles(OP, "gate_up")?.matrix;
        if matrix.paired == 0 {
            self.rms_norm(pass, x, norm, h)?;
            self.linear(t, h, gate_up, both)?;
            return self.swiglu(pass, both, out);
        }
        let inter = gate_up.rows / 2;
        let out = rows_at(OP, "out", out, t, inter)?;
        if t == 0 {
            return Ok(());
        }
        let job = Job { matrix, format: gate_up.format, out, stride: inter, epilogue: Epilogue::Swiglu };
        products(self, input, &[job])
    }
}
