//! The tokenizer of a GGUF file as the files of a folder: `tokenizer.json` for the `tokenizers` crate, `tokenizer_config.json`,
//! the chat template, and what `generation_config.json` would say. Byte-level BPE only, which is what the families that Hearth
//! runs have.

use serde_json::{Map, Value, json};

use crate::{CheckpointError, Result};

/// How a text is cut into words before BPE, by the name that llama.cpp's converter gives it. The expressions are those of the
/// models' own `tokenizer.json`.
const PRE: [(&str, &str); 3] = [
    ("qwen2", QWEN2),
    ("deepseek-r1-qwen", QWEN2),
    (
        "qwen35",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
];
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Kinds of tokens, `tokenizer.ggml.token_type`.
const NORMAL: u64 = 1;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;
const UNUSED: u64 = 5;

/// Tokens that end an answer in every vocabulary that has them, whatever the file names as its end.
const ENDS: [&str; 2] = ["<|im_end|>", "<|endoftext|>"];

/// What is read of `tokenizer.ggml.*`.
struct Vocabulary<'a> {
    tokens: Vec<&'a str>,
    kinds: Vec<u64>,
}

impl<'a> Vocabulary<'a> {
    fn read(metadata: &'a Map<String, Value>) -> std::result::Result<Self, (&'static str, String)> {
        let list = |key: &'static str| match metadata.get(key) {
            Some(Value::Array(values)) => Ok(values),
            Some(_) => Err((key, "another value".to_owned())),
            None => Err((key, "none".to_owned())),
        };
        let tokens: Option<Vec<&str>> = list("tokenizer.ggml.tokens")?.iter().map(Value::as_str).collect();
        let tokens = tokens.ok_or(("tokenizer.ggml.tokens", "values that are no strings".to_owned()))?;
        let kinds = match metadata.contains_key("tokenizer.ggml.token_type") {
            true => {
                list("tokenizer.ggml.token_type")?.iter().map(|kind| kind.as_u64().unwrap_or(0)).collect()
            }
            false => vec![NORMAL; tokens.len()],
        };
        if kinds.len() != tokens.len() {
            let found = format!("{} of them for {} tokens", kinds.len(), tokens.len());
            return Err(("tokenizer.ggml.token_type", found));
        }
        Ok(Vocabulary { tokens, kinds })
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.tokens.iter().zip(&self.kinds).position(|(token, kind)| *token == name && *kind == CONTROL)
    }
}

/// The files that a folder would have. `file` names the GGUF in errors.
pub(super) fn files(file: &str, metadata: &Map<String, Value>) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let invalid = |key: &str, found: String| CheckpointError::InvalidGguf {
        file: file.into(),
        expected: format!("{key} of a byte-level BPE tokenizer"),
        found,
    };
    let text = |key: &str| metadata.get(key).and_then(Value::as_str);
    let model = text("tokenizer.ggml.model").unwrap_or("none");
    if model != "gpt2" {
        return Err(invalid("tokenizer.ggml.model", model.chars().take(60).collect()));
    }
    let pre = text("tokenizer.ggml.pre").unwrap_or("none");
    let Some((_, regex)) = PRE.iter().find(|(name, _)| *name == pre) else {
        let known: Vec<&str> = PRE.iter().map(|(name, _)| *name).collect();
        let found = format!("{:?}; known: {}", pre.chars().take(60).collect::<String>(), known.join(", "));
        return Err(invalid("tokenizer.ggml.pre", found));
    };
    let vocabulary = Vocabulary::read(metadata).map_err(|(key, found)| invalid(key, found))?;
    let merges = match metadata.get("tokenizer.ggml.merges") {
        Some(Value::Array(merges)) => merges,
        _ => return Err(invalid("tokenizer.ggml.merges", "none".into())),
    };
    let (mut vocab, mut added) = (Map::new(), Vec::new());
    for (id, (token, kind)) in vocabulary.tokens.iter().zip(&vocabulary.kinds).enumerate() {
        if *kind == UNUSED {
            continue;
        }
        if vocab.insert((*token).to_owned(), id.into()).is_some() {
            return Err(invalid("tokenizer.ggml.tokens", format!("{token:?} twice")));
        }
        if matches!(*kind, CONTROL | USER_DEFINED) {
            added.push(json!({"id": id, "content": token, "special": *kind == CONTROL,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}));
        }
    }
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "post_processor": null,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false}, byte_level]},
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merges},
    });
    let named = |key: &str| {
        let id = metadata.get(key).and_then(Value::as_u64).and_then(|id| usize::try_from(id).ok());
        id.and_then(|id| vocabulary.tokens.get(id)).copied()
    };
    let config = json!({
        "bos_token": named("tokenizer.ggml.bos_token_id"),
        "eos_token": named("tokenizer.ggml.eos_token_id"),
        "pad_token": named("tokenizer.ggml.padding_token_id"),
    });
    let mut files = vec![
        ("tokenizer.json", tokenizer.to_string().into_bytes()),
        ("tokenizer_config.json", config.to_string().into_bytes()),
    ];
    files.extend(text("tokenizer.chat_template").map(|template| ("chat_template.jinja", template.into())));
    Ok(files)
}

/// The ends of an answer, and how the authors would sample. Nothing here is refused: what the tokenizer lacks, [`files`] says.
pub(super) fn generation_config(metadata: &Map<String, Value>) -> Value {
    let mut config = Map::new();
    let named = ["eos", "eot", "eom"].map(|end| format!("tokenizer.ggml.{end}_token_id"));
    let mut ends: Vec<u64> = named.iter().filter_map(|key| metadata.get(key)?.as_u64()).collect();
    if let Ok(vocabulary) = Vocabulary::read(metadata) {
        ends.extend(ENDS.iter().filter_map(|end| vocabulary.find(end)).map(|id| id as u64));
    }
    ends.sort_unstable();
    ends.dedup();
    config.insert("eos_token_id".into(), ends.into());
    let sampling = [
        ("temp", "temperature"),
        ("top_k", "top_k"),
        ("top_p", "top_p"),
        ("min_p", "min_p"),
        ("penalty_repeat", "repetition_penalty"),
    ];
    for (theirs, ours) in sampling {
        if let Some(value) = metadata.get(&format!("general.sampling.{theirs}")) {
            config.insert(ours.into(), value.clone());
        }
    }
    config.into()
}
