//! The op `sample`: the definition of how a token is chosen from logits.

use super::Cpu;
use super::math::exp;
use crate::ops::Pass;
use crate::rounds::{Follow, Settled};
use crate::sample::{CHOSEN, Chosen, NOBODY, PLACES, Places, SampleRow, WHOLE, random_bits};
use crate::{OpError, Result, Tensor};
use std::collections::BinaryHeap;

/// The tokens chosen last, where `embed` finds them.
#[derive(Debug)]
pub(crate) struct Ring {
    places: Places,
    ids: Vec<u32>,
    /// Drafts rejected, per `Follow` of the pass that was settled last.
    rejected: Vec<usize>,
}

impl Default for Ring {
    fn default() -> Ring {
        Ring { places: Places::default(), ids: vec![0; PLACES], rejected: Vec::new() }
    }
}

impl Ring {
    /// The token that `id` is or stands for.
    pub fn known(&self, id: u32) -> u32 {
        let place = id.checked_sub(crate::sample::CHOSEN).map(|place| place as usize);
        place.and_then(|place| self.ids.get(place)).map_or(id, |id| if *id == NOBODY { 0 } else { *id })
    }
}

/// The op `follow`.
pub(crate) fn follow(
    cpu: &Cpu,
    pass: &Pass,
    ids: &[u32],
    picks: &[u32],
    follows: &[Follow],
) -> Result<Option<Settled>> {
    if follows.is_empty() {
        return Ok(None);
    }
    follows.iter().try_for_each(|follow| follow.check("follow", pass, ids, picks))?;
    let mut ring = cpu.chosen();
    let token = |id: u32| match id.checked_sub(CHOSEN) {
        Some(place) => ring.ids.get(place as usize).copied().filter(|id| *id != NOBODY),
        None => Some(id),
    };
    let settled = Settled::of(pass, ids, picks, follows, token);
    ring.rejected = settled.rejected.clone();
    Ok(Some(settled))
}

/// The op `sample`.
pub(crate) fn sample(
    cpu: &Cpu,
    logits: &mut Tensor,
    tokens: usize,
    rows: &[SampleRow<'_>],
) -> Result<Chosen> {
    const OP: &str = "sample";
    let width = logits.width();
    if !(1..=width).contains(&tokens) {
        return Err(OpError::shape(OP, "tokens", format!("from 1 to {width}"), tokens));
    }
    rows.iter().try_for_each(|row| row.check(OP, tokens))?;
    let logits = logits.rows_f32_mut(OP, "logits", rows.len(), width)?;
    let mut ring = cpu.chosen();
    let known = ring.rejected.len();
    if let Some(behind) = rows.iter().filter_map(|row| row.behind).find(|at| *at as usize >= known) {
        return Err(OpError::shape(OP, "round", format!("below {known}"), behind));
    }
    let first = ring.places.take(OP, rows.len())?;
    let ids: Vec<Option<u32>> = rows
        .iter()
        .zip(logits.chunks_exact_mut(width))
        .map(|(row, x)| choose(&mut x[..tokens], &row.settled(&ring.rejected)))
        .collect();
    for (place, id) in ring.ids[first..].iter_mut().zip(&ids) {
        *place = id.unwrap_or(NOBODY);
    }
    Ok(Chosen::here(first, ids))
}

/// The token of one row, by its logits, which are changed: what [`crate::Ops::sample`] computes. `logits` has one number
/// per token; the settings are within their ranges, and a mask has a bit for every token.
pub fn choose(logits: &mut [f32], row: &SampleRow<'_>) -> Option<u32> {
    for (id, repeat, minus) in row.edits() {
        if let Some(logit) = logits.get_mut(id as usize) {
            let repeated = if *logit > 0.0 { *logit / repeat } else { *logit * repeat };
            *logit = repeated - minus;
        }
    }
    if let Some(allowed) = row.allowed {
        for (id, logit) in logits.iter_mut().enumerate() {
            if allowed.get(id / 32).is_none_or(|word| word >> (id % 32) & 1 == 0) {
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

/// A token that may be drawn.
#[derive(Debug, Clone, Copy)]
struct Likely {
    /// Larger for larger logits, then for lower ids.
    number: u64,
    /// Share of the most likely token's probability.
    share: f32,
    /// That share as an integer.
    weight: u64,
}

impl PartialEq for Likely {
    fn eq(&self, other: &Likely) -> bool {
        self.number == other.number
    }
}

impl Eq for Likely {}

impl PartialOrd for Likely {
    fn partial_cmp(&self, other: &Likely) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Likely {
    fn cmp(&self, other: &Likely) -> std::cmp::Ordering {
        self.number.cmp(&other.number)
    }
}

impl Likely {
    fn of(id: u32, logit: f32, share: f32) -> Likely {
        let bits = logit.to_bits();
        // As `f32::total_cmp` orders them.
        let key = if bits >> 31 != 0 { !bits } else { bits | 1 << 31 };
        Likely { number: u64::from(key) << 32 | u64::from(!id), share, weight: (share * WHOLE) as u64 }
    }

    fn id(&self) -> u32 {
        !(self.number as u32)
    }
}

/// Temperature, top-k, top-p and min-p, then the token at which the running weight, most likely token first, passes a
/// random share of the whole. Tokens are put in order only as far as that takes.
fn draw(logits: &[f32], row: &SampleRow<'_>) -> Option<u32> {
    let max = logits.iter().copied().filter(|l| l.is_finite()).fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY {
        return None;
    }
    let mut all: Vec<Likely> = (0..)
        .zip(logits)
        .filter(|(_, logit)| logit.is_finite())
        .map(|(id, logit)| Likely::of(id, *logit, exp((logit - max) / row.temperature)))
        .filter(|token| token.weight > 0)
        .collect();
    if row.top_k > 0 {
        let mut rest = BinaryHeap::from(all);
        all = (0..row.top_k).map_while(|_| rest.pop()).collect();
    }
    let total: u64 = all.iter().map(|token| token.weight).sum();
    all.retain(|token| token.share >= row.min_p);
    let mut rest = BinaryHeap::from(all);
    let mut kept = Vec::new();
    let mut whole: u64 = 0;
    if row.top_p < 1.0 {
        let enough = ((f64::from(row.top_p) * total as f64).ceil() as u64).max(1);
        while whole < enough
            && let Some(token) = rest.pop()
        {
            whole += token.weight;
            kept.push(token);
        }
    } else {
        whole = rest.iter().map(|token| token.weight).sum();
    }
    let passed = (u128::from(random_bits(row.seed, row.position)) * u128::from(whole)) >> 53;
    let mut sum = 0;
    kept.into_iter()
        .chain(std::iter::from_fn(|| rest.pop()))
        .find(|token| {
            sum += u128::from(token.weight);
            sum > passed
        })
        .map(|token| token.id())
}
