//! The form a client asks an answer to have: `response_format`, vLLM's `structured_outputs` and its older `guided_*`
//! fields, and llguidance's grammars. Used by every endpoint that generates.

use hearth_engine::{Begin, Constraint, GrammarError, GrammarSource, Spaces, Tokenizer};
use serde_json::{Map, Value};

use crate::{
    ApiError,
    fields::{Fields, brief},
};

/// A form, and the field that asks for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Form {
    /// What the answer must look like.
    pub source: GrammarSource,
    /// White space in JSON.
    pub spaces: Spaces,
    /// Whom to blame.
    pub param: String,
}

impl Form {
    /// Reads whatever field asks for a form; None if none does.
    ///
    /// # Errors
    /// A field that is not understood, or two forms at once.
    pub fn read(fields: &Fields) -> Result<Option<Form>, ApiError> {
        let mut forms: Vec<Form> = Vec::new();
        forms.extend(fields.object("response_format")?.map(response_format).transpose()?.flatten());
        forms.extend(fields.object("structured_outputs")?.map(structured_outputs).transpose()?);
        forms.extend(guided(fields)?);
        if let [first, second, ..] = &forms[..] {
            let message =
                format!("'{}' and '{}' both give the answer a form. Send one.", first.param, second.param);
            return Err(ApiError::value(&second.param, message));
        }
        Ok(forms.pop())
    }

    fn new(source: GrammarSource, param: &str) -> Form {
        Form { source, spaces: Spaces::default(), param: param.to_owned() }
    }

    /// Compiles it. Takes milliseconds: call it on a thread that may block.
    ///
    /// # Errors
    /// 400 with the reason.
    pub fn compile(&self, tokenizer: &Tokenizer, begin: Begin) -> Result<Constraint, ApiError> {
        Constraint::compile(tokenizer, &self.source, &self.spaces, begin)
            .map_err(|error| refused(&error, &self.param))
    }
}

fn refused(error: &GrammarError, param: &str) -> ApiError {
    let next = match error {
        GrammarError::TooLarge { .. } => "Make it smaller.",
        GrammarError::Invalid { .. } => "Change it, or leave it out.",
        GrammarError::Unavailable { .. } => "Ask for the form in the prompt instead.",
    };
    ApiError::invalid(error.code(), format!("{error} {next}")).with_param(param)
}

/// The member of an object that must be there.
fn member<'a>(object: &'a Map<String, Value>, place: &str, name: &str) -> Result<&'a Value, ApiError> {
    let value = object.get(name).filter(|value| !value.is_null());
    value.ok_or_else(|| ApiError::value(&format!("{place}.{name}"), format!("'{place}.{name}' is missing.")))
}

fn text(value: &Value, place: &str) -> Result<String, ApiError> {
    let wrong = || ApiError::value(place, format!("'{place}' must be a string, not {}.", brief(value)));
    value.as_str().map(str::to_owned).ok_or_else(wrong)
}

/// A schema as an object or true, or as the text of one.
fn schema(value: &Value, place: &str) -> Result<GrammarSource, ApiError> {
    let wrong =
        |what: String| ApiError::value(place, format!("'{place}' must be a JSON schema, not {what}."));
    match value {
        Value::Object(_) | Value::Bool(_) => Ok(GrammarSource::JsonSchema(value.clone())),
        Value::String(text) => match serde_json::from_str(text) {
            Ok(schema @ Value::Object(_)) => Ok(GrammarSource::JsonSchema(schema)),
            _ => Err(wrong("a text that is none".into())),
        },
        other => Err(wrong(brief(other))),
    }
}

fn choice(value: &Value, place: &str) -> Result<GrammarSource, ApiError> {
    let wrong =
        || ApiError::value(place, format!("'{place}' must be a list of strings, none of them empty."));
    let texts = value.as_array().filter(|items| !items.is_empty()).ok_or_else(wrong)?;
    let texts = texts.iter().map(|item| item.as_str().filter(|text| !text.is_empty()).map(str::to_owned));
    texts.collect::<Option<Vec<_>>>().map(GrammarSource::Choice).ok_or_else(wrong)
}

