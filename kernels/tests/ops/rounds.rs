//! Passes that go on from rounds of which only the device knows how many drafts were right: they compute what the same passes
//! do when that is known.

use crate::bench::{Backend, Kind, Matrix, Rng, name, norm, poisoned, read, tensor, with_emulated};
use hearth_kernels::ops::{AttentionShape, KvFormat, KvLayer, Pass, Segment};
use hearth_kernels::rounds::{DRAFTS, Follow, Following, Settled};
use hearth_kernels::sample::{CHOSEN, SampleRow};
use hearth_kernels::{DType, OpError, Tensor};
use std::collections::HashMap;

const VOCAB: usize = 24;
const HIDDEN: usize = 32;
const STATES: usize = 40;
const SEQUENCES: usize = 3;

/// What is gone on from: the pass as it is told, and as it is.
struct Round {
    pass: Pass,
    ids: Vec<u32>,
    picks: Vec<u32>,
    follows: Vec<Follow>,
    settled: Settled,
}

/// Tokens that `backend` chooses, by their ids.
fn choose(backend: &Backend, rng: &mut Rng, rows: usize) -> (u32, HashMap<u32, Option<u32>>) {
    let mut logits = tensor(backend, &[rows, VOCAB], &rng.floats(rows * VOCAB));
    let greedy = SampleRow { temperature: 0.0, ..SampleRow::default() };
    let chosen = backend.sample(&mut logits, VOCAB, &vec![greedy; rows]).unwrap();
    let first = chosen.id(0);
    (first, (first..).zip(chosen.wait().unwrap()).collect())
}

fn round(backend: &Backend, rng: &mut Rng, kind: usize) -> Round {
    let depths: Vec<usize> = (0..SEQUENCES).map(|_| rng.below(DRAFTS + 1)).collect();
    let (mut place, known) = choose(backend, rng, depths.iter().map(|depth| depth + 1).sum::<usize>().max(1));
    let (mut ids, mut follows, mut segments) = (Vec::new(), Vec::new(), Vec::new());
    for (s, depth) in depths.into_iter().enumerate() {
        let draft = |i: usize, rng: &mut Rng| match rng.below(4) {
            0 => rng.below(VOCAB) as u32,
            1 => place + i as u32,
            _ => known[&(place + i as u32)].unwrap(),
        };
        let drafts: Vec<u32> = (0..depth).map(|i| draft(i, rng)).collect();
        let first_row = ids.len();
        let own = |i: usize| (s * STATES / SEQUENCES + i) as u32;
        let states: Vec<u32> = (0..=depth).map(own).collect();
        let rows = [depth + 1, 1, 1, 1 + rng.below(4)][kind];
        ids.extend((0..rows).map(|_| rng.below(VOCAB) as u32));
        let mut snapshots = Vec::new();
        let kind = match kind {
            0 => Following::Head { want: None },
            3 => {
                ids[first_row] = place + depth as u32;
                if rows > 1 {
                    snapshots = (0..rows - 1).map(|i| own(if i < depth { i } else { i + 1 })).collect();
                    snapshots.push(own(depth));
                }
                Following::Trunk { states }
            }
            kind => Following::Draft { seeded: kind == 1 },
        };
        let (slot, position) = (own(depth) as usize, depth + 1 + rng.below(20));
        segments.push(Segment { slot, first_row, rows, position, pages: vec![s as u32], snapshots });
        follows.push(Follow { segment: s, chosen: place, drafts, kind });
        place += follows[s].drafts.len() as u32 + 1;
    }
    let mut picks: Vec<u32> = (0..ids.len() as u32).map(|row| row + DRAFTS as u32).collect();
    for (segment, follow) in segments.iter().zip(&mut follows) {
        if let Following::Head { want } = &mut follow.kind {
            *want = Some(picks.len());
            picks.push((segment.first_row + segment.rows - 1) as u32);
        }
    }
    let pass = Pass { segments, exact: false };
    let token = |id: u32| known.get(&id).copied().unwrap_or((id < CHOSEN).then_some(id));
    let settled = Settled::of(&pass, &ids, &picks, &follows, token);
    Round { pass, ids, picks, follows, settled }
}

