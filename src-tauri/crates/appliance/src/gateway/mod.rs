//! The public port's `/v1/*`, `/health` and `/metrics`, in front of an engine that may come and go. Mounted by `serve`.

mod events;
mod exchange;
mod refusal;
mod relay;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, HttpBody},
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header},
    response::IntoResponse,
    routing::{any, get},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

pub(crate) use self::events::Splitter;
use self::{
    exchange::{Answer, Call, whole},
    refusal::Refusal,
};
use crate::supervisor::{Life, Reach, Supervisor};

/// Bounds of the gateway.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// A request waits this long for an engine that is loading or restarting.
    pub wait: Duration,
    /// Further engines a request is given to when engines die under it.
    pub retries: u32,
    /// Largest request body, bytes.
    pub body: usize,
    /// Largest answer that is not a stream, bytes.
    pub answer: usize,
    /// Requests held at once, waiting ones included.
    pub requests: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { wait: Duration::from_secs(60), retries: 2, body: 32 << 20, answer: 256 << 20, requests: 512 }
    }
}

#[derive(Clone)]
pub(crate) struct Gateway {
    supervisor: Supervisor,
    limits: Arc<Limits>,
    places: Arc<Semaphore>,
    started: Arc<AtomicU64>,
}

impl Gateway {
    pub(crate) fn new(supervisor: Supervisor, limits: Limits) -> Gateway {
        let places = Arc::new(Semaphore::new(limits.requests));
        Gateway { supervisor, limits: Arc::new(limits), places, started: Arc::default() }
    }

    /// The routes that clients use.
    pub(crate) fn routes(self) -> Router {
        Router::new()
            .route("/v1/models", get(models))
            .route("/v1/models/{*id}", get(model))
            .route("/v1/{*path}", any(forward))
            .route("/health", get(health))
            .route("/metrics", get(metrics))
            .with_state(self)
    }

    fn call(&self, method: Method, uri: Uri, headers: &HeaderMap, body: Bytes) -> Call {
        Call::new(self.supervisor.clone(), self.limits.clone(), method, uri, headers, body)
    }

    fn is_open(&self) -> bool {
        matches!(self.supervisor.view().borrow().reach(), Reach::Open(_))
    }
}

/// Anything under /v1: read whole, carried to the engine, answered whole or as a stream.
async fn forward(State(gateway): State<Gateway>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let mut headers = parts.headers;
    headers.entry("x-request-id").or_insert_with(request_id);
    let mut call = gateway.call(parts.method, parts.uri, &headers, Bytes::new());
    let refuse = |call: &Call, refusal: Refusal| {
        call.report_refused(&refusal);
        refusal.response()
    };
    let Ok(_place) = gateway.places.clone().try_acquire_owned() else {
        let message =
            format!("More than {} requests are waiting. Try again in a moment.", gateway.limits.requests);
        let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message);
        return refuse(&call, refusal.retry_after(1));
    };
    gateway.started.fetch_add(1, Ordering::Relaxed);
    let too_large = || {
        let message =
            format!("The request body is larger than {} bytes. Send a smaller one.", gateway.limits.body);
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
    };
    // By the announced length first: nobody should have to send what will be refused.
    if body.size_hint().lower() > gateway.limits.body as u64 {
        return refuse(&call, too_large());
    }
    call.body = match Limited::new(body, gateway.limits.body).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            return refuse(&call, too_large());
        }
        Err(error) => {
            let message = format!("The request body could not be read: {error}. Send it again.");
            return refuse(&call, Refusal::new(StatusCode::BAD_REQUEST, "unreadable_body", message));
        }
    };
    match call.answer().await {
        Ok(Answer::Whole(response)) => whole(response),
        Ok(Answer::Events(response, link)) => relay::relay(call, response, link),
        Err(refusal) => refusal.response(),
    }
}

