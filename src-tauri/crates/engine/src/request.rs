//! What goes into the engine and what comes out: a request, and the events of its answer.

use crate::{
    depth::Depth,
    grammar::Constraint,
    logprobs::Logprobs,
    policy::Priority,
    sampler::Sampling,
    status::{Fault, RequestKind},
};

/// A prompt and how to continue it.
#[derive(Debug, Clone)]
pub struct Request {
    /// `x-request-id`.
    pub id: String,
    /// Which endpoint it came by.
    pub kind: RequestKind,
    /// Token ids; at least one.
    pub prompt: Vec<u32>,
    /// Most tokens of the answer; None: as many as the context holds.
    pub max_tokens: Option<usize>,
    /// Fewest tokens of the answer before an end token may be chosen.
    pub min_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Strings that end the answer.
    pub stop: Vec<String>,
    /// True: end tokens do not end the answer (for measurements).
    pub ignore_end: bool,
    /// How urgent it is.
    pub priority: Priority,
    /// Whose it is: requests of one key, however many, get no more than their share. Any number, the same for one key.
    pub account: u64,
    /// Report how likely each token was, and this many of the likeliest ones.
    pub logprobs: Option<usize>,
    /// The form that the answer must have.
    pub constraint: Option<Constraint>,
    /// How deep to draft for this request; None: as the engine does. Never deeper than the engine can (for measurements).
    pub mtp_depth: Option<Depth>,
}

/// Tokens of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Of these, found in the prefix cache.
    pub cached: usize,
    /// Tokens written, an end token included.
    pub output: usize,
}

/// Why an answer ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// An end token or a stop string.
    Stop,
    /// The limit of the request or of the context.
    Length,
}

/// What happens to a request, in order: any number of `Token`s, then one `Done` or `Failed`. A channel that closes
/// without either means that the engine is gone.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A token was written. `text` may be empty: special tokens, unfinished characters and held-back stop strings.
    Token {
        /// Its id.
        id: u32,
        /// Text that became certain with it.
        text: String,
        /// How likely it was, if the request asks.
        logprobs: Option<Box<Logprobs>>,
    },
    /// The answer is complete.
    Done {
        /// Text that was held back until now.
        text: String,
        /// Why it ended.
        finish: Finish,
        /// What it cost.
        usage: Usage,
    },
    /// The answer cannot be completed.
    Failed {
        /// Why.
        fault: Fault,
        /// What was computed until then.
        usage: Usage,
    },
}
