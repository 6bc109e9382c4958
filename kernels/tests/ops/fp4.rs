//! Rows rounded to NVFP4, and their products with NVFP4 weights: the rounding to the last bit, the products against an f64
//! loop over what the rounding leaves (tight) and over the numbers themselves (what the option costs).

use super::bench::{
    self, Backend, Kind, Matrix, Rng, close, emulated_with, magnitudes, norm, pass, poisoned, product, read,
    same, sigmoid, tensor, wide, within,
};
use hearth_kernels::cpu::Cpu;
use hearth_kernels::cuda::Cuda;
use hearth_kernels::cuda::emulated::{Emulator, EmulatorOptions};
use hearth_kernels::fp4::{Nvfp4Row, round_row};
use hearth_kernels::ops::{Pass, Route};
use hearth_kernels::{DType, OpError, Tensor};

/// Of the sum of the terms' magnitudes: what f32 sums may lose.
const SUMS: f64 = 1e-6;

fn cpu() -> Backend {
    Backend { name: "cpu".into(), ops: Box::new(Cpu::new(Some(1)).unwrap()) }
}

/// Those devices that have the instruction: a GPU of another kind has not.
fn devices() -> Vec<Backend> {
    let has = |device: &Backend| {
        device.set_fp4_activations(true).and_then(|()| device.set_fp4_activations(false)).is_ok()
    };
    bench::devices().into_iter().filter(has).collect()
}

fn emulated() -> Vec<Backend> {
    devices().into_iter().take(1).collect()
}

fn switched_on(device: Backend) -> Backend {
    device.set_fp4_activations(true).unwrap();
    device
}

/// What the rounding leaves of rows `cols` wide.
fn rounded(x: &[f32], cols: usize) -> Vec<f64> {
    let numbers = |row: Nvfp4Row| (0..cols).map(move |i| f64::from(row.number(i)));
    x.chunks(cols).flat_map(|x| numbers(round_row(x))).collect()
}

/// Rows of very different size, one of zeros, each with a block of small numbers.
fn uneven(rng: &mut Rng, t: usize, cols: usize) -> Vec<f32> {
    let mut x = rng.floats(t * cols);
    for (i, x) in x.chunks_exact_mut(cols).enumerate() {
        x.iter_mut().for_each(|x| *x *= [1.0, 1e-6, 3e5, 0.0, 7e-30][i % 5]);
        x[..16.min(cols)].iter_mut().for_each(|x| *x *= 1e-3);
    }
    x
}

/// Root of the mean square of a difference, as a share of the wanted numbers'.
fn deviation(got: &[f32], want: &[f64]) -> f64 {
    let square = |sum: f64, x: f64| sum + x * x;
    let off = got.iter().zip(want).map(|(got, want)| f64::from(*got) - want).fold(0.0, square);
    (off / want.iter().copied().fold(0.0, square)).sqrt()
}

/// A group of 256 columns: 128 bytes of codes, 16 of scales.
const GROUP: usize = 144;

/// The row that the bytes hold, by the drawing in fp4.cuh.
fn unpacked(bytes: &[u8], cols: usize) -> (Vec<u8>, Vec<u8>) {
    let code = |column: usize| {
        let (group, tile, in_tile) = (column / 256, column / 64 % 4, column % 64);
        let (block, half, j) = (in_tile / 16, in_tile / 8 % 2, in_tile % 8);
        let (lane, register) = (2 * (block / 2) + half, block % 2);
        let nibble = 4 * (j % 2) + [3, 1, 2, 0][j / 2];
        bytes[group * GROUP + 32 * lane + 8 * tile + 4 * register + nibble / 2] >> (4 * (nibble % 2)) & 15
    };
    let scale = |block: usize| {
        let (group, tile, block) = (block / 16, block / 4 % 4, block % 4);
        bytes[group * GROUP + 128 + 4 * tile + block / 2 + 2 * (block % 2)]
    };
    ((0..cols).map(code).collect(), (0..cols / 16).map(scale).collect())
}

