//! Matrix products with packed weights: `linear`, and the projections of a layer with their norm and epilogue in one launch.
//! Up to 16 rows, and more under `exact` in strips of 16, go to linear_decode.cu or linear_ring.cu; the rest to
//! linear_prefill.cu.

use super::gpu::{Args, Launch, bytes_of};
use super::pack::tile_bytes;
use super::variants::{Product, Variant};
use super::weight::Matrix;
use super::{Cuda, DECODE_ROWS, gdn, linear_prefill};
use crate::ops::{AttentionInputs, AttentionRowsMut, GdnInputs, GdnRowsMut, Norm, Pass};
use crate::{DType, OpError, Ops, Result, Tensor, Weight, WeightFormat};

/// Warps of a block; `WARPS` in linear_decode.cuh.
const WARPS: usize = 8;
/// Bytes of a staged tile of one row with its `RowTile`; activation.cuh.
const STAGED_ROW: usize = 256 + 8;
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

/// Names of the kernels of a format: up to 4, 8, 16 rows, rows whose columns do not fit into shared memory, and up to 4
/// rows with more of the weights under way in each of fewer blocks.
macro_rules! kernels {
    ($format:literal) => {
        [
            concat!("linear_", $format, "_decode_4"),
            concat!("linear_", $format, "_decode_8"),
            concat!("linear_", $format, "_decode_16"),
            concat!("linear_", $format, "_decode_wide"),
            concat!("linear_", $format, "_decode_deep"),
        ]
    };
}

/// The kernels that convolve what they stored of the first weight, of whatever formats but f32; the last of 16-bit ones.
const CONVOLVING: [&str; 5] = [
    "linear_mixed_conv_4",
    "linear_mixed_conv_8",
    "linear_mixed_conv_16",
    "linear_mixed_conv_wide",
    "linear_mixed_conv_deep",
];

/// True for the formats that take most bytes a tile.
fn wide(job: &Job) -> bool {
    matches!(job.format, WeightFormat::Bf16 | WeightFormat::F16)
}

