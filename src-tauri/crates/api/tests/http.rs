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
    runner::{Limits, Runner},
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
        kv: KvType::F32,
        exact: false,
        fp4_activations: false,
        chunk: 64,
        mtp_depth: Depth::Auto,
        policy: Policy::Slo,
        patience: Duration::from_secs(600),
        memory_reserve: None,
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
struct Until<F>(F);

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
        }
    }

    fn forward(
        &mut self,
        pass: &hearth_kernels::ops::Pass,
        _: &[u32],
        want: &[u32],
    ) -> Result<Vec<f32>, String> {
        if pass.segments[0].position == 6 {
            (self.0)()?;
        }
        Ok((0..want.len()).flat_map(|_| (0..2048).map(|id| if id == 300 { 1.0 } else { 0.0 })).collect())
    }

    fn draft(
        &mut self,
        _: &hearth_kernels::ops::Pass,
        _: &[u32],
        _: hearth_model::Seed<'_>,
        _: &[u32],
    ) -> Result<Vec<f32>, String> {
        Err("there is no MTP head".into())
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
            runner: Until(then),
            depth: Depth::Auto,
            policy: Policy::Slo,
            patience: Duration::from_secs(600),
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
