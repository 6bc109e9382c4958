//! Writes OpenAI's chat objects: chunks for a stream, one completion otherwise. Used by the chat handler.

use hearth_engine::{Finish, Usage};
use serde_json::{Value, json};

use crate::{
    identity,
    parts::{Part, Splitter},
    stream::{self, Encoder, finish_reason},
};

/// The writer of one answer.
pub struct ChatWriter {
    id: String,
    model: String,
    created: u64,
    splitter: Splitter,
    include_usage: bool,
    token_ids: bool,
    unsent_ids: Vec<u32>,
    reasoning_tokens: usize,
    begun: bool,
}

/// An answer that is sent as a whole.
#[derive(Debug, Default)]
pub struct Message {
    reasoning: String,
    text: String,
    calls: Vec<Value>,
}

impl Message {
    /// Adds what was read.
    pub fn add(&mut self, parts: Vec<Part>) {
        for part in parts {
            match part {
                Part::Reasoning(text) => self.reasoning += &text,
                Part::Text(text) => self.text += &text,
                Part::Call { id, name, .. } => self
                    .calls
                    .push(json!({"id": id, "type": "function", "function": {"name": name, "arguments": ""}})),
                Part::Arguments { index, text } => {
                    if let Some(Value::String(arguments)) =
                        self.calls.get_mut(index).map(|c| &mut c["function"]["arguments"])
                    {
                        arguments.push_str(&text);
                    }
                }
            }
        }
    }
}

impl ChatWriter {
    /// A writer for one answer of `model`.
    pub fn new(model: String, splitter: Splitter, include_usage: bool, token_ids: bool) -> ChatWriter {
        ChatWriter {
            id: format!("chatcmpl-{}", identity::random_hex()),
            model,
            created: stream::unix_seconds(),
            splitter,
            include_usage,
            token_ids,
            unsent_ids: Vec::new(),
            reasoning_tokens: 0,
            begun: false,
        }
    }

    /// Takes in a token.
    pub fn read(&mut self, id: u32, text: &str) -> Vec<Part> {
        if self.token_ids {
            self.unsent_ids.push(id);
        }
        self.reasoning_tokens += usize::from(self.splitter.in_reasoning());
        self.splitter.push(text)
    }

    /// Takes in the end.
    pub fn read_rest(&mut self, text: &str) -> Vec<Part> {
        let mut parts = self.splitter.push(text);
        parts.extend(self.splitter.finish());
        parts
    }

    fn reason(&self, finish: Finish) -> &'static str {
        // A limit that was reached stays visible: the last call may be cut off.
        if finish == Finish::Stop && self.splitter.complete_calls() > 0 {
            "tool_calls"
        } else {
            finish_reason(finish)
        }
    }

    /// The whole answer as one object.
    pub fn completion(&mut self, message: Message, finish: Finish, usage: &Usage) -> Value {
        let silent = message.text.is_empty() && !message.calls.is_empty();
        let content = if silent { Value::Null } else { Value::from(message.text) };
        let mut out = json!({"role": "assistant", "content": content});
        if !message.reasoning.is_empty() {
            out["reasoning_content"] = Value::from(message.reasoning);
        }
        if !message.calls.is_empty() {
            out["tool_calls"] = Value::from(message.calls);
        }
        let mut choice =
            json!({"index": 0, "message": out, "logprobs": null, "finish_reason": self.reason(finish)});
        if self.token_ids {
            choice["token_ids"] = json!(std::mem::take(&mut self.unsent_ids));
        }
        json!({
            "id": self.id, "object": "chat.completion", "created": self.created, "model": self.model,
            "choices": [choice], "usage": stream::usage(usage, self.reasoning_tokens),
        })
    }

    fn chunk(&mut self, delta: Value, finish: Option<&str>) -> Value {
        let mut choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
        if self.token_ids && self.begun {
            choice["token_ids"] = json!(std::mem::take(&mut self.unsent_ids));
        }
        json!({
            "id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model,
            "choices": [choice],
        })
    }

    /// The role, once: when the first token is there, so that clients can time it.
    fn role(&mut self) -> Option<Value> {
        let chunk = (!self.begun).then(|| self.chunk(json!({"role": "assistant", "content": ""}), None));
        self.begun = true;
        chunk
    }

    fn chunks(&mut self, parts: Vec<Part>) -> Vec<Value> {
        let mut out: Vec<Value> = self.role().into_iter().collect();
        for part in parts {
            let delta = match part {
                Part::Reasoning(text) => json!({"reasoning_content": text}),
                Part::Text(text) => json!({"content": text}),
                Part::Call { index, id, name } => json!({"tool_calls": [
                    {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}}]}),
                Part::Arguments { index, text } => {
                    json!({"tool_calls": [{"index": index, "function": {"arguments": text}}]})
                }
            };
            out.push(self.chunk(delta, None));
        }
        out
    }
}

