//! Shared memory and asynchronous copies; the order of threads.

use crate::{all_devices, download, emulator, launch, room, seeded, upload};
use hearth_kernels::cuda::emulated::{EmulatorOptions, ThreadOrder};
use std::collections::HashSet;

#[test]
fn a_ring_of_asynchronous_copies_delivers_every_step() {
    for gpu in all_devices() {
        let steps = 9;
        let input: Vec<u32> = (0..steps * 128).collect();
        let out = room::<u32>(&gpu, input.len());
        let args = [upload(&gpu, &input), out, u64::from(steps)];
        launch(&gpu, "check_async_ring", 1, 32, 3 * 32 * 16, &args).unwrap();
        let found: Vec<u32> = download(&gpu, out, input.len());
        for (i, v) in found.into_iter().enumerate() {
            let (step, lane, word) = (i / 128, i / 4 % 32, i % 4);
            let expected =
                if step + 1 == steps as usize { 0 } else { input[step * 128 + (lane + 1) % 32 * 4 + word] };
            assert_eq!(v, expected, "step {step}, lane {lane}");
        }
    }
}

#[test]
fn every_block_finds_poison_in_shared_memory() {
    for gpu in all_devices() {
        let (fixed, dynamic) = (room::<u32>(&gpu, 128), room::<u32>(&gpu, 128));
        launch(&gpu, "check_fresh_shared", 4, 32, 128, &[fixed, dynamic]).unwrap();
        assert_eq!(download::<u32>(&gpu, fixed, 128), [u32::MAX; 128]);
        assert_eq!(download::<u32>(&gpu, dynamic, 128), [u32::MAX; 128]);
    }
}

fn order(options: EmulatorOptions) -> Vec<u32> {
    let gpu = emulator(options);
    let (counter, order) = (upload(&gpu, &[0u32]), room::<u32>(&gpu, 256));
    launch(&gpu, "check_order", 4, 64, 0, &[counter, order]).unwrap();
    download(&gpu, order, 256)
}

#[test]
fn the_seed_decides_the_order_of_threads_and_blocks() {
    let of = |order, seed| EmulatorOptions { order, seed, ..EmulatorOptions::default() };
    let forward: Vec<u32> = (0..256).collect();
    assert_eq!(order(of(ThreadOrder::Forward, 0)), forward);
    assert_eq!(order(of(ThreadOrder::Reverse, 0)), forward.iter().rev().copied().collect::<Vec<_>>());
    let random: HashSet<Vec<u32>> = (0..8).map(|seed| order(of(ThreadOrder::Random, seed))).collect();
    assert_eq!(random.len(), 8, "each seed its own order");
    assert_eq!(
        order(of(ThreadOrder::Random, 5)),
        order(of(ThreadOrder::Random, 5)),
        "the same seed the same order"
    );
    for mut one in random {
        let first_block: Vec<u32> = one[..64].iter().map(|t| t / 64).collect();
        assert_eq!(HashSet::<u32>::from_iter(first_block).len(), 1, "one block after another");
        one.sort_unstable();
        assert_eq!(one, forward, "each thread once");
    }
}

#[test]
fn device_memory_is_poisoned() {
    let gpu = seeded(0);
    let at = room::<u8>(&gpu, 5000);
    assert_eq!(at % 16, 0);
    assert_eq!(download::<u8>(&gpu, at, 5000), [0xff; 5000]);
}
