//! Messages about what was drafted, what was served and what it cost: the figures beside speed and memory.

use serde::{Deserialize, Serialize};
use ts_rs::TS;

/// Drafting over the last seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Drafts {
    /// Share 0..1 of the rounds in which the first, second, ... drafted token was accepted; empty outside decode.
    pub kept: Vec<f64>,
    /// Tokens a round wrote, on average: one more than the sum of `kept`.
    pub tokens_per_round: Option<f64>,
    /// Most tokens drafted per round: `auto`, or a number.
    pub depth: Option<String>,
    /// Rounds since the engine became ready.
    pub rounds: f64,
}

/// `GET /api/usage?hours=24`: what was served, and the energy that the GPU took while a model was loaded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Usage {
    /// Whole hours that are summed, the running one included.
    pub hours: u32,
    /// Requests that were not refused.
    pub requests: f64,
    /// Prompt tokens.
    pub prompt_tokens: f64,
    /// Of these, found in the prefix cache.
    pub cached_tokens: f64,
    /// Tokens written.
    pub output_tokens: f64,
    /// Joules; null if power was never known.
    pub energy_j: Option<f64>,
    /// Seconds with a model loaded in which power was known.
    pub measured_s: f64,
    /// Seconds with a model loaded.
    pub loaded_s: f64,
}

/// Speed that was measured: by a benchmark, or from requests that were served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct MeasuredSpeed {
    /// Tokens per second of one client's free text; from requests: of whatever they were.
    pub decode_tok_s: f64,
    /// Tokens per second of an agent; null if that was not measured apart.
    pub agent_tok_s: Option<f64>,
    /// Prompt tokens per second, at the length that is read fastest.
    pub prefill_tok_s: Option<f64>,
    /// The benchmark it comes from; null if it comes from requests.
    pub run: Option<u32>,
    /// Of how many requests it is the median; null if it comes from a benchmark.
    pub requests: Option<u32>,
    /// Unix milliseconds.
    pub at_ms: f64,
}

/// What a depth of drafting reached in the newest benchmark that tried it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct DepthFigures {
    /// `auto` or a number.
    pub depth: String,
    /// Tokens per second of free text.
    pub decode_tok_s: Option<f64>,
    /// Tokens per second of an agent.
    pub agent_tok_s: Option<f64>,
    /// Free text's speed over that without drafts.
    pub gain: Option<f64>,
    /// An agent's speed over that without drafts.
    pub agent_gain: Option<f64>,
    /// Share of the rounds in which the first, second, ... draft was accepted, free text.
    pub kept: Vec<f64>,
    /// Tokens a round wrote, free text.
    pub tokens_per_round: Option<f64>,
}

/// `POST /api/measured`: what was measured of a profile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Measured {
    /// Its speed; null if nothing was measured of it.
    pub speed: Option<MeasuredSpeed>,
    /// What each depth of drafting reached, shallowest first, `auto` last; empty if none was tried.
    pub depths: Vec<DepthFigures>,
}

/// `GET /api/measured`: a model's speed with the other values of the settings' profile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct MeasuredModel {
    /// As profiles name it.
    pub model: String,
    /// What was measured.
    pub speed: MeasuredSpeed,
}

/// Prices that a person typed, to compare with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// What they are in: `USD`, `EUR`.
    pub currency: String,
    /// For a million tokens of prompt.
    pub input: f64,
    /// For a million tokens of prompt that a cache spared.
    pub cached_input: f64,
    /// For a million tokens written.
    pub output: f64,
    /// For a kilowatt-hour; null: electricity is not compared.
    pub kwh: Option<f64>,
}
