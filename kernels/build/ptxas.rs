//! Reads what ptxas says about each kernel (`-Xptxas -v`). Used by nvcc.rs when the crate is built, and by
//! tests/cuda_build.rs, which judges it.

/// What ptxas made of one kernel for one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Name of the entry function.
    pub name: String,
    /// Registers per thread.
    pub registers: u32,
    /// Static shared memory per block, bytes.
    pub shared: u32,
    /// Local memory per thread, bytes: arrays that are not in registers, and spilled registers.
    pub stack: u32,
    /// Bytes per thread that had to leave the registers, stores and loads.
    pub spills: u32,
    /// Declared with KERNEL_COLD: local memory is allowed.
    pub cold: bool,
}

/// The kernels in a log of `nvcc -cubin -Xptxas -v`, in the order of their names. `cubin` tells which are cold:
/// KERNEL_COLD(name, ..) leaves the symbol `hearth_cold_name` in it.
pub fn kernels(log: &str, cubin: &[u8]) -> Vec<Kernel> {
    let mut found: Vec<Kernel> = Vec::new();
    let mut properties_of = String::new();
    for line in log.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            let name = rest.split('\'').next().unwrap_or_default().to_string();
            let cold = contains(cubin, format!("\0hearth_cold_{name}\0").as_bytes());
            found.push(Kernel { name, registers: 0, shared: 0, stack: 0, spills: 0, cold });
        } else if let Some(rest) = line.split("Function properties for ").nth(1) {
            properties_of = rest.trim().to_string();
        } else if line.contains(" bytes stack frame") {
            let numbers = (
                before(line, "bytes stack frame"),
                before(line, "bytes spill stores"),
                before(line, "bytes spill loads"),
            );
            // A function that was not inlined has properties of its own; whoever calls it has a stack, so its spills show.
            if let Some(kernel) = found.last_mut() {
                kernel.spills += numbers.1 + numbers.2;
                if kernel.name == properties_of {
                    kernel.stack = kernel.stack.max(numbers.0);
                }
            }
        } else if line.contains(" registers")
            && line.contains("Used ")
            && let Some(kernel) = found.last_mut()
        {
            kernel.registers = before(line, "registers");
            kernel.shared = before(line, "bytes smem");
            kernel.stack = kernel.stack.max(before(line, "bytes cumulative stack size"));
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// The number that stands before `words` in `line`, or 0.
fn before(line: &str, words: &str) -> u32 {
    let Some(at) = line.find(words) else { return 0 };
    line[..at].trim_end().rsplit([' ', ',']).next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}
