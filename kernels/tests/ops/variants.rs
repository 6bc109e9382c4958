//! Kernels between which the machine chooses give the same bits, and the one that its clock finds the fastest is taken.

use super::bench::*;
use super::gdn_in::{self, CHANNELS, HELD};
use super::linear::{decode_tolerance, projected};
use hearth_kernels::cuda::emulated::{EmulatorOptions, PREFERRED};
use hearth_kernels::cuda::{Cuda, Variant};
use hearth_kernels::ops::Stretch;
use hearth_kernels::{Records, Result};

fn ring(groups: u32, blocks: u32) -> Variant {
    Variant::Ring { groups, blocks }
}

/// A device with so many multiprocessors that takes one variant wherever it can.
fn taking(variant: Variant, multiprocessors: u32) -> Backend {
    let cuda = Cuda::emulated(EmulatorOptions { multiprocessors, ..EmulatorOptions::default() }).unwrap();
    Records::force_variant(&cuda, Some(variant));
    Backend { name: format!("{variant} on {multiprocessors}"), ops: Box::new(cuda) }
}

/// What is compared, and devices that compute it otherwise: in one block, whose units are all row tiles, and in several.
fn all() -> (Backend, Vec<Backend>) {
    let rings = [ring(6, 1), ring(4, 1), ring(4, 2), ring(2, 1), ring(2, 2)].map(|ring| taking(ring, 1));
    let more = [
        taking(ring(4, 1), 4),
        taking(ring(2, 2), 3),
        taking(Variant::Deep, 1),
        taking(Variant::Deep, 4),
        taking(Variant::Shallow, 3),
    ];
    (taking(Variant::Registers, 4), rings.into_iter().chain(more).collect())
}

#[test]
fn products_have_the_same_bits_however_their_weights_come() {
    let mut rng = Rng(110);
    let (registers, others) = all();
    for kind in KINDS {
        // Warps without a tile; one tile or none each; two or three each, with columns to spare in the last.
        for (rows, cols) in [(1, 16), (33, 272), (130, 1104)] {
            let matrix = Matrix::random(&mut rng, kind, rows, cols);
            let (x, residual) = (rng.floats(4 * cols), rng.floats(4 * rows));
            let run = |on: &Backend, t: usize| {
                let w = on.pack(&[matrix.packed()]).unwrap();
                let x = tensor(on, &[t, cols], &x[..t * cols]);
                let mut out = poisoned(on, &[t, rows]);
                on.linear(t, &x, &w, &mut out).unwrap();
                let mut added = tensor(on, &[t, rows], &residual[..t * rows]);
                on.linear_add(t, &x, &w, &mut added).unwrap();
                [read(on, &out, t), read(on, &added, t)].concat()
            };
            for t in [1, 3, 4] {
                let want = run(&registers, t);
                for on in &others {
                    same(&format!("{kind:?} [{rows}, {cols}] t={t} {}", name(on)), &run(on, t), &want);
                }
            }
            let (numbers, wide_x) = (matrix.numbers(), wide(&x));
            let want = product(&numbers, &wide_x, rows, cols);
            let most = magnitudes(&numbers, &wide_x, rows, cols);
            let got = run(&others[1], 4);
            within(
                &format!("{kind:?} [{rows}, {cols}]"),
                &got[..4 * rows],
                &want,
                &most,
                decode_tolerance(kind),
            );
        }
    }
}

#[test]
fn projections_have_the_same_bits_however_their_weights_come() {
    let mut rng = Rng(111);
    let (registers, others) = all();
    let cols = 208;
    for kinds in [
        [Kind::Fp8Tensor, Kind::Bf16, Kind::Nvfp4Divide, Kind::Nvfp4Multiply],
        [Kind::Bf16, Kind::F16, Kind::Bf16, Kind::Fp8Block],
    ] {
        let layer = [(0, 70), (1, 9), (2, 33), (3, 16)]
            .map(|(i, rows)| Matrix::random(&mut rng, kinds[i], rows, cols));
        let gate_up = [(); 2].map(|()| Matrix::random(&mut rng, kinds[3], 20, cols));
        let x = rng.floats(4 * cols);
        for t in [1, 4] {
            let want = projected(&registers, &layer, &gate_up, &x[..t * cols], t);
            for on in &others {
                let got = projected(on, &layer, &gate_up, &x[..t * cols], t);
                let what = format!("{kinds:?} t={t} {}", name(on));
                got.iter().zip(&want).for_each(|(got, want)| same(&what, got, want));
            }
        }
    }
    for kinds in gdn_in::LAYERS {
        let layer = gdn_in::Layer::random(&mut rng, 208, kinds, 4);
        let run = |on: &Backend| {
            let mut state = poisoned(on, &[1, HELD, CHANNELS]);
            let mut all = layer.run(on, 0, &pass(1, 0, vec![]), &mut state).concat();
            all.extend(layer.run(on, 1, &pass(3, 1, vec![]), &mut state).concat());
            all.extend(read(on, &state, HELD));
            all
        };
        let want = run(&registers);
        for on in &others {
            same(&format!("{kinds:?} {}", name(on)), &run(on), &want);
        }
    }
}

