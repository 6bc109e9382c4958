//! Matrix products with packed weights, and row lookup in a packed table. `linear`, the router and the experts all go
//! through `Cpu::product`; it decides who multiplies what, never how a row is summed.

use super::Cpu;
use super::pool::Disjoint;
use super::simd::TILE;
use super::weight::{BLOCK, CpuWeight, LANES};
use crate::{OpError, Result, Tensor, Weight, WeightFormat, fp4};
use std::ops::Range;
use std::sync::atomic::Ordering;

/// Some rows times one weight.
pub(crate) struct Job<'a> {
    weight: &'a Weight,
    panels: &'a CpuWeight,
    /// (row of `x`, row of `out`). No two jobs may write the same place, and no row of `out` be named twice in one.
    rows: Vec<(usize, usize)>,
    /// Column of `out` that the weight's first row writes.
    first_column: usize,
}

impl<'a> Job<'a> {
    /// `rows` times `weight`, which must be packed for the CPU, written from column 0.
    pub fn new(op: &'static str, weight: &'a Weight, rows: Vec<(usize, usize)>) -> Result<Job<'a>> {
        Ok(Job { weight, panels: weight.panels(op, "weight")?, rows, first_column: 0 })
    }

    /// The same, written from another column.
    pub fn at_column(self, first_column: usize) -> Job<'a> {
        Job { first_column, ..self }
    }
}

/// Rows of a matrix that is being multiplied, or written.
pub(crate) struct Rows<T> {
    /// All rows.
    pub values: T,
    /// Elements from one row to the next.
    pub stride: usize,
}

/// Blocks of columns that a tile goes through at once: 12 rows of them and a few panels fit the first cache.
const STRETCH: usize = 16;

/// Least bytes of a task: below it, starting a stream from memory costs more than an idle thread.
pub(crate) const LEAST_BYTES: usize = 16 << 10;

/// Most bytes of a task with several tiles: its panels stay in the second cache from tile to tile.
const TILED_BYTES: usize = 128 << 10;

/// Cuts the panels of several weights, given as (panels, bytes of one), into tasks (which weight, first panel, panels):
/// large ones first, so that streams are long, and ever smaller ones, so that all threads end together. `sizes` bounds their
/// bytes.
pub(crate) fn share_out(
    weights: impl Iterator<Item = (usize, usize)> + Clone,
    threads: usize,
    sizes: Range<usize>,
) -> Vec<(usize, usize, usize)> {
    let mut left: usize = weights.clone().map(|(panels, bytes)| panels * bytes).sum();
    let mut tasks = Vec::new();
    for (i, (panels, bytes)) in weights.enumerate() {
        let mut first = 0;
        while first < panels {
            let share = (left * 3 / (4 * threads)).clamp(sizes.start, sizes.end);
            let count = (share / bytes.max(1)).clamp(1, panels - first);
            tasks.push((i, first, count));
            first += count;
            left -= count * bytes;
        }
    }
    tasks
}

