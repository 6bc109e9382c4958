//! Text to token ids and ids to bytes. Encoding is Hugging Face's `tokenizers`; decoding is a table of our own, because a
//! token of a byte-level vocabulary is a piece of bytes, not of text. Used by the API (encode) and the engine (bytes).

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
};

use serde_json::Value;

use crate::{EngineError, grammar::Grammars};

/// The tokenizer of a loaded model.
pub struct Tokenizer {
    encoder: Arc<tokenizers::Tokenizer>,
    /// By id: the bytes the token stands for; empty for special tokens, None for ids without a token.
    bytes: Vec<Option<Box<[u8]>>>,
    /// Most bytes of text that one token stands for; None if that has no limit.
    longest: Option<usize>,
    ends: Vec<u32>,
    /// Tokens beside those of the vocabulary proper, special or not.
    added: Vec<u32>,
    turn_start: Option<u32>,
    specials: Vec<String>,
    /// Built when the first request needs it.
    grammars: OnceLock<Result<Arc<Grammars>, String>>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("tokens", &self.bytes.len()).field("ends", &self.ends).finish()
    }
}

impl Tokenizer {
    /// Reads `tokenizer.json`. The end tokens are the union of `eos_token_id` in `generation_config` and `config`, the
    /// `eos_token` of `tokenizer_config`, and `<|im_end|>` if the vocabulary has it.
    pub fn read(
        tokenizer_json: &[u8],
        config: &Value,
        generation_config: Option<&Value>,
        tokenizer_config: Option<&Value>,
    ) -> Result<Tokenizer, EngineError> {
        let invalid = |reason: String| EngineError::Tokenizer { reason };
        let encoder =
            tokenizers::Tokenizer::from_bytes(tokenizer_json).map_err(|e| invalid(e.to_string()))?;
        let byte_level = match encoder.get_decoder() {
            Some(decoder) => serde_json::to_string(decoder).is_ok_and(|d| d.contains("\"ByteLevel\"")),
            None => false,
        };
        if !byte_level {
            return Err(invalid("its decoder is not byte-level, which is the only kind Hearth reads".into()));
        }
        let added = encoder.get_added_tokens_decoder();
        let vocabulary = encoder.get_vocab(true);
        let count = vocabulary.values().max().map_or(0, |&id| id as usize + 1);
        let mut bytes: Vec<Option<Box<[u8]>>> = vec![None; count];
        for (token, id) in &vocabulary {
            let meaning = match added.get(id) {
                Some(added) if added.special => Vec::new(),
                Some(added) => added.content.as_bytes().to_vec(),
                None => token.chars().flat_map(byte_of).collect(),
            };
            bytes[*id as usize] = Some(meaning.into());
        }

        let mut ends = BTreeSet::new();
        for source in [generation_config, Some(config), config.get("text_config")].into_iter().flatten() {
            match source.get("eos_token_id") {
                Some(Value::Array(ids)) => ends.extend(ids.iter().filter_map(Value::as_u64)),
                Some(id) => ends.extend(id.as_u64()),
                None => {}
            }
        }
        let mut ends: BTreeSet<u32> = ends.into_iter().filter_map(|id| u32::try_from(id).ok()).collect();
        let eos = tokenizer_config.and_then(|c| c.get("eos_token"));
        let eos = eos.and_then(|e| e.as_str().or_else(|| e.get("content").and_then(Value::as_str)));
        ends.extend(eos.into_iter().chain(["<|im_end|>"]).filter_map(|token| encoder.token_to_id(token)));

        // The longest token bounds from below how many tokens a text has. A special token stands for its name.
        let names = added.values().map(|token| token.content.len());
        let longest = bytes.iter().flatten().map(|b| b.len()).chain(names).max().unwrap_or(1).max(1);
        // A normaliser may shorten a text, and such tokens swallow any number of blanks beside them.
        let shrinks = encoder.get_normalizer().is_some() || added.values().any(|t| t.lstrip || t.rstrip);
        let longest = (!shrinks).then_some(longest);
        let mut specials: Vec<String> =
            added.values().filter(|token| token.special).map(|token| token.content.clone()).collect();
        specials.sort();
        let turn_start = encoder.token_to_id("<|im_start|>");
        let added = added.keys().copied().collect();
        Ok(Tokenizer {
            encoder: Arc::new(encoder),
            bytes,
            longest,
            ends: ends.into_iter().collect(),
            added,
            turn_start,
            specials,
            grammars: OnceLock::new(),
        })
    }

    /// Ids of `text`; names of special tokens in it become those tokens. Nothing is added before or after. At every
    /// `seam` the text is cut: the pieces are encoded each for itself, and the seam has no token.
    pub fn encode(&self, text: &str, seam: Option<char>) -> Result<Vec<u32>, EngineError> {
        let mut ids = Vec::new();
        let pieces = seam.map_or_else(|| vec![text], |seam| text.split(seam).collect());
        for piece in pieces {
            match self.encoder.encode_fast(piece, false) {
                Ok(encoding) => ids.extend_from_slice(encoding.get_ids()),
                Err(e) => return Err(EngineError::Tokenizer { reason: e.to_string() }),
            }
        }
        Ok(ids)
    }

    /// Names of the special tokens: what must not be taken from a client's text.
    pub fn specials(&self) -> &[String] {
        &self.specials
    }

