//! The whole front over the built-in model, called in process: no socket, no client package.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, Request, StatusCode},
};
use hearth_api::{ApiOptions, router};
use hearth_engine::{
    Depth, Engine, LoadRequest, Loaded, Sampling, Served, Tokenizer,
    policy::Policy,
    runner::{Given, Limits, OnHost, Runner, Sampled},
    status::{EngineMemory, EnginePhase, EngineStatus, RequestEnd, RequestKind},
};
use hearth_model::KvType;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

const CONTEXT: usize = 1024;

fn load_ember() -> LoadRequest {
    LoadRequest {
        folder: None,
        id: None,
        device: "cpu".into(),
        threads: Some(1),
        context: Some(CONTEXT),
        max_requests: 2,
        kv: KvType::F32.into(),
        exact: false,
        fp4_activations: false,
        chunk: 64,
        mtp_depth: Depth::Auto,
        draft_head: hearth_engine::DraftWish::default(),
        draft_vocabulary: None,
        policy: Policy::Slo,
        patience: Duration::from_secs(600),
        memory_reserve: None,
        anyway: false,
        prefix_disk: None,
        sampling: hearth_engine::SamplingDefaults::default(),
    }
}

async fn ready(engine: &Engine) {
    while !matches!(engine.status(0).phase, EnginePhase::Ready) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn ember(options: ApiOptions) -> (Engine, Router) {
    let request = load_ember();
    let engine = Engine::start(move |board| hearth_engine::load(&request, board), 8).expect("starts");
    ready(&engine).await;
    (engine.clone(), router(engine, options))
}

async fn call(
    router: &Router,
    method: &str,
    path: &str,
    body: impl Into<Body>,
) -> (StatusCode, HeaderMap, Bytes) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(body.into())
        .expect("a request");
    let response = router.clone().oneshot(request).await.expect("the router never fails");
    let (status, headers) = (response.status(), response.headers().clone());
    (status, headers, response.into_body().collect().await.expect("the body comes").to_bytes())
}

async fn post(router: &Router, path: &str, body: Value) -> (StatusCode, Value) {
    let (status, _, bytes) = call(router, "POST", path, body.to_string()).await;
    (status, serde_json::from_slice(&bytes).expect("JSON"))
}

fn events(bytes: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(bytes).expect("UTF-8");
    text.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
}

