use super::bench::*;
use hearth_kernels::ops::NOWHERE;
use hearth_kernels::{DType, Weight, WeightFormat};

/// All numbers of rows `ids`.
fn rows_of(device: &Backend, weight: &Weight, ids: &[u32]) -> Vec<f32> {
    let mut out = poisoned(device, &[ids.len(), weight.cols]);
    device.embed(weight, ids, &mut out).unwrap();
    read(device, &out, ids.len())
}

/// The same numbers; a zero's sign may have changed.
fn equal(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(got == want, "{what}: {got} and not {want} at {i}");
    }
}

fn all(rows: usize) -> Vec<u32> {
    (0..rows as u32).collect()
}

#[test]
fn rows_in_the_heads_own_format_keep_every_number() {
    let mut rng = Rng(71);
    for kind in KINDS.into_iter().filter(|kind| *kind != Kind::Fp8Block) {
        for (rows, cols) in [(40, 96), (130, 272), (7, 16)] {
            let matrix = Matrix::random(&mut rng, kind, rows, cols);
            let ids: Vec<u32> = (0..rows as u32).rev().filter(|id| id % 3 != 1).collect();
            for device in with_emulated() {
                let head = device.pack(&[matrix.packed()]).unwrap();
                let draft = device.draft_head(&head, &ids, head.format).unwrap();
                assert_eq!((draft.rows, draft.cols, draft.format), (ids.len(), cols, head.format));
                let what = format!("{kind:?} [{rows}, {cols}] {}", name(&device));
                equal(&what, &rows_of(&device, &draft, &all(ids.len())), &rows_of(&device, &head, &ids));
            }
        }
    }
}

#[test]
fn odd_widths_keep_every_number_too() {
    let mut rng = Rng(72);
    for kind in [Kind::F32, Kind::F16, Kind::Bf16, Kind::Fp8Tensor, Kind::Fp8Row] {
        for (rows, cols) in [(1, 1), (17, 33), (20, 129)] {
            let matrix = Matrix::random(&mut rng, kind, rows, cols);
            for device in with_emulated() {
                let head = device.pack(&[matrix.packed()]).unwrap();
                let draft = device.draft_head(&head, &all(rows), head.format).unwrap();
                let what = format!("{kind:?} [{rows}, {cols}] {}", name(&device));
                equal(&what, &rows_of(&device, &draft, &all(rows)), &rows_of(&device, &head, &all(rows)));
            }
        }
    }
}

