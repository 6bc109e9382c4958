//! The ops: every formula a model is made of, with shapes and bytes moved. The CPU backend defines what the others
//! must compute. `hearth-model`'s forward pass is the only caller.
//!
//! Rows: `t` is the number of rows (token positions) of a [`Pass`]; every activation is f32 `[>= t, width]` row-major.
//! A row's result never depends on the rows beside it, and reductions have one fixed order at every `t`.

use crate::{PackedWeight, Result, Tensor, Weight, tensor::DType};

/// Some consecutive rows of one sequence inside a pass.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Which recurrent-state slot belongs to the sequence.
    pub slot: usize,
    /// First row of the pass that belongs to it.
    pub first_row: usize,
    /// How many rows.
    pub rows: usize,
    /// Position (0-based token index) of the first row; 0 starts the sequence with empty state.
    pub position: usize,
    /// KV pages of the sequence in order; page `i` holds positions `i * page_len ..`.
    pub pages: Vec<u32>,
}

/// What runs in one call of the model: the rows of one or several sequences, segments in row order without gaps.
#[derive(Debug, Clone)]
pub struct Pass {
    /// The segments.
    pub segments: Vec<Segment>,
    /// True: prefill uses decode's arithmetic. On the CPU both are the same code.
    pub exact: bool,
}

impl Pass {
    /// Number of rows of all segments.
    pub fn rows(&self) -> usize {
        self.segments.iter().fold(0, |rows, s| rows.saturating_add(s.rows))
    }
}

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
    /// Base of the rotary frequencies: inv_freq_i = theta^(-2i / rope_dims).
    pub rope_theta: f32,
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

/// Rows that feed [`Ops::gdn_step`].
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

/// Keys and values of one attention layer, all pages: `[pages, page_len, kv_heads, head_dim]`, f32 or bf16.
#[derive(Debug)]
pub struct KvLayer {
    /// Keys, normed and rotated.
    pub k: Tensor,
    /// Values, raw.
    pub v: Tensor,
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
}

/// A backend: memory, packing, and every op. Errors name the op and the argument; nothing panics on bad shapes.
pub trait Ops: Send + Sync {
    /// Name of the backend for messages: `cpu`, `cuda`, `emulated`.
    fn device(&self) -> &'static str;

    /// A zeroed tensor.
    fn zeros(&self, dtype: DType, shape: &[usize]) -> Result<Tensor>;

    /// A tensor from host bytes (little-endian, row-major), converted to `dtype` if the source is f32/f16/bf16.
    fn upload(&self, from: DType, bytes: &[u8], dtype: DType, shape: &[usize]) -> Result<Tensor>;

    /// Rows `first .. first + rows` of an f32 `[*, width]` tensor.
    fn read_rows(&self, x: &Tensor, first: usize, rows: usize) -> Result<Vec<f32>>;

    /// All elements of a u32 `[*, width]` tensor's rows `first .. first + rows`.
    fn read_ids(&self, x: &Tensor, first: usize, rows: usize) -> Result<Vec<u32>>;

