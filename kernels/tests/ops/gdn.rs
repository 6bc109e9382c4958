use super::bench::*;
use hearth_kernels::Tensor;
use hearth_kernels::ops::{GdnGates, GdnRows, GdnShape, Pass, Segment};

#[test]
fn convolution_agrees_with_an_f64_loop_and_does_not_care_how_the_rows_are_cut() {
    let mut rng = Rng(20);
    for (channels, width) in [(5, 2), (300, 4), (256, 3)] {
        let t = 11;
        let (w, x) = (rng.floats(channels * width), rng.floats(t * channels));
        let mut want = Vec::new();
        for i in 0..t as isize {
            for c in 0..channels {
                let tap = |j: usize| {
                    let from = i - (width - 1 - j) as isize;
                    if from < 0 {
                        0.0
                    } else {
                        f64::from(w[c * width + j]) * f64::from(x[from as usize * channels + c])
                    }
                };
                let y: f64 = (0..width).map(tap).sum();
                want.push(y * sigmoid(y));
            }
        }
        for cpu in with_emulated() {
            let w = tensor(&cpu, &[channels, width], &w);
            let run = |cuts: &[usize]| {
                let mut state = poisoned(&cpu, &[2, width - 1, channels]);
                let (mut out, mut at) = (Vec::new(), 0);
                for &rows in cuts {
                    let mut part = tensor(&cpu, &[rows, channels], &x[at * channels..(at + rows) * channels]);
                    cpu.gdn_conv(&pass(rows, at, vec![]), &w, &mut state, &mut part).unwrap();
                    out.extend(read(&cpu, &part, rows));
                    at += rows;
                }
                (out, read(&cpu, &state, width - 1))
            };
            let (whole, state) = run(&[t]);
            close(&name(&cpu), &whole, &want, 1e-6);
            same("state", &state, &x[(t + 1 - width) * channels..]);
            for cuts in [vec![1; t], vec![4, 7], vec![2, 1, 8]] {
                let (cut, cut_state) = run(&cuts);
                same(&format!("{cuts:?}"), &cut, &whole);
                same("state", &cut_state, &state);
            }
        }
    }
}

struct Layer {
    shape: GdnShape,
    qkv: Vec<f32>,
    z: Vec<f32>,
    a: Vec<f32>,
    b: Vec<f32>,
    a_log: Vec<f32>,
    dt_bias: Vec<f32>,
    norm: Vec<f32>,
}

impl Layer {
    fn random(rng: &mut Rng, shape: GdnShape, t: usize) -> Layer {
        let values = shape.v_heads * shape.v_dim;
        Layer {
            shape,
            qkv: rng.floats(t * shape.channels()),
            z: rng.floats(t * values),
            a: rng.floats(t * shape.v_heads),
            b: rng.floats(t * shape.v_heads),
            a_log: rng.floats(shape.v_heads),
            dt_bias: rng.floats(shape.v_heads),
            norm: rng.floats(shape.v_dim),
        }
    }

    /// Rows `first .. first + rows` of the pass, from the state that is there.
    fn run(&self, cpu: &Backend, first: usize, pass: &Pass, state: &mut Tensor) -> Vec<f32> {
        let rows = pass.rows();
        let cut =
            |x: &[f32], width: usize| tensor(cpu, &[rows, width], &x[first * width..(first + rows) * width]);
        let GdnShape { v_heads, v_dim, .. } = self.shape;
        let gates = GdnGates {
            a_log: tensor(cpu, &[v_heads], &self.a_log),
            dt_bias: tensor(cpu, &[v_heads], &self.dt_bias),
            out_norm: norm(cpu, &self.norm, 1e-6, 0.0),
        };
        let (qkv, z) = (cut(&self.qkv, self.shape.channels()), cut(&self.z, v_heads * v_dim));
        let (a, b) = (cut(&self.a, v_heads), cut(&self.b, v_heads));
        let mut out = poisoned(cpu, &[rows, v_heads * v_dim]);
        let input = GdnRows { qkv: &qkv, z: &z, a: &a, b: &b };
        cpu.gdn_step(pass, &self.shape, input, &gates, state, &mut out).unwrap();
        read(cpu, &out, rows)
    }

