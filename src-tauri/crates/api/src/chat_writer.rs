//! Writes OpenAI's chat objects: chunks for a stream, one completion otherwise. Used by the chat handler.

use hearth_engine::{Finish, Logprobs, Usage};
use serde_json::{Value, json};

use crate::{
    generation::Generation,
    identity,
    likelihood::TokenNames,
    parts::{Part, Splitter},
    stream::{self, Encoder, Frame, finish_reason},
};

/// The writer of the answers to one request.
pub struct ChatWriter {
    id: String,
    model: String,
    created: u64,
    streamed: bool,
    include_usage: bool,
    token_ids: bool,
    logprobs: bool,
    names: TokenNames,
    choices: Vec<Choice>,
}

/// One answer.
struct Choice {
    splitter: Splitter,
    unsent_ids: Vec<u32>,
    unsent_logprobs: Vec<Value>,
    reasoning_tokens: usize,
    begun: bool,
    /// What is there, if it is sent as a whole.
    message: Message,
    finish: Option<Finish>,
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

    /// As the API has it.
    fn object(self) -> Value {
        let silent = self.text.is_empty() && !self.calls.is_empty();
        let content = if silent { Value::Null } else { Value::from(self.text) };
        let mut out = json!({"role": "assistant", "content": content});
        if !self.reasoning.is_empty() {
            out["reasoning_content"] = Value::from(self.reasoning);
        }
        if !self.calls.is_empty() {
            out["tool_calls"] = Value::from(self.calls);
        }
        out
    }
}

impl Choice {
    fn reason(&self, finish: Finish) -> &'static str {
        // A limit that was reached stays visible: the last call may be cut off.
        if finish == Finish::Stop && self.splitter.complete_calls() > 0 {
            "tool_calls"
        } else {
            finish_reason(finish)
        }
    }
}

impl ChatWriter {
    /// A writer for answers of `model`, each read by one of `splitters`.
    pub fn new(
        model: String,
        splitters: Vec<Splitter>,
        names: TokenNames,
        generation: &Generation,
    ) -> ChatWriter {
        let choice = |splitter| Choice {
            splitter,
            unsent_ids: Vec::new(),
            unsent_logprobs: Vec::new(),
            reasoning_tokens: 0,
            begun: false,
            message: Message::default(),
            finish: None,
        };
        ChatWriter {
            id: format!("chatcmpl-{}", identity::random_hex()),
            model,
            created: stream::unix_seconds(),
            streamed: generation.stream,
            include_usage: generation.include_usage,
            token_ids: generation.token_ids,
            logprobs: generation.logprobs.is_some(),
            names,
            choices: splitters.into_iter().map(choice).collect(),
        }
    }

    fn reasoning_tokens(&self) -> usize {
        self.choices.iter().map(|choice| choice.reasoning_tokens).sum()
    }

    /// What was read of a choice: chunks of a stream, or a piece of the whole.
    fn say(&mut self, choice: usize, parts: Vec<Part>) -> Vec<Frame> {
        if !self.streamed {
            self.choices[choice].message.add(parts);
            return Vec::new();
        }
        let mut out: Vec<Frame> = self.role(choice).into_iter().collect();
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
            out.push(self.chunk(choice, delta, None));
        }
        out
    }

    fn chunk(&mut self, index: usize, delta: Value, finish: Option<&str>) -> Frame {
        let state = &mut self.choices[index];
        let mut choice = json!({"index": index, "delta": delta, "finish_reason": finish});
        if self.token_ids && state.begun {
            choice["token_ids"] = json!(std::mem::take(&mut state.unsent_ids));
        }
        if self.logprobs && state.begun && !state.unsent_logprobs.is_empty() {
            choice["logprobs"] =
                json!({"content": std::mem::take(&mut state.unsent_logprobs), "refusal": null});
        }
        Frame::new(&self.object("chat.completion.chunk", vec![choice]))
    }

    fn object(&self, kind: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices,
        })
    }

    /// The role, once: when the first token is there, so that clients can time it.
    fn role(&mut self, choice: usize) -> Option<Frame> {
        let begun = std::mem::replace(&mut self.choices[choice].begun, false);
        let chunk = (!begun).then(|| self.chunk(choice, json!({"role": "assistant", "content": ""}), None));
        self.choices[choice].begun = true;
        chunk
    }
}

impl Encoder for ChatWriter {
    fn token(&mut self, choice: usize, id: u32, text: &str, logprobs: Option<&Logprobs>) -> Vec<Frame> {
        let state = &mut self.choices[choice];
        if self.token_ids {
            state.unsent_ids.push(id);
        }
        state.unsent_logprobs.extend(logprobs.map(|logprobs| self.names.chat(id, logprobs)));
        state.reasoning_tokens += usize::from(state.splitter.in_reasoning());
        let parts = state.splitter.push(text);
        self.say(choice, parts)
    }

    fn done(&mut self, choice: usize, text: &str, finish: Finish) -> Vec<Frame> {
        let state = &mut self.choices[choice];
        let mut parts = state.splitter.push(text);
        parts.extend(state.splitter.finish());
        state.finish = Some(finish);
        let reason = state.reason(finish);
        let mut frames = self.say(choice, parts);
        if self.streamed {
            frames.push(self.chunk(choice, json!({}), Some(reason)));
        }
        frames
    }