#[tokio::test]
async fn the_built_in_model_answers_over_http() {
    let (engine, router) = ember(ApiOptions::default()).await;
    let question = json!([{"role": "user", "content": "What is Hearth?"}]);
    let body = json!({"model": "ember", "messages": question, "temperature": 0, "max_tokens": 64});
    let (status, answer) = post(&router, "/v1/chat/completions", body.clone()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let text = answer["choices"][0]["message"]["content"].as_str().expect("text").to_owned();
    assert!(text.contains("Hearth"), "{text}");

    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let (_, headers, bytes) = call(&router, "POST", "/v1/chat/completions", streamed.to_string()).await;
    assert_eq!(headers["content-type"], "text/event-stream");
    let events = events(&bytes);
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    let pieces = events.iter().filter_map(|event| serde_json::from_str::<Value>(event).ok());
    let together: String = pieces
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(together, text);

    let status: EngineStatus =
        serde_json::from_slice(&call(&router, "GET", "/status", "").await.2).expect("a status");
    assert_eq!(status.finished.len(), 2);
    assert!(status.finished.iter().all(|r| r.finish == RequestEnd::Stop && r.ttft_s.is_some()));
    assert!(status.counters.bytes_read > 0.0);
    let metrics = call(&router, "GET", "/metrics", "").await.2;
    let metrics = std::str::from_utf8(&metrics).expect("text");
    assert!(metrics.contains("hearth_requests_total{end=\"ok\"} 2"), "{metrics}");
    assert!(metrics.contains("hearth_time_to_first_token_seconds_count 2"), "{metrics}");
    assert_eq!(engine.status(0).running, 0);
}

#[tokio::test]
async fn the_context_is_full_to_the_last_token_and_not_one_further() {
    let (_, router) = ember(ApiOptions::default()).await;
    let body = |max: usize| json!({"model": "ember", "prompt": vec![100; CONTEXT - 3], "max_tokens": max, "ignore_eos": true});
    let (status, answer) = post(&router, "/v1/completions", body(3)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["usage"]["total_tokens"], CONTEXT);
    let (status, answer) = post(&router, "/v1/completions", body(4)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(answer["error"]["code"], "context_length_exceeded");
    let message = answer["error"]["message"].as_str().expect("a sentence");
    assert!(message.contains("1024 tokens") && message.contains("1025 tokens"), "{message}");
}

#[tokio::test]
async fn a_refused_request_is_recorded_and_counted_and_other_refusals_are_not() {
    let (engine, router) = ember(ApiOptions::default()).await;
    let chat = "/v1/chat/completions";
    call(&router, "POST", chat, "nonsense").await;
    post(&router, chat, json!({"model": "gpt-9"})).await;
    post(&router, "/v1/completions", json!({"model": "ember", "prompt": [100], "max_tokens": CONTEXT})).await;
    call(&router, "GET", "/v1/nothing", "").await;
    call(&router, "GET", "/v1/models/gpt-9", "").await;
    let status = engine.status(0);
    let rows: Vec<_> = status
        .finished
        .iter()
        .map(|r| (r.kind, r.finish, r.error.as_ref().map_or("", |fault| fault.code.as_str())))
        .collect();
    let refused = |kind, code| (kind, RequestEnd::Refused, code);
    assert_eq!(
        rows,
        [
            refused(RequestKind::Chat, "invalid_json"),
            refused(RequestKind::Chat, "model_not_found"),
            refused(RequestKind::Completion, "context_length_exceeded"),
        ]
    );
    assert_eq!((status.counters.requests_refused, status.counters.requests_failed), (3, 0));
}

fn ask(options: Value) -> Value {
    let mut body = json!({"model": "ember", "messages": [{"role": "user", "content": "Tell me about Hearth."}],
        "max_tokens": 40, "temperature": 1.2, "seed": 5});
    for (name, value) in options.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body
}

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn choices_have_their_own_seeds_one_prompt_and_are_the_same_in_company() {
    let (_, router) = ember(ApiOptions::default()).await;
    let texts = |answer: &Value| -> Vec<String> {
        let choices = answer["choices"].as_array().expect("choices").clone();
        choices.iter().map(|c| c["message"]["content"].as_str().expect("text").to_owned()).collect()
    };
    // Ember is sure of its answer; what it is made to write behind its end is anybody's guess.
    let wild = json!({"temperature": 2, "ignore_eos": true, "max_tokens": 90});
    let with = |name: &str, value: Value| {
        let mut body = ask(wild.clone());
        body[name] = value;
        body
    };
    let (_, alone) = post(&router, CHAT, ask(wild.clone())).await;
    let (status, three) = post(&router, CHAT, with("n", json!(3))).await;
    assert_eq!(status, StatusCode::OK, "{three}");
    let together = texts(&three);
    assert_eq!(together[..1], texts(&alone)[..], "the first choice is the one a single request gets");
    assert!(together[0] != together[1] && together[1] != together[2], "{together:?}");
    assert_eq!(three["usage"]["prompt_tokens"], alone["usage"]["prompt_tokens"]);
    assert_eq!(three["choices"][2]["index"], 2);

    let mut streamed = with("n", json!(3));
    streamed["stream"] = json!(true);
    let (_, _, bytes) = call(&router, "POST", CHAT, streamed.to_string()).await;
    let events = events(&bytes);
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    let mut streamed = vec![String::new(); 3];
    for event in events.iter().filter_map(|event| serde_json::from_str::<Value>(event).ok()) {
        let choice = &event["choices"][0];
        let index = choice["index"].as_u64().expect("an index") as usize;
        streamed[index] += choice["delta"]["content"].as_str().unwrap_or_default();
    }
    assert_eq!(streamed, together);

    let prompts =
        json!({"model": "ember", "prompt": ["One two", "Three four"], "n": 2, "seed": 1, "max_tokens": 5});
    let (status, answer) = post(&router, "/v1/completions", prompts).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["choices"].as_array().map(Vec::len), Some(4));
}

#[tokio::test]
async fn likelihoods_come_with_every_token_in_both_shapes() {
    let (_, router) = ember(ApiOptions::default()).await;
    let options = json!({"logprobs": true, "top_logprobs": 3, "temperature": 0, "max_tokens": 12});
    let (_, answer) = post(&router, CHAT, ask(options.clone())).await;
    let content = answer["choices"][0]["logprobs"]["content"].as_array().expect("a list").clone();
    let text: String = content.iter().map(|entry| entry["token"].as_str().expect("text")).collect();
    assert_eq!(text, answer["choices"][0]["message"]["content"].as_str().expect("text"));
    for entry in &content {
        let top = entry["top_logprobs"].as_array().expect("a list");
        assert_eq!((top.len(), &top[0]["token"]), (3, &entry["token"]), "greedy takes the likeliest");
        let sum: f64 = top.iter().map(|t| t["logprob"].as_f64().expect("a number").exp()).sum();
        assert!(sum > 0.0 && sum <= 1.0 + 1e-5, "{entry}");
        let bytes: Vec<u8> = serde_json::from_value(entry["bytes"].clone()).expect("bytes");
        assert_eq!(String::from_utf8_lossy(&bytes), entry["token"].as_str().expect("text"));
    }
    let mut streamed = ask(options);
    streamed["stream"] = json!(true);
    let (_, _, bytes) = call(&router, "POST", CHAT, streamed.to_string()).await;
    let chunks = events(&bytes).into_iter().filter_map(|event| serde_json::from_str::<Value>(&event).ok());
    let entries =
        chunks.flat_map(|c| c["choices"][0]["logprobs"]["content"].as_array().cloned().unwrap_or_default());
    assert_eq!(entries.collect::<Vec<_>>(), content);

    let body =
        json!({"model": "ember", "prompt": "One, two,", "max_tokens": 4, "logprobs": 2, "temperature": 0});
    let (_, answer) = post(&router, "/v1/completions", body).await;
    let columns = &answer["choices"][0]["logprobs"];
    for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(columns[name].as_array().map(Vec::len), Some(4), "{columns}");
    }
    let biased =
        ask(json!({"temperature": 0, "max_tokens": 3, "logit_bias": {"300": 100}, "logprobs": true}));
    let (_, answer) = post(&router, CHAT, biased).await;
    let content = answer["choices"][0]["logprobs"]["content"].as_array().expect("a list").clone();
    assert!(
        content.iter().all(|entry| entry["token"] == content[0]["token"]),
        "the bias decides: {content:?}"
    );
    let (status, answer) = post(&router, CHAT, ask(json!({"logit_bias": {"99999999": 1}}))).await;
    assert_eq!((status.as_u16(), answer["error"]["code"].as_str()), (400, Some("unknown_token")));
}