    /// The formula in f64: outputs and the last state.
    fn wanted(&self, t: usize) -> (Vec<f64>, Vec<f64>) {
        let GdnShape { k_heads, v_heads, k_dim, v_dim, .. } = self.shape;
        let mut out = vec![0.0; t * v_heads * v_dim];
        let mut states = Vec::new();
        for head in 0..v_heads {
            let mut s = vec![0.0f64; k_dim * v_dim];
            let key_head = head / (v_heads / k_heads);
            for i in 0..t {
                let row = wide(&self.qkv[i * self.shape.channels()..(i + 1) * self.shape.channels()]);
                let unit = |x: &[f64]| {
                    let scale = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() + 1e-6).sqrt();
                    x.iter().map(|x| x * scale).collect::<Vec<_>>()
                };
                let q = unit(&row[key_head * k_dim..(key_head + 1) * k_dim]);
                let k = unit(&row[(k_heads + key_head) * k_dim..(k_heads + key_head + 1) * k_dim]);
                let v = &row[2 * k_heads * k_dim + head * v_dim..][..v_dim];
                let x = f64::from(self.a[i * v_heads + head]) + f64::from(self.dt_bias[head]);
                let decay = (-f64::from(self.a_log[head]).exp() * x.exp().ln_1p()).exp();
                let beta = sigmoid(f64::from(self.b[i * v_heads + head]));
                let mut o = vec![0.0; v_dim];
                for c in 0..v_dim {
                    (0..k_dim).for_each(|r| s[r * v_dim + c] *= decay);
                    let seen: f64 = (0..k_dim).map(|r| s[r * v_dim + c] * k[r]).sum();
                    (0..k_dim).for_each(|r| s[r * v_dim + c] += k[r] * beta * (v[c] - seen));
                    o[c] = (0..k_dim).map(|r| s[r * v_dim + c] * q[r]).sum::<f64>() / (k_dim as f64).sqrt();
                }
                let scale = 1.0 / (o.iter().map(|x| x * x).sum::<f64>() / v_dim as f64 + 1e-6).sqrt();
                for c in 0..v_dim {
                    let at = (i * v_heads + head) * v_dim + c;
                    let z = f64::from(self.z[at]);
                    out[at] = o[c] * scale * f64::from(self.norm[c]) * z * sigmoid(z);
                }
            }
            states.extend(s);
        }
        (out, states)
    }
}

#[test]
fn the_delta_rule_agrees_with_an_f64_loop_and_with_itself_token_by_token() {
    let mut rng = Rng(21);
    for (k_heads, v_heads, k_dim, v_dim) in
        [(1, 1, 4, 3), (2, 4, 16, 64), (2, 6, 32, 130), (16, 32, 8, 128), (1, 2, 128, 128)]
    {
        let shape = GdnShape { k_heads, v_heads, k_dim, v_dim, conv_width: 4 };
        let t = 37;
        let layer = Layer::random(&mut rng, shape, t);
        let (want, want_state) = layer.wanted(t);
        for cpu in with_emulated() {
            let what = format!("{shape:?} {}", name(&cpu));
            // NaN in the state: position 0 must not read it.
            let mut state = poisoned(&cpu, &[1, v_heads, k_dim, v_dim]);
            let whole = layer.run(&cpu, 0, &exact(pass(t, 0, vec![])), &mut state);
            close(&what, &whole, &want, 1e-5);
            let whole_state = read(&cpu, &state, v_heads * k_dim);
            close(&what, &whole_state, &want_state, 1e-5);
            for cuts in [vec![1; t], vec![4, 7, 26], vec![16, 16, 5]] {
                let mut state = poisoned(&cpu, &[1, v_heads, k_dim, v_dim]);
                let (mut out, mut at) = (Vec::new(), 0);
                for rows in cuts {
                    out.extend(layer.run(&cpu, at, &exact(pass(rows, at, vec![])), &mut state));
                    at += rows;
                }
                same(&what, &out, &whole);
                same(&what, &read(&cpu, &state, v_heads * k_dim), &whole_state);
            }
        }
    }
}

