//! The cases of choosing tokens: which are chosen, and that later rows find them on the device.

use super::Scale;
use super::random::{Random, poisoned};
use crate::ops::{Pass, Segment};
use crate::rounds::{Follow, Following};
use crate::sample::SampleRow;
use crate::{Ops, Result, WeightFormat};

/// Tokens of a row in which some logits are equal.
const TOKENS: usize = 3000;

/// The tokens of rows with every setting, plus one; 0 for none.
pub(super) fn sample(ops: &dyn Ops, scale: Scale, seed: u64) -> Result<Vec<f32>> {
    let mut random = Random::new(seed);
    let tokens = if scale == Scale::Small { TOKENS / 10 } else { TOKENS * 30 };
    let words: Vec<u32> = (0..tokens.div_ceil(32)).map(|_| random.next() as u32).collect();
    let row = SampleRow { seed, ..SampleRow::default() };
    let rows = [
        SampleRow { temperature: 0.0, ..row },
        SampleRow { temperature: 0.0, allowed: Some(&words), ..row },
        SampleRow { position: 1, ..row },
        SampleRow { position: 2, temperature: 0.7, top_k: 20, top_p: 0.9, ..row },
        SampleRow { position: 3, temperature: 1.5, min_p: 0.1, allowed: Some(&words), ..row },
        SampleRow {
            position: 4,
            seen: &[(1, 0), (7, 2), (200, 1)],
            presence_penalty: 1.0,
            frequency_penalty: 0.25,
            repetition_penalty: 1.3,
            bias: &[(7, 3.0), (11, 5.0)],
            banned: &[11, 12],
            ..row
        },
    ];
    let mut logits = Vec::with_capacity(rows.len() * tokens);
    logits.resize_with(rows.len() * tokens, || (random.float() * 40.0).round() / 4.0 + random.float());
    let bytes: Vec<u8> = logits.iter().flat_map(|x: &f32| x.to_le_bytes()).collect();
    let f32 = crate::DType::F32;
    let mut x = ops.upload(f32, &bytes, f32, &[rows.len(), tokens])?;
    let chosen = ops.sample(&mut x, tokens, &rows)?.wait()?;
    Ok(chosen.into_iter().map(|id| id.map_or(0.0, |id| id as f32 + 1.0)).collect())
}

/// The embeddings of tokens that only the device knows.
pub(super) fn embed(ops: &dyn Ops, scale: Scale, seed: u64) -> Result<Vec<f32>> {
    let (mut random, s) = (Random::new(seed), scale.sizes());
    let table = random.weight(ops, WeightFormat::Bf16, s.vocab, s.hidden, false)?;
    let mut logits = random.tensor(ops, &[3, s.vocab])?;
    let row = SampleRow { temperature: 0.0, ..SampleRow::default() };
    let chosen = ops.sample(&mut logits, s.vocab, &[row; 3])?;
    let mut out = poisoned(ops, &[4, s.hidden])?;
    ops.embed(&table, &[chosen.id(2), 1, chosen.id(0), chosen.id(1)], &mut out)?;
    ops.read_rows(&out, 0, 4)
}

/// The row and the token of a round that goes on from one of two drafts of which the second was rejected, where only the
/// device knows that; and the row of the head that its hidden states pass through.
pub(super) fn follow(ops: &dyn Ops, scale: Scale, seed: u64) -> Result<Vec<f32>> {
    let (mut random, s) = (Random::new(seed), scale.sizes());
    let table = random.weight(ops, WeightFormat::Bf16, s.vocab, s.hidden, false)?;
    let mut logits = random.tensor(ops, &[4, s.vocab])?;
    let greedy = SampleRow { temperature: 0.0, ..SampleRow::default() };
    let chosen = ops.sample(&mut logits, s.vocab, &[greedy; 4])?;
    let drafts = vec![chosen.id(0), chosen.id(3)];
    let hidden = random.tensor(ops, &[3, s.hidden])?;
    let pass = |rows, position| {
        let snapshots = Vec::new();
        let segment = Segment { slot: 2, first_row: 0, rows, position, pages: vec![0], snapshots };
        Pass { segments: vec![segment], exact: false }
    };
    let behind = |kind| [Follow { segment: 0, chosen: chosen.id(0), drafts: drafts.clone(), kind }];

    let (ids, picks) = ([chosen.id(0), chosen.id(1), chosen.id(2)], [0, 1, 2, 2]);
    let head = pass(3, 8);
    ops.begin(&head, &ids, &picks)?;
    let settled = ops.follow(&head, &ids, &picks, &behind(Following::Head { want: Some(3) }))?;
    let picks = settled.map_or(picks.to_vec(), |settled| settled.picks);
    let mut seeds = poisoned(ops, &[4, s.hidden])?;
    ops.gather_picks(&hidden, 0, &picks, &mut seeds)?;

    let (next, ids) = (pass(1, 11), [chosen.id(2)]);
    ops.begin(&next, &ids, &[])?;
    let settled = ops.follow(&next, &ids, &[], &behind(Following::Trunk { states: vec![0, 1, 2] }))?;
    let ids = settled.map_or(ids.to_vec(), |settled| settled.ids);
    let mut row = poisoned(ops, &[1, s.hidden])?;
    ops.embed(&table, &ids, &mut row)?;
    let drawn = SampleRow { seed, position: 11, behind: Some(0), ..SampleRow::default() };
    let mut logits = random.tensor(ops, &[1, s.vocab])?;
    let token = ops.sample(&mut logits, s.vocab, &[drawn])?.wait()?;
    let mut found = ops.read_rows(&seeds, 0, 4)?;
    found.extend(ops.read_rows(&row, 0, 1)?);
    found.extend(token.into_iter().map(|id| id.map_or(0.0, |id| id as f32 + 1.0)));
    Ok(found)
}
