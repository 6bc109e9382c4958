//! The forward pass: a spec run over `trait Ops`. The engine calls `Model::forward` once per step; it appends KV,
//! advances recurrent state, and returns the logits of the rows that were asked for.

use crate::ModelError;
use crate::error::at;
use crate::family::Place;
use crate::model::{Logits, Model};
use crate::pass;
use crate::scratch::Scratch;
use crate::weights::{
    AttentionWeights, DenseWeights, FfnWeights, GdnWeights, LayerWeights, MixerWeights, MoeWeights,
};
use hearth_kernels::ops::{GdnRows, Pass};
use hearth_kernels::{Ops, Result as OpResult, Tensor, Weight};

/// What a tap sees, rows of the pass in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tap {
    /// Embeddings, `[t, hidden]`.
    Embedding,
    /// Residual stream after the mixer of a layer, `[t, hidden]`.
    Mixed(usize),
    /// Residual stream after a layer, `[t, hidden]`.
    Layer(usize),
    /// Expert ids as numbers, `[t, slots]`, best first, the shared expert last.
    RouteIds(usize),
    /// Weights of those experts, `[t, slots]`.
    RouteWeights(usize),
    /// Hidden state after the final norm, `[t, hidden]`.
    Final,
}

/// Receives hidden states in tests; copying them back costs time, so the engine passes none.
pub type TapFn<'a> = &'a mut dyn FnMut(Tap, &[f32]);

impl Model {
    /// Runs the rows of `pass`; `ids[i]` is the token of row i. Returns the logits of the rows in `want`.
    ///
    /// # Errors
    /// [`ModelError::Pass`] if the pass does not fit the model as loaded (nothing has changed then), [`ModelError::Op`]
    /// if the backend fails (the sequences of the pass are then lost).
    pub fn forward(&mut self, pass: &Pass, ids: &[u32], want: &[u32]) -> Result<Logits, ModelError> {
        self.forward_tapped(pass, ids, want, None)
    }

    /// `forward` that also shows hidden states.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn forward_tapped(
        &mut self,
        pass: &Pass,
        ids: &[u32],
        want: &[u32],
        mut tap: Option<TapFn<'_>>,
    ) -> Result<Logits, ModelError> {
        pass::check(pass, ids, want, &self.spec, &self.options)?;
        let ops = self.ops.as_ref();
        let rows = pass.rows();
        self.last_rows = 0;
        ops.embed(&self.weights.embedding, ids, &mut self.scratch.x).map_err(at("embedding"))?;
        show(ops, &mut tap, Tap::Embedding, &self.scratch.x, rows)?;
        for (i, layer) in self.weights.layers.iter_mut().enumerate() {
            run_layer(ops, pass, Place::Layer(i), layer, &mut self.scratch, &mut tap)?;
        }
        let s = &mut self.scratch;
        ops.rms_norm(pass, &s.x, &self.weights.final_norm, &mut s.last).map_err(at("final norm"))?;
        show(ops, &mut tap, Tap::Final, &s.last, rows)?;
        self.last_rows = rows;
        let head = self.weights.head.as_ref().unwrap_or(&self.weights.embedding);
        run_head(ops, head, &s.last, want, &mut s.picked, &mut s.logits)
    }
}

/// One layer on the residual stream `s.x`.
pub(crate) fn run_layer(
    ops: &dyn Ops,
    pass: &Pass,
    place: Place,
    layer: &mut LayerWeights,
    s: &mut Scratch,
    tap: &mut Option<TapFn<'_>>,
) -> Result<(), ModelError> {
    let rows = pass.rows();
    let index = match place {
        Place::Layer(i) => Some(i),
        Place::Mtp => None,
    };
    ops.rms_norm(pass, &s.x, &layer.mixer_norm, &mut s.h).map_err(at(place))?;
    match &mut layer.mixer {
        MixerWeights::FullAttention(a) => run_attention(ops, pass, a, s),
        MixerWeights::GatedDeltaNet(g) => run_gdn(ops, pass, g, s),
    }
    .map_err(at(format_args!("{place}: mixer")))?;
    if let Some(i) = index {
        show(ops, tap, Tap::Mixed(i), &s.x, rows)?;
    }
    ops.rms_norm(pass, &s.x, &layer.ffn_norm, &mut s.h).map_err(at(place))?;
    match &layer.ffn {
        FfnWeights::Dense(dense) => run_dense(ops, pass, dense, s),
        FfnWeights::Moe(moe) => run_moe(ops, pass, moe, s),
    }
    .map_err(at(format_args!("{place}: ffn")))?;
    if let (Some(i), Some(tap)) = (index, tap.as_mut()) {
        if matches!(layer.ffn, FfnWeights::Moe(_)) {
            let ids = ops.read_ids(&s.route.ids, 0, rows).map_err(at("tap"))?;
            tap(Tap::RouteIds(i), &ids.iter().map(|id| *id as f32).collect::<Vec<_>>());
            tap(Tap::RouteWeights(i), &ops.read_rows(&s.route.weights, 0, rows).map_err(at("tap"))?);
        }
        tap(Tap::Layer(i), &ops.read_rows(&s.x, 0, rows).map_err(at("tap"))?);
    }
    Ok(())
}

