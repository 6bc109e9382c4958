//! `tool_choice`: whether the answer may, must or must not call a tool, and which one.

use serde_json::Value;

use crate::{ApiError, fields::brief, tools::Tools};

/// What a client wants of its tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model decides.
    Auto,
    /// At least one call, of any of the tools that are left.
    Required,
}

/// The tools that may be called by this choice, and whether one must be. Nothing to call means that none may.
///
/// # Errors
/// A choice that is not understood, names a tool that is not there, or requires one of none.
pub fn read(choice: Option<&Value>, tools: Tools) -> Result<(Tools, ToolChoice), ApiError> {
    let wrong = |message: String| ApiError::value("tool_choice", message);
    let Some(choice) = choice else { return Ok((tools, ToolChoice::Auto)) };
    let kind = choice.as_str().or_else(|| choice.get("type")?.as_str()).unwrap_or_default();
    let (tools, choice) = match kind {
        "auto" => (tools, ToolChoice::Auto),
        "none" => (Tools::default(), ToolChoice::Auto),
        "required" | "any" => (tools, ToolChoice::Required),
        "function" | "tool" => {
            let name = name_of(choice).ok_or_else(|| wrong("'tool_choice' names no function.".into()))?;
            (
                tools
                    .only(&[name])
                    .ok_or_else(|| wrong(format!("There is no tool '{name}' among 'tools'.")))?,
                ToolChoice::Required,
            )
        }
        "allowed_tools" => {
            let allowed = choice.get("allowed_tools").unwrap_or(choice);
            let names = allowed.get("tools").and_then(Value::as_array);
            let names = names.and_then(|items| items.iter().map(name_of).collect::<Option<Vec<_>>>());
            let names =
                names.ok_or_else(|| wrong("'tool_choice.tools' must be a list of functions.".into()))?;
            let tools = tools.only(&names);
            let tools = tools
                .ok_or_else(|| wrong("'tool_choice' allows a tool that is not among 'tools'.".into()))?;
            let required = allowed.get("mode").and_then(Value::as_str) == Some("required");
            (tools, if required { ToolChoice::Required } else { ToolChoice::Auto })
        }
        _ => {
            let message =
                "'tool_choice' must be \"auto\", \"none\", \"required\", or an object that names a function";
            return Err(wrong(format!("{message}, not {}.", brief(choice))));
        }
    };
    if choice == ToolChoice::Required && tools.is_empty() {
        return Err(wrong("'tool_choice' requires a call, but 'tools' holds no function.".into()));
    }
    Ok((tools, choice))
}

/// The function's name, wherever the dialect has it.
fn name_of(value: &Value) -> Option<&str> {
    value.get("function").unwrap_or(value).get("name")?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tools() -> Tools {
        let tool = |name: &str| json!({"type": "function", "function": {"name": name}});
        Tools::read(&json!([tool("f"), tool("g")])).expect("valid")
    }

    fn names(choice: Value) -> Result<(Vec<String>, ToolChoice), ApiError> {
        let (tools, choice) = read(Some(&choice), tools())?;
        let name = |tool: &Value| tool["function"]["name"].as_str().expect("a name").to_owned();
        Ok((tools.values().iter().map(name).collect(), choice))
    }

    #[test]
    fn a_choice_leaves_the_tools_it_allows() {
        let both = || vec!["f".to_owned(), "g".to_owned()];
        let g = || vec!["g".to_owned()];
        for (choice, expected) in [
            (json!("auto"), (both(), ToolChoice::Auto)),
            (json!("none"), (vec![], ToolChoice::Auto)),
            (json!("required"), (both(), ToolChoice::Required)),
            (json!({"type": "function", "function": {"name": "g"}}), (g(), ToolChoice::Required)),
            (json!({"type": "function", "name": "g"}), (g(), ToolChoice::Required)),
            (json!({"type": "tool", "name": "g"}), (g(), ToolChoice::Required)),
            (json!({"type": "any"}), (both(), ToolChoice::Required)),
            (
                json!({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "g"}}]}}),
                (g(), ToolChoice::Auto),
            ),
        ] {
            assert_eq!(names(choice.clone()), Ok(expected), "{choice}");
        }
    }

    #[test]
    fn a_choice_that_cannot_be_made_is_refused() {
        for choice in [
            json!("sometimes"),
            json!(5),
            json!({"type": "function"}),
            json!({"type": "function", "function": {"name": "h"}}),
            json!({"type": "allowed_tools"}),
        ] {
            assert_eq!(names(choice).expect_err("refused").param.as_deref(), Some("tool_choice"));
        }
        assert!(read(Some(&json!("required")), Tools::default()).is_err());
    }
}
