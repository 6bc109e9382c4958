//! Messages of the control API. TypeScript types are generated from here (`ui/src/lib/types`); nothing else defines them.
//! A number that is not known is `null`, never zero; `source` says where a number comes from.

use std::path::PathBuf;

use hearth_engine::status::{Fault, Values};
use serde::{Deserialize, Serialize};
use ts_rs::TS;

pub use super::{
    figures::{Drafts, Prices, Usage},
    readings::{Bandwidth, CpuNow, Gpu, Machine, Memory, MemoryHolder, MemoryPart, Throughput},
};

/// Where a number comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Read from a counter or timed.
    Measured,
    /// Computed from other numbers; the formula is shown beside it.
    Estimated,
    /// From the engine's own allocator.
    Exact,
    /// A data sheet.
    Nominal,
    /// Not to be had on this machine.
    Unavailable,
}

/// Model + context + depth + KV type + concurrency: everything a start needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(default, deny_unknown_fields)]
pub struct Profile {
    /// `ember`, a folder, a GGUF file, or a Hugging Face id in the cache.
    pub model: String,
    /// Context length, tokens; null: the model's own limit or what fits.
    pub context: Option<u32>,
    /// Requests served at once.
    pub max_requests: u32,
    /// How keys and values are kept: `bf16`, `f32`, `fp8` or `nvfp4`, and which layers differ, as in `nvfp4:ends=bf16`.
    pub kv: String,
    /// Tokens drafted per round by the model's own MTP head: `auto`, or 0 to 5.
    pub mtp_depth: String,
    /// The head that drafts are proposed with: `full`, `fp8`, `nvfp4`, a number of tokens, or both as in `nvfp4:32768`.
    pub draft_head: String,
    /// A text file of token ids that drafts may come from, beside the control tokens; null: as `draft_head` says.
    #[ts(type = "string | null")]
    pub draft_vocabulary: Option<PathBuf>,
    /// Prefill in decode's arithmetic.
    pub exact: bool,
    /// Prefill on the FP4 tensor cores of a GB10, with activations rounded to NVFP4; not with `exact`.
    pub fp4_activations: bool,
    /// Requests that may wait for their turn; more are refused.
    pub max_waiting: u32,
    /// Prompt tokens read per step: more reads prompts faster, fewer lets running answers go on more evenly.
    pub chunk: u32,
    /// Keep prefixes that memory has no room for in files of at most so many GiB, readable by their owner only; null: nowhere,
    /// and those that were kept before are removed.
    pub prefix_disk_gib: Option<u32>,
    /// How tokens are picked where a request does not say.
    pub sampling: SamplingDefaults,
}

/// Sampling where a request does not say; null: as the model's authors recommend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingDefaults {
    /// 0 to 2; 0 always picks the likeliest.
    pub temperature: Option<f64>,
    /// Above 0, to 1.
    pub top_p: Option<f64>,
    /// Likeliest tokens to pick from; 0: all.
    pub top_k: Option<u32>,
    /// 0 to 1.
    pub min_p: Option<f64>,
}

/// What the engine is doing, in the words of the dashboard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EngineState {
    /// No model is chosen or none is on disk.
    NoModel,
    /// Ready to start.
    Stopped,
    /// Weights are being read; `stage` is one of the engine's stage names.
    Loading {
        /// Name of the stage.
        stage: String,
        /// 0-based.
        index: u32,
        /// Number of stages.
        count: u32,
        /// 0..1 within the stage.
        fraction: f64,
        /// From the last load of this profile; null the first time.
        seconds_left: Option<f64>,
    },
    /// Answering.
    Serving {
        /// Unix milliseconds of becoming ready.
        since_ms: f64,
        /// Share of the prompt read, while one request is in prefill.
        prefill: Option<f64>,
    },
    /// Answering, but something is wrong.
    Degraded {
        /// Unix milliseconds of becoming ready.
        since_ms: f64,
        /// Why, and what to do.
        fault: Fault,
    },
    /// Finishing running requests.
    Stopping {
        /// Requests still running.
        running: u32,
        /// Until they are cut off.
        seconds_left: f64,
    },
    /// The engine died and is started again.
    Restarting {
        /// 1-based.
        attempt: u32,
        /// Most attempts for the same fault.
        of: u32,
        /// Until the next attempt.
        seconds_left: f64,
        /// What happened.
        fault: Fault,
    },
    /// Given up, or refused.
    Error {
        /// Cause, evidence, next step.
        fault: Fault,
    },
}

/// The public address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Endpoint {
    /// `http://127.0.0.1:8000/v1`.
    pub url: String,
    /// TCP port.
    pub port: u16,
}

