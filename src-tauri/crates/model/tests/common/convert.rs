//! Makes the GGUF file that llama.cpp's converter makes of a Qwen3.5 checkpoint: the way there, written independently of the way back
//! in `family/gguf.rs`. Whole matrices in memory: for the tiny models of the tests and for Ember.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "tests end where they fail")]

#[path = "../../../checkpoint/tests/common/gguf.rs"]
mod writer;

use hearth_checkpoint::Checkpoint;
use hearth_kernels::{Nvfp4Global, Values, dequantise};
use serde_json::Value;
pub use writer::{Meta, Writer};

/// The element type of matrices; everything else is f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As {
    F32,
    Bf16,
    Q8_0,
    /// NVFP4 where the checkpoint has it, f32 elsewhere.
    Nvfp4,
}

/// A matrix as rows of f32, or NVFP4 as it is.
enum Numbers {
    Plain(Vec<f32>),
    Nvfp4 { nibbles: Vec<u8>, scales: Vec<u8>, global: f32 },
}

struct Shape {
    k_heads: usize,
    ratio: usize,
    v_dim: usize,
    keys: usize,
}

/// The whole file: `moe` architecture or not, MTP head included.
pub fn gguf(checkpoint: &Checkpoint, kind: As) -> Writer {
    let config = checkpoint.config();
    let number = |key: &str| config[key].as_u64().unwrap() as usize;
    let real = |value: &Value| value.as_f64().unwrap() as f32;
    let moe = config.get("num_experts").is_some();
    let architecture = if moe { "qwen35moe" } else { "qwen35" };
    let layers = number("num_hidden_layers");
    let mtp = checkpoint.contains("mtp.norm.weight");
    let mut file = Writer::default();
    file.put("general.architecture", Meta::Text(architecture.into()));
    file.put("general.name", Meta::Text("A model of the tests".into()));
    let mut put = |key: &str, value: Meta| file.put(&format!("{architecture}.{key}"), value);
    let count = |n: usize| Meta::U32(n as u32);
    put("block_count", count(layers + usize::from(mtp)));
    if mtp {
        put("nextn_predict_layers", count(1));
    }
    put("context_length", count(number("max_position_embeddings")));
    put("embedding_length", count(number("hidden_size")));
    put("attention.head_count", count(number("num_attention_heads")));
    put("attention.head_count_kv", count(number("num_key_value_heads")));
    put("attention.key_length", count(number("head_dim")));
    put("attention.value_length", count(number("head_dim")));
    put("attention.layer_norm_rms_epsilon", Meta::F32(real(&config["rms_norm_eps"])));
    let rope = &config["rope_parameters"];
    put("rope.freq_base", Meta::F32(real(&rope["rope_theta"])));
    let rotated = number("head_dim") as f64 * rope["partial_rotary_factor"].as_f64().unwrap();
    put("rope.dimension_count", count(rotated as usize));
    let sections = rope["mrope_section"].as_array().unwrap().iter().map(|n| n.as_i64().unwrap() as i32);
    put("rope.dimension_sections", Meta::I32s(sections.chain([0]).collect()));
    put("ssm.conv_kernel", count(number("linear_conv_kernel_dim")));
    put("ssm.state_size", count(number("linear_key_head_dim")));
    put("ssm.group_count", count(number("linear_num_key_heads")));
    put("ssm.time_step_rank", count(number("linear_num_value_heads")));
    put("ssm.inner_size", count(number("linear_num_value_heads") * number("linear_value_head_dim")));
    put("full_attention_interval", count(4));
    if moe {
        put("expert_count", count(number("num_experts")));
        put("expert_used_count", count(number("num_experts_per_tok")));
        put("expert_feed_forward_length", count(number("moe_intermediate_size")));
        put("expert_shared_feed_forward_length", count(number("shared_expert_intermediate_size")));
    } else {
        put("feed_forward_length", count(number("intermediate_size")));
    }
    tokenizer(&mut file, checkpoint);
    let k_heads = number("linear_num_key_heads");
    let shape = Shape {
        k_heads,
        ratio: number("linear_num_value_heads") / k_heads,
        v_dim: number("linear_value_head_dim"),
        keys: 2 * k_heads * number("linear_key_head_dim"),
    };
    for name in checkpoint.names() {
        let Some(name) = name.strip_suffix("_packed").or(Some(name)).filter(|name| is_tensor(name)) else {
            continue;
        };
        tensor(&mut file, checkpoint, &shape, layers, name, kind);
    }
    if moe {
        stack_experts(&mut file, number("num_experts"));
    }
    file
}

