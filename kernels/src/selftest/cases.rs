//! The cases of the self-test: each builds its input from a seed, runs one op on the backend it is given, and returns
//! the numbers to compare.

use super::attend::{attend, attend_heads, attend_in, attend_long, heads_of};
use super::random::{Random, pass, poisoned};
use super::{Scale, chosen};
use crate::cuda::Variant;
use crate::ops::{GdnGates, GdnInputs, GdnRows, GdnRowsMut, GdnShape, KvFormat, Pass, Route, RouterInputs};
use crate::{DType, Ops, Result, Tensor, WeightFormat};

/// One comparison to make.
pub(super) struct Case {
    pub op: &'static str,
    pub name: &'static str,
    /// Largest allowed difference, as a fraction of the largest number.
    pub bound: f64,
    pub run: fn(&dyn Ops, Scale, u64) -> Result<Vec<f32>>,
}

/// Decode keeps f32 accuracy: activations are split, weights exact.
const DECODE: f64 = 2e-5;
/// Prefill rounds activations to 16 bits.
const PREFILL: f64 = 5e-3;
/// What only moves or adds f32.
const PLAIN: f64 = 2e-6;
/// Products of rows rounded to NVFP4: the numbers are the same on both sides, but how wide the FP4 tensor cores add up is
/// not documented. A wrong layout or scale is off by a tenth.
const FP4: f64 = 2e-3;
/// The same behind a norm, whose last bit decides how a number near a tie is rounded.
const FP4_NORMED: f64 = 3e-2;

const fn case(
    op: &'static str,
    name: &'static str,
    bound: f64,
    run: fn(&dyn Ops, Scale, u64) -> Result<Vec<f32>>,
) -> Case {
    Case { op, name, bound, run }
}

