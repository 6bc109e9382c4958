//! The projections of a gated delta net behind their norm, and the convolution that ends their launch where the device does
//! both in one: against an f64 loop, and to the last bit against any other cut of the rows.

use super::bench::*;
use hearth_kernels::ops::{GdnInputs, GdnRowsMut, Pass, Segment};
use hearth_kernels::{Tensor, Weight};

pub const CHANNELS: usize = 43;
const GATES: usize = 24;
const HEADS: usize = 6;
pub const HELD: usize = 3;

pub struct Layer {
    hidden: usize,
    kinds: [Kind; 4],
    matrices: [Matrix; 4],
    norm: Vec<f32>,
    taps: Vec<f32>,
    x: Vec<f32>,
}

impl Layer {
    pub fn random(rng: &mut Rng, hidden: usize, kinds: [Kind; 4], t: usize) -> Layer {
        let rows = [CHANNELS, GATES, HEADS, HEADS];
        let matrices = [0, 1, 2, 3].map(|i| Matrix::random(rng, kinds[i], rows[i], hidden));
        let (norm, taps) = (rng.floats(hidden), rng.floats(CHANNELS * (HELD + 1)));
        let x = rng.floats(t * hidden).iter().map(|x| x * 30.0).collect();
        Layer { hidden, kinds, matrices, norm, taps, x }
    }

    /// What `run` gives for one sequence of rows `first .. first + t` from its beginning, and the inputs its state then holds.
    fn wanted(&self, first: usize, t: usize) -> ([Vec<f64>; 4], Vec<f64>) {
        let normed: Vec<f64> = wide(&self.x[first * self.hidden..(first + t) * self.hidden])
            .chunks(self.hidden)
            .flat_map(|x| {
                let scale = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + 1e-6).sqrt();
                x.iter()
                    .zip(&self.norm)
                    .map(move |(x, w)| x * scale * (f64::from(*w) + 1.0))
                    .collect::<Vec<f64>>()
            })
            .collect();
        let mut out = [0, 1, 2, 3].map(|i| {
            let matrix = &self.matrices[i];
            product(&matrix.numbers(), &normed, matrix.rows, self.hidden)
        });
        // Inputs before the first row are zeros.
        let raw = [vec![0.0; HELD * CHANNELS], out[0].clone()].concat();
        for (at, y) in out[0].iter_mut().enumerate() {
            let tap =
                |j: usize| f64::from(self.taps[at % CHANNELS * (HELD + 1) + j]) * raw[at + j * CHANNELS];
            let sum: f64 = (0..=HELD).map(tap).sum();
            *y = sum * sigmoid(sum);
        }
        (out, raw[t * CHANNELS..].to_vec())
    }

    /// q | k | v, the gate, decay and strength of rows `first ..` that `pass` runs.
    pub fn run(&self, on: &Backend, first: usize, pass: &Pass, state: &mut Tensor) -> [Vec<f32>; 4] {
        self.run_rows(on, &(first..first + pass.rows()).collect::<Vec<usize>>(), pass, state)
    }

    fn run_rows(&self, on: &Backend, rows: &[usize], pass: &Pass, state: &mut Tensor) -> [Vec<f32>; 4] {
        let t = rows.len();
        let x: Vec<f32> =
            rows.iter().flat_map(|i| &self.x[i * self.hidden..(i + 1) * self.hidden]).copied().collect();
        let w: Vec<Weight> = self.matrices.iter().map(|m| on.pack(&[m.packed()]).unwrap()).collect();
        let x = tensor(on, &[t, self.hidden], &x);
        let norm = norm(on, &self.norm, 1e-6, 1.0);
        let taps = tensor(on, &[CHANNELS, HELD + 1], &self.taps);
        let mut h = poisoned(on, &[t, self.hidden]);
        let mut outs: Vec<Tensor> = self.matrices.iter().map(|m| poisoned(on, &[t, m.rows])).collect();
        let [qkv, z, a, b] = &mut outs[..] else { unreachable!() };
        let weights = GdnInputs { qkv: &w[0], z: &w[1], a: &w[2], b: &w[3], conv: &taps };
        on.begin(pass, &vec![0; t], &[]).unwrap();
        on.gdn_in(pass, &x, &norm, weights, state, &mut h, GdnRowsMut { qkv, z, a, b }).unwrap();
        [0, 1, 2, 3].map(|i| read(on, &outs[i], t))
    }
}

/// FP8 and bf16, as in the 35B. One format. Many. The last two have a launch for their f32, and the last convolves elsewhere.
pub const LAYERS: [[Kind; 4]; 7] = [
    [Kind::Fp8Tensor, Kind::Fp8Tensor, Kind::Bf16, Kind::Bf16],
    [Kind::Bf16, Kind::Bf16, Kind::Bf16, Kind::Bf16],
    [Kind::Nvfp4Multiply, Kind::Nvfp4Multiply, Kind::Nvfp4Multiply, Kind::Nvfp4Multiply],
    [Kind::F16, Kind::F16, Kind::Bf16, Kind::Bf16],
    [Kind::Nvfp4Divide, Kind::Fp8Block, Kind::F16, Kind::Bf16],
    [Kind::Fp8Tensor, Kind::F32, Kind::F32, Kind::Bf16],
    [Kind::F32, Kind::Bf16, Kind::Bf16, Kind::F32],
];

