//! The items of a request's `input` as the messages of a chat, and its tools as a chat's tools.

use serde_json::{Value, json};

use crate::{
    ApiError,
    fields::{Fields, brief},
};

/// The conversation: `instructions` first, then the items in their order.
///
/// # Errors
/// An item that is not understood, by its place.
pub fn messages(fields: &Fields) -> Result<Vec<Value>, ApiError> {
    let mut messages = Vec::new();
    if let Some(instructions) = fields.text("instructions")? {
        messages.push(json!({"role": "system", "content": instructions}));
    }
    match fields.get("input") {
        Some(Value::String(text)) => messages.push(json!({"role": "user", "content": text})),
        Some(Value::Array(items)) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                add(&mut messages, item, &format!("input[{index}]"))?;
            }
        }
        None => return Err(ApiError::value("input", "'input' is missing.")),
        Some(other) => {
            let message = format!("'input' must be a string or a list of items, not {}.", brief(other));
            return Err(ApiError::value("input", message));
        }
    }
    Ok(messages)
}

fn add(messages: &mut Vec<Value>, item: &Value, place: &str) -> Result<(), ApiError> {
    let kind = item.get("type").and_then(Value::as_str).unwrap_or("message");
    let missing =
        |name: &str| ApiError::value(&format!("{place}.{name}"), format!("{place}.{name} must be a string."));
    match kind {
        "message" => {
            let role = item.get("role").cloned().unwrap_or(Value::Null);
            let content = item.get("content").cloned().unwrap_or(Value::Null);
            if role == "assistant" {
                let last = of_assistant(messages);
                // What was thought belongs to what is said after it.
                if last["content"].is_null() && last.get("tool_calls").is_none() {
                    last["content"] = content;
                    return Ok(());
                }
            }
            messages.push(json!({"role": role, "content": content}));
        }
        "reasoning" => {
            let texts = ["content", "summary"].iter().filter_map(|name| item.get(*name)?.as_array());
            let texts = texts.flatten().filter_map(|part| part.get("text")?.as_str()).collect::<Vec<_>>();
            if !texts.is_empty() {
                messages.push(
                    json!({"role": "assistant", "content": null, "reasoning_content": texts.join("\n")}),
                );
            }
        }
        "function_call" => {
            let name = item.get("name").and_then(Value::as_str).ok_or_else(|| missing("name"))?;
            let id = item.get("call_id").and_then(Value::as_str).ok_or_else(|| missing("call_id"))?;
            let arguments =
                item.get("arguments").and_then(Value::as_str).ok_or_else(|| missing("arguments"))?;
            let call =
                json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
            let last = of_assistant(messages);
            match last.get_mut("tool_calls").and_then(Value::as_array_mut) {
                Some(calls) => calls.push(call),
                None => last["tool_calls"] = json!([call]),
            }
        }
        "function_call_output" => {
            let id = item.get("call_id").and_then(Value::as_str).ok_or_else(|| missing("call_id"))?;
            let output = item.get("output").cloned().unwrap_or(Value::Null);
            messages.push(json!({"role": "tool", "tool_call_id": id, "content": output}));
        }
        other => {
            let other: String = other.chars().take(40).collect();
            let message = format!("{place} is of type '{other}', which is not supported here. Leave it out.");
            return Err(ApiError::value(place, message));
        }
    }
    Ok(())
}

/// The assistant's message at the end, begun if there is none.
fn of_assistant(messages: &mut Vec<Value>) -> &mut Value {
    if messages.last().is_none_or(|last| last["role"] != "assistant") {
        messages.push(json!({"role": "assistant", "content": null}));
    }
    messages.last_mut().expect("there is one now")
}

/// `tools` with each function in an object of its own, as chat has them. Other kinds are left as they are, and so left out.
///
/// # Errors
/// Not a list.
pub fn tools(fields: &Fields) -> Result<Value, ApiError> {
    let Some(given) = fields.get("tools") else { return Ok(json!([])) };
    let wrong = || ApiError::value("tools", format!("'tools' must be a list, not {}.", brief(given)));
    let items = given.as_array().ok_or_else(wrong)?;
    let tool = |item: &Value| match item.as_object() {
        Some(object) if item["type"] == "function" && !object.contains_key("function") => {
            let mut function = object.clone();
            function.shift_remove("type");
            json!({"type": "function", "function": function})
        }
        _ => item.clone(),
    };
    Ok(items.iter().map(tool).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: Value) -> Result<Vec<Value>, ApiError> {
        let body = json!({"instructions": "Be brief.", "input": input});
        messages(&Fields::parse(body.to_string().as_bytes()).expect("an object"))
    }

    #[test]
    fn items_become_messages_and_what_belongs_together_becomes_one() {
        let call = |id: &str| json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"});
        let read = read(json!([
            {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b"}]},
            call("1"), call("2"),
            {"type": "function_call_output", "call_id": "1", "output": "x"},
        ]))
        .expect("understood");
        assert_eq!(read.len(), 4, "{read:?}");
        assert_eq!(read[0], json!({"role": "system", "content": "Be brief."}));
        assert_eq!(read[2]["reasoning_content"], "hm");
        assert_eq!(read[2]["tool_calls"].as_array().map(Vec::len), Some(2));
        assert_eq!(read[3], json!({"role": "tool", "tool_call_id": "1", "content": "x"}));
    }

    #[test]
    fn items_that_are_not_understood_are_refused_with_their_place() {
        for (input, place) in [
            (json!(null), "input"),
            (json!([]), "input"),
            (json!([{"type": "item_reference", "id": "x"}]), "input[0]"),
            (
                json!([{"role": "user", "content": "a"}, {"type": "function_call", "call_id": "1"}]),
                "input[1].name",
            ),
            (json!([{"type": "function_call_output"}]), "input[0].call_id"),
        ] {
            assert_eq!(read(input).expect_err("refused").param.as_deref(), Some(place));
        }
    }

    #[test]
    fn functions_are_wrapped_and_hosted_tools_left_alone() {
        let body =
            json!({"tools": [{"type": "function", "name": "f", "strict": true}, {"type": "web_search"}]});
        let read = tools(&Fields::parse(body.to_string().as_bytes()).expect("an object")).expect("a list");
        assert_eq!(read[0], json!({"type": "function", "function": {"name": "f", "strict": true}}));
        assert_eq!(read[1], json!({"type": "web_search"}));
    }
}
