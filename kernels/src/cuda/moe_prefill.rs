//! The experts' products for many rows: pairs sorted by expert on the device, then tensor-core products group by group
//! (moe_prefill.cu, moe_fp4.cu). Rounding rows to NVFP4 is opt-in; what it computes is defined by `fp4.rs`.

use super::Cuda;
use super::fp4::{self, Rounded, Source};
use super::gpu::{Args, Launch, bytes_of};
use super::moe::{Layer, dim};
use crate::ops::Experts;
use crate::{Result, Weight, WeightFormat};

/// Pairs of one item of work; `GROUP` of moe_prefill.cuh.
const GROUP: usize = 64;
/// Pairs that one block counts.
const GROUP_CHUNK: usize = 2048;
/// Most bytes of results per pair that `down` keeps before it adds them up: with more rows it goes in several strips,
/// which read the experts' weights once each.
const MOST_RESULTS: usize = 1 << 28;
/// Warps of a block of the product.
const PRODUCT_WARPS: usize = 8;

/// `struct MoeGroup` of moe_prefill.cuh.
#[repr(C)]
#[derive(Clone, Copy)]
struct GroupArgs {
    ids: u64,
    places: u64,
    list: u64,
    items: u64,
    item_count: u64,
    arrived: u64,
    pairs: u32,
    experts: u32,
}

/// `struct MoeRound`.
#[repr(C)]
#[derive(Clone, Copy)]
struct RoundArgs {
    x: u64,
    ids: u64,
    table: u64,
    out: u64,
    undo: u64,
    rows: u32,
    stride: u32,
    cols: u32,
    out_stride: u32,
    experts: u32,
    bfloat: u32,
}

/// `struct MoeProduct`, and `struct MoeFp4` of moe_fp4.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct ProductArgs {
    table: u64,
    list: u64,
    items: u64,
    item_count: u64,
    x: u64,
    undo: u64,
    out: u64,
    divide: u32,
    x_stride: u32,
    out_stride: u32,
    only: u32,
}

/// `struct MoeCombine`.
#[repr(C)]
#[derive(Clone, Copy)]
struct CombineArgs {
    each: u64,
    ids: u64,
    weights: u64,
    out: u64,
    slots: u32,
    hidden: u32,
    experts: u32,
    zero: u32,
}

// SAFETY: repr(C); 8-byte fields stand before an even number of 4-byte ones, which leaves no padding.
unsafe impl Args for GroupArgs {}
// SAFETY: as above.
unsafe impl Args for RoundArgs {}
// SAFETY: as above.
unsafe impl Args for ProductArgs {}
// SAFETY: as above.
unsafe impl Args for CombineArgs {}
const _: () = assert!(size_of::<GroupArgs>() == 56);
const _: () = assert!(size_of::<RoundArgs>() == 64);
const _: () = assert!(size_of::<ProductArgs>() == 72);
const _: () = assert!(size_of::<CombineArgs>() == 48);

/// A format's kernels: its number in tile.cuh, and the row tiles that one warp multiplies.
struct Kernel {
    format: WeightFormat,
    number: u32,
    row_tiles: usize,
    gate_up: &'static str,
    down: &'static str,
}

const KERNELS: [Kernel; 5] = [
    Kernel {
        format: WeightFormat::F32,
        number: 0,
        row_tiles: 1,
        gate_up: "moe_prefill_gate_up_f32",
        down: "moe_prefill_down_f32",
    },
    Kernel {
        format: WeightFormat::F16,
        number: 1,
        row_tiles: 1,
        gate_up: "moe_prefill_gate_up_f16",
        down: "moe_prefill_down_f16",
    },
    Kernel {
        format: WeightFormat::Bf16,
        number: 2,
        row_tiles: 1,
        gate_up: "moe_prefill_gate_up_bf16",
        down: "moe_prefill_down_bf16",
    },
    Kernel {
        format: WeightFormat::Fp8,
        number: 3,
        row_tiles: 1,
        gate_up: "moe_prefill_gate_up_fp8",
        down: "moe_prefill_down_fp8",
    },
    Kernel {
        format: WeightFormat::Nvfp4,
        number: 4,
        row_tiles: 2,
        gate_up: "moe_prefill_gate_up_nvfp4",
        down: "moe_prefill_down_nvfp4",
    },
];

/// The kernels of NVFP4 for rows rounded to NVFP4.
const FP4: Kernel = Kernel {
    format: WeightFormat::Nvfp4,
    number: 4,
    row_tiles: 2,
    gate_up: "moe_fp4_gate_up",
    down: "moe_fp4_down",
};