/// The pass in decode's arithmetic.
fn exact(pass: Pass) -> Pass {
    Pass { exact: true, ..pass }
}

/// A pass of sequences in these slots, with so many rows from these positions.
fn many(segments: &[(usize, usize, usize)]) -> Pass {
    let mut first_row = 0;
    let segments = segments.iter().map(|&(slot, rows, position)| {
        let segment = Segment { slot, first_row, rows, position, pages: vec![], snapshots: vec![] };
        first_row += rows;
        segment
    });
    Pass { segments: segments.collect(), exact: false }
}

/// Prefill in chunks rounds differently from decode: products of f16 (2^-12), sums in f32.
#[test]
fn a_long_pass_agrees_with_an_f64_loop_and_goes_on_from_the_state_it_finds() {
    let mut rng = Rng(25);
    let shape = GdnShape { k_heads: 2, v_heads: 4, k_dim: 128, v_dim: 128, conv_width: 4 };
    let t = 210;
    for decay in ["as it comes", "slow", "fast"] {
        let mut layer = Layer::random(&mut rng, shape, t);
        match decay {
            "slow" => layer.a_log.fill(-6.0),
            "fast" => layer.a_log.fill(3.0),
            _ => {}
        }
        // Values of any size: only the eps of the norm knows.
        for row in layer.qkv.chunks_exact_mut(shape.channels()) {
            row[512..].iter_mut().for_each(|v| *v *= 1e4);
        }
        let (want, want_state) = layer.wanted(t);
        for cpu in with_emulated() {
            let what = format!("{decay} {}", name(&cpu));
            for cuts in [vec![t], vec![64, 5, 100, 1, 40]] {
                let mut state = poisoned(&cpu, &[1, 4, 128, 128]);
                let (mut out, mut at) = (Vec::new(), 0);
                for rows in cuts {
                    out.extend(layer.run(&cpu, at, &pass(rows, at, vec![]), &mut state));
                    at += rows;
                }
                close(&what, &out, &want, 1e-3);
                close(&what, &read(&cpu, &state, 4 * 128), &want_state, 1e-3);
            }
        }
    }
}

#[test]
fn long_and_short_sequences_in_one_pass_have_the_bits_they_have_alone() {
    let mut rng = Rng(26);
    let shape = GdnShape { k_heads: 1, v_heads: 1, k_dim: 128, v_dim: 128, conv_width: 4 };
    // More chunks than are prepared together, one sequence in both groups, and short ones between.
    let mut lengths = vec![17; 14];
    lengths.extend([1, 130, 16, 66, 3]);
    let t = lengths.iter().sum();
    let layer = Layer::random(&mut rng, shape, t);
    for cpu in with_emulated().into_iter().rev().take(2) {
        let slots = lengths.len();
        let mut alone = poisoned(&cpu, &[slots, 1, 128, 128]);
        let (mut out, mut at) = (Vec::new(), 0);
        for (slot, &rows) in lengths.iter().enumerate() {
            out.extend(layer.run(&cpu, at, &many(&[(slot, rows, 0)]), &mut alone));
            at += rows;
        }
        let all: Vec<_> = lengths.iter().enumerate().map(|(slot, &rows)| (slot, rows, 0)).collect();
        let mut together = poisoned(&cpu, &[slots, 1, 128, 128]);
        same(&name(&cpu), &layer.run(&cpu, 0, &many(&all), &mut together), &out);
        same(&name(&cpu), &read(&cpu, &together, slots * 128), &read(&cpu, &alone, slots * 128));
    }
}

