//! The tools of a request: checked on the way in, asked for the types of arguments on the way out.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::{ApiError, fields::brief};

/// The function tools of a request, cheap to clone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tools(Arc<Vec<Value>>);

/// How the text of an argument becomes JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It is a string, whatever it looks like.
    Text,
    /// It is JSON of another type; text that is not becomes a string.
    Json,
    /// `null` is null, all else a string.
    TextOrNull,
}

impl Tools {
    /// Reads the `tools` field. Tool types that only a hosted service has are left out, as they cannot be called here.
    ///
    /// # Errors
    /// Not a list, or a function without a name.
    pub fn read(tools: &Value) -> Result<Tools, ApiError> {
        let wrong = |message: String| ApiError::value("tools", message);
        let items = tools
            .as_array()
            .ok_or_else(|| wrong(format!("'tools' must be a list, not {}.", brief(tools))))?;
        let mut functions = Vec::new();
        for (index, tool) in items.iter().enumerate() {
            let kind = tool.get("type").and_then(Value::as_str);
            let kind =
                kind.ok_or_else(|| wrong(format!("tools[{index}] must be an object with a 'type'.")))?;
            if kind != "function" {
                continue;
            }
            let function = tool.get("function").filter(|f| f.is_object());
            let name = function.and_then(|f| f.get("name")?.as_str()).filter(|name| !name.is_empty());
            if name.is_none() {
                return Err(wrong(format!("tools[{index}].function must have a 'name'.")));
            }
            if function.and_then(|f| f.get("parameters")).is_some_and(|p| !p.is_object() && !p.is_null()) {
                return Err(wrong(format!("tools[{index}].function.parameters must be a JSON schema.")));
            }
            functions.push(tool.clone());
        }
        Ok(Tools(Arc::new(functions)))
    }

    /// True if there is nothing to call.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tools as they were sent, for the chat template.
    pub fn values(&self) -> &[Value] {
        &self.0
    }

    /// The functions of these names; None if one of them is missing.
    pub fn only(&self, names: &[&str]) -> Option<Tools> {
        let named = |name: &&str| self.0.iter().find(|tool| name_of(tool) == *name).cloned();
        names.iter().map(named).collect::<Option<Vec<_>>>().map(|tools| Tools(Arc::new(tools)))
    }

    /// True if a function asks that its arguments follow its schema to the letter.
    pub fn any_strict(&self) -> bool {
        self.0.iter().any(is_strict)
    }

    /// How the argument `key` of the function `name` is written. What the schema does not name is a string.
    pub fn kind(&self, name: &str, key: &str) -> Kind {
        let functions = self.0.iter().filter_map(|tool| tool.get("function"));
        let function = functions.into_iter().find(|f| f.get("name").and_then(Value::as_str) == Some(name));
        let schema = function.and_then(|f| f.get("parameters")?.get("properties")?.get(key));
        let Some(schema) = schema.and_then(Value::as_object) else { return Kind::Text };
        let mut types = Vec::new();
        collect_types(schema, &mut types);
        let text = types.contains(&"string");
        match (text, types.iter().any(|kind| !matches!(*kind, "string" | "null"))) {
            (_, true) => Kind::Json,
            (true, false) if types.contains(&"null") => Kind::TextOrNull,
            _ => Kind::Text,
        }
    }
}

/// A tool's name.
pub fn name_of(tool: &Value) -> &str {
    tool["function"]["name"].as_str().unwrap_or_default()
}

/// Whether the arguments of a tool must follow its schema to the letter.
pub fn is_strict(tool: &Value) -> bool {
    tool["function"]["strict"] == Value::Bool(true)
}

/// The type names a schema allows, through unions.
fn collect_types<'a>(schema: &'a Map<String, Value>, types: &mut Vec<&'a str>) {
    match schema.get("type") {
        Some(Value::String(kind)) => types.push(kind),
        Some(Value::Array(kinds)) => types.extend(kinds.iter().filter_map(Value::as_str)),
        _ => {}
    }
    for union in ["anyOf", "oneOf", "allOf"] {
        let members = schema.get(union).and_then(Value::as_array).into_iter().flatten();
        for member in members.filter_map(Value::as_object) {
            collect_types(member, types);
        }
    }
    // A schema without a type that refers to another or lists its values tells by those.
    if schema.contains_key("$ref") {
        types.push("object");
    }
    for value in schema.get("enum").and_then(Value::as_array).into_iter().flatten() {
        types.push(if value.is_string() { "string" } else { "json" });
    }
}

/// The JSON of an argument's text.
pub fn to_json(text: &str, kind: Kind) -> String {
    let trimmed = text.trim();
    let literal = match (kind, trimmed) {
        (Kind::Text, _) => None,
        (_, "null" | "None") => Some(Value::Null),
        (Kind::Json, "True") => Some(Value::Bool(true)),
        (Kind::Json, "False") => Some(Value::Bool(false)),
        (Kind::Json, other) => serde_json::from_str(other).ok(),
        (Kind::TextOrNull, _) => None,
    };
    literal.unwrap_or_else(|| Value::from(text)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_schema_decides_what_is_a_string() {
        let tools = Tools::read(&json!([
            {"type": "web_search"},
            {"type": "function", "function": {"name": "f", "parameters": {"properties": {
                "s": {"type": "string"}, "i": {"type": "integer"}, "u": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "e": {"enum": ["a", "b"]}, "o": {"$ref": "#/x"}, "m": {"type": ["string", "integer"]}}}}}
        ]))
        .expect("valid");
        assert_eq!(tools.values().len(), 1);
        for (key, kind) in [
            ("s", Kind::Text),
            ("i", Kind::Json),
            ("u", Kind::TextOrNull),
            ("e", Kind::Text),
            ("o", Kind::Json),
            ("m", Kind::Json),
            ("unknown", Kind::Text),
        ] {
            assert_eq!(tools.kind("f", key), kind, "{key}");
        }
        assert_eq!(tools.kind("g", "s"), Kind::Text);
    }

    #[test]
    fn arguments_become_json_and_never_break_it() {
        assert_eq!(to_json("12", Kind::Json), "12");
        assert_eq!(to_json("12", Kind::Text), "\"12\"");
        assert_eq!(to_json("True", Kind::Json), "true");
        assert_eq!(to_json("None", Kind::TextOrNull), "null");
        assert_eq!(to_json("not json", Kind::Json), "\"not json\"");
    }

    #[test]
    fn tools_that_are_none_are_refused() {
        for tools in [
            json!({}),
            json!([1]),
            json!([{"type": "function"}]),
            json!([{"type": "function", "function": {}}]),
        ] {
            assert_eq!(Tools::read(&tools).expect_err("invalid").param.as_deref(), Some("tools"));
        }
    }
}
