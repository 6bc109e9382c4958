//! Builds what is not Rust: the GPU code (nvcc.rs), where a CUDA compiler is at hand, and the kernels for the CPU with the
//! emulator that runs them (emulator.rs).

#[cfg(feature = "emulator")]
mod emulator;
mod nvcc;
mod ptxas;

use std::path::PathBuf;

fn main() {
    let folder = |name| PathBuf::from(std::env::var_os(name).unwrap_or_default());
    let (crate_folder, out) = (folder("CARGO_MANIFEST_DIR"), folder("OUT_DIR"));
    println!("cargo::rerun-if-changed={}", crate_folder.join("build").display());
    #[cfg(feature = "emulator")]
    if let Err(why) = emulator::build(&crate_folder, &out) {
        refuse(&why, "to build without the emulator, leave out the feature `emulator`");
    }
    if let Err(why) = nvcc::build(&crate_folder.join("cuda"), &out) {
        refuse(&why, "to build without GPU code, set HEARTH_NVCC=none");
    }
}

/// Ends the build with the reason and the way around it.
fn refuse(why: &str, instead: &str) -> ! {
    for line in why.lines().chain([instead]) {
        println!("cargo::error={line}");
    }
    std::process::exit(1);
}