/// What the schema below describes.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Card {
    title: String,
    pages: u8,
    kind: Kind,
    authors: Vec<Author>,
    #[serde(default)]
    note: Option<String>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Book,
    Film,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Author {
    name: String,
    #[allow(dead_code, reason = "reading it is the check")]
    alive: bool,
}

fn card() -> Value {
    json!({"type": "object", "additionalProperties": false, "required": ["title", "pages", "kind", "authors"],
        "properties": {
            "title": {"type": "string", "minLength": 1, "maxLength": 12},
            "pages": {"type": "integer", "minimum": 1, "maximum": 200},
            "kind": {"enum": ["book", "film"]},
            "authors": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"$ref": "#/$defs/author"}},
            "note": {"anyOf": [{"type": "string", "maxLength": 8}, {"type": "null"}]}},
        "$defs": {"author": {"type": "object", "additionalProperties": false, "required": ["name", "alive"],
            "properties": {"name": {"type": "string", "maxLength": 8}, "alive": {"type": "boolean"}}}}})
}

fn as_card(text: &str) {
    let card: Card = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert!((1..=12).contains(&card.title.chars().count()) && (1..=200).contains(&card.pages), "{text}");
    assert!((1..=2).contains(&card.authors.len()) && matches!(card.kind, Kind::Book | Kind::Film), "{text}");
    assert!(card.authors.iter().all(|author| author.name.chars().count() <= 8), "{text}");
    assert!(card.note.is_none_or(|note| note.chars().count() <= 8), "{text}");
    assert!(text.ends_with('}'), "nothing follows the object: {text}");
}

