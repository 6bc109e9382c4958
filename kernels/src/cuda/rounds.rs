//! The launch of rounds.cu: settles the staged pass where the tokens are.

use super::gpu::{Args, Gpu, Launch, bytes_of};
use super::memory::DeviceBuffer;
use super::{Cuda, DECODE_ROWS};
use crate::ops::Pass;
use crate::rounds::{DRAFTS, Follow, Following};
use crate::sample::{CHOSEN, NOBODY};
use crate::{OpError, Result};
use std::sync::Arc;

/// `enum Kind` in rounds.cu.
const HEAD: u32 = 0;
const DRAFT: u32 = 1;
const SEEDED_DRAFT: u32 = 2;
const TRUNK: u32 = 3;

/// `struct Follow` in rounds.cu.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct One {
    segment: u32,
    chosen: u32,
    count: u32,
    kind: u32,
    drafts: [u32; DRAFTS],
    states: [u32; DRAFTS + 1],
    want: u32,
}

/// `struct FollowArgs` in rounds.cu.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct FollowArgs {
    pass: u64,
    chosen: u64,
    rejected: u64,
    follows: u32,
    unused: u32,
    follow: [One; DECODE_ROWS],
}

// SAFETY: repr(C), 8-byte fields before 4-byte ones, an even number of those: no padding.
unsafe impl Args for FollowArgs {}
const _: () = assert!(size_of::<FollowArgs>() == 1056);

/// How many drafts were rejected, per `Follow` of the pass that was settled last.
#[derive(Debug)]
pub(super) struct Rejected(DeviceBuffer);

impl Rejected {
    pub fn new(gpu: &Arc<dyn Gpu>) -> Result<Rejected> {
        DeviceBuffer::zeroed(gpu, 4 * DECODE_ROWS).map(Rejected)
    }

    pub fn address(&self) -> u64 {
        self.0.address
    }
}

fn one(follow: &Follow) -> One {
    let mut one = One {
        segment: follow.segment as u32,
        chosen: follow.chosen - CHOSEN,
        count: follow.drafts.len() as u32,
        want: NOBODY,
        ..One::default()
    };
    one.drafts[..follow.drafts.len()].copy_from_slice(&follow.drafts);
    match &follow.kind {
        Following::Head { want } => {
            one.kind = HEAD;
            one.want = want.map_or(NOBODY, |want| want as u32);
        }
        Following::Draft { seeded } => one.kind = if *seeded { SEEDED_DRAFT } else { DRAFT },
        Following::Trunk { states } => {
            one.kind = TRUNK;
            one.states[..states.len()].copy_from_slice(states);
        }
    }
    one
}

/// The op `follow`.
pub(crate) fn follow(cuda: &Cuda, pass: &Pass, ids: &[u32], picks: &[u32], follows: &[Follow]) -> Result<()> {
    const OP: &str = "follow";
    if follows.is_empty() {
        return Ok(());
    }
    if follows.len() > DECODE_ROWS {
        return Err(OpError::shape(OP, "segments", format!("at most {DECODE_ROWS}"), follows.len()));
    }
    let mut args = FollowArgs {
        pass: 0,
        chosen: cuda.chosen.address(),
        rejected: cuda.rejected.address(),
        follows: follows.len() as u32,
        unused: 0,
        follow: [One::default(); DECODE_ROWS],
    };
    follows.iter().try_for_each(|follow| follow.check(OP, pass, ids, picks))?;
    args.pass = cuda.stage_to_settle(OP, pass, ids, picks)?;
    for (to, follow) in args.follow.iter_mut().zip(follows) {
        *to = one(follow);
    }
    let launch = Launch { kernel: "follow_rounds", grid: [1, 1, 1], block: 32, shared: 0, pdl: false };
    cuda.gpu.launch(&launch, bytes_of(&args))
}