    /// Repacks matrices of equal width and format, stacked by rows, into the layout the kernels read.
    fn pack(&self, parts: &[PackedWeight<'_>]) -> Result<Weight>;

    /// out[i] = table[ids[i]]. table `[vocab, hidden]`, ids `[t]` -> out `[t, hidden]`. Bytes: t rows of the table.
    fn embed(&self, table: &Weight, ids: &[u32], out: &mut Tensor) -> Result<()>;

    /// out = norm(x). x `[t, width]` -> out `[t, width]`.
    fn rms_norm(&self, pass: &Pass, x: &Tensor, norm: &Norm, out: &mut Tensor) -> Result<()>;

    /// out = x W^T. x `[t, cols]`, w `[rows, cols]` -> out `[t, rows]`, f32 accumulation. Bytes: `w.bytes`, once.
    /// `t` is the first dimension actually used: rows of the pass, or `rows` when the head runs on fewer.
    fn linear(&self, t: usize, x: &Tensor, w: &Weight, out: &mut Tensor) -> Result<()>;

    /// out += x W^T: `linear` with the residual as its epilogue.
    fn linear_add(&self, t: usize, x: &Tensor, w: &Weight, out: &mut Tensor) -> Result<()>;

    /// Causal depthwise convolution then SiLU, in place, per segment:
    /// y[i,c] = silu(sum_j w[c,j] x[i - (width-1) + j, c]); rows before the segment come from the state (zeros at
    /// position 0), which afterwards holds the last width-1 raw inputs.
    /// x `[t, channels]`, w `[channels, width]` f32, state `[slots, width-1, channels]` f32.
    fn gdn_conv(&self, pass: &Pass, w: &Tensor, state: &mut Tensor, x: &mut Tensor) -> Result<()>;

    /// Gated delta rule per segment and value head, state read and written once, then the gated norm:
    ///
    ///   q = q * rsqrt(|q|^2 + 1e-6) * k_dim^-0.5 ; k = k * rsqrt(|k|^2 + 1e-6)
    ///   g = -exp(a_log) * softplus(a + dt_bias) ; beta = sigmoid(b)
    ///   S' = exp(g) S ; S = S' + k (beta (v - S'^T k))^T ; o = S^T q        (arXiv 2412.06464, eq. 10)
    ///   out = out_norm(o) * silu(z)
    ///
    /// state `[slots, v_heads, k_dim, v_dim]` f32 (empty at position 0) -> out `[t, v_heads * v_dim]`.
    /// Bytes: 2 * 4 * v_heads * k_dim * v_dim per segment.
    fn gdn_step(
        &self,
        pass: &Pass,
        shape: &GdnShape,
        rows: GdnRows<'_>,
        gates: &GdnGates,
        state: &mut Tensor,
        out: &mut Tensor,
    ) -> Result<()>;

    /// q = rope(q_norm(q)) in place; k = rope(k_norm(k)) and v appended to the pages of each segment.
    /// q `[t, q_heads * head_dim * (2 if gated)]` (per head `[q | gate]`), k and v `[t, kv_heads * head_dim]`.
    #[allow(clippy::too_many_arguments)]
    fn attend_append(
        &self,
        pass: &Pass,
        shape: &AttentionShape,
        q_norm: &Norm,
        k_norm: &Norm,
        q: &mut Tensor,
        k: &Tensor,
        v: &Tensor,
        cache: &mut KvLayer,
    ) -> Result<()>;

    /// out = softmax(scale q K^T) V over positions 0 ..= own, times sigmoid(gate) if gated.
    /// q as left by `attend_append` -> out `[t, q_heads * head_dim]`. Bytes: the segment's keys and values.
    fn attend_paged(
        &self,
        pass: &Pass,
        shape: &AttentionShape,
        q: &Tensor,
        cache: &KvLayer,
        out: &mut Tensor,
    ) -> Result<()>;

    /// p = softmax(x router^T) over all experts in f32; the top_k largest (ties: lower id), divided by their sum if
    /// `normalise`; the shared expert gets sigmoid(x shared_gate^T). router `[experts, hidden]`, shared_gate `[1, hidden]`.
    fn moe_route(
        &self,
        pass: &Pass,
        x: &Tensor,
        router: &Weight,
        shared_gate: Option<&Weight>,
        normalise: bool,
        route: &mut Route,
    ) -> Result<()>;

    /// act[i,s] = silu(gate_e x_i) * (up_e x_i) for expert e = route.ids[i,s] -> act `[t, slots * max_inter]`.
    fn moe_gate_up(
        &self,
        pass: &Pass,
        x: &Tensor,
        route: &Route,
        experts: &Experts,
        act: &mut Tensor,
    ) -> Result<()>;

    /// out[i] += sum_s route.weights[i,s] * down_e act[i,s], slots in order. out `[t, hidden]`.
    fn moe_down(
        &self,
        pass: &Pass,
        act: &Tensor,
        route: &Route,
        experts: &Experts,
        out: &mut Tensor,
    ) -> Result<()>;

    /// out = silu(x[:, :inter]) * x[:, inter:]. x `[t, 2 * inter]` -> out `[t, inter]`.
    fn swiglu(&self, pass: &Pass, x: &Tensor, out: &mut Tensor) -> Result<()>;

    /// out = [norm_e(embedding) | norm_h(hidden)], the input of an MTP head. `[t, hidden]` twice -> `[t, 2 * hidden]`.
    fn mtp_join(
        &self,
        t: usize,
        embedding: &Tensor,
        norm_e: &Norm,
        hidden: &Tensor,
        norm_h: &Norm,
        out: &mut Tensor,
    ) -> Result<()>;

    /// out[i] = x[rows[i]]. x `[t, width]` -> out `[rows.len(), width]`.
    fn gather_rows(&self, x: &Tensor, rows: &[u32], out: &mut Tensor) -> Result<()>;
}
