//! The experts' products for many rows on FP4 tensor cores (moe_fp4.cu), for experts of NVFP4: rows are rounded to NVFP4, the
//! groups are those of `moe_prefill.rs`. Opt-in; what it computes is defined by `fp4.rs`.

use super::Cuda;
use super::fp4::{self, Rounded, Source};
use super::gpu::Args;
use super::moe::{Layer, dim};
use super::moe_prefill::{Groups, PRODUCT_WARPS, launch};
use crate::{Result, WeightFormat};

/// Row tiles of a warp; `ROW_TILES` in moe_fp4.cu.
const ROW_TILES: usize = 2;

/// `struct MoeFp4` in moe_fp4.cu.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct ProductArgs {
    table: u64,
    list: u64,
    items: u64,
    item_count: u64,
    x: u64,
    undo: u64,
    out: u64,
    divide: u32,
    x_groups: u32,
    out_stride: u32,
    unused: u32,
}

// SAFETY: repr(C); seven u64 then four u32 leave no padding.
unsafe impl Args for ProductArgs {}
const _: () = assert!(size_of::<ProductArgs>() == 72);

/// True if the experts of this format are to be computed here.
pub(super) fn wanted(cuda: &Cuda, format: WeightFormat) -> bool {
    cuda.fp4() && format == WeightFormat::Nvfp4
}

/// act of the pairs whose expert is of NVFP4; `x` f32 `[t, hidden]`.
pub(super) fn gate_up(cuda: &Cuda, t: usize, x: u64, layer: &Layer, groups: &Groups, act: u64) -> Result<()> {
    let (rows, cols) = (dim("moe_gate_up", "rows", t)?, layer.hidden);
    let source = Source { x, rows, stride: cols, cols, norm: None, experts: None };
    let rounded = fp4::round(cuda, "moe nvfp4 rows", t, &source)?;
    let args = product(layer.gate_up, groups, &rounded, act, layer.slots, layer.max_inter);
    let blocks = (layer.max_inter as usize).div_ceil(8 * ROW_TILES * PRODUCT_WARPS);
    launch(cuda, "moe_fp4_gate_up", [blocks, groups.most], 0, &args)
}

/// The same pairs' results, before they are added up; `act` f32 `[pairs, max_inter]`, `each` `[pairs, hidden]`. Working memory
/// is taken for `room` pairs.
pub(super) fn down(
    cuda: &Cuda,
    pairs: usize,
    room: usize,
    act: u64,
    layer: &Layer,
    groups: &Groups,
    each: u64,
) -> Result<()> {
    let (rows, cols) = (dim("moe_down", "rows", pairs)?, layer.max_inter);
    let experts = Some((layer.ids, layer.down, layer.experts));
    let source = Source { x: act, rows, stride: cols, cols, norm: None, experts };
    let rounded = fp4::round(cuda, "moe nvfp4 act", room, &source)?;
    let args = product(layer.down, groups, &rounded, each, 1, layer.hidden);
    let blocks = (layer.hidden as usize).div_ceil(16 * ROW_TILES * PRODUCT_WARPS);
    launch(cuda, "moe_fp4_down", [blocks, groups.most], 0, &args)
}

fn product(table: u64, groups: &Groups, x: &Rounded, out: u64, divide: u32, out_stride: u32) -> ProductArgs {
    ProductArgs {
        table,
        list: groups.list,
        items: groups.items,
        item_count: groups.item_count,
        x: x.x,
        undo: x.undo,
        out,
        divide,
        x_groups: x.groups,
        out_stride,
        unused: 0,
    }
}
