//! The op `sample`: the definition of how a token is chosen from logits.

use super::math::exp;
use crate::sample::{SampleRow, WHOLE, random_bits};
use crate::{OpError, Result, Tensor};

/// The op `sample`.
pub(crate) fn sample(logits: &mut Tensor, tokens: usize, rows: &[SampleRow<'_>]) -> Result<Vec<Option<u32>>> {
    const OP: &str = "sample";
    let width = logits.width();
    if tokens > width {
        return Err(OpError::shape(OP, "tokens", format!("at most {width}"), tokens));
    }
    rows.iter().try_for_each(|row| row.check(OP, tokens))?;
    let logits = logits.rows_f32_mut(OP, "logits", rows.len(), width)?;
    Ok(rows
        .iter()
        .zip(logits.chunks_exact_mut(width.max(1)))
        .map(|(row, x)| one(&mut x[..tokens], row))
        .collect())
}

/// The token of one row; its logits are changed.
fn one(logits: &mut [f32], row: &SampleRow<'_>) -> Option<u32> {
    for (id, repeat, minus) in row.edits() {
        if let Some(logit) = logits.get_mut(id as usize) {
            let repeated = if *logit > 0.0 { *logit / repeat } else { *logit * repeat };
            *logit = repeated - minus;
        }
    }
    if let Some(allowed) = row.allowed {
        for (id, logit) in logits.iter_mut().enumerate() {
            if allowed[id / 32] >> (id % 32) & 1 == 0 {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
    if row.temperature == 0.0 { greedy(logits) } else { draw(logits, row) }
}

fn greedy(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(usize, f32)> = None;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > best.map_or(f32::NEG_INFINITY, |(_, value)| value) {
            best = Some((id, logit));
        }
    }
    best.map(|(id, _)| id as u32)
}

/// Temperature, top-k, top-p and min-p, then the token at which the running weight, most likely token first, passes a
/// random share of the whole.
fn draw(logits: &[f32], row: &SampleRow<'_>) -> Option<u32> {
    let max = logits.iter().copied().filter(|l| l.is_finite()).fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY {
        return None;
    }
    // (id, share of the most likely token's probability, that share as an integer)
    let mut kept: Vec<(u32, f32, u64)> = (0..)
        .zip(logits)
        .filter(|(_, logit)| logit.is_finite())
        .map(|(id, logit)| {
            let share = exp((logit - max) / row.temperature);
            (id, share, (share * WHOLE) as u64)
        })
        .filter(|k| k.2 > 0)
        .collect();
    let of = |k: &(u32, f32, u64)| logits[k.0 as usize];
    kept.sort_unstable_by(|a, b| of(b).total_cmp(&of(a)).then(a.0.cmp(&b.0)));
    if row.top_k > 0 {
        kept.truncate(row.top_k as usize);
    }
    let total: u64 = kept.iter().map(|k| k.2).sum();
    kept.retain(|k| k.1 >= row.min_p);
    if row.top_p < 1.0 {
        let enough = (f64::from(row.top_p) * total as f64).ceil() as u64;
        let mut sum = 0;
        let end = kept.iter().position(|k| {
            sum += k.2;
            sum >= enough
        });
        kept.truncate(end.map_or(kept.len(), |i| i + 1));
    }
    let total: u64 = kept.iter().map(|k| k.2).sum();
    let passed = (u128::from(random_bits(row.seed, row.position)) * u128::from(total)) >> 53;
    let mut sum = 0;
    kept.iter()
        .find(|k| {
            sum += u128::from(k.2);
            sum > passed
        })
        .map(|k| k.0)
}