#[test]
fn rows_on_the_device_are_rounded_as_the_definition_says_to_the_last_bit() {
    let mut rng = Rng(90);
    let gpu = Emulator::new(EmulatorOptions::default()).unwrap();
    for (t, cols, stride) in [(1usize, 16usize, 16usize), (5, 48, 51), (6, 256, 256), (11, 592, 600)] {
        let groups = cols.div_ceil(256);
        let mut x = uneven(&mut rng, t, stride);
        // Every tie of E2M1 and its neighbours, in a block whose scale is 1 (if the row has no larger number).
        let ties = [6.0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 0.2500001, 0.7499999, -2.5, -0.25, 4.9999995];
        x[..ties.len()].copy_from_slice(&ties);
        if t > 5 {
            x[4 * stride + 7] = f32::NAN;
            x[5 * stride + cols - 1] = f32::NEG_INFINITY;
        }
        let at = gpu.alloc(4 * x.len()).unwrap();
        gpu.write(at, &super::bench::bytes(&x)).unwrap();
        let (out, undo) = (gpu.alloc(t * groups * GROUP).unwrap(), gpu.alloc(4 * t).unwrap());
        let mut args: Vec<u8> = [at, 0, 0, 0, out, undo].iter().flat_map(|v| v.to_le_bytes()).collect();
        let numbers = [0, 0, t as u32, stride as u32, cols as u32, groups as u32, 0, 0];
        args.extend(numbers.iter().flat_map(|v: &u32| v.to_le_bytes()));
        gpu.launch("fp4_quantise", [t.div_ceil(4) as u32, 1, 1], 128, 0, &args).unwrap();
        let (mut rows, mut undos) = (vec![0; t * groups * GROUP], vec![0; 4 * t]);
        gpu.read(out, &mut rows).unwrap();
        gpu.read(undo, &mut undos).unwrap();
        for i in 0..t {
            let want = round_row(&x[i * stride..][..cols]);
            let bytes = &rows[i * groups * GROUP..(i + 1) * groups * GROUP];
            let (codes, scales) = unpacked(bytes, groups * 256);
            assert_eq!(scales[..cols / 16], want.scales, "row {i} of {cols}");
            assert_eq!(codes[..cols], want.codes, "row {i} of {cols}");
            assert!(codes[cols..].iter().chain(&scales[cols / 16..]).all(|v| *v == 0), "beyond its end");
            let undo = f32::from_le_bytes(undos[4 * i..][..4].try_into().unwrap());
            // The weight's row scales hold 2^14.
            assert!(
                undo * 16384.0 == want.unit || (undo.is_nan() && want.unit.is_nan()),
                "row {i}: {undo:e}"
            );
        }
    }
}

/// Row tiles and columns with odd tails; the last fills several blocks and stages.
const SHAPES: [(usize, usize); 6] = [(1, 16), (5, 48), (33, 80), (24, 1104), (130, 272), (300, 576)];

#[test]
fn products_are_those_of_the_rounded_rows_for_every_shape() {
    let mut rng = Rng(91);
    // With one multiprocessor blocks have 128 rows.
    let backends = [cpu(), emulated().remove(0), emulated_with(1)].map(switched_on);
    for (rows, cols) in SHAPES {
        for (kind, t) in [(Kind::Nvfp4Divide, 17), (Kind::Nvfp4Multiply, 70), (Kind::Nvfp4Divide, 131)] {
            if rows * t > 30_000 {
                continue;
            }
            let matrix = Matrix::random(&mut rng, kind, rows, cols);
            let x = uneven(&mut rng, t, cols);
            let (w, x_rounded) = (matrix.numbers(), rounded(&x, cols));
            let want = product(&w, &x_rounded, rows, cols);
            let most = magnitudes(&w, &x_rounded, rows, cols);
            for device in &backends {
                let w = device.pack(&[matrix.packed()]).unwrap();
                let mut out = poisoned(device, &[t, rows]);
                device.linear(t, &tensor(device, &[t, cols], &x), &w, &mut out).unwrap();
                let what = format!("[{rows}, {cols}] t={t} {}", device.name);
                within(&what, &read(device, &out, t), &want, &most, SUMS);
            }
        }
    }
}