/// What ops leave that read all of a pass: rows, states and cache. `behind`: told as going on from the round.
fn computed(backend: &Backend, round: &Round, behind: bool, seed: u64) -> Vec<f32> {
    let (pass, ids, picks) = match behind {
        true => (&round.pass, &round.ids, &round.picks),
        false => (&round.settled.pass, &round.settled.ids, &round.settled.picks),
    };
    backend.begin(pass, ids, picks).unwrap();
    let settled = if behind { backend.follow(pass, ids, picks, &round.follows).unwrap() } else { None };
    let (pass, ids, picks) = settled.as_ref().map_or((pass, ids, picks), |s| (&s.pass, &s.ids, &s.picks));
    let (mut rng, rows) = (Rng(seed), pass.rows());

    let table = Matrix::random(&mut rng, Kind::Bf16, VOCAB, HIDDEN);
    let table = backend.pack(&[table.packed()]).unwrap();
    let mut embedded = poisoned(backend, &[rows, HIDDEN]);
    backend.embed(&table, ids, &mut embedded).unwrap();
    let from = tensor(backend, &[64, HIDDEN], &rng.floats(64 * HIDDEN));
    let mut picked = poisoned(backend, &[picks.len(), HIDDEN]);
    backend.gather_picks(&from, 0, picks, &mut picked).unwrap();

    let taps = tensor(backend, &[HIDDEN, 4], &rng.floats(HIDDEN * 4));
    let mut states = tensor(backend, &[STATES, 3, HIDDEN], &rng.floats(STATES * 3 * HIDDEN));
    let mut x = tensor(backend, &[rows, HIDDEN], &rng.floats(rows * HIDDEN));
    backend.gdn_conv(pass, &taps, &mut states, &mut x).unwrap();

    let shape = AttentionShape {
        q_heads: 2,
        kv_heads: 1,
        head_dim: 16,
        rope_dims: 8,
        rope_theta: 1e4,
        yarn: None,
        scale: 0.25,
        gated: false,
    };
    let numbers = KvFormat::F32.shape(SEQUENCES, 64, 1, 16);
    let zeros = || backend.zeros(DType::F32, &numbers).unwrap();
    let mut cache = KvLayer { format: KvFormat::F32, k: zeros(), v: zeros() };
    let weight = norm(backend, &rng.floats(16), 1e-6, 1.0);
    let mut q = tensor(backend, &[rows, 32], &rng.floats(rows * 32));
    let kv = tensor(backend, &[rows, 16], &rng.floats(rows * 16));
    backend.attend_append(pass, &shape, &weight, &weight, &mut q, &kv, &kv, &mut cache).unwrap();
    let mut attended = poisoned(backend, &[rows, 32]);
    backend.attend_paged(pass, &shape, &q, &cache, &mut attended).unwrap();

    let position = 30;
    let drawn: Vec<SampleRow<'_>> = (0..round.follows.len())
        .map(|i| SampleRow {
            seed,
            position: position - if behind { 0 } else { round.settled.rejected[i] as u64 },
            behind: behind.then_some(i as u32),
            ..SampleRow::default()
        })
        .collect();
    let mut logits = tensor(backend, &[drawn.len(), VOCAB], &rng.floats(drawn.len() * VOCAB));
    let tokens = backend.sample(&mut logits, VOCAB, &drawn).unwrap().wait().unwrap();

    let rows_of = |tensor: &Tensor| read(backend, tensor, tensor.shape[0]);
    let mut all = [&embedded, &picked, &x, &q, &attended].map(rows_of).concat();
    let bytes = |tensor: &Tensor| backend.read_bytes(tensor, 0, tensor.shape[0]).unwrap();
    let kept = [&states, &cache.k, &cache.v].map(bytes).concat();
    all.extend(kept.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
    all.extend(tokens.into_iter().map(|token| token.map_or(-1.0, |token| token as f32)));
    all
}

#[test]
fn a_pass_behind_rounds_that_nobody_has_read_computes_what_it_does_when_they_are_known() {
    let mut seen = [0; DRAFTS + 1];
    for backend in with_emulated() {
        let mut rng = Rng(41);
        for i in 0..60 {
            let round = round(&backend, &mut rng, i % 4);
            round.settled.rejected.iter().for_each(|rejected| seen[*rejected] += 1);
            let what = format!("{} {i}: {:?}", name(&backend), round.follows);
            let (found, wanted) =
                (computed(&backend, &round, true, i as u64), computed(&backend, &round, false, i as u64));
            assert!(found.iter().all(|x| x.is_finite()), "{what}");
            assert_eq!(found, wanted, "{what}");
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

#[test]
fn what_does_not_fit_the_pass_and_a_round_that_nobody_told_of_are_refused() {
    for backend in with_emulated() {
        let mut rng = Rng(5);
        let Round { pass, ids, picks, mut follows, .. } = round(&backend, &mut rng, 3);
        backend.begin(&pass, &ids, &picks).unwrap();
        follows[0].segment = SEQUENCES;
        let refused = backend.follow(&pass, &ids, &picks, &follows);
        assert!(matches!(refused, Err(OpError::Shape { .. })), "{refused:?}");
        let mut logits = tensor(&backend, &[1, VOCAB], &rng.floats(VOCAB));
        let row = SampleRow { behind: Some(99), position: 9, ..SampleRow::default() };
        let refused = backend.sample(&mut logits, VOCAB, &[row]).map(drop);
        assert!(matches!(refused, Err(OpError::Shape { .. })), "{refused:?}");
    }
}
