//! Writes a message of blocks: its events as they come, and the object they add up to. One block is open at a time, each
//! with its own index.

use axum::response::sse::{Event, KeepAlive};
use hearth_engine::{Finish, Logprobs, Usage};
use serde_json::{Value, json};

use crate::{
    ApiError, identity,
    parts::{Part, Splitter},
    stream::{Encoder, Frame},
};

/// The writer of one message.
pub struct MessageWriter {
    id: String,
    model: String,
    request: String,
    streamed: bool,
    prompt_tokens: usize,
    splitter: Splitter,
    begun: bool,
    /// Blocks that are complete.
    content: Vec<Value>,
    open: Option<Block>,
    finish: Option<Finish>,
}

/// The block that is being written.
enum Block {
    Thinking(String),
    Text(String),
    Call { id: String, name: String, input: String },
}

impl MessageWriter {
    /// A writer for one answer of `model`; `request` names the request in errors.
    pub fn new(
        model: String,
        splitter: Splitter,
        streamed: bool,
        prompt_tokens: usize,
        request: String,
    ) -> MessageWriter {
        MessageWriter {
            id: format!("msg_{}", identity::random_hex()),
            model,
            request,
            streamed,
            prompt_tokens,
            splitter,
            begun: false,
            content: Vec::new(),
            open: None,
            finish: None,
        }
    }

    fn message(&self, content: Value, reason: Option<&str>, usage: Value) -> Value {
        json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": content,
            "stop_reason": reason, "stop_sequence": null, "usage": usage,
        })
    }

    fn reason(&self) -> Option<&'static str> {
        self.finish.map(|finish| match finish {
            Finish::Length => "max_tokens",
            Finish::Stop if self.splitter.complete_calls() > 0 => "tool_use",
            Finish::Stop => "end_turn",
        })
    }

    /// The first event, once: when the first token is there.
    fn begin(&mut self, frames: &mut Vec<Frame>) {
        if !std::mem::replace(&mut self.begun, true) {
            let usage = Usage { prompt: self.prompt_tokens, cached: 0, output: 0 };
            let message = self.message(json!([]), None, counted(&usage));
            frames.push(event("message_start", json!({"message": message})));
        }
    }

    fn open(&mut self, block: Block, frames: &mut Vec<Frame>) {
        let start = match &block {
            Block::Thinking(_) => json!({"type": "thinking", "thinking": "", "signature": ""}),
            Block::Text(_) => json!({"type": "text", "text": ""}),
            Block::Call { id, name, .. } => json!({"type": "tool_use", "id": id, "name": name, "input": {}}),
        };
        self.close(frames);
        frames
            .push(event("content_block_start", json!({"index": self.content.len(), "content_block": start})));
        self.open = Some(block);
    }

    fn delta(&self, delta: Value) -> Frame {
        event("content_block_delta", json!({"index": self.content.len(), "delta": delta}))
    }

    fn close(&mut self, frames: &mut Vec<Frame>) {
        let Some(block) = self.open.take() else { return };
        let block = match block {
            Block::Thinking(text) => {
                // Nobody checks it here; clients send the block back only if it has one.
                frames.push(self.delta(json!({"type": "signature_delta", "signature": "hearth"})));
                json!({"type": "thinking", "thinking": text, "signature": "hearth"})
            }
            Block::Text(text) => json!({"type": "text", "text": text}),
            Block::Call { id, name, input } => {
                // A call that the limit cut off is left as an empty one, and `stop_reason` tells of the limit.
                let input: Value = serde_json::from_str(&input).unwrap_or_else(|_| json!({}));
                json!({"type": "tool_use", "id": id, "name": name, "input": input})
            }
        };
        frames.push(event("content_block_stop", json!({"index": self.content.len()})));
        self.content.push(block);
    }

    fn read(&mut self, parts: Vec<Part>, frames: &mut Vec<Frame>) {
        for part in parts {
            match part {
                Part::Reasoning(text) => {
                    if !matches!(self.open, Some(Block::Thinking(_))) {
                        self.open(Block::Thinking(String::new()), frames);
                    }
                    frames.push(self.delta(json!({"type": "thinking_delta", "thinking": text})));
                    if let Some(Block::Thinking(all)) = &mut self.open {
                        all.push_str(&text);
                    }
                }
                Part::Text(text) => {
                    if !matches!(self.open, Some(Block::Text(_))) {
                        self.open(Block::Text(String::new()), frames);
                    }
                    frames.push(self.delta(json!({"type": "text_delta", "text": text})));
                    if let Some(Block::Text(all)) = &mut self.open {
                        all.push_str(&text);
                    }
                }
                Part::Call { id, name, .. } => {
                    let id = id.replacen("call_", "toolu_", 1);
                    self.open(Block::Call { id, name, input: String::new() }, frames);
                }
                Part::Arguments { text, .. } => {
                    frames.push(self.delta(json!({"type": "input_json_delta", "partial_json": text})));
                    if let Some(Block::Call { input, .. }) = &mut self.open {
                        input.push_str(&text);
                    }
                }
            }
        }
    }

    fn sent(&self, frames: Vec<Frame>) -> Vec<Frame> {
        if self.streamed { frames } else { Vec::new() }
    }
}

impl Encoder for MessageWriter {
    fn token(&mut self, _: usize, _: u32, text: &str, _: Option<&Logprobs>) -> Vec<Frame> {
        let mut frames = Vec::new();
        self.begin(&mut frames);
        let parts = self.splitter.push(text);
        self.read(parts, &mut frames);
        self.sent(frames)
    }

    fn done(&mut self, _: usize, text: &str, finish: Finish) -> Vec<Frame> {
        let mut frames = Vec::new();
        self.begin(&mut frames);
        let mut parts = self.splitter.push(text);
        parts.extend(self.splitter.finish());
        self.read(parts, &mut frames);
        self.close(&mut frames);
        self.finish = Some(finish);
        self.sent(frames)
    }

    fn end(&mut self, usage: &Usage) -> Vec<Frame> {
        let delta = json!({"stop_reason": self.reason(), "stop_sequence": null});
        vec![
            event("message_delta", json!({"delta": delta, "usage": counted(usage)})),
            event("message_stop", json!({})),
        ]
    }

    fn whole(&mut self, usage: &Usage) -> Value {
        let content = Value::from(std::mem::take(&mut self.content));
        self.message(content, self.reason(), counted(usage))
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Frame> {
        vec![Frame::named("error", &super::body(error, &self.request))]
    }

    fn keep_alive(&self) -> KeepAlive {
        // Some clients take comments for silence.
        KeepAlive::new().event(Event::default().event("ping").data(r#"{"type": "ping"}"#))
    }
}

fn event(kind: &'static str, mut data: Value) -> Frame {
    data["type"] = Value::from(kind);
    Frame::named(kind, &data)
}

/// Anthropic counts what came from the cache beside what was read anew.
fn counted(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.prompt - usage.cached, "cache_read_input_tokens": usage.cached,
        "cache_creation_input_tokens": 0, "output_tokens": usage.output,
    })
}
