//! What one engine says about itself: the answer of `GET /status`. The engine thread writes it (see `board`), the API
//! serves it, and the appliance reads it to draw the dashboard. A number that is not known is `null`, never zero.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use ts_rs::TS;

/// The names and numbers in a fault's sentences, by name.
pub type Values = BTreeMap<String, Value>;

/// A failure as data: a code for machines, a sentence for people, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Fault {
    /// Stable, snake_case.
    pub code: String,
    /// One sentence: what happened.
    pub message: String,
    /// One sentence: what the person can do about it.
    pub next_step: String,
    /// What was seen: a log line, a path, an exit status.
    pub evidence: Option<String>,
    /// The names and numbers of its sentences, so that the window can say them in another language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[ts(optional, type = "Record<string, unknown>")]
    pub values: Option<Box<Values>>,
}

impl Fault {
    /// A fault without evidence.
    pub fn new(code: impl Into<String>, message: impl Into<String>, next_step: impl Into<String>) -> Fault {
        Fault {
            code: code.into(),
            message: message.into(),
            next_step: next_step.into(),
            evidence: None,
            values: None,
        }
    }

    /// The same fault with a name or number of its sentences.
    pub fn with(mut self, name: &str, value: impl Serialize) -> Fault {
        let value = serde_json::to_value(value).unwrap_or_default();
        self.values.get_or_insert_default().insert(name.to_owned(), value);
        self
    }

    /// The same fault with the fields of the error that it tells of. An error that is no object has none.
    pub fn with_fields(mut self, error: &impl Serialize) -> Fault {
        if let Ok(Value::Object(fields)) = serde_json::to_value(error) {
            self.values.get_or_insert_default().extend(fields);
        }
        self
    }

    /// The same fault with what was seen.
    pub fn with_evidence(mut self, evidence: impl Into<String>) -> Fault {
        self.evidence = Some(evidence.into());
        self
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.message, self.next_step)
    }
}

/// Where the engine is in its life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EnginePhase {
    /// Not yet answering requests.
    Loading {
        /// `plan`, `read weights`, `allocate KV`, `record graphs`, `warm up`.
        stage: String,
        /// 0-based.
        index: u32,
        /// Number of stages.
        count: u32,
        /// 0..1 within the stage.
        fraction: f64,
    },
    /// A warm-up token has been computed; requests are answered.
    Ready,
    /// Finishing what runs; new requests are refused.
    Draining,
    /// Loading failed for good; the process is about to exit.
    Failed {
        /// Why, and what to do.
        fault: Fault,
    },
}

/// The model an engine serves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct EngineModel {
    /// The name clients send.
    pub id: String,
    /// For people.
    pub name: String,
    /// True for Ember.
    pub demonstration: bool,
    /// `qwen3_5_moe` and the like.
    pub family: String,
    /// Most tokens of one request, prompt and answer together.
    pub context: u32,
    /// By how much its rotary positions are stretched beyond the trained context (YaRN); null: not at all.
    pub stretch: Option<f64>,
    /// How keys and values are kept: `bf16`, `f32`, `fp8` or `nvfp4`, and which layers differ, as in `nvfp4:ends=bf16`.
    pub kv: String,
    /// Requests computed at once.
    pub max_requests: u32,
    /// Backend: `cpu`.
    pub device: String,
    /// Prefill uses decode's arithmetic.
    pub exact: bool,
    /// Most tokens drafted per round: `auto`, or a number; null for a model that drafts none.
    pub mtp_depth: Option<String>,
    /// The head that drafts are proposed with: `full`, `fp8`, `nvfp4`, a number of tokens, or both as in `nvfp4:32768`; null
    /// for a model without an MTP head.
    pub draft_head: Option<String>,
    /// Prefill rounds activations to NVFP4 for the FP4 tensor cores.
    pub fp4_activations: bool,
    /// What was asked for and is done without, each with the reason.
    pub notices: Vec<Fault>,
}

