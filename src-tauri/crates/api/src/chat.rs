//! `POST /v1/chat/completions`: a conversation, rendered by the model's template, answered as reasoning, text and calls.

use axum::{Extension, body::Body, extract::State, http::HeaderMap, response::Response};
use hearth_engine::status::RequestKind;
use serde_json::{Map, Value};

use crate::{
    ApiError,
    app::{App, RequestId},
    ask::{Asked, Conversation, ask},
    chat_writer::ChatWriter,
    fields::Fields,
    form::Form,
    generation::Generation,
    identity,
    likelihood::TokenNames,
    messages, stream, tool_choice,
    tools::Tools,
};

/// Answers one request.
pub async fn handle(
    State(app): State<App>,
    Extension(RequestId(id)): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    app.engine().served()?;
    let fields = Fields::read(&headers, body).await?;
    let served = app.model(&fields)?;
    let generation =
        Generation::read(&fields, RequestKind::Chat, &served.sampling)?.of(identity::account(&headers));
    let messages = messages::read(&fields)?;
    let tools = fields.get("tools").map(Tools::read).transpose()?.unwrap_or_default();
    let (tools, choice) = tool_choice::read(fields.get("tool_choice"), tools)?;
    let single = fields.flag("parallel_tool_calls")? == Some(false);
    let (form, arguments) = (Form::read(&fields)?, template_arguments(&fields)?);
    let conversation = Conversation { messages, tools, choice, single, arguments, form };
    let Asked { answers, splitters, .. } =
        ask(&app, id, RequestKind::Chat, conversation, &generation).await?;

    let model = fields.text("model")?.unwrap_or_default().to_owned();
    let names = TokenNames(served.tokenizer.clone());
    let writer = ChatWriter::new(model, splitters, names, &generation);
    stream::respond(answers, writer, generation.stream).await
}

/// What the client tells the template: `chat_template_kwargs`, and the names other servers have for thinking.
fn template_arguments(fields: &Fields) -> Result<Map<String, Value>, ApiError> {
    let mut arguments = Map::new();
    if let Some(effort) = fields.text("reasoning_effort")? {
        arguments.insert("reasoning_effort".into(), Value::from(effort));
        if effort == "none" {
            arguments.insert("enable_thinking".into(), Value::from(false));
        }
    }
    match fields.object("thinking")?.and_then(|t| t.get("type")).and_then(Value::as_str) {
        Some("enabled") => _ = arguments.insert("enable_thinking".into(), Value::from(true)),
        Some("disabled") => _ = arguments.insert("enable_thinking".into(), Value::from(false)),
        _ => {}
    }
    if let Some(enable) = fields.flag("enable_thinking")? {
        arguments.insert("enable_thinking".into(), Value::from(enable));
    }
    arguments.extend(fields.object("chat_template_kwargs")?.cloned().unwrap_or_default());
    Ok(arguments)
}
