//! Sizes a model before anything of it is read: bytes of weights, KV, state and scratch, and the bytes that one decoded
//! token must read. The loader plans with it, the desktop predicts fit and tok/s with it.

use crate::family::{Names, Place};
use crate::formats::Formats;
use crate::options::{LoadOptions, PAGE_LEN};
use crate::parts::{self, Part};
use crate::scratch;
use crate::spec::{Layer, Mixer, ModelSpec};
use crate::{ModelError, draft_head, family};
use serde::{Deserialize, Serialize};

/// Bytes by part of the model. As weights: what is stored. As a read: what one row touches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartBytes {
    /// Projections of gated delta nets.
    pub gdn: u64,
    /// Projections of attention.
    pub attention: u64,
    /// Dense ffns.
    pub dense: u64,
    /// Shared experts.
    pub shared: u64,
    /// Routed experts: all of them stored, `top_k` of them read.
    pub routed: u64,
    /// Routers and the shared experts' switches.
    pub router: u64,
    /// Projection that joins embedding and hidden state (MTP head only).
    pub join: u64,
    /// Norms, convolutions and gate parameters, as f32, and the table of the tokens that drafts are chosen from.
    pub vectors: u64,
    /// The embedding: stored whole, one row read.
    pub embedding: u64,
    /// The head; stored 0 if it is the embedding. Of the MTP head: the head for drafts, stored 0 if it is the model's own.
    pub head: u64,
}

impl PartBytes {
    /// All parts together.
    pub fn total(&self) -> u64 {
        [
            self.gdn,
            self.attention,
            self.dense,
            self.shared,
            self.routed,
            self.router,
            self.join,
            self.vectors,
            self.embedding,
            self.head,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }

    fn part(&mut self, part: Part) -> &mut u64 {
        match part {
            Part::Gdn => &mut self.gdn,
            Part::Attention => &mut self.attention,
            Part::Dense => &mut self.dense,
            Part::Shared => &mut self.shared,
            Part::Routed => &mut self.routed,
            Part::Router => &mut self.router,
        }
    }
}

/// Bytes one decoded token reads (and, for the state, writes), batch 1, no speculation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenBytes {
    /// Weights by part.
    pub weights: PartBytes,
    /// Keys and values of all earlier positions.
    pub kv: u64,
    /// Recurrent state, read and written.
    pub state: u64,
}

impl TokenBytes {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights.total().saturating_add(self.kv).saturating_add(self.state)
    }
}

/// The sizes of a model under given options. All in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// Stored weights of the trunk, embedding and head.
    pub weights: PartBytes,
    /// Stored weights of the MTP head (zero parts if none is loaded).
    pub mtp_weights: PartBytes,
    /// Keys and values of one token in all attention layers of the trunk.
    pub kv_per_token: u64,
    /// Keys and values of one token in the MTP head's layer.
    pub mtp_kv_per_token: u64,
    /// Recurrent matrices of one sequence, f32.
    pub recurrent_state: u64,
    /// Convolution inputs of one sequence, f32.
    pub conv_state: u64,
    /// KV pool: `slots` contexts, rounded up to pages.
    pub kv: u64,
    /// Recurrent and convolution state of all slots and snapshots.
    pub state: u64,
    /// Activations and logits of one pass.
    pub scratch: u64,
    read: PartBytes,
    mtp_read: PartBytes,
    experts: Option<(usize, usize)>,
}

