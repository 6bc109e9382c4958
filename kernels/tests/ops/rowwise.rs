use super::bench::*;
use hearth_kernels::DType;

fn rms(x: &[f64], w: &[f32], eps: f64, offset: f64) -> Vec<f64> {
    let scale = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + eps).sqrt();
    x.iter().zip(w).map(|(x, w)| x * scale * (f64::from(*w) + offset)).collect()
}

#[test]
fn rms_norm_agrees_with_an_f64_loop_at_every_width() {
    let mut rng = Rng(10);
    for width in [1, 7, 64, 130, 2048] {
        let (x, w) = (rng.floats(9 * width), rng.floats(width));
        for offset in [0.0, 1.0] {
            let want: Vec<f64> = wide(&x).chunks(width).flat_map(|x| rms(x, &w, 1e-6, offset)).collect();
            for cpu in with_emulated() {
                let norm = norm(&cpu, &w, 1e-6, offset as f32);
                let mut out = poisoned(&cpu, &[9, width]);
                cpu.rms_norm(&pass(9, 0, vec![]), &tensor(&cpu, &[9, width], &x), &norm, &mut out).unwrap();
                let out = read(&cpu, &out, 9);
                close(&format!("width {width} {}", name(&cpu)), &out, &want, 1e-6);
                let mut one = poisoned(&cpu, &[1, width]);
                cpu.rms_norm(
                    &pass(1, 3, vec![]),
                    &tensor(&cpu, &[1, width], &x[8 * width..]),
                    &norm,
                    &mut one,
                )
                .unwrap();
                same("the last row alone", &read(&cpu, &one, 1), &out[8 * width..]);
            }
        }
    }
}

#[test]
fn swiglu_agrees_with_an_f64_loop_over_the_whole_range_of_gates() {
    let mut rng = Rng(11);
    for inter in [1, 17, 512] {
        let mut x = rng.floats(5 * 2 * inter);
        x.iter_mut().for_each(|x| *x *= 30.0);
        let want: Vec<f64> = wide(&x)
            .chunks(2 * inter)
            .flat_map(|x| (0..inter).map(|i| x[i] * sigmoid(x[i]) * x[inter + i]).collect::<Vec<_>>())
            .collect();
        for cpu in with_emulated() {
            let mut out = poisoned(&cpu, &[5, inter]);
            cpu.swiglu(&pass(5, 0, vec![]), &tensor(&cpu, &[5, 2 * inter], &x), &mut out).unwrap();
            close(&name(&cpu), &read(&cpu, &out, 5), &want, 1e-6);
        }
    }
}

#[test]
fn mtp_join_puts_the_normed_embedding_first() {
    let mut rng = Rng(12);
    let width = 80;
    let (e, h) = (rng.floats(3 * width), rng.floats(3 * width));
    let (we, wh) = (rng.floats(width), rng.floats(width));
    let want: Vec<f64> = (0..3)
        .flat_map(|i| {
            let row = i * width..(i + 1) * width;
            [rms(&wide(&e[row.clone()]), &we, 1e-6, 1.0), rms(&wide(&h[row]), &wh, 1e-6, 1.0)].concat()
        })
        .collect();
    for cpu in with_emulated() {
        let mut out = poisoned(&cpu, &[3, 2 * width]);
        let (e, h) = (tensor(&cpu, &[3, width], &e), tensor(&cpu, &[3, width], &h));
        let (we, wh) = (norm(&cpu, &we, 1e-6, 1.0), norm(&cpu, &wh, 1e-6, 1.0));
        cpu.mtp_join(3, &e, &we, &h, &wh, &mut out).unwrap();
        close(&name(&cpu), &read(&cpu, &out, 3), &want, 1e-6);
    }
}

#[test]
fn copy_rows_copies_whole_rows_and_refuses_rows_that_overlap_or_are_not_there() {
    let x: Vec<f32> = (0..24).map(|i| i as f32).collect();
    for cpu in with_emulated() {
        let mut copied = tensor(&cpu, &[4, 2, 3], &x);
        cpu.copy_rows(&mut copied, 0, 4, 2).unwrap();
        cpu.copy_rows(&mut copied, 7, 3, 1).unwrap();
        cpu.copy_rows(&mut copied, 0, 1, 0).unwrap();
        let want = [&x[..9], &x[21..], &x[..6], &x[18..]].concat();
        same(&name(&cpu), &read(&cpu, &copied, 8), &want);
        for (from, to, rows) in [(0, 1, 2), (3, 2, 2), (7, 0, 2), (0, 7, 2), (usize::MAX, 0, 2)] {
            assert!(cpu.copy_rows(&mut copied, from, to, rows).is_err(), "{from} {to} {rows}");
        }
        same("after the refusals", &read(&cpu, &copied, 8), &want);
    }
}

#[test]
fn rows_of_any_type_leave_as_bytes_and_come_back_and_what_is_no_whole_row_is_refused() {
    for cpu in with_emulated() {
        for (dtype, size) in [(DType::F32, 4), (DType::Bf16, 2), (DType::U8, 1)] {
            let all: Vec<u8> = (0..24 * size).map(|i| (i * 7) as u8 & 0x3f).collect();
            let mut x = cpu.upload(dtype, &all, dtype, &[4, 2, 3]).unwrap();
            let row = 3 * size;
            assert_eq!(cpu.read_bytes(&x, 1, 2).unwrap(), all[row..3 * row], "{} {dtype:?}", name(&cpu));
            cpu.write_bytes(&mut x, 6, &all[row..3 * row]).unwrap();
            cpu.write_bytes(&mut x, 8, &[]).unwrap();
            let want = [&all[..6 * row], &all[row..3 * row]].concat();
            for (first, bytes) in [(0, row - 1), (7, 2 * row), (9, 0), (usize::MAX, row)] {
                assert!(cpu.write_bytes(&mut x, first, &vec![0; bytes]).is_err());
            }
            assert!(cpu.read_bytes(&x, 7, 2).is_err());
            assert_eq!(cpu.read_bytes(&x, 0, 8).unwrap(), want, "{} {dtype:?}", name(&cpu));
        }
    }
}

#[test]
fn gather_rows_copies_the_named_rows_in_order() {
    for cpu in &one_of_each() {
        let x = tensor(cpu, &[4, 3], &(0..12).map(|i| i as f32).collect::<Vec<_>>());
        let mut out = poisoned(cpu, &[3, 3]);
        cpu.gather_rows(&x, &[3, 0, 3], &mut out).unwrap();
        assert_eq!(read(cpu, &out, 3), [9.0, 10.0, 11.0, 0.0, 1.0, 2.0, 9.0, 10.0, 11.0]);
        cpu.gather_rows(&x, &[], &mut out).unwrap();
    }
}

#[test]
fn upload_converts_between_the_float_types_and_rounds_to_even() {
    for cpu in &one_of_each() {
        // 1 + 2^-8 lies between two bf16 numbers; the even one is 1.
        let x = [1.0f32 + 1.0 / 256.0, -2.5, 65504.0];
        let narrow = cpu.upload(DType::F32, &bytes(&x), DType::Bf16, &[3]).unwrap();
        assert_eq!((narrow.dtype, narrow.bytes()), (DType::Bf16, 6));
        let stored: Vec<u8> = x.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect();
        let back = cpu.upload(DType::Bf16, &stored, DType::F32, &[1, 3]).unwrap();
        assert_eq!(read(cpu, &back, 1), [1.0, -2.5, 65536.0]);
    }
}
