//! Where a spec's matrices and vectors lie in a checkpoint. Built by the families, read by budget and loader.

use crate::parts::{Matrix, Vector};

/// A layer of the trunk or the layer of the MTP head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Layer of the trunk, from 0.
    Layer(usize),
    /// The MTP head's own layer.
    Mtp,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Layer(i) => write!(f, "layer {i}"),
            Place::Mtp => write!(f, "MTP layer"),
        }
    }
}

/// Names of modules (matrices, without `.weight`) and of tensors (vectors).
#[derive(Debug, Clone)]
pub struct Names {
    prefix: String,
    matrix: fn(Matrix) -> &'static str,
    vector: fn(Vector) -> &'static str,
}

impl Names {
    pub(crate) fn new(
        prefix: &str,
        matrix: fn(Matrix) -> &'static str,
        vector: fn(Vector) -> &'static str,
    ) -> Self {
        Names { prefix: prefix.to_owned(), matrix, vector }
    }

    fn layer(&self, place: Place) -> String {
        match place {
            Place::Layer(i) => format!("{}layers.{i}.", self.prefix),
            Place::Mtp => "mtp.layers.0.".to_owned(),
        }
    }

    /// Module of the embedding.
    pub fn embedding(&self) -> String {
        format!("{}embed_tokens", self.prefix)
    }

    /// Module of the head.
    pub fn head(&self) -> String {
        match self.prefix.strip_suffix("language_model.model.") {
            Some(outer) => format!("{outer}language_model.lm_head"),
            None => "lm_head".to_owned(),
        }
    }

    /// Tensor of the norm before the head.
    pub fn final_norm(&self) -> String {
        format!("{}norm.weight", self.prefix)
    }

    /// Module of the projection that joins embedding and hidden state in the MTP head.
    pub fn mtp_join(&self) -> &'static str {
        "mtp.fc"
    }

    /// Tensors of the MTP head's norms: embedding, hidden state, output.
    pub fn mtp_norms(&self) -> [&'static str; 3] {
        ["mtp.pre_fc_norm_embedding.weight", "mtp.pre_fc_norm_hidden.weight", "mtp.norm.weight"]
    }

    /// Module of a matrix; the routed experts' matrices have one per expert.
    pub fn matrix(&self, place: Place, matrix: Matrix, expert: usize) -> String {
        let name = (self.matrix)(matrix);
        let name =
            if matrix.is_routed() { name.replace("{e}", &expert.to_string()) } else { name.to_owned() };
        self.layer(place) + &name
    }

    /// Tensors of experts stored fused: `[E, 2I, H]` (gate rows first) and `[E, H, I]`.
    pub fn fused_experts(&self, place: Place) -> [String; 2] {
        let layer = self.layer(place);
        [format!("{layer}mlp.experts.gate_up_proj"), format!("{layer}mlp.experts.down_proj")]
    }

    /// Tensor of a norm, gate or convolution.
    pub fn vector(&self, place: Place, vector: Vector) -> String {
        self.layer(place) + (self.vector)(vector)
    }
}
