use super::bench::*;
use hearth_kernels::ops::{AttentionInputs, AttentionRowsMut, Pass};
use hearth_kernels::{PackedWeight, Tensor, Values, Weight};

const SHAPES: [(usize, usize); 7] =
    [(1, 16), (5, 48), (16, 64), (33, 80), (130, 272), (64, 1040), (300, 144)];

/// Errors of decode on a device, of the sum of the terms' magnitudes: rows of x in two f16 halves leave out 2^-22 of the
/// largest, in two bf16 halves 2^-17.
pub fn decode_tolerance(kind: Kind) -> f64 {
    if matches!(kind, Kind::F32 | Kind::Bf16) { 1e-5 } else { 1e-6 }
}

/// Of the largest result.
fn tolerance(cpu: &Backend, kind: Kind) -> f64 {
    if cpu.device() != "cpu" && matches!(kind, Kind::F32 | Kind::Bf16) { 1e-5 } else { 2e-6 }
}

#[test]
fn linear_agrees_with_an_f64_loop_and_a_row_does_not_see_its_neighbours() {
    let mut rng = Rng(1);
    for kind in KINDS {
        for (rows, cols) in SHAPES {
            let matrix = Matrix::random(&mut rng, kind, rows, cols);
            let t = 29;
            let x = rng.floats(t * cols);
            let want = product(&matrix.numbers(), &wide(&x), rows, cols);
            for cpu in backends() {
                let what = format!("{kind:?} [{rows}, {cols}] {}", name(&cpu));
                let w = cpu.pack(&[matrix.packed()]).unwrap();
                assert_eq!((w.rows, w.cols), (rows, cols));
                let mut alone = Vec::new();
                for i in 0..t {
                    let row = tensor(&cpu, &[1, cols], &x[i * cols..(i + 1) * cols]);
                    let mut out = poisoned(&cpu, &[1, rows]);
                    cpu.linear(1, &row, &w, &mut out).unwrap();
                    alone.extend(read(&cpu, &out, 1));
                }
                close(&what, &alone, &want, 2e-6);
                for width in [2, 4, 7, 12, 13, 29] {
                    let together = tensor(&cpu, &[width, cols], &x[..width * cols]);
                    let mut out = poisoned(&cpu, &[width, rows]);
                    cpu.linear(width, &together, &w, &mut out).unwrap();
                    same(&format!("{what} t={width}"), &read(&cpu, &out, width), &alone[..width * rows]);
                }
            }
        }
    }
}

#[test]
fn odd_widths_work_in_the_formats_that_allow_them() {
    let mut rng = Rng(2);
    for kind in [Kind::F32, Kind::F16, Kind::Bf16, Kind::Fp8Tensor, Kind::Fp8Row, Kind::Fp8Block] {
        for (rows, cols) in [(1, 1), (3, 7), (17, 33), (20, 129), (129, 131)] {
            let matrix = Matrix::random(&mut rng, kind, rows, cols);
            let x = rng.floats(3 * cols);
            let want = product(&matrix.numbers(), &wide(&x), rows, cols);
            for cpu in with_emulated() {
                let w = cpu.pack(&[matrix.packed()]).unwrap();
                let mut out = poisoned(&cpu, &[3, rows]);
                cpu.linear(3, &tensor(&cpu, &[3, cols], &x), &w, &mut out).unwrap();
                close(
                    &format!("{kind:?} [{rows}, {cols}] {}", name(&cpu)),
                    &read(&cpu, &out, 3),
                    &want,
                    tolerance(&cpu, kind),
                );
            }
        }
    }
}

#[test]
fn linear_add_adds_the_product_to_what_is_there() {
    let mut rng = Rng(3);
    let matrix = Matrix::random(&mut rng, Kind::Nvfp4Divide, 40, 128);
    let (x, residual) = (rng.floats(5 * 128), rng.floats(5 * 40));
    for cpu in with_emulated() {
        let w = cpu.pack(&[matrix.packed()]).unwrap();
        let x = tensor(&cpu, &[5, 128], &x);
        let (mut plain, mut added) = (poisoned(&cpu, &[5, 40]), tensor(&cpu, &[5, 40], &residual));
        cpu.linear(5, &x, &w, &mut plain).unwrap();
        cpu.linear_add(5, &x, &w, &mut added).unwrap();
        let want: Vec<f32> = read(&cpu, &plain, 5).iter().zip(&residual).map(|(p, r)| r + p).collect();
        same(&name(&cpu), &read(&cpu, &added, 5), &want);
    }
}

