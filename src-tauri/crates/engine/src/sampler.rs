//! How a request wants its tokens chosen, and what it has seen. The choice itself is the op `sample` of the kernels, on the
//! device or here: it depends on logits, settings, seed and position only, so company never changes a result.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use hearth_kernels::sample::SampleRow;

/// How a request wants its tokens chosen. The ranges are checked by [`Sampling::check`].
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0: always the most likely token. At most 2.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this fraction as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Subtracted from the logit of every token written before. -2..=2.
    pub presence_penalty: f32,
    /// Subtracted once per earlier occurrence in the answer. -2..=2.
    pub frequency_penalty: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or answer; 1 is off.
    /// (Keskar et al., arXiv 1909.05858, section 4.1)
    pub repetition_penalty: f32,
    /// Added to the logits of single tokens, whatever was written. -100..=100.
    pub logit_bias: Arc<[(u32, f32)]>,
    /// Same seed, same prompt, same settings: same tokens.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Arc::default(),
            seed: 0,
        }
    }
}

/// A sampling value outside its range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("'{name}' must be a number from {low} to {high}, not {value}")]
pub struct OutOfRange {
    /// Which setting.
    pub name: &'static str,
    /// Smallest allowed value.
    pub low: f32,
    /// Largest allowed value.
    pub high: f32,
    /// What was asked for.
    pub value: f32,
}

impl Sampling {
    /// Refuses values outside their range, NaN and infinities included.
    pub fn check(&self) -> Result<(), OutOfRange> {
        for (name, value, low, high) in [
            ("temperature", self.temperature, 0.0, 2.0),
            ("top_p", self.top_p, 0.0, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("presence_penalty", self.presence_penalty, -2.0, 2.0),
            ("frequency_penalty", self.frequency_penalty, -2.0, 2.0),
            ("repetition_penalty", self.repetition_penalty, 0.01, 10.0),
        ] {
            // A NaN fails every comparison, so it is refused too.
            if !(low..=high).contains(&value) {
                return Err(OutOfRange { name, low, high, value });
            }
        }
        let (low, high) = (-100.0, 100.0);
        match self.logit_bias.iter().find(|(_, bias)| !(low..=high).contains(bias)) {
            Some(&(_, value)) => Err(OutOfRange { name: "logit_bias", low, high, value }),
            None => Ok(()),
        }
    }

    /// Whether what was seen changes what comes.
    pub fn penalises(&self) -> bool {
        self.presence_penalty != 0.0 || self.frequency_penalty != 0.0 || self.repetition_penalty != 1.0
    }

    /// How the token at `position` is chosen; `banned` ids never are, `allowed` is as in [`SampleRow`].
    pub fn row<'a>(
        &'a self,
        position: usize,
        seen: &'a [(u32, u32)],
        banned: &'a [u32],
        allowed: Option<&'a [u32]>,
    ) -> SampleRow<'a> {
        SampleRow {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
            position: position as u64,
            behind: None,
            seen,
            bias: &self.logit_bias,
            banned,
            allowed,
        }
    }
}

/// The tokens a request has seen, as far as penalties will ask for them.
#[derive(Debug, Default)]
pub struct Seen {
    /// Each once, with how often the answer has it.
    tokens: Vec<(u32, u32)>,
    /// Where each is in the list.
    places: HashMap<u32, usize>,
    /// False: nobody will ask.
    asked: bool,
}

impl Seen {
    /// Those of the prompt; they matter to the repetition penalty only.
    pub fn new(prompt: &[u32], sampling: &Sampling) -> Seen {
        let mut seen = Seen { asked: sampling.penalises(), ..Seen::default() };
        if sampling.repetition_penalty != 1.0 {
            prompt.iter().for_each(|token| {
                seen.place(*token);
            });
        }
        seen
    }

    /// Counts a token of the answer.
    pub fn write(&mut self, token: u32) {
        if self.asked {
            let place = self.place(token);
            self.tokens[place].1 += 1;
        }
    }

    fn place(&mut self, token: u32) -> usize {
        let place = *self.places.entry(token).or_insert(self.tokens.len());
        if place == self.tokens.len() {
            self.tokens.push((token, 0));
        }
        place
    }

    /// All of them.
    pub fn tokens(&self) -> &[(u32, u32)] {
        &self.tokens
    }