#[cfg(all(test, feature = "emulator"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::emulated::EmulatorOptions;
    use super::super::pass::front;
    use super::*;
    use crate::ops::{Ops, Segment};
    use crate::sample::SampleRow;
    use crate::splitmix::SplitMix64;

    const VOCAB: usize = 8;

    /// A device that has chosen the tokens of `rows` rows at temperature 1, and what they are.
    fn chosen(cuda: &Cuda, rows: usize, seed: u64) -> (u32, Vec<Option<u32>>) {
        let mut logits = cuda.zeros(crate::DType::F32, &[rows, VOCAB]).unwrap();
        let settings: Vec<SampleRow<'_>> =
            (0..rows).map(|row| SampleRow { seed, position: row as u64, ..SampleRow::default() }).collect();
        let chosen = cuda.sample(&mut logits, VOCAB, &settings).unwrap();
        (chosen.id(0), chosen.wait().unwrap())
    }

    fn staged(cuda: &Cuda, expected: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; expected.len()];
        cuda.gpu.read(cuda.staged().address(), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_pass_behind_rounds_is_settled_as_the_definition_says() {
        let cuda = Cuda::emulated(EmulatorOptions::default()).unwrap();
        let mut random = SplitMix64(3);
        let mut below = |n: u64| (random.next() % n) as usize;
        let mut seen = [0; DRAFTS + 1];
        for round in 0..80 {
            let sequences = 1 + below(4);
            let (mut pass, mut ids, mut follows) = (Pass { segments: vec![], exact: false }, vec![], vec![]);
            let mut known = std::collections::HashMap::new();
            let kind = below(4);
            let depths: Vec<usize> = (0..sequences).map(|_| below(DRAFTS as u64 + 1)).collect();
            let all: usize = depths.iter().map(|depth| depth + 1).sum();
            let (first, tokens) = chosen(&cuda, all, round);
            known.extend((first..).zip(tokens.iter().copied()));
            let (mut place, mut wants) = (first, Vec::new());
            for (s, depth) in depths.into_iter().enumerate() {
                // Mostly the tokens themselves, some as places that hold them.
                let drafts: Vec<u32> = (0..depth as u32)
                    .map(|i| match below(3) {
                        0 => VOCAB as u32 - 1,
                        1 => place + i,
                        _ => known[&(place + i)].unwrap(),
                    })
                    .collect();
                let first_row = ids.len();
                let states: Vec<u32> = (0..=depth as u32).map(|i| 10 * s as u32 + i).collect();
                let rows = match kind {
                    0 => depth + 1,
                    3 => 1 + below(3),
                    _ => 1,
                };
                ids.extend((0..rows).map(|row| below(VOCAB as u64) as u32 + row as u32));
                let kind = match kind {
                    0 => Following::Head { want: None },
                    3 => {
                        ids[first_row] = place + depth as u32;
                        Following::Trunk { states: states.clone() }
                    }
                    kind => Following::Draft { seeded: kind == 1 },
                };
                let mut snapshots = Vec::new();
                if rows > 1 && matches!(kind, Following::Trunk { .. }) {
                    snapshots = states[..(rows - 1).min(depth)].to_vec();
                    snapshots.extend((snapshots.len()..rows - 1).map(|i| 10 * s as u32 + 7 + i as u32));
                    snapshots.push(states[depth]);
                }
                let position = depth + below(50);
                let slot = states[depth] as usize;
                pass.segments.push(Segment { slot, first_row, rows, position, pages: vec![1, 2], snapshots });
                wants.push((first_row + rows - 1) as u32);
                follows.push(Follow { segment: s, chosen: place, drafts, kind });
                place += depth as u32 + 1;
            }
            let mut picks: Vec<u32> = (0..ids.len() as u32).map(|row| row + 9).collect();
            for (s, follow) in follows.iter_mut().enumerate() {
                if let Following::Head { want } = &mut follow.kind {
                    *want = (below(2) == 0).then_some(picks.len());
                    picks.extend(want.map(|_| wants[s]));
                }
            }
            cuda.begin(&pass, &ids, &picks).unwrap();
            assert!(cuda.follow(&pass, &ids, &picks, &follows).unwrap().is_none());
            assert!(cuda.follow(&pass, &ids, &picks, &follows).is_err(), "a pass is settled once");
            // What ops say of the pass meanwhile does not put it back.
            cuda.stage("test", &pass).unwrap();

            let (mut settled, mut rejections) = (pass.clone(), Vec::new());
            for follow in &follows {
                let rejected = follow.rejected(|id| known.get(&id).copied().unwrap_or(Some(id)));
                follow.settle(rejected, &mut settled, &mut ids, &mut picks);
                seen[rejected] += 1;
                rejections.push(rejected as u64);
            }
            let expected = {
                let staged = cuda.staged();
                front(staged.address(), staged.room(), &settled, &ids, &picks)
            };
            assert_eq!(staged(&cuda, &expected), expected, "round {round}");

            let mut logits = cuda.zeros(crate::DType::F32, &[follows.len(), VOCAB]).unwrap();
            let mut choose = |behind: bool| {
                let row = |i: usize| SampleRow {
                    seed: round,
                    position: 1000 * i as u64 + 20 - if behind { 0 } else { rejections[i] },
                    behind: behind.then_some(i as u32),
                    ..SampleRow::default()
                };
                let rows: Vec<SampleRow<'_>> = (0..rejections.len()).map(row).collect();
                cuda.sample(&mut logits, VOCAB, &rows).unwrap().wait().unwrap()
            };
            assert_eq!(choose(true), choose(false), "round {round}");
        }
        assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    }

    #[test]
    fn the_next_pass_is_staged_whole_although_the_one_before_was_changed_on_the_device() {
        let cuda = Cuda::emulated(EmulatorOptions::default()).unwrap();
        let (place, tokens) = chosen(&cuda, 2, 5);
        let segment =
            Segment { slot: 1, first_row: 0, rows: 1, position: 9, pages: vec![0], snapshots: vec![] };
        let pass = Pass { segments: vec![segment], exact: false };
        let wrong = (tokens[0].unwrap() + 1) % VOCAB as u32;
        let kind = Following::Trunk { states: vec![3, 1] };
        let follow = Follow { segment: 0, chosen: place, drafts: vec![wrong], kind };
        let ids = [place + 1];
        cuda.begin(&pass, &ids, &[]).unwrap();
        cuda.follow(&pass, &ids, &[], &[follow]).unwrap();
        cuda.begin(&pass, &ids, &[]).unwrap();
        let expected = {
            let staged = cuda.staged();
            front(staged.address(), staged.room(), &pass, &ids, &[])
        };
        assert_eq!(staged(&cuda, &expected), expected);
    }
}
