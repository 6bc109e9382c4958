//! Reads a model's tensors once, in the order of its layers, and packs them for the backend. Called by `Model::load`
//! when the memory is planned, and before that, without reading, to plan it.

use crate::ModelError;
use crate::draft_head::{self, DraftWeights};
use crate::error::at;
use crate::family::{Names, Place};
use crate::feed::{Feed, Prepared, head, refuse_non_numbers};
use crate::options::{LoadOptions, PAGE_LEN};
use crate::parts::{Matrix, Vector};
use crate::source::WeightSource;
use crate::spec::{Attention, Ffn, GatedDeltaNet, Layer, Mixer, ModelSpec, Moe, Mtp};
use crate::weights::{
    AttentionWeights, DenseWeights, FfnWeights, GdnWeights, LayerWeights, MixerWeights, MoeWeights,
    MtpWeights, Weights,
};
use hearth_checkpoint::{LinearFormat, Matrix as Held};
use hearth_kernels::ops::{GdnGates, KvLayer, Norm};
use hearth_kernels::{DType, DeviceMemory, Ops, PackedWeight, Tensor, Weight};

/// Reads and packs.
pub(crate) struct Loader<'a> {
    pub source: &'a dyn WeightSource,
    pub ops: &'a dyn Ops,
    pub spec: &'a ModelSpec,
    pub names: &'a Names,
    pub options: &'a LoadOptions,
    /// Where the numbers come from.
    pub feed: &'a Feed<'a>,
}

/// A matrix of a module: name without `.weight`, rows, columns.
type Part<'a> = (&'a str, usize, usize);

