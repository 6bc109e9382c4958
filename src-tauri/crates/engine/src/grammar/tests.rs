//! Grammars over a vocabulary of single bytes (ids 0 to 255), `<|im_end|>` (256, an end token), `<think>` and `</think>`.

use serde_json::{Value, json};

use super::*;
use crate::{random::uniform, tokenizer::tests::byte_tokenizer};

const END: u32 = 256;

fn compile(source: GrammarSource, begin: Begin) -> Constraint {
    Constraint::compile(&byte_tokenizer(), &source, &Spaces::Some, begin).expect("a good grammar")
}

fn refused(source: GrammarSource) -> GrammarError {
    Constraint::compile(&byte_tokenizer(), &source, &Spaces::Some, Begin::AtOnce)
        .expect_err("no good grammar")
}

fn person() -> Value {
    json!({"type": "object", "additionalProperties": false, "required": ["name", "age", "kind"], "properties": {
        "name": {"type": "string", "maxLength": 6}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["cat", "dog"]}, "tags": {"type": "array", "maxItems": 2, "items": {"$ref": "#/$defs/tag"}}},
        "$defs": {"tag": {"type": "boolean"}}})
}

fn allows(mask: &Mask, id: u32) -> bool {
    mask.words[id as usize / 32] >> (id % 32) & 1 == 1
}

/// The mask of the row behind the first `row` drafts.
fn mask_of(guide: &mut Guide, row: usize) -> Result<Option<&Mask>, crate::status::Fault> {
    guide.await_masks()?;
    Ok(guide.mask(row))
}

/// Writes an answer of tokens drawn from whatever is allowed.
fn wander(guide: &mut Guide, seed: u64) -> String {
    let mut text = Vec::new();
    for position in 0..2000 {
        guide.prepare(&[]);
        let mask = mask_of(guide, 0).expect("goes on").expect("a mask");
        let allowed: Vec<u32> = (0..259).filter(|id| allows(mask, *id)).collect();
        assert!(!allowed.is_empty(), "nothing is allowed after {:?}", String::from_utf8_lossy(&text));
        let id = allowed[(uniform(seed, position) * allowed.len() as f64) as usize];
        if id == END {
            return String::from_utf8(text).expect("whole characters");
        }
        text.push(u8::try_from(id).expect("a byte"));
        if guide.advance(id).expect("it was allowed") {
            return String::from_utf8(text).expect("whole characters");
        }
    }
    panic!("no end: {}", String::from_utf8_lossy(&text));
}

#[test]
fn whatever_is_chosen_among_the_allowed_tokens_is_what_the_schema_describes() {
    let constraint = compile(GrammarSource::JsonSchema(person()), Begin::AtOnce);
    for seed in 0..40 {
        let text = wander(&mut Guide::new(&constraint), seed);
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        let fields = value.as_object().expect("an object");
        assert!(fields["name"].as_str().is_some_and(|name| name.chars().count() <= 6), "{text}");
        assert!(fields["age"].as_i64().is_some_and(|age| (0..=150).contains(&age)), "{text}");
        assert!(fields["kind"] == "cat" || fields["kind"] == "dog", "{text}");
        let tags = fields.get("tags").map_or(&[][..], |tags| tags.as_array().expect("a list"));
        assert!(tags.len() <= 2 && tags.iter().all(Value::is_boolean), "{text}");
        assert!(fields.keys().all(|key| ["name", "age", "kind", "tags"].contains(&key.as_str())), "{text}");
    }
}

#[test]
fn choices_expressions_and_grammars_are_followed_to_the_letter() {
    for (source, good) in [
        (
            GrammarSource::Choice(vec!["yes".into(), "no".into(), "\"q\"\n".into()]),
            &["yes", "no", "\"q\"\n"][..],
        ),
        (GrammarSource::Regex("^(a|b)-\\d{1}$".into()), &["a-", "b-"][..]),
        (GrammarSource::Lark("start: \"x\" DIGIT\nDIGIT: /[0-9]/".into()), &["x"][..]),
        (
            GrammarSource::Guidance(json!({"grammars": [
                {"lark_grammar": "start: \"<\" @inner \">\""},
                {"name": "inner", "json_schema": {"enum": [1, 2]}}]})),
            &["<1>", "<2>"][..],
        ),
    ] {
        let constraint = compile(source.clone(), Begin::AtOnce);
        for seed in 0..12 {
            let text = wander(&mut Guide::new(&constraint), seed);
            assert!(
                good.iter().any(|good| text.starts_with(good) && text.chars().count() <= good.len() + 1),
                "{source:?} gave {text}"
            );
        }
    }
}