fn is_tensor(name: &str) -> bool {
    !["_scale", "_scale_2", "_global_scale", "_scale_inv"].iter().any(|end| name.ends_with(end))
}

/// Ember's vocabulary, or bytes where a checkpoint has none.
fn tokenizer(file: &mut Writer, checkpoint: &Checkpoint) {
    let vocab = checkpoint.config()["vocab_size"].as_u64().unwrap() as usize;
    let (mut tokens, mut kinds) = (vec![None; vocab], vec![5; vocab]);
    let mut merges = Vec::new();
    if let Ok(json) = checkpoint.tokenizer_json() {
        let tokenizer: Value = serde_json::from_slice(&json).unwrap();
        for (token, id) in tokenizer["model"]["vocab"].as_object().unwrap() {
            let id = id.as_u64().unwrap() as usize;
            (tokens[id], kinds[id]) = (Some(token.clone()), 1);
        }
        for added in tokenizer["added_tokens"].as_array().unwrap() {
            let id = added["id"].as_u64().unwrap() as usize;
            tokens[id] = Some(added["content"].as_str().unwrap().to_owned());
            kinds[id] = if added["special"] == true { 3 } else { 4 };
        }
        merges.extend(tokenizer["model"]["merges"].as_array().unwrap().iter().map(|merge| match merge {
            Value::String(merge) => merge.clone(),
            pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        }));
    } else {
        // The 256 bytes, as byte-level BPE writes them.
        let printable = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let mut beyond = 0x100..;
        for byte in 0..256u32 {
            let code = if printable(byte) { byte } else { beyond.next().unwrap() };
            tokens[byte as usize] = Some(char::from_u32(code).unwrap().to_string());
            kinds[byte as usize] = 1;
        }
        (tokens[256], kinds[256]) = (Some("<|im_end|>".into()), 3);
    }
    let end = tokens.iter().position(|token| token.as_deref() == Some("<|im_end|>")).unwrap();
    let tokens =
        tokens.into_iter().enumerate().map(|(id, token)| token.unwrap_or_else(|| format!("[PAD{id}]")));
    file.put("tokenizer.ggml.model", Meta::Text("gpt2".into()));
    file.put("tokenizer.ggml.pre", Meta::Text("qwen35".into()));
    file.put("tokenizer.ggml.tokens", Meta::Texts(tokens.collect()));
    file.put("tokenizer.ggml.token_type", Meta::I32s(kinds));
    file.put("tokenizer.ggml.merges", Meta::Texts(merges));
    file.put("tokenizer.ggml.eos_token_id", Meta::U32(end as u32));
    if let Some(template) = checkpoint.chat_template() {
        file.put("tokenizer.chat_template", Meta::Text(template));
    }
}

/// Modules below a layer and what they are called in a GGUF.
const NAMES: [(&str, &str); 26] = [
    ("input_layernorm.weight", "attn_norm.weight"),
    ("post_attention_layernorm.weight", "post_attention_norm.weight"),
    ("self_attn.q_proj.weight", "attn_q.weight"),
    ("self_attn.k_proj.weight", "attn_k.weight"),
    ("self_attn.v_proj.weight", "attn_v.weight"),
    ("self_attn.o_proj.weight", "attn_output.weight"),
    ("self_attn.q_norm.weight", "attn_q_norm.weight"),
    ("self_attn.k_norm.weight", "attn_k_norm.weight"),
    ("linear_attn.in_proj_qkv.weight", "attn_qkv.weight"),
    ("linear_attn.in_proj_z.weight", "attn_gate.weight"),
    ("linear_attn.in_proj_a.weight", "ssm_alpha.weight"),
    ("linear_attn.in_proj_b.weight", "ssm_beta.weight"),
    ("linear_attn.out_proj.weight", "ssm_out.weight"),
    ("linear_attn.conv1d.weight", "ssm_conv1d.weight"),
    ("linear_attn.A_log", "ssm_a"),
    ("linear_attn.dt_bias", "ssm_dt.bias"),
    ("linear_attn.norm.weight", "ssm_norm.weight"),
    ("mlp.gate_proj.weight", "ffn_gate.weight"),
    ("mlp.up_proj.weight", "ffn_up.weight"),
    ("mlp.down_proj.weight", "ffn_down.weight"),
    ("mlp.gate.weight", "ffn_gate_inp.weight"),
    ("mlp.shared_expert_gate.weight", "ffn_gate_inp_shexp.weight"),
    ("mlp.shared_expert.gate_proj.weight", "ffn_gate_shexp.weight"),
    ("mlp.shared_expert.up_proj.weight", "ffn_up_shexp.weight"),
    ("mlp.shared_expert.down_proj.weight", "ffn_down_shexp.weight"),
    ("mlp.experts.", "ffn_experts."),
];