    /// As if these had been written, too.
    pub fn with(&self, drafts: &[u32]) -> Cow<'_, [(u32, u32)]> {
        if !self.asked || drafts.is_empty() {
            return Cow::Borrowed(&self.tokens);
        }
        let mut tokens = self.tokens.clone();
        for draft in drafts {
            let new = || tokens[self.tokens.len()..].iter().position(|(token, _)| token == draft);
            let known = self.places.get(draft).copied();
            match known.or_else(|| new().map(|at| self.tokens.len() + at)) {
                Some(place) => tokens[place].1 += 1,
                None => tokens.push((*draft, 1)),
            }
        }
        Cow::Owned(tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_kernels::sample::choose;

    /// The token at `position` of `tokens`, as a host chooses it.
    fn sample(
        logits: &mut [f32],
        tokens: usize,
        banned: &[u32],
        sampling: &Sampling,
        seen: &Seen,
        position: usize,
    ) -> Option<u32> {
        choose(&mut logits[..tokens], &sampling.row(position, seen.tokens(), banned, None))
    }

    fn share(logits: &[f32], sampling: &Sampling, draws: usize) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        for position in 0..draws {
            let id = sample(&mut logits.to_vec(), logits.len(), &[], sampling, &Seen::default(), position);
            counts[id.expect("logits are finite") as usize] += 1.0 / draws as f64;
        }
        counts
    }

    fn logs(p: &[f32]) -> Vec<f32> {
        p.iter().map(|p| p.ln()).collect()
    }

    #[test]
    fn draws_follow_the_softmax_of_the_logits() {
        let expected = [0.5, 0.3, 0.15, 0.05];
        let found = share(&logs(&expected), &Sampling { seed: 11, ..Default::default() }, 20_000);
        for (f, e) in found.iter().zip(expected) {
            assert!((f - f64::from(e)).abs() < 0.015, "{found:?}");
        }
    }

    #[test]
    fn temperature_sharpens_and_flattens() {
        let logits = logs(&[0.6, 0.4]);
        let cold = share(&logits, &Sampling { temperature: 0.5, ..Default::default() }, 10_000);
        let hot = share(&logits, &Sampling { temperature: 2.0, ..Default::default() }, 10_000);
        assert!((cold[0] - 0.36 / 0.52).abs() < 0.02, "{cold:?}");
        let root = 0.6f64.sqrt() / (0.6f64.sqrt() + 0.4f64.sqrt());
        assert!((hot[0] - root).abs() < 0.02, "{hot:?}");
    }

    #[test]
    fn top_k_top_p_and_min_p_cut_the_tail_and_share_out_the_rest() {
        let logits = logs(&[0.15, 0.5, 0.05, 0.3]);
        for sampling in [
            Sampling { top_k: 2, ..Default::default() },
            Sampling { top_p: 0.75, ..Default::default() },
            Sampling { top_p: 0.55, ..Default::default() },
            Sampling { min_p: 0.5, ..Default::default() },
        ] {
            let found = share(&logits, &sampling, 10_000);
            assert_eq!((found[0], found[2]), (0.0, 0.0), "{sampling:?}");
            assert!((found[1] - 0.625).abs() < 0.02, "{sampling:?} {found:?}");
        }
    }

    #[test]
    fn a_top_p_of_zero_keeps_the_most_likely_token() {
        let found = share(&logs(&[0.3, 0.4, 0.3]), &Sampling { top_p: 0.0, ..Default::default() }, 100);
        assert!((found[1] - 1.0).abs() < 1e-9);
    }

    #[test]
    fn temperature_zero_is_greedy_and_ties_go_to_the_lower_id() {
        let sampling = Sampling { temperature: 0.0, ..Default::default() };
        let mut logits = vec![1.0, 3.0, 3.0, 2.0];
        assert_eq!(sample(&mut logits, 4, &[], &sampling, &Seen::default(), 0), Some(1));
    }

    #[test]
    fn padding_rows_and_banned_ids_are_never_chosen() {
        for temperature in [0.0, 1.0] {
            let sampling = Sampling { temperature, ..Default::default() };
            for position in 0..200 {
                let mut logits = vec![0.0, 50.0, 1.0, 90.0, 99.0];
                let id = sample(&mut logits, 3, &[1], &sampling, &Seen::default(), position);
                assert!(matches!(id, Some(0 | 2)), "{id:?}");
            }
        }
    }

    #[test]
    fn logits_that_are_not_numbers_are_skipped_and_reported_when_nothing_is_left() {
        for temperature in [0.0, 1.0] {
            let sampling = Sampling { temperature, ..Default::default() };
            let mut some = vec![f32::NAN, 1.0, f32::NEG_INFINITY];
            assert_eq!(sample(&mut some, 3, &[], &sampling, &Seen::default(), 0), Some(1));
            let mut none = vec![f32::NAN; 3];
            assert_eq!(sample(&mut none, 3, &[], &sampling, &Seen::default(), 0), None);
        }
    }

