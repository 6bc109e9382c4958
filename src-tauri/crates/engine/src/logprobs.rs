//! How likely a token was, for requests that ask: the logarithms of the model's own probabilities (temperature 1, before
//! penalties, biases, bans and grammars), as OpenAI's API reports them. Used by the engine's step.

/// Most alternatives that may be asked for.
pub const MOST: usize = 20;

/// Probabilities of one position.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// Of the token that was chosen.
    pub chosen: f32,
    /// The likeliest tokens, likeliest first; of equal ones the lower id.
    pub top: Vec<(u32, f32)>,
}

/// The distribution of a row, kept before sampling changes its logits.
#[derive(Debug)]
pub struct Distribution {
    logits: Vec<f32>,
    /// ln of the sum of the exponentials.
    sum: f64,
}

impl Distribution {
    /// Of `logits` `[vocab]`; ids from `tokens` on are padding rows of the head.
    pub fn of(logits: &[f32], tokens: usize) -> Distribution {
        let logits = logits[..tokens.min(logits.len())].to_vec();
        let finite = || logits.iter().copied().filter(|logit| logit.is_finite());
        let max = f64::from(finite().fold(f32::NEG_INFINITY, f32::max));
        let sum = max + finite().map(|logit| (f64::from(logit) - max).exp()).sum::<f64>().ln();
        Distribution { logits, sum }
    }

    /// What is told of the position when `token` was chosen.
    pub fn report(&self, token: u32, top: usize) -> Logprobs {
        let log = |logit: f32| (f64::from(logit) - self.sum) as f32;
        let mut best: Vec<(u32, f32)> =
            (0..).zip(self.logits.iter().copied()).filter(|(_, logit)| logit.is_finite()).collect();
        let likelier = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if top > 0 && top < best.len() {
            best.select_nth_unstable_by(top - 1, likelier);
        }
        best.truncate(top);
        best.sort_unstable_by(likelier);
        let chosen = self.logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
        Logprobs { chosen: log(chosen), top: best.into_iter().map(|(id, logit)| (id, log(logit))).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithms_are_those_of_the_softmax_and_padding_is_left_out() {
        let probabilities = [0.5f32, 0.3, 0.15, 0.05];
        // A constant on all logits changes nothing.
        let logits: Vec<f32> = probabilities.iter().map(|p| p.ln() + 90.0).chain([500.0]).collect();
        let report = Distribution::of(&logits, 4).report(2, 3);
        assert!((report.chosen - 0.15f32.ln()).abs() < 1e-4, "{report:?}");
        assert_eq!(report.top.iter().map(|t| t.0).collect::<Vec<_>>(), [0, 1, 2]);
        assert!((report.top[1].1 - 0.3f32.ln()).abs() < 1e-4, "{report:?}");
    }

    #[test]
    fn alternatives_are_as_many_as_asked_for_and_ties_go_to_the_lower_id() {
        let distribution = Distribution::of(&[1.0, 2.0, 2.0, f32::NAN, f32::NEG_INFINITY], 5);
        let ids = |top| distribution.report(0, top).top.iter().map(|t| t.0).collect::<Vec<_>>();
        assert_eq!((ids(0), ids(1), ids(2), ids(9)), (vec![], vec![1], vec![1, 2], vec![1, 2, 0]));
        assert_eq!(distribution.report(4, 0).chosen, f32::NEG_INFINITY);
    }
}
