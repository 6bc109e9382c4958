//! The emulator tells right kernels from wrong ones.
#![cfg(feature = "emulator")]

use hearth_kernels::cuda::emulated::{Emulator, EmulatorOptions};

#[link(name = "hearth_emulated_checks", kind = "static")]
unsafe extern "C" {
    fn hearth_emu_checks() -> i32;
}

#[test]
fn a_missing_barrier_shows() {
    // SAFETY: it does nothing; naming it links the kernels of this test.
    assert_eq!(unsafe { hearth_emu_checks() }, 1);
    let gpu = Emulator::new(EmulatorOptions::default()).unwrap();
    let out = gpu.alloc(4 * 128).unwrap();
    gpu.launch("fault_missing_barrier", [1, 1, 1], 128, 0, &out.to_le_bytes()).unwrap();
    let mut bytes = vec![0; 512];
    gpu.read(out, &mut bytes).unwrap();
    assert!(bytes.chunks_exact(4).any(|b| b == [0xff; 4]));
}