/// A model on this machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct ModelCard {
    /// What `Profile.model` takes.
    pub id: String,
    /// For people.
    pub name: String,
    /// True for Ember: say that it is a demonstration model wherever it is named.
    pub demonstration: bool,
    /// Model family, null if Hearth cannot run it.
    pub family: Option<String>,
    /// Why not, if it cannot run.
    pub fault: Option<Fault>,
    /// Bytes on disk.
    pub bytes: f64,
    /// The model's own longest context, tokens.
    pub max_context: Option<u32>,
    /// Longest context that can be asked for, tokens: beyond the model's own, its positions are stretched (YaRN).
    pub longest_context: Option<u32>,
}

/// Something the person should know, without being asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Notice {
    /// Stable code.
    pub code: String,
    /// `info`, `warning` or `error`.
    pub level: String,
    /// One sentence, or a fault's two.
    pub text: String,
    /// The names and numbers in it, as in a fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[ts(optional, type = "Record<string, unknown>")]
    pub values: Option<Box<Values>>,
}

impl Notice {
    /// A notice without names and numbers.
    pub fn new(code: &str, level: &str, text: impl Into<String>) -> Notice {
        Notice { code: code.into(), level: level.into(), text: text.into(), values: None }
    }

    /// The same notice with a name or number of its sentence.
    pub fn with(mut self, name: &str, value: impl Serialize) -> Notice {
        let value = serde_json::to_value(value).unwrap_or_default();
        self.values.get_or_insert_default().insert(name.to_owned(), value);
        self
    }
}

/// Everything the dashboard shows now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Snapshot {
    /// Unix milliseconds.
    pub time_ms: f64,
    /// Hearth's version.
    pub version: String,
    /// The language of the settings: `system`, `en` or `de`.
    pub language: String,
    /// Seconds since the appliance started.
    pub uptime_s: f64,
    /// The engine.
    pub state: EngineState,
    /// What is (or would be) started.
    pub profile: Profile,
    /// The model of the profile; null if it is not on disk.
    pub model: Option<ModelCard>,
    /// Where clients point.
    pub endpoint: Endpoint,
    /// Memory bar.
    pub memory: Memory,
    /// Speed.
    pub throughput: Throughput,
    /// Why that speed.
    pub bandwidth: Bandwidth,
    /// Machine facts.
    pub machine: Machine,
    /// What drafting does; null if the model drafts nothing.
    pub drafts: Option<Drafts>,
    /// Requests running or waiting now.
    pub active: Vec<ActiveRequest>,
    /// Notices.
    pub notices: Vec<Notice>,
}

/// A request that is running or waiting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct ActiveRequest {
    /// `x-request-id`.
    pub id: String,
    /// `queued`, `prefill`, `decode`.
    pub phase: String,
    /// Prompt tokens; null before they are counted.
    pub prompt_tokens: Option<u32>,
    /// Prompt tokens read so far.
    pub prefilled_tokens: u32,
    /// Tokens written so far.
    pub output_tokens: u32,
    /// Unix milliseconds.
    pub started_ms: f64,
}

/// A finished request. Text is never kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct RequestRecord {
    /// Row number in the history.
    pub row: f64,
    /// `x-request-id`.
    pub id: String,
    /// `chat`, `completion`, `responses` or `messages`.
    pub kind: String,
    /// Model id.
    pub model: String,
    /// Unix milliseconds of arrival.
    pub started_ms: f64,
    /// Seconds from arrival to the end.
    pub total_s: f64,
    /// Prompt tokens; null if it failed before they were counted.
    pub prompt_tokens: Option<u32>,
    /// Of these, found in the prefix cache.
    pub cached_tokens: Option<u32>,
    /// Tokens written.
    pub output_tokens: Option<u32>,
    /// Seconds waiting.
    pub queue_s: Option<f64>,
    /// Seconds to the first token, waiting included.
    pub ttft_s: Option<f64>,
    /// Tokens per second after the first.
    pub decode_tok_s: Option<f64>,
    /// `stop`, `length`, `cancelled`, `error`, `refused`.
    pub finish: String,
    /// One sentence, if it failed or was refused.
    pub error: Option<String>,
    /// The same for machines: `context_length_exceeded` and the like.
    pub error_code: Option<String>,
}

