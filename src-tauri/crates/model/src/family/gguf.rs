//! GGUF files of the families: llama.cpp's metadata and tensor names -> `config.json` and the names of a checkpoint, and what its
//! converter does to the numbers. Qwen3.5 and Qwen3.6, dense (`qwen35`) and MoE (`qwen35moe`).
//!
//! Facts: llama.cpp `conversion/qwen.py`, `src/models/qwen35{,moe}.cpp`, `gguf-py/gguf/constants.py`. Everything is undone exactly:
//! norms are stored with one added, `A_log` as -exp(A_log), value heads in tiles instead of groups.

use super::{Place, names, read};
use crate::ModelError;
use crate::parts::{self, Matrix, Vector};
use crate::spec::{GatedDeltaNet, Layer, Mixer, ModelSpec};
use crate::yarn::Yarn;
use hearth_checkpoint::Gguf;
use hearth_checkpoint::gguf::{Change, GgufType, Import, Imported, Numbers, Tiling};
use serde_json::{Map, Value, json};

/// Architectures and the `model_type` that each is.
const ARCHITECTURES: [(&str, &str); 2] = [("qwen35", "qwen3_5_text"), ("qwen35moe", "qwen3_5_moe_text")];

/// What a GGUF is as a checkpoint.
///
/// # Errors
/// [`ModelError::UnknownArchitecture`]; [`ModelError::Metadata`] for keys that are missing or contradict one another; those of
/// [`read`].
pub fn import(gguf: &Gguf) -> Result<Import, ModelError> {
    let found = gguf.architecture();
    let Some((_, family)) = ARCHITECTURES.iter().find(|(name, _)| *name == found) else {
        let found = if found.is_empty() { "(none)" } else { found };
        return Err(ModelError::UnknownArchitecture {
            file: gguf.label(),
            found: found.chars().take(60).collect(),
            known: ARCHITECTURES.map(|(name, _)| name).join(", "),
        });
    };
    let config = config(&Keys { gguf, architecture: found }, family)?;
    let spec = read(&config)?;
    let tensors = Tensors { gguf, spec: &spec, all: Vec::new() }.collect();
    Ok(Import { config, tensors })
}

/// Metadata under the architecture's own prefix.
struct Keys<'a> {
    gguf: &'a Gguf,
    architecture: &'a str,
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.gguf.metadata().get(&format!("{}.{key}", self.architecture))
    }

    fn refuse(&self, key: &str, expected: &str) -> ModelError {
        let found =
            self.get(key).map_or("nothing".into(), |value| value.to_string().chars().take(60).collect());
        ModelError::Metadata {
            file: self.gguf.label(),
            key: format!("{}.{key}", self.architecture),
            expected: expected.into(),
            found,
        }
    }

    /// A whole number. Lists have one for each layer, 0 where the layer has none of it: the largest is what the others have.
    fn number(&self, key: &str) -> Result<u64, ModelError> {
        let number = match self.get(key) {
            Some(Value::Array(each)) => {
                each.iter().map(Value::as_u64).collect::<Option<Vec<_>>>().and_then(|each| {
                    let most = each.iter().copied().max()?;
                    each.iter().all(|n| *n == 0 || *n == most).then_some(most)
                })
            }
            value => value.and_then(Value::as_u64),
        };
        number.ok_or_else(|| self.refuse(key, "a whole number, the same for all layers"))
    }

    fn number_or(&self, key: &str, default: u64) -> Result<u64, ModelError> {
        if self.get(key).is_none() { Ok(default) } else { self.number(key) }
    }

    fn real(&self, key: &str) -> Result<f64, ModelError> {
        self.get(key).and_then(Value::as_f64).ok_or_else(|| self.refuse(key, "a number"))
    }
}

