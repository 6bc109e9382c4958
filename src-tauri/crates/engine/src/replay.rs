//! What was said is read back as it was said. A client sends an answer back as text, and the tokenizer may cut that text into
//! other tokens than the model wrote; then keys, values and state of the whole answer would be computed anew. Here the
//! tokens that were sampled take the place of others that mean the same bytes, or that whoever sent them knows to mean the
//! same: clients write the arguments of tool calls anew and leave the reasoning out. Used by `Engine::encode`.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

/// Answers that are remembered at most, and tokens of them with their prompts.
const ANSWERS: usize = 256;
const TOKENS: usize = 4 << 20;

/// A prompt with the answer it got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Tokens of both.
    pub ids: Vec<u32>,
    /// How many of them are the prompt.
    pub prompt: usize,
}

/// An answer that was given to the very text before it, and what stands in its place now.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'a> {
    /// The end of the text before: a few tokens.
    pub before: &'a str,
    /// The answer, without its end token.
    pub sampled: &'a str,
    /// What came back, up to the next special token.
    pub sent: &'a str,
}

/// Whether both mean the same.
pub type Recognise<'a> = &'a dyn Fn(&Turn<'_>) -> bool;

/// Tokens of the text before an answer that are shown to [`Recognise`].
const BEFORE: usize = 8;

/// The recent answers.
#[derive(Debug, Default)]
pub struct Replay(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    recent: VecDeque<Arc<Said>>,
    tokens: usize,
    /// Answers remembered so far.
    count: u64,
}

impl Replay {
    /// Remembers an answer: `ids` from `prompt` on.
    pub fn remember(&self, ids: Vec<u32>, prompt: usize) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.tokens += ids.len();
        inner.count += 1;
        inner.recent.push_back(Arc::new(Said { ids, prompt }));
        while inner.recent.len() > ANSWERS || inner.tokens > TOKENS {
            let Some(oldest) = inner.recent.pop_front() else { break };
            inner.tokens -= oldest.ids.len();
        }
    }

    /// How many answers were remembered so far.
    pub fn count(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).count
    }

    /// The answers, oldest first.
    pub fn all(&self) -> Vec<Arc<Said>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).recent.iter().cloned().collect()
    }

    /// `ids`, with every answer that was given to what stands before it in the tokens that were sampled. `bytes` says what
    /// a token stands for: nothing for a special one, which only equals itself. Answers of other bytes are left alone unless
    /// `recognise` knows them.
    pub fn apply<'a>(
        &self,
        mut ids: Vec<u32>,
        bytes: impl Fn(u32) -> &'a [u8],
        recognise: Option<Recognise<'_>>,
    ) -> Vec<u32> {
        let mut said: Vec<Arc<Said>> =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).recent.iter().rev().cloned().collect();
        // Earlier turns first: only then does the prompt of a later one stand there as it was read. Of several answers to
        // one prompt the last one first.
        said.sort_by_key(|said| said.prompt);
        for alike in said.chunk_by(|a, b| a.prompt == b.prompt) {
            if alike.iter().any(|said| ids.starts_with(&said.ids)) {
                continue;
            }
            let same = |said: &Arc<Said>| {
                let rest = ids.strip_prefix(&said.ids[..said.prompt])?;
                let same = same_bytes(&said.ids[said.prompt..], rest, &bytes)?;
                Some([&said.ids[..], &rest[same..]].concat())
            };
            let meant = |said: &Arc<Said>| said.meant(&ids, &bytes, recognise?);
            if let Some(replaced) = alike.iter().find_map(same).or_else(|| alike.iter().find_map(meant)) {
                ids = replaced;
            }
        }
        ids
    }
}

impl Said {
    /// `ids` with this answer in the place of a turn that means the same; None if there is none.
    fn meant<'a>(
        &self,
        ids: &[u32],
        bytes: &impl Fn(u32) -> &'a [u8],
        recognise: Recognise<'_>,
    ) -> Option<Vec<u32>> {
        let (prompt, answer) = self.ids.split_at(self.prompt);
        let common = prompt.iter().zip(ids).take_while(|(a, b)| a == b).count();
        // The answer may begin within a token of what came back: `<think>` and one or two line breaks.
        let (taken, begun) = walk(&prompt[common..], &ids[common..], bytes)?;
        let rest = &ids[common + taken..];
        let end = rest.iter().position(|id| bytes(*id).is_empty())?;
        let answer = answer.strip_suffix(&rest[end..=end]).unwrap_or(answer);
        if answer.iter().any(|id| bytes(*id).is_empty()) {
            return None;
        }
        let text = |ids: &[u32]| ids.iter().flat_map(|id| bytes(*id)).copied().collect::<Vec<u8>>();
        let before = text(&prompt[prompt.len().saturating_sub(BEFORE)..]);
        let (sampled, sent) = (text(answer), [begun, &text(&rest[..end])].concat());
        let turn = Turn {
            before: &String::from_utf8_lossy(&before),
            sampled: std::str::from_utf8(&sampled).ok()?,
            sent: std::str::from_utf8(&sent).ok()?,
        };
        recognise(&turn).then(|| [prompt, answer, &rest[end..]].concat())
    }
}

