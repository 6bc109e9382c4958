//! From logits to a token: penalties, temperature, top-k, top-p, min-p, then one draw. Called by the engine's step for
//! every row that produced logits. The draw depends on seed and position only, so company never changes a result.

use std::{collections::HashMap, sync::Arc};

use crate::random;

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

    fn penalises(&self) -> bool {
        self.presence_penalty != 0.0 || self.frequency_penalty != 0.0 || self.repetition_penalty != 1.0
    }
}

/// The tokens a request has seen, counted for the penalties.
#[derive(Debug, Default)]
pub struct Seen {
    prompt: std::collections::HashSet<u32>,
    written: HashMap<u32, u32>,
}

impl Seen {
    /// Counts the prompt only if a penalty will ask for it.
    pub fn new(prompt: &[u32], sampling: &Sampling) -> Seen {
        let prompt = if sampling.penalises() { prompt.iter().copied().collect() } else { Default::default() };
        Seen { prompt, written: HashMap::new() }
    }

    /// Counts a token of the answer.
    pub fn write(&mut self, token: u32) {
        *self.written.entry(token).or_default() += 1;
    }
}

/// The token at `position`, or None if no logit of an allowed token is a number.
///
/// `logits` `[vocab]`, changed in place; ids from `tokens` on are padding rows of the head and never chosen, nor are the
/// ids in `banned`. Ties go to the lower id.
pub fn sample(
    logits: &mut [f32],
    tokens: usize,
    banned: &[u32],
    sampling: &Sampling,
    seen: &Seen,
    position: u64,
) -> Option<u32> {
    let tokens = tokens.min(logits.len());
    let logits = &mut logits[..tokens];
    for &id in banned {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
    if sampling.penalises() {
        penalise(logits, sampling, seen);
    }
    for &(id, bias) in sampling.logit_bias.iter() {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit += bias;
        }
    }
    if sampling.temperature == 0.0 {
        return greedy(logits);
    }
    draw(logits, sampling, random::uniform(sampling.seed, position))
}

/// Leaves only the tokens whose bit is set in `allowed` (lowest bit first), before [`sample`] chooses.
pub fn allow(logits: &mut [f32], allowed: &[u32]) {
    for (logits, word) in logits.chunks_mut(32).zip(allowed.iter().copied().chain(std::iter::repeat(0))) {
        for (bit, logit) in logits.iter_mut().enumerate() {
            if word >> bit & 1 == 0 {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}

fn penalise(logits: &mut [f32], sampling: &Sampling, seen: &Seen) {
    let repeat = sampling.repetition_penalty;
    if repeat != 1.0 {
        for &id in seen.prompt.iter().filter(|id| !seen.written.contains_key(id)).chain(seen.written.keys()) {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = if *logit > 0.0 { *logit / repeat } else { *logit * repeat };
            }
        }
    }
    for (&id, &count) in &seen.written {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit -= sampling.presence_penalty + sampling.frequency_penalty * count as f32;
        }
    }
}

fn greedy(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(usize, f32)> = None;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > best.map_or(f32::NEG_INFINITY, |(_, value)| value) {
            best = Some((id, logit));
        }
    }
    best.map(|(id, _)| id as u32)
}