/// What `config.json` would say. [`read`] checks the ranges of all of it.
fn config(keys: &Keys<'_>, family: &str) -> Result<Value, ModelError> {
    let blocks = keys.number("block_count")?;
    let mtp = keys.number_or("nextn_predict_layers", 0)?;
    let layers = blocks
        .checked_sub(mtp)
        .ok_or_else(|| keys.refuse("nextn_predict_layers", "fewer than block_count"))?;
    let heads = keys.number("attention.head_count")?;
    let head_dim = keys.number("attention.key_length")?;
    if keys.number_or("attention.value_length", head_dim)? != head_dim {
        return Err(keys.refuse("attention.value_length", "the same as attention.key_length"));
    }
    let v_heads = keys.number("ssm.time_step_rank")?;
    let v_cols = keys.number("ssm.inner_size")?;
    let v_dim = v_cols.checked_div(v_heads).filter(|dim| dim.checked_mul(v_heads) == Some(v_cols));
    let v_dim = v_dim.ok_or_else(|| keys.refuse("ssm.inner_size", "a multiple of ssm.time_step_rank"))?;
    let side = |tensor: &str, from_inner: usize| {
        let shape = &keys.gguf.tensor(tensor)?.shape;
        shape.len().checked_sub(from_inner + 1).map(|at| shape[at])
    };
    let mut config = json!({
        "model_type": family,
        "hidden_size": keys.number("embedding_length")?,
        "num_hidden_layers": layers,
        "mtp_num_hidden_layers": mtp,
        "num_attention_heads": heads,
        "num_key_value_heads": keys.number_or("attention.head_count_kv", heads)?,
        "head_dim": head_dim,
        "rms_norm_eps": keys.real("attention.layer_norm_rms_epsilon")?,
        "rope_parameters": rope(keys, head_dim)?,
        "max_position_embeddings": keys.number("context_length")?,
        "vocab_size": side("token_embd.weight", 1),
        "tie_word_embeddings": keys.gguf.tensor("output.weight").is_none(),
        "linear_conv_kernel_dim": keys.number("ssm.conv_kernel")?,
        "linear_num_key_heads": keys.number("ssm.group_count")?,
        "linear_num_value_heads": v_heads,
        "linear_key_head_dim": keys.number("ssm.state_size")?,
        "linear_value_head_dim": v_dim,
        "full_attention_interval": keys.number_or("full_attention_interval", 4)?,
        "layer_types": layer_types(keys, layers)?,
        "eos_token_id": keys.gguf.metadata().get("tokenizer.ggml.eos_token_id"),
    });
    let ffn = if family == "qwen3_5_moe_text" {
        if keys.get("expert_weights_scale").is_some_and(|scale| scale.as_f64() != Some(1.0)) {
            return Err(keys.refuse("expert_weights_scale", "1"));
        }
        json!({
            "num_experts": keys.number("expert_count")?,
            "num_experts_per_tok": keys.number("expert_used_count")?,
            "moe_intermediate_size": keys.number("expert_feed_forward_length")?,
            "shared_expert_intermediate_size": keys.number_or("expert_shared_feed_forward_length", 0)?,
        })
    } else {
        json!({"intermediate_size": keys.number("feed_forward_length")?})
    };
    if let (Value::Object(config), Value::Object(ffn)) = (&mut config, ffn) {
        config.extend(ffn);
    }
    Ok(config)
}

/// `rope_parameters`.
fn rope(keys: &Keys<'_>, head_dim: u64) -> Result<Value, ModelError> {
    let dims = keys.number_or("rope.dimension_count", head_dim)?;
    // The config tells dimensions by their share, which is multiplied out and cut off: half a dimension more is safe from rounding.
    let share = if dims == head_dim { 1.0 } else { (dims as f64 + 0.5) / head_dim.max(1) as f64 };
    let mut rope = Map::new();
    rope.insert("rope_theta".into(), keys.real("rope.freq_base")?.into());
    rope.insert("partial_rotary_factor".into(), share.into());
    let scaling = keys.get("rope.scaling.type").and_then(Value::as_str).unwrap_or("none");
    rope.insert("rope_type".into(), if scaling == "none" { "default" } else { scaling }.into());
    if scaling != "none" {
        let more = [
            ("factor", "factor"),
            ("original_context_length", "original_max_position_embeddings"),
            ("yarn_ext_factor", "extrapolation_factor"),
            ("yarn_beta_fast", "beta_fast"),
            ("yarn_beta_slow", "beta_slow"),
        ];
        for (theirs, ours) in more {
            if let Some(value) = keys.get(&format!("rope.scaling.{theirs}")) {
                rope.insert(ours.into(), value.clone());
            }
        }
        // Theirs is a factor on what the stretching asks for, the config's is all of it.
        let real = |key: &str| keys.get(&format!("rope.scaling.{key}")).and_then(Value::as_f64);
        if let (Some(times), Some(factor)) = (real("yarn_attn_factor"), real("factor")) {
            rope.insert("attention_factor".into(), (times * Yarn::spread(factor, 1.0)).into());
        }
    }
    Ok(rope.into())
}