/// Every case, in the order in which a layer meets them.
pub(super) const CASES: [Case; 45] = [
    case("embed", "bf16", 0.0, |ops, scale, seed| embed(ops, scale, seed, WeightFormat::Bf16)),
    case("embed", "nvfp4", PLAIN, |ops, scale, seed| embed(ops, scale, seed, WeightFormat::Nvfp4)),
    case("rms_norm", "", PLAIN, rms_norm),
    case("gather_rows", "", 0.0, gather),
    case("swiglu", "", PLAIN, swiglu),
    case("mtp_join", "", PLAIN, mtp_join),
    case("linear", "f32, decode", DECODE, |ops, scale, seed| linear(ops, scale, seed, WeightFormat::F32, 3)),
    case("linear", "f16, decode", DECODE, |ops, scale, seed| linear(ops, scale, seed, WeightFormat::F16, 3)),
    case("linear", "bf16, decode", DECODE, |ops, scale, seed| {
        linear(ops, scale, seed, WeightFormat::Bf16, 3)
    }),
    case("linear", "fp8, decode", DECODE, |ops, scale, seed| linear(ops, scale, seed, WeightFormat::Fp8, 3)),
    case("linear", "nvfp4, decode", DECODE, |ops, scale, seed| {
        linear(ops, scale, seed, WeightFormat::Nvfp4, 3)
    }),
    case("linear", "nvfp4, 16 rows", DECODE, |ops, scale, seed| {
        linear(ops, scale, seed, WeightFormat::Nvfp4, 16)
    }),
    case("linear", "bf16, prefill", PREFILL, |ops, scale, seed| {
        linear(ops, scale, seed, WeightFormat::Bf16, 70)
    }),
    case("linear", "fp8, prefill", PREFILL, |ops, scale, seed| {
        linear(ops, scale, seed, WeightFormat::Fp8, 70)
    }),
    case("linear", "nvfp4, prefill", PREFILL, |ops, scale, seed| {
        linear(ops, scale, seed, WeightFormat::Nvfp4, 70)
    }),
    case("linear_add", "nvfp4, decode", DECODE, linear_add),
    case("ffn_in", "nvfp4, decode", DECODE, |ops, scale, seed| ffn_in(ops, scale, seed, 2)),
    case("ffn_in", "nvfp4, prefill", PREFILL, |ops, scale, seed| ffn_in(ops, scale, seed, 40)),
    case("gdn_in", "fp8, decode", DECODE, |ops, scale, seed| gdn_in(ops, scale, seed, 2)),
    case("gdn_in", "bf16, decode", DECODE, |ops, scale, seed| {
        gdn_in_of(ops, &scale.sizes(), seed, WeightFormat::Bf16, 2)
    }),
    case("gdn_in", "fp8, 16 rows", DECODE, |ops, scale, seed| gdn_in(ops, scale, seed, 16)),
    // Too wide to be in shared memory at once, whatever the device.
    case("gdn_in", "fp8, 16 wide rows", DECODE, |ops, scale, seed| {
        let sizes = scale.sizes();
        gdn_in_of(ops, &Sizes { hidden: 2 * sizes.hidden, ..sizes }, seed, WeightFormat::Fp8, 16)
    }),
    case("gdn_in", "fp8, prefill", PREFILL, |ops, scale, seed| gdn_in(ops, scale, seed, 40)),
    case("gdn_step", "decode", DECODE, |ops, scale, seed| gdn_step(ops, scale, seed, 3)),
    case("gdn_step", "prefill", PREFILL, |ops, scale, seed| gdn_step(ops, scale, seed, 130)),
    case("attend_in", "fp8, decode", DECODE, attend_in),
    case("attend_paged", "bf16, decode", 1e-4, |ops, scale, seed| {
        attend(ops, scale, seed, KvFormat::Bf16, 2)
    }),
    case("attend_paged", "f32, decode", 1e-4, |ops, scale, seed| attend(ops, scale, seed, KvFormat::F32, 2)),
    case("attend_paged", "fp8, decode", 1e-2, |ops, scale, seed| attend(ops, scale, seed, KvFormat::Fp8, 2)),
    case("attend_paged", "fp8, decode, long", 1e-2, attend_long),
    case("attend_paged", "nvfp4, decode", 2e-2, |ops, scale, seed| {
        attend(ops, scale, seed, KvFormat::Nvfp4, 2)
    }),
    case("attend_paged", "bf16, prefill", 1e-2, |ops, scale, seed| {
        attend(ops, scale, seed, KvFormat::Bf16, 40)
    }),
    case("attend_paged", "fp8, prefill", 2e-2, |ops, scale, seed| {
        attend(ops, scale, seed, KvFormat::Fp8, 40)
    }),
    case("attend_paged", "bf16, heads of 96", 1e-4, |ops, _, seed| {
        attend_heads(ops, seed, &heads_of(96), KvFormat::Bf16, 2)
    }),
    case("attend_paged", "nvfp4, heads of 208", 2e-2, |ops, _, seed| {
        attend_heads(ops, seed, &heads_of(208), KvFormat::Nvfp4, 2)
    }),
    case("attend_paged", "prefill, heads of 80", 2e-2, |ops, _, seed| {
        attend_heads(ops, seed, &heads_of(80), KvFormat::Fp8, 40)
    }),
    case("moe_in", "bf16, decode", DECODE, |ops, scale, seed| moe_in(ops, scale, seed, 3)),
    case("moe_gate_up", "nvfp4, decode", DECODE, |ops, scale, seed| {
        moe_gate_up(ops, scale, seed, WeightFormat::Nvfp4, 3)
    }),
    case("moe_gate_up", "nvfp4, prefill", PREFILL, |ops, scale, seed| {
        moe_gate_up(ops, scale, seed, WeightFormat::Nvfp4, 40)
    }),
    case("moe_down", "nvfp4, decode", DECODE, |ops, scale, seed| {
        moe_down(ops, scale, seed, WeightFormat::Nvfp4, 3)
    }),
    case("moe_down", "nvfp4, prefill", PREFILL, |ops, scale, seed| {
        moe_down(ops, scale, seed, WeightFormat::Nvfp4, 40)
    }),
    case("moe_down", "fp8, decode", DECODE, |ops, scale, seed| {
        moe_down(ops, scale, seed, WeightFormat::Fp8, 2)
    }),
    case("sample", "", 0.0, chosen::sample),
    case("embed", "tokens chosen there", 0.0, chosen::embed),
    case("follow", "", 0.0, chosen::follow),
];

