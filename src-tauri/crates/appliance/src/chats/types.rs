//! A conversation as the page keeps it: a tree of messages, because a question may be edited and an answer asked for again.

use hearth_engine::status::Fault;
use serde::{Deserialize, Serialize};
use ts_rs::TS;

/// One conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(deny_unknown_fields)]
pub struct Chat {
    /// Chosen by the page; letters, digits and dashes.
    pub id: String,
    /// For people.
    pub title: String,
    /// The model that answered last.
    pub model: String,
    /// System prompt; empty: none.
    pub system: String,
    /// What differs from the model's own defaults.
    pub sampling: ChatSampling,
    /// Every message of every branch; a message comes after its parent.
    pub messages: Vec<ChatMessage>,
    /// The last message of the branch that is shown; null in an empty conversation.
    pub head: Option<String>,
    /// Unix milliseconds.
    pub created_ms: f64,
    /// Unix milliseconds.
    pub updated_ms: f64,
}

/// Sampling of one conversation; null: the model's default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(default, deny_unknown_fields)]
pub struct ChatSampling {
    /// 0 to 2.
    pub temperature: Option<f64>,
    /// 0 to 1.
    pub top_p: Option<f64>,
    /// 0: all.
    pub top_k: Option<u32>,
    /// 0 to 1.
    pub min_p: Option<f64>,
    /// Most tokens of an answer.
    pub max_tokens: Option<u32>,
    /// The same seed gives the same answer.
    pub seed: Option<u32>,
    /// Whether the model thinks first.
    pub thinking: Option<bool>,
}

/// Who wrote a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(rename_all = "snake_case")]
pub enum ChatRole {
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// How a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(rename_all = "snake_case")]
pub enum ChatEnd {
    /// By itself.
    Done,
    /// At the token limit.
    Length,
    /// With calls of tools.
    ToolCalls,
    /// By the person.
    Stopped,
    /// By a fault.
    Failed,
}

/// A tool the model asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(deny_unknown_fields)]
pub struct ChatToolCall {
    /// The model's id of this call.
    pub id: String,
    /// The tool.
    pub name: String,
    /// JSON, as the model wrote it.
    pub arguments: String,
}

/// How fast an answer was written; null: not known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(default, deny_unknown_fields)]
pub struct ChatFigures {
    /// Tokens of the prompt.
    pub prompt_tokens: Option<f64>,
    /// Tokens written.
    pub output_tokens: Option<f64>,
    /// Seconds to the first one.
    pub ttft_s: Option<f64>,
    /// Tokens per second after it.
    pub decode_tok_s: Option<f64>,
    /// Share of drafted tokens that were accepted, 0..1.
    pub acceptance: Option<f64>,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(deny_unknown_fields)]
pub struct ChatMessage {
    /// The request's id for answers.
    pub id: String,
    /// What it follows; null for the first.
    pub parent: Option<String>,
    /// Who wrote it.
    pub role: ChatRole,
    /// The text.
    pub content: String,
    /// Thoughts that came in a field of their own.
    pub reasoning: String,
    /// Tools asked for.
    pub tool_calls: Vec<ChatToolCall>,
    /// How it ended.
    pub end: ChatEnd,
    /// What went wrong.
    pub fault: Option<Fault>,
    /// The model that wrote it; null for questions.
    pub model: Option<String>,
    /// Speed.
    pub figures: ChatFigures,
    /// Unix milliseconds.
    pub at_ms: f64,
}

/// A conversation in the list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct ChatSummary {
    /// As in `Chat`.
    pub id: String,
    /// As in `Chat`.
    pub title: String,
    /// As in `Chat`.
    pub model: String,
    /// As in `Chat`.
    pub updated_ms: f64,
    /// Where the searched words were found, each between U+0002 and U+0003; null without a search.
    pub excerpt: Option<String>,
}