fn name_of(name: &str, layers: usize) -> String {
    let below = |block: &str, rest: &str| {
        let (theirs, ours) = NAMES.iter().find(|(theirs, _)| rest.starts_with(theirs)).unwrap();
        format!("blk.{block}.{ours}{}", &rest[theirs.len()..])
    };
    match name {
        "model.embed_tokens.weight" => "token_embd.weight".into(),
        "model.norm.weight" => "output_norm.weight".into(),
        "lm_head.weight" => "output.weight".into(),
        "mtp.fc.weight" => format!("blk.{layers}.nextn.eh_proj.weight"),
        "mtp.pre_fc_norm_embedding.weight" => format!("blk.{layers}.nextn.enorm.weight"),
        "mtp.pre_fc_norm_hidden.weight" => format!("blk.{layers}.nextn.hnorm.weight"),
        "mtp.norm.weight" => format!("blk.{layers}.nextn.shared_head_norm.weight"),
        _ => match name.strip_prefix("mtp.layers.0.") {
            Some(rest) => below(&layers.to_string(), rest),
            None => {
                let (block, rest) = name.strip_prefix("model.layers.").unwrap().split_once('.').unwrap();
                below(block, rest)
            }
        },
    }
}

/// `[rows, width]` with groups of `ratio` heads of `head` rows as tiles, after the first `keep` rows.
fn tiled<T: Copy>(values: &[T], keep: usize, head: usize, width: usize, shape: &Shape) -> Vec<T> {
    let (first, heads) = values.split_at(keep * width);
    let mut out = first.to_vec();
    for v in 0..shape.ratio {
        for group in 0..shape.k_heads {
            let at = (group * shape.ratio + v) * head * width;
            out.extend_from_slice(&heads[at..at + head * width]);
        }
    }
    out
}

fn tensor(file: &mut Writer, checkpoint: &Checkpoint, gdn: &Shape, layers: usize, name: &str, kind: As) {
    let theirs = name_of(name, layers);
    let module = name.strip_suffix(".weight").unwrap_or(name);
    let whole = checkpoint.tensor(name).or_else(|_| checkpoint.tensor(&format!("{name}_packed"))).unwrap();
    let shape = whole.shape.to_vec();
    if shape.len() != 2 {
        let mut values = checkpoint.dense(name, &shape).unwrap().to_f32().unwrap();
        let is_plain = name.ends_with("linear_attn.norm.weight");
        if name.ends_with("norm.weight") || (name.contains("_norm_") && !is_plain) {
            if !is_plain {
                values.iter_mut().for_each(|x| *x += 1.0);
            }
        } else if name.contains("conv1d") {
            values = tiled(&values, gdn.keys, gdn.v_dim, shape[2], gdn);
            file.tensor(&theirs, 0, &[shape[0], shape[2]], f32s(&values));
            return;
        } else {
            if name.ends_with("A_log") {
                values.iter_mut().for_each(|x| *x = -f64::from(*x).exp() as f32);
            }
            if name.ends_with("A_log") || name.ends_with("dt_bias") {
                values = tiled(&values, 0, 1, 1, gdn);
            } else if !name.ends_with("layernorm.weight") {
                panic!("{name} is not expected");
            } else {
                values.iter_mut().for_each(|x| *x += 1.0);
            }
        }
        file.tensor(&theirs, 0, &shape, f32s(&values));
        return;
    }
    let is_packed = checkpoint.contains(&format!("{module}.weight_packed"));
    let (rows, cols) = (shape[0], if is_packed { 2 * shape[1] } else { shape[1] });
    let matrix = checkpoint.linear(module, rows, cols).unwrap();
    let packed = matrix.packed();
    let numbers = match &packed.values {
        Values::Nvfp4 { nibbles, scales, global } if kind == As::Nvfp4 => Numbers::Nvfp4 {
            nibbles: nibbles.to_vec(),
            scales: scales.to_vec(),
            global: match global {
                Nvfp4Global::Divide(global) => 1.0 / global,
                Nvfp4Global::Multiply(global) => *global,
            },
        },
        _ => Numbers::Plain(reordered(name, dequantise(&packed).unwrap(), cols, gdn)),
    };
    let dims = if rows == 1 { vec![cols] } else { vec![rows, cols] };
    match numbers {
        Numbers::Nvfp4 { nibbles, scales, global } => {
            assert!(!name.contains("linear_attn"), "nobody quantises those here");
            file.tensor(&theirs, 40, &dims, nvfp4_blocks(&nibbles, &scales));
            file.tensor(&theirs.replace(".weight", ".scale"), 0, &[1], f32s(&[global]));
        }
        // Routers stay f32, as the converter has them.
        Numbers::Plain(values) if name.contains("mlp.gate.") || name.contains("expert_gate.") => {
            file.tensor(&theirs, 0, &dims, f32s(&values));
        }
        Numbers::Plain(values) => {
            let (number, bytes) = match kind {
                As::F32 | As::Nvfp4 => (0, f32s(&values)),
                As::Bf16 => {
                    (30, values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect())
                }
                As::Q8_0 => (8, values.chunks(32).flat_map(q8_0).collect()),
            };
            file.tensor(&theirs, number, &dims, bytes);
        }
    }
}

