//! Writes a response: its events as they come, and the object they add up to. One item is open at a time: thoughts, text,
//! or a call.

use hearth_engine::{Finish, Logprobs, Usage};
use serde_json::{Map, Value, json};

use crate::{
    ApiError,
    generation::Generation,
    identity,
    likelihood::TokenNames,
    parts::{Part, Splitter},
    stream::{self, Encoder, Frame},
};

/// The writer of one response.
pub struct ResponseWriter {
    id: String,
    created: u64,
    echoed: Map<String, Value>,
    streamed: bool,
    logprobs: bool,
    names: TokenNames,
    splitter: Splitter,
    reasoning_tokens: usize,
    sequence: u64,
    begun: bool,
    /// Items that are complete.
    output: Vec<Value>,
    open: Option<Item>,
    unsent_logprobs: Vec<Value>,
    finish: Option<Finish>,
}

/// The item that is being written.
struct Item {
    kind: Kind,
    id: String,
    text: String,
    logprobs: Vec<Value>,
}

enum Kind {
    Reasoning,
    Text,
    Call { call_id: String, name: String },
}

impl Item {
    fn new(kind: Kind) -> Item {
        let prefix = match kind {
            Kind::Reasoning => "rs",
            Kind::Text => "msg",
            Kind::Call { .. } => "fc",
        };
        let id = format!("{prefix}_{}", identity::random_hex());
        Item { kind, id, text: String::new(), logprobs: Vec::new() }
    }

    /// The part inside the item; calls have none.
    fn part(&self) -> Option<Value> {
        match self.kind {
            Kind::Reasoning => Some(json!({"type": "reasoning_text", "text": self.text})),
            Kind::Text => Some(
                json!({"type": "output_text", "text": self.text, "annotations": [], "logprobs": self.logprobs}),
            ),
            Kind::Call { .. } => None,
        }
    }

    /// The item with what is there; `empty`: as it was when it began.
    fn object(&self, status: &str, empty: bool) -> Value {
        let content = if empty { json!([]) } else { self.part().into_iter().collect() };
        match &self.kind {
            Kind::Reasoning => {
                json!({"type": "reasoning", "id": self.id, "summary": [], "content": content, "status": status})
            }
            Kind::Text => {
                json!({"type": "message", "id": self.id, "role": "assistant", "content": content, "status": status})
            }
            Kind::Call { call_id, name } => json!({
                "type": "function_call", "id": self.id, "call_id": call_id, "name": name,
                "arguments": if empty { "" } else { &self.text }, "status": status,
            }),
        }
    }
}

impl ResponseWriter {
    /// A writer for one answer.
    pub fn new(
        splitter: Splitter,
        names: TokenNames,
        generation: &Generation,
        echoed: Map<String, Value>,
    ) -> ResponseWriter {
        ResponseWriter {
            id: format!("resp_{}", identity::random_hex()),
            created: stream::unix_seconds(),
            echoed,
            streamed: generation.stream,
            logprobs: generation.logprobs.is_some(),
            names,
            splitter,
            reasoning_tokens: 0,
            sequence: 0,
            begun: false,
            output: Vec::new(),
            open: None,
            unsent_logprobs: Vec::new(),
            finish: None,
        }
    }

    /// The response as an object.
    fn response(&self, status: &str, usage: Option<&Usage>, error: Option<&ApiError>) -> Value {
        let incomplete = (status == "incomplete").then(|| json!({"reason": "max_output_tokens"}));
        let usage = usage.map(|usage| {
            json!({
                "input_tokens": usage.prompt, "input_tokens_details": {"cached_tokens": usage.cached},
                "output_tokens": usage.output,
                "output_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
                "total_tokens": usage.prompt + usage.output,
            })
        });
        let error = error.map(|error| json!({"code": error.code, "message": error.message}));
        let mut out = json!({
            "id": self.id, "object": "response", "created_at": self.created, "status": status, "error": error,
            "incomplete_details": incomplete, "output": self.output, "usage": usage,
        });
        if let Some(object) = out.as_object_mut() {
            object.extend(self.echoed.clone());
        }
        out
    }

    fn event(&mut self, kind: &'static str, mut data: Value) -> Frame {
        data["type"] = Value::from(kind);
        data["sequence_number"] = Value::from(self.sequence);
        self.sequence += 1;
        Frame::named(kind, &data)
    }

    /// The first events, once: when the first token is there.
    fn begin(&mut self, frames: &mut Vec<Frame>) {
        if !std::mem::replace(&mut self.begun, true) {
            let response = self.response("in_progress", None, None);
            frames.push(self.event("response.created", json!({"response": response})));
            frames.push(self.event("response.in_progress", json!({"response": response})));
        }
    }