#[test]
fn stacked_matrices_keep_their_own_scales() {
    let mut rng = Rng(4);
    for kinds in [
        [Kind::Nvfp4Divide, Kind::Nvfp4Multiply, Kind::Nvfp4Divide],
        [Kind::Fp8Tensor, Kind::Fp8Row, Kind::Fp8Block],
        [Kind::Bf16, Kind::Bf16, Kind::Bf16],
    ] {
        let parts: Vec<Matrix> = kinds
            .iter()
            .zip([136, 8, 140])
            .map(|(kind, rows)| Matrix::random(&mut rng, *kind, rows, 256))
            .collect();
        let packed: Vec<PackedWeight<'_>> = parts.iter().map(Matrix::packed).collect();
        let x = rng.floats(2 * 256);
        for cpu in with_emulated() {
            let w = cpu.pack(&packed).unwrap();
            let mut out = poisoned(&cpu, &[2, 284]);
            cpu.linear(2, &tensor(&cpu, &[2, 256], &x), &w, &mut out).unwrap();
            let all: Vec<f64> = parts.iter().flat_map(Matrix::numbers).collect();
            let want = product(&all, &wide(&x), 284, 256);
            close(&format!("{kinds:?}"), &read(&cpu, &out, 2), &want, tolerance(&cpu, kinds[0]));
        }
    }
}

#[test]
fn embedding_rows_are_the_definition_of_their_format() {
    let mut rng = Rng(5);
    for kind in KINDS {
        let table = Matrix::random(&mut rng, kind, 150, 144);
        let numbers = table.numbers();
        // Of both halves of a tile of 16 rows.
        let ids = [149u32, 0, 17, 17, 128, 8, 47];
        let want: Vec<f64> = ids
            .iter()
            .flat_map(|id| numbers[*id as usize * 144..(*id as usize + 1) * 144].to_vec())
            .collect();
        for cpu in with_emulated() {
            let w = cpu.pack(&[table.packed()]).unwrap();
            let mut out = poisoned(&cpu, &[7, 144]);
            cpu.embed(&w, &ids, &mut out).unwrap();
            // A device keeps f32 as two bf16 numbers.
            let allowed = match kind {
                Kind::Nvfp4Divide | Kind::Nvfp4Multiply => 2e-7,
                Kind::F32 if cpu.device() != "cpu" => 1e-5,
                _ => 0.0,
            };
            close(&format!("{kind:?}"), &read(&cpu, &out, 7), &want, allowed);
        }
    }
}

#[test]
fn every_e4m3_code_means_what_the_standard_says() {
    for code in 0..=255u8 {
        let (sign, exponent, mantissa) = (code >> 7, i32::from(code >> 3 & 15), f64::from(code & 7));
        let magnitude = if exponent == 0 {
            mantissa / 8.0 * 2f64.powi(-6)
        } else {
            (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7)
        };
        let want = if sign == 1 { -magnitude } else { magnitude };
        let got = hearth_kernels::e4m3(code);
        assert!(if code & 0x7f == 0x7f { got.is_nan() } else { f64::from(got) == want }, "{code:#x}: {got}");
    }
}

#[test]
fn nvfp4_keeps_its_accuracy_beside_numbers_of_any_size() {
    let mut rng = Rng(10);
    let (rows, cols) = (48, 320);
    let matrix = Matrix::random(&mut rng, Kind::Nvfp4Multiply, rows, cols);
    // Blocks from 2^-90 to 2^100; each is measured alone, since the large ones would hide the small.
    for block in 0..cols / 16 {
        let mut x = vec![0.0; cols];
        let size = 2f32.powi(10 * block as i32 - 90);
        x[block * 16..(block + 1) * 16]
            .copy_from_slice(&rng.floats(16).iter().map(|x| x * size).collect::<Vec<_>>());
        let want = product(&matrix.numbers(), &wide(&x), rows, cols);
        let most = want.iter().fold(0.0f64, |most, v| most.max(v.abs()));
        for cpu in backends() {
            let w = cpu.pack(&[matrix.packed()]).unwrap();
            let mut out = poisoned(&cpu, &[1, rows]);
            cpu.linear(1, &tensor(&cpu, &[1, cols], &x), &w, &mut out).unwrap();
            for (got, want) in read(&cpu, &out, 1).iter().zip(&want) {
                assert!(
                    (f64::from(*got) - want).abs() <= 1e-6 * most,
                    "{} {size:e}: {got:e} {want:e}",
                    name(&cpu)
                );
            }
        }
    }
}