/// The kernels of a launch, and how many blocks of each their registers let a multiprocessor hold.
fn kernels(jobs: &[Job], convolves: bool) -> ([&'static str; 5], [usize; 5]) {
    if convolves {
        return (CONVOLVING, [3, 2, 2, 2, if jobs.iter().all(wide) { 2 } else { 0 }]);
    }
    let first = jobs[0].format;
    if jobs.iter().any(|job| job.format != first) {
        return (kernels!("mixed"), [3, 2, 2, 2, 0]);
    }
    match first {
        WeightFormat::F32 => (kernels!("f32"), [3, 3, 2, 2, 2]),
        WeightFormat::F16 => (kernels!("f16"), [4, 3, 2, 2, 2]),
        WeightFormat::Bf16 => (kernels!("bf16"), [4, 3, 2, 2, 2]),
        WeightFormat::Fp8 => (kernels!("fp8"), [4, 3, 2, 2, 2]),
        WeightFormat::Nvfp4 => (kernels!("nvfp4"), [3, 3, 2, 2, 2]),
    }
}

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

/// Shared memory of a block with so many groups of four rows and staged tiles per warp, of `t` rows.
fn shared_bytes(groups: usize, slots: usize, t: usize) -> usize {
    2 * WARPS * groups * 256 + WARPS * DECODE_ROWS * 4 + WARPS * slots * t * STAGED_ROW
}

/// Which kernel of a format `t` rows need: its number in [`kernels`], and the staged tiles of a warp.
struct Room {
    size: usize,
    slots: usize,
}

fn room(limit: usize, t: usize, k_tiles: usize) -> Room {
    let size = if t <= 4 {
        0
    } else if t <= 8 {
        1
    } else {
        2
    };
    let slots = k_tiles.div_ceil(WARPS);
    if shared_bytes(1 << size, slots, t) <= limit { Room { size, slots } } else { Room { size: 3, slots: 1 } }
}

/// Bytes of a group of tiles in a ring: `Group::BYTES` in linear_ring.cu; none for f32.
fn group_bytes(format: WeightFormat) -> Option<usize> {
    match format {
        WeightFormat::F32 => None,
        WeightFormat::F16 | WeightFormat::Bf16 => Some(tile_bytes(format)),
        WeightFormat::Fp8 => Some(2 * tile_bytes(format) + 16),
        WeightFormat::Nvfp4 => Some(2 * tile_bytes(format)),
    }
}

/// Most rows of linear_ring.cu.
const RING_ROWS: usize = 4;

/// The rings that a product has room for, each with the bytes of a block, whose other memory is `staged` bytes.
fn rings(limit: usize, jobs: &[Job], staged: usize) -> Vec<(Variant, usize)> {
    let Some(group) = jobs.iter().map(|job| group_bytes(job.format)).collect::<Option<Vec<usize>>>() else {
        return Vec::new();
    };
    let group = group.into_iter().max().unwrap_or(0);
    let bytes = |variant: &Variant| match *variant {
        Variant::Registers => None,
        Variant::Ring { groups, blocks } => {
            let bytes = staged + WARPS * groups as usize * group;
            // The device keeps 1 KiB of each block's for itself, beyond what one block may have.
            (blocks as usize * (bytes + 1024) <= limit + 1024).then_some((*variant, bytes))
        }
    };
    Variant::RINGS.iter().filter_map(bytes).collect()
}

/// Products of at most 16 rows. All weights are `input.cols` wide.
fn decode(cuda: &Cuda, input: Input, jobs: &[Job]) -> Result<()> {
    // No kernel reads f32 and another format. What is convolved is the first weight's, which is of no f32 then.
    let (full, rest): (Vec<Job>, Vec<Job>) = jobs.iter().partition(|job| job.format == WeightFormat::F32);
    if !full.is_empty() && !rest.is_empty() {
        decode(cuda, Input { conv: None, ..input }, &full)?;
        return decode(cuda, input, &rest);
    }
    let (names, held) = kernels(jobs, input.conv.is_some());
    let limit = cuda.properties().shared as usize;
    let Room { size, slots } = room(limit, input.t, jobs[0].matrix.k_tiles as usize);
    // Few row tiles leave most of the device without a block, and 16-bit weights are the most bytes a tile: those blocks
    // ask for more at once.
    let tiles: usize = jobs.iter().map(|job| job.matrix.row_tiles as usize).sum();
    let multiprocessors = cuda.properties().multiprocessors as usize;
    let deep = tiles <= 2 * multiprocessors || jobs.iter().all(wide);
    // Several formats in one launch have no such kernel, unless all are of 16 bits and convolved.
    let deep = deep && held[4] > 0;
    let size = if size == 0 && deep { 4 } else { size };
    let shared = shared_bytes([1, 2, 4, 4, 1][size], slots, input.t);
    // Beyond what a multiprocessor holds at once, a block would stage x again instead of going on to its next unit.
    let (mut kernel, mut shared, mut ring) = (names[size], shared, 0);
    let mut held = held[size].min(limit / shared).max(1);
    if input.t <= RING_ROWS && size != 3 {
        let rings = rings(limit, jobs, shared_bytes(1, slots, input.t));
        let product = Product {
            weights: jobs.iter().map(|job| (job.format, job.matrix.row_tiles)).collect(),
            k_tiles: jobs[0].matrix.k_tiles,
            several: input.t > 1,
            convolves: input.conv.is_some(),
        };
        let variant = cuda.variants.of(product, rings.iter().map(|(variant, _)| *variant).collect());
        if let Variant::Ring { groups, blocks } = variant {
            let bytes = rings.iter().find(|(ring, _)| *ring == variant).map_or(shared, |(_, bytes)| *bytes);
            (held, shared, ring) = (blocks as usize, bytes, groups);
            kernel = if input.conv.is_some() { "linear_ring_conv" } else { "linear_ring" };
        }
    }
    let blocks = deal(jobs, held * multiprocessors);
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
