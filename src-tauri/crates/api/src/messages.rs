//! The conversation of a chat request, checked and brought into the form that chat templates expect: one system message
//! at the beginning, text as strings, tool arguments as objects.

use serde_json::{Map, Value, json};

use crate::{
    ApiError,
    fields::{Fields, brief},
};

/// Reads `messages`.
///
/// # Errors
/// Missing, empty, or a message that no template could render; `param` names the place.
pub fn read(fields: &Fields) -> Result<Vec<Value>, ApiError> {
    let given =
        fields.get("messages").ok_or_else(|| ApiError::value("messages", "'messages' is missing."))?;
    let items = given.as_array();
    let items = items.filter(|items| !items.is_empty()).ok_or_else(|| {
        ApiError::value(
            "messages",
            format!("'messages' must be a list of at least one message, not {}.", brief(given)),
        )
    })?;
    read_list(items, "messages")
}

/// Reads messages that stand in the field `field`, or came from what stands there.
///
/// # Errors
/// A message that no template could render; `param` names the place.
pub fn read_list(items: &[Value], field: &str) -> Result<Vec<Value>, ApiError> {
    let mut system: Vec<String> = Vec::new();
    let mut messages = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let place = format!("{field}[{index}]");
        let message = item.as_object().ok_or_else(|| {
            ApiError::value(&place, format!("{place} must be an object, not {}.", brief(item)))
        })?;
        let role = message.get("role").and_then(Value::as_str).unwrap_or("");
        match role {
            // Most templates allow one system message at the beginning only, and clients send several anywhere.
            "system" | "developer" => system.push(text_of(message, &place)?),
            "user" => messages.push(json!({"role": role, "content": text_of(message, &place)?})),
            "assistant" => messages.push(assistant(message, &place)?),
            "tool" => {
                let mut tool = json!({"role": role, "content": text_of(message, &place)?});
                for name in ["tool_call_id", "name"] {
                    if let Some(value) = message.get(name).filter(|value| value.is_string()) {
                        tool[name] = value.clone();
                    }
                }
                messages.push(tool);
            }
            _ => {
                let role = message.get("role").map_or("nothing".to_owned(), brief);
                let message =
                    format!("{place}.role must be system, developer, user, assistant or tool, not {role}.");
                return Err(ApiError::value(&format!("{place}.role"), message));
            }
        }
    }
    if !system.is_empty() {
        messages.insert(0, json!({"role": "system", "content": system.join("\n\n")}));
    }
    Ok(messages)
}

/// The text of a message: a string, or parts of type text put together.
fn text_of(message: &Map<String, Value>, place: &str) -> Result<String, ApiError> {
    let place = format!("{place}.content");
    let refuse = |what: String| Err(ApiError::value(&place, what));
    match message.get("content") {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => {
            let mut text = String::new();
            for part in parts {
                let kind = part.get("type").and_then(Value::as_str).unwrap_or("");
                let piece =
                    part.get(if kind == "refusal" { "refusal" } else { "text" }).and_then(Value::as_str);
                match (kind, piece) {
                    ("text" | "input_text" | "output_text" | "refusal", Some(piece)) => text.push_str(piece),
                    ("text" | "input_text" | "output_text" | "refusal", None) => {
                        return refuse(format!("A part of {place} has no text."));
                    }
                    _ => {
                        let kind = if kind.is_empty() {
                            "unknown".to_owned()
                        } else {
                            kind.chars().take(40).collect()
                        };
                        return refuse(format!(
                            "This model reads text only; {place} has a part of type '{kind}'."
                        ));
                    }
                }
            }
            Ok(text)
        }
        None | Some(Value::Null) => refuse(format!("{place} is missing.")),
        Some(other) => refuse(format!("{place} must be a string or a list of parts, not {}.", brief(other))),
    }
}