#[tokio::test]
async fn an_answer_of_a_schema_always_parses_and_validates() {
    let (engine, router) = ember(ApiOptions::default()).await;
    let format =
        json!({"type": "json_schema", "json_schema": {"name": "card", "strict": true, "schema": card()}});
    for seed in 0..10 {
        let temperature = [0.0, 0.7, 1.5][seed % 3];
        let options =
            json!({"response_format": format, "seed": seed, "temperature": temperature, "max_tokens": 400});
        let (status, answer) = post(&router, CHAT, ask(options)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
        as_card(answer["choices"][0]["message"]["content"].as_str().expect("text"));
    }
    // Streamed, several at once, each as it would be alone.
    let options = json!({"response_format": format, "n": 2, "stream": true, "max_tokens": 400});
    let (_, _, bytes) = call(&router, "POST", CHAT, ask(options).to_string()).await;
    let mut texts = [String::new(), String::new()];
    for event in events(&bytes).iter().filter_map(|event| serde_json::from_str::<Value>(event).ok()) {
        let choice = &event["choices"][0];
        texts[choice["index"].as_u64().expect("an index") as usize] +=
            choice["delta"]["content"].as_str().unwrap_or_default();
    }
    texts.iter().for_each(|text| as_card(text));
    assert_eq!(engine.status(0).counters.requests_failed, 0);
}

#[tokio::test]
async fn a_form_holds_beside_stop_strings_limits_and_reasoning() {
    let (_, router) = ember(ApiOptions::default()).await;
    let schema = json!({"type": "object", "properties": {"text": {"type": "string", "minLength": 200}}, "required": ["text"]});
    let form = json!({"structured_outputs": {"json": schema}, "max_tokens": 9});
    let (_, answer) = post(&router, CHAT, ask(form)).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "length", "{answer}");
    assert_eq!(answer["usage"]["completion_tokens"], 9);

    let stop = json!({"guided_regex": "\\{ab\\}(cd)+", "stop": ["cd"]});
    let (_, answer) = post(&router, CHAT, ask(stop)).await;
    let choice = &answer["choices"][0];
    assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&json!("{ab}"), &json!("stop")));

    let early = json!({"guided_choice": ["yes", "no"], "min_tokens": 30, "ignore_eos": true});
    let (_, answer) = post(&router, CHAT, ask(early)).await;
    let content = answer["choices"][0]["message"]["content"].as_str().expect("text");
    assert!(content == "yes" || content == "no", "{answer}");

    for seed in 0..4 {
        let thinking =
            json!({"guided_choice": ["yes", "no"], "enable_thinking": true, "max_tokens": 300, "seed": seed});
        let (_, answer) = post(&router, CHAT, ask(thinking)).await;
        let choice = &answer["choices"][0];
        let content = choice["message"]["content"].as_str().expect("text");
        // A model that thinks until its limit has not answered.
        let answered = content == "yes" || content == "no";
        assert!(answered || (choice["finish_reason"] == "length" && content.is_empty()), "{answer}");
    }
    let body =
        json!({"model": "ember", "prompt": "Code:", "guided_regex": "^[A-Z]{3}-[0-9]{2}$", "max_tokens": 30});
    let (_, answer) = post(&router, "/v1/completions", body).await;
    let text = answer["choices"][0]["text"].as_str().expect("text").as_bytes();
    let shaped = text.len() == 6
        && text[..3].iter().all(u8::is_ascii_uppercase)
        && text[4..].iter().all(u8::is_ascii_digit);
    assert!(shaped, "{answer}");
}