    #[test]
    fn penalties_lower_what_was_written_and_repetition_also_what_was_read() {
        let base = Sampling { temperature: 0.0, ..Default::default() };
        let presence = Sampling { presence_penalty: 1.5, ..base.clone() };
        let mut seen = Seen::new(&[0], &presence);
        assert_eq!(sample(&mut [2.0, 1.0], 2, &[], &presence, &seen, 0), Some(0));
        seen.write(0);
        assert_eq!(sample(&mut [2.0, 1.0], 2, &[], &presence, &seen, 0), Some(1));

        let frequency = Sampling { frequency_penalty: 0.6, ..base.clone() };
        let mut seen = Seen::new(&[], &frequency);
        seen.write(0);
        assert_eq!(sample(&mut [2.0, 1.0], 2, &[], &frequency, &seen, 0), Some(0));
        seen.write(0);
        assert_eq!(sample(&mut [2.0, 1.0], 2, &[], &frequency, &seen, 0), Some(1));

        let repetition = Sampling { repetition_penalty: 3.0, ..base };
        let seen = Seen::new(&[0], &repetition);
        assert_eq!(sample(&mut [2.0, 1.0], 2, &[], &repetition, &seen, 0), Some(1));
        assert_eq!(sample(&mut [-0.5, -1.0], 2, &[], &repetition, &seen, 0), Some(1));
    }

    #[test]
    fn a_bias_moves_single_tokens_and_ids_beyond_the_vocabulary_move_nothing() {
        let sampling = |bias: &[(u32, f32)]| Sampling { logit_bias: bias.into(), ..Default::default() };
        let share = |bias: &[(u32, f32)]| share(&logs(&[0.5, 0.3, 0.2]), &sampling(bias), 10_000);
        let found = share(&[(1, -100.0), (99, 5.0)]);
        assert_eq!(found[1], 0.0, "{found:?}");
        assert!((found[0] - 0.5 / 0.7).abs() < 0.02, "{found:?}");
        assert!((share(&[(2, 100.0)])[2] - 1.0).abs() < 1e-9);
        assert!((share(&[(2, 1.5f32.ln())])[2] - 0.3 / 1.1).abs() < 0.02);
    }

    #[test]
    fn only_allowed_tokens_are_chosen_and_words_that_are_missing_allow_nothing() {
        for temperature in [0.0, 1.0] {
            let sampling = Sampling { temperature, ..Sampling::default() };
            let choose = |allowed: &[u32]| {
                let mut logits: Vec<f32> = (0..70).map(|i| i as f32).collect();
                choose(&mut logits, &sampling.row(1, &[], &[], Some(allowed)))
            };
            assert_eq!(choose(&[1 << 5, 1 << 3]), Some(35));
            assert_eq!(choose(&[0]), None);
        }
    }

    #[test]
    fn drafts_count_as_if_they_had_been_written() {
        let sampling = Sampling { frequency_penalty: 0.5, repetition_penalty: 1.1, ..Sampling::default() };
        let mut seen = Seen::new(&[7, 8, 7], &sampling);
        seen.write(9);
        assert_eq!(seen.with(&[]), seen.tokens());
        let ahead = seen.with(&[8, 5, 5, 9]).into_owned();
        [8, 5, 5, 9].iter().for_each(|token| seen.write(*token));
        assert_eq!(ahead, seen.tokens());
        assert_eq!(ahead, [(7, 0), (8, 1), (9, 2), (5, 2)]);
        let mut unasked = Seen::new(&[7], &Sampling::default());
        unasked.write(9);
        assert!(unasked.tokens().is_empty() && unasked.with(&[3]).is_empty());
        let presence = Sampling { presence_penalty: 1.0, ..Sampling::default() };
        assert!(Seen::new(&[7], &presence).tokens().is_empty(), "only the answer matters to it");
    }

    #[test]
    fn the_same_seed_and_position_give_the_same_token_and_another_seed_other_ones() {
        let logits: Vec<f32> = (0..50).map(|i| (i % 7) as f32 * 0.1).collect();
        let tokens = |seed| -> Vec<u32> {
            (0..40)
                .map(|position| {
                    let sampling = Sampling { seed, ..Default::default() };
                    sample(&mut logits.clone(), 50, &[], &sampling, &Seen::default(), position)
                        .expect("logits are finite")
                })
                .collect()
        };
        assert_eq!(tokens(3), tokens(3));
        assert_ne!(tokens(3), tokens(4));
    }

    #[test]
    fn values_out_of_range_nan_and_infinity_are_refused_by_name() {
        for (sampling, name) in [
            (Sampling { temperature: -0.1, ..Default::default() }, "temperature"),
            (Sampling { temperature: f32::NAN, ..Default::default() }, "temperature"),
            (Sampling { top_p: f32::INFINITY, ..Default::default() }, "top_p"),
            (Sampling { min_p: 1.1, ..Default::default() }, "min_p"),
            (Sampling { presence_penalty: -3.0, ..Default::default() }, "presence_penalty"),
            (Sampling { repetition_penalty: 0.0, ..Default::default() }, "repetition_penalty"),
            (Sampling { logit_bias: [(3, 101.0)].into(), ..Default::default() }, "logit_bias"),
        ] {
            assert_eq!(sampling.check().expect_err("out of range").name, name);
        }
        assert_eq!(Sampling::default().check(), Ok(()));
    }
}
