//! Drafting by copying: where the last tokens stood in the text before, what followed them is proposed again. Costs nothing
//! on the device; agents that edit files and repeat tool results are often echoed for many tokens. Used by `speculate`.
//!
//! The idea is prompt lookup and SuffixDecoding (arXiv 2411.04975), with an index of three tokens in place of suffix trees.

use std::collections::HashMap;

/// Tokens by which an earlier place is found.
const KEY: usize = 3;
/// Tokens that must be equal for the place to be believed.
const ENOUGH: usize = 6;

/// The index of one request's text.
#[derive(Debug, Default)]
pub struct Echo {
    /// Where the latest occurrence of three tokens ends.
    ends: HashMap<[u32; KEY], usize>,
    indexed: usize,
}

impl Echo {
    /// What followed the last tokens of `ids` where they stood before, at most `most` tokens; nothing if they are new. `ids`
    /// only grows from call to call.
    pub fn propose(&mut self, ids: &[u32], most: usize) -> Vec<u32> {
        let Some(last) = ids.len().checked_sub(KEY) else { return Vec::new() };
        // All but the last three, which are what is looked for.
        for start in self.indexed..last {
            self.ends.insert(key(&ids[start..]), start + KEY);
        }
        self.indexed = self.indexed.max(last);
        let Some(&end) = self.ends.get(&key(&ids[last..])) else { return Vec::new() };
        let equal = ids[..end].iter().rev().zip(ids.iter().rev()).take(ENOUGH).take_while(|(a, b)| a == b);
        if equal.count() < ENOUGH {
            return Vec::new();
        }
        ids[end..].iter().take(most).copied().collect()
    }
}

fn key(ids: &[u32]) -> [u32; KEY] {
    [ids[0], ids[1], ids[2]]
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: [u32; 0] = [];

    #[test]
    fn what_followed_the_same_tokens_before_is_proposed() {
        let mut text: Vec<u32> = (0..20).collect();
        let mut echo = Echo::default();
        assert_eq!(echo.propose(&text, 4), NOTHING);
        text.extend([90, 91]);
        text.extend(5..10);
        assert_eq!(echo.propose(&text, 4), NOTHING, "five equal tokens are not enough");
        text.push(10);
        assert_eq!(echo.propose(&text, 4), [11, 12, 13, 14]);
        assert_eq!(echo.propose(&text, 1), [11]);
        text.push(77);
        assert_eq!(echo.propose(&text, 4), NOTHING);
    }

    #[test]
    fn a_run_of_one_token_proposes_itself_and_the_latest_place_wins() {
        let mut echo = Echo::default();
        assert_eq!(echo.propose(&[7; 9], 3), [7]);
        let phrase = [1, 2, 3, 4, 5, 6];
        let text = [&phrase[..], &[10], &phrase, &[20, 21], &phrase].concat();
        assert_eq!(Echo::default().propose(&text, 2), [20, 21]);
    }

    #[test]
    fn short_texts_propose_nothing() {
        for len in 0..4 {
            assert_eq!(Echo::default().propose(&vec![1; len], 5), NOTHING);
        }
    }
}