#[test]
fn drafts_are_cut_at_the_first_forbidden_token_and_the_masks_behind_them_are_those_of_the_place() {
    let constraint = compile(GrammarSource::JsonSchema(json!({"enum": ["abc", "abd"]})), Begin::AtOnce);
    let drafts: Vec<u32> = b"\"abx".iter().map(|b| u32::from(*b)).collect();
    let mut guide = Guide::new(&constraint);
    assert_eq!(guide.allowed_prefix(&drafts), Ok(3));
    guide.prepare(&drafts[..3]);
    let ahead: Vec<Option<Mask>> =
        (0..4).map(|row| mask_of(&mut guide, row).expect("goes on").cloned()).collect();
    assert!(ahead[3].as_ref().is_some_and(|mask| allows(mask, 99) && allows(mask, 100) && !allows(mask, 98)));

    let mut plain = Guide::new(&constraint);
    for (row, draft) in drafts[..3].iter().enumerate() {
        plain.prepare(&[]);
        assert_eq!(mask_of(&mut plain, 0).expect("goes on").cloned(), ahead[row], "row {row}");
        assert_eq!(plain.advance(*draft), Ok(false));
        // The drafts fell after the first token of the round: the place is where `advance` says.
        if row == 0 {
            guide.advance(*draft).expect("allowed");
            guide.prepare(&[]);
            let again = mask_of(&mut guide, 0).expect("goes on").cloned();
            plain.prepare(&[]);
            assert_eq!(mask_of(&mut plain, 0).expect("goes on").cloned(), again);
        }
    }
    let whole: Vec<u32> = b"\"abc\"zz".iter().map(|b| u32::from(*b)).collect();
    let mut guide = Guide::new(&constraint);
    assert_eq!(guide.allowed_prefix(&whole), Ok(5), "nothing comes behind the end");
    guide.prepare(&whole[..5]);
    assert!(mask_of(&mut guide, 4).expect("goes on").is_some());
    let ends: Vec<bool> = whole[..5].iter().map(|id| guide.advance(*id).expect("allowed")).collect();
    assert_eq!(ends, [false, false, false, false, true]);
}

#[test]
fn reasoning_is_free_and_the_answer_behind_it_is_not() {
    let constraint = compile(GrammarSource::JsonSchema(json!({"const": 7})), Begin::After("</think>".into()));
    let mut guide = Guide::new(&constraint);
    for token in b"{hm</thin" {
        guide.prepare(&[]);
        assert_eq!(mask_of(&mut guide, 0), Ok(None));
        guide.advance(u32::from(*token)).expect("free");
    }
    // The marker comes in pieces; drafts are cut behind it, and the row behind them has a mask.
    let drafts: Vec<u32> = b"k>77".iter().map(|b| u32::from(*b)).collect();
    assert_eq!(guide.allowed_prefix(&drafts), Ok(2));
    guide.prepare(&drafts[..2]);
    assert_eq!(mask_of(&mut guide, 0), Ok(None));
    assert_eq!(mask_of(&mut guide, 1), Ok(None));
    let behind = mask_of(&mut guide, 2).expect("goes on").cloned().expect("a mask");
    assert!(allows(&behind, u32::from(b'7')) && allows(&behind, 10) && !allows(&behind, u32::from(b'k')));
    for token in b"k>\n\n" {
        assert_eq!(guide.advance(u32::from(*token)), Ok(false));
    }
    assert_eq!(guide.advance(u32::from(b'7')), Ok(true));
}

#[test]
fn a_form_that_holds_now_and_then_is_free_between() {
    let constraint = compile(GrammarSource::Choice(vec!["[1]".into()]), Begin::Whenever("<c>".into()));
    let mut guide = Guide::new(&constraint);
    let mut masks = String::new();
    for token in b"ab<c>[1]xy<c>[1]" {
        guide.prepare(&[]);
        masks.push(if mask_of(&mut guide, 0).expect("goes on").is_some() { '!' } else { '.' });
        assert_eq!(guide.advance(u32::from(*token)), Ok(false), "it never ends the answer");
    }
    assert_eq!(masks, ".....!!!.....!!!");
}

#[test]
fn a_token_of_several_kinds_is_never_taken_from_the_names_in_a_schema() {
    let constraint = compile(GrammarSource::Choice(vec!["<|im_end|>!".into()]), Begin::AtOnce);
    assert_eq!(wander(&mut Guide::new(&constraint), 0), "<|im_end|>!");
}

