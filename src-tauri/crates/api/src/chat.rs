//! `POST /v1/chat/completions`: a conversation, rendered by the model's template, answered as reasoning, text and calls.

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use hearth_engine::{Event, Request, status::RequestKind};
use serde_json::{Map, Value};

use crate::{
    ApiError,
    app::{App, RequestId},
    chat_writer::{ChatWriter, Message},
    fields::{Fields, brief},
    generation::Generation,
    identity, messages,
    parts::Splitter,
    seam, stream,
    template::ChatTemplate,
    tools::Tools,
};

const THINK: &str = "<think>";
const THINK_END: &str = "</think>";

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
    let generation = Generation::read(&fields, &served.sampling)?;
    let mut conversation = messages::read(&fields)?;
    let tools = tools(&fields)?;
    let mut offered = tools.values().to_vec();
    let seam = seam::cut(served.tokenizer.specials(), conversation.iter_mut().chain(&mut offered));
    let single = fields.flag("parallel_tool_calls")? == Some(false);
    let rendered = render(app.template()?, &conversation, &offered, &template_arguments(&fields)?)?;
    let prompt = app.encode(rendered.prompt, seam, generation.max_tokens.unwrap_or(1)).await?;
    let events = app.engine().submit(Request {
        id,
        kind: RequestKind::Chat,
        prompt,
        max_tokens: generation.max_tokens,
        min_tokens: generation.min_tokens,
        sampling: generation.sampling,
        stop: generation.stop,
        ignore_end: generation.ignore_end,
        priority: identity::priority(&fields)?,
        account: identity::account(&headers),
    })?;

    let splitter = Splitter::new(rendered.thinking, (!tools.is_empty()).then_some(tools), single);
    let model = fields.text("model")?.unwrap_or_default().to_owned();
    let mut writer = ChatWriter::new(model, splitter, generation.include_usage, generation.token_ids);
    if generation.stream {
        return Ok(stream::respond(events, writer));
    }
    let mut events = events;
    let mut message = Message::default();
    loop {
        match events.recv().await {
            Some(Event::Token { id, text }) => message.add(writer.read(id, &text)),
            Some(Event::Done { text, finish, usage }) => {
                message.add(writer.read_rest(&text));
                return Ok(Json(writer.completion(message, finish, &usage)).into_response());
            }
            Some(Event::Failed { fault, .. }) => return Err(ApiError::failed(&fault)),
            None => return Err(ApiError::engine_gone()),
        }
    }
}