fn run_attention(ops: &dyn Ops, pass: &Pass, a: &mut AttentionWeights, s: &mut Scratch) -> OpResult<()> {
    let (t, shape) = (pass.rows(), a.numbers.shape());
    ops.linear(t, &s.h, &a.q, &mut s.q)?;
    ops.linear(t, &s.h, &a.k, &mut s.k)?;
    ops.linear(t, &s.h, &a.v, &mut s.v)?;
    ops.attend_append(pass, &shape, &a.q_norm, &a.k_norm, &mut s.q, &s.k, &s.v, &mut a.cache)?;
    ops.attend_paged(pass, &shape, &s.q, &a.cache, &mut s.attended)?;
    ops.linear_add(t, &s.attended, &a.o, &mut s.x)
}

fn run_gdn(ops: &dyn Ops, pass: &Pass, g: &mut GdnWeights, s: &mut Scratch) -> OpResult<()> {
    let t = pass.rows();
    ops.linear(t, &s.h, &g.qkv, &mut s.qkv)?;
    ops.linear(t, &s.h, &g.z, &mut s.z)?;
    ops.linear(t, &s.h, &g.a, &mut s.a)?;
    ops.linear(t, &s.h, &g.b, &mut s.b)?;
    ops.gdn_conv(pass, &g.conv, &mut g.conv_state, &mut s.qkv)?;
    let rows = GdnRows { qkv: &s.qkv, z: &s.z, a: &s.a, b: &s.b };
    ops.gdn_step(pass, &g.numbers.shape(), rows, &g.gates, &mut g.state, &mut s.gdn_out)?;
    ops.linear_add(t, &s.gdn_out, &g.out, &mut s.x)
}

fn run_dense(ops: &dyn Ops, pass: &Pass, dense: &DenseWeights, s: &mut Scratch) -> OpResult<()> {
    let t = pass.rows();
    ops.linear(t, &s.h, &dense.gate_up, &mut s.gate_up)?;
    ops.swiglu(pass, &s.gate_up, &mut s.inner)?;
    ops.linear_add(t, &s.inner, &dense.down, &mut s.x)
}

fn run_moe(ops: &dyn Ops, pass: &Pass, moe: &MoeWeights, s: &mut Scratch) -> OpResult<()> {
    ops.moe_route(pass, &s.h, &moe.router, moe.shared_switch.as_ref(), moe.numbers.normalise, &mut s.route)?;
    ops.moe_gate_up(pass, &s.h, &s.route, &moe.experts, &mut s.act)?;
    ops.moe_down(pass, &s.act, &s.route, &moe.experts, &mut s.x)
}

/// Logits of the rows `want` of `hidden`, in blocks that fit the scratch.
pub(crate) fn run_head(
    ops: &dyn Ops,
    head: &Weight,
    hidden: &Tensor,
    want: &[u32],
    picked: &mut Tensor,
    logits: &mut Tensor,
) -> Result<Logits, ModelError> {
    let mut values = Vec::with_capacity(want.len() * head.rows);
    for block in want.chunks(picked.shape[0]) {
        ops.gather_rows(hidden, block, picked).map_err(at("head"))?;
        ops.linear(block.len(), picked, head, logits).map_err(at("head"))?;
        values.extend(ops.read_rows(logits, 0, block.len()).map_err(at("head"))?);
    }
    Ok(Logits { rows: want.len(), vocab: head.rows, values })
}

fn show(
    ops: &dyn Ops,
    tap: &mut Option<TapFn<'_>>,
    what: Tap,
    x: &Tensor,
    rows: usize,
) -> Result<(), ModelError> {
    if let Some(tap) = tap {
        tap(what, &ops.read_rows(x, 0, rows).map_err(at("tap"))?);
    }
    Ok(())
}
