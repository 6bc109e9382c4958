//! The mixture of experts: routing, and decode's products straight from the route. Prefill's are in `moe_prefill.rs`.

use super::gpu::{Args, Launch, bytes_of};
use super::memory::DeviceBuffer;
use super::weight::Matrix;
use super::{Cuda, DECODE_ROWS, moe_prefill};
use crate::ops::{Experts, Norm, Pass, Route, RouterInputs};
use crate::tensor::Buffer;
use crate::{DType, OpError, Result, Tensor, Weight, WeightFormat};

/// Rows of a strip of the router.
const STRIP: usize = 16;
/// Warps of a block of `moe_route`, each with a tile of the columns.
const ROUTE_WARPS: usize = 8;
/// Most experts of a row that `moe_route` can choose: one lane each.
const MOST_CHOSEN: usize = 32;
/// Blocks of `moe_route` that are enough to fill a device.
const ROUTE_BLOCKS: usize = 256;
/// Warps of a block of `moe_gate_up`.
const GATE_UP_WARPS: usize = 4;
/// Rows that share an expert's weights in a block of `moe_gate_up`.
const COMPANY: usize = 4;
/// Most warps of a block of `moe_down`.
const DOWN_WARPS: usize = 10;
/// Most experts of a row, the shared one included, that `moe_down` can add up.
const MOST_SLOTS: usize = 33;

/// `struct MoeRoute` of moe_route.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct RouteArgs {
    router: Matrix,
    gate: Matrix,
    x: u64,
    norm: u64,
    h: u64,
    ids: u64,
    weights: u64,
    logits: u64,
    arrived: u64,
    eps: f32,
    offset: f32,
    t: u32,
    hidden: u32,
    experts: u32,
    top_k: u32,
    slots: u32,
    normalise: u32,
    splits: u32,
    stride: u32,
}

/// `struct MoeGateUp` of moe_decode.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct GateUpArgs {
    table: u64,
    x: u64,
    ids: u64,
    act: u64,
    pairs: u32,
    slots: u32,
    hidden: u32,
    max_inter: u32,
    experts: u32,
    company: u32,
}

/// `struct MoeDown` of moe_decode.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct DownArgs {
    table: u64,
    act: u64,
    ids: u64,
    weights: u64,
    out: u64,
    slots: u32,
    hidden: u32,
    max_inter: u32,
    experts: u32,
}

// SAFETY: repr(C); 8-byte fields stand before an even number of 4-byte ones, which leaves no padding.
unsafe impl Args for RouteArgs {}
// SAFETY: as above.
unsafe impl Args for GateUpArgs {}
// SAFETY: as above.
unsafe impl Args for DownArgs {}
const _: () = assert!(size_of::<RouteArgs>() == 192);
const _: () = assert!(size_of::<GateUpArgs>() == 56);
const _: () = assert!(size_of::<DownArgs>() == 56);

/// A dimension as kernels take it.
pub(super) fn dim(op: &'static str, what: &'static str, n: usize) -> Result<u32> {
    u32::try_from(n).map_err(|_| OpError::shape(op, what, "below 2^32", n))
}

