//! The activations of a pass, allocated once for the largest pass. Used by `forward`; counted by `budget`.

use crate::ModelError;
use crate::draft_head;
use crate::error::at;
use crate::options::LoadOptions;
use crate::spec::{Ffn, Layer, Mixer, ModelSpec};
use hearth_kernels::ops::Route;
use hearth_kernels::{DType, Ops, Tensor};

/// Widths of every activation; zero where the model has no use for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Widths {
    hidden: usize,
    channels: usize,
    v_cols: usize,
    v_heads: usize,
    q: usize,
    kv: usize,
    attended: usize,
    slots: usize,
    act: usize,
    gate_up: usize,
    inter: usize,
    join: usize,
}

impl Widths {
    fn of(spec: &ModelSpec, mtp: bool) -> Result<Widths, ModelError> {
        let mut w = Widths { hidden: spec.hidden, ..Widths::default() };
        let head = spec.mtp.as_ref().filter(|_| mtp).map(|mtp| &mtp.layer);
        for layer in spec.layers.iter().chain(head) {
            w.add(layer)?;
        }
        if head.is_some() {
            w.join = 2 * spec.hidden;
        }
        Ok(w)
    }

    /// All layers of a kind share their activations, so they must be equally wide.
    fn add(&mut self, layer: &Layer) -> Result<(), ModelError> {
        let set = |have: &mut usize, want: usize| {
            if *have != 0 && *have != want {
                return Err(ModelError::Unsupported {
                    feature: "layers of one kind with different widths".to_owned(),
                    found: format!("{have} and {want}"),
                });
            }
            *have = want;
            Ok(())
        };
        match &layer.mixer {
            Mixer::FullAttention(a) => {
                set(&mut self.q, a.q_rows())?;
                set(&mut self.kv, a.kv_rows())?;
                set(&mut self.attended, a.out_cols())?;
            }
            Mixer::GatedDeltaNet(g) => {
                set(&mut self.channels, g.shape().channels())?;
                set(&mut self.v_cols, g.v_cols())?;
                set(&mut self.v_heads, g.v_heads)?;
            }
        }
        match &layer.ffn {
            Ffn::Dense { inter } => {
                set(&mut self.gate_up, 2 * inter)?;
                set(&mut self.inter, *inter)
            }
            Ffn::Moe(moe) => {
                set(&mut self.slots, moe.slots())?;
                set(&mut self.act, moe.slots() * moe.max_inter())
            }
        }
    }

    /// f32 or u32 elements per row of a pass.
    fn per_row(&self) -> usize {
        // x, h, final, and with MTP: hidden in, embedding, hidden out.
        let streams = if self.join > 0 { 6 } else { 3 };
        streams * self.hidden
            + self.channels
            + 2 * self.v_cols
            + 2 * self.v_heads
            + self.q
            + 2 * self.kv
            + self.attended
            + 2 * self.slots
            + self.act
            + self.gate_up
            + self.inter
            + self.join
    }
}

/// Logits of a draft where they are not those of all tokens; else none.
fn drafted(spec: &ModelSpec, options: &LoadOptions) -> usize {
    let some = options.draft_head.tokens.as_ref().filter(|_| draft_head::wanted(spec, options));
    some.map_or(0, |tokens| tokens.len())
}

/// Bytes that [`Scratch::allocate`] takes.
pub(crate) fn bytes(spec: &ModelSpec, options: &LoadOptions) -> Result<u64, ModelError> {
    let per_row = Widths::of(spec, options.mtp)?.per_row() as u64;
    let head = (spec.hidden + spec.vocab + drafted(spec, options)) as u64;
    let head = (options.head_rows() as u64).saturating_mul(head);
    Ok((options.max_rows as u64).saturating_mul(per_row).saturating_add(head).saturating_mul(4))
}

/// Activations, each `[max_rows, width]` f32 unless said otherwise.
pub(crate) struct Scratch {
    /// Residual stream.
    pub x: Tensor,
    /// Normed residual stream.
    pub h: Tensor,
    /// Hidden state after the final norm; stays until the next forward and seeds the MTP head.
    pub last: Tensor,
    pub qkv: Tensor,
    pub z: Tensor,
    pub a: Tensor,
    pub b: Tensor,
    pub gdn_out: Tensor,
    pub q: Tensor,
    pub k: Tensor,
    pub v: Tensor,
    pub attended: Tensor,
    pub route: Route,
    pub act: Tensor,
    pub gate_up: Tensor,
    pub inner: Tensor,
    /// `[head_rows, hidden]`: the rows whose logits are wanted.
    pub picked: Tensor,
    /// `[head_rows, vocab]`.
    pub logits: Tensor,
    /// `[head_rows, tokens]`: logits of the tokens that drafts are chosen from, where those are not all.
    pub drafted: Tensor,
    pub mtp: Option<MtpScratch>,
}

/// Activations of the MTP head.
pub(crate) struct MtpScratch {
    /// Hidden states that seed this step.
    pub seed: Tensor,
    /// Embeddings of the next tokens.
    pub embedding: Tensor,
    /// `[max_rows, 2 * hidden]`: both, normed.
    pub join: Tensor,
    /// Normed output; stays until the next MTP step and can seed it.
    pub last: Tensor,
}

impl Scratch {
    pub(crate) fn allocate(
        ops: &dyn Ops,
        spec: &ModelSpec,
        options: &LoadOptions,
    ) -> Result<Scratch, ModelError> {
        let w = Widths::of(spec, options.mtp)?;
        let rows = options.max_rows;
        let tensor = |width: usize| ops.zeros(DType::F32, &[rows, width]).map_err(at("scratch"));
        let head = |width: usize| ops.zeros(DType::F32, &[options.head_rows(), width]).map_err(at("scratch"));
        let mtp = if w.join > 0 {
            Some(MtpScratch {
                seed: tensor(w.hidden)?,
                embedding: tensor(w.hidden)?,
                join: tensor(w.join)?,
                last: tensor(w.hidden)?,
            })
        } else {
            None
        };
        Ok(Scratch {
            x: tensor(w.hidden)?,
            h: tensor(w.hidden)?,
            last: tensor(w.hidden)?,
            qkv: tensor(w.channels)?,
            z: tensor(w.v_cols)?,
            a: tensor(w.v_heads)?,
            b: tensor(w.v_heads)?,
            gdn_out: tensor(w.v_cols)?,
            q: tensor(w.q)?,
            k: tensor(w.kv)?,
            v: tensor(w.kv)?,
            attended: tensor(w.attended)?,
            route: Route {
                ids: ops.zeros(DType::U32, &[rows, w.slots]).map_err(at("scratch"))?,
                weights: tensor(w.slots)?,
                slots: w.slots,
            },
            act: tensor(w.act)?,
            gate_up: tensor(w.gate_up)?,
            inner: tensor(w.inter)?,
            picked: head(w.hidden)?,
            logits: head(spec.vocab)?,
            drafted: head(drafted(spec, options))?,
            mtp,
        })
    }
}
