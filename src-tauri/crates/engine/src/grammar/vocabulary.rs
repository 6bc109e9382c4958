//! A tokenizer as llguidance sees it: the bytes of every token in a trie, and text to ids for what a grammar forces.

use std::sync::Arc;

use llguidance::toktrie::{INVALID_TOKEN, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use super::Mask;
use crate::tokenizer::Tokenizer;

/// Longest token in the trie, bytes; longer ones (rules of a thousand dashes) are left to unguided text.
const LONGEST: usize = 1000;

/// The tokens of a model.
pub(super) struct Vocabulary {
    trie: TokTrie,
    encoder: Arc<tokenizers::Tokenizer>,
    specials: Vec<String>,
    ends: Vec<u32>,
    tokens: usize,
}

impl Vocabulary {
    pub(super) fn of(tokenizer: &Tokenizer) -> Vocabulary {
        let tokens = tokenizer.len();
        let words: Vec<Vec<u8>> = (0..tokens as u32)
            .map(|id| match (tokenizer.bytes(id), tokenizer.name(id)) {
                // Special tokens have no text; a grammar can ask for them by name.
                ([], Some(name)) => [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat(),
                (bytes, _) if bytes.len() > LONGEST => Vec::new(),
                (bytes, _) => bytes.to_vec(),
            })
            .collect();
        let ends: Vec<u32> = tokenizer.ends().iter().copied().filter(|id| (*id as usize) < tokens).collect();
        let trie = TokTrie::from(&TokRxInfo::new(tokens as u32, INVALID_TOKEN), &words);
        let trie = if ends.is_empty() { trie } else { trie.with_eos_tokens(&ends) };
        Vocabulary {
            trie,
            encoder: tokenizer.encoder(),
            specials: tokenizer.specials().to_vec(),
            ends,
            tokens,
        }
    }

    /// The text of a token; nothing for a special one.
    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        let bytes = if (id as usize) < self.tokens { self.trie.token(id) } else { &[] };
        if bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) { &[] } else { bytes }
    }

    /// A mask of llguidance's words. `accepting`: the answer may end here, and nowhere else, whatever text the end tokens
    /// have.
    pub(super) fn mask(&self, words: &[u32], accepting: bool) -> Mask {
        let mut words = words[..self.tokens.div_ceil(32).min(words.len())].to_vec();
        words.resize(self.tokens.div_ceil(32), 0);
        for &end in &self.ends {
            words[end as usize / 32] &= !(1 << (end % 32));
        }
        if let spare @ 1.. = self.tokens % 32
            && let Some(last) = words.last_mut()
        {
            *last &= (1 << spare) - 1;
        }
        let ends_only = words.iter().all(|word| *word == 0);
        if accepting {
            for &end in &self.ends {
                words[end as usize / 32] |= 1 << (end % 32);
            }
        }
        Mask { words, ends_only }
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| {
            // The names of special tokens in a schema are text, and stay text.
            let named = self.specials.iter().any(|name| text.contains(name.as_str()));
            match self.encoder.encode_fast(text, false) {
                Ok(encoding) if !named => encoding.get_ids().to_vec(),
                _ => self.trie.greedy_tokenize(text.as_bytes()),
            }
        })
    }
}
