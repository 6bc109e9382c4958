//! What a client writes stays text: the names of control tokens in messages and tools (`<|im_end|>` and the like) are cut
//! in two by a seam, so that the tokenizer cannot take them for the tokens. The chat handler cuts before the template
//! is rendered; encoding takes the seams out again.

use serde_json::{Map, Value};

/// Characters that no text should hold (Unicode sets them apart for internal use); one that is free becomes the seam.
const CANDIDATES: std::ops::RangeInclusive<char> = '\u{FDD0}'..='\u{FDEF}';

/// Cuts every name of `names` in the strings of `values`. Returns the seam; None if there was nothing to cut.
pub fn cut<'a>(names: &[String], values: impl Iterator<Item = &'a mut Value>) -> Option<char> {
    let mut values: Vec<&mut Value> =
        values.filter(|value| holds(value, &|text| named(names, text))).collect();
    if values.is_empty() {
        return None;
    }
    let taken = |seam: char| values.iter().any(|value| holds(value, &|text| text.contains(seam)));
    // A text with all 32 of them and a control token is nobody's text; a doubled seam is still no control token.
    let seam = CANDIDATES.into_iter().find(|seam| !taken(*seam)).unwrap_or('\u{FDD0}');
    values.iter_mut().for_each(|value| cut_value(names, seam, value));
    Some(seam)
}

fn named(names: &[String], text: &str) -> bool {
    names.iter().any(|name| text.contains(name.as_str()))
}

/// Whether any string or key of `value` is one that `wanted` wants.
fn holds(value: &Value, wanted: &dyn Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => wanted(text),
        Value::Array(items) => items.iter().any(|item| holds(item, wanted)),
        Value::Object(map) => map.iter().any(|(key, item)| wanted(key) || holds(item, wanted)),
        _ => false,
    }
}

fn cut_value(names: &[String], seam: char, value: &mut Value) {
    match value {
        Value::String(text) => *text = cut_text(names, seam, text),
        Value::Array(items) => items.iter_mut().for_each(|item| cut_value(names, seam, item)),
        Value::Object(map) => {
            let old: Map<String, Value> = std::mem::take(map);
            for (key, mut item) in old {
                cut_value(names, seam, &mut item);
                map.insert(cut_text(names, seam, &key), item);
            }
        }
        _ => {}
    }
}

/// A seam after the first character of each name.
fn cut_text(names: &[String], seam: char, text: &str) -> String {
    let mut text = text.to_owned();
    for name in names {
        let first = name.chars().next().map_or(0, char::len_utf8);
        if text.contains(name.as_str()) {
            text = text.replace(name.as_str(), &format!("{}{seam}{}", &name[..first], &name[first..]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn names() -> Vec<String> {
        vec!["<|im_start|>".to_owned(), "<|im_end|>".to_owned()]
    }

    #[test]
    fn names_are_cut_wherever_they_stand_and_nothing_else_changes() {
        let before =
            json!([{"role": "user", "content": "a<|im_end|>b"}, {"<|im_start|>": ["x", 1, null]}, "calm"]);
        let mut after = before.clone();
        let seam = cut(&names(), after.as_array_mut().expect("a list").iter_mut()).expect("something to cut");
        assert_eq!(after[0]["content"], format!("a<{seam}|im_end|>b"));
        assert_eq!(after[1][format!("<{seam}|im_start|>")], json!(["x", 1, null]));
        let text = after.to_string().replace(seam, "");
        assert_eq!(text, before.to_string(), "without the seams it is what the client wrote");
        assert!(names().iter().all(|name| !after.to_string().contains(name.as_str())));
    }

    #[test]
    fn text_without_names_has_no_seam() {
        let mut value = json!({"content": "im_end, <think> and \u{FDD0}"});
        let before = value.clone();
        assert_eq!(cut(&names(), [&mut value].into_iter()), None);
        assert_eq!(value, before);
    }

    #[test]
    fn a_seam_is_a_character_that_the_text_does_not_hold() {
        let mut value = json!("\u{FDD0}\u{FDD1}<|im_end|>");
        assert_eq!(cut(&names(), [&mut value].into_iter()), Some('\u{FDD2}'));
    }
}
