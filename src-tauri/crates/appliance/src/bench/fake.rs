//! An engine for tests: counts words as tokens, knows what it has read before, writes at a pace of its own, and keeps the records that
//! a real one keeps. It speaks HTTP over a Unix socket and over TCP.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response, Sse, sse::Event},
    routing::{get, post},
};
use futures::{StreamExt, stream};
use hearth_engine::status::{
    EngineModel, EnginePhase, EngineStatus, FinishedRequest, RequestEnd, RequestKind, Speculation,
};
use serde_json::{Value, json};

use super::{
    link::{Address, Endpoint},
    suite::tests::engine,
};

/// What it is made of.
pub(super) struct FakeEngine {
    pub folder: tempfile::TempDir,
    pub tcp: SocketAddr,
    state: Shared,
}

#[derive(Clone)]
struct Shared(Arc<Mutex<Inner>>);

struct Inner {
    model: EngineModel,
    /// Milliseconds between two events.
    pace: u64,
    counted: usize,
    read: Vec<String>,
    finished: Vec<FinishedRequest>,
    running: u32,
    /// Requests from here on fail.
    fail_after: Option<usize>,
    asked: usize,
    /// Whoever asks next is followed by a request of somebody else.
    disturb: bool,
}

impl FakeEngine {
    pub async fn start() -> FakeEngine {
        FakeEngine::with(engine(16_384, 4, Some("auto")), 1).await
    }

    pub async fn with(model: EngineModel, pace: u64) -> FakeEngine {
        let folder = tempfile::tempdir().unwrap();
        let inner = Inner {
            model,
            pace,
            counted: 0,
            read: Vec::new(),
            finished: Vec::new(),
            running: 0,
            fail_after: None,
            asked: 0,
            disturb: false,
        };
        let state = Shared(Arc::new(Mutex::new(inner)));
        let router = Router::new()
            .route("/v1/models", get(|| async { Json(json!({ "data": [] })) }))
            .route("/v1/messages/count_tokens", post(count))
            .route("/v1/chat/completions", post(chat))
            .route("/status", get(status))
            .with_state(state.clone());
        let unix = tokio::net::UnixListener::bind(folder.path().join("engine")).unwrap();
        let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let other = router.clone();
        tokio::spawn(async move { axum::serve(unix, router).await });
        tokio::spawn(async move { axum::serve(tcp, other).await });
        FakeEngine { folder, tcp: address, state }
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint { address: Address::Unix(self.folder.path().join("engine")), model: "m".into() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.state.0.lock().unwrap()
    }

    /// How often it was asked to count.
    pub fn counted(&self) -> usize {
        self.lock().counted
    }

    /// How many answers were asked for.
    pub fn asked(&self) -> usize {
        self.lock().asked
    }

    pub fn running(&self) -> u32 {
        self.lock().running
    }

    pub fn serve_somebody_else(&self) {
        self.lock().running = 1;
    }

    pub fn fail_after(&self, requests: usize) {
        self.lock().fail_after = Some(requests);
    }

    pub fn disturb(&self) {
        self.lock().disturb = true;
    }
}

fn text_of(body: &Value) -> String {
    let mut text = body["system"].as_str().unwrap_or_default().to_owned();
    for message in body["messages"].as_array().into_iter().flatten() {
        let calls = message.get("tool_calls").map(Value::to_string).unwrap_or_default();
        text += &format!("\n{} {calls}", message["content"].as_str().unwrap_or_default());
    }
    text
}

fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

async fn count(State(shared): State<Shared>, Json(body): Json<Value>) -> Response {
    let mut inner = shared.0.lock().unwrap();
    inner.counted += 1;
    let tokens = words(&text_of(&body));
    if tokens > inner.model.context as usize {
        let error = json!({ "type": "invalid_request_error", "message": "prompt is too long: far too long" });
        return (StatusCode::BAD_REQUEST, Json(json!({ "type": "error", "error": error }))).into_response();
    }
    Json(json!({ "input_tokens": tokens })).into_response()
}

/// Runs until it is dropped, as a request does whose client goes away.
struct Running(Shared);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().running -= 1;
    }
}