/// What a device may choose to do otherwise: products that bring their weights by way of shared memory, and attention whose splits
/// are joined by a launch of their own.
pub(super) const OPTIONAL_CASES: [Case; 6] = [
    case("linear", "fp8, by a ring", DECODE, |ops, scale, seed| {
        by_ring(ops, 4, |ops| linear(ops, scale, seed, WeightFormat::Fp8, 3))
    }),
    case("linear", "nvfp4, by a ring", DECODE, |ops, scale, seed| {
        by_ring(ops, 6, |ops| linear(ops, scale, seed, WeightFormat::Nvfp4, 1))
    }),
    case("linear_add", "nvfp4, by a ring", DECODE, |ops, scale, seed| {
        by_ring(ops, 2, |ops| linear_add(ops, scale, seed))
    }),
    case("gdn_in", "fp8, by a ring", DECODE, |ops, scale, seed| {
        by_ring(ops, 4, |ops| gdn_in(ops, scale, seed, 2))
    }),
    case("attend_paged", "fp8, joined apart", 1e-2, |ops, scale, seed| {
        joined_apart(ops, |ops| attend(ops, scale, seed, KvFormat::Fp8, 2))
    }),
    case("attend_paged", "fp8, apart, long", 1e-2, |ops, scale, seed| {
        joined_apart(ops, |ops| attend_long(ops, scale, seed))
    }),
];

/// What `run` gives where attention's splits are joined by a launch of their own; as ever where nothing is split.
fn joined_apart(ops: &dyn Ops, run: impl FnOnce(&dyn Ops) -> Result<Vec<f32>>) -> Result<Vec<f32>> {
    let force = |apart| ops.records().map_or((), |records| records.force_joining(apart));
    force(Some(true));
    let found = run(ops);
    force(None);
    found
}

/// What `run` gives where products bring their weights through rings of so many groups; as ever where there are none.
fn by_ring(ops: &dyn Ops, groups: u32, run: impl FnOnce(&dyn Ops) -> Result<Vec<f32>>) -> Result<Vec<f32>> {
    let force = |variant| ops.records().map_or((), |records| records.force_variant(variant));
    force(Some(Variant::Ring { groups, blocks: 1 }));
    let found = run(ops);
    force(None);
    found
}

/// The products with rows rounded to NVFP4, for devices that have them.
pub(super) const FP4_CASES: [Case; 5] = [
    case("linear", "nvfp4 rows", FP4, |ops, scale, seed| {
        linear_of(ops, scale, seed, WeightFormat::Nvfp4, 70, Random::uneven)
    }),
    case("linear", "nvfp4 rows, 200", FP4, |ops, scale, seed| {
        linear_of(ops, scale, seed, WeightFormat::Nvfp4, 200, Random::uneven)
    }),
    case("ffn_in", "nvfp4 rows", FP4_NORMED, |ops, scale, seed| ffn_in(ops, scale, seed, 40)),
    case("moe_gate_up", "nvfp4 rows", FP4, |ops, scale, seed| {
        moe_gate_up_of(ops, scale, seed, WeightFormat::Nvfp4, 40, Random::uneven)
    }),
    case("moe_down", "nvfp4 rows", FP4, |ops, scale, seed| {
        moe_down_of(ops, scale, seed, WeightFormat::Nvfp4, 40, Random::uneven)
    }),
];

/// Makes the rows of x.
type Rows = fn(&mut Random, &dyn Ops, &[usize]) -> Result<Tensor>;

/// Sizes of the layer that is imitated: those of Qwen3.6-35B-A3B, or as small as the formats allow.
pub(super) struct Sizes {
    pub hidden: usize,
    inter: usize,
    pub heads: usize,
    pub head_dim: usize,
    gdn_heads: usize,
    experts: usize,
    top_k: usize,
    pub vocab: usize,
}

impl Scale {
    pub(super) fn sizes(self) -> Sizes {
        match self {
            Scale::Small => Sizes {
                hidden: 128,
                inter: 48,
                heads: 4,
                head_dim: 64,
                gdn_heads: 2,
                experts: 5,
                top_k: 2,
                vocab: 40,
            },
            Scale::Full => Sizes {
                hidden: 2048,
                inter: 512,
                heads: 16,
                head_dim: 256,
                gdn_heads: 16,
                experts: 64,
                top_k: 8,
                vocab: 4096,
            },
        }
    }
}

pub(super) const PAGE: usize = 64;

fn embed(ops: &dyn Ops, scale: Scale, seed: u64, format: WeightFormat) -> Result<Vec<f32>> {
    let (mut random, s) = (Random::new(seed), scale.sizes());
    let table = random.weight(ops, format, s.vocab, s.hidden, false)?;
    let ids: Vec<u32> = (0..5).map(|_| (random.next() % s.vocab as u64) as u32).collect();
    let mut out = poisoned(ops, &[5, s.hidden])?;
    ops.embed(&table, &ids, &mut out)?;
    ops.read_rows(&out, 0, 5)
}