/// What the engine allocated, bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct EngineMemory {
    /// Packed weights.
    pub weights: f64,
    /// All KV pages.
    pub kv: f64,
    /// KV pages that belong to running requests.
    pub kv_used: f64,
    /// KV pages of earlier requests' texts, kept for later ones as long as nobody needs the room.
    pub kv_cached: f64,
    /// Recurrent state of all slots.
    pub state: f64,
    /// Activations and other buffers of a step.
    pub scratch: f64,
}

/// Texts that are kept in files: the disk tier of the prefix cache.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct PrefixDisk {
    /// Where they are.
    pub folder: String,
    /// Most bytes of all files.
    pub budget: f64,
    /// Bytes of all files.
    pub used: f64,
    /// How many files there are.
    pub files: u32,
    /// Tokens of the texts that were written.
    pub saved_tokens: u64,
    /// Tokens of the texts that were read back, and so not computed again.
    pub restored_tokens: u64,
    /// Files that were found damaged or foreign, and removed.
    pub discarded: u64,
    /// Why nothing more is written, if that is so.
    pub off: Option<Fault>,
}

/// What drafting did. A round is a step of a request in which at least one draft was checked; it writes one token more
/// than drafts were accepted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Speculation {
    /// Rounds.
    pub rounds: u64,
    /// Tokens that were drafted and checked, by their place in the round: first, second, ...
    pub drafted: Vec<u64>,
    /// Of these, accepted.
    pub accepted: Vec<u64>,
    /// Of all drafted tokens, those that were copied from earlier text, without the MTP head.
    pub echoed: u64,
    /// Of these, accepted.
    pub echoed_accepted: u64,
    /// Seconds in steps of the MTP head, prompts included.
    pub draft_seconds: f64,
    /// Seconds in the steps that checked drafts.
    pub verify_seconds: f64,
}

impl Speculation {
    /// Counts a round of `checked` drafts whose first `accepted` were right.
    pub fn record(&mut self, checked: usize, accepted: usize, echoed: bool) {
        if checked == 0 {
            return;
        }
        self.rounds += 1;
        if echoed {
            self.echoed += checked as u64;
            self.echoed_accepted += accepted as u64;
        }
        if self.drafted.len() < checked {
            self.drafted.resize(checked, 0);
            self.accepted.resize(checked, 0);
        }
        self.drafted[..checked].iter_mut().for_each(|count| *count += 1);
        self.accepted[..accepted].iter_mut().for_each(|count| *count += 1);
    }
}

/// Sums since the engine became ready; they only grow.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct EngineCounters {
    /// Forward passes.
    pub steps: u64,
    /// Tokens written by decode rows; the first token of a request belongs to its prefill.
    pub decode_tokens: u64,
    /// Seconds spent on decode rows; a step that also reads a prompt is shared out by rows.
    pub decode_seconds: f64,
    /// Prompt tokens read.
    pub prefill_tokens: u64,
    /// Seconds spent on prompt rows.
    pub prefill_seconds: f64,
    /// Prompt tokens that were known from earlier requests and not read again.
    pub cached_tokens: u64,
    /// How often a request had to leave its pages to others, to compute them again later.
    pub preemptions: u64,
    /// Bytes the steps read by the budget's formula (estimated, not counted by hardware).
    pub bytes_read: f64,
    /// What drafting did.
    pub speculation: Speculation,
    /// Requests that ended with `stop` or `length`.
    pub requests_ok: u64,
    /// Requests that ended with an error.
    pub requests_failed: u64,
    /// Requests whose client went away.
    pub requests_cancelled: u64,
    /// Requests that were refused before any work for them began.
    pub requests_refused: u64,
}

/// What is done for a request at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(rename_all = "snake_case")]
pub enum RequestPhase {
    /// Waiting for a slot.
    Queued,
    /// Its prompt is being read.
    Prefill,
    /// Tokens are being written.
    Decode,
}