#[test]
fn a_long_convolution_agrees_with_itself_row_by_row() {
    let mut rng = Rng(27);
    let (channels, width) = (131, 4);
    let lengths = [(2, 150, 0), (0, 64, 7), (1, 2, 0), (3, 65, 1)];
    let t: usize = lengths.iter().map(|l| l.1).sum();
    let (w, x) = (rng.floats(channels * width), rng.floats(t * channels));
    let start = rng.floats(4 * 3 * channels);
    for cpu in with_emulated() {
        let w = tensor(&cpu, &[channels, width], &w);
        let mut state = tensor(&cpu, &[4, 3, channels], &start);
        let mut whole = tensor(&cpu, &[t, channels], &x);
        cpu.gdn_conv(&many(&lengths), &w, &mut state, &mut whole).unwrap();
        let mut single = tensor(&cpu, &[4, 3, channels], &start);
        let (mut rows, mut at) = (Vec::new(), 0);
        for (slot, count, position) in lengths {
            for i in 0..count {
                let mut row = tensor(&cpu, &[1, channels], &x[at * channels..(at + 1) * channels]);
                cpu.gdn_conv(&many(&[(slot, 1, position + i)]), &w, &mut single, &mut row).unwrap();
                rows.extend(read(&cpu, &row, 1));
                at += 1;
            }
        }
        same(&name(&cpu), &read(&cpu, &whole, t), &rows);
        same(&name(&cpu), &read(&cpu, &state, 4 * 3), &read(&cpu, &single, 4 * 3));
    }
}

#[test]
fn sequences_in_one_pass_do_not_see_each_other() {
    let mut rng = Rng(22);
    let shape = GdnShape { k_heads: 2, v_heads: 4, k_dim: 8, v_dim: 16, conv_width: 4 };
    let layer = Layer::random(&mut rng, shape, 10);
    for cpu in with_emulated() {
        let mut alone = tensor(&cpu, &[3, 4, 8, 16], &vec![0.0; 3 * 4 * 8 * 16]);
        let first = layer.run(&cpu, 0, &pass(6, 0, vec![]), &mut alone);
        let second = layer.run(&cpu, 6, &pass(4, 0, vec![]), &mut alone);
        let both = Pass {
            segments: vec![
                Segment { slot: 2, first_row: 0, rows: 6, position: 0, pages: vec![], snapshots: vec![] },
                Segment { slot: 0, first_row: 6, rows: 4, position: 0, pages: vec![], snapshots: vec![] },
            ],
            exact: false,
        };
        let mut state = poisoned(&cpu, &[3, 4, 8, 16]);
        let together = layer.run(&cpu, 0, &both, &mut state);
        same("both", &together, &[first, second].concat());
        let untouched = cpu.read_rows(&state, 4 * 8, 4 * 8).unwrap();
        assert!(untouched.iter().all(|v| v.is_nan()), "slot 1 belongs to nobody in this pass");
    }
}

/// A pass of one segment that keeps the state after every row.
fn kept(slot: usize, position: usize, snapshots: &[u32]) -> Pass {
    let (rows, snapshots) = (snapshots.len(), snapshots.to_vec());
    Pass {
        segments: vec![Segment { slot, first_row: 0, rows, position, pages: vec![], snapshots }],
        exact: false,
    }
}