fn rms_norm(ops: &dyn Ops, scale: Scale, seed: u64) -> Result<Vec<f32>> {
    let (mut random, s) = (Random::new(seed), scale.sizes());
    let (x, norm) = (random.tensor(ops, &[3, s.hidden])?, random.norm(ops, s.hidden, 1.0)?);
    let mut out = poisoned(ops, &[3, s.hidden])?;
    ops.rms_norm(&pass(3, 0, PAGE), &x, &norm, &mut out)?;
    ops.read_rows(&out, 0, 3)
}

fn gather(ops: &dyn Ops, scale: Scale, seed: u64) -> Result<Vec<f32>> {
    let (mut random, s) = (Random::new(seed), scale.sizes());
    let x = random.tensor(ops, &[6, s.hidden])?;
    let mut out = poisoned(ops, &[3, s.hidden])?;
    ops.gather_rows(&x, &[5, 0, 5], &mut out)?;
    ops.read_rows(&out, 0, 3)
}

fn swiglu(ops: &dyn Ops, scale: Scale, seed: u64) -> Result<Vec<f32>> {
    let (mut random, s) = (Random::new(seed), scale.sizes());
    let x = random.tensor(ops, &[3, 2 * s.inter])?;
    let mut out = poisoned(ops, &[3, s.inter])?;
    ops.swiglu(&pass(3, 0, PAGE), &x, &mut out)?;
    ops.read_rows(&out, 0, 3)
}

fn mtp_join(ops: &dyn Ops, scale: Scale, seed: u64) -> Result<Vec<f32>> {
    let (mut random, s) = (Random::new(seed), scale.sizes());
    let (a, b) = (random.tensor(ops, &[2, s.hidden])?, random.tensor(ops, &[2, s.hidden])?);
    let (norm_a, norm_b) = (random.norm(ops, s.hidden, 1.0)?, random.norm(ops, s.hidden, 1.0)?);
    let mut out = poisoned(ops, &[2, 2 * s.hidden])?;
    ops.mtp_join(2, &a, &norm_a, &b, &norm_b, &mut out)?;
    ops.read_rows(&out, 0, 2)
}

fn linear(ops: &dyn Ops, scale: Scale, seed: u64, format: WeightFormat, t: usize) -> Result<Vec<f32>> {
    linear_of(ops, scale, seed, format, t, Random::tensor)
}

fn linear_of(
    ops: &dyn Ops,
    scale: Scale,
    seed: u64,
    format: WeightFormat,
    t: usize,
    x: Rows,
) -> Result<Vec<f32>> {
    let (mut random, s) = (Random::new(seed), scale.sizes());
    // An odd number of rows: the last tile is not full.
    let rows = s.hidden + 24;
    let weight = random.weight(ops, format, rows, s.hidden, false)?;
    let x = x(&mut random, ops, &[t, s.hidden])?;
    let mut out = poisoned(ops, &[t, rows])?;
    ops.linear(t, &x, &weight, &mut out)?;
    ops.read_rows(&out, 0, t)
}

fn linear_add(ops: &dyn Ops, scale: Scale, seed: u64) -> Result<Vec<f32>> {
    let (mut random, s) = (Random::new(seed), scale.sizes());
    let weight = random.weight(ops, WeightFormat::Nvfp4, s.hidden, 2 * s.hidden, false)?;
    let x = random.tensor(ops, &[2, 2 * s.hidden])?;
    let mut out = random.tensor(ops, &[2, s.hidden])?;
    ops.linear_add(2, &x, &weight, &mut out)?;
    ops.read_rows(&out, 0, 2)
}

fn ffn_in(ops: &dyn Ops, scale: Scale, seed: u64, t: usize) -> Result<Vec<f32>> {
    let (mut random, s) = (Random::new(seed), scale.sizes());
    let weight = random.weight(ops, WeightFormat::Nvfp4, 2 * s.inter, s.hidden, true)?;
    let (x, norm) = (random.tensor(ops, &[t, s.hidden])?, random.norm(ops, s.hidden, 1.0)?);
    let (mut h, mut both) = (poisoned(ops, &[t, s.hidden])?, poisoned(ops, &[t, 2 * s.inter])?);
    let mut out = poisoned(ops, &[t, s.inter])?;
    ops.ffn_in(&pass(t, 0, PAGE), &x, &norm, &weight, &mut h, &mut both, &mut out)?;
    ops.read_rows(&out, 0, t)
}

