//! Builds what is not Rust: the GPU code (nvcc.rs), where a CUDA compiler is at hand.

mod nvcc;
mod ptxas;

use std::path::PathBuf;

fn main() {
    let folder = |name| PathBuf::from(std::env::var_os(name).unwrap_or_default());
    let crate_folder = folder("CARGO_MANIFEST_DIR");
    println!("cargo::rerun-if-changed={}", crate_folder.join("build").display());
    if let Err(why) = nvcc::build(&crate_folder.join("cuda"), &folder("OUT_DIR")) {
        for line in why.lines() {
            println!("cargo::error={line}");
        }
        println!("cargo::error=to build without GPU code, set HEARTH_NVCC=none");
        std::process::exit(1);
    }
}