#[test]
fn the_order_of_threads_and_the_moment_of_copies_change_nothing() {
    let mut rng = Rng(92);
    let (rows, cols, t) = (40, 1104, 67);
    let matrix = Matrix::random(&mut rng, Kind::Nvfp4Multiply, rows, cols);
    let x = rng.floats(t * cols);
    let outs: Vec<Vec<f32>> = devices()
        .into_iter()
        .map(switched_on)
        .map(|device| {
            let w = device.pack(&[matrix.packed()]).unwrap();
            let mut out = poisoned(&device, &[t, rows]);
            device.linear(t, &tensor(&device, &[t, cols], &x), &w, &mut out).unwrap();
            read(&device, &out, t)
        })
        .collect();
    outs[1..].iter().for_each(|out| same("another order", out, &outs[0]));
}

#[test]
fn the_option_costs_a_tenth_of_the_result_and_nothing_where_it_is_not_used() {
    let mut rng = Rng(93);
    let (rows, cols, t) = (96, 512, 40);
    let matrix = Matrix::random(&mut rng, Kind::Nvfp4Multiply, rows, cols);
    let bf16 = Matrix::random(&mut rng, Kind::Bf16, rows, cols);
    let x = rng.floats(t * cols);
    let want = product(&matrix.numbers(), &wide(&x), rows, cols);
    for device in [cpu(), emulated().remove(0)] {
        let (w, other) = (device.pack(&[matrix.packed()]).unwrap(), device.pack(&[bf16.packed()]).unwrap());
        let run = |w, t: usize, exact: bool| {
            device.begin(&Pass { exact, ..pass(t, 0, vec![]) }, &vec![0; t], &[]).unwrap();
            let mut out = poisoned(&device, &[t, rows]);
            device.linear(t, &tensor(&device, &[t, cols], &x[..t * cols]), w, &mut out).unwrap();
            read(&device, &out, t)
        };
        let plain = [run(&w, t, false), run(&w, 16, false), run(&w, t, true), run(&other, t, false)];
        assert!(deviation(&plain[0], &want) < 1e-3);
        device.set_fp4_activations(true).unwrap();
        let off = deviation(&run(&w, t, false), &want);
        // Uniform numbers: each is off by some 8 % of their root mean square, each sum by as much.
        assert!((0.04..0.12).contains(&off), "{}: {off}", device.name);
        same("a pass of decode", &run(&w, 16, false), &plain[1]);
        same("an exact pass", &run(&w, t, true), &plain[2]);
        same("a weight of bf16", &run(&other, t, false), &plain[3]);
        device.set_fp4_activations(false).unwrap();
        same("switched off again", &run(&w, t, false), &plain[0]);
    }
}

#[test]
fn a_sum_is_added_and_a_norm_and_swiglu_are_done_in_the_same_launch() {
    let mut rng = Rng(94);
    let (inter, cols, t) = (40, 208, 21);
    let halves = [(); 2].map(|()| Matrix::random(&mut rng, Kind::Nvfp4Divide, inter, cols));
    let (x, residual) = (rng.floats(t * cols), rng.floats(t * inter));
    let weight: Vec<f32> = (0..cols).map(|i| (i % 7) as f32 / 7.0 - 0.4).collect();
    let device = switched_on(emulated().remove(0));
    let reference = switched_on(cpu());

    let added = |device: &Backend, start: &[f32]| {
        let w = device.pack(&[halves[0].packed()]).unwrap();
        let mut out = tensor(device, &[t, inter], start);
        device.linear_add(t, &tensor(device, &[t, cols], &x), &w, &mut out).unwrap();
        read(device, &out, t)
    };
    let want = added(&device, &vec![0.0; t * inter]);
    let want: Vec<f32> = want.iter().zip(&residual).map(|(product, there)| there + product).collect();
    same("added", &added(&device, &residual), &want);

    let inner = |device: &Backend| {
        let w = device.pack_gate_up(&[halves[0].packed(), halves[1].packed()]).unwrap();
        let norm = norm(device, &weight, 1e-6, 1.0);
        let (mut h, mut both) = (poisoned(device, &[t, cols]), poisoned(device, &[t, 2 * inter]));
        let mut out = poisoned(device, &[t, inter]);
        let x = tensor(device, &[t, cols], &x);
        device.ffn_in(&pass(t, 0, vec![]), &x, &norm, &w, &mut h, &mut both, &mut out).unwrap();
        read(device, &out, t)
    };
    // Norms that differ in their last bit may round a number at a tie the other way: a few results are off by a step.
    let (got, want) = (inner(&device), wide(&inner(&reference)));
    let off = deviation(&got, &want);
    assert!(off < 0.01, "{off}");
    let close = got.iter().zip(&want).filter(|(got, want)| (f64::from(**got) - *want).abs() < 1e-4).count();
    assert!(close * 10 > got.len() * 8, "{close} of {}", got.len());
}

