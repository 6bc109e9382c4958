//! Times single ops on this machine: `cargo run --release -p hearth-kernels --example op_bench`. Prints, per format and
//! batch width, GB/s of weights and GMAC/s beside the read bandwidth measured in the same run. Arguments, all optional:
//! threads, format, and the MiB of distinct weights that are used in turn (1 MiB or less: what the arithmetic alone takes).

use hearth_kernels::cpu::{Cpu, bandwidth};
use hearth_kernels::{DType, Fp8Scales, Nvfp4Global, Ops, PackedWeight, Values, Weight};
use std::time::{Duration, Instant};

/// Distinct weights that are used in turn, MiB, so that none stays in a cache.
const ROUND: usize = 1024;

fn main() -> Result<(), hearth_kernels::OpError> {
    let threads = std::env::args().nth(1).and_then(|n| n.parse().ok());
    let cpu = Cpu::new(threads)?;
    let roof = bandwidth::measure_read(threads, bandwidth::DEFAULT_BUFFER, Duration::from_secs(1))?;
    println!(
        "{} threads, {}; read bandwidth {:.1} GB/s best, {:.1} median",
        cpu.threads(),
        cpu.simd().name(),
        roof.best / 1e9,
        roof.median / 1e9
    );
    let only = std::env::args().nth(2);
    let round = std::env::args().nth(3).and_then(|n| n.parse().ok()).unwrap_or(ROUND) << 20;
    for (name, rows, cols, t) in [
        ("nvfp4", 1024, 2048, 1),
        ("nvfp4", 8192, 2048, 1),
        ("nvfp4", 8192, 2048, 2),
        ("nvfp4", 8192, 2048, 4),
        ("nvfp4", 8192, 2048, 128),
        ("fp8", 8192, 2048, 1),
        ("fp8", 8192, 2048, 128),
        ("bf16", 8192, 2048, 1),
        ("bf16", 8192, 2048, 128),
        ("f16", 8192, 2048, 1),
        ("f32", 8192, 2048, 1),
    ] {
        if only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        let bytes = vec![0x35u8; rows * cols * 4];
        let values = match name {
            "nvfp4" => Values::Nvfp4 {
                nibbles: &bytes[..rows * cols / 2],
                scales: &bytes[..rows * cols / 16],
                global: Nvfp4Global::Multiply(1e-3),
            },
            "fp8" => Values::Fp8 { codes: &bytes[..rows * cols], scales: Fp8Scales::Tensor(1.0) },
            "bf16" => Values::Bf16(&bytes[..rows * cols * 2]),
            "f16" => Values::F16(&bytes[..rows * cols * 2]),
            _ => Values::F32(&bytes),
        };
        let one = PackedWeight { rows, cols, values };
        let first = cpu.pack(std::slice::from_ref(&one))?;
        let count = if t > 8 { 1 } else { (round / first.bytes).max(1) };
        let mut weights: Vec<Weight> = vec![first];
        while weights.len() < count {
            weights.push(cpu.pack(std::slice::from_ref(&one))?);
        }
        let x = cpu.upload(DType::F32, &vec![0x3c; t * cols * 4], DType::F32, &[t, cols])?;
        let mut out = cpu.zeros(DType::F32, &[t, rows])?;
        let mut rates = Vec::new();
        let start = Instant::now();
        while rates.len() < 3 || start.elapsed() < Duration::from_millis(500) {
            let round = Instant::now();
            for w in &weights {
                cpu.linear(t, &x, w, &mut out)?;
            }
            rates.push(round.elapsed().as_secs_f64() / weights.len() as f64);
        }
        rates.sort_by(f64::total_cmp);
        let median = rates[rates.len() / 2];
        println!(
            "linear {name:5} [{rows}, {cols}] t={t:<3} {:8.1} us {:6.1} GB/s {:5.1} % of read, {:6.1} GMAC/s",
            median * 1e6,
            weights[0].bytes as f64 / median / 1e9,
            100.0 * weights[0].bytes as f64 / median / roof.median,
            (t * rows * cols) as f64 / median / 1e9
        );
    }
    Ok(())
}