impl Cpu {
    /// `out[o] = W x[i]` (or `+=`) for every job and each of its `(i, o)`.
    pub(crate) fn product(
        &self,
        x: Rows<&[f32]>,
        jobs: &[Job<'_>],
        out: Rows<&mut [f32]>,
        add: bool,
    ) -> Result<()> {
        // Tiles of all jobs, and where their interleaved rows lie. A single row of full width needs no copy.
        struct Tile<'a> {
            job: usize,
            rows: &'a [(usize, usize)],
            at: Option<usize>,
        }
        let mut tiles = Vec::new();
        let mut first_tile = Vec::with_capacity(jobs.len() + 1);
        let mut scratch = 0;
        for (job, Job { weight, panels, rows, .. }) in jobs.iter().enumerate() {
            first_tile.push(tiles.len());
            let padded = panels.padded_cols();
            for rows in rows.chunks(TILE) {
                let encoded = self.simd.encodes(weight.format);
                let direct = rows.len() == 1 && padded == weight.cols && !encoded;
                tiles.push(Tile { job, rows, at: (!direct).then_some(scratch) });
                if !direct {
                    scratch += padded * rows.len();
                }
            }
        }
        first_tile.push(tiles.len());

        let mut held = self.scratch();
        let interleaved = held.floats(scratch)?;
        {
            let parts = Disjoint::new(&mut *interleaved);
            let copy = |i: usize| {
                let Tile { job, rows, at: Some(at) } = tiles[i] else { return };
                let Job { weight, panels, .. } = jobs[job];
                let padded = panels.padded_cols();
                // SAFETY: the tiles' stretches of the scratch space follow one another.
                let into = unsafe { parts.slice(at, padded * rows.len()) };
                if self.simd.encodes(weight.format) {
                    into[weight.cols.next_multiple_of(BLOCK) * rows.len()..].fill(0.0);
                    for (i, (row, _)) in rows.iter().enumerate() {
                        self.simd.encode(&x.values[row * x.stride..][..weight.cols], i, rows.len(), into);
                    }
                } else {
                    interleave(&x, weight.cols, rows, into);
                }
            };
            if scratch < 1 << 15 { (0..tiles.len()).for_each(copy) } else { self.pool.run(tiles.len(), copy) }
        }

        let panels = jobs.iter().map(|job| match job.rows.len() {
            0 => (0, 0),
            _ => (job.panels.groups, job.panels.panel_bytes),
        });
        let tiled = jobs.iter().any(|job| job.rows.len() > TILE);
        let tasks =
            share_out(panels, self.pool.threads(), LEAST_BYTES..if tiled { TILED_BYTES } else { usize::MAX });
        let (stride, out) = (out.stride, Disjoint::new(out.values));
        let interleaved = &*interleaved;
        self.pool.run(tasks.len(), |task| {
            let (job, first, count) = tasks[task];
            let Job { weight, panels, first_column, .. } = &jobs[job];
            let padded = panels.padded_cols();
            self.simd.begin(panels.panel(first));
            let mut results = vec![[0.0; LANES]; TILE * count];
            for tile in &tiles[first_tile[job]..first_tile[job + 1]] {
                let t = tile.rows.len();
                let input = match tile.at {
                    Some(at) => &interleaved[at..at + padded * t],
                    None => &x.values[tile.rows[0].0 * x.stride..][..padded],
                };
                let results = &mut results[..count * t];
                results.fill([0.0; LANES]);
                // One row streams through each panel; many go through all panels in stretches that stay in the cache.
                let stretch = if t == 1 { padded / BLOCK } else { STRETCH };
                for first_block in (0..padded / BLOCK).step_by(stretch) {
                    let blocks = first_block..(padded / BLOCK).min(first_block + stretch);
                    let input = &input[first_block * BLOCK * t..];
                    for (group, totals) in (first..).zip(results.chunks_exact_mut(t)) {
                        self.simd.multiply(panels.panel(group), blocks.clone(), input, totals);
                    }
                }
                for (group, totals) in (first..).zip(results.chunks_exact_mut(t)) {
                    self.simd.finish(panels.panel(group), totals);
                    let valid = LANES.min(weight.rows - group * LANES);
                    for ((_, row), values) in tile.rows.iter().zip(totals) {
                        // SAFETY: jobs write different places; within one, no row is in two tiles and no panel in two
                        // tasks.
                        let out = unsafe { out.slice(row * stride + first_column + group * LANES, valid) };
                        for (o, v) in out.iter_mut().zip(values) {
                            *o = if add { *o + *v } else { *v };
                        }
                    }
                }
            }
        });
        Ok(())
    }