#[test]
fn what_is_no_number_shows_in_every_result_of_its_row_and_no_other() {
    let mut rng = Rng(95);
    let (rows, cols, t) = (20, 144, 18);
    let matrix = Matrix::random(&mut rng, Kind::Nvfp4Divide, rows, cols);
    for device in [cpu(), emulated().remove(0)].map(switched_on) {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = rng.floats(t * cols);
            x[3 * cols + 70] = bad;
            let w = device.pack(&[matrix.packed()]).unwrap();
            let mut out = poisoned(&device, &[t, rows]);
            device.linear(t, &tensor(&device, &[t, cols], &x), &w, &mut out).unwrap();
            for (i, out) in read(&device, &out, t).chunks(rows).enumerate() {
                assert!(out.iter().all(|v| v.is_nan() == (i == 3)), "row {i} of {}", device.name);
            }
        }
    }
}

/// What a layer of experts gives, op by op, on a device that is switched on: act, and the sums.
fn mixture(
    device: &Backend,
    layer: &[(Matrix, Matrix, Matrix)],
    ids: &[u32],
    x: &[f32],
    start: &[f32],
    hidden: usize,
    max: usize,
) -> (Vec<f32>, Vec<f32>) {
    let t = x.len() / hidden;
    let slots = ids.len() / t;
    let gate_up = layer.iter().map(|(g, u, _)| device.pack_gate_up(&[g.packed(), u.packed()]).unwrap());
    let down = layer.iter().map(|(_, _, d)| device.pack(&[d.packed()]).unwrap()).collect();
    let experts = device.experts(gate_up.collect(), down, max).unwrap();
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let route = Route {
        ids: device.upload(DType::U32, &bytes, DType::U32, &[t, slots]).unwrap(),
        weights: tensor(device, &[t, slots], &weights(ids.len())),
        slots,
    };
    let pass = pass(t, 0, vec![]);
    let mut act = poisoned(device, &[t, slots * max]);
    device.moe_gate_up(&pass, &tensor(device, &[t, hidden], x), &route, &experts, &mut act).unwrap();
    let mut out = tensor(device, &[t, hidden], start);
    device.moe_down(&pass, &act, &route, &experts, &mut out).unwrap();
    (read(device, &act, t), read(device, &out, t))
}

fn weights(pairs: usize) -> Vec<f32> {
    (0..pairs).map(|i| 0.1 + (i % 5) as f32 * 0.2).collect()
}