impl Loader<'_> {
    /// All weights. `done` is told how much of them is read, 0 to 1, and the bytes of files, read and in all.
    pub(crate) fn load(&self, done: &mut dyn FnMut(f64, Option<(u64, u64)>)) -> Result<Weights, ModelError> {
        let steps = (self.spec.layers.len() + 2) as f64;
        let mut done = |step: usize| match self.feed.progress() {
            Some((read, all)) => done(read as f64 / all.max(1) as f64, Some((read, all))),
            None => done(step as f64 / steps, None),
        };
        let (vocab, hidden) = (self.spec.vocab, self.spec.hidden);
        let embedding = self.matrix(&self.names.embedding(), vocab, hidden)?;
        done(1);
        let mut layers = Vec::with_capacity(self.spec.layers.len());
        for (i, layer) in self.spec.layers.iter().enumerate() {
            layers.push(self.layer(Place::Layer(i), layer)?);
            done(i + 2);
        }
        let head =
            if self.spec.tied_head { None } else { Some(self.matrix(&self.names.head(), vocab, hidden)?) };
        let final_norm = self.norm(&self.names.final_norm(), hidden, self.spec.norm_offset)?;
        let mtp = self.spec.mtp.as_ref().map(|mtp| self.mtp(mtp)).transpose()?;
        let draft = self.draft_head(head.as_ref().unwrap_or(&embedding))?;
        done(self.spec.layers.len() + 2);
        Ok(Weights { embedding, layers, final_norm, head, mtp, draft })
    }

    /// The head for drafts, made of the model's own where it lies.
    fn draft_head(&self, own: &Weight) -> Result<Option<DraftWeights>, ModelError> {
        if !draft_head::wanted(self.spec, self.options) {
            return Ok(None);
        }
        let wish = &self.options.draft_head;
        let head = self.ops.draft_head(own, &wish.ids(self.spec), wish.made_in(own.format));
        let places = wish.places(self.spec).map(|places| {
            let bytes: Vec<u8> = places.iter().flat_map(|place| place.to_le_bytes()).collect();
            self.ops.upload(DType::U32, &bytes, DType::U32, &[self.spec.vocab])
        });
        let places = places.transpose().map_err(at("draft head"))?;
        Ok(Some(DraftWeights { head: head.map_err(at("draft head"))?, places }))
    }

    fn mtp(&self, mtp: &Mtp) -> Result<MtpWeights, ModelError> {
        let hidden = self.spec.hidden;
        let [embedding, seed, out] = self.names.mtp_norms();
        let offset = self.spec.norm_offset;
        Ok(MtpWeights {
            norm_embedding: self.norm(embedding, hidden, offset)?,
            norm_hidden: self.norm(seed, hidden, offset)?,
            join: self.matrix(self.names.mtp_join(), hidden, 2 * hidden)?,
            layer: self.layer(Place::Mtp, &mtp.layer)?,
            norm_out: self.norm(out, hidden, offset)?,
        })
    }

    fn layer(&self, place: Place, layer: &Layer) -> Result<LayerWeights, ModelError> {
        let norm =
            |vector| self.norm(&self.names.vector(place, vector), self.spec.hidden, self.spec.norm_offset);
        Ok(LayerWeights {
            mixer_norm: norm(Vector::MixerNorm)?,
            mixer: match &layer.mixer {
                Mixer::FullAttention(a) => MixerWeights::FullAttention(Box::new(self.attention(place, a)?)),
                Mixer::GatedDeltaNet(g) => MixerWeights::GatedDeltaNet(Box::new(self.gdn(place, g)?)),
            },
            ffn_norm: norm(Vector::FfnNorm)?,
            ffn: match &layer.ffn {
                Ffn::Dense { inter } => self.dense_ffn(place, *inter)?,
                Ffn::Moe(moe) => FfnWeights::Moe(Box::new(self.moe(place, moe)?)),
            },
        })
    }

    fn attention(&self, place: Place, a: &Attention) -> Result<AttentionWeights, ModelError> {
        let hidden = self.spec.hidden;
        let matrix = |m, rows, cols| self.matrix(&self.names.matrix(place, m, 0), rows, cols);
        let norm = |vector| self.norm(&self.names.vector(place, vector), a.head_dim, self.spec.norm_offset);
        let format = self.options.kv.of(self.spec, place).format();
        let pages = format.shape(self.options.pages(), PAGE_LEN, a.kv_heads, a.head_dim);
        let cache = || self.ops.zeros(format.dtype(), &pages).map_err(at(format!("{place}: KV")));
        Ok(AttentionWeights {
            q: matrix(Matrix::Q, a.q_rows(), hidden)?,
            k: matrix(Matrix::K, a.kv_rows(), hidden)?,
            v: matrix(Matrix::V, a.kv_rows(), hidden)?,
            o: matrix(Matrix::O, hidden, a.out_cols())?,
            q_norm: norm(Vector::QNorm)?,
            k_norm: norm(Vector::KNorm)?,
            cache: KvLayer { format, k: cache()?, v: cache()? },
            numbers: a.clone(),
        })
    }

    fn gdn(&self, place: Place, g: &GatedDeltaNet) -> Result<GdnWeights, ModelError> {
        let hidden = self.spec.hidden;
        let channels = g.shape().channels();
        let slots = self.options.states();
        let matrix = |m, rows, cols| self.matrix(&self.names.matrix(place, m, 0), rows, cols);
        let vector = |v| self.names.vector(place, v);
        let state = |shape: &[usize]| {
            self.ops.zeros(DType::F32, shape).map_err(at(format!("{place}: recurrent state")))
        };
        Ok(GdnWeights {
            qkv: matrix(Matrix::GdnQkv, channels, hidden)?,
            z: matrix(Matrix::GdnZ, g.v_cols(), hidden)?,
            a: matrix(Matrix::GdnA, g.v_heads, hidden)?,
            b: matrix(Matrix::GdnB, g.v_heads, hidden)?,
            out: matrix(Matrix::GdnOut, hidden, g.v_cols())?,
            conv: self.tensor(
                &vector(Vector::Conv),
                &[channels, 1, g.conv_width],
                &[channels, g.conv_width],
            )?,
            gates: GdnGates {
                a_log: self.tensor(&vector(Vector::ALog), &[g.v_heads], &[g.v_heads])?,
                dt_bias: self.tensor(&vector(Vector::DtBias), &[g.v_heads], &[g.v_heads])?,
                // This norm alone is stored plain.
                out_norm: self.norm(&vector(Vector::GdnNorm), g.v_dim, 0.0)?,
            },
            conv_state: state(&[slots, g.conv_width - 1, channels])?,
            state: state(&[slots, g.v_heads, g.k_dim, g.v_dim])?,
            numbers: g.clone(),
        })
    }

    fn dense_ffn(&self, place: Place, inter: usize) -> Result<FfnWeights, ModelError> {
        let hidden = self.spec.hidden;
        let [gate, up, down] =
            [Matrix::DenseGate, Matrix::DenseUp, Matrix::DenseDown].map(|m| self.names.matrix(place, m, 0));
        let gate_up = self.gate_up(&[(&gate, inter, hidden), (&up, inter, hidden)])?;
        let down = self.matrix(&down, hidden, inter)?;
        Ok(FfnWeights::Dense(Box::new(DenseWeights { gate_up, down })))
    }

    fn moe(&self, place: Place, moe: &Moe) -> Result<MoeWeights, ModelError> {
        let hidden = self.spec.hidden;
        let name = |m, expert| self.names.matrix(place, m, expert);
        let (mut gate_ups, mut downs) = self.routed_experts(place, moe)?;
        let mut shared_switch = None;
        if let Some(inter) = moe.shared_inter {
            let [gate, up] = [name(Matrix::SharedGate, 0), name(Matrix::SharedUp, 0)];
            gate_ups.push(self.gate_up(&[(&gate, inter, hidden), (&up, inter, hidden)])?);
            downs.push(self.matrix(&name(Matrix::SharedDown, 0), hidden, inter)?);
            shared_switch = Some(self.matrix(&name(Matrix::SharedSwitch, 0), 1, hidden)?);
        }
        let router = self.matrix(&name(Matrix::Router, 0), moe.experts, hidden)?;
        let experts =
            self.ops.experts(gate_ups, downs, moe.max_inter()).map_err(at(format!("{place}: experts")))?;
        Ok(MoeWeights { numbers: moe.clone(), router, shared_switch, experts })
    }

    /// Gate/up and down of all routed experts, from one matrix each or from fused tensors.
    fn routed_experts(&self, place: Place, moe: &Moe) -> Result<(Vec<Weight>, Vec<Weight>), ModelError> {
        let (hidden, inter) = (self.spec.hidden, moe.inter);
        let room = || Vec::with_capacity(moe.experts + 1);
        let (mut gate_ups, mut downs) = (room(), room());
        let [fused_gate_up, fused_down] = self.names.fused_experts(place);
        let fused = self.source.contains(&fused_gate_up);
        if fused {
            // The whole shape first: a slice cannot tell whether there are more experts than it should be.
            self.source.stored_dense(&fused_gate_up, &[moe.experts, 2 * inter, hidden])?;
            self.source.stored_dense(&fused_down, &[moe.experts, hidden, inter])?;
        }
        let matrices = |e: usize| {
            [Matrix::ExpertGate, Matrix::ExpertUp, Matrix::ExpertDown].map(|m| self.names.matrix(place, m, e))
        };
        if let (true, false, Some(memory)) = (self.feed.is_brief(), fused, self.packing()) {
            // All experts of a layer are stored alike, or they are refused: for their place one speaks for all.
            let [gate, up, down] = matrices(0);
            let mut gate_up = self.prepare(&[(&gate, inter, hidden), (&up, inter, hidden)])?;
            let mut down = self.prepare(&[(&down, hidden, inter)])?;
            for _ in 0..moe.experts {
                gate_ups.push(gate_up.pack(self.feed, memory, true).map_err(at(&gate))?);
                downs.push(down.pack(self.feed, memory, false).map_err(at(&gate))?);
            }
            return Ok((gate_ups, downs));
        }
        for e in 0..moe.experts {
            if fused {
                gate_ups.push(self.slice(&fused_gate_up, e, (2 * inter, hidden), true)?);
                downs.push(self.slice(&fused_down, e, (hidden, inter), false)?);
            } else {
                let [gate, up, down] = matrices(e);
                gate_ups.push(self.gate_up(&[(&gate, inter, hidden), (&up, inter, hidden)])?);
                downs.push(self.matrix(&down, hidden, inter)?);
            }
        }
        Ok((gate_ups, downs))
    }

    fn matrix(&self, module: &str, rows: usize, cols: usize) -> Result<Weight, ModelError> {
        self.weight(&[(module, rows, cols)], false)
    }

    fn gate_up(&self, parts: &[Part<'_>; 2]) -> Result<Weight, ModelError> {
        self.weight(parts, true)
    }

    /// The matrices of modules, stacked by rows.
    fn weight(&self, parts: &[Part<'_>], paired: bool) -> Result<Weight, ModelError> {
        let (module, ..) = parts[0];
        let Some(memory) = self.packing() else {
            let parts: Result<Vec<_>, _> =
                parts.iter().map(|(module, rows, cols)| self.source.linear(module, *rows, *cols)).collect();
            let parts = parts?;
            let packed: Vec<PackedWeight<'_>> = parts.iter().map(Held::packed).collect();
            return self.pack(module, &packed, paired);
        };
        self.prepare(parts)?.pack(self.feed, memory, paired).map_err(at(module))
    }

    /// The matrices of modules, ready to be packed from files.
    fn prepare(&self, parts: &[Part<'_>]) -> Result<Prepared, ModelError> {
        let mut prepared = Prepared::default();
        for &(module, rows, cols) in parts {
            let matrix = self.source.stored(module, rows, cols)?;
            prepared.heads.push(match &matrix {
                Some(matrix) => self.feed.stored_weight(matrix, rows, cols)?,
                None => head(self.source.format(module, rows, cols)?, rows, cols, None, None),
            });
            prepared.matrices.push((matrix, rows));
        }
        Ok(prepared)
    }

    /// Matrix `index` of a fused tensor.
    fn slice(
        &self,
        tensor: &str,
        index: usize,
        (rows, cols): (usize, usize),
        paired: bool,
    ) -> Result<Weight, ModelError> {
        let Some(memory) = self.packing() else {
            let matrix = self.source.linear_slice(tensor, index, rows, cols)?;
            return self.pack(tensor, &[matrix.packed()], paired);
        };
        let matrix = self.source.stored_slice(tensor, index, rows, cols)?;
        let head = match &matrix {
            Some(matrix) => self.feed.stored_weight(matrix, rows, cols)?,
            None => head(LinearFormat::Bf16, rows, cols, None, None),
        };
        let mut prepared = Prepared { heads: vec![head], matrices: vec![(matrix, rows)] };
        prepared.pack(self.feed, memory, paired).map_err(at(tensor))
    }

    /// The device that packs what is read from files, or only counts.
    fn packing(&self) -> Option<&dyn DeviceMemory> {
        match self.feed {
            Feed::Memory => None,
            Feed::Files(memory, _) | Feed::Rehearsed(memory, _) => Some(*memory),
        }
    }

    fn pack(&self, module: &str, parts: &[PackedWeight<'_>], paired: bool) -> Result<Weight, ModelError> {
        let packed = if paired { self.ops.pack_gate_up(parts) } else { self.ops.pack(parts) };
        packed.map_err(at(module))
    }

    fn norm(&self, tensor: &str, width: usize, offset: f32) -> Result<Norm, ModelError> {
        Ok(Norm { weight: self.tensor(tensor, &[width], &[width])?, eps: self.spec.eps, offset })
    }

    /// A dense tensor stored with one shape and kept, as f32, with another of equal size.
    fn tensor(&self, name: &str, stored: &[usize], kept: &[usize]) -> Result<Tensor, ModelError> {
        if let Feed::Memory = self.feed {
            let dense = self.source.dense(name, stored)?;
            return self.upload(name, dense.dtype, &dense.bytes, kept);
        }
        let Some(tensor) = self.source.stored_dense(name, stored)? else {
            return self.ops.zeros(DType::F32, kept).map_err(at(name));
        };
        let mut bytes = None;
        let mut keep = |all: &[u8]| {
            bytes = Some(all.to_vec());
            Ok(())
        };
        self.feed.take(&tensor.range, &mut keep).map_err(at(name))?;
        match (bytes, &tensor.rows) {
            (Some(bytes), None) => self.upload(name, tensor.dtype, &bytes, kept),
            (Some(bytes), Some(rows)) => {
                let (dtype, bytes) = rows.undone(&bytes);
                self.upload(name, dtype.dense().unwrap_or(tensor.dtype), &bytes, kept)
            }
            (None, _) => self.ops.zeros(DType::F32, kept).map_err(at(name)),
        }
    }

    fn upload(&self, name: &str, dtype: DType, bytes: &[u8], kept: &[usize]) -> Result<Tensor, ModelError> {
        refuse_non_numbers(name, dtype, bytes)?;
        self.ops.upload(dtype, bytes, DType::F32, kept).map_err(at(name))
    }
}
