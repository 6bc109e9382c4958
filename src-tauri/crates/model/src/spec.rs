//! One description of a model, used three times: `forward` runs it, `budget` sizes it, the desktop predicts with it.
//! A plain list of layers, each a mixer and an ffn with the numbers that vary. Made by `family::read`.

use crate::yarn::Yarn;
use hearth_kernels::ops::{AttentionShape, GdnShape};
use serde::{Deserialize, Serialize};

/// What a model is, without its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// `model_type` of the text model; selects the family adapter.
    pub family: String,
    /// What stands before `layers.N`, `embed_tokens` and `norm` in tensor names, with its dot.
    pub prefix: String,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Rows of the embedding and of the head.
    pub vocab: usize,
    /// Longest context without a change to the model, tokens.
    pub context: usize,
    /// How many times further its rotary positions may be stretched when that is asked for; 1: not at all.
    pub reach: usize,
    /// Added to the mean square in every norm.
    pub eps: f32,
    /// Added to the weight of layer norms: 1 where they are stored zero-centred.
    pub norm_offset: f32,
    /// True: the head is the embedding.
    pub tied_head: bool,
    /// The layers in order.
    pub layers: Vec<Layer>,
    /// The multi-token-prediction head, if the model has one.
    pub mtp: Option<Mtp>,
}

/// One layer: `x += mixer(norm(x)); x += ffn(norm(x))`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// Mixes rows of a sequence.
    pub mixer: Mixer,
    /// Works on each row alone.
    pub ffn: Ffn,
}

/// The part of a layer that looks at other positions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Mixer {
    /// Softmax attention over all earlier positions.
    FullAttention(Attention),
    /// The gated delta rule (arXiv 2412.06464).
    GatedDeltaNet(GatedDeltaNet),
}

/// The part of a layer that works on each row alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Ffn {
    /// SwiGLU.
    Dense {
        /// Intermediate width.
        inter: usize,
    },
    /// A mixture of SwiGLU experts.
    Moe(Moe),
}

/// Numbers of full attention.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attention {
    /// Query heads.
    pub q_heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Head size.
    pub head_dim: usize,
    /// Rotated leading dimensions of a head.
    pub rope_dims: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Rotation stretched beyond the trained context; None: as trained.
    pub yarn: Option<Yarn>,
    /// True: the q projection also yields a gate, and the output is multiplied by its sigmoid.
    pub gated: bool,
}

impl Attention {
    /// What the ops need; the scale is head_dim^-0.5.
    pub fn shape(&self) -> AttentionShape {
        AttentionShape {
            q_heads: self.q_heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            rope_dims: self.rope_dims,
            rope_theta: self.rope_theta,
            yarn: self.yarn.map(|yarn| yarn.rotation(self.rope_dims, self.rope_theta)),
            scale: (self.head_dim as f32).powf(-0.5),
            gated: self.gated,
        }
    }

    /// Rows of the q projection: queries, and gates if gated.
    pub fn q_rows(&self) -> usize {
        self.q_heads * self.head_dim * if self.gated { 2 } else { 1 }
    }

    /// Width of the attention output before the o projection.
    pub fn out_cols(&self) -> usize {
        self.q_heads * self.head_dim
    }

    /// Rows of the k and of the v projection.
    pub fn kv_rows(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

/// Numbers of the gated delta net.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GatedDeltaNet {
    /// Key (and query) heads.
    pub k_heads: usize,
    /// Value heads.
    pub v_heads: usize,
    /// Size of a key head.
    pub k_dim: usize,
    /// Size of a value head.
    pub v_dim: usize,
    /// Width of the causal convolution.
    pub conv_width: usize,
}

impl GatedDeltaNet {
    /// What the ops need.
    pub fn shape(&self) -> GdnShape {
        GdnShape {
            k_heads: self.k_heads,
            v_heads: self.v_heads,
            k_dim: self.k_dim,
            v_dim: self.v_dim,
            conv_width: self.conv_width,
        }
    }

    /// Width of values, output gate and output.
    pub fn v_cols(&self) -> usize {
        self.v_heads * self.v_dim
    }
}

/// Numbers of a mixture of experts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Moe {
    /// Routed experts.
    pub experts: usize,
    /// Experts a row uses.
    pub top_k: usize,
    /// Intermediate width of a routed expert.
    pub inter: usize,
    /// Intermediate width of the expert every row uses, behind a sigmoid gate.
    pub shared_inter: Option<usize>,
    /// True: the weights of the chosen experts are divided by their sum.
    pub normalise: bool,
}

impl Moe {
    /// Experts per row, the shared one included.
    pub fn slots(&self) -> usize {
        self.top_k + usize::from(self.shared_inter.is_some())
    }

    /// Widest intermediate of all experts.
    pub fn max_inter(&self) -> usize {
        self.inter.max(self.shared_inter.unwrap_or(0))
    }
}

/// A head that predicts one token further: joins the embedding of the next token with the hidden state after the
/// final norm, runs one layer with its own KV, and uses the model's head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mtp {
    /// Its layer.
    pub layer: Layer,
}