#[test]
fn a_nan_or_infinite_input_of_nvfp4_shows_in_every_result_of_its_row_only() {
    let mut rng = Rng(11);
    let matrix = Matrix::random(&mut rng, Kind::Nvfp4Divide, 20, 128);
    for cpu in backends() {
        let w = cpu.pack(&[matrix.packed()]).unwrap();
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = rng.floats(3 * 128);
            x[128 + 70] = bad;
            let mut out = poisoned(&cpu, &[3, 20]);
            cpu.linear(3, &tensor(&cpu, &[3, 128], &x), &w, &mut out).unwrap();
            let out = read(&cpu, &out, 3);
            assert!(out[..20].iter().chain(&out[40..]).all(|v| v.is_finite()), "{}", name(&cpu));
            assert!(out[20..40].iter().all(|v| !v.is_finite()), "{}", name(&cpu));
        }
    }
}

#[test]
fn a_zero_weight_row_gives_zero_and_a_nan_input_shows_only_in_its_row() {
    let mut rng = Rng(6);
    let matrix = Matrix::random(&mut rng, Kind::Bf16, 20, 64);
    for cpu in with_emulated() {
        let w = cpu.pack(&[matrix.packed()]).unwrap();
        let mut x = rng.floats(3 * 64);
        x[64 + 5] = f32::NAN;
        let mut out = poisoned(&cpu, &[3, 20]);
        cpu.linear(3, &tensor(&cpu, &[3, 64], &x), &w, &mut out).unwrap();
        let out = read(&cpu, &out, 3);
        assert!(out[..20].iter().chain(&out[40..]).all(|v| v.is_finite()));
        assert!(out[20..40].iter().all(|v| v.is_nan()));

        let zeros = vec![0u8; 20 * 64 * 2];
        let w = cpu.pack(&[PackedWeight { rows: 20, cols: 64, values: Values::Bf16(&zeros) }]).unwrap();
        let mut out = poisoned(&cpu, &[1, 20]);
        cpu.linear(1, &tensor(&cpu, &[1, 64], &x[..64]), &w, &mut out).unwrap();
        assert!(read(&cpu, &out, 1).iter().all(|v| *v == 0.0));
    }
}

/// Tells the backend of a pass in decode's arithmetic.
fn begin_exact(cpu: &Backend, rows: usize) {
    let pass = Pass { exact: true, ..pass(rows, 0, vec![]) };
    cpu.begin(&pass, &vec![0; rows], &[]).unwrap();
}

#[test]
fn a_row_on_the_device_agrees_with_an_f64_loop_and_is_the_same_in_any_company() {
    let mut rng = Rng(7);
    for kind in KINDS {
        for (rows, cols) in [(1, 16), (33, 80), (24, 1104), (130, 272)] {
            let matrix = Matrix::random(&mut rng, kind, rows, cols);
            let t = 19;
            // Rows of very different size, one of zeros.
            let mut x = rng.floats(t * cols);
            for (i, x) in x.chunks_exact_mut(cols).enumerate() {
                x.iter_mut().for_each(|x| *x *= [1.0, 1e-6, 3e5, 0.0][i % 4]);
            }
            let (w, wide_x) = (matrix.numbers(), wide(&x));
            let want = product(&w, &wide_x, rows, cols);
            let most = magnitudes(&w, &wide_x, rows, cols);
            for cpu in emulated() {
                let what = format!("{kind:?} [{rows}, {cols}]");
                let w = cpu.pack(&[matrix.packed()]).unwrap();
                begin_exact(&cpu, t);
                let run = |first: usize, t: usize| {
                    let x = tensor(&cpu, &[t, cols], &x[first * cols..(first + t) * cols]);
                    let mut out = poisoned(&cpu, &[t, rows]);
                    cpu.linear(t, &x, &w, &mut out).unwrap();
                    read(&cpu, &out, t)
                };
                let alone: Vec<f32> = (0..t).flat_map(|i| run(i, 1)).collect();
                within(&what, &alone, &want, &most, decode_tolerance(kind));
                for width in [2, 3, 4, 5, 8, 9, 16, 19] {
                    same(&format!("{what} t={width}"), &run(0, width), &alone[..width * rows]);
                }
            }
        }
    }
}

