//! Release builds carry the UI inside the program. When it was missing at the last build, look again; debug builds read it from
//! the folder at run time and need nothing.

fn main() {
    let release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let watched = if release { "../../../ui/dist/index.html" } else { "build.rs" };
    println!("cargo:rerun-if-changed={watched}");
}
