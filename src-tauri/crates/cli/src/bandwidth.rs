//! `hearth bandwidth`: how fast this machine reads memory, which is the roof of decode speed. The appliance runs it once, in a process
//! of its own, so that the measurement's buffer is surely given back.

use std::{process::ExitCode, time::Duration};

use anyhow::Context;
use hearth_kernels::{
    Device,
    cpu::bandwidth::{DEFAULT_BUFFER, measure_read},
};

use crate::output;

/// Options of `hearth bandwidth`.
#[derive(clap::Args)]
pub struct Args {
    /// What reads: auto, cpu or cuda.
    #[arg(long, default_value = "auto", value_name = "auto|cpu|cuda")]
    device: String,
    /// Threads that read; default: all cores.
    #[arg(long)]
    threads: Option<usize>,
    /// MiB that are read again and again; must be much more than the caches hold.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=65536))]
    buffer: Option<u32>,
}

/// Measures for half a second; on a GPU, as long as nine passes over its buffer take.
pub fn run(args: Args, json: bool) -> anyhow::Result<ExitCode> {
    let device: Device = args.device.parse()?;
    if !matches!(device, Device::Cpu) {
        let opened = device.open(args.threads)?;
        let name = opened.ops.device();
        let measured = opened.ops.bandwidth().context("the read bandwidth could not be measured")?;
        if let Some(measured) = measured {
            let (gb_s, identity) = (measured.read / 1e9, opened.ops.identity());
            output::line(&if json {
                serde_json::json!({ "gb_s": gb_s, "device": name, "identity": identity }).to_string()
            } else {
                format!("{gb_s:.1} GB/s read by {identity}")
            });
            return Ok(ExitCode::SUCCESS);
        }
    }
    let buffer = args.buffer.map_or(DEFAULT_BUFFER, |mib| (mib as usize) << 20);
    let read = measure_read(args.threads, buffer, Duration::from_millis(500))
        .context("the read bandwidth could not be measured")?;
    let (best, median) = (read.best / 1e9, read.median / 1e9);
    output::line(&if json {
        let report = serde_json::json!({ "gb_s": best, "median_gb_s": median, "buffer": read.buffer, "threads": read.threads,
            "passes": read.passes, "device": "cpu" });
        report.to_string()
    } else {
        format!("{best:.1} GB/s read by {} threads (median {median:.1} GB/s)", read.threads)
    });
    Ok(ExitCode::SUCCESS)
}