    fn end(&mut self, usage: &Usage) -> Vec<Frame> {
        let mut frames = Vec::new();
        if self.include_usage {
            let mut last = self.object("chat.completion.chunk", Vec::new());
            last["usage"] = stream::usage(usage, self.reasoning_tokens());
            frames.push(Frame::new(&last));
        }
        frames.push(Frame::done());
        frames
    }

    fn whole(&mut self, usage: &Usage) -> Value {
        let reasoning_tokens = self.reasoning_tokens();
        let (token_ids, logprobs) = (self.token_ids, self.logprobs);
        let choices = self.choices.iter_mut().enumerate().map(|(index, state)| {
            let message = std::mem::take(&mut state.message).object();
            let reason = state.finish.map(|finish| state.reason(finish));
            let likely = logprobs
                .then(|| json!({"content": std::mem::take(&mut state.unsent_logprobs), "refusal": null}));
            let mut choice =
                json!({"index": index, "message": message, "logprobs": likely, "finish_reason": reason});
            if token_ids {
                choice["token_ids"] = json!(std::mem::take(&mut state.unsent_ids));
            }
            choice
        });
        let choices = choices.collect();
        let mut out = self.object("chat.completion", choices);
        out["usage"] = stream::usage(usage, reasoning_tokens);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fields::Fields, tools::Tools};
    use hearth_engine::{Sampling, Tokenizer, status::RequestKind};
    use std::sync::Arc;

    fn writer(splitter: Splitter, streamed: bool) -> ChatWriter {
        let body = json!({"stream": streamed, "stream_options": {"include_usage": true}, "logprobs": true});
        let fields = Fields::parse(body.to_string().as_bytes()).expect("an object");
        let generation = Generation::read(&fields, RequestKind::Chat, &Sampling::default()).expect("valid");
        let json = include_bytes!("../../../assets/ember/model/tokenizer.json");
        let tokenizer = Tokenizer::read(json, &json!({}), None, None).expect("ember's tokenizer");
        ChatWriter::new("m".into(), vec![splitter], TokenNames(Arc::new(tokenizer)), &generation)
    }

    fn read(frames: &[Frame]) -> Vec<Value> {
        frames.iter().filter_map(|frame| serde_json::from_str(&frame.data).ok()).collect()
    }

    const USAGE: Usage = Usage { prompt: 3, cached: 0, output: 2 };

    #[test]
    fn a_stream_begins_with_the_role_and_ends_with_reason_and_usage() {
        let mut writer = writer(Splitter::new(false, None, false), true);
        let likely = Logprobs { chosen: -0.5, top: vec![(20, -0.5)] };
        let mut frames = writer.token(0, 20, "Hi", Some(&likely));
        frames.extend(writer.token(0, 21, " you", Some(&likely)));
        frames.extend(writer.done(0, "", Finish::Length));
        frames.extend(writer.end(&USAGE));
        assert_eq!(frames.last(), Some(&Frame::done()));
        let chunks = read(&frames);
        let choices: Vec<&Value> = chunks.iter().filter_map(|c| c["choices"].get(0)).collect();
        assert_eq!(choices[0]["delta"], json!({"role": "assistant", "content": ""}));
        assert_eq!(choices[1]["delta"]["content"], "Hi");
        assert_eq!(choices[1]["logprobs"]["content"][0]["top_logprobs"][0]["logprob"], -0.5);
        assert_eq!(choices[2]["delta"]["content"], " you");
        assert_eq!(choices[2]["logprobs"]["content"].as_array().map(Vec::len), Some(1));
        let end = &chunks[chunks.len() - 2];
        assert_eq!(end["choices"][0]["finish_reason"], "length");
        assert!(end.get("usage").is_none(), "only the last chunk has usage");
        let last = &chunks[chunks.len() - 1];
        assert_eq!((&last["choices"], &last["usage"]["total_tokens"]), (&json!([]), &json!(5)));
        assert!(chunks.iter().all(|c| c["id"] == chunks[0]["id"] && c["object"] == "chat.completion.chunk"));
    }

    #[test]
    fn reasoning_and_answer_go_to_their_own_fields() {
        let mut writer = writer(Splitter::new(true, None, false), false);
        assert!(writer.token(0, 1, "hm\n</think>\n\n", None).is_empty());
        writer.token(0, 2, "yes", None);
        writer.done(0, "", Finish::Stop);
        let answer = writer.whole(&USAGE);
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
        let splitter = || Splitter::new(false, Some(tools.clone()), false);
        let mut streamed = writer(splitter(), true);
        let mut frames = streamed.token(0, 1, call, None);
        frames.extend(streamed.done(0, "", Finish::Stop));
        let chunks = read(&frames);
        let calls: Vec<&Value> =
            chunks.iter().filter_map(|c| c["choices"][0]["delta"]["tool_calls"].get(0)).collect();
        assert!(calls.iter().all(|c| c["index"] == 0));
        assert_eq!(calls.iter().filter(|c| c.get("id").is_some()).count(), 1);
        let arguments: String = calls.iter().filter_map(|c| c["function"]["arguments"].as_str()).collect();
        assert_eq!(arguments, r#"{"a": "x"}"#);
        assert!(chunks.iter().any(|c| c["choices"][0]["finish_reason"] == "tool_calls"));

        let mut whole = writer(splitter(), false);
        whole.token(0, 1, call, None);
        whole.done(0, "", Finish::Stop);
        let answer = whole.whole(&USAGE);
        assert_eq!(answer["choices"][0]["message"]["content"], Value::Null);
        assert_eq!(
            answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"],
            r#"{"a": "x"}"#
        );
        assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
    }
}
