//! Heads that fill the fast attention kernels only in part: every multiple of 16 from 80 to 240.
use super::attention::{Layer, NARROW, Reading, prefill_agrees, shape};
use super::bench::*;
use super::joining::merged_alike;
use hearth_kernels::ops::KvFormat;

/// How far results of one row at a time may be from the CPU's: a key that lies next to a tie may go the other way.
fn tolerance(format: KvFormat) -> f64 {
    if format == KvFormat::Bf16 { 3e-5 } else { 1e-3 }
}

#[test]
fn decoding_with_heads_of_every_size_agrees_with_an_f64_loop_and_rows_are_the_same_alone_and_in_company() {
    let mut rng = Rng(41);
    for (shape, t) in [
        (shape(4, 2, 80, 16, true), 130),
        (shape(2, 1, 96, 32, false), 64),
        // Eleven query heads to a key head: two octets.
        (shape(11, 1, 112, 0, false), 67),
        (shape(2, 2, 144, 16, false), 71),
        (shape(3, 1, 160, 64, true), 66),
        (shape(2, 1, 176, 16, true), 65),
        (shape(8, 2, 192, 0, false), 70),
        (shape(2, 1, 208, 52, false), 72),
        (shape(12, 1, 224, 32, true), 65),
        (shape(1, 1, 240, 240, true), 129),
    ] {
        for format in NARROW {
            let reading = Reading { layer: Layer::random(&mut rng, shape, t), format, page_len: 64 };
            let want = reading.layer.wanted_from(format);
            let first = t - 6;
            let want = &want[first * shape.q_heads * shape.head_dim..];
            let devices = one_of_each();
            let defined = reading.run(&devices[0], first, &[6], true);
            close(&format!("{format:?} {shape:?}"), &defined, want, 1e-2);
            for device in &devices[1..] {
                let what = format!("{format:?} {shape:?} {}", name(device));
                let together = reading.run(device, first, &[6], true);
                close(&what, &together, &wide(&defined), tolerance(format));
                same(&what, &reading.run(device, first, &[1; 6], true), &together);
                same(&what, &reading.run(device, first, &[4, 2], true), &together);
            }
        }
    }
}

#[test]
#[cfg(feature = "emulator")]
fn splits_of_heads_of_odd_sizes_are_merged_the_same_for_every_row() {
    let mut rng = Rng(42);
    // 17 and 18 of 48 splits of 64 positions: two sets, the second with one or two.
    for (head_dim, t) in [(80, 1026), (208, 1106)] {
        for format in NARROW {
            let layer = Layer::random(&mut rng, shape(2, 1, head_dim, 16, true), t);
            let reading = Reading { layer, format, page_len: 128 };
            let devices = [backends().remove(0), emulated_with(16), joining_apart(emulated_with(16))];
            let [_, last, apart] = &devices;
            let what = format!("{format:?} {head_dim}");
            same(&what, &reading.run(apart, t - 3, &[3], true), &reading.run(last, t - 3, &[3], true));
            merged_alike(&reading, &devices, tolerance(format));
        }
    }
}

#[test]
fn prefill_with_heads_of_every_size_agrees_with_an_f64_loop_also_behind_a_cached_prefix() {
    let mut rng = Rng(43);
    for (shape, t) in [
        (shape(4, 2, 80, 16, true), 101),
        (shape(3, 1, 96, 96, false), 70),
        (shape(6, 1, 112, 32, true), 75),
        (shape(2, 1, 160, 64, false), 66),
        (shape(2, 2, 192, 0, true), 47),
        (shape(5, 1, 208, 16, false), 50),
        (shape(2, 1, 240, 64, true), 67),
    ] {
        prefill_agrees(&mut rng, shape, t, 23);
    }
}
