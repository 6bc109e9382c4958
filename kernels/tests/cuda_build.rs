//! The GPU code as nvcc left it: no kernel spills, no hot kernel touches local memory, ptxas did as it was told. Prints the
//! table of kernels (`-- --nocapture`), and with HEARTH_PTXAS_TABLE=FILE writes it as `results/ptxas.csv` has it. Without nvcc
//! there is nothing to judge; with HEARTH_CUDA=required that is a failure.

#[path = "../build/ptxas.rs"]
mod ptxas;

use ptxas::Kernel;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the build script left: one folder per target, with a cubin and a log per file.
const BUILT: &str = concat!(env!("OUT_DIR"), "/cuda");

mod table {
    #![allow(dead_code)]
    pub(crate) struct Cubin {
        target: &'static str,
        file: &'static str,
        code: &'static [u8],
        kernels: &'static [&'static str],
    }
    struct Aligned<T>(T);
    include!(concat!(env!("OUT_DIR"), "/cuda/cubins.rs"));
}

/// What is wrong with a kernel, if anything.
fn fault(kernel: &Kernel) -> Option<String> {
    let Kernel { name, spills, stack, .. } = kernel;
    if *spills > 0 {
        return Some(format!("{name} spills {spills} bytes per thread; give it more registers or less work"));
    }
    (*stack > 0 && !kernel.cold).then(|| {
        format!(
            "{name} has {stack} bytes of local memory per thread (an array whose index is not known when compiling, or \
             sinf/cosf); only a KERNEL_COLD may have any"
        )
    })
}

/// Everything wrong with one compiled file; prints its part of the table, and adds it to `table`.
fn judge(target: &str, log: &str, cubin: &[u8], table: &mut Vec<String>) -> Vec<String> {
    let mut faults: Vec<String> = log
        .lines()
        .filter(|line| line.contains("ptxas warning"))
        .map(|line| format!("{target}: {line}"))
        .collect();
    for kernel in ptxas::kernels(log, cubin) {
        let Kernel { name, registers, shared, stack, spills, cold } = &kernel;
        let mark = if *cold { "cold" } else { "" };
        println!("{name:<41} {target:<8} {registers:>9} {shared:>7} {stack:>6} {spills:>7} {mark}");
        let cold = if *cold { "yes" } else { "no" };
        table.push(format!("{name},{target},{registers},{shared},{stack},{spills},{cold}"));
        faults.extend(fault(&kernel).map(|what| format!("{target}: {what}")));
    }
    faults
}

fn logs(folder: &Path) -> Vec<PathBuf> {
    let mut logs: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "log"))
        .collect();
    logs.sort();
    logs
}