fn gdn_shape(s: &Sizes) -> GdnShape {
    let dim = if s.hidden >= 1024 { 128 } else { 32 };
    GdnShape { k_heads: s.gdn_heads, v_heads: 2 * s.gdn_heads, k_dim: dim, v_dim: dim, conv_width: 4 }
}

fn gdn_in(ops: &dyn Ops, scale: Scale, seed: u64, t: usize) -> Result<Vec<f32>> {
    gdn_in_of(ops, &scale.sizes(), seed, WeightFormat::Fp8, t)
}

/// With q, k, v and the gate in `format`.
fn gdn_in_of(ops: &dyn Ops, s: &Sizes, seed: u64, format: WeightFormat, t: usize) -> Result<Vec<f32>> {
    let mut random = Random::new(seed);
    let shape = gdn_shape(s);
    let (channels, values) = (shape.channels(), shape.v_heads * shape.v_dim);
    let qkv = random.weight(ops, format, channels, s.hidden, false)?;
    let z = random.weight(ops, format, values, s.hidden, false)?;
    let a = random.weight(ops, WeightFormat::Bf16, shape.v_heads, s.hidden, false)?;
    let b = random.weight(ops, WeightFormat::Bf16, shape.v_heads, s.hidden, false)?;
    let conv = random.tensor(ops, &[channels, shape.conv_width])?;
    let (x, norm) = (random.tensor(ops, &[t, s.hidden])?, random.norm(ops, s.hidden, 1.0)?);
    let mut state = random.tensor(ops, &[1, shape.conv_width - 1, channels])?;
    let mut h = poisoned(ops, &[t, s.hidden])?;
    let (mut out_qkv, mut out_z) = (poisoned(ops, &[t, channels])?, poisoned(ops, &[t, values])?);
    let (mut out_a, mut out_b) = (poisoned(ops, &[t, shape.v_heads])?, poisoned(ops, &[t, shape.v_heads])?);
    let weights = GdnInputs { qkv: &qkv, z: &z, a: &a, b: &b, conv: &conv };
    let rows = GdnRowsMut { qkv: &mut out_qkv, z: &mut out_z, a: &mut out_a, b: &mut out_b };
    ops.gdn_in(&pass(t, 7, PAGE), &x, &norm, weights, &mut state, &mut h, rows)?;
    let mut all = ops.read_rows(&out_qkv, 0, t)?;
    for (out, rows) in [(&out_z, t), (&out_a, t), (&out_b, t), (&state, shape.conv_width - 1)] {
        all.extend(ops.read_rows(out, 0, rows)?);
    }
    Ok(all)
}

fn gdn_step(ops: &dyn Ops, scale: Scale, seed: u64, t: usize) -> Result<Vec<f32>> {
    let (mut random, s) = (Random::new(seed), scale.sizes());
    let shape = gdn_shape(&s);
    let values = shape.v_heads * shape.v_dim;
    let qkv = random.tensor(ops, &[t, shape.channels()])?;
    let (z, a) = (random.tensor(ops, &[t, values])?, random.tensor(ops, &[t, shape.v_heads])?);
    let b = random.tensor(ops, &[t, shape.v_heads])?;
    let gates = GdnGates {
        a_log: random.tensor(ops, &[shape.v_heads])?,
        dt_bias: random.tensor(ops, &[shape.v_heads])?,
        out_norm: random.norm(ops, shape.v_dim, 0.0)?,
    };
    let mut state = random.tensor(ops, &[1, shape.v_heads, shape.k_dim, shape.v_dim])?;
    let mut out = poisoned(ops, &[t, values])?;
    let rows = GdnRows { qkv: &qkv, z: &z, a: &a, b: &b };
    ops.gdn_step(&pass(t, 9, PAGE), &shape, rows, &gates, &mut state, &mut out)?;
    let mut all = ops.read_rows(&out, 0, t)?;
    all.extend(ops.read_rows(&state, 0, shape.v_heads * shape.k_dim)?);
    Ok(all)
}

