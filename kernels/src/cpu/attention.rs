//! softmax(q K^T) V over the paged cache, for one row or many: blocks of positions, each loaded once for all the rows and
//! query heads of a task, with a running maximum and sum (online softmax, arXiv 1805.02867).
//!
//! Blocks and splits begin at fixed positions and are merged in order, so that a row's result does not depend on how many
//! rows or threads there are.

use super::Cpu;
use super::kv::{cache_size, load};
use super::segments::check_pages;
use crate::kv::Place;
use crate::ops::{AttentionShape, KvLayer, Pass, Segment};
use crate::{Result, Tensor};

/// Positions that are scored together: their keys and values as f32 stay in the first cache.
const BLOCK: usize = 16;
/// Positions whose partial results are merged as one; different splits may run on different threads.
const SPLIT: usize = 1024;
/// Rows of a task.
const TASK_ROWS: usize = 4;

/// What has been summed so far for one row and query head.
struct Partial {
    most: f32,
    sum: f32,
    /// `[head_dim]`
    mixed: Vec<f32>,
}

impl Partial {
    fn empty(head_dim: usize) -> Partial {
        Partial { most: f32::NEG_INFINITY, sum: 0.0, mixed: vec![0.0; head_dim] }
    }
}

/// Everything a task reads.
struct Reading<'a> {
    cpu: &'a Cpu,
    shape: &'a AttentionShape,
    cache: &'a KvLayer,
    page_len: usize,
    /// `[t, q_heads * stride]`
    q: &'a [f32],
}

/// Up to `TASK_ROWS` consecutive rows of a segment and one key head.
#[derive(Clone, Copy)]
struct Task<'a> {
    segment: &'a Segment,
    /// First row within the segment.
    first: usize,
    rows: usize,
    kv_head: usize,
}

/// Where a task's results go: per row the heads of the group, `[group * head_dim]`.
type Out<'a> = Vec<&'a mut [f32]>;

/// The op `attend_paged`.
pub(crate) fn paged(
    cpu: &Cpu,
    pass: &Pass,
    shape: &AttentionShape,
    q: &Tensor,
    cache: &KvLayer,
    out: &mut Tensor,
) -> Result<()> {
    const OP: &str = "attend_paged";
    let (pages, page_len) = cache_size(OP, shape, cache)?;
    check_pages(OP, pass, pages, page_len)?;
    let AttentionShape { q_heads, kv_heads, head_dim, .. } = *shape;
    let t = pass.rows();
    let q = q.rows_f32(OP, "q", t, q_heads * stride(shape))?;
    let out = out.rows_f32_mut(OP, "out", t, q_heads * head_dim)?;
    let reading = Reading { cpu, shape, cache, page_len, q };

    let mut parts = out.chunks_exact_mut(q_heads / kv_heads * head_dim);
    let mut tasks = Vec::new();
    for segment in &pass.segments {
        for first in (0..segment.rows).step_by(TASK_ROWS) {
            let rows = TASK_ROWS.min(segment.rows - first);
            let mut heads: Vec<(Task<'_>, Out<'_>)> =
                (0..kv_heads).map(|kv_head| (Task { segment, first, rows, kv_head }, Vec::new())).collect();
            for _ in 0..rows {
                for ((_, out), part) in heads.iter_mut().zip(&mut parts) {
                    out.push(part);
                }
            }
            tasks.append(&mut heads);
        }
    }
    if tasks.len() < 2 * cpu.pool.threads() {
        let splits: Vec<(usize, usize)> = tasks
            .iter()
            .enumerate()
            .flat_map(|(i, (task, _))| (0..task.splits()).map(move |s| (i, s)))
            .collect();
        let mut partials: Vec<Vec<Partial>> = splits.iter().map(|_| Vec::new()).collect();
        cpu.pool.chunks(&mut partials, 1, |at, partial| {
            let (i, split) = splits[at];
            partial[0] = reading.split(tasks[i].0, split);
        });
        let mut partials = partials.into_iter();
        for (task, out) in &mut tasks {
            reading.finish(*task, partials.by_ref().take(task.splits()), out);
        }
    } else {
        cpu.pool.chunks(&mut tasks, 1, |_, tasks| {
            let (task, out) = &mut tasks[0];
            reading.finish(*task, (0..task.splits()).map(|split| reading.split(*task, split)), out);
        });
    }
    Ok(())
}

/// Numbers of a query head: with its gate, if it has one.
fn stride(shape: &AttentionShape) -> usize {
    shape.head_dim * if shape.gated { 2 } else { 1 }
}