/// `layer_types`, if the file tells them one by one; else null, and the interval counts.
fn layer_types(keys: &Keys<'_>, layers: u64) -> Result<Value, ModelError> {
    const KEY: &str = "attention.recurrent_layers";
    let Some(value) = keys.get(KEY) else { return Ok(Value::Null) };
    let recurrent: Option<Vec<bool>> =
        value.as_array().and_then(|list| list.iter().map(Value::as_bool).collect());
    let count = usize::try_from(layers).unwrap_or(usize::MAX);
    let recurrent = recurrent.filter(|list| list.len() >= count);
    let recurrent = recurrent.ok_or_else(|| keys.refuse(KEY, "true or false for each layer"))?;
    let kind = |recurrent: &bool| if *recurrent { "linear_attention" } else { "full_attention" };
    Ok(recurrent[..count].iter().map(kind).collect())
}

/// Collects what each tensor of the checkpoint is in the file.
struct Tensors<'a> {
    gguf: &'a Gguf,
    spec: &'a ModelSpec,
    all: Vec<Imported>,
}

impl Tensors<'_> {
    fn collect(mut self) -> Vec<Imported> {
        let (spec, hidden) = (self.spec, self.spec.hidden);
        let names = names(spec);
        self.matrix(&names.embedding(), "token_embd", &[spec.vocab, hidden], None, Change::default());
        self.matrix(&names.head(), "output", &[spec.vocab, hidden], None, Change::default());
        self.norm(&names.final_norm(), "output_norm.weight", hidden);
        for (i, layer) in spec.layers.iter().enumerate() {
            self.layer(Place::Layer(i), layer, i);
        }
        if let Some(mtp) = &spec.mtp {
            let block = spec.layers.len();
            self.layer(Place::Mtp, &mtp.layer, block);
            let join = format!("blk.{block}.nextn.eh_proj");
            self.matrix(names.mtp_join(), &join, &[hidden, 2 * hidden], None, Change::default());
            let [embedding, seed, out] = names.mtp_norms();
            self.norm(embedding, &format!("blk.{block}.nextn.enorm.weight"), hidden);
            self.norm(seed, &format!("blk.{block}.nextn.hnorm.weight"), hidden);
            let own = format!("blk.{block}.nextn.shared_head_norm.weight");
            // Without one of its own, the head shares the trunk's.
            let own = if self.gguf.tensor(&own).is_some() { own } else { "output_norm.weight".into() };
            self.norm(out, &own, hidden);
        }
        self.all
    }

    fn layer(&mut self, place: Place, layer: &Layer, block: usize) {
        let names = names(self.spec);
        for m in parts::matrices(layer, self.spec.hidden) {
            let change = match &layer.mixer {
                Mixer::GatedDeltaNet(g) => matrix_change(m.matrix, g),
                _ => Change::default(),
            };
            let (stored, paired) = self.stored_as(m.matrix, block);
            // What is missing is found missing where it is wanted. A stack of another number of experts than was said is refused for
            // its first; only a stack that is there is taken apart, so that nobody can ask for millions of parts with a short file.
            let Some(entry) = self.gguf.tensor(&format!("{stored}.weight")) else { continue };
            let is_whole = !m.matrix.is_routed() || entry.shape.first() == Some(&m.copies);
            for expert in 0..if is_whole { m.copies } else { 1 } {
                let part = match (m.matrix.is_routed(), paired) {
                    (false, _) => None,
                    (true, None) => Some((expert, m.copies)),
                    // Gate rows and up rows of one expert after another.
                    (true, Some(half)) => Some((2 * expert + half, 2 * m.copies)),
                };
                self.matrix(&names.matrix(place, m.matrix, expert), &stored, &[m.rows, m.cols], part, change);
            }
        }
        for (vector, shape) in parts::vectors(layer, self.spec.hidden) {
            let change = vector_change(vector, &layer.mixer);
            let from = format!("blk.{block}.{}", vector_name(vector));
            let name = names.vector(place, vector);
            self.all.push(Imported { name, from, part: None, shape, change });
        }
    }

    /// The tensor of a matrix, without `.weight`; and which half of it, where gate and up lie in one.
    fn stored_as(&self, matrix: Matrix, block: usize) -> (String, Option<usize>) {
        let name = format!("blk.{block}.{}", matrix_name(matrix));
        let half = match matrix {
            Matrix::ExpertGate => 0,
            Matrix::ExpertUp => 1,
            _ => return (name, None),
        };
        let both = format!("blk.{block}.ffn_gate_up_exps");
        if self.gguf.tensor(&format!("{both}.weight")).is_some() { (both, Some(half)) } else { (name, None) }
    }

    fn matrix(
        &mut self,
        module: &str,
        stored: &str,
        shape: &[usize],
        part: Option<(usize, usize)>,
        change: Change,
    ) {
        let weight = format!("{stored}.weight");
        let kind = self.gguf.tensor(&weight).map(|entry| entry.kind);
        let mut add = |leaf: &str, from: String, shape: &[usize], change| {
            let (name, shape) = (format!("{module}.{leaf}"), shape.to_vec());
            self.all.push(Imported { name, from, part, shape, change });
        };
        add("weight", weight, shape, change);
        // Anywhere else a scale would mean other arithmetic; there it keeps its name and is refused as part of no model.
        if kind == Some(GgufType::Nvfp4) {
            add("weight_scale_2", format!("{stored}.scale"), &[1], Change::default());
            add("input_scale", format!("{stored}.input_scale"), &[1], Change::default());
        }
    }

    fn norm(&mut self, name: &str, from: &str, width: usize) {
        let change = Change { numbers: Numbers::PlusOne, ..Change::default() };
        self.all.push(Imported {
            name: name.into(),
            from: from.into(),
            part: None,
            shape: vec![width],
            change,
        });
    }
}