#[tokio::test]
async fn a_call_that_must_be_made_is_made_and_a_strict_one_follows_its_schema() {
    let (_, router) = ember(ApiOptions::default()).await;
    let tool = |name: &str, strict: bool| {
        json!({"type": "function", "function": {"name": name, "strict": strict, "parameters": {
            "type": "object", "additionalProperties": false, "required": ["city", "days", "unit"], "properties": {
                "city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 9},
                "unit": {"type": "string", "enum": ["c", "f"]}, "where": {"$ref": "#/$defs/place"}},
            "$defs": {"place": {"type": "object", "additionalProperties": false, "required": ["x"],
                "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 99}}}}}}})
    };
    let tools = json!([tool("weather", true), tool("forecast", false)]);
    for (choice, names) in [
        (json!("required"), &["weather", "forecast"][..]),
        (json!({"type": "function", "function": {"name": "forecast"}}), &["forecast"][..]),
    ] {
        for seed in 0..4 {
            let options = json!({"tools": tools, "tool_choice": choice, "parallel_tool_calls": false, "seed": seed,
                "max_tokens": 300, "temperature": 0.8});
            let (status, answer) = post(&router, CHAT, ask(options)).await;
            assert_eq!(status, StatusCode::OK, "{answer}");
            let found = &answer["choices"][0];
            if found["finish_reason"] == "length" {
                // A string has no bound, so a small model may fill its limit with one.
                continue;
            }
            assert_eq!(found["finish_reason"], "tool_calls", "{answer}");
            let calls = found["message"]["tool_calls"].as_array().expect("calls");
            assert_eq!(calls.len(), 1, "{answer}");
            let function = &calls[0]["function"];
            assert!(names.contains(&function["name"].as_str().expect("a name")), "{answer}");
            let arguments: Value =
                serde_json::from_str(function["arguments"].as_str().expect("text")).expect("JSON");
            assert!(arguments["city"].is_string(), "{arguments}");
            assert!(arguments["days"].as_i64().is_some_and(|days| (1..=9).contains(&days)), "{arguments}");
            assert!(arguments["unit"] == "c" || arguments["unit"] == "f", "{arguments}");
            let place = arguments.get("where");
            assert!(
                place.is_none_or(|p| p["x"].as_i64().is_some_and(|x| (0..=99).contains(&x))),
                "{arguments}"
            );
        }
    }
    let strict = json!({"tools": [{"type": "function", "function": {"name": "f", "strict": true, "parameters": {
        "type": "object", "properties": {"a": {"type": "string", "pattern": "x+"}}}}}]});
    let (status, answer) = post(&router, CHAT, ask(strict)).await;
    assert_eq!((status.as_u16(), answer["error"]["param"].as_str()), (400, Some("tools")), "{answer}");
}

#[tokio::test]
async fn a_form_that_cannot_be_followed_is_refused_before_any_work() {
    let (engine, router) = ember(ApiOptions::default()).await;
    let schema = |schema: Value| json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}});
    let large = json!({"enum": (0..40_000).map(|i| format!("value {i}")).collect::<Vec<_>>()});
    for (options, code, param) in [
        (schema(json!({"type": "strange"})), "invalid_grammar", "response_format.json_schema.schema"),
        (schema(json!({"$ref": "#/missing"})), "invalid_grammar", "response_format.json_schema.schema"),
        (schema(large), "grammar_too_large", "response_format.json_schema.schema"),
        (json!({"guided_regex": "("}), "invalid_grammar", "guided_regex"),
        (json!({"guided_grammar": "start: nothing"}), "invalid_grammar", "guided_grammar"),
        (json!({"response_format": {"type": "yaml"}}), "invalid_value", "response_format.type"),
        (json!({"tool_choice": "required"}), "invalid_value", "tool_choice"),
    ] {
        let (status, answer) = post(&router, CHAT, ask(options)).await;
        let error = &answer["error"];
        assert_eq!((status.as_u16(), error["code"].as_str()), (400, Some(code)), "{answer}");
        assert_eq!(error["param"].as_str(), Some(param), "{answer}");
    }
    let counters = engine.status(0).counters;
    assert_eq!((counters.steps, counters.requests_refused), (0, 7));
}

#[tokio::test]
async fn a_body_that_is_dropped_cancels_its_request() {
    let (engine, router) = ember(ApiOptions::default()).await;
    let body =
        json!({"model": "ember", "prompt": "a", "max_tokens": 1000, "ignore_eos": true, "stream": true});
    let request = Request::post("/v1/completions")
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .expect("a request");
    let mut stream = router.oneshot(request).await.expect("the router never fails").into_body();
    assert!(stream.frame().await.is_some());
    drop(stream);
    while engine.status(0).counters.requests_cancelled == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let status = engine.status(0);
    assert_eq!((status.running, status.memory.map(|m| m.kv_used)), (0, Some(0.0)));
    assert!(status.finished[0].output_tokens < 1000);
}

#[tokio::test]
async fn routes_that_are_not_there_answer_in_json_and_control_is_for_the_appliance() {
    let (_, router) = ember(ApiOptions::default()).await;
    for (method, path, status, code) in [
        ("GET", "/v1/nothing", 404, "unknown_url"),
        ("POST", "/control/drain", 404, "unknown_url"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/models/a/b", 404, "model_not_found"),
    ] {
        let (found, _, bytes) = call(&router, method, path, "").await;
        let body: Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!((found.as_u16(), body["error"]["code"].as_str()), (status, Some(code)), "{method} {path}");
    }
}

#[tokio::test]
async fn a_web_page_that_calls_itself_local_is_refused() {
    let (_, router) = ember(ApiOptions { local_only: true, ..ApiOptions::default() }).await;
    for (host, status) in [
        ("127.0.0.1:8000", 200),
        ("LOCALHOST", 200),
        ("[::1]:8000", 200),
        ("evil.example:8000", 403),
        ("127.0.0.1.evil.example", 403),
    ] {
        let request = Request::get("/v1/models").header("host", host).body(Body::empty()).expect("a request");
        let response = router.clone().oneshot(request).await.expect("the router never fails");
        assert_eq!(response.status().as_u16(), status, "{host}");
    }
}

#[tokio::test]
async fn while_the_model_loads_the_front_says_so_and_asks_to_come_back() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let request = load_ember();
    let load = move |board: &_| {
        wait.recv().expect("the test says when");
        hearth_engine::load(&request, board)
    };
    let engine = Engine::start(load, 8).expect("starts");
    let router = router(engine.clone(), ApiOptions::default());
    let (status, headers, bytes) = call(&router, "POST", "/v1/chat/completions", "{}").await;
    let body: Value = serde_json::from_slice(&bytes).expect("JSON");
    assert_eq!((status.as_u16(), body["error"]["code"].as_str()), (503, Some("model_loading")));
    assert!(headers.contains_key("retry-after"));
    let health: Value = serde_json::from_slice(&call(&router, "GET", "/health", "").await.2).expect("JSON");
    assert_eq!((health["status"].as_str(), health["ready"].as_bool()), (Some("alive"), Some(false)));
    go.send(()).expect("the engine waits");
    ready(&engine).await;
    assert_eq!(call(&router, "GET", "/v1/models", "").await.0, StatusCode::OK);
}

/// Writes the token 300 until position 6, then does what the test wants.
struct Until<F>(F, OnHost);

impl<F: FnMut() -> Result<(), String>> Runner for Until<F> {
    fn limits(&self) -> Limits {
        Limits {
            context: 64,
            slots: 2,
            states: 2,
            max_rows: 8,
            decode_rows: None,
            page_len: 8,
            pages: 16,
            mtp: false,
            exact: false,
            ahead: false,
        }
    }

    fn run(&mut self, pass: &hearth_kernels::ops::Pass, _: &[u32], want: &[u32]) -> Result<(), String> {
        if pass.segments[0].position == 6 {
            (self.0)()?;
        }
        let logits = (0..2048).map(|id| if id == 300 { 1.0 } else { 0.0 }).collect();
        self.1.keep(vec![logits; want.len()]);
        Ok(())
    }

    fn draft(
        &mut self,
        _: &hearth_kernels::ops::Pass,
        _: &[u32],
        _: hearth_model::Seed<'_>,
        _: &[u32],
    ) -> Result<(), String> {
        Err("there is no MTP head".into())
    }

    fn sample(
        &mut self,
        tokens: usize,
        rows: &[Option<hearth_kernels::sample::SampleRow<'_>>],
    ) -> Result<Sampled, String> {
        Ok(self.1.sample(tokens, rows))
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

/// An engine with ember's vocabulary and no model.
async fn until(then: impl FnMut() -> Result<(), String> + Send + 'static) -> Engine {
    let load = move |_: &_| {
        let json = include_bytes!("../../../assets/ember/model/tokenizer.json");
        let tokenizer = Tokenizer::read(json, &json!({}), None, None).map_err(|e| e.fault())?;
        let served = Served {
            id: "until".into(),
            aliases: Vec::new(),
            tokenizer: Arc::new(tokenizer),
            chat_template: None,
            tokenizer_config: None,
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            created: 0,
        };
        Ok(Loaded {
            runner: Until(then, OnHost::default()),
            depth: Depth::Auto,
            policy: Policy::Slo,
            patience: Duration::from_secs(600),
            disk: None,
            served,
        })
    };
    let engine = Engine::start(load, 8).expect("starts");
    ready(&engine).await;
    engine
}

fn twenty_tokens(stream: bool) -> Value {
    json!({"model": "until", "prompt": [1, 2], "max_tokens": 20, "stream": stream})
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_says_that_it_is_alive() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let engine = until(move || wait.recv().map_err(|e| e.to_string())).await;
    let request = Request::post("/v1/completions")
        .header("content-type", "application/json")
        .body(Body::from(twenty_tokens(true).to_string()))
        .expect("a request");
    let router = router(engine, ApiOptions::default());
    let mut stream = router.oneshot(request).await.expect("the router never fails").into_body();
    // The clock is the test's: it leaps on whenever everything waits, and the engine waits for us.
    loop {
        let frame = stream.frame().await.expect("the stream goes on").expect("without errors");
        let data = frame.into_data().expect("data");
        if data.starts_with(b":") {
            break;
        }
    }
    go.send(()).expect("the engine waits");
    let rest = stream.collect().await.expect("the body comes").to_bytes();
    assert_eq!(events(&rest).last().map(String::as_str), Some("[DONE]"));
}

#[tokio::test]
async fn a_stream_that_breaks_ends_with_an_error_event_and_a_whole_answer_with_500() {
    for (panics, code) in [(false, "step_failed"), (true, "engine_stopped")] {
        let engine = until(move || {
            assert!(!panics, "broken on purpose");
            Err("broken on purpose".into())
        })
        .await;
        let router = router(engine.clone(), ApiOptions::default());
        if !panics {
            let (status, answer) = post(&router, "/v1/completions", twenty_tokens(false)).await;
            assert_eq!((status.as_u16(), answer["error"]["code"].as_str()), (500, Some(code)));
        }
        let (status, _, bytes) =
            call(&router, "POST", "/v1/completions", twenty_tokens(true).to_string()).await;
        assert_eq!(status, StatusCode::OK);
        let events = events(&bytes);
        let last: Value = serde_json::from_str(events.last().expect("events")).expect("no [DONE]");
        assert_eq!(last["error"]["code"], code);
        assert!(events.len() > 2, "some text came before");
        if panics {
            engine.ended().await;
        }
        let chat = json!({"model": "until", "messages": [{"role": "user", "content": "x"}]});
        let (status, answer) = post(&router, "/v1/chat/completions", chat).await;
        let expected = if panics { (503, "engine_stopped") } else { (400, "no_chat_template") };
        assert_eq!((status.as_u16(), answer["error"]["code"].as_str()), (expected.0, Some(expected.1)));
    }
}
