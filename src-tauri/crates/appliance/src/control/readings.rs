//! Messages about the machine as it is now: memory by parts, speed, bandwidth, and what the chips are doing.

use serde::{Deserialize, Serialize};
use ts_rs::TS;

use super::types::Source;

/// A part of the memory bar, in drawing order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct MemoryPart {
    /// `weights`, `kv_used`, `kv_cached`, `kv_reserved`, `state`, `scratch`, `context` (what CUDA itself takes), `other`, `cache` (reclaimable),
    /// `free`.
    pub kind: String,
    /// Bytes.
    pub bytes: f64,
    /// Where the number comes from.
    pub source: Source,
}

/// The memory the model lives in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Memory {
    /// Bytes of the pool; null if unknown.
    pub total: Option<f64>,
    /// Kept free for the host, bytes; zero where the model does not live in the host's memory.
    pub reserve: f64,
    /// Parts that add up to the total.
    pub parts: Vec<MemoryPart>,
    /// `host`, `gpu` (a card with memory of its own), or `unified` (a GB10: one memory for both).
    pub pool: String,
    /// The largest programs within `other`, largest first; empty while nobody looks.
    pub others: Vec<MemoryHolder>,
}

/// A program that holds memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct MemoryHolder {
    /// Name of the program.
    pub name: String,
    /// Bytes of all its processes.
    pub bytes: f64,
}

/// Tokens and waiting, over the last seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Throughput {
    /// Tokens per second written, all requests together; null when none was decoding.
    pub decode_tok_s: Option<f64>,
    /// Prompt tokens per second read; null when none was read.
    pub prefill_tok_s: Option<f64>,
    /// Median time to first token of the last requests, seconds.
    pub ttft_p50_s: Option<f64>,
    /// Of how many requests.
    pub ttft_requests: u32,
    /// Being computed.
    pub running: u32,
    /// Waiting.
    pub queued: u32,
}

/// Memory bandwidth in decode: bytes per step x steps per second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Bandwidth {
    /// GB/s now; null outside decode.
    pub gb_s: Option<f64>,
    /// Bytes one step reads.
    pub bytes_per_step: Option<f64>,
    /// Steps per second.
    pub steps_per_s: Option<f64>,
    /// `measured` if the GPU counts its traffic itself, else `estimated`.
    pub source: Source,
    /// Share 0..1 of the bus's peak, counted by the GPU; null where it does not count or nobody looks.
    pub counted: Option<f64>,
    /// Read bandwidth measured on this machine, GB/s.
    pub roof_gb_s: Option<f64>,
    /// Peak of the memory bus, GB/s, if it is known (GB10: 273).
    pub nominal_gb_s: Option<f64>,
}

/// A reading of the GPU, if there is one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Gpu {
    /// Product name.
    pub name: String,
    /// Driver version.
    pub driver: Option<String>,
    /// Percent.
    pub utilisation: Option<f64>,
    /// Watts.
    pub power_w: Option<f64>,
    /// Watts at which the driver holds the clock down.
    pub power_limit_w: Option<f64>,
    /// Celsius.
    pub temperature_c: Option<f64>,
    /// MHz.
    pub sm_clock_mhz: Option<f64>,
    /// MHz, the most this device reaches.
    pub sm_clock_most_mhz: Option<f64>,
    /// Why the clock is held down; empty if it is not, null if the device does not tell.
    pub held_by: Option<Vec<String>>,
}

/// A reading of the processor, where there is no GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct CpuNow {
    /// Percent of all cores' time.
    pub busy: Option<f64>,
    /// Celsius.
    pub temperature_c: Option<f64>,
    /// MHz of the fastest core.
    pub clock_mhz: Option<f64>,
}

/// The machine as it was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Machine {
    /// Host name.
    pub name: String,
    /// Processor model.
    pub cpu: String,
    /// Logical cores.
    pub cores: u32,
    /// Null without a driver.
    pub gpu: Option<Gpu>,
    /// Null with a GPU, which is then what computes.
    pub cpu_now: Option<CpuNow>,
}
