//! Contexts that are split among blocks: what those found is joined the same for every row, in company as alone, and by the last
//! of the blocks as by a launch of its own.

use super::attention::{Layer, Reading, shape};
use super::bench::*;
use hearth_kernels::ops::KvFormat;

#[test]
fn contexts_of_many_splits_are_merged_the_same_for_every_row() {
    let mut rng = Rng(37);
    // The emulated device has 4 multiprocessors of three blocks each: 12 splits of 64 positions for one key head, of 128 for rows
    // from 768 on, ... Of 1100 positions the last split has several blocks of 64.
    for t in [511, 513, 770, 1030, 1100] {
        let layer = Layer::random(&mut rng, shape(2, 1, 64, 8, true), t);
        let reading = Reading { layer, format: KvFormat::Fp8, page_len: 64 };
        merged_alike(&reading, &each_way(), 1e-4);
    }
}

#[test]
#[cfg(feature = "emulator")]
fn sets_of_splits_are_merged_the_same_for_every_row_and_either_way() {
    let mut rng = Rng(38);
    // 48 splits of 64 positions: 16, 17 and 18 of them in use, so one set, then two, the last row of a pass in the second. 192 of 64:
    // 129 and 131 in use, nine sets.
    for (t, multiprocessors) in [(1024, 16), (1026, 16), (1106, 16), (8258, 64), (8350, 64)] {
        // A key that lies next to a tie of E2M1 may go the other way than on the CPU: 2e-4 here. bf16 shows merging alone.
        for (format, tolerance) in [(KvFormat::Bf16, 2e-5), (KvFormat::Nvfp4, 1e-3)] {
            let layer = Layer::random(&mut rng, shape(2, 1, 64, 8, true), t);
            let reading = Reading { layer, format, page_len: 64 };
            let (last, apart) =
                (emulated_with(multiprocessors), joining_apart(emulated_with(multiprocessors)));
            let what = format!("{format:?} {t}");
            same(&what, &reading.run(&apart, t - 5, &[5], true), &reading.run(&last, t - 5, &[5], true));
            merged_alike(&reading, &[backends().remove(0), last, apart], tolerance);
        }
    }
}

/// The last five rows on all devices as on the first, in company as alone.
pub fn merged_alike(reading: &Reading, devices: &[Backend], tolerance: f64) {
    let t = reading.layer.t;
    let wanted = wide(&reading.run(&devices[0], t - 5, &[5], true));
    for device in &devices[1..] {
        let what = format!("{t} positions, {}", name(device));
        let together = reading.run(device, t - 5, &[5], true);
        close(&what, &together, &wanted, tolerance);
        same(&what, &reading.run(device, t - 5, &[1; 5], true), &together);
        same(&what, &reading.run(device, t - 5, &[3, 2], true), &together);
    }
}

#[test]
#[cfg(feature = "emulator")]
fn splits_are_joined_as_the_clock_finds_faster() {
    use hearth_kernels::cuda::{Cuda, emulated::EmulatorOptions};
    let mut rng = Rng(113);
    let layer = Layer::random(&mut rng, shape(2, 1, 64, 8, true), 300);
    let reading = Reading { layer, format: KvFormat::Fp8, page_len: 64 };
    // What a launch of its own takes more, or saves of what the last blocks did.
    let joined = |more: i64| {
        let clock = Some(vec![("attend_decode", 20), ("attend_merge", more)]);
        let cuda = Cuda::emulated(EmulatorOptions { clock, ..EmulatorOptions::default() }).unwrap();
        let on = Backend { name: format!("{more} us"), ops: Box::new(cuda) };
        let told = reading.tuned(&on, 299);
        let before = on.records().unwrap().launches();
        let out = reading.run(&on, 299, &[1], false);
        // Besides the launch that fills the cache.
        let launches = on.records().unwrap().launches() - before - 1;
        (out, told.last().unwrap().variant.clone(), launches)
    };
    let (wanted, said, launches) = joined(5);
    assert_eq!((said.as_str(), launches), ("by the last blocks", 1));
    let (found, said, launches) = joined(-5);
    assert_eq!((said.as_str(), launches), ("by a launch of its own", 2));
    same("joined apart", &found, &wanted);
}