/// A request that waits or runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct EngineRequest {
    /// `x-request-id`.
    pub id: String,
    /// What is done for it now.
    pub phase: RequestPhase,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of these, read so far.
    pub prefilled_tokens: u32,
    /// Tokens written so far.
    pub output_tokens: u32,
    /// Unix milliseconds of arrival.
    pub started_ms: f64,
}

/// Which endpoint a request came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(rename_all = "snake_case")]
pub enum RequestKind {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completion,
    /// `/v1/responses`.
    Responses,
    /// `/v1/messages`.
    Messages,
}

impl RequestKind {
    /// The kind of request that comes by a path; None where nothing is generated.
    pub fn of_path(path: &str) -> Option<RequestKind> {
        match path {
            "/v1/chat/completions" => Some(RequestKind::Chat),
            "/v1/completions" => Some(RequestKind::Completion),
            "/v1/responses" => Some(RequestKind::Responses),
            "/v1/messages" => Some(RequestKind::Messages),
            _ => None,
        }
    }

    /// Its name in the history.
    pub fn name(self) -> &'static str {
        match self {
            RequestKind::Chat => "chat",
            RequestKind::Completion => "completion",
            RequestKind::Responses => "responses",
            RequestKind::Messages => "messages",
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(rename_all = "snake_case")]
pub enum RequestEnd {
    /// An end token or a stop string.
    Stop,
    /// The token limit or the context.
    Length,
    /// The client went away.
    Cancelled,
    /// A fault; see `error`.
    Error,
    /// It was never taken: a bad request, or no room. See `error`.
    Refused,
}

/// A request that ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct FinishedRequest {
    /// Ascending; ask for those after the last one you saw.
    pub seq: u64,
    /// `x-request-id`.
    pub id: String,
    /// Which endpoint it came by.
    pub kind: RequestKind,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of these, found in the prefix cache.
    pub cached_tokens: u32,
    /// Tokens written.
    pub output_tokens: u32,
    /// What drafting did for it; its seconds are those of the steps it took part in.
    pub speculation: Speculation,
    /// Seconds it waited for a slot.
    pub queue_s: f64,
    /// Seconds from arrival to the first token; null if there was none.
    pub ttft_s: Option<f64>,
    /// Seconds from the first token to the last; null with fewer than two tokens.
    pub decode_s: Option<f64>,
    /// How it ended.
    pub finish: RequestEnd,
    /// Why, if it failed or was refused.
    pub error: Option<Fault>,
    /// Unix milliseconds of arrival.
    pub started_ms: f64,
    /// Unix milliseconds of its end.
    pub ended_ms: f64,
}

/// The answer of `GET /status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct EngineStatus {
    /// Where the engine is in its life.
    pub phase: EnginePhase,
    /// Null until the model's description has been read.
    pub model: Option<EngineModel>,
    /// Null until it is allocated.
    pub memory: Option<EngineMemory>,
    /// Null unless prefixes are kept on disk.
    pub prefix_disk: Option<PrefixDisk>,
    /// Requests that hold a slot.
    pub running: u32,
    /// Requests that wait for one.
    pub queued: u32,
    /// Sums.
    pub counters: EngineCounters,
    /// Requests that wait or run, in order of arrival.
    pub active: Vec<EngineRequest>,
    /// Requests that ended, oldest first; the last 256, those with `seq` greater than asked for.
    pub finished: Vec<FinishedRequest>,
    /// Milliseconds since the engine thread last showed a sign of life.
    pub heartbeat_age_ms: f64,
    /// Process id.
    pub pid: u32,
    /// Hearth's version.
    pub version: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phase_is_tagged_by_kind() {
        let loading =
            EnginePhase::Loading { stage: "read weights".into(), index: 1, count: 4, fraction: 0.5 };
        let value = serde_json::to_value(&loading).expect("serialises");
        assert_eq!(value["kind"], "loading");
        assert_eq!(value["stage"], "read weights");
        assert_eq!(serde_json::to_value(EnginePhase::Ready).expect("serialises")["kind"], "ready");
        assert_eq!(serde_json::from_value::<EnginePhase>(value).expect("parses"), loading);
    }
}