    /// No encoding of `text` has fewer tokens. O(1); lets a prompt of many megabytes be refused without encoding it.
    pub fn at_least(&self, text: &str) -> usize {
        self.longest.map_or(0, |longest| text.len() / longest)
    }

    /// The bytes `id` adds to the text; empty for special tokens and for ids without a token.
    pub fn bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id as usize).and_then(Option::as_deref).unwrap_or_default()
    }

    /// How the vocabulary writes `id`: the name of a special token. None for ids without a token.
    pub fn name(&self, id: u32) -> Option<String> {
        self.encoder.id_to_token(id)
    }

    pub(crate) fn encoder(&self) -> Arc<tokenizers::Tokenizer> {
        self.encoder.clone()
    }

    /// What guided answers need, built by the first call.
    pub(crate) fn grammars(&self) -> Result<Arc<Grammars>, String> {
        self.grammars.get_or_init(|| Grammars::of(self).map(Arc::new)).clone()
    }

    /// One more than the largest id with a token. Rows of the head from there on are padding.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True for a vocabulary without tokens.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The token that begins every turn of a conversation, if the vocabulary has one (`<|im_start|>`).
    pub fn turn_start(&self) -> Option<u32> {
        self.turn_start
    }

    /// The tokens beside those of the vocabulary proper: ends, turns, marks of thoughts and of tool calls.
    pub fn added(&self) -> &[u32] {
        &self.added
    }

    /// Tokens that end an answer.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }
}

/// Byte-level BPE writes byte b as one printable character: itself if it is printable Latin-1, else U+0100 onwards in
/// order (the table of the GPT-2 encoder). Characters outside the table stand for themselves.
fn byte_of(c: char) -> Vec<u8> {
    let code = c as u32;
    match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => vec![code as u8],
        0x100..=0x120 => vec![(code - 0x100) as u8],
        0x121..=0x142 => vec![(code - 0x121 + 0x7F) as u8],
        0x143 => vec![0xAD],
        _ => c.to_string().into_bytes(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::detokenise::Detokeniser;
    use serde_json::json;

    /// A vocabulary of the 256 bytes and a few special and added tokens.
    pub(crate) fn byte_tokenizer() -> Tokenizer {
        let mut vocab = serde_json::Map::new();
        for byte in 0..=255u8 {
            let c = (0..0x144)
                .filter_map(char::from_u32)
                .find(|&c| c > ' ' && !c.is_control() && byte_of(c) == [byte])
                .expect("every byte has a character");
            vocab.insert(c.to_string(), json!(byte));
        }
        let added = |id: u32, content: &str, special: bool| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": special});
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
            "added_tokens": [added(256, "<|im_end|>", true), added(257, "<think>", false), added(258, "</think>", false)],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                      "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
        });
        let bytes = serde_json::to_vec(&file).expect("serialises");
        Tokenizer::read(&bytes, &json!({"eos_token_id": 7}), Some(&json!({"eos_token_id": [8, 9]})), None)
            .expect("reads")
    }

    #[test]
    fn every_text_comes_back_from_its_tokens_byte_by_byte() {
        let tokenizer = byte_tokenizer();
        let text = "Grüße, 世界! 👩‍🚀\n\t\u{7f}\u{ad}";
        let ids = tokenizer.encode(text, None).expect("encodes");
        assert_eq!(ids.len(), text.len());
        let mut detokeniser = Detokeniser::default();
        let back: String = ids.iter().map(|&id| detokeniser.push(tokenizer.bytes(id))).collect();
        assert_eq!(back, text);
    }

    #[test]
    fn special_tokens_have_no_text_and_added_tokens_have_theirs() {
        let tokenizer = byte_tokenizer();
        assert_eq!(tokenizer.encode("<|im_end|><think>", None).expect("encodes"), [256, 257]);
        let cut = tokenizer.encode("a<\u{FDD0}|im_end|><think>", Some('\u{FDD0}')).expect("encodes");
        assert_eq!(tokenizer.specials(), ["<|im_end|>"]);
        assert_eq!(cut, [&b"a<|im_end|>".map(u32::from)[..], &[257]].concat(), "text, letter by letter");
        assert_eq!(tokenizer.bytes(256), b"");
        assert_eq!(tokenizer.bytes(257), b"<think>");
        assert_eq!(tokenizer.bytes(9999), b"");
        assert_eq!(tokenizer.len(), 259);
    }

    #[test]
    fn an_answer_ends_at_the_tokens_that_any_of_the_files_names() {
        assert_eq!(byte_tokenizer().ends(), [7, 8, 9, 256]);
    }

    #[test]
    fn the_lower_bound_on_tokens_is_never_too_high() {
        let tokenizer = byte_tokenizer();
        for text in ["", "a", "<|im_end|><|im_end|>", "日本語の文章"] {
            assert!(
                tokenizer.at_least(text) <= tokenizer.encode(text, None).expect("encodes").len(),
                "{text}"
            );
        }
    }

    #[test]
    fn a_file_that_is_no_tokenizer_is_refused_with_the_reason() {
        for bytes in [&b""[..], b"{}", b"\xFF\xFE", b"[1,2]"] {
            assert!(matches!(
                Tokenizer::read(bytes, &json!({}), None, None),
                Err(EngineError::Tokenizer { .. })
            ));
        }
    }
}