    /// [`Cpu::product`], where NVFP4 weights meet rows rounded to NVFP4 if `round`.
    pub(crate) fn pass_product(
        &self,
        round: bool,
        x: Rows<&[f32]>,
        jobs: Vec<Job<'_>>,
        out: Rows<&mut [f32]>,
        add: bool,
    ) -> Result<()> {
        let (narrow, rest): (Vec<Job<'_>>, Vec<Job<'_>>) =
            jobs.into_iter().partition(|job| round && job.weight.format == WeightFormat::Nvfp4);
        let stride = out.stride;
        if !narrow.is_empty() {
            let mut rounded = x.values.to_vec();
            let mut done = vec![false; rounded.len().div_ceil(x.stride.max(1))];
            for (job, (row, _)) in narrow.iter().flat_map(|job| job.rows.iter().map(move |row| (job, *row))) {
                if !std::mem::replace(&mut done[row], true) {
                    fp4::round_in_place(&mut rounded[row * x.stride..][..job.weight.cols]);
                }
            }
            let x = Rows { values: &rounded[..], stride: x.stride };
            self.product(x, &narrow, Rows { values: &mut *out.values, stride }, add)?;
        }
        if rest.is_empty() { Ok(()) } else { self.product(x, &rest, out, add) }
    }

    /// `out = x W^T`, or `out += x W^T`.
    pub(crate) fn linear_op(
        &self,
        op: &'static str,
        t: usize,
        x: &Tensor,
        w: &Weight,
        out: &mut Tensor,
        add: bool,
    ) -> Result<()> {
        let x = Rows { values: x.rows_f32(op, "x", t, w.cols)?, stride: w.cols };
        let out = Rows { values: out.rows_f32_mut(op, "out", t, w.rows)?, stride: w.rows };
        let round = self.rounds_rows(t, self.fp4.exact.load(Ordering::Relaxed));
        self.pass_product(round, x, vec![Job::new(op, w, (0..t).map(|i| (i, i)).collect())?], out, add)
    }
}

/// The rows named by `rows`, `cols` wide, as `[padded_cols, rows.len()]`.
fn interleave(x: &Rows<&[f32]>, cols: usize, rows: &[(usize, usize)], out: &mut [f32]) {
    let t = rows.len();
    for (i, (row, _)) in rows.iter().enumerate() {
        let from = &x.values[row * x.stride..][..cols];
        for (to, value) in out[i..].iter_mut().step_by(t).zip(from) {
            *to = *value;
        }
    }
    out[cols * t..].fill(0.0);
}

/// Refuses a weight of another shape.
pub(crate) fn expect_weight(
    op: &'static str,
    what: &'static str,
    w: &Weight,
    rows: usize,
    cols: usize,
) -> Result<()> {
    if w.rows == rows && w.cols == cols {
        return Ok(());
    }
    Err(OpError::shape(op, what, format!("[{rows}, {cols}]"), format!("[{}, {}]", w.rows, w.cols)))
}

/// `out[i] = table[ids[i]]`.
pub(crate) fn embed(cpu: &Cpu, table: &Weight, ids: &[u32], out: &mut Tensor) -> Result<()> {
    let out = out.rows_f32_mut("embed", "out", ids.len(), table.cols)?;
    let chosen = cpu.chosen();
    let ids: Vec<u32> = ids.iter().map(|id| chosen.known(*id)).collect();
    drop(chosen);
    if let Some(id) = ids.iter().find(|id| **id as usize >= table.rows) {
        return Err(OpError::shape("embed", "ids", format!("below {}", table.rows), id));
    }
    let panels = table.panels("embed", "table")?;
    cpu.pool.chunks(out, table.cols, |i, out| {
        let (panel, r) = (panels.panel(ids[i] as usize / LANES), ids[i] as usize % LANES);
        for (block, out) in out.chunks_mut(BLOCK).enumerate() {
            let scale = panel.scale(block, r) * panel.row_scales[r];
            for (j, value) in out.iter_mut().enumerate() {
                *value = panel.value(block, j, r) * scale;
            }
        }
    });
    Ok(())
}
