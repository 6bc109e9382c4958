//! One client request carried to the engine: waiting for an engine that is coming, trying again after one that died.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header},
};
use bytes::Bytes;
use hearth_engine::status::{Fault, FinishedRequest, RequestEnd, RequestKind, Speculation};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use tokio::time::timeout_at;

use super::{Limits, refusal::Refusal};
use crate::{
    supervisor::{Ended, Reach, Supervisor, Target, now_ms},
    uds::{self, Link},
};

/// After a broken exchange the engine's end is noticed within this time; if it is not, the engine still lives.
const NOTICE: Duration = Duration::from_secs(2);

/// A client's request, kept whole so that it can be sent again. Dropping it tells the supervisor that a request has gone.
#[derive(Debug)]
pub(crate) struct Call {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub supervisor: Supervisor,
    pub limits: Arc<Limits>,
    /// Exchanges that an engine broke so far.
    broken: u32,
    /// The engine that broke the last one.
    broken_by: Option<u64>,
    /// The engine that was asked last.
    asked: Option<u64>,
    /// Unix milliseconds of arrival.
    started_ms: f64,
}

/// The engine's answer.
pub(crate) enum Answer {
    /// Complete.
    Whole(Response<Full<Bytes>>),
    /// A stream of events; the body comes as long as the link is held.
    Events(Response<Incoming>, Link),
}

impl Drop for Call {
    fn drop(&mut self) {
        self.supervisor.stir();
    }
}

impl Call {
    pub(crate) fn new(
        supervisor: Supervisor,
        limits: Arc<Limits>,
        method: Method,
        uri: Uri,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Call {
        supervisor.stir();
        let headers = passed_on(headers);
        Call {
            method,
            uri,
            headers,
            body,
            supervisor,
            limits,
            broken: 0,
            broken_by: None,
            asked: None,
            started_ms: now_ms(),
        }
    }

    /// Gets an answer, from as many engines as it takes within the limits.
    pub(crate) async fn answer(&mut self) -> Result<Answer, Refusal> {
        loop {
            let target = self.open_target().await.inspect_err(|refusal| self.report_refused(refusal))?;
            self.asked = Some(target.generation);
            match self.attempt(&target).await {
                Ok(answer) => return Ok(answer),
                Err(error) => self.note_broken(&error)?,
            }
        }
    }

    /// Counts an exchange that the engine broke before its first token; refuses when it has been tried often enough, because
    /// the request itself may be what ends the engines.
    pub(crate) fn note_broken(&mut self, error: &dyn std::fmt::Display) -> Result<(), Refusal> {
        tracing::warn!(%error, generation = self.asked, "a request was not answered");
        (self.broken, self.broken_by) = (self.broken + 1, self.asked);
        if self.broken <= self.limits.retries {
            return Ok(());
        }
        self.report_lost(0);
        Err(Refusal::restarted(false))
    }

    /// Tells the history of a request whose engine died after `tokens` events with a token; the engine cannot tell any more.
    pub(crate) fn report_lost(&self, tokens: u32) {
        let fault = Fault::new(
            "engine_restarted",
            "The engine ended while it answered this request.",
            "Send the request again; open the log if it happens often.",
        );
        self.report(RequestEnd::Error, fault, tokens);
    }

    /// Tells the history of a request that no engine has seen.
    pub(crate) fn report_refused(&self, refusal: &Refusal) {
        self.report(RequestEnd::Refused, Fault::new(&refusal.code, &refusal.message, ""), 0);
    }

    fn report(&self, finish: RequestEnd, fault: Fault, tokens: u32) {
        let id = self.headers.get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
        let Some(kind) = RequestKind::of_path(self.uri.path()) else { return };
        let request = FinishedRequest {
            seq: 0,
            id: id.into(),
            kind,
            prompt_tokens: 0,
            cached_tokens: 0,
            speculation: Speculation::default(),
            output_tokens: tokens,
            queue_s: 0.0,
            ttft_s: None,
            decode_s: None,
            finish,
            error: Some(fault),
            started_ms: self.started_ms,
            ended_ms: now_ms(),
        };
        let model = self.supervisor.view().borrow().profile.model.clone();
        self.supervisor.report(Ended { model, request });
    }

    /// The engine to send to, waiting for one that is on its way.
    async fn open_target(&self) -> Result<Target, Refusal> {
        let start = Instant::now();
        let mut view = self.supervisor.view();
        loop {
            let reach = view.borrow_and_update().reach();
            let deadline = match reach {
                Reach::Open(target) if self.broken_by != Some(target.generation) => return Ok(target),
                // It broke the last exchange and is not known to be dead: give the supervisor a moment to notice.
                Reach::Open(target) if start.elapsed() >= NOTICE => return Ok(target),
                Reach::Open(_) => start + NOTICE,
                Reach::Soon => start + self.limits.wait,
                Reach::Shut(fault) => return Err(Refusal::shut(&fault)),
            };
            if timeout_at(deadline.into(), view.changed()).await.is_err()
                && start.elapsed() >= self.limits.wait
            {
                let seconds = self.limits.wait.as_secs();
                let message = format!("The model is still loading after {seconds} s. Try again in a while.");
                return Err(
                    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "engine_loading", message).retry_after(15)
                );
            }
        }
    }

    async fn attempt(&self, target: &Target) -> Result<Answer, uds::LinkError> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        let (response, link) = uds::send(&target.socket, request).await?;
        let kind = response.headers().get(header::CONTENT_TYPE).map(|value| value.as_bytes());
        if kind.is_some_and(|kind| kind.starts_with(b"text/event-stream")) {
            return Ok(Answer::Events(response, link));
        }
        // A whole answer is held until it is complete, so that an engine that dies while it writes can be followed by another.
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, self.limits.answer).collect().await;
        let body = body.map_err(|error| uds::LinkError::Answer(error.to_string()))?.to_bytes();
        if parts.status.is_server_error()
            && let Some(code) = device_fault(&body)
        {
            // The engine ends now; another may answer.
            return Err(uds::LinkError::Answer(code));
        }
        Ok(Answer::Whole(Response::from_parts(parts, Full::new(body))))
    }
}

/// The code of an error body if it says that the engine's device has failed.
pub(crate) fn device_fault(body: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    value["error"]["code"].as_str().filter(|code| hearth_engine::is_device_fault(code)).map(str::to_owned)
}

/// The headers that belong to the message and not to one connection (RFC 9110, 7.6.1).
pub(crate) fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let hop = [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "expect",
        "content-length",
    ];
    let stays = |name: &str| !hop.contains(&name) && !named.iter().any(|n| n == name);
    headers.iter().filter(|(name, _)| stays(name.as_str())).map(|(n, v)| (n.clone(), v.clone())).collect()
}

/// A whole answer as axum's body.
pub(crate) fn whole(response: Response<Full<Bytes>>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    parts.headers = passed_on(&parts.headers);
    Response::from_parts(parts, Body::new(body))
}