impl Task<'_> {
    /// Positions that the last row sees.
    fn positions(&self) -> usize {
        self.segment.position + self.first + self.rows
    }

    /// Splits of those positions.
    fn splits(&self) -> usize {
        self.positions().div_ceil(SPLIT)
    }
}

impl<'a> Reading<'a> {
    /// The query (and gate) of row `i` of a task, head `h` of its group.
    fn query(&self, task: Task<'_>, i: usize, h: usize) -> &'a [f32] {
        let stride = stride(self.shape);
        let group = self.shape.q_heads / self.shape.kv_heads;
        let row = task.segment.first_row + task.first + i;
        &self.q[(row * self.shape.q_heads + task.kv_head * group + h) * stride..][..stride]
    }

    /// What the positions of one split contribute, per row and head of the group.
    fn split(&self, task: Task<'_>, split: usize) -> Vec<Partial> {
        let (head_dim, simd) = (self.shape.head_dim, self.cpu.simd);
        let group = self.shape.q_heads / self.shape.kv_heads;
        let mut partials: Vec<Partial> = (0..task.rows * group).map(|_| Partial::empty(head_dim)).collect();
        let mut keys = vec![0.0; BLOCK * head_dim];
        let mut values = vec![0.0; BLOCK * head_dim];
        let mut weights = [0.0f32; BLOCK];
        let end = task.positions().min((split + 1) * SPLIT);
        for start in (split * SPLIT..end).step_by(BLOCK) {
            let held = BLOCK.min(end - start);
            self.load(&self.cache.k, task, start, &mut keys[..held * head_dim]);
            self.load(&self.cache.v, task, start, &mut values[..held * head_dim]);
            for (at, partial) in partials.iter_mut().enumerate() {
                let (i, h) = (at / group, at % group);
                let seen = (task.segment.position + task.first + i + 1).saturating_sub(start).min(held);
                if seen == 0 {
                    continue;
                }
                let q = &self.query(task, i, h)[..head_dim];
                let weights = &mut weights[..seen];
                simd.scores(q, &keys, self.shape.scale, weights);
                let most = weights.iter().copied().fold(partial.most, f32::max);
                // All scores NaN leaves the maximum at -inf; exp(NaN) below keeps the NaN visible.
                let keep = (partial.most - most).exp();
                let keep = if partial.sum == 0.0 { 0.0 } else { keep };
                simd.exp_minus(weights, most);
                partial.sum = partial.sum * keep + weights.iter().sum::<f32>();
                simd.mix(&mut partial.mixed, keep, weights, &values);
                partial.most = most;
            }
        }
        partials
    }

    /// Positions `start ..` of the task's key head as f32.
    fn load(&self, cache: &Tensor, task: Task<'_>, start: usize, out: &mut [f32]) {
        let head_dim = self.shape.head_dim;
        for (i, out) in out.chunks_exact_mut(head_dim).enumerate() {
            let position = start + i;
            let page = task.segment.pages[position / self.page_len] as usize;
            let at = Place::of(self.cache, page, task.kv_head, position % self.page_len, head_dim);
            load(self.cpu.simd, self.cache.format, cache, at, out)
                .expect("cache_size has refused tensors of other backends");
        }
    }

    /// Merges the splits in order, divides, and gates.
    fn finish(&self, task: Task<'_>, splits: impl IntoIterator<Item = Vec<Partial>>, out: &mut Out<'_>) {
        let (head_dim, simd) = (self.shape.head_dim, self.cpu.simd);
        let mut splits = splits.into_iter();
        let Some(mut totals) = splits.next() else { return };
        for split in splits {
            for (total, part) in totals.iter_mut().zip(split) {
                // A row may end before this split: nothing to add.
                if part.sum == 0.0 && part.most == f32::NEG_INFINITY {
                    continue;
                }
                let most = total.most.max(part.most);
                let (keep, grow) = ((total.most - most).exp(), (part.most - most).exp());
                total.sum = total.sum * keep + part.sum * grow;
                simd.mix(&mut total.mixed, keep, &[grow], &part.mixed);
                total.most = most;
            }
        }
        let group = self.shape.q_heads / self.shape.kv_heads;
        for (at, total) in totals.iter().enumerate() {
            let (i, h) = (at / group, at % group);
            let gate = self.shape.gated.then(|| &self.query(task, i, h)[head_dim..]);
            let out = &mut out[i][h * head_dim..(h + 1) * head_dim];
            simd.scale_and_gate(&total.mixed, 1.0 / total.sum, gate, out);
        }
    }
}