/// True for formats whose products are of bf16.
fn bfloat(format: WeightFormat) -> bool {
    matches!(format, WeightFormat::F32 | WeightFormat::Bf16)
}

/// The kernels of the formats among the weights, and which of them take rows rounded to NVFP4.
fn kernels_of(cuda: &Cuda, weights: &[Weight]) -> impl Iterator<Item = (&'static Kernel, bool)> {
    let of_format = KERNELS.iter().filter(|kernel| weights.iter().any(|w| w.format == kernel.format));
    of_format.map(|kernel| if fp4::wanted(cuda, kernel.format) { (&FP4, true) } else { (kernel, false) })
}

fn launch<A: Args>(
    cuda: &Cuda,
    kernel: &'static str,
    grid: [usize; 2],
    shared: usize,
    args: &A,
) -> Result<()> {
    let grid = [grid[0] as u32, grid[1] as u32, 1];
    cuda.gpu.launch(&Launch { kernel, grid, block: 256, shared: shared as u32, pdl: true }, bytes_of(args))
}

/// Pairs sorted by expert, as the product reads them.
struct Groups {
    /// Pairs, those of an expert together.
    list: u64,
    /// Stretches of one expert's pairs.
    items: u64,
    /// How many.
    item_count: u64,
    /// Upper bound of the number of items, which only the device knows.
    most: usize,
}

impl Groups {
    /// What a kernel multiplies the pairs' rows with; see `struct MoeProduct`.
    fn product(
        &self,
        kernel: &Kernel,
        table: u64,
        x: Rounded,
        out: u64,
        divide: u32,
        out_stride: u32,
    ) -> ProductArgs {
        ProductArgs {
            table,
            list: self.list,
            items: self.items,
            item_count: self.item_count,
            x: x.x,
            undo: x.undo,
            out,
            divide,
            x_stride: x.stride,
            out_stride,
            only: kernel.number,
        }
    }
}

/// Sorts the pairs of `t` rows.
fn group(cuda: &Cuda, op: &'static str, t: usize, layer: &Layer) -> Result<Groups> {
    let (pairs, experts) = (t * layer.slots as usize, layer.experts as usize);
    let chunks = pairs.div_ceil(GROUP_CHUNK);
    // An expert's last item may be short: at most one each.
    let most = pairs / GROUP + experts.min(pairs);
    if experts * 4 > cuda.properties().shared as usize / 2 {
        return Err(cuda.unsupported(op, format!("{experts} experts")));
    }
    let counters = cuda.working("moe group counters", 8)?;
    let args = GroupArgs {
        ids: layer.ids,
        places: cuda.working("moe places", chunks * experts * 4)?,
        list: cuda.working("moe list", pairs * 4)?,
        items: cuda.working("moe items", most * 16)?,
        item_count: counters + 4,
        arrived: counters,
        pairs: dim(op, "rows", pairs)?,
        experts: layer.experts,
    };
    launch(cuda, "moe_count", [chunks, 1], experts * 4, &args)?;
    launch(cuda, "moe_list", [chunks, 1], experts * 4, &args)?;
    Ok(Groups { list: args.list, items: args.items, item_count: args.item_count, most })
}

/// The op `moe_gate_up`, prefill.
pub(super) fn gate_up(
    cuda: &Cuda,
    t: usize,
    x: u64,
    layer: &Layer,
    experts: &Experts,
    act: u64,
) -> Result<()> {
    const OP: &str = "moe_gate_up";
    let groups = group(cuda, OP, t, layer)?;
    let mut rounded = [None; 2];
    for (kernel, narrow) in kernels_of(cuda, &experts.gate_up) {
        let x = if narrow {
            let (rows, cols) = (dim(OP, "rows", t)?, layer.hidden);
            let source = Source { x, rows, stride: cols, cols, norm: None, experts: None };
            fp4::round(cuda, "moe nvfp4 rows", t, &source)?
        } else {
            let wide = bfloat(kernel.format);
            match rounded[usize::from(wide)] {
                Some(known) => known,
                None => *rounded[usize::from(wide)].insert(round_rows(cuda, t, x, layer, wide)?),
            }
        };
        let args = groups.product(kernel, layer.gate_up, x, act, layer.slots, layer.max_inter);
        let blocks = experts.max_inter.div_ceil(8 * kernel.row_tiles * PRODUCT_WARPS);
        launch(cuda, kernel.gate_up, [blocks, groups.most], 0, &args)?;
    }
    Ok(())
}