/// llguidance's own grammars: a list of them, or one as Lark.
fn guidance(value: &Value, place: &str) -> Result<GrammarSource, ApiError> {
    match value {
        Value::Object(_) => Ok(GrammarSource::Guidance(value.clone())),
        Value::String(text) if text.trim_start().starts_with('{') => match serde_json::from_str(text) {
            Ok(list) => Ok(GrammarSource::Guidance(list)),
            Err(error) => Err(ApiError::value(place, format!("'{place}' is not valid JSON: {error}."))),
        },
        other => text(other, place).map(GrammarSource::Lark),
    }
}

fn response_format(format: &Map<String, Value>) -> Result<Option<Form>, ApiError> {
    const PLACE: &str = "response_format";
    let form = |source: GrammarSource, place: &str| Ok(Some(Form::new(source, place)));
    let kind = format.get("type").and_then(Value::as_str).unwrap_or_default();
    match kind {
        "text" => Ok(None),
        "json_object" => form(GrammarSource::JsonObject, PLACE),
        "json_schema" => {
            let place = "response_format.json_schema";
            // The Responses API has the schema one level higher.
            let wrapped = format.get("json_schema").filter(|value| !value.is_null());
            let (holder, place) = match wrapped.map(|value| (value.as_object(), value)) {
                Some((Some(object), _)) => (object, place),
                Some((None, value)) => {
                    return Err(ApiError::value(
                        place,
                        format!("'{place}' must be an object, not {}.", brief(value)),
                    ));
                }
                None if format.contains_key("schema") => (format, PLACE),
                None => return Err(ApiError::value(place, format!("'{place}' is missing."))),
            };
            let place_of_schema = format!("{place}.schema");
            form(schema(member(holder, place, "schema")?, &place_of_schema)?, &place_of_schema)
        }
        "regex" => {
            let name = if format.contains_key("pattern") { "pattern" } else { "regex" };
            let place = format!("{PLACE}.{name}");
            form(GrammarSource::Regex(text(member(format, PLACE, name)?, &place)?), &place)
        }
        "lark_grammar" | "grammar" | "llguidance" => {
            let name = if format.contains_key("lark_grammar") { "lark_grammar" } else { "grammar" };
            let place = format!("{PLACE}.{name}");
            form(guidance(member(format, PLACE, name)?, &place)?, &place)
        }
        _ => {
            let known = "text, json_object, json_schema, regex, lark_grammar or llguidance";
            let found = format.get("type").map_or("nothing".to_owned(), brief);
            let message = format!("'response_format.type' must be {known}, not {found}.");
            Err(ApiError::value("response_format.type", message))
        }
    }
}

/// vLLM's `structured_outputs`: one of its forms, and options.
fn structured_outputs(object: &Map<String, Value>) -> Result<Form, ApiError> {
    const PLACE: &str = "structured_outputs";
    let given = |name: &&str| object.get(*name).is_some_and(|v| !v.is_null() && v != &Value::Bool(false));
    let kinds = ["json", "json_object", "regex", "choice", "grammar", "structural_tag"];
    let kinds: Vec<&str> = kinds.into_iter().filter(given).collect();
    let [kind] = kinds[..] else {
        let message =
            "'structured_outputs' must have exactly one of json, json_object, regex, choice and grammar.";
        return Err(ApiError::value(PLACE, message));
    };
    let place = format!("{PLACE}.{kind}");
    let value = &object[kind];
    let source = match kind {
        "json" => schema(value, &place)?,
        "json_object" => GrammarSource::JsonObject,
        "regex" => GrammarSource::Regex(text(value, &place)?),
        "choice" => choice(value, &place)?,
        "grammar" => guidance(value, &place)?,
        _ => return Err(ApiError::unsupported(&place, "Structural tags are not supported. Use 'grammar'.")),
    };
    let mut form = Form::new(source, &place);
    if let Some(pattern) = object.get("whitespace_pattern").filter(|value| !value.is_null()) {
        form.spaces = Spaces::Pattern(text(pattern, "structured_outputs.whitespace_pattern")?);
    } else if object.get("disable_any_whitespace") == Some(&Value::Bool(true)) {
        form.spaces = Spaces::None;
    }
    Ok(form)
}

