//! The weights of a model on the device, with the state that belongs to each layer. Built by `loader`, run by `forward`.

use crate::draft_head::DraftWeights;
use crate::spec::{Attention, GatedDeltaNet, Moe};
use hearth_kernels::ops::{Experts, GdnGates, KvLayer, Norm};
use hearth_kernels::{Tensor, Weight};

/// A loaded layer.
pub(crate) struct LayerWeights {
    pub mixer_norm: Norm,
    pub mixer: MixerWeights,
    pub ffn_norm: Norm,
    pub ffn: FfnWeights,
}

/// The mixer's weights and its cache or state.
pub(crate) enum MixerWeights {
    FullAttention(Box<AttentionWeights>),
    GatedDeltaNet(Box<GdnWeights>),
}

pub(crate) struct AttentionWeights {
    pub numbers: Attention,
    pub q: Weight,
    pub k: Weight,
    pub v: Weight,
    pub o: Weight,
    pub q_norm: Norm,
    pub k_norm: Norm,
    pub cache: KvLayer,
}

pub(crate) struct GdnWeights {
    pub numbers: GatedDeltaNet,
    pub qkv: Weight,
    pub z: Weight,
    pub a: Weight,
    pub b: Weight,
    pub out: Weight,
    pub conv: Tensor,
    pub gates: GdnGates,
    /// `[slots, conv_width - 1, channels]` f32.
    pub conv_state: Tensor,
    /// `[slots, v_heads, k_dim, v_dim]` f32.
    pub state: Tensor,
}

pub(crate) enum FfnWeights {
    Dense(Box<DenseWeights>),
    Moe(Box<MoeWeights>),
}

pub(crate) struct DenseWeights {
    /// Gate rows, then up rows.
    pub gate_up: Weight,
    pub down: Weight,
}

pub(crate) struct MoeWeights {
    pub numbers: Moe,
    pub router: Weight,
    pub shared_switch: Option<Weight>,
    pub experts: Experts,
}

/// A loaded MTP head.
pub(crate) struct MtpWeights {
    pub norm_embedding: Norm,
    pub norm_hidden: Norm,
    pub join: Weight,
    pub layer: LayerWeights,
    pub norm_out: Norm,
}

/// Everything of a model that is not scratch.
pub(crate) struct Weights {
    pub embedding: Weight,
    pub layers: Vec<LayerWeights>,
    pub final_norm: Norm,
    /// None: the head is the embedding.
    pub head: Option<Weight>,
    pub mtp: Option<MtpWeights>,
    /// None: drafts are proposed with the model's own head.
    pub draft: Option<DraftWeights>,
}

impl LayerWeights {
    /// Every packed matrix of the layer.
    fn matrices(&self) -> Vec<&Weight> {
        let mut all = Vec::new();
        match &self.mixer {
            MixerWeights::FullAttention(a) => all.extend([&a.q, &a.k, &a.v, &a.o]),
            MixerWeights::GatedDeltaNet(g) => all.extend([&g.qkv, &g.z, &g.a, &g.b, &g.out]),
        }
        match &self.ffn {
            FfnWeights::Dense(dense) => all.extend([&dense.gate_up, &dense.down]),
            FfnWeights::Moe(moe) => {
                all.push(&moe.router);
                all.extend(&moe.shared_switch);
                all.extend(&moe.experts.gate_up);
                all.extend(&moe.experts.down);
            }
        }
        all
    }
}

impl Weights {
    /// Bytes of all packed matrices as the backend holds them.
    pub(crate) fn matrix_bytes(&self) -> u64 {
        let layers = self.layers.iter().chain(self.mtp.iter().map(|mtp| &mtp.layer));
        let inner = layers.flat_map(LayerWeights::matrices).map(|w| w.bytes as u64).sum::<u64>();
        let (join, draft) =
            (self.mtp.as_ref().map(|mtp| &mtp.join), self.draft.as_ref().map(|draft| &draft.head));
        let outer = [Some(&self.embedding), self.head.as_ref(), join, draft];
        inner + outer.into_iter().flatten().map(|w| w.bytes as u64).sum::<u64>()
    }
}