fn assistant(message: &Map<String, Value>, place: &str) -> Result<Value, ApiError> {
    let calls = message.get("tool_calls").filter(|calls| !calls.is_null());
    let empty = message.get("content").is_none_or(Value::is_null);
    // An assistant that only called tools, or only thought, has said nothing.
    let content = if empty { String::new() } else { text_of(message, place)? };
    let mut out = json!({"role": "assistant", "content": content});
    // Clients send a model's thoughts back under either name.
    let reasoning = ["reasoning_content", "reasoning"].iter().find_map(|name| message.get(*name)?.as_str());
    if let Some(reasoning) = reasoning {
        out["reasoning_content"] = Value::from(reasoning);
    }
    if let Some(calls) = calls {
        let place = format!("{place}.tool_calls");
        let wrong = |what: &str| ApiError::value(&place, format!("{place} {what}"));
        let calls = calls.as_array().ok_or_else(|| wrong("must be a list."))?;
        let calls = calls.iter().map(|call| {
            let function =
                call.get("function").ok_or_else(|| wrong("must hold objects with a 'function'."))?;
            let name = function.get("name").and_then(Value::as_str);
            let name = name.ok_or_else(|| wrong("has a function without a 'name'."))?;
            let arguments = match function.get("arguments") {
                None | Some(Value::Null) => json!({}),
                // Templates walk through the arguments; clients send them as the text of a JSON object.
                Some(Value::String(text)) if text.trim().is_empty() => json!({}),
                Some(Value::String(text)) => match serde_json::from_str(text) {
                    Ok(Value::Object(object)) => Value::Object(object),
                    _ => return Err(wrong("has arguments that are not a JSON object.")),
                },
                Some(other) => other.clone(),
            };
            let mut out = json!({"type": "function", "function": {"name": name, "arguments": arguments}});
            if let Some(id) = call.get("id").filter(|id| id.is_string()) {
                out["id"] = id.clone();
            }
            Ok(out)
        });
        let calls = calls.collect::<Result<Vec<_>, _>>()?;
        if !calls.is_empty() {
            out["tool_calls"] = Value::from(calls);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(value: Value) -> Result<Vec<Value>, ApiError> {
        read(&Fields::parse(json!({"messages": value}).to_string().as_bytes()).expect("an object"))
    }

    #[test]
    fn system_and_developer_messages_become_one_at_the_beginning() {
        let read = messages(json!([
            {"role": "system", "content": "one"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "developer", "content": "two"},
        ]));
        assert_eq!(
            read.expect("valid"),
            [json!({"role": "system", "content": "one\n\ntwo"}), json!({"role": "user", "content": "ab"})]
        );
    }

    #[test]
    fn an_assistant_that_called_a_tool_keeps_its_call_with_arguments_as_an_object() {
        let read = messages(json!([
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": null, "reasoning": "hm", "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "2"},
        ]))
        .expect("valid");
        assert_eq!(read[1]["tool_calls"][0]["function"]["arguments"], json!({"a": 1}));
        assert_eq!(
            (read[1]["content"].as_str(), read[1]["reasoning_content"].as_str()),
            (Some(""), Some("hm"))
        );
        assert_eq!(read[2]["tool_call_id"], "c1");
    }

    #[test]
    fn what_no_template_could_render_is_refused_with_its_place() {
        for (value, place) in [
            (json!([]), "messages"),
            (json!("hi"), "messages"),
            (json!(["hi"]), "messages[0]"),
            (json!([{"role": "wizard", "content": "x"}]), "messages[0].role"),
            (json!([{"content": "x"}]), "messages[0].role"),
            (json!([{"role": "user"}]), "messages[0].content"),
            (json!([{"role": "user", "content": 5}]), "messages[0].content"),
            (
                json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
                "messages[0].content",
            ),
            (
                json!([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]),
                "messages[0].tool_calls",
            ),
        ] {
            assert_eq!(messages(value).expect_err("invalid").param.as_deref(), Some(place));
        }
    }
}
