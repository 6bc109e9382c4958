//! The whole front over the built-in model, called in process: no socket, no client package.

mod answers;
mod breaks;
mod door;
mod forms;

use std::time::Duration;

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, Request, StatusCode},
};
use hearth_api::{ApiOptions, router};
use hearth_engine::{Depth, Engine, LoadRequest, policy::Policy, status::EnginePhase};
use hearth_model::KvType;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

const CONTEXT: usize = 1024;

const CHAT: &str = "/v1/chat/completions";

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

fn ask(options: Value) -> Value {
    let mut body = json!({"model": "ember", "messages": [{"role": "user", "content": "Tell me about Hearth."}],
        "max_tokens": 40, "temperature": 1.2, "seed": 5});
    for (name, value) in options.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body
}