/// Samples of the charts, oldest first; null is a gap, not zero.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct History {
    /// Seconds between samples.
    pub step_s: f64,
    /// Unix milliseconds.
    pub t_ms: Vec<f64>,
    /// Decode tok/s.
    pub decode_tok_s: Vec<Option<f64>>,
    /// Prefill tok/s.
    pub prefill_tok_s: Vec<Option<f64>>,
    /// GB/s, measured or estimated.
    pub bandwidth_gb_s: Vec<Option<f64>>,
    /// Memory in use (everything but free and reclaimable), bytes.
    pub memory_bytes: Vec<Option<f64>>,
    /// Watts of the GPU.
    pub power_w: Vec<Option<f64>>,
    /// Celsius of the GPU, or of the processor without one.
    pub temperature_c: Vec<Option<f64>>,
    /// MHz of the GPU, or of the processor without one.
    pub clock_mhz: Vec<Option<f64>>,
    /// Tokens per round of drafting.
    pub tokens_per_round: Vec<Option<f64>>,
    /// Marks on the time axis.
    pub events: Vec<HistoryEvent>,
}

/// A mark on the charts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct HistoryEvent {
    /// Unix milliseconds.
    pub t_ms: f64,
    /// `started`, `stopped`, `crashed`, `degraded`, `long_prompt`.
    pub kind: String,
    /// Short text.
    pub text: String,
}

/// What a start would need, before it is tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Plan {
    /// `fits`, `tight`, `does_not_fit`.
    pub verdict: String,
    /// Context the plan is for, tokens.
    pub context: u32,
    /// Weights, KV, state, scratch in bytes.
    pub parts: Vec<MemoryPart>,
    /// Bytes needed.
    pub needed: f64,
    /// Bytes taken at most while loading: these, and the largest tensor once more while it is repacked; estimated.
    pub peak: f64,
    /// Bytes to be had, after what stopping the present model frees.
    pub available: Option<f64>,
    /// Bytes read per decoded token at half the context.
    pub bytes_per_token: Option<f64>,
    /// Measured read bandwidth of this machine, bytes per second.
    pub roof: Option<f64>,
    /// Roof / bytes per token; null without a measured roof.
    pub decode_tok_s_ceiling: Option<f64>,
    /// Longest context that can be asked for, tokens.
    pub max_context: u32,
    /// The model's own longest context, tokens; beyond it its positions are stretched (YaRN).
    pub native_context: u32,
    /// By how much they are stretched for this context; null: not at all.
    pub stretch: Option<u32>,
    /// What other contexts would need, shortest first: 8K, 16K ..., the model's own, and the longest.
    pub contexts: Vec<ContextNeed>,
    /// Weights of a GGUF file that take more in memory than in the file; null if none do.
    pub expanded: Option<ExpandedWeights>,
}

/// Weights that are expanded to 16 bits when they are loaded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct ExpandedWeights {
    /// Their types, as `Q4_K`.
    pub types: Vec<String>,
    /// Bytes in the file.
    pub stored: f64,
    /// Bytes in memory.
    pub loaded: f64,
}

/// What one context would need.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct ContextNeed {
    /// Tokens.
    pub context: u32,
    /// Bytes of everything.
    pub needed: f64,
}

/// The settings file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Address to listen on; anything but loopback needs a key.
    pub host: String,
    /// Port of endpoint, control API and UI.
    pub port: u16,
    /// Start the engine with the appliance.
    pub start_engine: bool,
    /// What is started.
    pub profile: Profile,
    /// Kept free for the host, bytes; null: an eighth of the pool, at most 12 GiB.
    pub memory_reserve: Option<f64>,
    /// `system`, `light` or `dark`.
    pub theme: String,
    /// Of window and tray: `system`, `en` or `de`.
    pub language: String,
    /// Prices to compare with; null: no comparison.
    pub prices: Option<Prices>,
    /// Keep the conversations of the chat page.
    pub keep_chats: bool,
    /// Folders with models besides the Hugging Face cache.
    #[ts(type = "string[]")]
    pub model_folders: Vec<PathBuf>,
}

/// Body of every refusal of the control API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Refusal {
    /// Code, sentence, next step.
    pub error: Fault,
}

/// `POST /api/engine/start`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(default, deny_unknown_fields)]
pub struct StartRequest {
    /// What to start; null: the profile of the settings. It becomes the profile of the settings.
    pub profile: Option<Profile>,
    /// Start although the plan says that it does not fit.
    pub anyway: bool,
}

/// `POST /api/engine/stop`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(default, deny_unknown_fields)]
pub struct StopRequest {
    /// Cut running requests off instead of finishing them.
    pub now: bool,
}

/// `POST /api/plan`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// What would be started.
    pub profile: Profile,
}

/// `GET /api/log?lines=200`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Log {
    /// The engine's last lines, oldest first.
    pub lines: Vec<String>,
}