impl Budget {
    /// Sizes `spec` stored as `formats` says, run with `options`.
    ///
    /// # Errors
    /// Those of `formats`, and [`ModelError::Option`] for options out of range.
    pub fn of(spec: &ModelSpec, formats: &dyn Formats, options: &LoadOptions) -> Result<Budget, ModelError> {
        options.check(spec)?;
        let names = family::names(spec);
        let mut weights = PartBytes::default();
        let mut read = PartBytes::default();
        for (i, layer) in spec.layers.iter().enumerate() {
            add_layer(spec, layer, &names, Place::Layer(i), formats, &mut weights, &mut read)?;
        }
        weights.vectors += 4 * spec.hidden as u64;
        read.vectors += 4 * spec.hidden as u64;
        let [vocab, hidden] = [spec.vocab as u64, spec.hidden as u64];
        let embedding = formats.format(&names.embedding(), spec.vocab, spec.hidden)?;
        weights.embedding = embedding.bytes(vocab, hidden);
        read.embedding = embedding.bytes(1, hidden);
        if spec.tied_head {
            read.head = weights.embedding;
        } else {
            weights.head = formats.format(&names.head(), spec.vocab, spec.hidden)?.bytes(vocab, hidden);
            read.head = weights.head;
        }

        let mut mtp_weights = PartBytes::default();
        let mut mtp_read = PartBytes::default();
        let mtp = spec.mtp.as_ref().filter(|_| options.mtp);
        if let Some(mtp) = mtp {
            add_layer(spec, &mtp.layer, &names, Place::Mtp, formats, &mut mtp_weights, &mut mtp_read)?;
            let join = formats.format(names.mtp_join(), spec.hidden, 2 * spec.hidden)?;
            mtp_weights.join = join.bytes(hidden, 2 * hidden);
            mtp_weights.vectors += 3 * 4 * spec.hidden as u64;
            mtp_read.join = mtp_weights.join;
            mtp_read.vectors += 3 * 4 * spec.hidden as u64;
            mtp_read.head = read.head;
            mtp_read.embedding = read.embedding;
            if draft_head::wanted(spec, options) {
                let own = if spec.tied_head { names.embedding() } else { names.head() };
                let own = formats.format(&own, spec.vocab, spec.hidden)?;
                let (head, table) = options.draft_head.bytes(spec, own);
                (mtp_weights.head, mtp_read.head) = (head, head);
                mtp_weights.vectors += table;
                mtp_read.vectors += table;
            }
        }

        let kv_of = |place: Place, layer: &Layer| options.kv.of(spec, place).bytes(layer);
        let kv_per_token: u64 =
            spec.layers.iter().enumerate().map(|(i, layer)| kv_of(Place::Layer(i), layer)).sum();
        let mtp_kv_per_token = mtp.map_or(0, |mtp| kv_of(Place::Mtp, &mtp.layer));
        let (mut recurrent_state, mut conv_state) = (0, 0);
        for layer in &spec.layers {
            if let Mixer::GatedDeltaNet(g) = &layer.mixer {
                recurrent_state += 4 * (g.v_heads * g.k_dim * g.v_dim) as u64;
                conv_state += 4 * ((g.conv_width - 1) * g.shape().channels()) as u64;
            }
        }
        let tokens = options.pages() as u64 * PAGE_LEN as u64;
        let experts = spec.layers.iter().find_map(|layer| match &layer.ffn {
            crate::spec::Ffn::Moe(moe) => Some((moe.experts, moe.top_k)),
            crate::spec::Ffn::Dense { .. } => None,
        });
        Ok(Budget {
            weights,
            mtp_weights,
            kv_per_token,
            mtp_kv_per_token,
            recurrent_state,
            conv_state,
            kv: tokens.saturating_mul(kv_per_token + mtp_kv_per_token),
            state: (options.states() as u64).saturating_mul(recurrent_state + conv_state),
            scratch: scratch::bytes(spec, options)?,
            read,
            mtp_read,
            experts,
        })
    }

    /// Everything that must be in memory.
    pub fn total(&self) -> u64 {
        [self.weights.total(), self.mtp_weights.total(), self.kv, self.state, self.scratch]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// What one decoded token reads when `context` tokens precede it.
    pub fn read_per_token(&self, context: usize) -> TokenBytes {
        TokenBytes {
            weights: self.read,
            kv: self.kv_per_token.saturating_mul(context as u64),
            state: 2 * (self.recurrent_state + self.conv_state),
        }
    }

    /// What one step of the MTP head reads when `context` tokens precede it; none without MTP.
    pub fn read_per_draft(&self, context: usize) -> Option<TokenBytes> {
        (self.mtp_read.join > 0).then(|| TokenBytes {
            weights: self.mtp_read,
            kv: self.mtp_kv_per_token.saturating_mul(context as u64),
            state: 0,
        })
    }

    /// Estimated bytes of one decode step of `rows` sequences whose contexts add up to `context` tokens. Weights are
    /// read once; of the routed experts, the expected number that independent uniform choices would touch:
    /// E (1 - (1 - k/E)^rows).
    pub fn read_per_step(&self, rows: usize, context: usize) -> u64 {
        let dense = self.read.total() - self.read.routed;
        let routed = match self.experts {
            None => 0,
            Some((experts, top_k)) => {
                let (e, k) = (experts as f64, top_k as f64);
                let touched = e * (1.0 - (1.0 - k / e).powi(rows.min(1 << 20) as i32));
                (self.read.routed as f64 * touched / k) as u64
            }
        };
        let state = 2 * (self.recurrent_state + self.conv_state);
        dense
            .saturating_add(routed)
            .saturating_add(state.saturating_mul(rows as u64))
            .saturating_add(self.kv_per_token.saturating_mul(context as u64))
    }
}

fn add_layer(
    spec: &ModelSpec,
    layer: &Layer,
    names: &Names,
    place: Place,
    formats: &dyn Formats,
    weights: &mut PartBytes,
    read: &mut PartBytes,
) -> Result<(), ModelError> {
    for m in parts::matrices(layer, spec.hidden) {
        // All experts of a layer are stored alike; the loader refuses a layer where they are not.
        let bytes = formats.format(&names.matrix(place, m.matrix, 0), m.rows, m.cols)?;
        let bytes = bytes.bytes(m.rows as u64, m.cols as u64);
        *weights.part(m.matrix.part()) += bytes * m.copies as u64;
        *read.part(m.matrix.part()) += bytes * m.used as u64;
    }
    for (_, shape) in parts::vectors(layer, spec.hidden) {
        let bytes = 4 * shape.iter().product::<usize>() as u64;
        weights.vectors += bytes;
        read.vectors += bytes;
    }
    Ok(())
}
