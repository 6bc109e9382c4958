//! Contexts beyond the one a model was trained for: YaRN (arXiv 2309.00071), which slows its rotary positions down. A config
//! may ask for it; else it is on only where a person asks for more tokens than the model's own, see `ModelSpec::stretched`.

use crate::ModelError;
use crate::spec::{Mixer, ModelSpec};
use hearth_kernels::ops::Yarn as Rotation;
use serde::{Deserialize, Serialize};
use std::f64::consts::TAU;

/// The numbers of a config that stretches positions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Yarn {
    /// How many times longer the context is.
    pub factor: f64,
    /// Context the model was trained for, tokens.
    pub original: usize,
    /// Turns over that context from which on a pair stays as it is.
    pub beta_fast: f64,
    /// Turns below which a pair is slowed down by the whole factor.
    pub beta_slow: f64,
    /// Whether the ends of the ramp between them are moved to whole pairs.
    pub truncate: bool,
    /// What cosine and sine are multiplied with.
    pub magnitude: f64,
}

impl Yarn {
    /// The numbers that the paper recommends.
    pub fn by(factor: f64, original: usize) -> Yarn {
        let magnitude = Yarn::spread(factor, 1.0);
        Yarn { factor, original, beta_fast: 32.0, beta_slow: 1.0, truncate: true, magnitude }
    }

    /// 0.1 m ln(factor) + 1, which keeps scores as far apart as they were (section 3.4 of the paper).
    pub(crate) fn spread(factor: f64, m: f64) -> f64 {
        if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 }
    }

    /// The context it reaches, tokens.
    pub fn context(&self) -> usize {
        (self.factor * self.original as f64) as usize
    }

    /// What the ops need of it for heads that rotate `dims` dimensions to the base `theta`.
    pub fn rotation(&self, dims: usize, theta: f32) -> Rotation {
        // A base of 1 would turn every pair alike; it must not turn into a division by zero.
        let (dims, base) = (dims as f64, f64::from(theta).ln().max(1e-9));
        // The pair that turns so many times over the trained context.
        let pair = |turns: f64| dims * (self.original as f64 / (turns * TAU)).ln() / (2.0 * base);
        let (mut first, mut last) = (pair(self.beta_fast), pair(self.beta_slow));
        if self.truncate {
            (first, last) = (first.floor(), last.ceil());
        }
        let (first, mut last) = (first.max(0.0), last.min(dims - 1.0));
        if first == last {
            last += 0.001;
        }
        Rotation {
            factor: self.factor as f32,
            first: first as f32,
            last: last as f32,
            magnitude: self.magnitude as f32,
        }
    }
}

impl ModelSpec {
    /// Longest context it can be asked for, tokens.
    pub fn longest(&self) -> usize {
        self.context.saturating_mul(self.reach.max(1))
    }

    /// By how much positions are slowed down for `context` tokens: the least whole number that reaches them, as the authors
    /// of Qwen3.6 advise (a factor changes all answers a little, so it is no larger than it must be). None: not at all, or by
    /// what the config says.
    ///
    /// # Errors
    /// [`ModelError::Option`] for more than [`ModelSpec::longest`].
    pub fn stretch(&self, context: usize) -> Result<Option<usize>, ModelError> {
        if context <= self.context {
            return Ok(None);
        }
        let factor = context.div_ceil(self.context.max(1));
        if factor > self.reach {
            return Err(self.beyond(context));
        }
        Ok(Some(factor))
    }

    /// The model with its rotary positions stretched as far as `context` tokens ask for, the MTP head's with the others.
    ///
    /// # Errors
    /// As [`ModelSpec::stretch`].
    pub fn stretched(mut self, context: usize) -> Result<ModelSpec, ModelError> {
        let Some(factor) = self.stretch(context)? else { return Ok(self) };
        let yarn = Yarn::by(factor as f64, self.context);
        for layer in self.layers.iter_mut().chain(self.mtp.as_mut().map(|mtp| &mut mtp.layer)) {
            if let Mixer::FullAttention(attention) = &mut layer.mixer {
                attention.yarn = Some(yarn);
            }
        }
        (self.context, self.reach) = (yarn.context(), 1);
        Ok(self)
    }

    /// The stretching of its attention, by whomever it was asked for.
    pub fn yarn(&self) -> Option<Yarn> {
        self.layers.iter().find_map(|layer| match &layer.mixer {
            Mixer::FullAttention(attention) => attention.yarn,
            Mixer::GatedDeltaNet(_) => None,
        })
    }

    /// The refusal of a context that nothing reaches.
    pub(crate) fn beyond(&self, context: usize) -> ModelError {
        let expected = match self.reach {
            0 | 1 => format!("from 1 to {}", self.context),
            reach => format!(
                "from 1 to {} ({reach} times the model's own {}, the furthest that YaRN stretches its positions)",
                self.longest(),
                self.context
            ),
        };
        ModelError::Option { option: "context", expected, found: context.to_string() }
    }
}
