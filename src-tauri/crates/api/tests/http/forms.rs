//! Answers of a given form: schemas, expressions, choices, strict calls of tools.

use axum::http::StatusCode;
use hearth_api::ApiOptions;
use serde_json::{Value, json};

use crate::{CHAT, ask, call, ember, events, post};

/// What the schema below describes.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Card {
    title: String,
    pages: u8,
    kind: Kind,
    authors: Vec<Author>,
    #[serde(default)]
    note: Option<String>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Book,
    Film,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Author {
    name: String,
    #[allow(dead_code, reason = "reading it is the check")]
    alive: bool,
}

fn card() -> Value {
    json!({"type": "object", "additionalProperties": false, "required": ["title", "pages", "kind", "authors"],
        "properties": {
            "title": {"type": "string", "minLength": 1, "maxLength": 12},
            "pages": {"type": "integer", "minimum": 1, "maximum": 200},
            "kind": {"enum": ["book", "film"]},
            "authors": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"$ref": "#/$defs/author"}},
            "note": {"anyOf": [{"type": "string", "maxLength": 8}, {"type": "null"}]}},
        "$defs": {"author": {"type": "object", "additionalProperties": false, "required": ["name", "alive"],
            "properties": {"name": {"type": "string", "maxLength": 8}, "alive": {"type": "boolean"}}}}})
}

fn as_card(text: &str) {
    let card: Card = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert!((1..=12).contains(&card.title.chars().count()) && (1..=200).contains(&card.pages), "{text}");
    assert!((1..=2).contains(&card.authors.len()) && matches!(card.kind, Kind::Book | Kind::Film), "{text}");
    assert!(card.authors.iter().all(|author| author.name.chars().count() <= 8), "{text}");
    assert!(card.note.is_none_or(|note| note.chars().count() <= 8), "{text}");
    assert!(text.ends_with('}'), "nothing follows the object: {text}");
}

#[tokio::test]
async fn an_answer_of_a_schema_always_parses_and_validates() {
    let (engine, router) = ember(ApiOptions::default()).await;
    let format =
        json!({"type": "json_schema", "json_schema": {"name": "card", "strict": true, "schema": card()}});
    for seed in 0..10 {
        let temperature = [0.0, 0.7, 1.5][seed % 3];
        let options =
            json!({"response_format": format, "seed": seed, "temperature": temperature, "max_tokens": 400});
        let (status, answer) = post(&router, CHAT, ask(options)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
        as_card(answer["choices"][0]["message"]["content"].as_str().expect("text"));
    }
    // Streamed, several at once, each as it would be alone.
    let options = json!({"response_format": format, "n": 2, "stream": true, "max_tokens": 400});
    let (_, _, bytes) = call(&router, "POST", CHAT, ask(options).to_string()).await;
    let mut texts = [String::new(), String::new()];
    for event in events(&bytes).iter().filter_map(|event| serde_json::from_str::<Value>(event).ok()) {
        let choice = &event["choices"][0];
        texts[choice["index"].as_u64().expect("an index") as usize] +=
            choice["delta"]["content"].as_str().unwrap_or_default();
    }
    texts.iter().for_each(|text| as_card(text));
    assert_eq!(engine.status(0).counters.requests_failed, 0);
}

#[tokio::test]
async fn a_form_holds_beside_stop_strings_limits_and_reasoning() {
    let (_, router) = ember(ApiOptions::default()).await;
    let schema = json!({"type": "object", "properties": {"text": {"type": "string", "minLength": 200}}, "required": ["text"]});
    let form = json!({"structured_outputs": {"json": schema}, "max_tokens": 9});
    let (_, answer) = post(&router, CHAT, ask(form)).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "length", "{answer}");
    assert_eq!(answer["usage"]["completion_tokens"], 9);

    let stop = json!({"guided_regex": "\\{ab\\}(cd)+", "stop": ["cd"]});
    let (_, answer) = post(&router, CHAT, ask(stop)).await;
    let choice = &answer["choices"][0];
    assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&json!("{ab}"), &json!("stop")));

    let early = json!({"guided_choice": ["yes", "no"], "min_tokens": 30, "ignore_eos": true});
    let (_, answer) = post(&router, CHAT, ask(early)).await;
    let content = answer["choices"][0]["message"]["content"].as_str().expect("text");
    assert!(content == "yes" || content == "no", "{answer}");

    for seed in 0..4 {
        let thinking =
            json!({"guided_choice": ["yes", "no"], "enable_thinking": true, "max_tokens": 300, "seed": seed});
        let (_, answer) = post(&router, CHAT, ask(thinking)).await;
        let choice = &answer["choices"][0];
        let content = choice["message"]["content"].as_str().expect("text");
        // A model that thinks until its limit has not answered.
        let answered = content == "yes" || content == "no";
        assert!(answered || (choice["finish_reason"] == "length" && content.is_empty()), "{answer}");
    }
    let body =
        json!({"model": "ember", "prompt": "Code:", "guided_regex": "^[A-Z]{3}-[0-9]{2}$", "max_tokens": 30});
    let (_, answer) = post(&router, "/v1/completions", body).await;
    let text = answer["choices"][0]["text"].as_str().expect("text").as_bytes();
    let shaped = text.len() == 6
        && text[..3].iter().all(u8::is_ascii_uppercase)
        && text[4..].iter().all(u8::is_ascii_digit);
    assert!(shaped, "{answer}");
}