impl Encoder for ChatWriter {
    fn token(&mut self, id: u32, text: &str) -> Vec<Value> {
        let parts = self.read(id, text);
        self.chunks(parts)
    }

    fn done(&mut self, text: &str, finish: Finish, usage: &Usage) -> Vec<Value> {
        let parts = self.read_rest(text);
        let mut chunks = self.chunks(parts);
        let reason = self.reason(finish);
        chunks.push(self.chunk(json!({}), Some(reason)));
        if self.include_usage {
            let mut last = self.chunk(json!({}), None);
            last["choices"] = json!([]);
            last["usage"] = stream::usage(usage, self.reasoning_tokens);
            chunks.push(last);
        }
        chunks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::Tools;

    fn writer(thinking: bool, tools: Option<Tools>) -> ChatWriter {
        ChatWriter::new("m".into(), Splitter::new(thinking, tools, false), true, false)
    }

    const USAGE: Usage = Usage { prompt: 3, cached: 0, output: 2 };

    #[test]
    fn a_stream_begins_with_the_role_and_ends_with_reason_and_usage() {
        let mut writer = writer(false, None);
        let mut chunks = writer.token(1, "Hi");
        chunks.extend(writer.token(2, " you"));
        chunks.extend(writer.done("", Finish::Length, &USAGE));
        let deltas: Vec<&Value> =
            chunks.iter().filter_map(|c| c["choices"].get(0)).map(|c| &c["delta"]).collect();
        assert_eq!(deltas[0], &json!({"role": "assistant", "content": ""}));
        assert_eq!((&deltas[1]["content"], &deltas[2]["content"]), (&json!("Hi"), &json!(" you")));
        let end = &chunks[chunks.len() - 2];
        assert_eq!(end["choices"][0]["finish_reason"], "length");
        assert!(end.get("usage").is_none(), "only the last chunk has usage");
        let last = &chunks[chunks.len() - 1];
        assert_eq!((&last["choices"], &last["usage"]["total_tokens"]), (&json!([]), &json!(5)));
        assert!(chunks.iter().all(|c| c["id"] == chunks[0]["id"] && c["object"] == "chat.completion.chunk"));
    }

    #[test]
    fn reasoning_and_answer_go_to_their_own_fields() {
        let mut writer = writer(true, None);
        let mut message = Message::default();
        message.add(writer.read(1, "hm\n</think>\n\n"));
        message.add(writer.read(2, "yes"));
        message.add(writer.read_rest(""));
        let answer = writer.completion(message, Finish::Stop, &USAGE);
        let choice = &answer["choices"][0];
        assert_eq!(
            choice["message"],
            json!({"role": "assistant", "content": "yes", "reasoning_content": "hm"})
        );
        assert_eq!(choice["finish_reason"], "stop");
        assert_eq!(answer["usage"]["completion_tokens_details"]["reasoning_tokens"], 1);
    }

    #[test]
    fn a_call_has_its_name_once_and_its_own_finish_reason() {
        let tools = Tools::read(&json!([{"type": "function", "function": {"name": "f"}}])).expect("valid");
        let call = "<tool_call>\n<function=f>\n<parameter=a>\nx\n</parameter>\n</function>\n</tool_call>";
        let mut streamed = writer(false, Some(tools.clone()));
        let mut chunks = streamed.token(1, call);
        chunks.extend(streamed.done("", Finish::Stop, &USAGE));
        let calls: Vec<&Value> =
            chunks.iter().filter_map(|c| c["choices"][0]["delta"]["tool_calls"].get(0)).collect();
        assert!(calls.iter().all(|c| c["index"] == 0));
        assert_eq!(calls.iter().filter(|c| c.get("id").is_some()).count(), 1);
        let arguments: String = calls.iter().filter_map(|c| c["function"]["arguments"].as_str()).collect();
        assert_eq!(arguments, r#"{"a": "x"}"#);
        assert!(chunks.iter().any(|c| c["choices"][0]["finish_reason"] == "tool_calls"));

        let mut whole = writer(false, Some(tools));
        let mut message = Message::default();
        message.add(whole.read(1, call));
        message.add(whole.read_rest(""));
        let answer = whole.completion(message, Finish::Stop, &USAGE);
        assert_eq!(answer["choices"][0]["message"]["content"], Value::Null);
        assert_eq!(
            answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"],
            r#"{"a": "x"}"#
        );
        assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
    }
}