/// The op `moe_down`, prefill.
pub(super) fn down(
    cuda: &Cuda,
    t: usize,
    act: u64,
    layer: &Layer,
    experts: &Experts,
    weights: u64,
    out: u64,
) -> Result<()> {
    let (slots, hidden, max) = (layer.slots as usize, layer.hidden as usize, layer.max_inter as usize);
    let most = (MOST_RESULTS / (slots * hidden * 4)).max(1);
    let strips = t.div_ceil(most);
    let rows = t.div_ceil(strips);
    // Strips of fewer rows can be longer ones: so that a long pass asks for no less than a shorter one does.
    let room = most.min(t);
    for first in (0..t).step_by(rows) {
        let at = |base: u64, width: usize| base + (first * width * 4) as u64;
        let layer = Layer { ids: at(layer.ids, slots), ..*layer };
        let (act, weights, out) = (at(act, slots * max), at(weights, slots), at(out, hidden));
        down_strip(cuda, rows.min(t - first), room, act, &layer, experts, weights, out)?;
    }
    Ok(())
}

/// One strip of `t` rows; working memory is taken for `room`.
#[allow(clippy::too_many_arguments)]
fn down_strip(
    cuda: &Cuda,
    t: usize,
    room: usize,
    act: u64,
    layer: &Layer,
    experts: &Experts,
    weights: u64,
    out: u64,
) -> Result<()> {
    const OP: &str = "moe_down";
    let groups = group(cuda, OP, t, layer)?;
    let (slots, hidden) = (layer.slots as usize, layer.hidden as usize);
    let (pairs, room) = (t * slots, room * slots);
    let each = cuda.working("moe results", room * hidden * 4)?;
    let mut rounded = None;
    for (kernel, narrow) in kernels_of(cuda, &experts.down) {
        let x = if narrow {
            let (rows, cols) = (dim(OP, "rows", pairs)?, layer.max_inter);
            let experts = Some((layer.ids, layer.down, layer.experts));
            let source = Source { x: act, rows, stride: cols, cols, norm: None, experts };
            fp4::round(cuda, "moe nvfp4 act", room, &source)?
        } else {
            match rounded {
                Some(known) => known,
                None => *rounded.insert(round_act(cuda, pairs, room, act, layer)?),
            }
        };
        let args = groups.product(kernel, layer.down, x, each, 1, layer.hidden);
        let blocks = hidden.div_ceil(16 * kernel.row_tiles * PRODUCT_WARPS);
        launch(cuda, kernel.down, [blocks, groups.most], 0, &args)?;
    }
    let args = CombineArgs {
        each,
        ids: layer.ids,
        weights,
        out,
        slots: layer.slots,
        hidden: layer.hidden,
        experts: layer.experts,
        zero: 0,
    };
    launch(cuda, "moe_combine", [t, hidden.div_ceil(4 * 256)], 0, &args)
}

/// Rounds the rows to 16 bits.
fn round_rows(cuda: &Cuda, t: usize, x: u64, layer: &Layer, bfloat: bool) -> Result<Rounded> {
    const OP: &str = "moe_gate_up";
    let width = (layer.hidden as usize).next_multiple_of(64);
    let name = if bfloat { ["moe bf16 rows", "moe bf16 undo"] } else { ["moe f16 rows", "moe f16 undo"] };
    let args = RoundArgs {
        x,
        ids: 0,
        table: 0,
        out: cuda.working(name[0], t * width * 2)?,
        undo: cuda.working(name[1], t * 4)?,
        rows: dim(OP, "rows", t)?,
        stride: layer.hidden,
        cols: layer.hidden,
        out_stride: dim(OP, "hidden", width)?,
        experts: layer.experts,
        bfloat: u32::from(bfloat),
    };
    launch(cuda, "moe_round", [t.div_ceil(8), 1], 0, &args)?;
    Ok(Rounded { x: args.out, undo: args.undo, stride: args.out_stride })
}

/// Rounds each pair's `act` to 16 bits, of the type that its expert's products are of; working memory is taken for `room`.
fn round_act(cuda: &Cuda, pairs: usize, room: usize, act: u64, layer: &Layer) -> Result<Rounded> {
    const OP: &str = "moe_down";
    let width = (layer.max_inter as usize).next_multiple_of(64);
    let args = RoundArgs {
        x: act,
        ids: layer.ids,
        table: layer.down,
        out: cuda.working("moe rounded act", room * width * 2)?,
        undo: cuda.working("moe act undo", room * 4)?,
        rows: dim(OP, "rows", pairs)?,
        stride: layer.max_inter,
        cols: 0,
        out_stride: dim(OP, "max_inter", width)?,
        experts: layer.experts,
        bfloat: 0,
    };
    launch(cuda, "moe_round", [pairs.div_ceil(8), 1], 0, &args)?;
    Ok(Rounded { x: args.out, undo: args.undo, stride: args.out_stride })
}