#[test]
fn a_snapshot_is_the_state_of_a_run_that_ended_there() {
    let mut rng = Rng(23);
    for (k_heads, v_heads, k_dim, v_dim) in [(1, 2, 5, 3), (1, 2, 128, 128)] {
        let shape = GdnShape { k_heads, v_heads, k_dim, v_dim, conv_width: 4 };
        let layer = Layer::random(&mut rng, shape, 11);
        let size = v_heads * k_dim;
        for cpu in with_emulated() {
            let what = format!("{shape:?} {}", name(&cpu));
            let state_shape = [5, v_heads, k_dim, v_dim];
            let mut plain = poisoned(&cpu, &state_shape);
            let mut out = layer.run(&cpu, 0, &pass(5, 0, vec![]), &mut plain);
            let start = read(&cpu, &plain, size);
            let mut states = Vec::new();
            for i in 5..11 {
                out.extend(layer.run(&cpu, i, &pass(1, i, vec![]), &mut plain));
                states.push(read(&cpu, &plain, size));
            }
            let slot_of =
                |state: &Tensor, slot: u32| cpu.read_rows(state, slot as usize * size, size).unwrap();

            // From the empty state, every row kept.
            let mut state = poisoned(&cpu, &state_shape);
            let first = layer.run(&cpu, 0, &kept(3, 0, &[4, 1, 2, 3, 0]), &mut state);
            same(&what, &first, &out[..first.len()]);
            same(&what, &slot_of(&state, 0), &start);
            // From a snapshot; the slot it starts from keeps its contents.
            let second = layer.run(&cpu, 5, &kept(0, 5, &[2, 4, 1]), &mut state);
            same(&what, &second, &out[first.len()..][..second.len()]);
            for (i, slot) in [0, 2, 4, 1].into_iter().enumerate() {
                same(&what, &slot_of(&state, slot), if i == 0 { &start } else { &states[i - 1] });
            }
            // Two of the three were accepted; now the slot it starts from is written again.
            let third = layer.run(&cpu, 7, &kept(4, 7, &[3, 4, 0, 2]), &mut state);
            same(&what, &third, &out[7 * v_heads * v_dim..]);
            for (i, slot) in [3, 4, 0, 2].into_iter().enumerate() {
                same(&what, &slot_of(&state, slot), &states[i + 2]);
            }
        }
    }
}

#[test]
fn the_convolution_keeps_its_inputs_after_every_row_too() {
    let mut rng = Rng(24);
    for (channels, width, t) in [(5, 2, 9), (130, 4, 9), (7, 6, 9), (3, 4, 75)] {
        let (w, x) = (rng.floats(channels * width), rng.floats(t * channels));
        for cpu in with_emulated() {
            let held = width - 1;
            let w = tensor(&cpu, &[channels, width], &w);
            let mut plain = tensor(&cpu, &[t, channels], &x);
            let mut plain_state = poisoned(&cpu, &[1, held, channels]);
            cpu.gdn_conv(&pass(t, 0, vec![]), &w, &mut plain_state, &mut plain).unwrap();

            let mut state = poisoned(&cpu, &[t, held, channels]);
            let mut head = tensor(&cpu, &[2, channels], &x[..2 * channels]);
            cpu.gdn_conv(&kept(0, 0, &[0, 1]), &w, &mut state, &mut head).unwrap();
            let mut tail = tensor(&cpu, &[t - 2, channels], &x[2 * channels..]);
            let slots: Vec<u32> = (1..t as u32 - 1).rev().collect();
            cpu.gdn_conv(&kept(1, 2, &slots), &w, &mut state, &mut tail).unwrap();
            let out = [read(&cpu, &head, 2), read(&cpu, &tail, t - 2)].concat();
            same(&name(&cpu), &out, &read(&cpu, &plain, t));
            for (i, slot) in slots.into_iter().enumerate() {
                let found = cpu.read_rows(&state, slot as usize * held, held).unwrap();
                for j in 0..held {
                    let wanted = match (i + 2 + j + 1).checked_sub(held) {
                        Some(row) => &x[row * channels..(row + 1) * channels],
                        None => &vec![0.0; channels],
                    };
                    same(&name(&cpu), &found[j * channels..(j + 1) * channels], wanted);
                }
            }
        }
    }
}
