//! What was said is read back as it was said. A client sends an answer back as text, and the tokenizer may cut that text into
//! other tokens than the model wrote; then keys, values and state of the whole answer would be computed anew. Here the
//! tokens that were sampled take the place of others that mean the same bytes. Used by `Engine::encode`.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

/// Answers that are remembered at most, and tokens of them with their prompts.
const ANSWERS: usize = 256;
const TOKENS: usize = 4 << 20;

/// A prompt with the answer it got.
#[derive(Debug)]
struct Said {
    ids: Vec<u32>,
    /// How many of them are the prompt.
    prompt: usize,
}

/// The recent answers.
#[derive(Debug, Default)]
pub struct Replay(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    recent: VecDeque<Arc<Said>>,
    tokens: usize,
}

impl Replay {
    /// Remembers an answer: `ids` from `prompt` on.
    pub fn remember(&self, ids: Vec<u32>, prompt: usize) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.tokens += ids.len();
        inner.recent.push_back(Arc::new(Said { ids, prompt }));
        while inner.recent.len() > ANSWERS || inner.tokens > TOKENS {
            let Some(oldest) = inner.recent.pop_front() else { break };
            inner.tokens -= oldest.ids.len();
        }
    }

    /// `ids`, with every answer that was given to what stands before it in the tokens that were sampled. `bytes` says what
    /// a token stands for: nothing for a special one, which only equals itself.
    pub fn apply<'a>(&self, mut ids: Vec<u32>, bytes: impl Fn(u32) -> &'a [u8]) -> Vec<u32> {
        let mut said: Vec<Arc<Said>> =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).recent.iter().cloned().collect();
        // Earlier turns first: only then does the prompt of a later one stand there as it was read.
        said.sort_by_key(|said| said.prompt);
        for said in said {
            let Some(rest) = ids.strip_prefix(&said.ids[..said.prompt]) else { continue };
            let answer = &said.ids[said.prompt..];
            if rest.starts_with(answer) {
                continue;
            }
            if let Some(same) = same_bytes(answer, rest, &bytes) {
                ids = [&said.ids[..], &rest[same..]].concat();
            }
        }
        ids
    }
}

/// How many tokens of `text` mean exactly what all of `answer` means; None if it begins otherwise, or if the end of the
/// answer lies within a token.
fn same_bytes<'a>(answer: &[u32], text: &[u32], bytes: &impl Fn(u32) -> &'a [u8]) -> Option<usize> {
    let (mut taken, mut rest): (usize, &[u8]) = (0, &[]);
    for &id in answer {
        let mut wanted = bytes(id);
        if wanted.is_empty() {
            if !rest.is_empty() || text.get(taken) != Some(&id) {
                return None;
            }
            taken += 1;
        }
        while !wanted.is_empty() {
            if rest.is_empty() {
                rest = bytes(*text.get(taken)?);
                taken += 1;
            }
            let common = wanted.len().min(rest.len());
            if common == 0 || wanted[..common] != rest[..common] {
                return None;
            }
            (wanted, rest) = (&wanted[common..], &rest[common..]);
        }
    }
    rest.is_empty().then_some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1 to 3 are a, b, c; 12 is ab, 23 bc, 123 abc; 9 is special.
    fn bytes(id: u32) -> &'static [u8] {
        match id {
            1 => b"a",
            2 => b"b",
            3 => b"c",
            12 => b"ab",
            23 => b"bc",
            123 => b"abc",
            _ => b"",
        }
    }

    #[test]
    fn an_answer_that_comes_back_cut_otherwise_is_read_as_it_was_written() {
        let replay = Replay::default();
        replay.remember(vec![9, 1, 9, 12, 3, 2, 9], 3);
        assert_eq!(replay.apply(vec![9, 1, 9, 123, 2, 9, 3, 3], bytes), [9, 1, 9, 12, 3, 2, 9, 3, 3]);
        assert_eq!(replay.apply(vec![9, 1, 9, 1, 23, 2, 9], bytes), [9, 1, 9, 12, 3, 2, 9]);
        for other in [
            vec![9, 1, 9, 123, 9],
            vec![9, 1, 9, 123, 2],
            vec![9, 1, 9, 123, 3, 9],
            vec![9, 2, 9, 123, 2, 9],
            vec![9, 1, 8, 123, 2, 9],
            vec![9, 1],
            vec![],
        ] {
            assert_eq!(replay.apply(other.clone(), bytes), other);
        }
    }

    #[test]
    fn a_later_turn_is_found_behind_an_earlier_one() {
        let replay = Replay::default();
        // The second turn's prompt holds the first answer as it was sampled.
        replay.remember(vec![9, 1, 2, 3, 9, 1, 9, 2, 3, 9], 7);
        replay.remember(vec![9, 1, 2, 3, 9], 1);
        let cut = vec![9, 123, 9, 1, 9, 23, 9, 12];
        assert_eq!(replay.apply(cut, bytes), [9, 1, 2, 3, 9, 1, 9, 2, 3, 9, 12]);
    }

    #[test]
    fn an_answer_that_ends_within_a_token_is_left_alone() {
        let replay = Replay::default();
        replay.remember(vec![9, 1, 2], 1);
        assert_eq!(replay.apply(vec![9, 123], bytes), [9, 123]);
        assert_eq!(replay.apply(vec![9, 12, 3], bytes), [9, 1, 2, 3]);
    }

    #[test]
    fn only_so_much_is_remembered() {
        let replay = Replay::default();
        for i in 0..2 * ANSWERS {
            replay.remember(vec![i as u32; 3], 1);
        }
        replay.remember(vec![7; TOKENS], 1);
        let inner = replay.0.lock().expect("nobody panicked");
        assert!(inner.recent.len() <= ANSWERS && inner.tokens <= TOKENS, "{}", inner.tokens);
        assert_eq!(inner.tokens, inner.recent.iter().map(|said| said.ids.len()).sum::<usize>());
    }
}
