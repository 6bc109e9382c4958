//! Recognises a model's own tool calls when a client sends them back: written anew (other white space, `1` for `1.0`, keys in
//! another order, other call ids) and mostly without the reasoning that led to them. Then the engine reads the tokens that the
//! model wrote, and need not compute the answer again. All endpoints that hold conversations use it, through `ask`.

use hearth_engine::Turn;
use serde_json::Value;

use crate::{
    parts::{Part, Splitter},
    tools::Tools,
};

const THINK: &str = "<think>";

/// What an answer says.
#[derive(Debug, Default, PartialEq)]
struct Meaning {
    reasoning: String,
    text: String,
    /// Name and arguments of each call.
    calls: Vec<(String, Value)>,
}

/// Whether what came back says what was sampled, and called a tool. Reasoning may be missing; what is there must be the same.
pub fn recognise(tools: &Tools, turn: &Turn<'_>) -> bool {
    let thinking = turn.before.trim_end().ends_with(THINK);
    let Some(sampled) = Meaning::of(turn.sampled, thinking, tools) else { return false };
    let Some(sent) = Meaning::of(turn.sent, thinking, tools) else { return false };
    let same_call = |(a, b): (&(String, Value), &(String, Value))| a.0 == b.0 && same_json(&a.1, &b.1);
    !sampled.calls.is_empty()
        && sampled.calls.len() == sent.calls.len()
        && sampled.calls.iter().zip(&sent.calls).all(same_call)
        && sampled.text == sent.text
        && (sent.reasoning.is_empty() || sent.reasoning == sampled.reasoning)
}

impl Meaning {
    /// None if a call is not complete.
    fn of(text: &str, thinking: bool, tools: &Tools) -> Option<Meaning> {
        let mut splitter = Splitter::new(thinking, Some(tools.clone()), false);
        let mut parts = splitter.push(text);
        parts.extend(splitter.finish());
        let mut meaning = Meaning::default();
        let mut arguments: Vec<String> = Vec::new();
        for part in parts {
            match part {
                Part::Reasoning(text) => meaning.reasoning += &text,
                Part::Text(text) => meaning.text += &text,
                Part::Call { name, .. } => {
                    meaning.calls.push((name, Value::Null));
                    arguments.push(String::new());
                }
                Part::Arguments { index, text } => arguments.get_mut(index)?.push_str(&text),
            }
        }
        for (call, arguments) in meaning.calls.iter_mut().zip(arguments) {
            call.1 = serde_json::from_str(&arguments).ok()?;
        }
        for text in [&mut meaning.reasoning, &mut meaning.text] {
            *text = text.trim().to_owned();
        }
        Some(meaning)
    }
}

/// Equal as JSON; a number is its value, however it is written.
fn same_json(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            a == b || a.as_f64() == b.as_f64() && a.is_f64() != b.is_f64()
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_json(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same_json(a, b)))
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tools() -> Tools {
        Tools::read(&json!([{"type": "function", "function": {"name": "f", "parameters": {"properties": {
            "n": {"type": "number"}, "o": {"type": "object"}, "s": {"type": "string"}}}}}]))
        .expect("valid")
    }

    fn call(arguments: &str) -> String {
        format!("<tool_call>\n<function=f>\n{arguments}</function>\n</tool_call>")
    }

    fn of(before: &str, sampled: &str, sent: &str) -> bool {
        recognise(&tools(), &Turn { before, sampled, sent })
    }

    #[test]
    fn calls_that_are_equal_as_json_are_recognised_however_they_are_written() {
        let object = |json: &str| call(&format!("<parameter=o>\n{json}\n</parameter>\n"));
        let sampled = object(r#"{"a":1, "b":[1.0,  "x"]}"#);
        assert!(of("assistant\n", &sampled, &object(r#"{"a": 1, "b": [1, "x"]}"#)));
        assert!(of("assistant\n", &sampled, &object(r#"{"b":[1,"x"],"a":1.0}"#)));
        assert!(of("assistant\n", &format!("I look.\n{sampled}\n"), &format!("I look.\n\n{sampled}")));
        for other in [
            r#"{"a": 2, "b": [1, "x"]}"#,
            r#"{"a": 1}"#,
            r#"{"a": 1, "b": ["x", 1]}"#,
            r#"{"a": "1", "b": [1, "x"]}"#,
        ] {
            assert!(!of("assistant\n", &sampled, &object(other)), "{other}");
        }
        assert!(!of("assistant\n", &sampled, &format!("But:\n{}", object(r#"{"a":1,"b":[1,"x"]}"#))));
        assert!(!of("assistant\n", &sampled, &sampled.replace("=f>", "=g>")), "another function");
        assert!(!of("assistant\n", &format!("{sampled}{sampled}"), &sampled), "one call of two");
    }

    #[test]
    fn strings_are_compared_to_the_letter() {
        let string = |text: &str| call(&format!("<parameter=s>\n{text}\n</parameter>\n"));
        assert!(of("", &string("a  b"), &string("a  b")));
        assert!(!of("", &string("a  b"), &string("a b")));
        assert!(!of("", &string("1.0"), &string("1")));
    }

    #[test]
    fn reasoning_may_be_missing_but_not_another() {
        let arguments = call("<parameter=n>\n 2\n</parameter>\n");
        let sampled = format!("It is two.\n</think>\n\n{arguments}");
        let before = "<|im_start|>assistant\n<think>\n";
        assert!(of(before, &sampled, &format!("\n</think>\n\n{arguments}")), "left out");
        assert!(of(before, &sampled, &format!("It is two.\n\n</think>\n{arguments}")), "kept");
        assert!(!of(before, &sampled, &format!("It is three.\n</think>\n\n{arguments}")));
    }

    #[test]
    fn answers_without_calls_and_calls_that_were_cut_off_are_left_to_their_bytes() {
        assert!(!of("", "Hello", "Hello "));
        let cut = "<tool_call>\n<function=f>\n<parameter=n>\n1";
        assert!(!of("", cut, cut));
    }

    #[test]
    fn numbers_are_equal_by_value_and_large_ones_by_every_digit() {
        for (a, b, same) in [
            (json!(1), json!(1.0), true),
            (json!(1), json!("1"), false),
            (json!(9_007_199_254_740_993_i64), json!(9_007_199_254_740_992_i64), false),
            (json!(-1), json!(1), false),
            (json!(null), json!({}), false),
        ] {
            assert_eq!(same_json(&a, &b), same, "{a} {b}");
        }
    }
}
