//! `logprobs` in the shapes of chat and of completions. Used by their writers.

use std::sync::Arc;

use hearth_engine::{Logprobs, Tokenizer};
use serde_json::{Map, Value, json};

/// Lowest value that is sent: JSON has no minus infinity.
const LOWEST: f32 = -9999.0;

/// Names tokens for a client.
#[derive(Debug, Clone)]
pub struct TokenNames(pub Arc<Tokenizer>);

impl TokenNames {
    /// The text of a token: incomplete characters as U+FFFD, special tokens by their name.
    fn text(&self, id: u32) -> String {
        match self.0.bytes(id) {
            [] => self.0.name(id).unwrap_or_default(),
            bytes => String::from_utf8_lossy(bytes).into_owned(),
        }
    }

    fn entry(&self, id: u32, logprob: f32) -> Value {
        json!({"token": self.text(id), "logprob": logprob.max(LOWEST), "bytes": self.0.bytes(id)})
    }

    /// An item of `logprobs.content` of a chat choice.
    pub fn chat(&self, id: u32, logprobs: &Logprobs) -> Value {
        let mut entry = self.entry(id, logprobs.chosen);
        entry["top_logprobs"] = logprobs.top.iter().map(|(id, value)| self.entry(*id, *value)).collect();
        entry
    }
}

/// The `logprobs` of a completion's choice, as far as they are unsent.
#[derive(Debug, Default)]
pub struct Columns {
    tokens: Vec<Value>,
    logprobs: Vec<Value>,
    top: Vec<Value>,
    offsets: Vec<usize>,
    /// Characters of the tokens so far.
    offset: usize,
}

impl Columns {
    /// Adds a token.
    pub fn push(&mut self, names: &TokenNames, id: u32, logprobs: &Logprobs) {
        let text = names.text(id);
        self.offsets.push(self.offset);
        self.offset += text.chars().count();
        self.tokens.push(Value::from(text));
        self.logprobs.push(json!(logprobs.chosen.max(LOWEST)));
        let top: Map<String, Value> =
            logprobs.top.iter().map(|(id, value)| (names.text(*id), json!(value.max(LOWEST)))).collect();
        self.top.push(Value::from(top));
    }

    /// Takes what is unsent.
    pub fn take(&mut self) -> Value {
        let Columns { tokens, logprobs, top, offsets, .. } = self;
        json!({
            "tokens": std::mem::take(tokens), "token_logprobs": std::mem::take(logprobs),
            "top_logprobs": std::mem::take(top), "text_offset": std::mem::take(offsets),
        })
    }
}