#[test]
fn a_pass_that_differs_from_the_last_only_in_being_exact_is_computed_as_it_asks() {
    let mut rng = Rng(12);
    let (rows, cols, t) = (24, 128, 17);
    let matrix = Matrix::random(&mut rng, Kind::Nvfp4Divide, rows, cols);
    let x = rng.floats(t * cols);
    for cpu in emulated() {
        let w = cpu.pack(&[matrix.packed()]).unwrap();
        let run = |exact: bool| {
            let pass = Pass { exact, ..pass(t, 0, vec![]) };
            cpu.begin(&pass, &vec![0; t], &[]).unwrap();
            let mut out = poisoned(&cpu, &[t, rows]);
            cpu.linear(t, &tensor(&cpu, &[t, cols], &x), &w, &mut out).unwrap();
            read(&cpu, &out, t)
        };
        let (fast, exact) = (run(false), run(true));
        assert!(fast != exact, "a fast pass is exact, or an exact one fast");
        same("not exact again", &run(false), &fast);
        same("exact again", &run(true), &exact);
    }
}

#[test]
fn rows_too_wide_for_shared_memory_are_the_same_in_any_company() {
    let mut rng = Rng(8);
    for kind in [Kind::Nvfp4Multiply, Kind::Fp8Block, Kind::Bf16] {
        let (rows, cols, t) = (17, 4096, 16);
        let matrix = Matrix::random(&mut rng, kind, rows, cols);
        let x = rng.floats(t * cols);
        let (w, wide_x) = (matrix.numbers(), wide(&x));
        let want = product(&w, &wide_x, rows, cols);
        let most = magnitudes(&w, &wide_x, rows, cols);
        for cpu in emulated() {
            let w = cpu.pack(&[matrix.packed()]).unwrap();
            let run = |first: usize, t: usize| {
                let x = tensor(&cpu, &[t, cols], &x[first * cols..(first + t) * cols]);
                let mut out = poisoned(&cpu, &[t, rows]);
                cpu.linear(t, &x, &w, &mut out).unwrap();
                read(&cpu, &out, t)
            };
            let together = run(0, t);
            within(&format!("{kind:?}"), &together, &want, &most, decode_tolerance(kind));
            for i in [0, 5, 15] {
                same(&format!("{kind:?} row {i}"), &together[i * rows..(i + 1) * rows], &run(i, 1));
            }
        }
    }
}

/// What `attend_in` and `ffn_in` give for `t` rows: q, k, v, and the inner rows of a dense layer.
pub fn projected(
    cpu: &Backend,
    layer: &[Matrix; 4],
    gate_up: &[Matrix; 2],
    x: &[f32],
    t: usize,
) -> Vec<Vec<f32>> {
    let cols = layer[0].cols;
    let weight: Vec<f32> = (0..cols).map(|i| (i % 7) as f32 / 7.0 - 0.4).collect();
    let norm = norm(cpu, &weight, 1e-6, 1.0);
    let w: Vec<Weight> = layer.iter().map(|m| cpu.pack(&[m.packed()]).unwrap()).collect();
    let both = cpu.pack_gate_up(&[gate_up[0].packed(), gate_up[1].packed()]).unwrap();
    let x = tensor(cpu, &[t, cols], x);
    let mut h = poisoned(cpu, &[t, cols]);
    let mut outs: Vec<Tensor> = layer[..3].iter().map(|m| poisoned(cpu, &[t, m.rows])).collect();
    let [q, k, v] = &mut outs[..] else { unreachable!() };
    let inputs = AttentionInputs { q: &w[0], k: &w[1], v: &w[2] };
    let rows = AttentionRowsMut { q, k, v };
    cpu.attend_in(&pass(t, 0, vec![]), &x, &norm, inputs, &mut h, rows).unwrap();
    let inter = gate_up[0].rows;
    let (mut space, mut inner) = (poisoned(cpu, &[t, 2 * inter]), poisoned(cpu, &[t, inter]));
    cpu.ffn_in(&pass(t, 0, vec![]), &x, &norm, &both, &mut h, &mut space, &mut inner).unwrap();
    let mut results: Vec<Vec<f32>> = outs.iter().map(|out| read(cpu, out, t)).collect();
    results.push(read(cpu, &inner, t));
    results
}

