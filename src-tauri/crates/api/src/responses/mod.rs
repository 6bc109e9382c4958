//! `POST /v1/responses`: OpenAI's newer API. Nothing is stored: a client sends the whole conversation each time.

mod input;
mod writer;

use axum::{Extension, body::Body, extract::State, http::HeaderMap, response::Response};
use hearth_engine::status::RequestKind;
use serde_json::{Map, Value, json};

use crate::{
    ApiError,
    app::{App, RequestId},
    ask::{Asked, Conversation, ask},
    fields::{Fields, brief},
    form::Form,
    generation::Generation,
    identity,
    likelihood::TokenNames,
    messages, stream, tool_choice,
    tools::Tools,
};
use writer::ResponseWriter;

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
    refuse_unsupported(&fields)?;
    let own = own_names(&fields)?;
    let generation = Generation::read(&own, RequestKind::Responses, &served.sampling)
        .map_err(blame)?
        .of(identity::account(&headers));
    let messages = messages::read_list(&input::messages(&fields)?, "input")?;
    let tools = input::tools(&fields)?;
    let tools = Tools::read(&tools)?;
    let (tools, choice) = tool_choice::read(fields.get("tool_choice"), tools)?;
    let single = fields.flag("parallel_tool_calls")? == Some(false);
    let form = Form::read(&own).map_err(blame)?;
    let effort = fields.object("reasoning")?.and_then(|reasoning| reasoning.get("effort")).cloned();
    let arguments = arguments(&fields, effort.as_ref())?;
    let conversation = Conversation { messages, tools, choice, single, arguments, form };
    let Asked { answers, mut splitters, .. } =
        ask(&app, id, RequestKind::Responses, conversation, &generation).await.map_err(blame)?;

    let splitter = splitters.pop().expect("one choice has one splitter");
    let names = TokenNames(served.tokenizer.clone());
    let writer = ResponseWriter::new(splitter, names, &generation, echoed(&fields, &generation));
    stream::respond(answers, writer, generation.stream).await
}

/// What would need a memory of earlier responses, or a service behind this one.
fn refuse_unsupported(fields: &Fields) -> Result<(), ApiError> {
    let whole = "Nothing is stored here. Send the whole conversation in 'input'.";
    for (name, instead) in [
        ("previous_response_id", whole),
        ("conversation", whole),
        ("prompt", "Send the text itself in 'input'."),
        ("max_tool_calls", "Leave it out."),
    ] {
        if fields.get(name).is_some() {
            return Err(ApiError::unsupported(name, format!("'{name}' is not supported. {instead}")));
        }
    }
    if fields.flag("background")? == Some(true) {
        return Err(ApiError::unsupported(
            "background",
            "'background' is not supported. Wait for the answer.",
        ));
    }
    Ok(())
}

/// The fields that other endpoints have too, by the names they have there.
fn own_names(fields: &Fields) -> Result<Fields, ApiError> {
    let mut own = fields.clone();
    let text = fields.object("text")?;
    for (name, value) in [
        ("max_completion_tokens", fields.get("max_output_tokens")),
        ("response_format", text.and_then(|text| text.get("format")).filter(|format| !format.is_null())),
    ] {
        if let Some(value) = value {
            own.set(name, value.clone());
        }
    }
    // One answer, and alternatives only where the client asks that they be included.
    own.set("n", json!(1));
    let include = fields.get("include").and_then(Value::as_array);
    let wanted = include.is_some_and(|items| items.iter().any(|item| item == "message.output_text.logprobs"));
    own.set("logprobs", json!(wanted));
    if !wanted {
        own.set("top_logprobs", Value::Null);
    }
    Ok(own)
}

/// Errors name the field that this endpoint has.
fn blame(mut error: ApiError) -> ApiError {
    if let Some(param) = &error.param {
        let own = param.replacen("response_format", "text.format", 1);
        let own = if own == "max_completion_tokens" { "max_output_tokens".to_owned() } else { own };
        error.message = error.message.replace(&format!("'{param}"), &format!("'{own}"));
        error.param = Some(if own == "messages" { "input".to_owned() } else { own });
    }
    error
}

/// What the client tells the template.
fn arguments(fields: &Fields, effort: Option<&Value>) -> Result<Map<String, Value>, ApiError> {
    let mut arguments = Map::new();
    if let Some(effort) = effort.filter(|effort| !effort.is_null()) {
        let wrong = || {
            ApiError::value(
                "reasoning.effort",
                format!("'reasoning.effort' must be a string, not {}.", brief(effort)),
            )
        };
        let effort = effort.as_str().ok_or_else(wrong)?;
        arguments.insert("reasoning_effort".into(), Value::from(effort));
        arguments.insert("enable_thinking".into(), Value::from(effort != "none"));
    }
    arguments.extend(fields.object("chat_template_kwargs")?.cloned().unwrap_or_default());
    Ok(arguments)
}

/// The fields of a response that repeat the request.
fn echoed(fields: &Fields, generation: &Generation) -> Map<String, Value> {
    let given = |name: &str, default: Value| fields.get(name).cloned().unwrap_or(default);
    let mut out = Map::new();
    for (name, value) in [
        ("model", given("model", Value::Null)),
        ("instructions", given("instructions", Value::Null)),
        ("max_output_tokens", given("max_output_tokens", Value::Null)),
        ("metadata", given("metadata", json!({}))),
        ("parallel_tool_calls", given("parallel_tool_calls", json!(true))),
        ("previous_response_id", Value::Null),
        ("reasoning", given("reasoning", json!({"effort": null, "summary": null}))),
        ("store", json!(false)),
        ("temperature", json!(generation.sampling.temperature)),
        ("text", given("text", json!({"format": {"type": "text"}}))),
        ("tool_choice", given("tool_choice", json!("auto"))),
        ("tools", given("tools", json!([]))),
        ("top_p", json!(generation.sampling.top_p)),
        ("truncation", json!("disabled")),
        ("user", given("user", Value::Null)),
    ] {
        out.insert(name.to_owned(), value);
    }
    out
}
