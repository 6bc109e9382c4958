//! The forward pass: a spec run over `trait Ops`. The engine calls `Model::forward` once per step; it appends KV,
//! advances recurrent state, and returns the logits of the rows that were asked for.

use crate::ModelError;
use crate::error::at;
use crate::family::Place;
use crate::model::{Logits, Model};
use crate::pass;
use crate::sampled::Wanted;
use crate::scratch::Scratch;
use crate::weights::{
    AttentionWeights, DenseWeights, FfnWeights, GdnWeights, LayerWeights, MixerWeights, MoeWeights,
};
use hearth_kernels::ops::{
    AttentionInputs, AttentionRowsMut, GdnInputs, GdnRows, GdnRowsMut, Norm, Pass, RouterInputs, Stretch,
};
use hearth_kernels::{OpError, Ops, Result as OpResult, Tensor, Weight};

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
        if tap.is_none() {
            self.start(pass, ids, want, &[])?;
            return self.all_wanted();
        }
        pass::check(pass, ids, want, &self.spec, &self.options)?;
        let ops = self.ops.clone();
        let ops = ops.as_ref();
        self.last_rows = 0;
        ops.begin(pass, ids, want).map_err(at("pass"))?;
        // Hidden states are read in between, so this runs as it comes and is never recorded.
        self.run_trunk(ops, pass, ids, &mut tap)?;
        self.last_rows = pass.rows();
        self.wanted = Wanted::new(want, 0, false, false);
        self.all_wanted()
    }

    /// Starts everything from the ids to the logits of the rows in `want`, at most as many as the scratch holds.
    pub(crate) fn launch_forward(
        &mut self,
        pass: &Pass,
        ids: &[u32],
        want: &[u32],
    ) -> Result<(), ModelError> {
        let ops = self.ops.clone();
        let ops = ops.as_ref();
        self.run_trunk(ops, pass, ids, &mut None)?;
        let (head, s) = (self.weights.head.as_ref().unwrap_or(&self.weights.embedding), &mut self.scratch);
        launch_head(ops, head, &s.last, 0, want, &mut s.picked, &mut s.logits)
    }

    /// Embedding to final norm.
    pub(crate) fn run_trunk(
        &mut self,
        ops: &dyn Ops,
        pass: &Pass,
        ids: &[u32],
        tap: &mut Option<TapFn<'_>>,
    ) -> Result<(), ModelError> {
        let rows = pass.rows();
        ops.embed(&self.weights.embedding, ids, &mut self.scratch.x).map_err(at("embedding"))?;
        show(ops, tap, Tap::Embedding, &self.scratch.x, rows)?;
        for (i, layer) in self.weights.layers.iter_mut().enumerate() {
            run_layer(ops, pass, Place::Layer(i), layer, &mut self.scratch, tap)?;
        }
        let s = &mut self.scratch;
        ops.rms_norm(pass, &s.x, &self.weights.final_norm, &mut s.last).map_err(at("final norm"))?;
        show(ops, tap, Tap::Final, &s.last, rows)
    }
}

/// `Ops::replay` for a body that fails with a model's error.
pub(crate) fn recorded(
    ops: &dyn Ops,
    stretch: Stretch,
    pass: &Pass,
    picks: usize,
    body: &mut dyn FnMut() -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    as_op_errors(ops, body, &mut |body| ops.replay(stretch, pass, picks, body))
}

/// Launches that fail with an op's error.
type Body<'a> = dyn FnMut() -> OpResult<()> + 'a;

