//! Messages of the control API about benchmarks: what is to be measured, what was, and under which conditions.
//! A number that is not known is `null`, never zero.

use hearth_engine::status::{EngineModel, Fault};
use serde::{Deserialize, Serialize};
use ts_rs::TS;

use crate::control::{
    model_types::FormatShare,
    types::{MemoryHolder, Profile},
};

/// A prepared list of measurements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(rename_all = "snake_case")]
pub enum BenchSuite {
    /// A few minutes: what a person wants to know first.
    #[default]
    Quick,
    /// Everything, as far as model and memory go; hours on a large model.
    Full,
    /// The cells of Spark Arena's profile v2: 2048 tokens of prompt and 128 of answer behind seven depths, for 1, 2, 5 and 10 clients.
    Arena,
}

/// A kind of measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(rename_all = "snake_case")]
pub enum BenchPart {
    /// Writing behind prompts that fill a context.
    Contexts,
    /// Reading prompts: speed, and the time to the first token cold and cached.
    Prefill,
    /// Several clients at once.
    Company,
    /// Drafts per round.
    Depths,
    /// A growing conversation: an agent's with tools, and one of words alone.
    Agent,
    /// Facts in a long text.
    Facts,
    /// Spark Arena's cells.
    Arena,
}

/// `POST /api/bench`: what is to be measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(default, deny_unknown_fields)]
pub struct BenchOrder {
    /// The list.
    pub suite: BenchSuite,
    /// Of it, only these; empty: all.
    pub parts: Vec<BenchPart>,
    /// Contexts instead of the list's, tokens; null: the list's.
    pub contexts: Option<Vec<u32>>,
    /// Lengths of answers instead of the list's, tokens.
    pub outputs: Option<Vec<u32>>,
    /// Numbers of clients instead of the list's.
    pub clients: Option<Vec<u32>>,
    /// How often each is measured; the median counts. Null: three times.
    pub repeats: Option<u32>,
    /// A few words to know the run by.
    pub note: String,
    /// Measure although something else uses the GPU or other requests are served.
    pub anyway: bool,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(rename_all = "snake_case")]
pub enum BenchTraffic {
    /// Free text.
    Text,
    /// Calls of tools, with what is known already copied into them.
    Agent,
    /// Short answers to questions about a long text.
    Facts,
}

/// What is asked about a long text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(rename_all = "snake_case")]
pub enum BenchTask {
    /// One fact at the beginning.
    Start,
    /// One fact halfway.
    Middle,
    /// One fact at the end.
    End,
    /// Five facts, spread out.
    Five,
    /// One of very many alike, halfway ("lost in the middle").
    Lost,
}

/// Where a measurement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(rename_all = "snake_case")]
pub enum BenchRowState {
    /// Not begun.
    Waiting,
    /// Under way.
    Running,
    /// Measured.
    Done,
    /// Cannot be measured here; the fault says why.
    Skipped,
    /// Begun and not measured; the fault says why.
    Failed,
}

/// A figure of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(rename_all = "snake_case")]
pub enum BenchFigureName {
    /// Tokens per second of one request after its first.
    DecodeTokS,
    /// Tokens per second of all clients together.
    TotalTokS,
    /// Prompt tokens per second.
    PrefillTokS,
    /// Seconds to the first token, prompt unknown.
    TtftColdS,
    /// Seconds to the first token, prompt known.
    TtftCachedS,
    /// Tokens a round of drafting wrote.
    TokensPerRound,
}

/// A figure with all its values: the median counts, lowest and highest are its spread.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct BenchFigure {
    /// Which.
    pub name: BenchFigureName,
    /// The median.
    pub median: f64,
    /// The lowest value.
    pub low: f64,
    /// The highest value.
    pub high: f64,
    /// All, in the order in which they were measured.
    pub values: Vec<f64>,
}