fn matrix_name(matrix: Matrix) -> &'static str {
    match matrix {
        Matrix::GdnQkv => "attn_qkv",
        Matrix::GdnZ => "attn_gate",
        Matrix::GdnA => "ssm_alpha",
        Matrix::GdnB => "ssm_beta",
        Matrix::GdnOut => "ssm_out",
        Matrix::Q => "attn_q",
        Matrix::K => "attn_k",
        Matrix::V => "attn_v",
        Matrix::O => "attn_output",
        Matrix::DenseGate => "ffn_gate",
        Matrix::DenseUp => "ffn_up",
        Matrix::DenseDown => "ffn_down",
        Matrix::Router => "ffn_gate_inp",
        Matrix::SharedSwitch => "ffn_gate_inp_shexp",
        Matrix::SharedGate => "ffn_gate_shexp",
        Matrix::SharedUp => "ffn_up_shexp",
        Matrix::SharedDown => "ffn_down_shexp",
        Matrix::ExpertGate => "ffn_gate_exps",
        Matrix::ExpertUp => "ffn_up_exps",
        Matrix::ExpertDown => "ffn_down_exps",
    }
}

fn vector_name(vector: Vector) -> &'static str {
    match vector {
        Vector::MixerNorm => "attn_norm.weight",
        Vector::FfnNorm => "post_attention_norm.weight",
        Vector::Conv => "ssm_conv1d.weight",
        Vector::ALog => "ssm_a",
        Vector::DtBias => "ssm_dt.bias",
        Vector::GdnNorm => "ssm_norm.weight",
        Vector::QNorm => "attn_q_norm.weight",
        Vector::KNorm => "attn_k_norm.weight",
    }
}

/// The value heads of a gated delta net in tiles, `head` rows each, after `first` others; None if there is nothing to order.
fn tiling(g: &GatedDeltaNet, first: usize, head: usize) -> Option<Tiling> {
    let (groups, ratio) = (g.k_heads, g.v_heads / g.k_heads);
    (groups > 1 && ratio > 1).then_some(Tiling { first, head, groups, ratio })
}

fn matrix_change(matrix: Matrix, g: &GatedDeltaNet) -> Change {
    let before = 2 * g.k_heads * g.k_dim;
    let (rows, cols) = match matrix {
        Matrix::GdnQkv => (tiling(g, before, g.v_dim), None),
        Matrix::GdnZ => (tiling(g, 0, g.v_dim), None),
        Matrix::GdnA | Matrix::GdnB => (tiling(g, 0, 1), None),
        Matrix::GdnOut => (None, tiling(g, 0, g.v_dim)),
        _ => (None, None),
    };
    Change { rows, cols, numbers: Numbers::Same }
}

fn vector_change(vector: Vector, mixer: &Mixer) -> Change {
    let order = |first: fn(&GatedDeltaNet) -> usize, head: fn(&GatedDeltaNet) -> usize| match mixer {
        Mixer::GatedDeltaNet(g) => tiling(g, first(g), head(g)),
        _ => None,
    };
    match vector {
        Vector::MixerNorm | Vector::FfnNorm | Vector::QNorm | Vector::KNorm => {
            Change { numbers: Numbers::PlusOne, ..Change::default() }
        }
        Vector::Conv => Change { rows: order(|g| 2 * g.k_heads * g.k_dim, |g| g.v_dim), ..Change::default() },
        Vector::ALog => {
            Change { cols: order(|_| 0, |_| 1), numbers: Numbers::NegatedExp, ..Change::default() }
        }
        Vector::DtBias => Change { cols: order(|_| 0, |_| 1), ..Change::default() },
        // This norm alone is stored plain.
        Vector::GdnNorm => Change::default(),
    }
}