fn moe_in(ops: &dyn Ops, scale: Scale, seed: u64, t: usize) -> Result<Vec<f32>> {
    let (mut random, s) = (Random::new(seed), scale.sizes());
    let router = random.weight(ops, WeightFormat::Bf16, s.experts, s.hidden, false)?;
    let gate = random.weight(ops, WeightFormat::Bf16, 1, s.hidden, false)?;
    let (x, norm) = (random.tensor(ops, &[t, s.hidden])?, random.norm(ops, s.hidden, 1.0)?);
    let mut h = poisoned(ops, &[t, s.hidden])?;
    let slots = s.top_k + 1;
    let mut route =
        Route { ids: ops.zeros(DType::U32, &[t, slots])?, weights: poisoned(ops, &[t, slots])?, slots };
    let weights = RouterInputs { router: &router, shared_gate: Some(&gate), normalise: true };
    ops.moe_in(&pass(t, 0, PAGE), &x, &norm, weights, &mut h, &mut route)?;
    // The weights tell the experts apart: sorted by size, they change where an id does.
    let mut all = ops.read_rows(&h, 0, t)?;
    all.extend(ops.read_rows(&route.weights, 0, t)?);
    all.extend(ops.read_ids(&route.ids, 0, t)?.iter().map(|id| *id as f32));
    Ok(all)
}

/// `t` rows that use experts by turns, and what the experts need.
struct Mixture {
    pass: Pass,
    route: Route,
    experts: crate::ops::Experts,
    slots: usize,
}

fn mixture(ops: &dyn Ops, s: &Sizes, random: &mut Random, format: WeightFormat, t: usize) -> Result<Mixture> {
    let slots = s.top_k + 1;
    let (mut gate_up, mut down) = (Vec::new(), Vec::new());
    for _ in 0..=s.experts {
        gate_up.push(random.weight(ops, format, 2 * s.inter, s.hidden, true)?);
        down.push(random.weight(ops, format, s.hidden, s.inter, false)?);
    }
    let ids: Vec<u8> = (0..t)
        .flat_map(|i| (0..slots).map(move |slot| (i, slot)))
        .map(|(i, slot)| if slot == s.top_k { s.experts } else { (i * 3 + slot) % s.experts } as u32)
        .flat_map(u32::to_le_bytes)
        .collect();
    let route = Route {
        ids: ops.upload(DType::U32, &ids, DType::U32, &[t, slots])?,
        weights: random.tensor(ops, &[t, slots])?,
        slots,
    };
    Ok(Mixture { pass: pass(t, 0, PAGE), route, experts: ops.experts(gate_up, down, s.inter)?, slots })
}

fn moe_gate_up(ops: &dyn Ops, scale: Scale, seed: u64, format: WeightFormat, t: usize) -> Result<Vec<f32>> {
    moe_gate_up_of(ops, scale, seed, format, t, Random::tensor)
}

fn moe_gate_up_of(
    ops: &dyn Ops,
    scale: Scale,
    seed: u64,
    format: WeightFormat,
    t: usize,
    x: Rows,
) -> Result<Vec<f32>> {
    let (mut random, s) = (Random::new(seed), scale.sizes());
    let m = mixture(ops, &s, &mut random, format, t)?;
    let x = x(&mut random, ops, &[t, s.hidden])?;
    let mut act: Tensor = poisoned(ops, &[t, m.slots * s.inter])?;
    ops.moe_gate_up(&m.pass, &x, &m.route, &m.experts, &mut act)?;
    ops.read_rows(&act, 0, t)
}

fn moe_down(ops: &dyn Ops, scale: Scale, seed: u64, format: WeightFormat, t: usize) -> Result<Vec<f32>> {
    moe_down_of(ops, scale, seed, format, t, Random::tensor)
}

fn moe_down_of(
    ops: &dyn Ops,
    scale: Scale,
    seed: u64,
    format: WeightFormat,
    t: usize,
    x: Rows,
) -> Result<Vec<f32>> {
    let (mut random, s) = (Random::new(seed), scale.sizes());
    let m = mixture(ops, &s, &mut random, format, t)?;
    let act = x(&mut random, ops, &[t, m.slots * s.inter])?;
    let mut out = random.tensor(ops, &[t, s.hidden])?;
    ops.moe_down(&m.pass, &act, &m.route, &m.experts, &mut out)?;
    ops.read_rows(&out, 0, t)
}
