//! Rotary position embedding: how fast each pair of a head's leading dimensions turns with the position, as trained or
//! stretched by YaRN. Both backends turn by this table; `attend_append` is the only op that does.

use crate::ops::AttentionShape;

/// Rotation that reaches further than a model was trained for (YaRN, arXiv 2309.00071, sections 3.2 to 3.4; transformers
/// 5.23 `_compute_yarn_parameters`): pairs that turn often over the trained context stay as they are, those that never
/// turn once are slowed down by `factor`, and between them a ramp leads from one to the other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    /// How many times longer the context is.
    pub factor: f32,
    /// The last pair that stays as it is; may lie between two.
    pub first: f32,
    /// The first pair that is slowed down by the whole factor.
    pub last: f32,
    /// What cosine and sine are multiplied with, so that scores keep their spread.
    pub magnitude: f32,
}

impl AttentionShape {
    /// Radians per position of each rotated pair, `[rope_dims / 2]`, every step rounded to f32 as the reference does:
    ///
    ///   f_i = theta^(-2i / rope_dims) ; with YaRN: (1 - r_i) f_i + r_i f_i / factor, r_i = (i - first) / (last - first)
    ///   within 0 and 1
    pub fn frequencies(&self) -> Vec<f32> {
        let dims = self.rope_dims as f32;
        let stretched = |i: usize, power: f32| {
            let Some(yarn) = self.yarn else { return 1.0 / power };
            let ramp = ((i as f32 - yarn.first) / (yarn.last - yarn.first)).clamp(0.0, 1.0);
            let kept = 1.0 - ramp;
            1.0 / (yarn.factor * power) * (1.0 - kept) + 1.0 / power * kept
        };
        (0..self.rope_dims / 2).map(|i| stretched(i, self.rope_theta.powf(2.0 * i as f32 / dims))).collect()
    }

    /// What cosine and sine are multiplied with.
    pub fn magnitude(&self) -> f32 {
        self.yarn.map_or(1.0, |yarn| yarn.magnitude)
    }
}