/// How many tokens of `text` mean exactly what all of `answer` means; None if it begins otherwise, or if the end of the
/// answer lies within a token.
fn same_bytes<'a>(answer: &[u32], text: &[u32], bytes: &impl Fn(u32) -> &'a [u8]) -> Option<usize> {
    walk(answer, text, bytes).filter(|(_, rest)| rest.is_empty()).map(|(taken, _)| taken)
}

/// How many tokens of `text` it takes to mean what all of `beginning` means, and what the last of them means beyond that;
/// None if the text begins otherwise.
fn walk<'a>(beginning: &[u32], text: &[u32], bytes: &impl Fn(u32) -> &'a [u8]) -> Option<(usize, &'a [u8])> {
    let (mut taken, mut rest): (usize, &[u8]) = (0, &[]);
    for &id in beginning {
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
    Some((taken, rest))
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
        assert_eq!(replay.apply(vec![9, 1, 9, 123, 2, 9, 3, 3], bytes, None), [9, 1, 9, 12, 3, 2, 9, 3, 3]);
        assert_eq!(replay.apply(vec![9, 1, 9, 1, 23, 2, 9], bytes, None), [9, 1, 9, 12, 3, 2, 9]);
        for other in [
            vec![9, 1, 9, 123, 9],
            vec![9, 1, 9, 123, 2],
            vec![9, 1, 9, 123, 3, 9],
            vec![9, 2, 9, 123, 2, 9],
            vec![9, 1, 8, 123, 2, 9],
            vec![9, 1],
            vec![],
        ] {
            assert_eq!(replay.apply(other.clone(), bytes, None), other);
        }
    }

    #[test]
    fn a_later_turn_is_found_behind_an_earlier_one() {
        let replay = Replay::default();
        // The second turn's prompt holds the first answer as it was sampled.
        replay.remember(vec![9, 1, 2, 3, 9, 1, 9, 2, 3, 9], 7);
        replay.remember(vec![9, 1, 2, 3, 9], 1);
        let cut = vec![9, 123, 9, 1, 9, 23, 9, 12];
        assert_eq!(replay.apply(cut, bytes, None), [9, 1, 2, 3, 9, 1, 9, 2, 3, 9, 12]);
    }

    #[test]
    fn an_answer_that_ends_within_a_token_is_left_alone() {
        let replay = Replay::default();
        replay.remember(vec![9, 1, 2], 1);
        assert_eq!(replay.apply(vec![9, 123], bytes, None), [9, 123]);
        assert_eq!(replay.apply(vec![9, 12, 3], bytes, None), [9, 1, 2, 3]);
    }

    #[test]
    fn an_answer_that_is_recognised_takes_the_place_of_other_bytes_up_to_the_next_special_token() {
        let replay = Replay::default();
        // To "..a" it said "bc", and to the same "cc" before that.
        replay.remember(vec![9, 1, 3, 3, 9], 2);
        replay.remember(vec![9, 1, 23, 9], 2);
        let like = |sampled: &'static str, sent: &'static str| {
            move |turn: &Turn<'_>| (turn.before, turn.sampled, turn.sent) == ("a", sampled, sent)
        };
        let sent = || vec![9, 1, 2, 2, 9, 3];
        assert_eq!(replay.apply(sent(), bytes, Some(&like("bc", "bb"))), [9, 1, 23, 9, 3]);
        assert_eq!(replay.apply(sent(), bytes, Some(&like("cc", "bb"))), [9, 1, 3, 3, 9, 3]);
        assert_eq!(replay.apply(sent(), bytes, Some(&|_| false)), sent());
        // The prompt ends within a token of what came back.
        let joined = vec![9, 12, 2, 9, 3];
        assert_eq!(replay.apply(joined, bytes, Some(&like("bc", "bb"))), [9, 1, 23, 9, 3]);
        // What is the answer already is left, whatever is thought of it; so is a turn that has not ended.
        assert_eq!(replay.apply(vec![9, 1, 3, 3, 9], bytes, Some(&|_| true)), [9, 1, 3, 3, 9]);
        assert_eq!(replay.apply(vec![9, 1, 2, 2], bytes, Some(&|_| true)), [9, 1, 2, 2]);
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