/// One request as its client saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct BenchShot {
    /// Which repeat, from 0.
    pub repeat: u32,
    /// Its prompt had not been read before.
    pub cold: bool,
    /// It only loaded the context of a cell of Spark Arena.
    pub context_phase: bool,
    /// Tokens of the prompt, as the engine counted them.
    pub prompt_tokens: u32,
    /// Of these, known from before.
    pub cached_tokens: Option<u32>,
    /// Tokens written.
    pub output_tokens: u32,
    /// Of these, in the first event that had any.
    pub first_tokens: u32,
    /// Seconds from the first request of its batch to its own beginning.
    pub begun_s: f64,
    /// Seconds from its beginning to its first token.
    pub ttft_s: f64,
    /// Seconds from its beginning to its last token.
    pub last_s: f64,
    /// Most tokens that came within a second.
    pub peak_tok_s: Option<f64>,
    /// Rounds of drafting; null if the engine does not tell.
    pub rounds: Option<u32>,
    /// Drafts that were checked, by their place in the round.
    pub drafted: Vec<u32>,
    /// Of these, accepted.
    pub accepted: Vec<u32>,
}

/// Facts found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct BenchScore {
    /// Right ones.
    pub right: u32,
    /// Asked for.
    pub of: u32,
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct BenchRow {
    /// Its kind.
    pub part: BenchPart,
    /// What is written.
    pub traffic: BenchTraffic,
    /// Tokens before the prompt of a cell of Spark Arena; zero elsewhere.
    pub depth_tokens: u32,
    /// Tokens of the prompt; null where a conversation grows.
    pub prompt: Option<u32>,
    /// Tokens of the answer, at most.
    pub output: u32,
    /// Clients at once.
    pub clients: u32,
    /// Drafts per round if it is not the profile's: `auto` or a number.
    pub mtp_depth: Option<String>,
    /// What is asked, in the part `facts`.
    pub task: Option<BenchTask>,
    /// Where it is.
    pub state: BenchRowState,
    /// Why it was skipped or failed.
    pub fault: Option<Fault>,
    /// Another request was served meanwhile.
    pub disturbed: bool,
    /// Figures; empty until it is measured.
    pub figures: Vec<BenchFigure>,
    /// Share of the rounds in which the first, second, ... draft was accepted.
    pub kept: Vec<f64>,
    /// Facts found, in the part `facts`.
    pub score: Option<BenchScore>,
    /// Every request of it.
    pub shots: Vec<BenchShot>,
    /// Most tokens of all clients within a second, by repeat.
    pub peaks: Vec<f64>,
}

/// The machine before or after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct BenchReading {
    /// Unix milliseconds.
    pub time_ms: f64,
    /// Watts of the GPU.
    pub power_w: Option<f64>,
    /// Celsius of the GPU, or of the processor without one.
    pub temperature_c: Option<f64>,
    /// MHz of the GPU, or of the processor without one.
    pub clock_mhz: Option<f64>,
    /// Percent of the time in which the GPU, or all cores without one, worked.
    pub busy: Option<f64>,
    /// Why the GPU's clock is held down; empty if it is not, null if unknown.
    pub held_by: Option<Vec<String>>,
}

/// Under which conditions was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct BenchConditions {
    /// Hearth's version.
    pub version: String,
    /// The model as the engine describes it: name, context, KV type, device, depth.
    pub engine: EngineModel,
    /// Commit of the model, if it came from Hugging Face.
    pub revision: Option<String>,
    /// Its weights by format, largest first.
    pub formats: Vec<FormatShare>,
    /// The profile it was started with; null for an endpoint elsewhere.
    pub profile: Option<Profile>,
    /// Processor.
    pub cpu: String,
    /// Its logical cores.
    pub cores: u32,
    /// Version of the kernel.
    pub kernel: Option<String>,
    /// GPU; null without one.
    pub gpu: Option<String>,
    /// Version of its driver.
    pub driver: Option<String>,
    /// Measured read bandwidth, GB/s.
    pub roof_gb_s: Option<f64>,
    /// Before.
    pub before: BenchReading,
    /// After; null if it did not come to that.
    pub after: Option<BenchReading>,
    /// Other programs that held memory of the GPU.
    pub others: Vec<MemoryHolder>,
    /// What spoke against measuring and was overruled.
    pub overruled: Vec<Fault>,
    /// Milliseconds of an exchange in which nothing is computed.
    pub latency_ms: Option<f64>,
    /// Seconds of warming up, which is no part of any figure.
    pub warm_up_s: Option<f64>,
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(rename_all = "snake_case")]
pub enum BenchRunState {
    /// Under way.
    Running,
    /// Complete.
    Done,
    /// Stopped by a person; what was measured until then is there.
    Cancelled,
    /// Broken off; the fault says why.
    Failed,
}

