//! The ops: every formula a model is made of, with shapes and bytes moved. The CPU backend defines what the others
//! must compute. `hearth-model`'s forward pass is the only caller.
//!
//! Rows: `t` is the number of rows (token positions) of a [`Pass`]; every activation is f32 `[>= t, width]` row-major.
//! A row's result never depends on the rows beside it, and reductions have one fixed order at every `t`.

pub use crate::kv::{KvFormat, KvLayer};
use crate::sample::SampleRow;
use crate::{DeviceMemory, PackedWeight, Result, Tensor, Weight, tensor::DType};

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
    /// Empty: the state after the last row stays in `slot`. Otherwise one slot per row: the state after row i goes to
    /// `snapshots[i]`, and the next round starts from whichever was accepted; `slot` keeps what it held, unless named.
    pub snapshots: Vec<u32>,
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

/// Weights that make the inputs of [`Ops::gdn_step`] from the residual stream.
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

/// Rows that [`Ops::gdn_in`] writes; see [`GdnRows`].
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

/// Rows that [`Ops::attend_in`] writes.
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

/// Names a stretch of ops that a backend may record once and run again; see [`Ops::replay`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stretch {
    /// Embedding to logits.
    Trunk,
    /// A step of the MTP head from hidden states of the trunk.
    DraftFirst,
    /// A step of the MTP head from its own.
    DraftNext,
}

/// A backend: memory, packing, and every op. Errors name the op and the argument; nothing panics on bad shapes.
pub trait Ops: Send + Sync {
    /// Name of the backend for messages: `cpu`, `cuda`, `emulated`.
    fn device(&self) -> &'static str;

    /// The device, its driver and whatever else changes what it computes, in words.
    fn identity(&self) -> String {
        self.device().to_owned()
    }

    /// Bytes that may be allocated on the device now; None where that is the host's memory.
    fn available_memory(&self) -> Option<u64> {
        None
    }

    /// The device's own memory, which a model plans; None where the host's is used.
    fn memory(&self) -> Option<&dyn DeviceMemory> {
        None
    }

    /// What the device's memory gives, measured now; None where that is the host's memory, or where time means nothing.
    ///
    /// # Errors
    /// Those of the device.
    fn bandwidth(&self) -> Result<Option<crate::cuda::Bandwidth>> {
        Ok(None)
    }

    /// Most rows of a pass that are computed with decode's arithmetic, where prefill's rounds otherwise; None where all
    /// passes are computed alike.
    fn decode_rows(&self) -> Option<usize> {
        None
    }

    /// Whether prefill rounds rows to NVFP4 (`fp4.rs`) before products with NVFP4 weights, which FP4 tensor cores then do:
    /// `linear`, `linear_add`, the projections behind a norm, `moe_gate_up` and `moe_down`, in passes of more rows than
    /// decode's 16 that are not `exact`. Off at first. On the CPU it is the definition only, and no faster.
    ///
    /// # Errors
    /// [`crate::OpError::Unsupported`] on a device without such cores.
    fn set_fp4_activations(&self, on: bool) -> Result<()>;

    /// Tells the backend which pass the next ops run: token ids of its rows, and the row numbers that will be gathered.
    /// What a device needs to know of them is copied there now, so that the ops themselves only launch.
    fn begin(&self, _pass: &Pass, _ids: &[u32], _picks: &[u32]) -> Result<()> {
        Ok(())
    }

    /// Runs `body`, all of whose ops belong to the pass and picks that `begin` was told. A backend may record it and,
    /// for a pass of the same shape, run the record instead: `body` must launch the same ops on the same tensors
    /// whenever `stretch`, the rows per segment and the number of picks are equal.
    fn replay(
        &self,
        _stretch: Stretch,
        _pass: &Pass,
        _picks: usize,
        body: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        body()
    }