async fn chat(State(shared): State<Shared>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    let text = text_of(&body);
    let id = headers.get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or("none").to_owned();
    let prompt = words(&text);
    let output = body["max_tokens"].as_u64().unwrap_or(16) as usize;
    let (cached, pace, per_event, rounds) = {
        let mut inner = shared.0.lock().unwrap();
        inner.asked += 1;
        if prompt + output > inner.model.context as usize {
            let error = json!({ "message": "too long", "code": "context_length_exceeded" });
            return (StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response();
        }
        let known = inner.read.iter().map(|read| common(read, &text)).max().unwrap_or(0);
        let cached = words(&text[..known]).min(prompt - 1);
        inner.read.push(text.clone());
        let depth = body["mtp_depth"].as_str().map_or(2, |depth| depth.parse().unwrap_or(3));
        let rounds = if depth == 0 { 0 } else { output / (1 + depth.min(3)) };
        inner.running += 1;
        (cached, inner.pace, 1 + depth.min(3), rounds)
    };
    let running = Running(shared.clone());
    let fails = text.contains("@fail") || {
        let inner = shared.0.lock().unwrap();
        inner.fail_after.is_some_and(|after| inner.asked > after)
    };
    let breaks = text.contains("@break");
    let answer = answer(&text);
    let tool = body["tools"].is_array();
    tokio::time::sleep(Duration::from_micros(2 * (prompt - cached) as u64)).await;
    let chunk = |choice: Value| Event::default().data(json!({ "choices": [choice] }).to_string());
    let mut events = vec![chunk(json!({ "delta": { "role": "assistant", "content": "" } }))];
    if fails {
        events.push(
            Event::default()
                .data(json!({ "error": { "message": "It failed.", "code": "step_failed" } }).to_string()),
        );
    }
    let mut left = output;
    while left > 0 && !fails {
        let now = per_event.min(left);
        left -= now;
        let mut delta = json!({ "content": " word" });
        if tool {
            let arguments = if left == 0 { r#"{"path": "a"}"# } else { "" };
            delta = json!({ "tool_calls": [{ "index": 0, "function": { "arguments": arguments } }] });
            if events.len() == 1 {
                delta["tool_calls"][0]["id"] = json!("c1");
                delta["tool_calls"][0]["function"]["name"] = json!("read_file");
            }
        } else if let Some(answer) = &answer {
            delta = json!({ "content": if events.len() == 1 { answer.as_str() } else { "" } });
        }
        events.push(chunk(json!({ "delta": delta, "token_ids": vec![7; now] })));
    }
    if breaks {
        events.truncate(2);
    } else if !fails {
        let usage = json!({ "prompt_tokens": prompt, "completion_tokens": output, "prompt_tokens_details": { "cached_tokens": cached } });
        events.push(Event::default().data(json!({ "choices": [], "usage": usage }).to_string()));
        events.push(Event::default().data("[DONE]"));
    }
    let last = events.len() - 1;
    let record = record(id, prompt, cached, output, rounds);
    let stream = stream::iter(events.into_iter().enumerate()).then(move |(at, event)| {
        let (shared, record, _running) = (shared.clone(), record.clone(), &running);
        async move {
            tokio::time::sleep(Duration::from_millis(pace)).await;
            if at == last {
                let mut inner = shared.0.lock().unwrap();
                let seq = inner.finished.len() as u64 + 1;
                inner.finished.push(FinishedRequest { seq, ..record });
                if std::mem::take(&mut inner.disturb) {
                    let somebodys =
                        FinishedRequest { seq: seq + 1, id: "chat-1".into(), ..inner.finished[0].clone() };
                    inner.finished.push(somebodys);
                }
            }
            Ok::<_, Infallible>(event)
        }
    });
    Sse::new(stream).into_response()
}

/// Bytes that two texts begin with alike, up to a whole word.
fn common(a: &str, b: &str) -> usize {
    let same = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    if same == b.len() { same } else { b[..b.floor_char_boundary(same)].rfind(' ').unwrap_or(0) }
}

/// The numbers that are asked for; this model never errs.
fn answer(text: &str) -> Option<String> {
    let question = text.lines().rev().find(|line| line.contains("code"))?;
    let number_of = |phrase: &str| {
        let rest = &text[text.find(phrase)? + phrase.len()..];
        Some(rest.chars().take_while(char::is_ascii_digit).collect::<String>())
    };
    if let Some(name) = question.split("What is the code of ").nth(1) {
        return number_of(&format!("The code of {} is ", name.split('?').next()?));
    }
    let list = question.split("of the ").skip(1).map(|part| part.split([',', '?']).next().unwrap_or(""));
    let found: Vec<String> =
        list.filter_map(|place| number_of(&format!("The access code of the {place} is "))).collect();
    (!found.is_empty()).then(|| found.join(" "))
}

fn record(id: String, prompt: usize, cached: usize, output: usize, rounds: usize) -> FinishedRequest {
    let rounds = rounds as u64;
    FinishedRequest {
        seq: 0,
        id,
        kind: RequestKind::Chat,
        prompt_tokens: prompt as u32,
        cached_tokens: cached as u32,
        output_tokens: output as u32,
        speculation: Speculation {
            rounds,
            drafted: vec![rounds, rounds],
            accepted: vec![rounds / 2, rounds / 4],
            ..Speculation::default()
        },
        queue_s: 0.0,
        ttft_s: Some(0.1),
        decode_s: Some(1.0),
        finish: RequestEnd::Length,
        error: None,
        started_ms: 0.0,
        ended_ms: 1.0,
    }
}

async fn status(State(shared): State<Shared>, Query(after): Query<Vec<(String, u64)>>) -> Json<EngineStatus> {
    let inner = shared.0.lock().unwrap();
    let after = after.first().map_or(0, |(_, after)| *after);
    Json(EngineStatus {
        phase: EnginePhase::Ready,
        model: Some(inner.model.clone()),
        memory: None,
        prefix_disk: None,
        running: inner.running,
        queued: 0,
        counters: Default::default(),
        active: Vec::new(),
        finished: inner.finished.iter().filter(|request| request.seq > after).cloned().collect(),
        heartbeat_age_ms: 0.0,
        pid: std::process::id(),
        version: "0".into(),
    })
}
