//! The grammar of a tool call in Qwen's XML form, written in llguidance's dialect of Lark, for calls that must be made
//! (`tool_choice`) or must follow their schema (`strict`):
//!
//!   <tool_call>\n<function=NAME>\n<parameter=KEY>\nVALUE\n</parameter>\n ... </function>\n</tool_call>
//!
//! Strings are written as they are, other values as JSON. Parameters come in the order of the schema.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::{
    ApiError,
    tools::{Kind, Tools, is_strict, name_of},
};

/// What opens a call; the grammar of a call that may be made begins behind it.
pub const OPENING: &str = "<tool_call>";

/// Words of a string's schema that the form cannot enforce, because its text stands there without quotes.
const UNENFORCED: [&str; 4] = ["pattern", "format", "minLength", "maxLength"];

/// The grammar of one call from behind [`OPENING`].
///
/// # Errors
/// A strict function whose schema cannot be enforced.
pub fn rest_of_call(tools: &Tools) -> Result<String, ApiError> {
    Ok(format!("start: rest\n{}", rules(tools)?))
}

/// The grammar of an answer of one call, or of one or several.
///
/// # Errors
/// A strict function whose schema cannot be enforced.
pub fn calls(tools: &Tools, single: bool) -> Result<String, ApiError> {
    let opening = quoted(OPENING);
    let more = if single { String::new() } else { format!(" (\"\\n\" {opening} rest)*") };
    Ok(format!("start: {opening} rest{more}\n{}", rules(tools)?))
}

fn rules(tools: &Tools) -> Result<String, ApiError> {
    let names: Vec<String> = (0..tools.values().len()).map(|index| format!("f{index}")).collect();
    let mut out = format!(
        "rest: \"\\n\" ({}) \"\\n</tool_call>\"\ntext[suffix=\"\\n</parameter>\\n\"]: /(?s:.*)/\n",
        names.join(" | ")
    );
    for (index, tool) in tools.values().iter().enumerate() {
        function(&mut out, index, tool)?;
    }
    Ok(out)
}

/// The rules of function `index`.
fn function(out: &mut String, index: usize, tool: &Value) -> Result<(), ApiError> {
    let schema = tool["function"].get("parameters").and_then(Value::as_object);
    let properties = schema.and_then(|schema| schema.get("properties")).and_then(Value::as_object);
    let empty = schema.is_none_or(|schema| {
        schema
            .keys()
            .all(|key| ["type", "properties", "required", "additionalProperties"].contains(&key.as_str()))
    });
    let place = format!("tools[{index}].function.parameters");
    if properties.is_none() && !empty {
        if is_strict(tool) {
            let message = format!("{place} must have 'properties' where 'strict' is true.");
            return Err(ApiError::unsupported("tools", message));
        }
        // Whatever it describes, it is written as some parameters.
        let _ = writeln!(
            out,
            "f{index}: {} (\"<parameter=\" /[^>\\n]+/ \">\\n\" text)* \"</function>\"",
            quoted(&format!("<function={}>\n", name_of(tool)))
        );
        return Ok(());
    }
    let none = Map::new();
    let required: Vec<&str> = schema
        .and_then(|schema| schema.get("required")?.as_array())
        .map_or_else(Vec::new, |names| names.iter().filter_map(Value::as_str).collect());
    let mut line = format!("f{index}: {}", quoted(&format!("<function={}>\n", name_of(tool))));
    let mut values = String::new();
    for (number, (key, property)) in properties.unwrap_or(&none).iter().enumerate() {
        let needed = if required.contains(&key.as_str()) { "" } else { "?" };
        let _ = write!(line, " p{index}_{number}{needed}");
        let value = value(tool, key, property, schema.unwrap_or(&none), &place)?;
        let _ = writeln!(values, "p{index}_{number}: {} {value}", quoted(&format!("<parameter={key}>\n")));
    }
    let _ = write!(out, "{line} \"</function>\"\n{values}");
    Ok(())
}

/// The value of a parameter, up to the end of its marker.
fn value(
    tool: &Value,
    key: &str,
    property: &Value,
    schema: &Map<String, Value>,
    place: &str,
) -> Result<String, ApiError> {
    let tools = Tools::read(&json!([tool]))?;
    let end = "\"\\n</parameter>\\n\"";
    match tools.kind(name_of(tool), key) {
        Kind::Text | Kind::TextOrNull => {
            let listed = property.get("enum").and_then(Value::as_array).cloned();
            let listed = listed.or_else(|| property.get("const").map(|value| vec![value.clone()]));
            if let Some(texts) = listed {
                let texts: Vec<String> =
                    texts.iter().map(|text| quoted(text.as_str().unwrap_or("null"))).collect();
                return Ok(format!("({}) {end}", texts.join(" | ")));
            }
            if is_strict(tool)
                && let Some(word) = UNENFORCED.iter().find(|word| property.get(**word).is_some())
            {
                let message = format!(
                    "{place}.properties.{key} has '{word}', which a strict function's string cannot have here. Leave it out."
                );
                return Err(ApiError::unsupported("tools", message));
            }
            Ok("text".to_owned())
        }
        Kind::Json => {
            let mut schema_of_value = property.clone();
            if let Some(object) = schema_of_value.as_object_mut() {
                // What the value refers to stands beside the function's parameters.
                for name in ["$defs", "definitions"] {
                    if let (Some(defs), false) = (schema.get(name), object.contains_key(name)) {
                        object.insert(name.to_owned(), defs.clone());
                    }
                }
                object.entry("x-guidance").or_insert(json!({"whitespace_pattern": "[ ]{1,2}"}));
            }
            Ok(format!("%json {schema_of_value} {end}"))
        }
    }
}

/// A literal of Lark.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(strict: bool, properties: Value) -> Tools {
        Tools::read(&json!([{"type": "function", "function": {"name": "f", "strict": strict, "parameters": {
            "type": "object", "properties": properties, "required": ["a"]}}}]))
        .expect("valid")
    }

    #[test]
    fn a_strict_function_whose_schema_cannot_be_enforced_is_refused() {
        for word in UNENFORCED {
            let property = json!({"a": {"type": "string", word: 1}});
            assert_eq!(
                calls(&tools(true, property.clone()), true).expect_err("strict").param.as_deref(),
                Some("tools")
            );
            assert!(calls(&tools(false, property), true).is_ok());
        }
    }

    #[test]
    fn parameters_come_in_the_order_of_the_schema_and_optional_ones_may_be_left_out() {
        let grammar = calls(&tools(true, json!({"b": {"type": "integer"}, "a": {"enum": ["x", "y"]}})), true);
        let grammar = grammar.expect("a grammar");
        assert!(grammar.contains(r#"f0: "<function=f>\n" p0_0? p0_1 "</function>""#), "{grammar}");
        assert!(grammar.contains(r#"p0_1: "<parameter=a>\n" ("x" | "y") "\n</parameter>\n""#), "{grammar}");
    }
}
