//! Qwen3.5 and Qwen3.6, dense and MoE: three gated delta nets to one gated attention, zero-centred norms, an MTP head.
//! Reference: transformers 5.23 `models/qwen3_5{,_moe}/modeling_*.py`; the MTP wiring is vLLM's `qwen3_5_mtp.py`.

use super::fields::Fields;
use super::rotary;
use crate::ModelError;
use crate::parts::{Matrix, Vector};
use crate::spec::{Attention, Ffn, GatedDeltaNet, Layer, Mixer, ModelSpec, Moe, Mtp};
use serde_json::{Value, json};

/// The `model_type`s this file reads: outer (with `text_config`) and text-only.
pub(crate) const MODEL_TYPES: [&str; 4] = ["qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5", "qwen3_5_text"];

/// Times the trained context that the authors say YaRN takes these models to.
const REACH: usize = 4;

/// Where the text model's tensors may lie; the first that has an embedding wins.
const PREFIXES: [&str; 3] = ["model.language_model.", "model.", "language_model.model."];

pub(crate) fn read(config: &Value) -> Result<ModelSpec, ModelError> {
    let outer = Fields::new(config, "");
    let nested = outer.get("text_config");
    let text = match nested {
        Some(object) if object.is_object() => Fields::new(object, "text_config."),
        Some(_) => return Err(outer.refuse("text_config", "an object")),
        None => Fields::new(config, ""),
    };
    let family = match text.get("model_type").or(outer.get("model_type")).and_then(Value::as_str) {
        Some(t) if MODEL_TYPES.contains(&t) => t.to_owned(),
        _ => return Err(text.refuse("model_type", MODEL_TYPES.join(" or "))),
    };
    let moe = family.starts_with("qwen3_5_moe");

    text.only("hidden_act", &json!("silu"))?;
    text.only("attention_bias", &json!(false))?;
    text.only("mlp_only_layers", &json!([]))?;
    text.only("mtp_use_dedicated_embeddings", &json!(false))?;

    let hidden = text.number("hidden_size", 16..=65_536)?;
    let attention = attention(&text, hidden)?;
    let trained = text.number("max_position_embeddings", 1..=1 << 26)?;
    // What the config stretches already is not stretched again.
    let (context, reach) = match attention.yarn {
        Some(yarn) => (yarn.context().max(trained), 1),
        None => (trained, REACH),
    };
    let gdn = gated_delta_net(&text)?;
    let ffn = if moe {
        mixture(&text)?
    } else {
        Ffn::Dense { inter: text.number("intermediate_size", 1..=1 << 20)? }
    };

    let layers = kinds(&text)?
        .into_iter()
        .map(|full| Layer {
            mixer: if full {
                Mixer::FullAttention(attention.clone())
            } else {
                Mixer::GatedDeltaNet(gdn.clone())
            },
            ffn: ffn.clone(),
        })
        .collect();
    let mtp = match text.number_or("mtp_num_hidden_layers", 0..=64, 0)? {
        0 => None,
        1 => Some(Mtp { layer: Layer { mixer: Mixer::FullAttention(attention), ffn } }),
        _ => {
            return Err(ModelError::Unsupported {
                feature: "an MTP head of more than one layer".to_owned(),
                found: text.get("mtp_num_hidden_layers").map(Value::to_string).unwrap_or_default(),
            });
        }
    };
    let tied = if nested.is_some() && outer.get("tie_word_embeddings").is_some() { &outer } else { &text };
    Ok(ModelSpec {
        family,
        prefix: if nested.is_some() { PREFIXES[0] } else { PREFIXES[1] }.to_owned(),
        hidden,
        vocab: text.number("vocab_size", 1..=1 << 22)?,
        context,
        reach,
        eps: text.real("rms_norm_eps", 0.0..=0.1)? as f32,
        norm_offset: 1.0,
        tied_head: tied.flag_or("tie_word_embeddings", false)?,
        layers,
        mtp,
    })
}

/// For every layer: is it full attention? From `layer_types`, else every `full_attention_interval`-th.
fn kinds(text: &Fields<'_>) -> Result<Vec<bool>, ModelError> {
    let count = text.number("num_hidden_layers", 1..=1024)?;
    let Some(types) = text.get("layer_types") else {
        let interval = text.number_or("full_attention_interval", 1..=1024, 4)?;
        return Ok((0..count).map(|i| (i + 1) % interval == 0).collect());
    };
    let expected = format!("a list of {count} times `full_attention` or `linear_attention`");
    let list = types.as_array().filter(|list| list.len() == count);
    let list = list.ok_or_else(|| text.refuse("layer_types", &expected))?;
    list.iter()
        .map(|kind| match kind.as_str() {
            Some("full_attention") => Ok(true),
            Some("linear_attention") => Ok(false),
            _ => Err(text.refuse("layer_types", &expected)),
        })
        .collect()
}

