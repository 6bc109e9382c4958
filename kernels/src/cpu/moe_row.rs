//! One row through its experts: the way of decode. Unlike `Cpu::product`, a task finishes what it computes, so that no
//! intermediate result travels from core to core; the numbers are the same to the last bit.

use super::Cpu;
use super::linear::{LEAST_BYTES, share_out};
use super::pool::Disjoint;
use super::simd::Simd;
use super::weight::{BLOCK, CpuWeight, LANES};
use crate::{Result, Weight};

/// A slot of the row and the weight of its expert.
#[derive(Clone, Copy)]
pub(crate) struct Used<'a> {
    pub slot: usize,
    pub weight: &'a Weight,
    pub panels: &'a CpuWeight,
}

/// Whether `gate_up` can do it: the gate and the up rows of every expert begin with a panel of their own.
pub(crate) fn has_whole_panels(used: &[Used<'_>]) -> bool {
    used.iter().all(|used| (used.weight.rows / 2).is_multiple_of(LANES))
}

/// `act[slot] = silu(gate x) * (up x)` for every slot; the rest of a slot, `max` wide, becomes zero.
pub(crate) fn gate_up(cpu: &Cpu, x: &[f32], used: &[Used<'_>], act: &mut [f32], max: usize) -> Result<()> {
    let mut held = cpu.scratch();
    // All experts read the same row; formats may differ, so each kind of input is kept once.
    let mut inputs: Vec<(Used<'_>, usize)> = Vec::new();
    let mut size = 0;
    for used in used {
        if !inputs.iter().any(|(other, _)| same_input(other.panels, used.panels)) {
            inputs.push((*used, size));
            size += used.panels.padded_cols();
        }
    }
    let space = held.floats(size)?;
    for (used, at) in &inputs {
        prepare(cpu.simd, used.panels, x, &mut space[*at..]);
    }
    let input_of = |panels: &CpuWeight| {
        let at = inputs.iter().find(|(other, _)| same_input(other.panels, panels)).map_or(0, |(_, at)| *at);
        &space[at..at + panels.padded_cols()]
    };
    for Used { slot, weight, .. } in used {
        act[slot * max + weight.rows / 2..(slot + 1) * max].fill(0.0);
    }
    let pairs = used.iter().map(|used| (used.panels.groups / 2, 2 * used.panels.panel_bytes));
    let tasks = share_out(pairs, cpu.pool.threads(), LEAST_BYTES..usize::MAX);
    let act = Disjoint::new(act);
    cpu.pool.run(tasks.len(), |task| {
        let (i, first, count) = tasks[task];
        let Used { slot, panels, .. } = used[i];
        let (half, input) = (panels.groups / 2, input_of(panels));
        let mut gate = vec![[0.0; LANES]; 2 * count];
        let up = &mut gate.split_off(count);
        announce(cpu.simd, panels, half + first);
        multiply(cpu.simd, panels, first, input, &mut gate);
        multiply(cpu.simd, panels, half + first, input, up);
        // SAFETY: tasks are different stretches of panels of different slots.
        let out = unsafe { act.slice(slot * max + first * LANES, count * LANES) };
        cpu.simd.swiglu(gate.as_flattened(), up.as_flattened(), out);
    });
    Ok(())
}

/// `out += sum_slot factor * (weight act[slot])` slots in order; a slot of `act` is `max` wide.
pub(crate) fn down(
    cpu: &Cpu,
    act: &[f32],
    used: &[Used<'_>],
    factors: &[f32],
    max: usize,
    out: &mut [f32],
) -> Result<()> {
    let mut held = cpu.scratch();
    let space = held.floats(used.iter().map(|used| used.panels.padded_cols()).sum())?;
    let mut inputs = Vec::with_capacity(used.len());
    let mut rest = space;
    for Used { slot, weight, panels } in used {
        let (input, behind) = rest.split_at_mut(panels.padded_cols());
        prepare(cpu.simd, panels, &act[slot * max..][..weight.cols], input);
        inputs.push(&*input);
        rest = behind;
    }
    let groups = out.len().div_ceil(LANES);
    let bytes = used.iter().map(|used| used.panels.panel_bytes).sum();
    // A task reads a stretch of every weight.
    let sizes = LEAST_BYTES * used.len()..usize::MAX;
    let tasks = share_out(std::iter::once((groups, bytes)), cpu.pool.threads(), sizes);
    let (total, out) = (out.len(), Disjoint::new(out));
    cpu.pool.run(tasks.len(), |task| {
        let (_, first, count) = tasks[task];
        let valid = (count * LANES).min(total - first * LANES);
        // SAFETY: tasks are different stretches of panels.
        let out = unsafe { out.slice(first * LANES, valid) };
        let mut results = vec![[0.0; LANES]; count];
        for (i, (Used { slot, panels, .. }, input)) in used.iter().zip(&inputs).enumerate() {
            if let Some(next) = used.get(i + 1) {
                announce(cpu.simd, next.panels, first);
            }
            results.fill([0.0; LANES]);
            multiply(cpu.simd, panels, first, input, &mut results);
            cpu.simd.add_scaled(&results.as_flattened()[..valid], factors[*slot], out);
        }
    });
    Ok(())
}

/// Whether both weights want their input in the same form.
fn same_input(a: &CpuWeight, b: &CpuWeight) -> bool {
    a.format == b.format && a.padded_cols() == b.padded_cols()
}

/// One row in the form that the weight is multiplied with.
fn prepare(simd: Simd, weight: &CpuWeight, x: &[f32], out: &mut [f32]) {
    let out = &mut out[..weight.padded_cols()];
    if simd.encodes(weight.format) {
        simd.encode(x, 0, 1, out);
        out[x.len().next_multiple_of(BLOCK)..].fill(0.0);
    } else {
        out[..x.len()].copy_from_slice(x);
        out[x.len()..].fill(0.0);
    }
}

/// Asks for the beginning of a stretch that is read next: the machine sees it coming only when it has begun.
fn announce(simd: Simd, weight: &CpuWeight, first: usize) {
    const BYTES: usize = 2 << 10;
    let bytes = weight.panel(first).bytes;
    simd.soon(&bytes[..bytes.len().min(BYTES)]);
}

/// The finished products of the panels from `first` on with one row; `results` must be zero.
fn multiply(simd: Simd, weight: &CpuWeight, first: usize, input: &[f32], results: &mut [[f32; LANES]]) {
    simd.begin(weight.panel(first));
    for (group, totals) in (first..).zip(results.chunks_exact_mut(1)) {
        let panel = weight.panel(group);
        simd.multiply(panel, 0..panel.blocks, input, totals);
        simd.finish(panel, totals);
    }
}
