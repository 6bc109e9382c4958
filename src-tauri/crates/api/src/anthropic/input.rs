//! Anthropic's messages and tools as a chat's: blocks become text, calls and results.

use serde_json::{Value, json};

use crate::{
    ApiError,
    fields::{Fields, brief},
};

/// A line that some clients put first, with a checksum that differs in every request; nothing after it could be cached.
const BILLING: &str = "x-anthropic-billing-header";

/// The conversation, the system prompt first.
///
/// # Errors
/// A block that is not understood, by its place.
pub fn messages(fields: &Fields) -> Result<Vec<Value>, ApiError> {
    let mut messages = Vec::new();
    if let Some(system) = fields.get("system") {
        let texts: Vec<String> = blocks(system, "system")?
            .iter()
            .map(|block| text_of(block, "system"))
            .collect::<Result<_, _>>()?;
        let lines = texts.iter().flat_map(|text| text.split('\n')).filter(|line| !line.starts_with(BILLING));
        let text = lines.collect::<Vec<_>>().join("\n");
        if !text.trim().is_empty() {
            messages.push(json!({"role": "system", "content": text}));
        }
    }
    let given =
        fields.get("messages").ok_or_else(|| ApiError::value("messages", "'messages' is missing."))?;
    let items = given.as_array().filter(|items| !items.is_empty()).ok_or_else(|| {
        ApiError::value(
            "messages",
            format!("'messages' must be a list of at least one message, not {}.", brief(given)),
        )
    })?;
    for (index, item) in items.iter().enumerate() {
        let place = format!("messages[{index}]");
        let content = blocks(item.get("content").unwrap_or(&Value::Null), &format!("{place}.content"))?;
        let place = format!("{place}.content");
        match item.get("role").and_then(Value::as_str) {
            Some("user") => user(&mut messages, &content, &place)?,
            Some("assistant") => messages.push(assistant(&content, &place)?),
            // A system message in the middle would have to move to the beginning, and change all that is cached.
            Some("system") => {
                let texts =
                    content.iter().map(|block| text_of(block, &place)).collect::<Result<Vec<_>, _>>()?;
                let text = format!("<system-reminder>\n{}\n</system-reminder>", texts.join("\n"));
                messages.push(json!({"role": "user", "content": text}));
            }
            _ => {
                let place = format!("messages[{index}].role");
                return Err(ApiError::value(&place, format!("{place} must be user or assistant.")));
            }
        }
    }
    Ok(messages)
}

/// Content as blocks: a string is one of text.
fn blocks(content: &Value, place: &str) -> Result<Vec<Value>, ApiError> {
    match content {
        Value::String(text) => Ok(vec![json!({"type": "text", "text": text})]),
        Value::Array(blocks) => Ok(blocks.clone()),
        Value::Null => Err(ApiError::value(place, format!("{place} is missing."))),
        other => {
            let message = format!("{place} must be a string or a list of blocks, not {}.", brief(other));
            Err(ApiError::value(place, message))
        }
    }
}

fn text_of(block: &Value, place: &str) -> Result<String, ApiError> {
    let kind = block.get("type").and_then(Value::as_str).unwrap_or("unknown");
    match (kind, block.get("text").and_then(Value::as_str)) {
        ("text", Some(text)) => Ok(text.to_owned()),
        _ => {
            let kind: String = kind.chars().take(40).collect();
            Err(ApiError::value(
                place,
                format!("This model reads text only; {place} has a block of type '{kind}'."),
            ))
        }
    }
}

/// Results of tools become messages of their own, before the text that follows them.
fn user(messages: &mut Vec<Value>, content: &[Value], place: &str) -> Result<(), ApiError> {
    let mut text = Vec::new();
    for block in content {
        if block.get("type").and_then(Value::as_str) != Some("tool_result") {
            text.push(text_of(block, place)?);
            continue;
        }
        let result = match block.get("content") {
            None | Some(Value::Null) => Vec::new(),
            Some(content) => blocks(content, place)?,
        };
        let result =
            result.iter().map(|block| text_of(block, place)).collect::<Result<Vec<_>, _>>()?.join("\n");
        let failed = block.get("is_error").and_then(Value::as_bool) == Some(true);
        let result = if failed { format!("Error: {result}") } else { result };
        let id = block.get("tool_use_id").cloned().unwrap_or(Value::Null);
        messages.push(json!({"role": "tool", "tool_call_id": id, "content": result}));
    }
    if !text.is_empty() {
        messages.push(json!({"role": "user", "content": text.join("\n")}));
    }
    Ok(())
}