/// The first device (the CPU) is held against the numbers themselves, the others against the first.
#[test]
fn rows_rounded_to_fewer_bits_are_off_by_no_more_than_their_format_allows_and_alike_everywhere() {
    let mut rng = Rng(73);
    for kind in KINDS {
        let (rows, cols) = (50, 144);
        let matrix = Matrix::random(&mut rng, kind, rows, cols);
        let numbers = matrix.numbers();
        let ids: Vec<u32> = (0..rows as u32).filter(|id| id % 4 != 2).collect();
        for target in [WeightFormat::Fp8, WeightFormat::Nvfp4] {
            let found: Vec<Vec<f32>> = one_of_each()
                .iter()
                .map(|device| {
                    let head = device.pack(&[matrix.packed()]).unwrap();
                    let draft = device.draft_head(&head, &ids, target).unwrap();
                    assert_eq!(draft.format, target);
                    rows_of(device, &draft, &all(ids.len()))
                })
                .collect();
            for other in &found[1..] {
                for (i, (a, b)) in other.iter().zip(&found[0]).enumerate() {
                    // The same codes; how `embed` orders its products may move the last bit.
                    assert!((a - b).abs() <= 3e-7 * b.abs(), "{kind:?} as {target:?}: {a} and {b} at {i}");
                }
            }
            for (id, row) in ids.iter().zip(found[0].chunks_exact(cols)) {
                let want = &numbers[*id as usize * cols..][..cols];
                let most = want.iter().fold(0.0f64, |most, x| most.max(x.abs()));
                for (group, (want, got)) in want.chunks(16).zip(row.chunks(16)).enumerate() {
                    let largest = want.iter().fold(0.0f64, |most, x| most.max(x.abs()));
                    for (x, y) in want.iter().zip(got) {
                        let off = (x - f64::from(*y)).abs();
                        // Half a step of FP8, whose smallest is 2^-10 where the largest number is at least 2^7. Of NVFP4 half of
                        // its widest gap, and the scale's own rounding of 1/16 or of half its smallest step.
                        let allowed = match target {
                            WeightFormat::Fp8 => (x.abs() / 16.0).max(most / 65536.0),
                            _ => (largest / 6.0 * (1.0 + 1.0 / 16.0)).max(most / 1024.0) * 1.001,
                        };
                        assert!(
                            off <= allowed * 1.0001,
                            "{kind:?} as {target:?}, row {id} group {group}: {x} became {y}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_of_zeros_stays_one_and_tiny_rows_keep_their_bits() {
    let cols = 32;
    let numbers: Vec<f32> = (0..3 * cols)
        .map(|i| match i / cols {
            0 => 0.0,
            1 => (i % 7) as f32 * 1e-30,
            _ => (i % 5) as f32 * 3e30,
        })
        .collect();
    for device in one_of_each() {
        let stored = bytes(&numbers);
        let values = hearth_kernels::Values::F32(&stored);
        let head = device.pack(&[hearth_kernels::PackedWeight { rows: 3, cols, values }]).unwrap();
        for target in [WeightFormat::Fp8, WeightFormat::Nvfp4] {
            let draft = device.draft_head(&head, &[0, 1, 2], target).unwrap();
            let found = rows_of(&device, &draft, &[0, 1, 2]);
            assert_eq!(found[..cols], [0.0; 32], "{target:?} {}", name(&device));
            for (x, y) in numbers[cols..].iter().zip(&found[cols..]) {
                assert!(
                    (x - y).abs() <= 0.2 * x.abs().max(6e-30),
                    "{target:?} {}: {x} became {y}",
                    name(&device)
                );
            }
        }
    }
}

#[test]
fn logits_of_some_tokens_stand_in_their_places_among_all() {
    let mut rng = Rng(74);
    let (t, kept, vocab) = (5, 37, 700);
    let x = rng.floats(t * kept);
    let mut place = vec![NOWHERE; vocab];
    for column in 0..kept {
        place[column * 17 + 3] = column as u32;
    }
    let stored: Vec<u8> = place.iter().flat_map(|p| p.to_le_bytes()).collect();
    for device in with_emulated() {
        let (x_on, mut out) = (
            tensor(&device, &[t + 2, kept], &[x.clone(), vec![9.0; 2 * kept]].concat()),
            poisoned(&device, &[t, vocab]),
        );
        let place_on = device.upload(DType::U32, &stored, DType::U32, &[vocab]).unwrap();
        device.spread_logits(t, &x_on, &place_on, &mut out).unwrap();
        for (i, row) in read(&device, &out, t).chunks_exact(vocab).enumerate() {
            for (token, logit) in row.iter().enumerate() {
                let want = x.get(i * kept..(i + 1) * kept).unwrap().get(place[token] as usize);
                assert_eq!(
                    *logit,
                    want.copied().unwrap_or(f32::NEG_INFINITY),
                    "row {i} token {token} {}",
                    name(&device)
                );
            }
        }
    }
}

#[test]
fn heads_and_tables_that_do_not_fit_are_refused() {
    let mut rng = Rng(75);
    let matrix = Matrix::random(&mut rng, Kind::Bf16, 20, 24);
    for device in one_of_each() {
        let head = device.pack(&[matrix.packed()]).unwrap();
        let refused = |ids: &[u32], format, part: &str| {
            let error = device.draft_head(&head, ids, format).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        refused(&[], WeightFormat::Fp8, "at least one");
        refused(&[3, 20], WeightFormat::Bf16, "below 20");
        refused(&[3], WeightFormat::F32, "Bf16, Fp8 or Nvfp4");
        refused(&[3], WeightFormat::Nvfp4, "multiple of 16");
        let (x, mut out) = (tensor(&device, &[1, 2], &[1.0, 2.0]), poisoned(&device, &[1, 8]));
        let short = device.zeros(DType::U32, &[7]).unwrap();
        assert!(device.spread_logits(1, &x, &short, &mut out).is_err());
        let place = device.zeros(DType::U32, &[8]).unwrap();
        assert!(device.spread_logits(2, &x, &place, &mut out).is_err());
        let floats = device.zeros(DType::F32, &[8]).unwrap();
        assert!(device.spread_logits(1, &x, &floats, &mut out).is_err());
    }
}
