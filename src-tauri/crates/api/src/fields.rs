//! The body of a request as named fields, each read with its type and range. A known field with a wrong value is refused
//! by name; unknown fields are ignored, because clients send many. Used by every handler that takes JSON.

use axum::{
    body::{Body, to_bytes},
    http::{HeaderMap, header},
};
use serde_json::{Map, Value};

use crate::ApiError;

/// Largest body that is read, bytes.
pub const BODY_LIMIT: usize = 32 << 20;

/// A JSON object.
#[derive(Debug, Clone, Default)]
pub struct Fields(Map<String, Value>);

impl Fields {
    /// Reads and parses a body.
    ///
    /// # Errors
    /// Another content type than JSON, too large, empty, not JSON, not an object.
    pub async fn read(headers: &HeaderMap, body: Body) -> Result<Fields, ApiError> {
        if let Some(kind) = headers.get(header::CONTENT_TYPE) {
            let kind = kind.to_str().unwrap_or("");
            let essence = kind.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
            if essence != "application/json" && !essence.ends_with("+json") {
                return Err(ApiError::not_json(kind));
            }
        }
        let length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > BODY_LIMIT) {
            return Err(ApiError::too_large(BODY_LIMIT));
        }
        let bytes = to_bytes(body, BODY_LIMIT).await.map_err(|_| ApiError::too_large(BODY_LIMIT))?;
        Fields::parse(&bytes)
    }

    /// Parses a body.
    ///
    /// # Errors
    /// Empty, not JSON, not an object. A number that JSON does not have (`NaN`, `Infinity`, `1e999`) is blamed on its field.
    pub fn parse(bytes: &[u8]) -> Result<Fields, ApiError> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(ApiError::invalid("empty_body", "The request body is empty. Send a JSON object."));
        }
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(fields)) => Ok(Fields(fields)),
            Ok(_) => Err(ApiError::invalid("invalid_json", "The request body must be a JSON object.")),
            Err(error) => {
                let invalid = ApiError::invalid(
                    "invalid_json",
                    format!("The request body is not valid JSON: {error}. Check it with a JSON parser."),
                );
                let before = offset(bytes, error.line(), error.column());
                Err(match number_field(&bytes[..before], &bytes[before..]) {
                    Some(field) => ApiError::value(
                        &field,
                        format!("'{field}' must be a finite number; NaN and infinities are not JSON."),
                    ),
                    None => invalid,
                })
            }
        }
    }

    /// Gives a field another value.
    pub fn set(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    /// The value of a field; null is as good as absent.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A finite number from `low` to `high`.
    ///
    /// # Errors
    /// Another type, or out of range.
    pub fn number(&self, name: &str, low: f64, high: f64) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if (low..=high).contains(&number) => Ok(Some(number)),
            _ => Err(ApiError::value(
                name,
                format!("'{name}' must be a number from {low} to {high}, not {}.", brief(value)),
            )),
        }
    }

    /// A whole number from `low` to `high`.
    ///
    /// # Errors
    /// Another type, a fraction, or out of range.
    pub fn integer(&self, name: &str, low: i64, high: i64) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        // Some clients write whole numbers with a point.
        let whole = value.as_f64().filter(|v| v.fract() == 0.0 && v.abs() < 9e15).map(|v| v as i64);
        match value.as_i64().or(whole) {
            Some(number) if (low..=high).contains(&number) => Ok(Some(number)),
            _ => Err(ApiError::value(
                name,
                format!("'{name}' must be a whole number from {low} to {high}, not {}.", brief(value)),
            )),
        }
    }

    /// True or false.
    ///
    /// # Errors
    /// Another type.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let error =
            || ApiError::value(name, format!("'{name}' must be true or false, not {}.", brief(value)));
        value.as_bool().map(Some).ok_or_else(error)
    }

    /// A string.
    ///
    /// # Errors
    /// Another type.
    pub fn text(&self, name: &str) -> Result<Option<&str>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let error = || ApiError::value(name, format!("'{name}' must be a string, not {}.", brief(value)));
        value.as_str().map(Some).ok_or_else(error)
    }

    /// An object.
    ///
    /// # Errors
    /// Another type.
    pub fn object(&self, name: &str) -> Result<Option<&Map<String, Value>>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let error = || ApiError::value(name, format!("'{name}' must be an object, not {}.", brief(value)));
        value.as_object().map(Some).ok_or_else(error)
    }
}