/// How far numbers may be from the f64 loop's, of the largest: the CPU's are f32, a device's are two numbers of 16 bits each.
fn tolerance(on: &Backend) -> f64 {
    if on.device() == "cpu" { 2e-6 } else { 2e-5 }
}

#[test]
fn every_number_of_rows_has_the_bits_of_its_rows_alone_and_agrees_with_an_f64_loop() {
    let mut rng = Rng(90);
    let t = 16;
    for kinds in LAYERS {
        let layer = Layer::random(&mut rng, 208, kinds, t);
        let (want, want_state) = layer.wanted(0, t);
        for on in one_of_each() {
            let what = format!("{:?} {}", layer.kinds, name(&on));
            let mut state = poisoned(&on, &[1, HELD, CHANNELS]);
            let whole = layer.run(&on, 0, &pass(t, 0, vec![]), &mut state);
            let whole_state = read(&on, &state, HELD);
            for (got, want) in whole.iter().zip(&want) {
                close(&what, got, want, tolerance(&on));
            }
            close(&what, &whole_state, &want_state, tolerance(&on));
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
        let layer = Layer::random(&mut rng, 208, kinds, 8);
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

#[test]
fn a_full_pass_of_sequences_gives_each_what_it_has_alone_however_few_blocks_there_are() {
    let mut rng = Rng(92);
    let lengths = [1, 4, 2, 1, 5, 3];
    let begins: Vec<usize> = (0..lengths.len()).map(|i| lengths[..i].iter().sum()).collect();
    let t: usize = lengths.iter().sum();
    // Rows of 1090 numbers: sixteen do not fit into shared memory at once.
    for (kinds, hidden) in [(LAYERS[0], 208), (LAYERS[1], 208), (LAYERS[0], 1090)] {
        let layer = Layer::random(&mut rng, hidden, kinds, t);
        for on in few_blocks() {
            let what = format!("{kinds:?} {hidden} {}", name(&on));
            let slots = [3, 0, 5, 1, 4, 2];
            let mut state = poisoned(&on, &[lengths.len(), HELD, CHANNELS]);
            // Each sequence's first row, then all others; the second pass goes on from what the first left.
            let mut parts: Vec<Vec<f32>> = vec![vec![]; lengths.len()];
            let segment = |i: usize, first_row: usize, rows: usize, position: usize| Segment {
                slot: slots[i],
                first_row,
                rows,
                position,
                pages: vec![],
                snapshots: vec![],
            };
            let of = |segments: Vec<Segment>| Pass { segments, exact: false };
            for i in 0..lengths.len() {
                let one = of(vec![segment(i, 0, 1, 0)]);
                parts[i].extend(layer.run(&on, begins[i], &one, &mut state)[0].clone());
            }
            let long: Vec<usize> = (0..lengths.len()).filter(|i| lengths[*i] > 1).collect();
            let (mut segments, mut rows) = (vec![], vec![]);
            for &i in &long {
                segments.push(segment(i, rows.len(), lengths[i] - 1, 1));
                rows.extend(begins[i] + 1..begins[i] + lengths[i]);
            }
            let out = layer.run_rows(&on, &rows, &of(segments), &mut state)[0].clone();
            let mut at = 0;
            for &i in &long {
                let numbers = (lengths[i] - 1) * CHANNELS;
                parts[i].extend(&out[at..at + numbers]);
                at += numbers;
            }
            // All at once from the beginning: the same bits, and what the f64 loop says.
            let segments = (0..lengths.len()).map(|i| segment(i, begins[i], lengths[i], 0)).collect();
            let mut fresh = poisoned(&on, &[lengths.len(), HELD, CHANNELS]);
            let whole = layer.run(&on, 0, &of(segments), &mut fresh)[0].clone();
            same(&what, &whole, &parts.concat());
            same(&what, &read(&on, &fresh, lengths.len() * HELD), &read(&on, &state, lengths.len() * HELD));
            for (i, part) in parts.iter().enumerate() {
                let (want, want_state) = layer.wanted(begins[i], lengths[i]);
                close(&what, part, &want[0], tolerance(&on));
                let held = on.read_rows(&fresh, slots[i] * HELD, HELD).unwrap();
                close(&what, &held, &want_state, tolerance(&on));
            }
        }
    }
}

/// One backend of each kind, and a device of one multiprocessor, whose blocks have several row tiles each.
fn few_blocks() -> Vec<Backend> {
    #[cfg(feature = "emulator")]
    return one_of_each().into_iter().chain([emulated_with(1)]).collect();
    #[cfg(not(feature = "emulator"))]
    one_of_each()
}