/// Gives `run` a body that fails with an op's error, from one that fails with a model's.
pub(crate) fn as_op_errors(
    ops: &dyn Ops,
    body: &mut dyn FnMut() -> Result<(), ModelError>,
    run: &mut dyn FnMut(&mut Body<'_>) -> OpResult<()>,
) -> Result<(), ModelError> {
    let mut failed = None;
    let result = run(&mut || {
        body().map_err(|error| {
            let source = match &error {
                ModelError::Op { source, .. } => source.clone(),
                other => OpError::Device {
                    device: ops.device(),
                    code: other.code().into(),
                    what: other.to_string(),
                },
            };
            failed = Some(error);
            source
        })
    });
    result.map_err(|source| failed.unwrap_or_else(|| at("recorded pass")(source)))
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
    match &mut layer.mixer {
        MixerWeights::FullAttention(a) => run_attention(ops, pass, &layer.mixer_norm, a, s),
        MixerWeights::GatedDeltaNet(g) => run_gdn(ops, pass, &layer.mixer_norm, g, s),
    }
    .map_err(at(format_args!("{place}: mixer")))?;
    if let Some(i) = index {
        show(ops, tap, Tap::Mixed(i), &s.x, rows)?;
    }
    match &layer.ffn {
        FfnWeights::Dense(dense) => run_dense(ops, pass, &layer.ffn_norm, dense, s),
        FfnWeights::Moe(moe) => run_moe(ops, pass, &layer.ffn_norm, moe, s),
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

fn run_attention(
    ops: &dyn Ops,
    pass: &Pass,
    norm: &Norm,
    a: &mut AttentionWeights,
    s: &mut Scratch,
) -> OpResult<()> {
    let shape = a.numbers.shape();
    let weights = AttentionInputs { q: &a.q, k: &a.k, v: &a.v };
    let rows = AttentionRowsMut { q: &mut s.q, k: &mut s.k, v: &mut s.v };
    ops.attend_in(pass, &s.x, norm, weights, &mut s.h, rows)?;
    ops.attend_append(pass, &shape, &a.q_norm, &a.k_norm, &mut s.q, &s.k, &s.v, &mut a.cache)?;
    ops.attend_paged(pass, &shape, &s.q, &a.cache, &mut s.attended)?;
    ops.linear_add(pass.rows(), &s.attended, &a.o, &mut s.x)
}

fn run_gdn(ops: &dyn Ops, pass: &Pass, norm: &Norm, g: &mut GdnWeights, s: &mut Scratch) -> OpResult<()> {
    let weights = GdnInputs { qkv: &g.qkv, z: &g.z, a: &g.a, b: &g.b, conv: &g.conv };
    let rows = GdnRowsMut { qkv: &mut s.qkv, z: &mut s.z, a: &mut s.a, b: &mut s.b };
    ops.gdn_in(pass, &s.x, norm, weights, &mut g.conv_state, &mut s.h, rows)?;
    let rows = GdnRows { qkv: &s.qkv, z: &s.z, a: &s.a, b: &s.b };
    ops.gdn_step(pass, &g.numbers.shape(), rows, &g.gates, &mut g.state, &mut s.gdn_out)?;
    ops.linear_add(pass.rows(), &s.gdn_out, &g.out, &mut s.x)
}

fn run_dense(ops: &dyn Ops, pass: &Pass, norm: &Norm, dense: &DenseWeights, s: &mut Scratch) -> OpResult<()> {
    ops.ffn_in(pass, &s.x, norm, &dense.gate_up, &mut s.h, &mut s.gate_up, &mut s.inner)?;
    ops.linear_add(pass.rows(), &s.inner, &dense.down, &mut s.x)
}

fn run_moe(ops: &dyn Ops, pass: &Pass, norm: &Norm, moe: &MoeWeights, s: &mut Scratch) -> OpResult<()> {
    let weights = RouterInputs {
        router: &moe.router,
        shared_gate: moe.shared_switch.as_ref(),
        normalise: moe.numbers.normalise,
    };
    ops.moe_in(pass, &s.x, norm, weights, &mut s.h, &mut s.route)?;
    ops.moe_gate_up(pass, &s.h, &s.route, &moe.experts, &mut s.act)?;
    ops.moe_down(pass, &s.act, &s.route, &moe.experts, &mut s.x)
}

/// Starts the head on the rows `want` of `hidden`, at most as many as `picked` holds; they are the picks from
/// `first_pick` on.
pub(crate) fn launch_head(
    ops: &dyn Ops,
    head: &Weight,
    hidden: &Tensor,
    first_pick: usize,
    want: &[u32],
    picked: &mut Tensor,
    logits: &mut Tensor,
) -> Result<(), ModelError> {
    ops.gather_picks(hidden, first_pick, want, picked).map_err(at("head"))?;
    ops.linear(want.len(), picked, head, logits).map_err(at("head"))
}

/// The first `rows` rows of logits.
pub(crate) fn read_logits(
    ops: &dyn Ops,
    logits: &Tensor,
    rows: usize,
    vocab: usize,
) -> Result<Logits, ModelError> {
    Ok(Logits { rows, vocab, values: ops.read_rows(logits, 0, rows).map_err(at("head"))? })
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
