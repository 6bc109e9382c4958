//! Who is let in and when: unknown routes, foreign hosts, a model that still loads, a caller who leaves.

use std::time::Duration;

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use hearth_api::{ApiOptions, router};
use hearth_engine::Engine;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{call, ember, load_ember, ready};

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
