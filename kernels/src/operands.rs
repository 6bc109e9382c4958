//! What the ops take besides plain tensors: the numbers of a layer's shape, and tensors that belong together. `ops.rs` says
//! what is done with them.

use crate::rope::Yarn;
use crate::{Tensor, Weight};

/// In the table of [`crate::Ops::spread_logits`]: a token without a column.
pub const NOWHERE: u32 = u32::MAX;

/// RMS norm over the last axis: `x * rsqrt(mean(x^2) + eps) * (w + offset)`.
#[derive(Debug)]
pub struct Norm {
    /// `[width]` f32.
    pub weight: Tensor,
    /// Added to the mean square.
    pub eps: f32,
    /// 1 for zero-centred weights (Qwen3.5's layer norms), 0 for plain ones (its gated norm).
    pub offset: f32,
}

/// Numbers of a gated-attention layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub q_heads: usize,
    /// Key/value heads; query head h reads h / (q_heads / kv_heads).
    pub kv_heads: usize,
    /// Head size.
    pub head_dim: usize,
    /// Leading dimensions of a head that are rotated (split halves: i with i + rope_dims/2).
    pub rope_dims: usize,
    /// Base of the rotary frequencies, see [`AttentionShape::frequencies`].
    pub rope_theta: f32,
    /// Rotation stretched beyond the trained context; None: as trained.
    pub yarn: Option<Yarn>,
    /// Factor on q.k before the softmax.
    pub scale: f32,
    /// True: the q projection holds, per head, `[q | gate]` and the output is multiplied by sigmoid(gate).
    pub gated: bool,
}

/// Numbers of a gated-delta-net layer. Value head j reads key head j / (v_heads / k_heads).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GdnShape {
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

impl GdnShape {
    /// Channels of the convolution: q | k | v.
    pub fn channels(&self) -> usize {
        2 * self.k_heads * self.k_dim + self.v_heads * self.v_dim
    }
}

/// Parameters of the gated delta rule of one layer.
#[derive(Debug)]
pub struct GdnGates {
    /// `[v_heads]` f32, log of the decay rate.
    pub a_log: Tensor,
    /// `[v_heads]` f32, bias inside softplus.
    pub dt_bias: Tensor,
    /// Norm of the output over v_dim (plain weight), applied before the SiLU(z) gate.
    pub out_norm: Norm,
}

/// Rows that feed [`crate::Ops::gdn_step`].
#[derive(Debug, Clone, Copy)]
pub struct GdnRows<'a> {
    /// `[t, channels]`, after convolution and SiLU: q | k | v.
    pub qkv: &'a Tensor,
    /// `[t, v_heads * v_dim]`, the output gate before SiLU.
    pub z: &'a Tensor,
    /// `[t, v_heads]`, decay input.
    pub a: &'a Tensor,
    /// `[t, v_heads]`, write-strength input.
    pub b: &'a Tensor,
}

/// The experts a row uses. Slot `top_k` (if there is a shared expert) is the shared one: id = number of routed experts.
#[derive(Debug)]
pub struct Route {
    /// `[t, slots]` u32, expert ids, best first.
    pub ids: Tensor,
    /// `[t, slots]` f32, weights.
    pub weights: Tensor,
    /// Experts per row, shared one included.
    pub slots: usize,
}

/// The experts of one layer; the shared expert, if there is one, is the last.
#[derive(Debug)]
pub struct Experts {
    /// Per expert: gate rows then up rows, `[2 * inter, hidden]`.
    pub gate_up: Vec<Weight>,
    /// Per expert: `[hidden, inter]`.
    pub down: Vec<Weight>,
    /// Largest intermediate width of all experts.
    pub max_inter: usize,
    /// Where a GPU finds them: the device's description of every matrix, gate/up of all experts, then down of all.
    pub(crate) table: Option<Tensor>,
}

/// Weights that make the inputs of [`crate::Ops::gdn_step`] from the residual stream.
#[derive(Debug, Clone, Copy)]
pub struct GdnInputs<'a> {
    /// `[channels, hidden]`: q | k | v.
    pub qkv: &'a Weight,
    /// `[v_heads * v_dim, hidden]`: the output gate.
    pub z: &'a Weight,
    /// `[v_heads, hidden]`: decay.
    pub a: &'a Weight,
    /// `[v_heads, hidden]`: write strength.
    pub b: &'a Weight,
    /// `[channels, conv_width]` f32.
    pub conv: &'a Tensor,
}

/// Rows that [`crate::Ops::gdn_in`] writes; see [`GdnRows`].
#[derive(Debug)]
pub struct GdnRowsMut<'a> {
    /// `[t, channels]`, after convolution and SiLU.
    pub qkv: &'a mut Tensor,
    /// `[t, v_heads * v_dim]`.
    pub z: &'a mut Tensor,
    /// `[t, v_heads]`.
    pub a: &'a mut Tensor,
    /// `[t, v_heads]`.
    pub b: &'a mut Tensor,
}

/// Weights that make queries, keys and values from the residual stream.
#[derive(Debug, Clone, Copy)]
pub struct AttentionInputs<'a> {
    /// `[q_heads * head_dim * (2 if gated), hidden]`.
    pub q: &'a Weight,
    /// `[kv_heads * head_dim, hidden]`.
    pub k: &'a Weight,
    /// `[kv_heads * head_dim, hidden]`.
    pub v: &'a Weight,
}

/// Rows that [`crate::Ops::attend_in`] writes.
#[derive(Debug)]
pub struct AttentionRowsMut<'a> {
    /// `[t, q.rows]`.
    pub q: &'a mut Tensor,
    /// `[t, k.rows]`.
    pub k: &'a mut Tensor,
    /// `[t, v.rows]`.
    pub v: &'a mut Tensor,
}

/// Weights of a router.
#[derive(Debug, Clone, Copy)]
pub struct RouterInputs<'a> {
    /// `[experts, hidden]`.
    pub router: &'a Weight,
    /// `[1, hidden]`: the shared expert's switch.
    pub shared_gate: Option<&'a Weight>,
    /// Divide the weights of the chosen experts by their sum.
    pub normalise: bool,
}
