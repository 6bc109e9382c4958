//! The ops: every formula a model is made of, with shapes and bytes moved. The CPU backend defines what the others
//! must compute. `hearth-model`'s forward pass is the only caller.
//!
//! Rows: `t` is the number of rows (token positions) of a [`Pass`]; every activation is f32 `[>= t, width]` row-major.
//! A row's result never depends on the rows beside it, and reductions have one fixed order at every `t`.

pub use crate::kv::{KvFormat, KvLayer};
pub use crate::operands::{
    AttentionInputs, AttentionRowsMut, AttentionShape, Experts, GdnGates, GdnInputs, GdnRows, GdnRowsMut,
    GdnShape, NOWHERE, Norm, Route, RouterInputs,
};
pub use crate::pass::{Pass, Segment, Stretch};
pub use crate::rope::Yarn;
use crate::rounds::{Follow, Settled};
use crate::sample::{Chosen, SampleRow};
use crate::{DeviceMemory, PackedWeight, Records, Result, Tensor, Weight, WeightFormat, tensor::DType};

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

    /// What the device does about passes before they come; None where it computes each as it comes.
    fn records(&self) -> Option<&dyn Records> {
        None
    }

    /// What the device's memory gives, measured now; None where that is the host's memory, or where time means nothing.
    ///
    /// # Errors
    /// Those of the device.
    fn bandwidth(&self) -> Result<Option<crate::cuda::Bandwidth>> {
        Ok(None)
    }

    /// True if ops are only started when they return, so that a host that goes on meanwhile gains time.
    fn runs_ahead(&self) -> bool {
        false
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

    /// Settles the pass that `begin` was just told: segments go on from rounds of which only the device knows how many drafts
    /// were accepted ([`Follow::settle`]). Some: what pass, ids and picks become, for the ops that come. None: the device has
    /// it, and ops are told as before. The i-th rejection is what [`SampleRow::behind`] names, until the next.
    ///
    /// # Errors
    /// [`crate::OpError::Shape`] for what does not fit the pass.
    fn follow(&self, pass: &Pass, ids: &[u32], picks: &[u32], follows: &[Follow]) -> Result<Option<Settled>>;

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

    /// Rows `first .. first + rows` of a `[*, width]` tensor of any dtype, as the bytes that they are kept in.
    fn read_bytes(&self, x: &Tensor, first: usize, rows: usize) -> Result<Vec<u8>>;

    /// Writes whole rows of a `[*, width]` tensor of any dtype, from row `first` on, as [`Ops::read_bytes`] gave them.
    fn write_bytes(&self, x: &mut Tensor, first: usize, bytes: &[u8]) -> Result<()>;

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

    /// out[i] = table[ids[i]]. table `[vocab, hidden]`, ids `[t]` -> out `[t, hidden]`. Bytes: t rows of the table. An id
    /// may stand for a token that was chosen before ([`Chosen::id`]).
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

    /// q = rope(q_norm(q)) in place; k = rope(k_norm(k)) and v appended to the pages of each segment. `rope` turns pair i by
    /// position * frequency_i, a product that is rounded nowhere before its cosine and sine (positions up to 2^24), and
    /// multiplies both with the shape's magnitude.
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

    /// Rows `ids` of `head` as a weight of their own, for drafts: in the head's format, or rounded to FP8 or NVFP4 in rows.
    /// A row is multiplied by the power of two that brings its largest number into [2^7, 2^8) for FP8 and [2^10, 2^11) for
    /// NVFP4, then rounded to nearest, ties to even: FP8 e4m3(x); NVFP4 scale of 16 = e4m3(max|x| / 6), e2m1(x / scale). Its
    /// row scale takes the power back. In the head's own format (but FP8 by blocks) rows keep numbers and scales. Once, at
    /// load. Bytes: the rows, twice.
    fn draft_head(&self, head: &Weight, ids: &[u32], format: WeightFormat) -> Result<Weight>;

    /// out[i, v] = x[i, place[v]], or -inf where `place` has no column for v ([`NOWHERE`]): logits of
    /// some tokens among all. x `[>= t, kept]`, place `[vocab]` u32 -> out `[>= t, vocab]`. Bytes: place, once.
    fn spread_logits(&self, t: usize, x: &Tensor, place: &Tensor, out: &mut Tensor) -> Result<()>;

    /// Chooses the token of each row; None where no allowed token's logit is a number. In this order: penalties, biases and
    /// banned tokens, the mask, then argmax at temperature 0; else temperature, top-k, top-p (a share of what top-k left)
    /// and min-p, and one draw that depends on seed and position only. Equal logits: lower ids first. Weights are integers
    /// of 2^-40 of the most likely token's, so that every backend draws the same token.
    ///
    /// logits `[>= rows, vocab]`, row i is `rows[i]`; changed. Ids from `tokens` on are padding and never chosen. A device
    /// may still be choosing when this returns; ops that come later find the tokens, the host waits for them
    /// ([`Chosen::wait`]). Bytes: the logits, a few times, from the second-level cache.
    fn sample(&self, logits: &mut Tensor, tokens: usize, rows: &[SampleRow<'_>]) -> Result<Chosen>;
}