#[test]
fn no_kernel_spills_and_no_hot_kernel_uses_local_memory() {
    if let Err(why) = table::COMPILER {
        assert!(
            std::env::var("HEARTH_CUDA").as_deref() != Ok("required"),
            "no GPU code in this build: {why}"
        );
        println!("not judged: {why}");
        return;
    }
    println!(
        "{:<41} {:<8} {:>9} {:>7} {:>6} {:>7}",
        "kernel", "target", "registers", "shared", "local", "spills"
    );
    let (mut faults, mut table) = (Vec::new(), Vec::new());
    for target in ["sm_121a", "sm_90a"] {
        let first = table.len();
        for log in logs(&Path::new(BUILT).join(target)) {
            let text = std::fs::read_to_string(&log).expect("the build script wrote it");
            let cubin = std::fs::read(log.with_extension("cubin")).expect("the build script wrote it");
            faults.extend(judge(target, &text, &cubin, &mut table));
        }
        table[first..].sort();
    }
    if let Some(file) = std::env::var_os("HEARTH_PTXAS_TABLE") {
        table.insert(0, "kernel,target,registers,static_shared_bytes,stack_bytes,spill_bytes,cold".into());
        std::fs::write(file, table.join("\n") + "\n")
            .expect("HEARTH_PTXAS_TABLE names a file that can be written");
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// Compiles `source` as the build script does and judges it; None without nvcc.
fn plant(name: &str, source: &str) -> Option<Vec<String>> {
    let nvcc = option_env!("HEARTH_NVCC_USED")?;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).expect("cargo's folder for tests can be written");
    std::fs::write(folder.join("planted.cu"), source).expect("cargo's folder for tests can be written");
    let ran = Command::new(nvcc)
        .args(["-cubin", "-std=c++20", "-O3", "--fmad=false", "-Xptxas", "-v", "-arch=sm_90a", "-I"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/cuda"))
        .args(["-o", "planted.cubin", "planted.cu"])
        .current_dir(&folder)
        .output()
        .expect("nvcc was there when the crate was built");
    let log = String::from_utf8_lossy(&ran.stderr).into_owned() + &String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "the planted kernel should compile:\n{log}");
    let cubin = std::fs::read(folder.join("planted.cubin")).expect("nvcc wrote it");
    Some(judge("sm_90a", &log, &cubin, &mut Vec::new()))
}

const INDEXED: &str = r#"
    (planted, 32, 1, Arguments) {
        float* out = reinterpret_cast<float*>(args.out);
        float v[64];
        for (int i = 0; i < 64; i++) v[(i * args.step) & 63] = out[i];
        for (int i = 0; i < 64; i++) out[i] = v[(i * 7 + args.step) & 63];
    }
"#;

const CROWDED: &str = r#"
    KERNEL(planted, 1024, 2, Arguments) {
        float* out = reinterpret_cast<float*>(args.out) + threadIdx.x;
        float v[64];
    #pragma unroll
        for (int i = 0; i < 64; i++) v[i] = out[i * args.step];
        __syncthreads();
    #pragma unroll
        for (int j = 0; j < 8; j++)
    #pragma unroll
            for (int i = 0; i < 64; i++) v[i] = v[i] * v[(i + j) & 63] + 1.0f;
    #pragma unroll
        for (int i = 0; i < 64; i++) out[i * args.step] = v[i];
    }
"#;

const HEAD: &str = "#include \"hearth.cuh\"\nstruct Arguments { u64 out; u32 step; u32 unused; };\n";

#[test]
fn an_array_with_an_unknown_index_is_refused_in_a_hot_kernel() {
    let Some(faults) = plant("indexed", &format!("{HEAD}KERNEL{INDEXED}")) else { return };
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].contains("planted has 256 bytes of local memory"), "{faults:?}");
}

#[test]
fn an_array_with_an_unknown_index_is_allowed_in_a_cold_kernel() {
    let Some(faults) = plant("indexed-cold", &format!("{HEAD}KERNEL_COLD{INDEXED}")) else { return };
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn launch_bounds_that_leave_too_few_registers_are_refused_even_in_a_cold_kernel() {
    let source = format!("{HEAD}{}", CROWDED.replace("KERNEL(", "KERNEL_COLD("));
    let Some(faults) = plant("crowded", &source) else { return };
    assert!(faults.iter().any(|fault| fault.contains("planted spills")), "{faults:?}");
}

#[test]
fn launch_bounds_that_the_chip_cannot_meet_are_refused() {
    let source = format!(
        "{HEAD}KERNEL(planted, 1024, 3, Arguments) {{ reinterpret_cast<u32*>(args.out)[threadIdx.x] = args.step; }}"
    );
    let Some(faults) = plant("impossible", &source) else { return };
    assert!(faults.iter().any(|fault| fault.contains("minnctapersm")), "{faults:?}");
}

#[test]
fn a_log_is_read_with_its_registers_shared_memory_and_spills() {
    let log = "ptxas info    : 25 bytes gmem\n\
               ptxas info    : Compiling entry function 'b' for 'sm_121a'\n\
               ptxas info    : Function properties for b\n    \
               1200 bytes stack frame, 2440 bytes spill stores, 2660 bytes spill loads\n\
               ptxas info    : Used 64 registers, used 1 barriers, 1200 bytes cumulative stack size, 4096 bytes smem\n\
               ptxas info    : Compiling entry function 'a' for 'sm_121a'\n\
               ptxas info    : Function properties for a\n    \
               0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
               ptxas info    : Used 40 registers, used 0 barriers\n";
    let cold = b"x\0hearth_cold_b\0y";
    let kernel = |name: &str, registers, shared, stack, spills, cold| Kernel {
        name: name.into(),
        registers,
        shared,
        stack,
        spills,
        cold,
    };
    assert_eq!(
        ptxas::kernels(log, cold),
        [kernel("a", 40, 0, 0, 0, false), kernel("b", 64, 4096, 1200, 5100, true)]
    );
}