#[test]
fn white_space_is_bounded_and_can_be_forbidden() {
    let schema = json!({"type": "array", "items": {"const": 1}, "minItems": 2, "maxItems": 2});
    let compile = |spaces| {
        let source = GrammarSource::JsonSchema(schema.clone());
        Constraint::compile(&byte_tokenizer(), &source, &spaces, Begin::AtOnce).expect("a good grammar")
    };
    let text = |constraint: &Constraint| -> Vec<String> {
        (0..20).map(|seed| wander(&mut Guide::new(constraint), seed)).collect()
    };
    assert!(text(&compile(Spaces::None)).iter().all(|text| text == "[1,1]"));
    assert!(text(&compile(Spaces::Some)).iter().all(|text| text.len() < 5 + 4 * 36));
}

#[test]
fn a_grammar_that_has_no_meaning_is_refused_with_the_reason() {
    for source in [
        GrammarSource::JsonSchema(json!({"type": "strange"})),
        GrammarSource::JsonSchema(json!({"$ref": "#/$defs/missing"})),
        GrammarSource::JsonSchema(json!({"allOf": [{"type": "string"}, {"type": "integer"}]})),
        GrammarSource::JsonSchema(
            json!({"type": "object", "unevaluatedProperties": false, "patternProperties": {"(": {}}}),
        ),
        GrammarSource::JsonSchema(json!([1])),
        GrammarSource::JsonSchema(json!(false)),
        GrammarSource::Regex("(".into()),
        GrammarSource::Regex("a(?=b)".into()),
        GrammarSource::Choice(vec![]),
        GrammarSource::Choice(vec![String::new()]),
        GrammarSource::Lark("start: missing".into()),
        GrammarSource::Lark("nonsense".into()),
        GrammarSource::Guidance(json!({"grammars": []})),
        GrammarSource::Guidance(json!(5)),
    ] {
        let error = refused(source.clone());
        assert_eq!(error.code(), "invalid_grammar", "{source:?}: {error}");
        assert!(error.to_string().len() > 40 && error.to_string().len() < 600, "{source:?}: {error}");
    }
}

#[test]
fn a_grammar_that_is_too_large_is_refused_before_anything_runs() {
    let many: Vec<String> = (0..60_000).map(|i| format!("choice number {i}")).collect();
    assert_eq!(refused(GrammarSource::Choice(many)).code(), "grammar_too_large");
    let long = json!({"type": "string", "description": "x".repeat(LARGEST)});
    assert_eq!(refused(GrammarSource::JsonSchema(long)).code(), "grammar_too_large");
    let nested = |levels| {
        (0..levels).fold(json!({"type": "integer"}), |inner, _| json!({"type": "array", "items": inner}))
    };
    let deep = Value::Array(vec![nested(300)]);
    assert_eq!(refused(GrammarSource::JsonSchema(deep)).code(), "grammar_too_large");
    let brackets = format!("start: {}\"a\"{}", "(".repeat(100_000), ")".repeat(100_000));
    assert_eq!(refused(GrammarSource::Lark(brackets.clone())).code(), "grammar_too_large");
    assert_eq!(
        refused(GrammarSource::Guidance(json!([{ "lark_grammar": brackets }]))).code(),
        "grammar_too_large"
    );
    // As deep as may be: whatever comes of it, nothing breaks.
    for source in [
        GrammarSource::JsonSchema(nested(60)),
        GrammarSource::Lark(format!("start: {}\"a\"{}", "(".repeat(120), ")".repeat(120))),
        GrammarSource::Regex(format!("{}a{}", "(".repeat(120), ")".repeat(120))),
    ] {
        let _ = Constraint::compile(&byte_tokenizer(), &source, &Spaces::Some, Begin::AtOnce);
    }
}

#[test]
fn guides_of_one_grammar_do_not_disturb_each_other() {
    let constraint = compile(GrammarSource::JsonSchema(person()), Begin::AtOnce);
    let alone: Vec<String> = (0..8).map(|seed| wander(&mut Guide::new(&constraint), seed)).collect();
    let threads: Vec<_> = (0..8)
        .map(|seed| {
            let constraint = constraint.clone();
            std::thread::spawn(move || wander(&mut Guide::new(&constraint), seed))
        })
        .collect();
    let together: Vec<String> = threads.into_iter().map(|t| t.join().expect("no panic")).collect();
    assert_eq!(alone, together);
}
