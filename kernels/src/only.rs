//! A backend that runs one op and leaves out all others, over another backend: what an op takes inside a model is the time
//! of a pass in which nothing else runs. `hearth bench` is the caller; the numbers of such a pass mean nothing.

use crate::cuda::Bandwidth;
use crate::ops::{
    AttentionInputs, AttentionRowsMut, AttentionShape, Experts, GdnGates, GdnInputs, GdnRows, GdnRowsMut,
    GdnShape, KvLayer, Norm, Pass, Route, RouterInputs, Stretch,
};
use crate::rounds::{Follow, Settled};
use crate::sample::{Chosen, SampleRow};
use crate::{DType, DeviceMemory, Ops, PackedWeight, Records, Result, Tensor, Weight, WeightFormat};
use std::sync::{Arc, Mutex, PoisonError};

/// The ops that can be named, in the order of a layer.
pub const NAMES: [&str; 15] = [
    "embed",
    "gdn_in",
    "gdn_step",
    "attend_in",
    "attend_append",
    "attend_paged",
    "linear_add",
    "moe_in",
    "moe_gate_up",
    "moe_down",
    "ffn_in",
    "swiglu",
    "rms_norm",
    "gather_picks",
    "linear",
];

/// A backend with all ops, or with one.
pub struct Only {
    inner: Arc<dyn Ops>,
    op: Mutex<Option<&'static str>>,
}

impl Only {
    /// Over `inner`, with all ops.
    pub fn over(inner: Arc<dyn Ops>) -> Only {
        Only { inner, op: Mutex::default() }
    }

    /// From now on runs `op`, one of [`NAMES`]; None: all of them.
    pub fn run(&self, op: Option<&'static str>) {
        *self.op.lock().unwrap_or_else(PoisonError::into_inner) = op;
    }

    /// Whether `op` runs.
    fn runs(&self, op: &str) -> bool {
        self.op.lock().unwrap_or_else(PoisonError::into_inner).is_none_or(|only| only == op)
    }

    /// `body`, if `op` runs.
    fn when(&self, op: &str, body: impl FnOnce(&dyn Ops) -> Result<()>) -> Result<()> {
        if self.runs(op) { body(self.inner.as_ref()) } else { Ok(()) }
    }
}

