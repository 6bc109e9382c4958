//! Refusals and failures as HTTP answers in OpenAI's shape: `{"error": {message, type, param, code}}`.
//! Every handler returns these; nothing else writes an error body.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use hearth_engine::{EngineError, status::Fault};
use serde_json::{Value, json};

/// An answer that is not what the client hoped for.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// OpenAI's class of error.
    pub kind: &'static str,
    /// Stable code.
    pub code: String,
    /// One or two sentences: what is wrong and what to do.
    pub message: String,
    /// The field at fault.
    pub param: Option<String>,
    /// Seconds after which trying again may help.
    pub retry_after_s: Option<u32>,
    /// True: the engine had taken the request, and has written its end in the history.
    pub taken: bool,
}

/// Left in the extensions of an answer that refuses a request the engine never took.
#[derive(Debug, Clone)]
pub struct Refused(pub Fault);

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, code: &str, message: impl Into<String>) -> ApiError {
        ApiError {
            status,
            kind,
            code: code.to_owned(),
            message: message.into(),
            param: None,
            retry_after_s: None,
            taken: false,
        }
    }

    /// 400: the request as a whole is wrong.
    pub fn invalid(code: &str, message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_request_error", code, message)
    }

    /// 400: the field `param` has a value it cannot have.
    pub fn value(param: &str, message: impl Into<String>) -> ApiError {
        ApiError::invalid("invalid_value", message).with_param(param)
    }

    /// 400: the field `param` asks for something that this engine does not do.
    pub fn unsupported(param: &str, message: impl Into<String>) -> ApiError {
        ApiError::invalid("unsupported_parameter", message).with_param(param)
    }

    /// 401: a key is needed.
    pub fn unauthorized() -> ApiError {
        let message = "Incorrect or missing API key. Send it as 'Authorization: Bearer KEY'.";
        ApiError::new(StatusCode::UNAUTHORIZED, "authentication_error", "invalid_api_key", message)
    }

    /// 403: the request names another host.
    pub fn foreign_host() -> ApiError {
        let message = "This endpoint is for this machine only. Use http://127.0.0.1 or http://localhost as its address.";
        ApiError::new(StatusCode::FORBIDDEN, "invalid_request_error", "foreign_host", message)
    }

    /// 404: no such model.
    pub fn model_not_found(asked: &str, served: &str) -> ApiError {
        let asked: String = asked.chars().take(200).collect();
        let message = format!("The model '{asked}' does not exist here. This engine serves '{served}'.");
        ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", "model_not_found", message)
            .with_param("model")
    }

    /// 404: no such path.
    pub fn unknown_route(method: &str, path: &str) -> ApiError {
        let path: String = path.chars().take(200).collect();
        let message = format!("Unknown request URL: {method} {path}. Endpoints are below /v1.");
        ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", "unknown_url", message)
    }

    /// 405: the path exists, but not for this method.
    pub fn wrong_method(method: &str, path: &str) -> ApiError {
        let message = format!("{method} is not allowed for {path}.");
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", "method_not_allowed", message)
    }

    /// 413: the body is longer than any context.
    pub fn too_large(limit: usize) -> ApiError {
        let message = format!("The request body is larger than {limit} bytes. Send a shorter prompt.");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", "request_too_large", message)
    }

    /// 415: the body is not JSON.
    pub fn not_json(found: &str) -> ApiError {
        let found: String = found.chars().take(100).collect();
        let message = format!("Send the body as 'content-type: application/json', not '{found}'.");
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        ApiError::new(status, "invalid_request_error", "unsupported_media_type", message)
    }

    /// 500: a fault of the engine.
    pub fn failed(fault: &Fault) -> ApiError {
        ApiError {
            taken: true,
            ..ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", &fault.code, fault.to_string())
        }
    }

    /// 500: the engine ended in the middle of an answer.
    pub fn engine_gone() -> ApiError {
        let fault = Fault::new(
            "engine_stopped",
            "The engine stopped before the answer was complete.",
            "Send the request again.",
        );
        ApiError::failed(&fault)
    }

    /// The same error, blaming a field.
    pub fn with_param(mut self, param: &str) -> ApiError {
        self.param = Some(param.to_owned());
        self
    }

    /// The body.
    pub fn body(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}})
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> ApiError {
        let unavailable = |retry| ApiError {
            retry_after_s: Some(retry),
            ..ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "server_error",
                error.code(),
                error.fault().to_string(),
            )
        };
        match &error {
            EngineError::Loading { .. } => unavailable(1),
            EngineError::Draining => unavailable(5),
            EngineError::Stopped { .. } => unavailable(5),
            EngineError::Full { retry_after_s, .. } | EngineError::Busy { retry_after_s, .. } => ApiError {
                retry_after_s: Some(*retry_after_s),
                ..ApiError::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "rate_limit_error",
                    error.code(),
                    error.fault().to_string(),
                )
            },
            EngineError::ContextOverflow { .. }
            | EngineError::EmptyPrompt
            | EngineError::UnknownToken { .. } => ApiError::invalid(error.code(), error.fault().to_string()),
            EngineError::Tokenizer { .. } | EngineError::Step { .. } | EngineError::Load { .. } => {
                ApiError { taken: false, ..ApiError::failed(&error.fault()) }
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if !self.taken {
            let next_step = self.param.map_or_else(String::new, |param| format!("Look at '{param}'."));
            response.extensions_mut().insert(Refused(Fault::new(self.code, self.message, next_step)));
        }
        response
    }
}
