//! The projections of a gated delta net behind their norm, and the convolution that ends their launch where the device does
//! both in one: against the definition, and to the last bit against any other cut of the rows.

use super::bench::*;
use hearth_kernels::ops::{GdnInputs, GdnRowsMut, Pass, Segment};
use hearth_kernels::{Tensor, Weight};

const HIDDEN: usize = 208;
const CHANNELS: usize = 43;
const GATES: usize = 24;
const HEADS: usize = 6;
const HELD: usize = 3;

struct Layer {
    kinds: [Kind; 4],
    matrices: [Matrix; 4],
    norm: Vec<f32>,
    taps: Vec<f32>,
    x: Vec<f32>,
}

impl Layer {
    fn random(rng: &mut Rng, kinds: [Kind; 4], t: usize) -> Layer {
        let rows = [CHANNELS, GATES, HEADS, HEADS];
        let matrices = [0, 1, 2, 3].map(|i| Matrix::random(rng, kinds[i], rows[i], HIDDEN));
        let (norm, taps) = (rng.floats(HIDDEN), rng.floats(CHANNELS * (HELD + 1)));
        let x = rng.floats(t * HIDDEN).iter().map(|x| x * 30.0).collect();
        Layer { kinds, matrices, norm, taps, x }
    }

    /// q | k | v, the gate, decay and strength of rows `first ..` that `pass` runs.
    fn run(&self, on: &Backend, first: usize, pass: &Pass, state: &mut Tensor) -> [Vec<f32>; 4] {
        let t = pass.rows();
        let w: Vec<Weight> = self.matrices.iter().map(|m| on.pack(&[m.packed()]).unwrap()).collect();
        let x = tensor(on, &[t, HIDDEN], &self.x[first * HIDDEN..(first + t) * HIDDEN]);
        let norm = norm(on, &self.norm, 1e-6, 1.0);
        let taps = tensor(on, &[CHANNELS, HELD + 1], &self.taps);
        let mut h = poisoned(on, &[t, HIDDEN]);
        let mut outs: Vec<Tensor> = self.matrices.iter().map(|m| poisoned(on, &[t, m.rows])).collect();
        let [qkv, z, a, b] = &mut outs[..] else { unreachable!() };
        let weights = GdnInputs { qkv: &w[0], z: &w[1], a: &w[2], b: &w[3], conv: &taps };
        on.begin(pass, &vec![0; t], &[]).unwrap();
        on.gdn_in(pass, &x, &norm, weights, state, &mut h, GdnRowsMut { qkv, z, a, b }).unwrap();
        [0, 1, 2, 3].map(|i| read(on, &outs[i], t))
    }
}

/// FP8 and bf16, as in the 35B: one launch up to eight rows. One format: a launch each. Many formats.
const LAYERS: [[Kind; 4]; 3] = [
    [Kind::Fp8Tensor, Kind::Fp8Tensor, Kind::Bf16, Kind::Bf16],
    [Kind::Bf16, Kind::Bf16, Kind::Bf16, Kind::Bf16],
    [Kind::Nvfp4Divide, Kind::Fp8Block, Kind::F16, Kind::Bf16],
];

#[test]
fn every_number_of_rows_has_the_bits_of_its_rows_alone_and_agrees_with_the_definition() {
    let mut rng = Rng(90);
    let t = 16;
    for kinds in LAYERS {
        let layer = Layer::random(&mut rng, kinds, t);
        let definition = &backends()[0];
        let mut state = poisoned(definition, &[1, HELD, CHANNELS]);
        let want = layer.run(definition, 0, &pass(t, 0, vec![]), &mut state);
        let want_state = read(definition, &state, HELD);
        for on in emulated() {
            let what = format!("{:?} {}", layer.kinds, name(&on));
            let mut state = poisoned(&on, &[1, HELD, CHANNELS]);
            let whole = layer.run(&on, 0, &pass(t, 0, vec![]), &mut state);
            let whole_state = read(&on, &state, HELD);
            for (got, want) in whole.iter().zip(&want) {
                close(&what, got, &wide(want), 2e-5);
            }
            close(&what, &whole_state, &wide(&want_state), 2e-5);
            for cuts in [vec![1; t], vec![4, 8, 3, 1], vec![9, 7], vec![2, 5, 9]] {
                let mut state = poisoned(&on, &[1, HELD, CHANNELS]);
                let (mut parts, mut at) = ([(); 4].map(|()| Vec::new()), 0);
                for &rows in &cuts {
                    let outs = layer.run(&on, at, &pass(rows, at, vec![]), &mut state);
                    parts.iter_mut().zip(outs).for_each(|(part, out)| part.extend(out));
                    at += rows;
                }
                for (part, whole) in parts.iter().zip(&whole) {
                    same(&format!("{what} {cuts:?}"), part, whole);
                }
                same(&format!("{what} {cuts:?}: state"), &read(&on, &state, HELD), &whole_state);
            }
        }
    }
}

#[test]
fn sequences_beside_each_other_and_snapshots_leave_each_its_own_inputs() {
    let mut rng = Rng(91);
    for kinds in LAYERS {
        let layer = Layer::random(&mut rng, kinds, 8);
        for on in emulated() {
            let what = format!("{:?} {}", layer.kinds, name(&on));
            // One sequence of five rows, one row after the other, then one of three.
            let mut plain = poisoned(&on, &[2, HELD, CHANNELS]);
            let (mut rows, mut states) = (Vec::new(), Vec::new());
            for i in 0..5 {
                rows.extend(layer.run(&on, i, &pass(1, i, vec![]), &mut plain)[0].clone());
                states.push(read(&on, &plain, HELD));
            }
            let other = Pass {
                segments: vec![Segment {
                    slot: 1,
                    first_row: 0,
                    rows: 3,
                    position: 0,
                    pages: vec![],
                    snapshots: vec![],
                }],
                exact: false,
            };
            rows.extend(layer.run(&on, 5, &other, &mut plain)[0].clone());
            let last = on.read_rows(&plain, HELD, HELD).unwrap();
            // Both in one pass, the first with a snapshot after every row.
            let snapshots = vec![4, 2, 5, 1, 3];
            let both = Pass {
                segments: vec![
                    Segment {
                        slot: 0,
                        first_row: 0,
                        rows: 5,
                        position: 0,
                        pages: vec![],
                        snapshots: snapshots.clone(),
                    },
                    Segment { slot: 6, first_row: 5, rows: 3, position: 0, pages: vec![], snapshots: vec![] },
                ],
                exact: false,
            };
            let mut state = poisoned(&on, &[7, HELD, CHANNELS]);
            same(&what, &layer.run(&on, 0, &both, &mut state)[0], &rows);
            let slot = |slot: usize| on.read_rows(&state, slot * HELD, HELD).unwrap();
            assert!(slot(0).iter().all(|x| x.is_nan()), "{what}: the slot it started from is left alone");
            for (snapshot, wanted) in snapshots.iter().zip(&states) {
                // Rows before the first are zeros.
                same(&format!("{what}: snapshot {snapshot}"), &slot(*snapshot as usize), wanted);
            }
            same(&format!("{what}: the other's"), &slot(6), &last);
        }
    }
}