impl Ops for Only {
    fn device(&self) -> &'static str {
        self.inner.device()
    }

    fn identity(&self) -> String {
        self.inner.identity()
    }

    fn available_memory(&self) -> Option<u64> {
        self.inner.available_memory()
    }

    fn memory(&self) -> Option<&dyn DeviceMemory> {
        self.inner.memory()
    }

    fn records(&self) -> Option<&dyn Records> {
        self.inner.records()
    }

    fn bandwidth(&self) -> Result<Option<Bandwidth>> {
        self.inner.bandwidth()
    }

    fn runs_ahead(&self) -> bool {
        self.inner.runs_ahead()
    }

    fn decode_rows(&self) -> Option<usize> {
        self.inner.decode_rows()
    }

    fn set_fp4_activations(&self, on: bool) -> Result<()> {
        self.inner.set_fp4_activations(on)
    }

    fn begin(&self, pass: &Pass, ids: &[u32], picks: &[u32]) -> Result<()> {
        self.inner.begin(pass, ids, picks)
    }

    fn follow(&self, pass: &Pass, ids: &[u32], picks: &[u32], follows: &[Follow]) -> Result<Option<Settled>> {
        self.inner.follow(pass, ids, picks, follows)
    }

    fn replay(
        &self,
        stretch: Stretch,
        pass: &Pass,
        picks: usize,
        body: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        // A record of one op must not be taken for one of all.
        if self.runs("") { self.inner.replay(stretch, pass, picks, body) } else { body() }
    }

    fn time(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Option<f64>> {
        self.inner.time(body)
    }

    fn copy_rows(&self, x: &mut Tensor, from: usize, to: usize, rows: usize) -> Result<()> {
        self.inner.copy_rows(x, from, to, rows)
    }

    fn zeros(&self, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        self.inner.zeros(dtype, shape)
    }

    fn scramble(&self, x: &mut Tensor, seed: u64) -> Result<()> {
        self.inner.scramble(x, seed)
    }

    fn upload(&self, from: DType, bytes: &[u8], dtype: DType, shape: &[usize]) -> Result<Tensor> {
        self.inner.upload(from, bytes, dtype, shape)
    }

    fn read_rows(&self, x: &Tensor, first: usize, rows: usize) -> Result<Vec<f32>> {
        self.inner.read_rows(x, first, rows)
    }

    fn read_bytes(&self, x: &Tensor, first: usize, rows: usize) -> Result<Vec<u8>> {
        self.inner.read_bytes(x, first, rows)
    }

    fn write_bytes(&self, x: &mut Tensor, first: usize, bytes: &[u8]) -> Result<()> {
        self.inner.write_bytes(x, first, bytes)
    }

    fn read_ids(&self, x: &Tensor, first: usize, rows: usize) -> Result<Vec<u32>> {
        self.inner.read_ids(x, first, rows)
    }

    fn pack(&self, parts: &[PackedWeight<'_>]) -> Result<Weight> {
        self.inner.pack(parts)
    }

    fn pack_gate_up(&self, parts: &[PackedWeight<'_>]) -> Result<Weight> {
        self.inner.pack_gate_up(parts)
    }

    fn experts(&self, gate_up: Vec<Weight>, down: Vec<Weight>, max_inter: usize) -> Result<Experts> {
        self.inner.experts(gate_up, down, max_inter)
    }

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
        self.when("gdn_in", |ops| ops.gdn_in(pass, x, norm, weights, conv_state, h, out))
    }

    fn attend_in(
        &self,
        pass: &Pass,
        x: &Tensor,
        norm: &Norm,
        weights: AttentionInputs<'_>,
        h: &mut Tensor,
        out: AttentionRowsMut<'_>,
    ) -> Result<()> {
        self.when("attend_in", |ops| ops.attend_in(pass, x, norm, weights, h, out))
    }

    fn moe_in(
        &self,
        pass: &Pass,
        x: &Tensor,
        norm: &Norm,
        weights: RouterInputs<'_>,
        h: &mut Tensor,
        route: &mut Route,
    ) -> Result<()> {
        self.when("moe_in", |ops| ops.moe_in(pass, x, norm, weights, h, route))
    }

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
        self.when("ffn_in", |ops| ops.ffn_in(pass, x, norm, gate_up, h, both, out))
    }

    fn embed(&self, table: &Weight, ids: &[u32], out: &mut Tensor) -> Result<()> {
        self.when("embed", |ops| ops.embed(table, ids, out))
    }

    fn rms_norm(&self, pass: &Pass, x: &Tensor, norm: &Norm, out: &mut Tensor) -> Result<()> {
        self.when("rms_norm", |ops| ops.rms_norm(pass, x, norm, out))
    }

    fn linear(&self, t: usize, x: &Tensor, w: &Weight, out: &mut Tensor) -> Result<()> {
        self.when("linear", |ops| ops.linear(t, x, w, out))
    }

    fn linear_add(&self, t: usize, x: &Tensor, w: &Weight, out: &mut Tensor) -> Result<()> {
        self.when("linear_add", |ops| ops.linear_add(t, x, w, out))
    }

    fn gdn_conv(&self, pass: &Pass, w: &Tensor, state: &mut Tensor, x: &mut Tensor) -> Result<()> {
        self.when("gdn_conv", |ops| ops.gdn_conv(pass, w, state, x))
    }

    fn gdn_step(
        &self,
        pass: &Pass,
        shape: &GdnShape,
        rows: GdnRows<'_>,
        gates: &GdnGates,
        state: &mut Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        self.when("gdn_step", |ops| ops.gdn_step(pass, shape, rows, gates, state, out))
    }

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
    ) -> Result<()> {
        self.when("attend_append", |ops| ops.attend_append(pass, shape, q_norm, k_norm, q, k, v, cache))
    }

    fn attend_paged(
        &self,
        pass: &Pass,
        shape: &AttentionShape,
        q: &Tensor,
        cache: &KvLayer,
        out: &mut Tensor,
    ) -> Result<()> {
        self.when("attend_paged", |ops| ops.attend_paged(pass, shape, q, cache, out))
    }

    fn moe_route(
        &self,
        pass: &Pass,
        x: &Tensor,
        router: &Weight,
        shared_gate: Option<&Weight>,
        normalise: bool,
        route: &mut Route,
    ) -> Result<()> {
        self.when("moe_route", |ops| ops.moe_route(pass, x, router, shared_gate, normalise, route))
    }

    fn moe_gate_up(
        &self,
        pass: &Pass,
        x: &Tensor,
        route: &Route,
        experts: &Experts,
        act: &mut Tensor,
    ) -> Result<()> {
        self.when("moe_gate_up", |ops| ops.moe_gate_up(pass, x, route, experts, act))
    }

    fn moe_down(
        &self,
        pass: &Pass,
        act: &Tensor,
        route: &Route,
        experts: &Experts,
        out: &mut Tensor,
    ) -> Result<()> {
        self.when("moe_down", |ops| ops.moe_down(pass, act, route, experts, out))
    }

    fn swiglu(&self, pass: &Pass, x: &Tensor, out: &mut Tensor) -> Result<()> {
        self.when("swiglu", |ops| ops.swiglu(pass, x, out))
    }

    fn mtp_join(
        &self,
        t: usize,
        embedding: &Tensor,
        norm_e: &Norm,
        hidden: &Tensor,
        norm_h: &Norm,
        out: &mut Tensor,
    ) -> Result<()> {
        self.when("mtp_join", |ops| ops.mtp_join(t, embedding, norm_e, hidden, norm_h, out))
    }

    fn gather_picks(&self, x: &Tensor, first: usize, rows: &[u32], out: &mut Tensor) -> Result<()> {
        self.when("gather_picks", |ops| ops.gather_picks(x, first, rows, out))
    }

    fn gather_rows(&self, x: &Tensor, rows: &[u32], out: &mut Tensor) -> Result<()> {
        self.when("gather_rows", |ops| ops.gather_rows(x, rows, out))
    }

    fn draft_head(&self, head: &Weight, ids: &[u32], format: WeightFormat) -> Result<Weight> {
        self.inner.draft_head(head, ids, format)
    }

    fn spread_logits(&self, t: usize, x: &Tensor, place: &Tensor, out: &mut Tensor) -> Result<()> {
        self.when("spread_logits", |ops| ops.spread_logits(t, x, place, out))
    }

    fn sample(&self, logits: &mut Tensor, tokens: usize, rows: &[SampleRow<'_>]) -> Result<Chosen> {
        self.inner.sample(logits, tokens, rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Cpu;

    #[test]
    fn the_named_op_runs_and_the_others_leave_their_output_alone() {
        let only = Only::over(Arc::new(Cpu::new(Some(1)).expect("one thread")));
        let x = only.upload(DType::F32, &[1.0f32, 2.0].map(f32::to_le_bytes).concat(), DType::F32, &[1, 2]);
        let x = x.expect("there is memory");
        let mut out = only.zeros(DType::F32, &[1, 2]).expect("there is memory");
        only.run(Some("rms_norm"));
        only.gather_rows(&x, &[0], &mut out).expect("it is left out");
        assert_eq!(only.read_rows(&out, 0, 1).expect("it can be read"), [0.0, 0.0]);
        only.run(Some("gather_rows"));
        only.gather_rows(&x, &[0], &mut out).expect("it runs");
        assert_eq!(only.read_rows(&out, 0, 1).expect("it can be read"), [1.0, 2.0]);
    }

    #[test]
    fn all_ops_run_when_none_is_named() {
        let only = Only::over(Arc::new(Cpu::new(Some(1)).expect("one thread")));
        assert!(NAMES.iter().all(|op| only.runs(op)));
        only.run(Some("linear"));
        assert!(only.runs("linear") && !only.runs("linear_add"));
        only.run(None);
        assert!(only.runs("linear_add"));
    }
}
