//! `POST /v1/messages` and `/v1/messages/count_tokens`: Anthropic's API, which Claude Code and its like speak.

mod input;
mod writer;

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use hearth_engine::status::RequestKind;
use serde_json::{Map, Value, json};

use crate::{
    ApiError,
    app::{App, RequestId},
    ask::{Asked, Conversation, ask, count},
    fields::Fields,
    form::Form,
    generation::Generation,
    identity, messages, stream,
    tool_choice::{self, ToolChoice},
    tools::Tools,
};
use writer::MessageWriter;

/// Answers one request.
pub async fn handle(
    State(app): State<App>,
    Extension(RequestId(id)): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    answer(app, id.clone(), headers, body).await.unwrap_or_else(|error| refusal(error, &id))
}

/// How many tokens a request's prompt has; nothing is generated.
pub async fn count_tokens(
    State(app): State<App>,
    Extension(RequestId(id)): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let counted = async {
        app.engine().served()?;
        let fields = Fields::read(&headers, body).await?;
        app.model(&fields)?;
        count(&app, &conversation(&fields)?).await.map_err(blame)
    };
    match counted.await {
        Ok(tokens) => Json(json!({"input_tokens": tokens})).into_response(),
        Err(error) => refusal(error, &id),
    }
}

async fn answer(app: App, id: String, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    app.engine().served()?;
    let fields = Fields::read(&headers, body).await?;
    let served = app.model(&fields)?;
    if fields.get("max_tokens").is_none() {
        return Err(ApiError::value("max_tokens", "'max_tokens' is missing."));
    }
    let own = own_names(&fields);
    let generation = Generation::read(&own, RequestKind::Messages, &served.sampling)
        .map_err(blame)?
        .of(identity::account(&headers));
    let conversation = conversation(&fields)?;
    let asked = ask(&app, id.clone(), RequestKind::Messages, conversation, &generation).await;
    let Asked { answers, mut splitters, prompt_tokens } = asked.map_err(blame)?;
    let splitter = splitters.pop().expect("one choice has one splitter");
    let model = fields.text("model")?.unwrap_or_default().to_owned();
    let writer = MessageWriter::new(model, splitter, generation.stream, prompt_tokens, id);
    stream::respond(answers, writer, generation.stream).await
}

fn conversation(fields: &Fields) -> Result<Conversation, ApiError> {
    let messages = messages::read_list(&input::messages(fields)?, "messages")?;
    let tools = Tools::read(&input::tools(fields)?)?;
    let (tools, choice) = tool_choice::read(fields.get("tool_choice"), tools)?;
    let wish = fields.get("tool_choice").and_then(|choice| choice.get("disable_parallel_tool_use"));
    let single = wish.and_then(Value::as_bool).unwrap_or(false);
    let mut arguments = Map::new();
    // Without a word about it this API does not think.
    let thinking = fields.object("thinking")?.and_then(|thinking| thinking.get("type")?.as_str());
    arguments.insert("enable_thinking".into(), json!(matches!(thinking, Some("enabled" | "adaptive"))));
    let output = fields.object("output_config")?.and_then(|config| config.get("format")).cloned();
    let format = fields.get("output_format").cloned().or(output).filter(|format| !format.is_null());
    let form = match format {
        Some(format) if choice != ToolChoice::Required => {
            let mut wanted = Fields::default();
            wanted.set("response_format", format);
            Form::read(&wanted).map_err(blame)?
        }
        _ => None,
    };
    Ok(Conversation { messages, tools, choice, single, arguments, form })
}

/// The fields that other endpoints have too, by the names they have there.
fn own_names(fields: &Fields) -> Fields {
    let mut own = fields.clone();
    if let Some(stop) = fields.get("stop_sequences") {
        own.set("stop", stop.clone());
    }
    own.set("n", json!(1));
    own
}

/// Errors name the field that this endpoint has.
fn blame(mut error: ApiError) -> ApiError {
    let own = match error.param.as_deref() {
        Some("stop") => "stop_sequences",
        Some(param) if param.starts_with("response_format") => "output_format",
        _ => return error,
    };
    let old = error.param.replace(own.to_owned()).unwrap_or_default();
    error.message = error.message.replace(&format!("'{old}"), &format!("'{own}"));
    error
}

/// An error in Anthropic's shape.
pub(super) fn body(error: &ApiError, id: &str) -> Value {
    let kind = match error.status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
        status if status.is_client_error() => "invalid_request_error",
        _ => "api_error",
    };
    // Clients look for these words before they shorten a conversation.
    let lead = if error.code == "context_length_exceeded" { "prompt is too long: " } else { "" };
    json!({"type": "error", "error": {"type": kind, "message": format!("{lead}{}", error.message)}, "request_id": id})
}

/// A refusal in Anthropic's shape, with its status.
pub(crate) fn refusal(error: ApiError, id: &str) -> Response {
    let body = body(&error, id);
    let overloaded = body["error"]["type"] == "overloaded_error";
    let mut response = error.into_response();
    if overloaded && let Ok(status) = StatusCode::from_u16(529) {
        *response.status_mut() = status;
    }
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(axum::http::header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(body.to_string()))
}
