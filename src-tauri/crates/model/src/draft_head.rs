//! Which head drafts are proposed with: the model's own, a copy of it in fewer bits, or the rows of some tokens only. A draft is
//! checked by the model's own head whatever proposed it, so the choice changes how long a round takes and never a token.

use crate::{LoadOptions, ModelError, ModelSpec};
use hearth_checkpoint::LinearFormat;
use hearth_kernels::ops::NOWHERE;
use hearth_kernels::{Tensor, Weight, WeightFormat};
use std::sync::Arc;

/// A head for drafts. The default is the model's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DraftHead {
    /// What its numbers are rounded to; None: kept as they are stored.
    pub format: Option<DraftFormat>,
    /// The tokens that can be proposed, each once; None: all of them.
    pub tokens: Option<Arc<[u32]>>,
}

/// Formats of a copy of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DraftFormat {
    /// E4M3 with a scale per row.
    Fp8,
    /// E2M1 with a scale per 16 numbers and one per row.
    Nvfp4,
}

impl DraftFormat {
    fn weight(self) -> WeightFormat {
        match self {
            DraftFormat::Fp8 => WeightFormat::Fp8,
            DraftFormat::Nvfp4 => WeightFormat::Nvfp4,
        }
    }
}

impl DraftHead {
    /// One that proposes `tokens` tokens, for sizing: which ones makes no difference there.
    pub fn sized(format: Option<DraftFormat>, tokens: Option<usize>) -> DraftHead {
        let tokens = tokens.and_then(|n| u32::try_from(n).ok()).map(|n| (0..n).collect());
        DraftHead { format, tokens }
    }

    /// Whether it is the model's own, so that nothing is made and nothing stored.
    pub fn is_the_models_own(&self) -> bool {
        self.format.is_none() && self.tokens.is_none()
    }

    /// Its rows.
    pub(crate) fn rows(&self, spec: &ModelSpec) -> usize {
        self.tokens.as_ref().map_or(spec.vocab, |tokens| tokens.len())
    }

    /// How it is stored, made of a head stored as `own`.
    pub(crate) fn stored(&self, own: LinearFormat) -> LinearFormat {
        match self.format {
            Some(DraftFormat::Fp8) => LinearFormat::Fp8Row,
            Some(DraftFormat::Nvfp4) => LinearFormat::Nvfp4,
            // Scales of a matrix or of blocks become those of rows.
            None if own.weight_format() == WeightFormat::Fp8 => LinearFormat::Fp8Row,
            None => own,
        }
    }

    /// Bytes of it in memory, and of its table of tokens; zero for the model's own.
    pub(crate) fn bytes(&self, spec: &ModelSpec, own: LinearFormat) -> (u64, u64) {
        if self.is_the_models_own() {
            return (0, 0);
        }
        let head = self.stored(own).bytes(self.rows(spec) as u64, spec.hidden as u64);
        (head, self.tokens.as_ref().map_or(0, |_| 4 * spec.vocab as u64))
    }

    /// The format it is made in, of a head in `own`.
    pub(crate) fn made_in(&self, own: WeightFormat) -> WeightFormat {
        self.format.map_or(own, DraftFormat::weight)
    }

    /// The rows of the model's head that it is made of.
    pub(crate) fn ids(&self, spec: &ModelSpec) -> Vec<u32> {
        match &self.tokens {
            Some(tokens) => tokens.to_vec(),
            None => (0..spec.vocab as u32).collect(),
        }
    }

    /// Where each token's logit is among those that it computes; None if they are all there.
    pub(crate) fn places(&self, spec: &ModelSpec) -> Option<Vec<u32>> {
        let tokens = self.tokens.as_ref()?;
        let mut places = vec![NOWHERE; spec.vocab];
        for (column, token) in tokens.iter().enumerate() {
            if let Some(place) = places.get_mut(*token as usize) {
                *place = column as u32;
            }
        }
        Some(places)
    }

    pub(crate) fn check(&self, spec: &ModelSpec) -> Result<(), ModelError> {
        let refuse = |expected: String, found: String| {
            Err(ModelError::Option { option: "draft-head", expected, found })
        };
        if self.format == Some(DraftFormat::Nvfp4) && !spec.hidden.is_multiple_of(16) {
            let expected = format!("full, fp8 or a number of tokens for rows of {}", spec.hidden);
            return refuse(expected, "nvfp4, which needs a multiple of 16".to_owned());
        }
        let Some(tokens) = &self.tokens else { return Ok(()) };
        if tokens.is_empty() {
            return refuse("at least one token".to_owned(), "none".to_owned());
        }
        let mut known = vec![false; spec.vocab];
        for token in tokens.iter() {
            match known.get_mut(*token as usize) {
                None => return refuse(format!("tokens below {}", spec.vocab), token.to_string()),
                Some(true) => return refuse("each token once".to_owned(), format!("{token} twice")),
                Some(known) => *known = true,
            }
        }
        Ok(())
    }
}

/// A head for drafts on the device.
pub(crate) struct DraftWeights {
    pub head: Weight,
    /// `[vocab]` u32, where each token's logit is among the head's; None: the head has all of them.
    pub places: Option<Tensor>,
}

/// Whether a model loaded with these options has a head of its own for drafts.
pub(crate) fn wanted(spec: &ModelSpec, options: &LoadOptions) -> bool {
    options.mtp && spec.mtp.is_some() && !options.draft_head.is_the_models_own()
}