#[tokio::test]
async fn a_call_that_must_be_made_is_made_and_a_strict_one_follows_its_schema() {
    let (_, router) = ember(ApiOptions::default()).await;
    let tool = |name: &str, strict: bool| {
        json!({"type": "function", "function": {"name": name, "strict": strict, "parameters": {
            "type": "object", "additionalProperties": false, "required": ["city", "days", "unit"], "properties": {
                "city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 9},
                "unit": {"type": "string", "enum": ["c", "f"]}, "where": {"$ref": "#/$defs/place"}},
            "$defs": {"place": {"type": "object", "additionalProperties": false, "required": ["x"],
                "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 99}}}}}}})
    };
    let tools = json!([tool("weather", true), tool("forecast", false)]);
    for (choice, names) in [
        (json!("required"), &["weather", "forecast"][..]),
        (json!({"type": "function", "function": {"name": "forecast"}}), &["forecast"][..]),
    ] {
        for seed in 0..4 {
            let options = json!({"tools": tools, "tool_choice": choice, "parallel_tool_calls": false, "seed": seed,
                "max_tokens": 300, "temperature": 0.8});
            let (status, answer) = post(&router, CHAT, ask(options)).await;
            assert_eq!(status, StatusCode::OK, "{answer}");
            let found = &answer["choices"][0];
            if found["finish_reason"] == "length" {
                // A string has no bound, so a small model may fill its limit with one.
                continue;
            }
            assert_eq!(found["finish_reason"], "tool_calls", "{answer}");
            let calls = found["message"]["tool_calls"].as_array().expect("calls");
            assert_eq!(calls.len(), 1, "{answer}");
            let function = &calls[0]["function"];
            assert!(names.contains(&function["name"].as_str().expect("a name")), "{answer}");
            let arguments: Value =
                serde_json::from_str(function["arguments"].as_str().expect("text")).expect("JSON");
            assert!(arguments["city"].is_string(), "{arguments}");
            assert!(arguments["days"].as_i64().is_some_and(|days| (1..=9).contains(&days)), "{arguments}");
            assert!(arguments["unit"] == "c" || arguments["unit"] == "f", "{arguments}");
            let place = arguments.get("where");
            assert!(
                place.is_none_or(|p| p["x"].as_i64().is_some_and(|x| (0..=99).contains(&x))),
                "{arguments}"
            );
        }
    }
    let strict = json!({"tools": [{"type": "function", "function": {"name": "f", "strict": true, "parameters": {
        "type": "object", "properties": {"a": {"type": "string", "pattern": "x+"}}}}}]});
    let (status, answer) = post(&router, CHAT, ask(strict)).await;
    assert_eq!((status.as_u16(), answer["error"]["param"].as_str()), (400, Some("tools")), "{answer}");
}

#[tokio::test]
async fn a_form_that_cannot_be_followed_is_refused_before_any_work() {
    let (engine, router) = ember(ApiOptions::default()).await;
    let schema = |schema: Value| json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}});
    let large = json!({"enum": (0..40_000).map(|i| format!("value {i}")).collect::<Vec<_>>()});
    for (options, code, param) in [
        (schema(json!({"type": "strange"})), "invalid_grammar", "response_format.json_schema.schema"),
        (schema(json!({"$ref": "#/missing"})), "invalid_grammar", "response_format.json_schema.schema"),
        (schema(large), "grammar_too_large", "response_format.json_schema.schema"),
        (json!({"guided_regex": "("}), "invalid_grammar", "guided_regex"),
        (json!({"guided_grammar": "start: nothing"}), "invalid_grammar", "guided_grammar"),
        (json!({"response_format": {"type": "yaml"}}), "invalid_value", "response_format.type"),
        (json!({"tool_choice": "required"}), "invalid_value", "tool_choice"),
    ] {
        let (status, answer) = post(&router, CHAT, ask(options)).await;
        let error = &answer["error"];
        assert_eq!((status.as_u16(), error["code"].as_str()), (400, Some(code)), "{answer}");
        assert_eq!(error["param"].as_str(), Some(param), "{answer}");
    }
    let counters = engine.status(0).counters;
    assert_eq!((counters.steps, counters.requests_refused), (0, 7));
}