fn assistant(content: &[Value], place: &str) -> Result<Value, ApiError> {
    let (mut text, mut thoughts, mut calls) = (String::new(), String::new(), Vec::new());
    for block in content {
        match block.get("type").and_then(Value::as_str) {
            Some("thinking") => thoughts += block.get("thinking").and_then(Value::as_str).unwrap_or_default(),
            Some("redacted_thinking") => {}
            Some("tool_use") => {
                let wrong = || ApiError::value(place, format!("A tool_use block of {place} has no 'name'."));
                let name = block.get("name").and_then(Value::as_str).ok_or_else(wrong)?;
                let input = block.get("input").cloned().unwrap_or_else(|| json!({}));
                calls.push(json!({"id": block["id"], "type": "function", "function": {"name": name, "arguments": input}}));
            }
            _ => text += &text_of(block, place)?,
        }
    }
    let mut message = json!({"role": "assistant", "content": text});
    if !thoughts.is_empty() {
        message["reasoning_content"] = Value::from(thoughts);
    }
    if !calls.is_empty() {
        message["tool_calls"] = Value::from(calls);
    }
    Ok(message)
}

/// `tools` as a chat has them. The hosted ones (with a `type` of their own) cannot be called here and are left out.
///
/// # Errors
/// Not a list.
pub fn tools(fields: &Fields) -> Result<Value, ApiError> {
    let Some(given) = fields.get("tools") else { return Ok(json!([])) };
    let wrong = || ApiError::value("tools", format!("'tools' must be a list, not {}.", brief(given)));
    let items = given.as_array().ok_or_else(wrong)?.iter();
    let own = items.filter(|tool| tool.get("type").is_none_or(|kind| kind == "custom" || kind.is_null()));
    let tool = |tool: &Value| {
        let mut function = json!({"name": tool.get("name"), "parameters": tool.get("input_schema")});
        for name in ["description", "strict"] {
            if let Some(value) = tool.get(name).filter(|value| !value.is_null()) {
                function[name] = value.clone();
            }
        }
        json!({"type": "function", "function": function})
    };
    Ok(own.map(tool).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: Value) -> Result<Vec<Value>, ApiError> {
        messages(&Fields::parse(body.to_string().as_bytes()).expect("an object"))
    }

    #[test]
    fn blocks_become_text_calls_and_results() {
        let read = read(json!({"system": [{"type": "text", "text": "x-anthropic-billing-header: cch=1;\nBe brief."}], "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "b"}, {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "is_error": true, "content": [{"type": "text", "text": "no"}]},
                {"type": "text", "text": "again"}]},
            {"role": "system", "content": "mind the gap"},
        ]}))
        .expect("understood");
        let roles: Vec<&str> = read.iter().map(|m| m["role"].as_str().expect("a role")).collect();
        assert_eq!(roles, ["system", "user", "assistant", "tool", "user", "user"]);
        assert_eq!(read[0]["content"], "Be brief.");
        assert_eq!(read[2]["reasoning_content"], "hm");
        assert_eq!(read[2]["tool_calls"][0]["function"]["arguments"], json!({"x": 1}));
        assert_eq!((&read[3]["content"], &read[3]["tool_call_id"]), (&json!("Error: no"), &json!("t1")));
        assert!(read[5]["content"].as_str().expect("text").contains("mind the gap"));
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_place() {
        for (messages, place) in [
            (json!(null), "messages"),
            (json!([]), "messages"),
            (json!([{"role": "user"}]), "messages[0].content"),
            (json!([{"role": "robot", "content": "x"}]), "messages[0].role"),
            (json!([{"role": "user", "content": [{"type": "image", "source": {}}]}]), "messages[0].content"),
            (
                json!([{"role": "assistant", "content": [{"type": "tool_use", "id": "1"}]}]),
                "messages[0].content",
            ),
        ] {
            let error = read(json!({"messages": messages})).expect_err("refused");
            assert_eq!(error.param.as_deref(), Some(place));
        }
    }
}
