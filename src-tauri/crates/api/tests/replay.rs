//! A model's tool call comes back by each API as clients send it: arguments written anew, other ids, no reasoning. What the
//! engine computed for it must be known all the same; what was changed must not.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
};
use hearth_api::{ApiOptions, router};
use hearth_engine::{
    Depth, Engine, Loaded, Sampling, Served, Tokenizer,
    policy::Policy,
    runner::{Given, Limits, OnHost, Runner, Sampled},
    status::{EngineMemory, EnginePhase},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

const PAGE: usize = 8;

/// What the model says whenever it is asked: thoughts, and a call in its own handwriting.
const SAID: &str = "Two numbers, so I add.\n</think>\n\n<tool_call>\n<function=add>\n<parameter=a>\n 1\n</parameter>\n<parameter=o>\n{\"x\":1,\"y\":[1, 2.0]}\n</parameter>\n</function>\n</tool_call><|im_end|>";

/// Writes one answer, again and again.
struct Actor {
    lines: Vec<u32>,
    at: usize,
    vocab: usize,
    host: OnHost,
}

impl Runner for Actor {
    fn limits(&self) -> Limits {
        Limits {
            context: 2048,
            slots: 1,
            states: 12,
            max_rows: 64,
            decode_rows: None,
            page_len: PAGE,
            pages: 512,
            mtp: false,
            exact: false,
            ahead: false,
        }
    }

    fn run(
        &mut self,
        _: &hearth_kernels::ops::Pass,
        _: &[u32],
        want: &[u32],
        _: &[hearth_kernels::rounds::Follow],
    ) -> Result<(), String> {
        let mut logits = Vec::new();
        for _ in want {
            let next = self.lines[self.at] as usize;
            self.at = (self.at + 1) % self.lines.len();
            logits.push((0..self.vocab).map(|id| if id == next { 1.0 } else { 0.0 }).collect());
        }
        self.host.keep(logits);
        Ok(())
    }

    fn draft(
        &mut self,
        _: &hearth_kernels::ops::Pass,
        _: &[u32],
        _: hearth_model::Seed<'_>,
        _: &[u32],
        _: &[hearth_kernels::rounds::Follow],
    ) -> Result<(), String> {
        Err("there is no MTP head".into())
    }

    fn sample(
        &mut self,
        tokens: usize,
        rows: &[Option<hearth_kernels::sample::SampleRow<'_>>],
    ) -> Result<Sampled, String> {
        Ok(self.host.sample(tokens, rows))
    }

    fn read(&mut self, sampled: Sampled) -> Result<Vec<Given>, String> {
        Ok(OnHost::read(sampled))
    }

    fn copy_state(&mut self, _: usize, _: usize) -> Result<(), String> {
        Ok(())
    }

    fn bytes_per_step(&self, _: usize, _: usize) -> u64 {
        0
    }

    fn memory(&self) -> EngineMemory {
        EngineMemory { weights: 0.0, kv: 0.0, kv_used: 0.0, kv_cached: 0.0, state: 0.0, scratch: 0.0 }
    }
}

/// An engine with ember's vocabulary and template that writes `SAID`.
async fn actor() -> Router {
    let load = |_: &_| {
        let json = include_bytes!("../../../assets/ember/model/tokenizer.json");
        let template = include_str!("../../../assets/ember/model/chat_template.jinja");
        let tokenizer = Tokenizer::read(json, &json!({}), None, None).map_err(|e| e.fault())?;
        let lines = tokenizer.encode(SAID, None).map_err(|e| e.fault())?;
        let served = Served {
            id: "actor".into(),
            aliases: Vec::new(),
            tokenizer: Arc::new(tokenizer),
            chat_template: Some(template.into()),
            tokenizer_config: None,
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            created: 0,
        };
        let vocab = served.tokenizer.len();
        // The warm-up token is the first line of the play.
        let runner = Actor { at: lines.len() - 1, lines, vocab, host: OnHost::default() };
        let patience = Duration::from_secs(600);
        Ok(Loaded { runner, depth: Depth::Fixed(0), policy: Policy::Fifo, patience, disk: None, served })
    };
    let engine = Engine::start(load, 8).expect("starts");
    while !matches!(engine.status(0).phase, EnginePhase::Ready) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    router(engine, ApiOptions::default())
}

async fn post(router: &Router, path: &str, body: &Value) -> Value {
    let request = Request::post(path)
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .expect("a request");
    let response = router.clone().oneshot(request).await.expect("the router never fails");
    let status = response.status();
    let bytes = response.into_body().collect().await.expect("the body comes").to_bytes();
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&bytes));
    serde_json::from_slice(&bytes).expect("JSON")
}

/// One way to talk to the engine: a first request, and the second one with the call as the client writes its arguments.
struct Api {
    path: &'static str,
    first: Value,
    /// Given the first answer and the arguments.
    second: fn(&Value, &Value, Value) -> Value,
    /// Prompt tokens of an answer, and how many of them were known.
    usage: fn(&Value) -> (u64, u64),
    written: fn(&Value) -> u64,
}

