//! Mixture of experts: routing, and the experts' products with rows grouped by expert, so that an expert's weights are
//! decoded once per tile of rows however the rows lie.

use super::Cpu;
use super::linear::{Job, Rows, expect_weight};
use super::math::sigmoid;
use super::moe_row::{self, Used};
use super::simd::Simd;
use crate::ops::{Experts, Pass, Route};
use crate::{DType, OpError, Result, Tensor, Weight};

/// The op `moe_route`.
pub(crate) fn route(
    cpu: &Cpu,
    pass: &Pass,
    x: &Tensor,
    router: &Weight,
    shared_gate: Option<&Weight>,
    normalise: bool,
    route: &mut Route,
) -> Result<()> {
    const OP: &str = "moe_route";
    let (t, hidden, experts) = (pass.rows(), router.cols, router.rows);
    let x = x.rows_f32(OP, "x", t, hidden)?;
    if let Some(gate) = shared_gate {
        expect_weight(OP, "shared_gate", gate, 1, hidden)?;
    }
    let slots = route.slots;
    let top_k = slots.saturating_sub(usize::from(shared_gate.is_some()));
    if top_k == 0 || top_k > experts {
        return Err(OpError::shape(OP, "routed experts per row", format!("1 to {experts}"), top_k));
    }
    route.ids.expect_dtype(OP, "ids", DType::U32)?;
    route.ids.expect_rows(OP, "ids", t, slots)?;
    let weights = route.weights.rows_f32_mut(OP, "weights", t, slots)?;
    let ids = &mut route.ids.host_mut::<u32>(OP, "ids")?[..t * slots];

    let mut held = cpu.results();
    let stride = experts + 1;
    let logits = held.floats(t * stride)?;
    let all = || (0..t).map(|i| (i, i)).collect();
    let mut jobs = vec![Job::new(OP, router, all())?];
    if let Some(gate) = shared_gate {
        jobs.push(Job::new(OP, gate, all())?.at_column(experts));
    }
    cpu.product(Rows { values: x, stride: hidden }, &jobs, Rows { values: logits, stride }, false)?;
    let choose = |row: &mut [f32], ids: &mut [u32], weights: &mut [f32]| {
        let (p, shared) = row.split_at_mut(experts);
        softmax(cpu.simd, p);
        take_best(p, &mut ids[..top_k], &mut weights[..top_k]);
        if normalise {
            let sum: f32 = weights[..top_k].iter().sum();
            weights[..top_k].iter_mut().for_each(|w| *w /= sum);
        }
        if shared_gate.is_some() {
            ids[top_k] = experts as u32;
            weights[top_k] = sigmoid(shared[0]);
        }
    };
    let ids = ids.chunks_exact_mut(slots);
    let mut rows: Vec<_> =
        logits.chunks_exact_mut(stride).zip(ids).zip(weights.chunks_exact_mut(slots)).collect();
    cpu.pool.chunks(&mut rows, 16, |_, rows| {
        rows.iter_mut().for_each(|((row, ids), weights)| choose(row, ids, weights));
    });
    Ok(())
}

/// The largest of `p`, best first, the lower id where two are equal. Leaves -1 at the places it took.
fn take_best(p: &mut [f32], ids: &mut [u32], weights: &mut [f32]) {
    const TAKEN: f32 = -1.0;
    for (id, weight) in ids.iter_mut().zip(weights) {
        let mut best: Option<usize> = None;
        for (e, &value) in p.iter().enumerate() {
            // A NaN never wins against a number, and never hides that it was there: its weight is NaN.
            if value != TAKEN && best.is_none_or(|best| value > p[best]) {
                best = Some(e);
            }
        }
        let best = best.expect("no more are asked for than there are experts");
        (*id, *weight) = (best as u32, p[best]);
        p[best] = TAKEN;
    }
}

/// In-place softmax.
fn softmax(simd: Simd, x: &mut [f32]) {
    let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    simd.exp_minus(x, most);
    let sum: f32 = x.iter().sum();
    x.iter_mut().for_each(|x| *x /= sum);
}

/// Per expert the (row * slots + slot) pairs that use it, in row order; experts that no row uses are left out.
fn pairs_by_expert(
    op: &'static str,
    t: usize,
    route: &Route,
    experts: &Experts,
) -> Result<Vec<(usize, Vec<usize>)>> {
    route.ids.expect_dtype(op, "route ids", DType::U32)?;
    route.ids.expect_rows(op, "route ids", t, route.slots)?;
    let count = experts.down.len();
    if experts.gate_up.len() != count {
        return Err(OpError::shape(op, "down experts", experts.gate_up.len(), count));
    }
    let mut pairs: Vec<(usize, usize)> = Vec::with_capacity(t * route.slots);
    for (pair, &id) in route.ids.host::<u32>(op, "route ids")?[..t * route.slots].iter().enumerate() {
        if id as usize >= count {
            return Err(OpError::shape(op, "expert id", format!("below {count}"), id));
        }
        pairs.push((id as usize, pair));
    }
    pairs.sort_unstable();
    Ok(pairs
        .chunk_by(|a, b| a.0 == b.0)
        .map(|of| (of[0].0, of.iter().map(|(_, pair)| *pair).collect()))
        .collect())
}