/// A value for an error message: its text if short, else its type.
pub fn brief(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) if text.chars().count() > 40 => "a long string".to_owned(),
        other => other.to_string(),
    }
}

/// Byte offset of a place that serde_json names by line and column (both from 1, columns in bytes).
fn offset(bytes: &[u8], line: usize, column: usize) -> usize {
    let newlines = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1);
    let start = std::iter::once(0).chain(newlines).nth(line.saturating_sub(1)).unwrap_or(0);
    (start + column.saturating_sub(1)).min(bytes.len())
}

/// The field whose value begins with a number that JSON does not have, where parsing stopped between `before` and `after`.
fn number_field(before: &[u8], after: &[u8]) -> Option<String> {
    // Parsing stops within the bad word; go back to its beginning.
    let in_word = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'+' | b'.');
    let start = before.iter().rposition(|b| !in_word(b)).map_or(0, |i| i + 1);
    let end = after.iter().position(|b| !in_word(b)).unwrap_or(after.len().min(40));
    let word = [&before[start..], &after[..end]].concat();
    let word = String::from_utf8(word).ok()?.to_ascii_lowercase();
    let number = word.trim_start_matches(['-', '+']);
    let overflow = number.contains('e') && number.parse::<f64>().is_ok_and(f64::is_infinite);
    if !overflow && !number.starts_with("nan") && !number.starts_with("inf") {
        return None;
    }
    let key = before[..start].trim_ascii_end().strip_suffix(b":")?.trim_ascii_end().strip_suffix(b"\"")?;
    let begin = key.iter().rposition(|b| *b == b'"')? + 1;
    String::from_utf8(key[begin..].to_vec()).ok().filter(|name| name.len() < 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> ApiError {
        Fields::parse(body.as_bytes()).expect_err("not a JSON object")
    }

    proptest::proptest! {
        #[test]
        fn no_body_breaks_the_parser(bytes: Vec<u8>, number in "[-+]?(NaN|inf|1e999|9)", key in ".{0,6}") {
            let _ = Fields::parse(&bytes);
            let _ = Fields::parse(&[b"{\"", key.as_bytes(), b"\":", number.as_bytes(), &bytes].concat());
        }
    }

    #[test]
    fn bodies_that_are_no_json_object_are_refused_with_a_code() {
        assert_eq!(refused("").code, "empty_body");
        assert_eq!(refused(" \n").code, "empty_body");
        for body in ["{", "[1]", "\"x\"", "{\"a\":}", "nonsense", "{\"a\":1}x"] {
            assert_eq!(refused(body).code, "invalid_json", "{body}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(refused(&deep).code, "invalid_json");
    }

    #[test]
    fn numbers_that_json_does_not_have_are_blamed_on_their_field() {
        for body in [
            r#"{"temperature": NaN}"#,
            r#"{"model": "x", "temperature":-Infinity, "n": 1}"#,
            "{\n  \"model\": \"x\",\n  \"temperature\" : nan\n}",
            r#"{"temperature": 1e999}"#,
            r#"{"temperature": -1e999}"#,
        ] {
            let error = refused(body);
            assert_eq!(error.param.as_deref(), Some("temperature"), "{body}: {error}");
        }
        assert_eq!(refused(r#"{"a": nothing}"#).param, None);
    }

    #[test]
    fn a_known_field_of_the_wrong_type_or_range_is_refused_by_name() {
        let fields = Fields::parse(br#"{"t": -1, "s": "0.5", "i": 1.5, "w": 3.0, "b": 1, "z": null}"#)
            .expect("an object");
        assert_eq!(fields.number("t", 0.0, 2.0).expect_err("negative").param.as_deref(), Some("t"));
        assert!(fields.number("s", 0.0, 2.0).is_err());
        assert!(fields.integer("i", 0, 9).is_err());
        assert_eq!(fields.integer("w", 0, 9), Ok(Some(3)));
        assert!(fields.flag("b").is_err());
        assert!(fields.text("b").is_err());
        assert_eq!((fields.flag("z"), fields.number("none", 0.0, 1.0)), (Ok(None), Ok(None)));
    }
}
