//! Answers the gateway gives by itself, in the shape OpenAI's clients understand.

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
};
use bytes::Bytes;
use hearth_engine::status::Fault;
use serde_json::{Value, json};

/// A refusal: HTTP status, and what goes into the error object.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub status: StatusCode,
    pub code: String,
    pub message: String,
    /// Seconds after which another try makes sense.
    pub retry_after: Option<u32>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Refusal {
        Refusal { status, code: code.into(), message: message.into(), retry_after: None }
    }

    pub(crate) fn retry_after(mut self, seconds: u32) -> Refusal {
        self.retry_after = Some(seconds);
        self
    }

    /// No engine, and none is coming.
    pub(crate) fn shut(fault: &Fault) -> Refusal {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, &fault.code, fault.to_string()).retry_after(10)
    }

    /// The engine ended under a request that could not be tried again.
    pub(crate) fn restarted(started: bool) -> Refusal {
        let message = match started {
            true => {
                "The engine ended in the middle of this answer and is started again. Send the request again."
            }
            false => {
                "The engine ended each time this request was tried. Send it again, or open Hearth's log if it keeps happening."
            }
        };
        Refusal::new(StatusCode::BAD_GATEWAY, "engine_restarted", message).retry_after(2)
    }

    fn object(&self) -> Value {
        let kind = if self.status.is_client_error() { "invalid_request_error" } else { "server_error" };
        json!({ "error": { "message": self.message, "type": kind, "param": null, "code": self.code } })
    }

    /// As the last event of a stream whose head was already sent.
    pub(crate) fn event(&self) -> Bytes {
        Bytes::from(format!("data: {}\n\n", self.object()))
    }

    /// As a whole answer.
    pub(crate) fn response(&self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.object().to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
