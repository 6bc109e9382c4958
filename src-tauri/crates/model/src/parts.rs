//! The matrices and vectors each layer of a spec is made of, with shapes: what budget counts, the loader reads and the
//! synthetic source invents.

use crate::spec::{Ffn, Layer, Mixer};

/// A matrix of a layer, by role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Matrix {
    GdnQkv,
    GdnZ,
    GdnA,
    GdnB,
    GdnOut,
    Q,
    K,
    V,
    O,
    DenseGate,
    DenseUp,
    DenseDown,
    Router,
    SharedSwitch,
    SharedGate,
    SharedUp,
    SharedDown,
    ExpertGate,
    ExpertUp,
    ExpertDown,
}

impl Matrix {
    /// True for the matrices of which there is one per routed expert.
    pub fn is_routed(self) -> bool {
        matches!(self, Matrix::ExpertGate | Matrix::ExpertUp | Matrix::ExpertDown)
    }

    /// Which part of the budget it belongs to.
    pub fn part(self) -> Part {
        match self {
            Matrix::GdnQkv | Matrix::GdnZ | Matrix::GdnA | Matrix::GdnB | Matrix::GdnOut => Part::Gdn,
            Matrix::Q | Matrix::K | Matrix::V | Matrix::O => Part::Attention,
            Matrix::DenseGate | Matrix::DenseUp | Matrix::DenseDown => Part::Dense,
            Matrix::Router | Matrix::SharedSwitch => Part::Router,
            Matrix::SharedGate | Matrix::SharedUp | Matrix::SharedDown => Part::Shared,
            Matrix::ExpertGate | Matrix::ExpertUp | Matrix::ExpertDown => Part::Routed,
        }
    }
}

/// A norm, gate parameter or convolution of a layer, by role; kept as f32 on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Vector {
    MixerNorm,
    FfnNorm,
    Conv,
    ALog,
    DtBias,
    GdnNorm,
    QNorm,
    KNorm,
}

/// The parts into which bytes are split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Part {
    Gdn,
    Attention,
    Dense,
    Shared,
    Routed,
    Router,
}

/// A matrix `[rows, cols]`, stored `copies` times (routed experts), of which one row reads `used`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shaped {
    /// Its role.
    pub matrix: Matrix,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// How many there are.
    pub copies: usize,
    /// How many a single row reads.
    pub used: usize,
}

/// The matrices of a layer.
pub fn matrices(layer: &Layer, hidden: usize) -> Vec<Shaped> {
    let mut all = Vec::new();
    let mut add = |matrix, rows, cols| all.push(Shaped { matrix, rows, cols, copies: 1, used: 1 });
    match &layer.mixer {
        Mixer::FullAttention(a) => {
            add(Matrix::Q, a.q_rows(), hidden);
            add(Matrix::K, a.kv_rows(), hidden);
            add(Matrix::V, a.kv_rows(), hidden);
            add(Matrix::O, hidden, a.out_cols());
        }
        Mixer::GatedDeltaNet(g) => {
            add(Matrix::GdnQkv, g.shape().channels(), hidden);
            add(Matrix::GdnZ, g.v_cols(), hidden);
            add(Matrix::GdnA, g.v_heads, hidden);
            add(Matrix::GdnB, g.v_heads, hidden);
            add(Matrix::GdnOut, hidden, g.v_cols());
        }
    }
    match &layer.ffn {
        Ffn::Dense { inter } => {
            add(Matrix::DenseGate, *inter, hidden);
            add(Matrix::DenseUp, *inter, hidden);
            add(Matrix::DenseDown, hidden, *inter);
        }
        Ffn::Moe(moe) => {
            add(Matrix::Router, moe.experts, hidden);
            if let Some(inter) = moe.shared_inter {
                add(Matrix::SharedSwitch, 1, hidden);
                add(Matrix::SharedGate, inter, hidden);
                add(Matrix::SharedUp, inter, hidden);
                add(Matrix::SharedDown, hidden, inter);
            }
            let routed =
                |matrix, rows, cols| Shaped { matrix, rows, cols, copies: moe.experts, used: moe.top_k };
            all.push(routed(Matrix::ExpertGate, moe.inter, hidden));
            all.push(routed(Matrix::ExpertUp, moe.inter, hidden));
            all.push(routed(Matrix::ExpertDown, hidden, moe.inter));
        }
    }
    all
}

/// The vectors of a layer and their shapes in the checkpoint.
pub fn vectors(layer: &Layer, hidden: usize) -> Vec<(Vector, Vec<usize>)> {
    let mut all = vec![(Vector::MixerNorm, vec![hidden]), (Vector::FfnNorm, vec![hidden])];
    match &layer.mixer {
        Mixer::FullAttention(a) => {
            all.push((Vector::QNorm, vec![a.head_dim]));
            all.push((Vector::KNorm, vec![a.head_dim]));
        }
        Mixer::GatedDeltaNet(g) => {
            all.push((Vector::Conv, vec![g.shape().channels(), 1, g.conv_width]));
            all.push((Vector::ALog, vec![g.v_heads]));
            all.push((Vector::DtBias, vec![g.v_heads]));
            all.push((Vector::GdnNorm, vec![g.v_dim]));
        }
    }
    all
}