/// Temperature, top-k, top-p and min-p in the order of Hugging Face's processors, then the inverse of the cumulative
/// probability at `u`, most likely token first.
fn draw(logits: &[f32], sampling: &Sampling, u: f64) -> Option<u32> {
    let max = logits.iter().copied().filter(|l| l.is_finite()).fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY {
        return None;
    }
    let mut finite: Vec<(u32, f32)> =
        (0..).zip(logits.iter().copied()).filter(|(_, logit)| logit.is_finite()).collect();
    let top_k = sampling.top_k as usize;
    if top_k > 0 && top_k < finite.len() {
        finite.select_nth_unstable_by(top_k - 1, |a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        finite.truncate(top_k);
    }
    // Weights relative to the most likely token, so that its own is 1.
    let weight = |logit: f32| f64::from((logit - max) / sampling.temperature).exp();
    let mut kept: Vec<(u32, f64)> = finite.into_iter().map(|(id, logit)| (id, weight(logit))).collect();
    let total: f64 = kept.iter().map(|k| k.1).sum();
    let top_p = f64::from(sampling.top_p);
    // Tokens below this weight add up to less than 1 - top_p together, so the kept set is full before they are
    // reached; leaving them out first makes the sort short.
    let floor = ((1.0 - top_p) * total / kept.len() as f64).max(f64::from(sampling.min_p));
    kept.retain(|k| k.1 >= floor.min(1.0));
    kept.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut sum = 0.0;
    let end = kept.iter().position(|k| {
        sum += k.1;
        sum >= top_p * total
    });
    kept.truncate(end.map_or(kept.len(), |i| i + 1));
    let total: f64 = kept.iter().map(|k| k.1).sum();
    let mut left = u * total;
    for &(id, weight) in &kept {
        left -= weight;
        if left < 0.0 {
            return Some(id);
        }
    }
    kept.last().map(|k| k.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(logits: &[f32], sampling: &Sampling, draws: u64) -> Vec<f64> {
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
            let sampling = Sampling { temperature, ..Default::default() };
            let mut logits: Vec<f32> = (0..70).map(|i| i as f32).collect();
            allow(&mut logits, &[1 << 5, 1 << 3]);
            let id = sample(&mut logits, 70, &[], &sampling, &Seen::default(), 1);
            assert_eq!(id, Some(35));
            allow(&mut logits, &[0]);
            assert_eq!(sample(&mut logits, 70, &[], &sampling, &Seen::default(), 1), None);
        }
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

    #[test]
    fn the_op_of_the_kernels_chooses_the_same_tokens() {
        use hearth_kernels::{DType, Ops, cpu::Cpu, sample::SampleRow};
        let ops = Cpu::new(Some(1)).expect("a CPU");
        let vocab = 600;
        for position in 0..300u64 {
            let at = |name: u64, i: u64| random::uniform(name, position << 16 | i);
            let mut logits: Vec<f32> =
                (0..vocab).map(|i| ((at(1, i) - 0.5) * 16.0).round() as f32 + at(2, i) as f32).collect();
            logits[7] = f32::NAN;
            let pick = |name: u64, values: &[f32]| values[(at(name, 0) * values.len() as f64) as usize];
            let sampling = Sampling {
                temperature: pick(3, &[0.0, 0.6, 1.0, 1.7]),
                top_k: pick(4, &[0.0, 1.0, 20.0]) as u32,
                top_p: pick(5, &[1.0, 0.95, 0.5, 0.0]),
                min_p: pick(6, &[0.0, 0.05]),
                presence_penalty: pick(7, &[0.0, 1.5]),
                frequency_penalty: pick(8, &[0.0, 0.2]),
                repetition_penalty: pick(9, &[1.0, 1.2]),
                seed: 17,
                ..Sampling::default()
            };
            let mut seen = Seen::new(&[1, 2, 3, 400], &sampling);
            [2, 2, 5, 599].iter().for_each(|id| seen.write(*id));
            let bytes: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
            let mut tensor =
                ops.upload(DType::F32, &bytes, DType::F32, &[1, vocab as usize]).expect("memory");
            let row = SampleRow {
                temperature: sampling.temperature,
                top_k: sampling.top_k,
                top_p: sampling.top_p,
                min_p: sampling.min_p,
                presence_penalty: sampling.presence_penalty,
                frequency_penalty: sampling.frequency_penalty,
                repetition_penalty: sampling.repetition_penalty,
                seed: sampling.seed,
                position,
                seen: &[(1, 0), (2, 2), (3, 0), (400, 0), (5, 1), (599, 1)],
                banned: &[44, 45],
                allowed: None,
            };
            let theirs = ops.sample(&mut tensor, 590, &[row]).expect("a good row");
            let ours = sample(&mut logits, 590, &[44, 45], &sampling, &seen, position);
            assert_eq!(theirs[0], ours, "{sampling:?} at {position}");
        }
    }
}