/// A name for a request that came without one: the same one on every attempt, so that logs and history agree.
fn request_id() -> HeaderValue {
    let mut bits = [0u8; 12];
    let _ = getrandom::fill(&mut bits);
    let hex: String = bits.iter().map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::from_str(&format!("req-{hex}")).expect("letters and digits are a header value")
}

/// With an engine, its list; without one, the model that would be started, so that a client can be set up at any time.
async fn models(State(gateway): State<Gateway>, request: Request) -> Response<Body> {
    if gateway.is_open() {
        return forward(State(gateway), request).await;
    }
    Json(json!({ "object": "list", "data": [configured(&gateway)] })).into_response()
}

async fn model(State(gateway): State<Gateway>, Path(id): Path<String>, request: Request) -> Response<Body> {
    if gateway.is_open() {
        return forward(State(gateway), request).await;
    }
    let model = configured(&gateway);
    if model["id"] == id.as_str() {
        return Json(model).into_response();
    }
    let message = format!("The model {id:?} does not exist here; this endpoint serves {}.", model["id"]);
    Refusal::new(StatusCode::NOT_FOUND, "model_not_found", message).response()
}

fn configured(gateway: &Gateway) -> Value {
    let model = gateway.supervisor.view().borrow().profile.model.clone();
    // A folder is served under its own name, without the way to it.
    let id = match model.strip_suffix('/').unwrap_or(&model) {
        path if path.starts_with(['/', '.', '~']) => path.rsplit('/').next().unwrap_or(path).to_owned(),
        id => id.to_owned(),
    };
    json!({ "id": id, "object": "model", "created": 0, "owned_by": "hearth" })
}

/// Alive is the appliance's word; ready and heartbeat are the engine's.
async fn health(State(gateway): State<Gateway>) -> Json<Value> {
    let view = gateway.supervisor.view();
    let view = view.borrow();
    let engine = match view.life {
        Life::Stopped => "stopped",
        Life::Loading { .. } => "loading",
        Life::Serving { .. } => "serving",
        Life::Stopping { .. } => "stopping",
        Life::Restarting { .. } => "restarting",
        Life::Failed { .. } => "error",
    };
    let ready = matches!(view.reach(), Reach::Open(_));
    let heartbeat = view.status.as_ref().map(|status| status.heartbeat_age_ms);
    Json(json!({ "status": "alive", "ready": ready, "engine": engine, "heartbeat_age_ms": heartbeat }))
}

/// The appliance's own counters, then the engine's.
async fn metrics(State(gateway): State<Gateway>, uri: Uri) -> Response<Body> {
    let (ready, crashes, device_faults) = {
        let view = gateway.supervisor.view();
        let view = view.borrow();
        (matches!(view.reach(), Reach::Open(_)), view.crashes, view.device_faults)
    };
    let started = gateway.started.load(Ordering::Relaxed);
    let mut text = format!(
        "# HELP hearth_engine_ready 1 while an engine answers requests.\n# TYPE hearth_engine_ready gauge\n\
         hearth_engine_ready {}\n\
         # HELP hearth_engine_crashes_total Engines that ended by themselves.\n\
         # TYPE hearth_engine_crashes_total counter\nhearth_engine_crashes_total {crashes}\n\
         # HELP hearth_device_faults_total Engines that ended because the GPU failed.\n\
         # TYPE hearth_device_faults_total counter\nhearth_device_faults_total {device_faults}\n\
         # HELP hearth_gateway_requests_total Requests that reached the public port.\n\
         # TYPE hearth_gateway_requests_total counter\nhearth_gateway_requests_total {started}\n",
        u8::from(ready)
    );
    if ready
        && let Ok(Answer::Whole(response)) =
            gateway.call(Method::GET, uri, &HeaderMap::new(), Bytes::new()).answer().await
        && response.status().is_success()
        && let Ok(body) = response.into_body().collect().await
    {
        text.push_str(&String::from_utf8_lossy(&body.to_bytes()));
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