/// The tools that may be called.
fn tools(fields: &Fields) -> Result<Tools, ApiError> {
    let tools = fields.get("tools").map(Tools::read).transpose()?.unwrap_or_default();
    match fields.get("tool_choice") {
        None => Ok(tools),
        Some(Value::String(choice)) if choice == "auto" => Ok(tools),
        Some(Value::String(choice)) if choice == "none" => Ok(Tools::default()),
        Some(other) => Err(ApiError::unsupported(
            "tool_choice",
            format!("'tool_choice' may be \"auto\" or \"none\"; {} is not supported yet.", brief(other)),
        )),
    }
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

struct Rendered {
    prompt: String,
    /// The answer begins inside `<think>`.
    thinking: bool,
}

/// The prompt of a conversation. If the last message is the assistant's, the answer continues it.
fn render(
    template: &ChatTemplate,
    conversation: &[Value],
    tools: &[Value],
    arguments: &Map<String, Value>,
) -> Result<Rendered, ApiError> {
    let last = conversation.last();
    let beginning = last
        .filter(|m| m["role"] == "assistant" && m.get("tool_calls").is_none())
        .and_then(|m| m["content"].as_str())
        .map(str::trim)
        .filter(|text| !text.is_empty());
    let mut prompt = template.render(conversation, tools, beginning.is_none(), arguments)?;
    let Some(beginning) = beginning else {
        let thinking = prompt.trim_end().ends_with(THINK);
        return Ok(Rendered { prompt, thinking });
    };
    let end = prompt.rfind(beginning).map(|at| at + beginning.len()).ok_or_else(|| {
        let message = "The model's chat template changes the last message, so the answer cannot continue it. End with a user message.";
        ApiError::value("messages", message)
    })?;
    prompt.truncate(end);
    let thinking = beginning.rfind(THINK).is_some_and(|at| !beginning[at..].contains(THINK_END));
    Ok(Rendered { prompt, thinking })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const EMBER: &str = include_str!("../../../assets/ember/model/chat_template.jinja");

    fn prompt(conversation: Value, tools: Value, arguments: Value) -> Rendered {
        let template = ChatTemplate::compile(EMBER, None).expect("ember's template compiles");
        let fields =
            Fields::parse(json!({"messages": conversation}).to_string().as_bytes()).expect("an object");
        let conversation = messages::read(&fields).expect("valid messages");
        let tools = Tools::read(&tools).expect("valid tools");
        let arguments = arguments.as_object().cloned().unwrap_or_default();
        render(&template, &conversation, tools.values(), &arguments).expect("renders")
    }

    #[test]
    fn embers_prompt_ends_where_the_answer_begins() {
        let rendered = prompt(
            json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <b>"}]),
            json!([]),
            json!({}),
        );
        assert_eq!(
            rendered.prompt,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <b><|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        );
        assert!(!rendered.thinking);
        let rendered =
            prompt(json!([{"role": "user", "content": "Hi"}]), json!([]), json!({"enable_thinking": true}));
        assert!(rendered.prompt.ends_with("<|im_start|>assistant\n<think>\n"));
        assert!(rendered.thinking);
    }

    #[test]
    fn tools_are_written_as_python_writes_json() {
        let tool = json!({"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {"q": {"type": "string", "description": "<what> & 'how'"}}}}});
        let rendered = prompt(json!([{"role": "user", "content": "x"}]), json!([tool]), json!({}));
        let line = r#"{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {"q": {"type": "string", "description": "<what> & 'how'"}}}}}"#;
        assert!(rendered.prompt.contains(&format!("<tools>\n{line}\n</tools>")), "{}", rendered.prompt);
    }

    #[test]
    fn a_call_and_its_result_come_back_in_the_form_the_model_wrote_them() {
        let rendered = prompt(
            json!([
                {"role": "user", "content": "add"},
                {"role": "assistant", "content": null, "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{\"a\": 1, \"s\": \"x\"}"}}]},
                {"role": "tool", "tool_call_id": "1", "content": "2"},
            ]),
            json!([]),
            json!({}),
        );
        let call = "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=s>\nx\n</parameter>\n</function>\n</tool_call><|im_end|>\n";
        let result = "<|im_start|>user\n<tool_response>\n2\n</tool_response><|im_end|>\n";
        assert!(rendered.prompt.contains(&format!("{call}{result}")), "{}", rendered.prompt);
    }

    #[test]
    fn an_answer_that_was_begun_is_continued() {
        let rendered = prompt(
            json!([{"role": "user", "content": "List."}, {"role": "assistant", "content": "1. one\n2. "}]),
            json!([]),
            json!({}),
        );
        assert!(rendered.prompt.ends_with("</think>\n\n1. one\n2."), "{}", rendered.prompt);
        assert!(!rendered.thinking);
    }

    #[test]
    fn only_auto_and_none_may_be_chosen() {
        let read = |choice: Value| {
            let body =
                json!({"tool_choice": choice, "tools": [{"type": "function", "function": {"name": "f"}}]});
            tools(&Fields::parse(body.to_string().as_bytes()).expect("an object"))
        };
        assert!(!read(json!("auto")).expect("valid").is_empty());
        assert!(read(json!("none")).expect("valid").is_empty());
        assert_eq!(read(json!("required")).expect_err("no grammar yet").code, "unsupported_parameter");
    }
}