fn parameters() -> Value {
    json!({"type": "object", "properties": {"a": {"type": "integer"}, "o": {"type": "object"}}})
}

fn apis() -> [Api; 3] {
    let chat_tools = json!([{"type": "function", "function": {"name": "add", "parameters": parameters()}}]);
    let question = "Add one, please, and take your time, for this has to be a text of some length.";
    [
        Api {
            path: "/v1/chat/completions",
            first: json!({"model": "actor", "tools": chat_tools, "max_tokens": 200, "chat_template_kwargs": {"enable_thinking": true},
                "messages": [{"role": "user", "content": question}]}),
            second: |first, answer, arguments| {
                let message = &answer["choices"][0]["message"];
                assert_eq!(message["tool_calls"][0]["function"]["name"], "add", "{answer}");
                assert!(message["reasoning_content"].is_string(), "{answer}");
                let mut second = first.clone();
                let messages = second["messages"].as_array_mut().expect("a list");
                messages.push(json!({"role": "assistant", "content": null, "tool_calls": [
                    {"id": "another", "type": "function", "function": {"name": "add", "arguments": arguments.to_string()}}]}));
                messages.push(json!({"role": "tool", "tool_call_id": "another", "content": "2"}));
                second
            },
            usage: |answer| {
                let usage = &answer["usage"];
                let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a number");
                (usage["prompt_tokens"].as_u64().expect("a number"), cached)
            },
            written: |answer| answer["usage"]["completion_tokens"].as_u64().expect("a number"),
        },
        Api {
            path: "/v1/responses",
            first: json!({"model": "actor", "max_output_tokens": 200, "reasoning": {"effort": "high"}, "chat_template_kwargs": {"enable_thinking": true},
                "tools": [{"type": "function", "name": "add", "parameters": parameters()}],
                "input": [{"role": "user", "content": question}]}),
            second: |first, answer, arguments| {
                let items = answer["output"].as_array().expect("items");
                assert!(items.iter().any(|item| item["type"] == "function_call"), "{answer}");
                let mut second = first.clone();
                let input = second["input"].as_array_mut().expect("a list");
                input.push(json!({"type": "function_call", "call_id": "c", "name": "add", "arguments": arguments.to_string()}));
                input.push(json!({"type": "function_call_output", "call_id": "c", "output": "2"}));
                second
            },
            usage: |answer| {
                let usage = &answer["usage"];
                let cached = usage["input_tokens_details"]["cached_tokens"].as_u64().expect("a number");
                (usage["input_tokens"].as_u64().expect("a number"), cached)
            },
            written: |answer| answer["usage"]["output_tokens"].as_u64().expect("a number"),
        },
        Api {
            path: "/v1/messages",
            first: json!({"model": "actor", "max_tokens": 200, "thinking": {"type": "enabled", "budget_tokens": 100},
                "tools": [{"name": "add", "input_schema": parameters()}],
                "messages": [{"role": "user", "content": question}]}),
            second: |first, answer, arguments| {
                let blocks = answer["content"].as_array().expect("blocks");
                assert!(blocks.iter().any(|block| block["type"] == "tool_use"), "{answer}");
                let mut second = first.clone();
                let messages = second["messages"].as_array_mut().expect("a list");
                messages.push(json!({"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "add", "input": arguments}]}));
                messages.push(json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "2"}]}));
                second
            },
            usage: |answer| {
                let usage = &answer["usage"];
                let cached = usage["cache_read_input_tokens"].as_u64().expect("a number");
                (usage["input_tokens"].as_u64().expect("a number") + cached, cached)
            },
            written: |answer| answer["usage"]["output_tokens"].as_u64().expect("a number"),
        },
    ]
}

#[tokio::test]
async fn a_call_that_comes_back_written_anew_and_without_its_reasoning_is_known_to_its_last_page() {
    for Api { path, first, second, usage, written } in apis() {
        let router = actor().await;
        let answer = post(&router, path, &first).await;
        let (prompt, cached) = usage(&answer);
        assert_eq!(cached, 0, "{path}");
        // All but the last token were an input; whole pages are known.
        let known = (prompt + written(&answer) - 1) / PAGE as u64 * PAGE as u64;
        let same = second(&first, &answer, json!({"o": {"y": [1, 2], "x": 1.0}, "a": 1}));
        let (_, cached) = usage(&post(&router, path, &same).await);
        assert_eq!(cached, known, "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_call_that_was_changed_is_read_as_the_client_sent_it() {
    for Api { path, first, second, usage, .. } in apis() {
        let router = actor().await;
        let answer = post(&router, path, &first).await;
        let prompt = usage(&answer).0;
        let changed = second(&first, &answer, json!({"a": 2, "o": {"x": 1, "y": [1, 2]}}));
        let (_, cached) = usage(&post(&router, path, &changed).await);
        assert!(cached <= prompt, "{path}: {cached} of {prompt}");
    }
}