/// The address of an f32 `[>= t, width]` tensor.
pub(super) fn floats(
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

fn expect_weight(
    op: &'static str,
    what: &'static str,
    w: &Weight,
    rows: usize,
    cols: usize,
) -> Result<Matrix> {
    if w.rows != rows || w.cols != cols {
        let found = format!("[{}, {}]", w.rows, w.cols);
        return Err(OpError::shape(op, what, format!("[{rows}, {cols}]"), found));
    }
    Ok(w.tiles(op, what)?.matrix)
}

/// The op `experts`.
pub(crate) fn experts(
    cuda: &Cuda,
    gate_up: Vec<Weight>,
    down: Vec<Weight>,
    max_inter: usize,
) -> Result<Experts> {
    const OP: &str = "experts";
    if gate_up.len() != down.len() {
        return Err(OpError::shape(OP, "down experts", gate_up.len(), down.len()));
    }
    let mut table = Vec::with_capacity(2 * down.len() * size_of::<Matrix>());
    for weight in &gate_up {
        let matrix = weight.tiles(OP, "expert")?.matrix;
        if matrix.paired == 0 {
            return Err(OpError::shape(OP, "expert", "gate and up packed by pack_gate_up", "packed by pack"));
        }
        table.extend_from_slice(bytes_of(&matrix));
    }
    for weight in &down {
        table.extend_from_slice(bytes_of(&weight.tiles(OP, "expert")?.matrix));
    }
    let buffer = Buffer::Device(DeviceBuffer::from_host(&cuda.gpu, &table)?);
    let shape = vec![2 * down.len(), size_of::<Matrix>()];
    let table = Some(Tensor { dtype: DType::U8, shape, buffer });
    Ok(Experts { gate_up, down, max_inter, table })
}

/// What both products of the experts ask of their arguments.
pub(super) struct Layer {
    /// Address of the gate/up matrices.
    pub gate_up: u64,
    /// Address of the down matrices.
    pub down: u64,
    /// Address of the ids.
    pub ids: u64,
    /// Routed experts and the shared one.
    pub experts: u32,
    /// Largest intermediate width.
    pub max_inter: u32,
    /// Width of a row.
    pub hidden: u32,
    /// Experts of a row.
    pub slots: u32,
}

impl Layer {
    /// Refuses a route or experts that do not fit rows of `hidden` numbers.
    fn new(op: &'static str, t: usize, hidden: usize, route: &Route, experts: &Experts) -> Result<Layer> {
        let (count, slots, max) = (experts.down.len(), route.slots, experts.max_inter);
        route.ids.expect_dtype(op, "route ids", DType::U32)?;
        route.ids.expect_rows(op, "route ids", t, slots)?;
        if slots == 0 || slots > MOST_SLOTS {
            return Err(OpError::shape(op, "experts per row", format!("1 to {MOST_SLOTS}"), slots));
        }
        if experts.gate_up.len() != count {
            return Err(OpError::shape(op, "down experts", experts.gate_up.len(), count));
        }
        for (gate_up, down) in experts.gate_up.iter().zip(&experts.down) {
            if !gate_up.rows.is_multiple_of(2) || gate_up.rows / 2 > max {
                let expected = format!("even, at most {}", 2 * max);
                return Err(OpError::shape(op, "expert rows", expected, gate_up.rows));
            }
            expect_weight(op, "expert", gate_up, gate_up.rows, hidden)?;
            expect_weight(op, "expert", down, hidden, gate_up.rows / 2)?;
        }
        let table = experts.table.as_ref().ok_or_else(|| {
            OpError::shape(op, "experts", "made by this backend's op `experts`", "made by another's")
        })?;
        let gate_up = table.address(op, "experts")?;
        Ok(Layer {
            gate_up,
            down: gate_up + (count * size_of::<Matrix>()) as u64,
            ids: route.ids.address(op, "route ids")?,
            experts: dim(op, "experts", count)?,
            max_inter: dim(op, "max_inter", max)?,
            hidden: dim(op, "hidden", hidden)?,
            slots: dim(op, "experts per row", slots)?,
        })
    }
}

/// The kernel for weights that are all of one format, or for any.
fn kernel_for(weights: &[Weight], [nvfp4, fp8, bf16, f16, any]: [&'static str; 5]) -> &'static str {
    let all = |format| weights.iter().all(|w| w.format == format);
    if all(WeightFormat::Nvfp4) {
        nvfp4
    } else if all(WeightFormat::Fp8) {
        fp8
    } else if all(WeightFormat::Bf16) {
        bf16
    } else if all(WeightFormat::F16) {
        f16
    } else {
        any
    }
}

/// The op `moe_in`: as `moe_route`, of the normed rows, which go to `h`.
pub(crate) fn moe_in(
    cuda: &Cuda,
    pass: &Pass,
    x: &Tensor,
    norm: &Norm,
    weights: RouterInputs<'_>,
    h: &mut Tensor,
    out: &mut Route,
) -> Result<()> {
    const OP: &str = "moe_in";
    let (t, hidden) = (pass.rows(), weights.router.cols);
    norm.weight.expect_dtype(OP, "norm", DType::F32)?;
    norm.weight.expect_shape(OP, "norm", &[hidden])?;
    let h = floats(OP, "h", h, t, hidden)?;
    let norm = (norm.weight.address(OP, "norm")?, h, norm.eps, norm.offset);
    let RouterInputs { router, shared_gate, normalise } = weights;
    launch_route(cuda, OP, pass, x, Some(norm), router, shared_gate, normalise, out)
}

/// The op `moe_route`.
pub(crate) fn route(
    cuda: &Cuda,
    pass: &Pass,
    x: &Tensor,
    router: &Weight,
    shared_gate: Option<&Weight>,
    normalise: bool,
    out: &mut Route,
) -> Result<()> {
    launch_route(cuda, "moe_route", pass, x, None, router, shared_gate, normalise, out)
}

#[allow(clippy::too_many_arguments)]
fn launch_route(
    cuda: &Cuda,
    op: &'static str,
    pass: &Pass,
    x: &Tensor,
    norm: Option<(u64, u64, f32, f32)>,
    router: &Weight,
    shared_gate: Option<&Weight>,
    normalise: bool,
    out: &mut Route,
) -> Result<()> {
    let (t, hidden, experts) = (pass.rows(), router.cols, router.rows);
    let x = floats(op, "x", x, t, hidden)?;
    let matrix = router.tiles(op, "router")?.matrix;
    let gate = shared_gate.map(|gate| expect_weight(op, "shared_gate", gate, 1, hidden)).transpose()?;
    let slots = out.slots;
    let top_k = slots.saturating_sub(usize::from(gate.is_some()));
    if top_k == 0 || top_k > experts {
        return Err(OpError::shape(op, "routed experts per row", format!("1 to {experts}"), top_k));
    }
    if top_k > MOST_CHOSEN {
        return Err(cuda.unsupported(op, format!("{top_k} experts per row (at most {MOST_CHOSEN})")));
    }
    out.ids.expect_dtype(op, "ids", DType::U32)?;
    out.ids.expect_rows(op, "ids", t, slots)?;
    let weights = floats(op, "weights", &out.weights, t, slots)?;
    if t == 0 {
        return Ok(());
    }
    let tiles = matrix.row_tiles as usize + usize::from(gate.is_some());
    let splits = (matrix.k_tiles as usize).div_ceil(ROUTE_WARPS).max(1);
    // A row's parts, and its sum of squares behind them.
    let (strips, stride) = (t.div_ceil(STRIP), 16 * tiles + 1);
    // Staged rows first, then one row of probabilities per warp.
    let shared = (ROUTE_WARPS * t.min(STRIP).div_ceil(2) * 1024).max(ROUTE_WARPS * experts * 4);
    if shared > cuda.properties().shared as usize - 10 * 1024 {
        return Err(cuda.unsupported(op, format!("a router of {experts} experts")));
    }
    let (norm, h, eps, offset) = norm.unwrap_or((0, 0, 0.0, 0.0));
    let args = RouteArgs {
        router: matrix,
        gate: gate.unwrap_or(Matrix { rows: 0, row_tiles: 0, ..matrix }),
        x,
        norm,
        h,
        ids: out.ids.address(op, "ids")?,
        weights,
        logits: cuda.working("moe logits", strips * splits * STRIP * stride * 4)?,
        arrived: cuda.working("moe route arrivals", strips * 4)?,
        eps,
        offset,
        t: dim(op, "rows", t)?,
        hidden: dim(op, "hidden", hidden)?,
        experts: dim(op, "experts", experts)?,
        top_k: top_k as u32,
        slots: slots as u32,
        normalise: u32::from(normalise),
        splits: splits as u32,
        stride: stride as u32,
    };
    // With many strips a block does several row tiles, for which it stages its rows once.
    let share = (ROUTE_BLOCKS / (strips * splits)).clamp(1, tiles);
    let grid = [share as u32, splits as u32, strips as u32];
    let launch = Launch {
        kernel: "moe_route",
        grid,
        block: 32 * ROUTE_WARPS as u32,
        shared: shared as u32,
        pdl: true,
    };
    cuda.gpu.launch(&launch, bytes_of(&args))
}

/// The op `moe_gate_up`.
pub(crate) fn gate_up(
    cuda: &Cuda,
    pass: &Pass,
    x: &Tensor,
    route: &Route,
    experts: &Experts,
    act: &mut Tensor,
) -> Result<()> {
    const OP: &str = "moe_gate_up";
    let (t, slots, hidden, max) = (pass.rows(), route.slots, x.width(), experts.max_inter);
    let x = floats(OP, "x", x, t, hidden)?;
    let act = floats(OP, "act", act, t, slots * max)?;
    let layer = Layer::new(OP, t, hidden, route, experts)?;
    if t == 0 || max == 0 {
        return Ok(());
    }
    if t > DECODE_ROWS && !pass.exact {
        return moe_prefill::gate_up(cuda, t, x, &layer, experts, act);
    }
    let kernel = kernel_for(
        &experts.gate_up,
        ["moe_gate_up_nvfp4", "moe_gate_up_fp8", "moe_gate_up_bf16", "moe_gate_up_f16", "moe_gate_up_any"],
    );
    for first in (0..t).step_by(DECODE_ROWS) {
        let rows = DECODE_ROWS.min(t - first);
        let company = rows.min(COMPANY);
        let args = GateUpArgs {
            table: layer.gate_up,
            x: x + (first * hidden * 4) as u64,
            ids: layer.ids + (first * slots * 4) as u64,
            act: act + (first * slots * max * 4) as u64,
            pairs: (rows * slots) as u32,
            slots: layer.slots,
            hidden: layer.hidden,
            max_inter: layer.max_inter,
            experts: layer.experts,
            company: company as u32,
        };
        let launch = Launch {
            kernel,
            grid: [max.div_ceil(8) as u32, args.pairs, 1],
            block: 32 * GATE_UP_WARPS as u32,
            shared: (GATE_UP_WARPS * window_bytes(company)) as u32,
            pdl: true,
        };
        cuda.gpu.launch(&launch, bytes_of(&args))?;
    }
    Ok(())
}

/// The op `moe_down`.
pub(crate) fn down(
    cuda: &Cuda,
    pass: &Pass,
    act: &Tensor,
    route: &Route,
    experts: &Experts,
    out: &mut Tensor,
) -> Result<()> {
    const OP: &str = "moe_down";
    let (t, slots, hidden, max) = (pass.rows(), route.slots, out.width(), experts.max_inter);
    let act = floats(OP, "act", act, t, slots * max)?;
    let weights = floats(OP, "route weights", &route.weights, t, slots)?;
    let out = floats(OP, "out", out, t, hidden)?;
    let layer = Layer::new(OP, t, hidden, route, experts)?;
    if t == 0 || hidden == 0 {
        return Ok(());
    }
    if t > DECODE_ROWS && !pass.exact {
        return moe_prefill::down(cuda, t, act, &layer, experts, weights, out);
    }
    let kernel = kernel_for(
        &experts.down,
        ["moe_down_nvfp4", "moe_down_fp8", "moe_down_bf16", "moe_down_f16", "moe_down_any"],
    );
    let warps = slots.min(DOWN_WARPS);
    for first in (0..t).step_by(DECODE_ROWS) {
        let rows = DECODE_ROWS.min(t - first);
        let args = DownArgs {
            table: layer.down,
            act: act + (first * slots * max * 4) as u64,
            ids: layer.ids + (first * slots * 4) as u64,
            weights: weights + (first * slots * 4) as u64,
            out: out + (first * hidden * 4) as u64,
            slots: layer.slots,
            hidden: layer.hidden,
            max_inter: layer.max_inter,
            experts: layer.experts,
        };
        let launch = Launch {
            kernel,
            grid: [rows as u32, hidden.div_ceil(16) as u32, 1],
            block: 32 * warps as u32,
            shared: (warps * window_bytes(1)) as u32,
            pdl: true,
        };
        cuda.gpu.launch(&launch, bytes_of(&args))?;
    }
    Ok(())
}

/// Shared memory of a warp that stages eight tiles of up to `rows` rows; `window_bytes` of moe.cuh.
fn window_bytes(rows: usize) -> usize {
    8 * rows * (256 + 8)
}
