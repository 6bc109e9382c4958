use super::bench::*;
use hearth_kernels::{PackedWeight, Values};

const SHAPES: [(usize, usize); 7] =
    [(1, 16), (5, 48), (16, 64), (33, 80), (130, 272), (64, 1040), (300, 144)];

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
            for cpu in backends() {
                let w = cpu.pack(&[matrix.packed()]).unwrap();
                let mut out = poisoned(&cpu, &[3, rows]);
                cpu.linear(3, &tensor(&cpu, &[3, cols], &x), &w, &mut out).unwrap();
                close(
                    &format!("{kind:?} [{rows}, {cols}] {}", name(&cpu)),
                    &read(&cpu, &out, 3),
                    &want,
                    2e-6,
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
    for cpu in backends() {
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
            .zip([130, 7, 140])
            .map(|(kind, rows)| Matrix::random(&mut rng, *kind, rows, 256))
            .collect();
        let packed: Vec<PackedWeight<'_>> = parts.iter().map(Matrix::packed).collect();
        let x = rng.floats(2 * 256);
        for cpu in backends() {
            let w = cpu.pack(&packed).unwrap();
            let mut out = poisoned(&cpu, &[2, 277]);
            cpu.linear(2, &tensor(&cpu, &[2, 256], &x), &w, &mut out).unwrap();
            let all: Vec<f64> = parts.iter().flat_map(Matrix::numbers).collect();
            close(&format!("{kinds:?}"), &read(&cpu, &out, 2), &product(&all, &wide(&x), 277, 256), 2e-6);
        }
    }
}

#[test]
fn embedding_rows_are_the_definition_of_their_format() {
    let mut rng = Rng(5);
    for kind in KINDS {
        let table = Matrix::random(&mut rng, kind, 150, 144);
        let numbers = table.numbers();
        let ids = [149u32, 0, 17, 17, 128];
        let want: Vec<f64> = ids
            .iter()
            .flat_map(|id| numbers[*id as usize * 144..(*id as usize + 1) * 144].to_vec())
            .collect();
        for cpu in backends() {
            let w = cpu.pack(&[table.packed()]).unwrap();
            let mut out = poisoned(&cpu, &[5, 144]);
            cpu.embed(&w, &ids, &mut out).unwrap();
            let exact = !matches!(kind, Kind::Nvfp4Divide | Kind::Nvfp4Multiply);
            close(&format!("{kind:?}"), &read(&cpu, &out, 5), &want, if exact { 0.0 } else { 2e-7 });
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
fn a_zero_weight_row_gives_zero_and_a_nan_input_shows_only_in_its_row() {
    let mut rng = Rng(6);
    let matrix = Matrix::random(&mut rng, Kind::Bf16, 20, 64);
    for cpu in backends() {
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