/// A run with all its rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct BenchRun {
    /// Number that never comes twice.
    pub id: u32,
    /// Where it is.
    pub state: BenchRunState,
    /// Why it was broken off.
    pub fault: Option<Fault>,
    /// Unix milliseconds.
    pub started_ms: f64,
    /// Unix milliseconds; null while it runs.
    pub ended_ms: Option<f64>,
    /// What was asked for.
    pub order: BenchOrder,
    /// How often each was measured.
    pub repeats: u32,
    /// Under which conditions.
    pub conditions: BenchConditions,
    /// What was measured.
    pub rows: Vec<BenchRow>,
}

/// A run in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct BenchSummary {
    /// Its number.
    pub id: u32,
    /// Where it is.
    pub state: BenchRunState,
    /// Unix milliseconds.
    pub started_ms: f64,
    /// Seconds it took; null while it runs.
    pub seconds: Option<f64>,
    /// Name of the model.
    pub model: String,
    /// The list.
    pub suite: BenchSuite,
    /// A person's words.
    pub note: String,
    /// Measured rows.
    pub done: u32,
    /// Rows that could be measured.
    pub of: u32,
    /// Tokens per second of one client's free text; null if it was not measured.
    pub decode_tok_s: Option<f64>,
}

/// How far a run is: the event `bench` of `/api/events`, and `GET /api/bench`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct BenchProgress {
    /// Number of the run.
    pub id: u32,
    /// Where it is.
    pub state: BenchRunState,
    /// Rows that are over.
    pub done: u32,
    /// Rows that can be measured.
    pub of: u32,
    /// The row under way, by its place among all rows; null while warming up and at the end.
    pub row: Option<u32>,
    /// Seconds until the end, from what was measured so far; null until that is known.
    pub seconds_left: Option<f64>,
}

/// `GET /api/bench`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct BenchList {
    /// The run under way, or the last one since the start.
    pub progress: Option<BenchProgress>,
    /// Newest first.
    pub runs: Vec<BenchSummary>,
}

/// `GET /api/bench/compare?a=1&b=2`: a figure that both runs have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct BenchDifference {
    /// What was measured, in the words of `a`; without shots.
    pub row: BenchRow,
    /// Which figure; null: the score of a row of facts.
    pub name: Option<BenchFigureName>,
    /// Its median in the first run, or the share of facts found.
    pub a: f64,
    /// The same in the second.
    pub b: f64,
    /// (b - a) / a, if a is not zero.
    pub change: Option<f64>,
    /// True if the two spreads do not touch; null if one of them was measured only once, so that there is no spread.
    pub beyond_spread: Option<bool>,
    /// Whether `b` is the better one; null if they are alike.
    pub better: Option<bool>,
}

/// The same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct BenchComparison {
    /// The first run, without rows.
    pub a: BenchRun,
    /// The second run, without rows.
    pub b: BenchRun,
    /// What is not the same in the conditions, one short line each.
    pub conditions: Vec<BenchConditionChange>,
    /// Figures that both have.
    pub rows: Vec<BenchDifference>,
    /// Measured rows that only one of them has.
    pub unmatched: u32,
}

/// A condition that is not the same in two runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct BenchConditionChange {
    /// `version`, `model`, `revision`, `kv`, `mtp_depth`, `context`, `device`, `gpu`, `driver`, `profile`, `disturbed` ...
    pub what: String,
    /// In the first run; null if unknown.
    pub a: Option<String>,
    /// In the second.
    pub b: Option<String>,
}