/// vLLM's older fields.
fn guided(fields: &Fields) -> Result<Vec<Form>, ApiError> {
    let mut forms = Vec::new();
    for name in ["guided_json", "guided_regex", "guided_choice", "guided_grammar"] {
        let Some(value) = fields.get(name) else { continue };
        let source = match name {
            "guided_json" => schema(value, name)?,
            "guided_regex" => GrammarSource::Regex(text(value, name)?),
            "guided_choice" => choice(value, name)?,
            _ => guidance(value, name)?,
        };
        forms.push(Form::new(source, name));
    }
    if let Some(pattern) = fields.text("guided_whitespace_pattern")? {
        forms.iter_mut().for_each(|form| form.spaces = Spaces::Pattern(pattern.to_owned()));
    }
    Ok(forms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(body: Value) -> Result<Option<Form>, ApiError> {
        Form::read(&Fields::parse(body.to_string().as_bytes()).expect("an object"))
    }

    #[test]
    fn the_same_form_may_be_asked_for_in_every_dialect() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
        let source = GrammarSource::JsonSchema(schema.clone());
        for body in [
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": schema}}}),
            json!({"response_format": {"type": "json_schema", "name": "x", "schema": schema}}),
            json!({"structured_outputs": {"json": schema}}),
            json!({"structured_outputs": {"json": schema.to_string()}}),
            json!({"guided_json": schema}),
        ] {
            assert_eq!(
                read(body.clone()).expect("valid").map(|form| form.source),
                Some(source.clone()),
                "{body}"
            );
        }
        for (body, source) in [
            (json!({"response_format": {"type": "json_object"}}), GrammarSource::JsonObject),
            (
                json!({"response_format": {"type": "regex", "pattern": "a+"}}),
                GrammarSource::Regex("a+".into()),
            ),
            (
                json!({"response_format": {"type": "llguidance", "grammar": "start: \"x\""}}),
                GrammarSource::Lark("start: \"x\"".into()),
            ),
            (json!({"guided_choice": ["a", "b"]}), GrammarSource::Choice(vec!["a".into(), "b".into()])),
            (
                json!({"structured_outputs": {"grammar": {"grammars": []}}}),
                GrammarSource::Guidance(json!({"grammars": []})),
            ),
        ] {
            assert_eq!(read(body.clone()).expect("valid").map(|form| form.source), Some(source), "{body}");
        }
        let form = read(json!({"structured_outputs": {"json_object": true, "disable_any_whitespace": true}}));
        assert_eq!(form.expect("valid").map(|form| form.spaces), Some(Spaces::None));
        for body in
            [json!({}), json!({"response_format": {"type": "text"}}), json!({"response_format": null})]
        {
            assert_eq!(read(body), Ok(None));
        }
    }

    #[test]
    fn a_form_that_is_not_understood_is_refused_with_its_place() {
        for (body, place) in [
            (json!({"response_format": "json"}), "response_format"),
            (json!({"response_format": {}}), "response_format.type"),
            (json!({"response_format": {"type": "yaml"}}), "response_format.type"),
            (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": 5}}),
                "response_format.json_schema",
            ),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}),
                "response_format.json_schema.schema",
            ),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"schema": "{"}}}),
                "response_format.json_schema.schema",
            ),
            (json!({"response_format": {"type": "regex"}}), "response_format.regex"),
            (json!({"structured_outputs": {}}), "structured_outputs"),
            (json!({"structured_outputs": {"regex": "a", "choice": ["b"]}}), "structured_outputs"),
            (json!({"structured_outputs": {"structural_tag": {}}}), "structured_outputs.structural_tag"),
            (json!({"guided_choice": []}), "guided_choice"),
            (json!({"guided_choice": ["a", ""]}), "guided_choice"),
            (json!({"guided_regex": 5}), "guided_regex"),
            (json!({"guided_json": [1]}), "guided_json"),
            (json!({"response_format": {"type": "json_object"}, "guided_regex": "a"}), "guided_regex"),
        ] {
            let error = read(body.clone()).expect_err("not understood");
            assert_eq!(
                (error.param.as_deref(), error.status.as_u16()),
                (Some(place), 400),
                "{body}: {error}"
            );
        }
    }
}
