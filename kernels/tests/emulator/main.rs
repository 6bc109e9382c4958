//! The emulator does what a GPU does (numbers, warp, memory), and refuses what a GPU may or may not (faults, device).
//! Its kernels are emu/checks/*.cu and emu/faults/*.cu, which only this test links.
#![cfg(feature = "emulator")]
#![allow(clippy::unwrap_used)]

mod device;
mod faults;
mod matrix;
mod memory;
mod numbers;
mod warp;

use hearth_kernels::OpError;
use hearth_kernels::cuda::emulated::{AsyncCopies, Emulator, EmulatorOptions, ThreadOrder};

#[link(name = "hearth_emulated_checks", kind = "static")]
unsafe extern "C" {
    fn hearth_emu_checks() -> i32;
}

/// A device whose threads run in the order of this seed.
fn seeded(seed: u64) -> Emulator {
    emulator(EmulatorOptions { seed, ..EmulatorOptions::default() })
}

fn emulator(options: EmulatorOptions) -> Emulator {
    // SAFETY: it returns a number; naming it links the kernels of this test.
    assert_eq!(unsafe { hearth_emu_checks() }, 1);
    Emulator::new(options).unwrap()
}

/// Devices in every order and mode, and with several seeds.
fn all_devices() -> Vec<Emulator> {
    let mut devices = Vec::new();
    for copies in [AsyncCopies::Immediate, AsyncCopies::Deferred] {
        for order in [ThreadOrder::Forward, ThreadOrder::Reverse, ThreadOrder::Random] {
            for seed in 0..if order == ThreadOrder::Random { 4 } else { 1 } {
                devices.push(emulator(EmulatorOptions { seed, order, copies, ..EmulatorOptions::default() }));
            }
        }
    }
    devices
}

/// Plain numbers on the device and back.
trait Number: Copy {
    const BYTES: usize;
    fn put(self, bytes: &mut Vec<u8>);
    fn get(bytes: &[u8]) -> Self;
}

macro_rules! number {
    ($($t:ty),*) => {$(impl Number for $t {
        const BYTES: usize = size_of::<$t>();
        fn put(self, bytes: &mut Vec<u8>) {
            bytes.extend_from_slice(&self.to_le_bytes());
        }
        fn get(bytes: &[u8]) -> $t {
            <$t>::from_le_bytes(bytes.try_into().unwrap())
        }
    })*};
}
number!(u8, u16, u32, u64, f32);

fn bytes_of<T: Number>(values: &[T]) -> Vec<u8> {
    let mut bytes = Vec::new();
    values.iter().for_each(|v| v.put(&mut bytes));
    bytes
}

fn upload<T: Number>(gpu: &Emulator, values: &[T]) -> u64 {
    let at = gpu.alloc(values.len() * T::BYTES).unwrap();
    gpu.write(at, &bytes_of(values)).unwrap();
    at
}

/// Room for `count` numbers, poisoned.
fn room<T: Number>(gpu: &Emulator, count: usize) -> u64 {
    gpu.alloc(count * T::BYTES).unwrap()
}

fn download<T: Number>(gpu: &Emulator, at: u64, count: usize) -> Vec<T> {
    let mut bytes = vec![0; count * T::BYTES];
    gpu.read(at, &mut bytes).unwrap();
    bytes.chunks_exact(T::BYTES).map(T::get).collect()
}

/// Launches a kernel whose argument is made of addresses and 64-bit numbers.
fn launch(
    gpu: &Emulator,
    kernel: &str,
    blocks: u32,
    threads: u32,
    shared: u32,
    args: &[u64],
) -> Result<(), OpError> {
    gpu.launch(kernel, [blocks, 1, 1], threads, shared, &bytes_of(args))
}

/// The words of the device's refusal; panics if there is none.
fn refusal(result: Result<(), OpError>) -> String {
    match result {
        Err(OpError::Device { device: "emulated", code, what }) => format!("{code}: {what}"),
        other => panic!("expected a fault of the device, found {other:?}"),
    }
}

/// Holds that a refusal contains every one of these.
#[track_caller]
fn refused(result: Result<(), OpError>, words: &[&str]) {
    let text = refusal(result);
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}