#[test]
fn projections_behind_a_norm_agree_with_the_definition_at_every_number_of_rows() {
    let mut rng = Rng(9);
    let cols = 208;
    for kinds in [
        [Kind::Fp8Tensor, Kind::Bf16, Kind::Nvfp4Divide, Kind::Nvfp4Multiply],
        [Kind::Bf16, Kind::Bf16, Kind::Bf16, Kind::Fp8Block],
        [Kind::F32, Kind::F16, Kind::F32, Kind::Bf16],
    ] {
        let layer = [(0, 70), (1, 9), (2, 33), (3, 16)]
            .map(|(i, rows)| Matrix::random(&mut rng, kinds[i], rows, cols));
        let gate_up = [(); 2].map(|()| Matrix::random(&mut rng, kinds[3], 20, cols));
        let t = 16;
        let x: Vec<f32> = rng.floats(t * cols).iter().map(|x| x * 40.0).collect();
        let want = projected(&backends()[0], &layer, &gate_up, &x, t);
        for cpu in emulated() {
            let all = projected(&cpu, &layer, &gate_up, &x, t);
            for ((got, want), kind) in all.iter().zip(&want).zip(kinds) {
                close(&format!("{kinds:?} {kind:?}"), got, &wide(want), 2e-5);
            }
            for i in [0, 7, 15] {
                let alone = projected(&cpu, &layer, &gate_up, &x[i * cols..(i + 1) * cols], 1);
                for (all, alone) in all.iter().zip(&alone) {
                    let width = alone.len();
                    same(&format!("{kinds:?} row {i}"), &all[i * width..(i + 1) * width], alone);
                }
            }
        }
    }
}

#[test]
fn many_rows_agree_with_an_f64_loop_within_prefills_rounding() {
    let mut rng = Rng(70);
    for kind in KINDS {
        for (rows, cols, t) in [(24, 80, 17), (130, 336, 70), (264, 144, 150)] {
            let matrix = Matrix::random(&mut rng, kind, rows, cols);
            let (mut x, residual) = (rng.floats(t * cols), rng.floats(t * rows));
            for (i, x) in x.chunks_exact_mut(cols).enumerate() {
                x.iter_mut().for_each(|x| *x *= [1.0, 1e-6, 3e5, 0.0][i % 4]);
            }
            let (numbers, wide_x) = (matrix.numbers(), wide(&x));
            let want = product(&numbers, &wide_x, rows, cols);
            let most = magnitudes(&numbers, &wide_x, rows, cols);
            for cpu in emulated() {
                let what = format!("{kind:?} [{rows}, {cols}] t={t}");
                let w = cpu.pack(&[matrix.packed()]).unwrap();
                cpu.begin(&pass(t, 0, vec![]), &vec![0; t], &[]).unwrap();
                let x = tensor(&cpu, &[t, cols], &x);
                let mut out = poisoned(&cpu, &[t, rows]);
                cpu.linear(t, &x, &w, &mut out).unwrap();
                let plain = read(&cpu, &out, t);
                within(&what, &plain, &want, &most, 2e-3);
                let mut added = tensor(&cpu, &[t, rows], &residual);
                cpu.linear_add(t, &x, &w, &mut added).unwrap();
                let sum: Vec<f32> = plain.iter().zip(&residual).map(|(p, r)| r + p).collect();
                same(&what, &read(&cpu, &added, t), &sum);
            }
        }
    }
}

#[test]
fn projections_of_many_rows_behind_a_norm_agree_with_the_definition() {
    let mut rng = Rng(71);
    let (cols, t) = (144, 37);
    for kinds in [
        [Kind::Fp8Row, Kind::Bf16, Kind::F32, Kind::Nvfp4Multiply],
        [Kind::F16, Kind::Nvfp4Divide, Kind::Fp8Block, Kind::Fp8Block],
    ] {
        let layer = [(0, 70), (1, 9), (2, 33), (3, 16)]
            .map(|(i, rows)| Matrix::random(&mut rng, kinds[i], rows, cols));
        let gate_up = [(); 2].map(|()| Matrix::random(&mut rng, kinds[3], 20, cols));
        let x: Vec<f32> = rng.floats(t * cols).iter().map(|x| x * 40.0).collect();
        let want = projected(&backends()[0], &layer, &gate_up, &x, t);
        for cpu in emulated() {
            for ((got, want), kind) in projected(&cpu, &layer, &gate_up, &x, t).iter().zip(&want).zip(kinds) {
                close(&format!("{kinds:?} {kind:?}"), got, &wide(want), 4e-3);
            }
        }
    }
}