/// What one row uses, slots in order.
fn by_slot<'a>(
    op: &'static str,
    used: &[(usize, Vec<usize>)],
    weights: &'a [Weight],
) -> Result<Vec<Used<'a>>> {
    let mut all = Vec::new();
    for (expert, slots) in used {
        let weight = &weights[*expert];
        let panels = weight.panels(op, "expert")?;
        all.extend(slots.iter().map(|slot| Used { slot: *slot, weight, panels }));
    }
    all.sort_unstable_by_key(|used| used.slot);
    Ok(all)
}

/// The op `moe_gate_up`.
pub(crate) fn gate_up(
    cpu: &Cpu,
    pass: &Pass,
    x: &Tensor,
    route: &Route,
    experts: &Experts,
    act: &mut Tensor,
) -> Result<()> {
    const OP: &str = "moe_gate_up";
    let (t, slots, hidden, max) = (pass.rows(), route.slots, x.width(), experts.max_inter);
    let x = x.rows_f32(OP, "x", t, hidden)?;
    let act = act.rows_f32_mut(OP, "act", t, slots * max)?;
    let used = pairs_by_expert(OP, t, route, experts)?;
    let mut inter_of = vec![0; t * slots];
    let mut jobs = Vec::with_capacity(used.len());
    for (expert, pairs) in &used {
        let weight = &experts.gate_up[*expert];
        if !weight.rows.is_multiple_of(2) || weight.rows / 2 > max {
            return Err(OpError::shape(OP, "expert rows", format!("even, at most {}", 2 * max), weight.rows));
        }
        expect_weight(OP, "expert", weight, weight.rows, hidden)?;
        pairs.iter().for_each(|pair| inter_of[*pair] = weight.rows / 2);
        jobs.push(Job::new(OP, weight, pairs.iter().map(|pair| (pair / slots, *pair)).collect())?);
    }
    let one = || by_slot(OP, &used, &experts.gate_up);
    if t == 1 && moe_row::has_whole_panels(&one()?) {
        return moe_row::gate_up(cpu, x, &one()?, act, max);
    }
    let mut held = cpu.results();
    let both = held.floats(t * slots * 2 * max)?;
    let round = cpu.rounds_rows(t, pass.exact);
    let (x, results) = (Rows { values: x, stride: hidden }, Rows { values: &mut *both, stride: 2 * max });
    cpu.pass_product(round, x, jobs, results, false)?;
    let finish = |pair: usize, out: &mut [f32]| {
        let inter = inter_of[pair];
        let (gate, up) = both[pair * 2 * max..][..2 * inter].split_at(inter);
        cpu.simd.swiglu(gate, up, &mut out[..inter]);
        out[inter..].fill(0.0);
    };
    if t < 4 {
        act.chunks_exact_mut(max.max(1)).enumerate().for_each(|(pair, out)| finish(pair, out));
    } else {
        cpu.pool.chunks(act, max, finish);
    }
    Ok(())
}

/// The op `moe_down`.
pub(crate) fn down(
    cpu: &Cpu,
    pass: &Pass,
    act: &Tensor,
    route: &Route,
    experts: &Experts,
    out: &mut Tensor,
) -> Result<()> {
    const OP: &str = "moe_down";
    let (t, slots, hidden, max) = (pass.rows(), route.slots, out.width(), experts.max_inter);
    let act = act.rows_f32(OP, "act", t, slots * max)?;
    let weights = route.weights.rows_f32(OP, "route weights", t, slots)?;
    let out = out.rows_f32_mut(OP, "out", t, hidden)?;
    let used = pairs_by_expert(OP, t, route, experts)?;
    let mut jobs = Vec::with_capacity(used.len());
    for (expert, pairs) in &used {
        let weight = &experts.down[*expert];
        if weight.cols > max {
            return Err(OpError::shape(OP, "expert columns", format!("at most {max}"), weight.cols));
        }
        expect_weight(OP, "expert", weight, hidden, weight.cols)?;
        jobs.push(Job::new(OP, weight, pairs.iter().map(|pair| (*pair, *pair)).collect())?);
    }
    if t == 1 {
        return moe_row::down(cpu, act, &by_slot(OP, &used, &experts.down)?, weights, max, out);
    }
    let mut held = cpu.results();
    let each = held.floats(t * slots * hidden)?;
    let round = cpu.rounds_rows(t, pass.exact);
    let (act, results) = (Rows { values: act, stride: max }, Rows { values: &mut *each, stride: hidden });
    cpu.pass_product(round, act, jobs, results, false)?;
    let finish = |i: usize, out: &mut [f32]| {
        for slot in i * slots..(i + 1) * slots {
            cpu.simd.add_scaled(&each[slot * hidden..][..hidden], weights[slot], out);
        }
    };
    if t < 4 {
        out.chunks_exact_mut(hidden.max(1)).enumerate().for_each(|(i, out)| finish(i, out));
    } else {
        cpu.pool.chunks(out, hidden, finish);
    }
    Ok(())
}