    /// Opens an item, unless one of its kind is open.
    fn open(&mut self, kind: Kind, frames: &mut Vec<Frame>) {
        let same = self.open.as_ref().is_some_and(|item| {
            matches!((&item.kind, &kind), (Kind::Reasoning, Kind::Reasoning) | (Kind::Text, Kind::Text))
        });
        if same {
            return;
        }
        self.close("completed", frames);
        let item = Item::new(kind);
        let index = self.output.len();
        frames.push(self.event(
            "response.output_item.added",
            json!({"output_index": index, "item": item.object("in_progress", true)}),
        ));
        if let Some(part) = item.part() {
            let data = json!({"item_id": item.id, "output_index": index, "content_index": 0, "part": part});
            frames.push(self.event("response.content_part.added", data));
        }
        self.open = Some(item);
    }

    /// Adds to the open item.
    fn add(&mut self, text: &str, frames: &mut Vec<Frame>) {
        let index = self.output.len();
        let Some(item) = &mut self.open else { return };
        item.text += text;
        let mut data = json!({"item_id": item.id, "output_index": index, "delta": text});
        let kind = match item.kind {
            Kind::Reasoning => "response.reasoning_text.delta",
            Kind::Text => {
                let logprobs = std::mem::take(&mut self.unsent_logprobs);
                item.logprobs.extend(logprobs.iter().cloned());
                data["logprobs"] = Value::from(logprobs);
                "response.output_text.delta"
            }
            Kind::Call { .. } => "response.function_call_arguments.delta",
        };
        if !matches!(item.kind, Kind::Call { .. }) {
            data["content_index"] = json!(0);
        }
        frames.push(self.event(kind, data));
    }

    /// Closes the open item.
    fn close(&mut self, status: &str, frames: &mut Vec<Frame>) {
        let Some(item) = self.open.take() else { return };
        let index = self.output.len();
        let place = json!({"item_id": item.id, "output_index": index});
        let with = |more: Value| {
            let mut data = place.clone();
            if let (Some(data), Value::Object(more)) = (data.as_object_mut(), more) {
                data.extend(more);
            }
            data
        };
        let (kind, data) = match &item.kind {
            Kind::Reasoning => {
                ("response.reasoning_text.done", with(json!({"content_index": 0, "text": item.text})))
            }
            Kind::Text => {
                let more = json!({"content_index": 0, "text": item.text, "logprobs": item.logprobs});
                ("response.output_text.done", with(more))
            }
            Kind::Call { name, .. } => {
                ("response.function_call_arguments.done", with(json!({"name": name, "arguments": item.text})))
            }
        };
        frames.push(self.event(kind, data));
        if let Some(part) = item.part() {
            frames.push(
                self.event("response.content_part.done", with(json!({"content_index": 0, "part": part}))),
            );
        }
        let object = item.object(status, false);
        frames.push(self.event("response.output_item.done", json!({"output_index": index, "item": object})));
        self.output.push(object);
    }

    fn read(&mut self, parts: Vec<Part>, frames: &mut Vec<Frame>) {
        for part in parts {
            let (kind, text) = match part {
                Part::Reasoning(text) => (Some(Kind::Reasoning), text),
                Part::Text(text) => (Some(Kind::Text), text),
                Part::Call { id, name, .. } => (Some(Kind::Call { call_id: id, name }), String::new()),
                Part::Arguments { text, .. } => (None, text),
            };
            if let Some(kind) = kind {
                self.open(kind, frames);
            }
            if !text.is_empty() {
                self.add(&text, frames);
            }
        }
    }

    fn status(&self) -> &'static str {
        if self.finish == Some(Finish::Length) { "incomplete" } else { "completed" }
    }

    fn sent(&self, frames: Vec<Frame>) -> Vec<Frame> {
        if self.streamed { frames } else { Vec::new() }
    }
}

impl Encoder for ResponseWriter {
    fn token(&mut self, _: usize, id: u32, text: &str, logprobs: Option<&Logprobs>) -> Vec<Frame> {
        let mut frames = Vec::new();
        self.begin(&mut frames);
        let reasoning = self.splitter.in_reasoning();
        self.reasoning_tokens += usize::from(reasoning);
        if self.logprobs && !reasoning {
            self.unsent_logprobs.extend(logprobs.map(|logprobs| self.names.chat(id, logprobs)));
        }
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
        self.finish = Some(finish);
        let status = self.status();
        self.close(status, &mut frames);
        self.sent(frames)
    }

    fn end(&mut self, usage: &Usage) -> Vec<Frame> {
        let status = self.status();
        let kind = if status == "incomplete" { "response.incomplete" } else { "response.completed" };
        let response = self.response(status, Some(usage), None);
        vec![self.event(kind, json!({"response": response}))]
    }

    fn whole(&mut self, usage: &Usage) -> Value {
        self.response(self.status(), Some(usage), None)
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Frame> {
        let mut frames = Vec::new();
        self.begin(&mut frames);
        self.close("incomplete", &mut frames);
        let response = self.response("failed", None, Some(error));
        frames.push(self.event("response.failed", json!({"response": response})));
        frames
    }
}
