//! Choosing tokens: what [`crate::Ops::sample`] needs to know of a row (how its token is to be chosen, and what was written
//! before), and what it gives: tokens that may stay on the device and go into the next pass from there.

pub use crate::cpu::choose;
use crate::{OpError, Result};
use std::fmt::Debug;

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
    /// Told as if all drafts of a round were accepted: those that the device rejected for so-manieth
    /// [`crate::rounds::Follow`] of the pass are taken from the position.
    pub behind: Option<u32>,
    /// Each token of prompt and answer once, with how often the answer has it.
    pub seen: &'a [(u32, u32)],
    /// Added to the logits of single tokens, each once, after the penalties.
    pub bias: &'a [(u32, f32)],
    /// Tokens that are not to be chosen.
    pub banned: &'a [u32],
    /// One bit per token, lowest bit first, at least `ceil(tokens / 32)` words: only tokens whose bit is set may be chosen.
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
            behind: None,
            seen: &[],
            bias: &[],
            banned: &[],
            allowed: None,
        }
    }
}

/// How many edits of single logits a row makes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Edits {
    pub penalties: usize,
    pub biases: usize,
    pub bans: usize,
}

impl SampleRow<'_> {
    /// The row where it is known how many drafts were `rejected`, per follow of the pass.
    ///
    /// # Panics
    /// If it is behind a round of which nothing is known.
    pub fn settled(&self, rejected: &[usize]) -> Self {
        let rejected = self.behind.map_or(0, |behind| rejected[behind as usize]);
        SampleRow { position: self.position - rejected as u64, behind: None, ..*self }
    }

    /// True if tokens that were seen are treated otherwise than others.
    pub fn penalises(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }

    /// How many single logits are changed.
    pub fn edited(&self) -> usize {
        let Edits { penalties, biases, bans } = self.counts();
        penalties + biases + bans
    }

    pub(crate) fn counts(&self) -> Edits {
        let penalties = if self.penalises() { self.seen.len() } else { 0 };
        Edits { penalties, biases: self.bias.len(), bans: self.banned.len() }
    }

    /// What becomes of the logits of single tokens: id, factor for negative and divisor for positive ones, then what is
    /// subtracted; infinity for a token that is banned. Penalties, then biases, then bans: an id may be among all three.
    pub(crate) fn edits(&self) -> impl Iterator<Item = (u32, f32, f32)> {
        let seen = self.seen.iter().map(|&(id, count)| {
            let written = self.presence_penalty + self.frequency_penalty * count as f32;
            (id, self.repetition_penalty, if count > 0 { written } else { 0.0 })
        });
        let penalised = self.penalises();
        let biased = self.bias.iter().map(|&(id, bias)| (id, 1.0, -bias));
        let banned = self.banned.iter().map(|&id| (id, 1.0, f32::INFINITY));
        seen.filter(move |_| penalised).chain(biased).chain(banned)
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
            && allowed.len() < tokens.div_ceil(32)
        {
            let expected = format!("at least {} words", tokens.div_ceil(32));
            return Err(OpError::shape(op, "allowed", expected, allowed.len()));
        }
        if let Some((_, bias)) = self.bias.iter().find(|(_, bias)| !bias.is_finite()) {
            return Err(OpError::shape(op, "bias", "finite numbers", bias));
        }
        once(op, "seen", self.seen.iter().map(|(id, _)| *id))?;
        once(op, "bias", self.bias.iter().map(|(id, _)| *id))
    }
}

fn once(op: &'static str, what: &'static str, ids: impl Iterator<Item = u32>) -> Result<()> {
    let mut known = std::collections::HashSet::new();
    for id in ids {
        if !known.insert(id) {
            return Err(OpError::shape(op, what, "each token once", format!("{id} twice")));
        }
    }
    Ok(())
}

/// An id from this on stands for a chosen token that only the device knows: [`Chosen::id`].
pub const CHOSEN: u32 = 1 << 31;

/// Places for chosen tokens on a device, taken round about. More than many rounds of drafts and their check need.
pub const PLACES: usize = 4096;

/// What lies in the place of a row for which no token could be chosen.
pub(crate) const NOBODY: u32 = u32::MAX;

/// True if `id` is a token of a table with `rows` rows, or stands for one that was chosen.
pub fn is_id(id: u32, rows: usize) -> bool {
    (id as usize) < rows || (CHOSEN..CHOSEN + PLACES as u32).contains(&id)
}

/// The tokens that [`crate::Ops::sample`] chooses, perhaps still while this is held.
#[derive(Debug)]
pub struct Chosen {
    first: u32,
    tokens: Tokens,
}

#[derive(Debug)]
enum Tokens {
    Here(Vec<Option<u32>>),
    There(Box<dyn Arriving>),
}

/// Bytes on their way from the device.
pub(crate) trait Arriving: Send + Debug {
    /// Waits for them.
    fn wait(self: Box<Self>) -> Result<Vec<u8>>;
}

impl Chosen {
    /// Chosen already; they lie from place `first` on.
    pub(crate) fn here(first: usize, tokens: Vec<Option<u32>>) -> Chosen {
        Chosen { first: first as u32, tokens: Tokens::Here(tokens) }
    }

    /// Of which the ids, little-endian, [`NOBODY`] for none, are on their way from place `first` on.
    pub(crate) fn there(first: usize, bytes: Box<dyn Arriving>) -> Chosen {
        Chosen { first: first as u32, tokens: Tokens::There(bytes) }
    }

    /// What stands for the token of `row` among the ids of a later pass: the token need not be known here. It is known
    /// there until [`PLACES`] more have been chosen. If none could be chosen, the pass runs with some token.
    pub fn id(&self, row: usize) -> u32 {
        CHOSEN | (self.first + row as u32)
    }

    /// Waits for the tokens; None where no allowed token's logit is a number.
    ///
    /// # Errors
    /// Those of the device, also of work before.
    pub fn wait(self) -> Result<Vec<Option<u32>>> {
        match self.tokens {
            Tokens::Here(tokens) => Ok(tokens),
            Tokens::There(bytes) => {
                let bytes = bytes.wait()?;
                let ids = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                Ok(ids.map(|id| (id != NOBODY).then_some(id)).collect())
            }
        }
    }
}

/// Gives out places round about.
#[derive(Debug, Default)]
pub(crate) struct Places {
    next: usize,
}

impl Places {
    /// The first of `rows` places in a row.
    pub fn take(&mut self, op: &'static str, rows: usize) -> Result<usize> {
        if rows > PLACES {
            return Err(OpError::shape(op, "rows", format!("at most {PLACES}"), rows));
        }
        let first = if self.next + rows > PLACES { 0 } else { self.next };
        self.next = first + rows;
        Ok(first)
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

/// Ten rounds of Philox4x32 on a 128-bit counter with a 64-bit key (Salmon et al., "Parallel random numbers: as easy as 1, 2,
/// 3", SC 2011).
fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
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
    counter
}

/// 53 random bits for the token at `position` of a request with `seed`: they depend on nothing else.
pub fn random_bits(seed: u64, position: u64) -> u64 {
    let counter = [position as u32, (position >> 32) as u32, 0, 0];
    let word = philox4x32(counter, [seed as u32, (seed >> 32) as u32]);
    (u64::from(word[0]) << 32 | u64::from(word[1])) >> 11
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_known_answers_of_random123() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]
        );
        assert_eq!(
            philox4x32([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }
}