#[test]
fn experts_of_nvfp4_multiply_rounded_rows_and_others_in_the_layer_do_not() {
    let mut rng = Rng(96);
    let (hidden, t, slots) = (592, 75, 3);
    // Widths with tails, one wider than a group; the bf16 expert is computed as ever. Expert 0 has more pairs than one item.
    let sizes =
        [(Kind::Nvfp4Divide, 48), (Kind::Bf16, 20), (Kind::Nvfp4Multiply, 272), (Kind::Nvfp4Divide, 16)];
    let max = 272;
    let layer: Vec<(Matrix, Matrix, Matrix)> = sizes
        .iter()
        .map(|(kind, inter)| {
            let [gate, up] = [(); 2].map(|()| Matrix::random(&mut rng, *kind, *inter, hidden));
            (gate, up, Matrix::random(&mut rng, *kind, hidden, *inter))
        })
        .collect();
    let (x, start) = (rng.floats(t * hidden), rng.floats(t * hidden));
    let ids: Vec<u32> = (0..t).flat_map(|i| [0, 1 + (i % 3) as u32, 2 + (i % 2) as u32]).collect();
    let narrow = |e: u32| sizes[e as usize].0 != Kind::Bf16;
    for device in [cpu(), emulated().remove(0), devices().remove(2)].map(switched_on) {
        let (act, out) = mixture(&device, &layer, &ids, &x, &start, hidden, max);
        let mut sums = wide(&start);
        for (pair, (e, weight)) in ids.iter().zip(weights(ids.len())).enumerate() {
            let (gate, up, down) = &layer[*e as usize];
            let (i, inter) = (pair / slots, gate.rows);
            let row = &x[i * hidden..(i + 1) * hidden];
            let row = if narrow(*e) { rounded(row, hidden) } else { wide(row) };
            let [gate, up] = [gate, up].map(|half| product(&half.numbers(), &row, inter, hidden));
            let want: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| g * sigmoid(*g) * u).collect();
            let got = &act[pair * max..(pair + 1) * max];
            let tolerance = if narrow(*e) { 3e-6 } else { 6e-3 };
            close(&format!("{} pair {pair} of expert {e}", device.name), &got[..inter], &want, tolerance);
            assert!(got[inter..].iter().all(|v| *v == 0.0), "act beyond the expert's width");
            // Its own act: the one above with errors in the last bit could round another way.
            let own = if narrow(*e) { rounded(&got[..inter], inter) } else { wide(&got[..inter]) };
            let each = product(&down.numbers(), &own, hidden, inter);
            let sums = &mut sums[i * hidden..(i + 1) * hidden];
            sums.iter_mut().zip(each).for_each(|(sum, each)| *sum += f64::from(weight) * each);
        }
        // Rows that the bf16 expert had no part in are held to the tight bound.
        for i in 0..t {
            let plain = ids[i * slots..(i + 1) * slots].iter().all(|e| narrow(*e));
            let range = i * hidden..(i + 1) * hidden;
            let tolerance = if plain { 3e-6 } else { 6e-3 };
            close(&format!("{} row {i}", device.name), &out[range.clone()], &sums[range], tolerance);
        }
    }
}

#[test]
fn an_expert_that_does_not_exist_makes_its_row_nan_and_no_other() {
    let mut rng = Rng(97);
    let (hidden, t) = (64, 20);
    let layer: Vec<(Matrix, Matrix, Matrix)> = (0..2)
        .map(|_| {
            let [gate, up] = [(); 2].map(|()| Matrix::random(&mut rng, Kind::Nvfp4Divide, 32, hidden));
            (gate, up, Matrix::random(&mut rng, Kind::Nvfp4Divide, hidden, 32))
        })
        .collect();
    let mut ids: Vec<u32> = (0..2 * t as u32).map(|i| i % 2).collect();
    ids[2 * 11] = 77;
    let (x, start) = (rng.floats(t * hidden), rng.floats(t * hidden));
    let device = switched_on(emulated().remove(0));
    let (_, out) = mixture(&device, &layer, &ids, &x, &start, hidden, 32);
    for (i, out) in out.chunks(hidden).enumerate() {
        assert!(out.iter().all(|v| v.is_nan() == (i == 11)), "row {i}");
    }
}

#[test]
fn a_device_without_fp4_tensor_cores_refuses_in_words_and_goes_on() {
    let options = EmulatorOptions { capability: (9, 0), ..EmulatorOptions::default() };
    let device = Backend { name: "9.0".into(), ops: Box::new(Cuda::emulated(options).unwrap()) };
    let refused = device.set_fp4_activations(true);
    let Err(error @ OpError::Unsupported { .. }) = refused else { panic!("{refused:?}") };
    assert!(error.to_string().contains("9.0 (12.1 is needed)"), "{error}");
    device.set_fp4_activations(false).unwrap();
    let w = Matrix::random(&mut Rng(98), Kind::Nvfp4Divide, 16, 64);
    let w = device.pack(&[w.packed()]).unwrap();
    let mut out: Tensor = poisoned(&device, &[17, 16]);
    device.linear(17, &tensor(&device, &[17, 64], &[1.0; 17 * 64]), &w, &mut out).unwrap();
    assert!(read(&device, &out, 17).iter().all(|v| v.is_finite()));
}