fn reordered(name: &str, values: Vec<f32>, cols: usize, gdn: &Shape) -> Vec<f32> {
    let leaf = name.rsplit_once("linear_attn.").map(|(_, leaf)| leaf);
    match leaf {
        Some("in_proj_qkv.weight") => tiled(&values, gdn.keys, gdn.v_dim, cols, gdn),
        Some("in_proj_z.weight") => tiled(&values, 0, gdn.v_dim, cols, gdn),
        Some("in_proj_a.weight" | "in_proj_b.weight") => tiled(&values, 0, 1, cols, gdn),
        Some("out_proj.weight") => {
            values.chunks(cols).flat_map(|row| tiled(row, 0, gdn.v_dim, 1, gdn)).collect()
        }
        _ => values,
    }
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// ggml's own way of rounding 32 numbers to Q8_0.
fn q8_0(values: &[f32]) -> Vec<u8> {
    let most = values.iter().fold(0f32, |most, x| most.max(x.abs()));
    let d = most / 127.0;
    let inverse = if d > 0.0 { 1.0 / d } else { 0.0 };
    let mut block = half::f16::from_f32(d).to_le_bytes().to_vec();
    block.extend(values.iter().map(|x| (x * inverse).round() as i8 as u8));
    block
}

/// What [`q8_0`] keeps of a number, as f32.
pub fn through_q8_0(values: &[f32]) -> Vec<f32> {
    let keep = |block: Vec<u8>| {
        let d = half::f16::from_le_bytes([block[0], block[1]]).to_f32();
        block[2..].iter().map(move |q| d * f32::from(*q as i8)).collect::<Vec<_>>()
    };
    values.chunks(32).flat_map(|chunk| keep(q8_0(chunk))).collect()
}

/// Blocks of 64: four scales, then the nibbles of 16 columns as two halves.
fn nvfp4_blocks(nibbles: &[u8], scales: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (nibbles, scales) in nibbles.chunks_exact(32).zip(scales.chunks_exact(4)) {
        out.extend_from_slice(scales);
        for group in nibbles.chunks_exact(8) {
            let at = |i: usize| group[i / 2] >> (i % 2 * 4) & 15;
            out.extend((0..8).map(|i| at(i) | at(8 + i) << 4));
        }
    }
    out
}

/// `ffn_experts.E.gate_proj.weight` of all experts -> one `ffn_gate_exps.weight`.
fn stack_experts(file: &mut Writer, experts: usize) {
    let (mut single, mut rest) = (Vec::new(), Vec::new());
    for tensor in std::mem::take(&mut file.tensors) {
        if tensor.0.contains("ffn_experts.") { single.push(tensor) } else { rest.push(tensor) }
    }
    file.tensors = rest;
    while let Some(first) = single.iter().find(|tensor| tensor.0.contains("ffn_experts.0.")).cloned() {
        let of = |expert: usize| first.0.replace("ffn_experts.0.", &format!("ffn_experts.{expert}."));
        let mut bytes = Vec::new();
        for expert in 0..experts {
            let at = single.iter().position(|tensor| tensor.0 == of(expert)).unwrap();
            bytes.extend(single.swap_remove(at).3);
        }
        let (block, leaf) = first.0.split_once("ffn_experts.0.").unwrap();
        let (matrix, leaf) = leaf.split_once("_proj.").unwrap();
        let is_scale = first.2 == [1];
        let shape = if is_scale { vec![experts] } else { [vec![experts], first.2.clone()].concat() };
        file.tensor(&format!("{block}ffn_{matrix}_exps.{leaf}"), first.1, &shape, bytes);
    }
}