/// Two products of a device whose clock says how long kernels take that begin with `names`: what they give, and what is said
/// of the choice.
fn tuned(clock: Option<Vec<(&'static str, i64)>>) -> (Vec<f32>, Vec<hearth_kernels::cuda::Tuned>) {
    let mut rng = Rng(112);
    let matrices =
        [Matrix::random(&mut rng, Kind::Fp8Tensor, 40, 320), Matrix::random(&mut rng, Kind::F32, 40, 320)];
    let x = rng.floats(320);
    let cuda = Cuda::emulated(EmulatorOptions { clock, ..EmulatorOptions::default() }).unwrap();
    let on = Backend { name: "tuned".into(), ops: Box::new(cuda) };
    let weights = matrices.map(|matrix| on.pack(&[matrix.packed()]).unwrap());
    let x = tensor(&on, &[1, 320], &x);
    let mut outs = [poisoned(&on, &[1, 40]), poisoned(&on, &[1, 40])];
    let pass = pass(1, 0, vec![]);
    on.begin(&pass, &[0], &[]).unwrap();
    let records: &dyn Records = on.records().unwrap();
    let mut body =
        || -> Result<()> { weights.iter().zip(&mut outs).try_for_each(|(w, out)| on.linear(1, &x, w, out)) };
    let told = records.tune(&mut body).unwrap();
    if told.len() > 1 {
        assert_eq!(records.tune(&mut body).unwrap(), [], "all is chosen");
    }
    // What was chosen is what runs from now on.
    assert_eq!(on.time(&mut body).unwrap(), told.last().map(|told| told.after));
    // Recorded with what was chosen, and run.
    assert!(records.record(Stretch::Trunk, &pass, 0, &mut body).unwrap());
    on.replay(Stretch::Trunk, &pass, 0, &mut body).unwrap();
    (outs.iter().flat_map(|out| read(&on, out, 1)).collect(), told)
}

#[test]
fn what_the_clock_finds_fastest_is_taken_and_nothing_else_changes() {
    let (want, told) = tuned(None);
    assert_eq!(told, [], "there is no clock");
    let (slow, told) = tuned(Some(vec![("linear_ring", 30), ("linear", 20)]));
    same("slower rings", &slow, &want);
    let said = |told: &[hearth_kernels::cuda::Tuned]| {
        let of = |t: &hearth_kernels::cuda::Tuned| {
            (t.product.clone(), t.variant.clone(), (t.before * 1e6).round(), (t.after * 1e6).round())
        };
        told.iter().map(of).collect::<Vec<_>>()
    };
    // Six groups of FP8 do not fit; f32 has no rings.
    let product = "Fp8 48 x 320, 1 row".to_owned();
    let f32 = |seconds| ("F32 48 x 320, 1 row".to_owned(), "registers".to_owned(), seconds, seconds);
    let alike = ("memory of a multiprocessor".to_owned(), "alike, most of it shared".into(), 40.0, 40.0);
    assert_eq!(said(&told), [alike.clone(), (product.clone(), "registers".into(), 40.0, 40.0), f32(40.0)]);
    let (fast, told) = tuned(Some(vec![("linear_ring", 10), ("linear", 20)]));
    same("faster rings", &fast, &want);
    let ring = (product.clone(), "ring of 4, 1 a multiprocessor".into(), 40.0, 30.0);
    assert_eq!(said(&told), [alike.clone(), ring.clone(), f32(30.0)]);
    // Three row tiles are few: a rule has more of them on their way than this clock likes.
    let (fast, told) = tuned(Some(vec![("linear_ring", 10), ("linear_fp8_decode_4", 5), ("linear", 20)]));
    same("fewer registers", &fast, &want);
    let shallow = (product.clone(), "fewer registers".into(), 40.0, 25.0);
    assert_eq!(said(&told), [alike, shallow, f32(25.0)]);
    // Of steps of seconds nothing but that is measured: there is little to gain.
    let (long, told) = tuned(Some(vec![("linear_ring", 1), ("linear", 700_000)]));
    same("long steps", &long, &want);
    assert_eq!(
        told.iter().map(|told| told.product.as_str()).collect::<Vec<_>>(),
        ["memory of a multiprocessor"]
    );
    // Where that makes every launch slower, memory is divided as before.
    let (fast, told) = tuned(Some(vec![("linear_ring", 10), ("linear", 20), (PREFERRED, 1)]));
    same("memory as before", &fast, &want);
    let apart = ("memory of a multiprocessor".to_owned(), "as each kernel needs it".into(), 40.0, 40.0);
    assert_eq!(said(&told), [apart, ring, f32(30.0)]);
}