fn attention(text: &Fields<'_>, hidden: usize) -> Result<Attention, ModelError> {
    let q_heads = text.number("num_attention_heads", 1..=1024)?;
    let kv_heads = text.number_or("num_key_value_heads", 1..=1024, q_heads)?;
    if !q_heads.is_multiple_of(kv_heads) {
        return Err(
            text.refuse("num_key_value_heads", format!("a divisor of num_attention_heads, {q_heads}"))
        );
    }
    if text.get("head_dim").is_none() && !hidden.is_multiple_of(q_heads) {
        return Err(
            text.refuse("head_dim", "given, since hidden_size is not divisible by num_attention_heads")
        );
    }
    let head_dim = text.number_or("head_dim", 2..=4096, hidden / q_heads)?;

    let rotary::Rotary { dims: rope_dims, theta: rope_theta, yarn } = rotary::read(text, head_dim, 0.25)?;
    let gated = text.flag_or("attn_output_gate", true)?;
    Ok(Attention { q_heads, kv_heads, head_dim, rope_dims, rope_theta, yarn, gated })
}

fn gated_delta_net(text: &Fields<'_>) -> Result<GatedDeltaNet, ModelError> {
    let k_heads = text.number("linear_num_key_heads", 1..=1024)?;
    let v_heads = text.number("linear_num_value_heads", 1..=1024)?;
    if !v_heads.is_multiple_of(k_heads) {
        return Err(text.refuse("linear_num_key_heads", format!("a divisor of the value heads, {v_heads}")));
    }
    Ok(GatedDeltaNet {
        k_heads,
        v_heads,
        k_dim: text.number("linear_key_head_dim", 1..=4096)?,
        v_dim: text.number("linear_value_head_dim", 1..=4096)?,
        conv_width: text.number_or("linear_conv_kernel_dim", 1..=64, 4)?,
    })
}

fn mixture(text: &Fields<'_>) -> Result<Ffn, ModelError> {
    let experts = text.number("num_experts", 1..=4096)?;
    Ok(Ffn::Moe(Moe {
        experts,
        top_k: text.number("num_experts_per_tok", 1..=experts)?,
        inter: text.number("moe_intermediate_size", 1..=1 << 20)?,
        shared_inter: match text.number_or("shared_expert_intermediate_size", 0..=1 << 20, 0)? {
            0 => None,
            inter => Some(inter),
        },
        normalise: text.flag_or("norm_topk_prob", true)?,
    }))
}

/// Corrects what only the tensor names can tell: the prefix, and the MTP head that many configs do not mention.
pub(crate) fn settle(spec: &mut ModelSpec, contains: &dyn Fn(&str) -> bool) {
    let has = |prefix: &str| {
        ["weight", "weight_packed"].iter().any(|leaf| contains(&format!("{prefix}embed_tokens.{leaf}")))
    };
    if let Some(prefix) = PREFIXES.iter().find(|prefix| has(prefix)) {
        spec.prefix = (*prefix).to_owned();
    }
    let has_mtp = contains("mtp.norm.weight");
    if !has_mtp {
        spec.mtp = None;
    } else if spec.mtp.is_none() {
        let full = spec.layers.iter().find(|layer| matches!(layer.mixer, Mixer::FullAttention(_)));
        spec.mtp = full.map(|layer| Mtp { layer: layer.clone() });
    }
}

/// Module of a matrix below its layer; `{e}` stands for the expert.
pub(crate) fn matrix(matrix: Matrix) -> &'static str {
    match matrix {
        Matrix::GdnQkv => "linear_attn.in_proj_qkv",
        Matrix::GdnZ => "linear_attn.in_proj_z",
        Matrix::GdnA => "linear_attn.in_proj_a",
        Matrix::GdnB => "linear_attn.in_proj_b",
        Matrix::GdnOut => "linear_attn.out_proj",
        Matrix::Q => "self_attn.q_proj",
        Matrix::K => "self_attn.k_proj",
        Matrix::V => "self_attn.v_proj",
        Matrix::O => "self_attn.o_proj",
        Matrix::DenseGate => "mlp.gate_proj",
        Matrix::DenseUp => "mlp.up_proj",
        Matrix::DenseDown => "mlp.down_proj",
        Matrix::Router => "mlp.gate",
        Matrix::SharedSwitch => "mlp.shared_expert_gate",
        Matrix::SharedGate => "mlp.shared_expert.gate_proj",
        Matrix::SharedUp => "mlp.shared_expert.up_proj",
        Matrix::SharedDown => "mlp.shared_expert.down_proj",
        Matrix::ExpertGate => "mlp.experts.{e}.gate_proj",
        Matrix::ExpertUp => "mlp.experts.{e}.up_proj",
        Matrix::ExpertDown => "mlp.experts.{e}.down_proj",
    }
}

/// Tensor of a vector below its layer.
pub(crate) fn vector(vector: Vector) -> &'static str {
    match vector {
        Vector::MixerNorm => "input_layernorm.weight",
        Vector::FfnNorm => "post_attention_layernorm.weight",
        Vector::Conv => "linear_attn.conv1d.weight",
        Vector::ALog => "linear_attn.A_log",
        Vector::DtBias => "linear_attn.dt_bias",
        Vector::GdnNorm => "linear_attn.norm.weight",
        Vector::QNorm => "self_attn.q_norm.weight",
        Vector::KNorm => "self_attn.k_norm.weight",
    }
}
