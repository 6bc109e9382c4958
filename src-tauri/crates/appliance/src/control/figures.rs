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