    /// Seconds that the ops of `body` take on the device, without what the host does to launch them: they are recorded and
    /// run some times. `body` has run before, so that all memory is there. None where time means nothing.
    fn time(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Option<f64>> {
        let start = std::time::Instant::now();
        body()?;
        Ok(Some(start.elapsed().as_secs_f64()))
    }

    /// Fills a tensor with bytes drawn from `seed` that are finite numbers in every format: contents for measurements.
    fn scramble(&self, x: &mut Tensor, seed: u64) -> Result<()>;

    /// A zeroed tensor.
    fn zeros(&self, dtype: DType, shape: &[usize]) -> Result<Tensor>;

    /// A tensor from host bytes (little-endian, row-major), converted to `dtype` if the source is f32/f16/bf16.
    fn upload(&self, from: DType, bytes: &[u8], dtype: DType, shape: &[usize]) -> Result<Tensor>;

    /// Rows `first .. first + rows` of an f32 `[*, width]` tensor.
    fn read_rows(&self, x: &Tensor, first: usize, rows: usize) -> Result<Vec<f32>>;

    /// Copies rows `from .. from + rows` of a `[*, width]` tensor of any dtype to the rows from `to` on, which must be
    /// others. Bytes: those of the rows, twice.
    fn copy_rows(&self, x: &mut Tensor, from: usize, to: usize, rows: usize) -> Result<()>;

    /// All elements of a u32 `[*, width]` tensor's rows `first .. first + rows`.
    fn read_ids(&self, x: &Tensor, first: usize, rows: usize) -> Result<Vec<u32>>;

    /// Repacks matrices of equal width and format, stacked by rows, into the layout the kernels read.
    fn pack(&self, parts: &[PackedWeight<'_>]) -> Result<Weight>;

    /// As [`Ops::pack`] for gate rows followed by equally many up rows, the input of a SwiGLU: a backend may interleave
    /// them. Usable with [`Ops::ffn_in`] and [`Ops::experts`].
    fn pack_gate_up(&self, parts: &[PackedWeight<'_>]) -> Result<Weight> {
        self.pack(parts)
    }

    /// The experts of a layer, from weights of `pack_gate_up` and `pack`, the shared one last.
    fn experts(&self, gate_up: Vec<Weight>, down: Vec<Weight>, max_inter: usize) -> Result<Experts> {
        Ok(Experts { gate_up, down, max_inter, table: None })
    }

    /// The mixer norm and the four projections of a gated-delta-net layer, then its convolution: `rms_norm`, `linear`
    /// four times and `gdn_conv`. x `[t, hidden]` -> out; h `[t, hidden]` is working space. Bytes: the weights, once.
    #[allow(clippy::too_many_arguments)]
    fn gdn_in(
        &self,
        pass: &Pass,
        x: &Tensor,
        norm: &Norm,
        weights: GdnInputs<'_>,
        conv_state: &mut Tensor,
        h: &mut Tensor,
        out: GdnRowsMut<'_>,
    ) -> Result<()> {
        let t = pass.rows();
        self.rms_norm(pass, x, norm, h)?;
        self.linear(t, h, weights.qkv, out.qkv)?;
        self.linear(t, h, weights.z, out.z)?;
        self.linear(t, h, weights.a, out.a)?;
        self.linear(t, h, weights.b, out.b)?;
        self.gdn_conv(pass, weights.conv, conv_state, out.qkv)
    }

    /// The mixer norm and the three projections of an attention layer. x `[t, hidden]` -> out; h is working space.
    fn attend_in(
        &self,
        pass: &Pass,
        x: &Tensor,
        norm: &Norm,
        weights: AttentionInputs<'_>,
        h: &mut Tensor,
        out: AttentionRowsMut<'_>,
    ) -> Result<()> {
        let t = pass.rows();
        self.rms_norm(pass, x, norm, h)?;
        self.linear(t, h, weights.q, out.q)?;
        self.linear(t, h, weights.k, out.k)?;
        self.linear(t, h, weights.v, out.v)
    }

    /// The ffn norm and the router: `rms_norm` into h, which `moe_gate_up` reads, then `moe_route`.
    fn moe_in(
        &self,
        pass: &Pass,
        x: &Tensor,
        norm: &Norm,
        weights: RouterInputs<'_>,
        h: &mut Tensor,
        route: &mut Route,
    ) -> Result<()> {
        self.rms_norm(pass, x, norm, h)?;
        self.moe_route(pass, h, weights.router, weights.shared_gate, weights.normalise, route)
    }

    /// The ffn norm, gate and up, and SwiGLU of a dense layer: x `[t, hidden]` -> out `[t, inter]`; `gate_up` comes
    /// from [`Ops::pack_gate_up`]; h `[t, hidden]` and both `[t, 2 * inter]` are working space.
    #[allow(clippy::too_many_arguments)]
    fn ffn_in(
        &self,
        pass: &Pass,
        x: &Tensor,
        norm: &Norm,
        gate_up: &Weight,
        h: &mut Tensor,
        both: &mut Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        self.rms_norm(pass, x, norm, h)?;
        self.linear(pass.rows(), h, gate_up, both)?;
        self.swiglu(pass, both, out)
    }

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

    /// As [`Ops::gather_rows`] for the picks from `first` on that `begin` was told, which `rows` repeats.
    fn gather_picks(&self, x: &Tensor, first: usize, rows: &[u32], out: &mut Tensor) -> Result<()> {
        let _ = first;
        self.gather_rows(x, rows, out)
    }

    /// out[i] = x[rows[i]]. x `[t, width]` -> out `[rows.len(), width]`.
    fn gather_rows(&self, x: &Tensor, rows: &[u32], out: &mut Tensor) -> Result<()>;

    /// The token of each row, or None where no allowed token's logit is a number. In this order: banned tokens and
    /// penalties, the mask, then argmax at temperature 0; else temperature, top-k, top-p (a share of what top-k left) and
    /// min-p, and one draw that depends on seed and position only. Equal logits: lower ids first. Weights are integers of
    /// 2^-40 of the most likely token's, so that every backend draws the same token.
    ///
    /// logits `[>= rows, vocab]`, row i is `rows[i]`; changed. Ids from `tokens` on are padding and never chosen.
    /// Bytes: the logits, a few times, from the second-level cache.
    fn sample(&self, logits: &mut Tensor, tokens: usize, rows: &[SampleRow<'_>]) -> Result<Vec<Option<u32>>>;
}
