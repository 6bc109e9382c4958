//! What [`crate::Ops::sample`] needs to know of a row: how its token is to be chosen, and what was written before.

use crate::{OpError, Result};

/// Greatest weight of a token, as an integer: that of the most likely one. Weights are integers so that sums of them do
/// not depend on their order; a token less than 2^-40 as likely as the first is never drawn.
pub(crate) const WHOLE: f32 = (1u64 << 40) as f32;

/// How the token of one row is chosen. Ranges as the engine checks them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleRow<'a> {
    /// 0: the most likely token (ties: the lowest id). Otherwise logits are divided by it.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this fraction as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Subtracted from the logit of every token written before.
    pub presence_penalty: f32,
    /// Subtracted once per earlier occurrence in the answer.
    pub frequency_penalty: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or answer; 1 is off.
    pub repetition_penalty: f32,
    /// Key of the random numbers.
    pub seed: u64,
    /// Their counter: the position of the token in its sequence.
    pub position: u64,
    /// Each token of prompt and answer once, with how often the answer has it.
    pub seen: &'a [(u32, u32)],
    /// Tokens that are not to be chosen.
    pub banned: &'a [u32],
    /// One bit per token, lowest bit first, `ceil(tokens / 32)` words: only tokens whose bit is set may be chosen.
    pub allowed: Option<&'a [u32]>,
}

impl Default for SampleRow<'_> {
    fn default() -> Self {
        SampleRow {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
            position: 0,
            seen: &[],
            banned: &[],
            allowed: None,
        }
    }
}

impl SampleRow<'_> {
    /// What becomes of the logits of single tokens: id, factor for negative and divisor for positive ones, then what is
    /// subtracted; infinity for a token that is banned. An id may come twice, the ban last.
    pub(crate) fn edits(&self) -> impl Iterator<Item = (u32, f32, f32)> {
        let seen = self.seen.iter().map(|&(id, count)| {
            let written = self.presence_penalty + self.frequency_penalty * count as f32;
            (id, self.repetition_penalty, if count > 0 { written } else { 0.0 })
        });
        let penalised =
            self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0;
        seen.filter(move |_| penalised).chain(self.banned.iter().map(|&id| (id, 1.0, f32::INFINITY)))
    }

    /// Refuses settings that no formula covers, a mask of the wrong size, and a token that is listed twice.
    pub(crate) fn check(&self, op: &'static str, tokens: usize) -> Result<()> {
        for (what, value, good) in [
            ("temperature", self.temperature, self.temperature >= 0.0),
            ("top_p", self.top_p, (0.0..=1.0).contains(&self.top_p)),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p)),
            ("repetition penalty", self.repetition_penalty, self.repetition_penalty > 0.0),
        ] {
            if !good || !value.is_finite() {
                return Err(OpError::shape(op, what, "a number in its range", value));
            }
        }
        if let Some(allowed) = self.allowed
            && allowed.len() != tokens.div_ceil(32)
        {
            let expected = format!("{} words", tokens.div_ceil(32));
            return Err(OpError::shape(op, "allowed", expected, allowed.len()));
        }
        let mut ids = std::collections::HashSet::new();
        match self.seen.iter().find(|(id, _)| !ids.insert(*id)) {
            Some((id, _)) => Err(OpError::shape(op, "seen", "each token once", format!("{id} twice"))),
            None => Ok(()),
        }
    }
}

/// How many drafted tokens stand: the leading ones that equal what the rows before them chose. `chosen[i]` is the token
/// of the row after which `drafts[i]` was proposed; the token that follows the accepted ones is `chosen[accepted]`.
///
/// For greedy rows this is equality with plain decoding. For drawn ones it is the rejection rule of speculative sampling
/// (arXiv 2211.17192, algorithm 1) for a drafter that proposes one token with certainty: the row's own draw x ~ p equals
/// the draft d with probability p(d), which accepts it, and given that it does not, x is drawn from p without d. Nothing is
/// lost, and as the draw depends on seed and position only, the tokens are those of a run without drafts.
pub fn accepted(chosen: &[Option<u32>], drafts: &[u32]) -> usize {
    chosen.iter().zip(drafts).take_while(|(chosen, draft)| **chosen == Some(**draft)).count()
}

const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// 53 random bits for the token at `position` of a request with `seed`: Philox4x32-10 (Salmon et al., "Parallel random
/// numbers: as easy as 1, 2, 3", SC 2011).
pub(crate) fn random_bits(seed: u64, position: u64) -> u64 {
    let mut counter = [position as u32, (position >> 32) as u32, 0, 0];
    let mut key = [seed as u32, (seed >> 32) as u32];
    for _ in 0..10 {
        let a = u64::from(MULTIPLIER[0]) * u64::from(counter[0]);
        let b = u64::from(MULTIPLIER[1]) * u64::from(counter[2]);
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    (u64::from(counter[0]) << 32 | u64::from(counter[1])) >> 11
}
