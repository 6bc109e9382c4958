// A GGUF file of the built-in model's shape, with the header that llama.cpp's converter writes and weights that are all zero: enough to
// be looked at, sized and downloaded.
import { readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

const EMBER = fileURLToPath(new URL("../../../src-tauri/assets/ember/model", import.meta.url));
const read = (name) => JSON.parse(readFileSync(path.join(EMBER, name), "utf8"));
const ALIGNMENT = 32;

const u32 = (n) => { const b = Buffer.alloc(4); b.writeUInt32LE(n); return b; };
const u64 = (n) => { const b = Buffer.alloc(8); b.writeBigUInt64LE(BigInt(n)); return b; };
const f32 = (n) => { const b = Buffer.alloc(4); b.writeFloatLE(n); return b; };
const text = (s) => { const b = Buffer.from(s, "utf8"); return Buffer.concat([u64(b.length), b]); };
const list = (kind, all, one) => Buffer.concat([u32(9), u32(kind), u64(all.length), ...all.map(one)]);
const VALUE = {
  number: (n) => Buffer.concat([u32(4), u32(n)]),
  real: (n) => Buffer.concat([u32(6), f32(n)]),
  text: (s) => Buffer.concat([u32(8), text(s)]),
  texts: (all) => list(8, all, text),
  numbers: (all) => list(5, all, u32),
};
/** Number of the type, values of a block, bytes of a block. */
const TYPES = { F32: [0, 1, 4], BF16: [30, 1, 2], Q8_0: [8, 32, 34] };

/** `kind`: the type of the matrices; everything else is F32. */
export function gguf(kind, architecture = "qwen35moe") {
  const c = read("config.json");
  const tokenizer = read("tokenizer.json");
  const pairs = [["general.architecture", VALUE.text(architecture)], ["general.name", VALUE.text("Ember")]];
  const put = (key, value) => pairs.push([`${architecture}.${key}`, value]);
  const n = VALUE.number;
  const [layers, hidden, experts] = [c.num_hidden_layers, c.hidden_size, c.num_experts];
  const [heads, kv, dim] = [c.num_attention_heads, c.num_key_value_heads, c.head_dim];
  const keys = c.linear_num_key_heads * c.linear_key_head_dim;
  const values = c.linear_num_value_heads * c.linear_value_head_dim;
  put("block_count", n(layers));
  put("context_length", n(c.max_position_embeddings));
  put("embedding_length", n(hidden));
  put("attention.head_count", n(heads));
  put("attention.head_count_kv", n(kv));
  put("attention.key_length", n(dim));
  put("attention.value_length", n(dim));
  put("attention.layer_norm_rms_epsilon", VALUE.real(c.rms_norm_eps));
  put("rope.freq_base", VALUE.real(c.rope_parameters.rope_theta));
  put("rope.dimension_count", n(dim * c.rope_parameters.partial_rotary_factor));
  put("rope.dimension_sections", VALUE.numbers([...c.rope_parameters.mrope_section, 0]));
  put("ssm.conv_kernel", n(c.linear_conv_kernel_dim));
  put("ssm.state_size", n(c.linear_key_head_dim));
  put("ssm.group_count", n(c.linear_num_key_heads));
  put("ssm.time_step_rank", n(c.linear_num_value_heads));
  put("ssm.inner_size", n(values));
  put("full_attention_interval", n(4));
  put("expert_count", n(experts));
  put("expert_used_count", n(c.num_experts_per_tok));
  put("expert_feed_forward_length", n(c.moe_intermediate_size));
  put("expert_shared_feed_forward_length", n(c.shared_expert_intermediate_size));
  const tokens = Array.from({ length: c.vocab_size }, (_, id) => `[PAD${id}]`);
  for (const [token, id] of Object.entries(tokenizer.model.vocab)) tokens[id] = token;
  for (const { id, content } of tokenizer.added_tokens) tokens[id] = content;
  const added = new Set(tokenizer.added_tokens.map(({ id }) => id));
  pairs.push(["tokenizer.ggml.model", VALUE.text("gpt2")], ["tokenizer.ggml.pre", VALUE.text("qwen35")], ["tokenizer.ggml.tokens", VALUE.texts(tokens)]);
  pairs.push(["tokenizer.ggml.token_type", VALUE.numbers(tokens.map((_, id) => (added.has(id) ? 3 : 1)))]);
  pairs.push(["tokenizer.ggml.merges", VALUE.texts(tokenizer.model.merges.map((m) => (Array.isArray(m) ? m.join(" ") : m)))]);
  pairs.push(["tokenizer.ggml.eos_token_id", n(tokens.indexOf("<|im_end|>"))]);

  const tensors = [];
  const matrix = (name, ...shape) => tensors.push([name, kind, shape]);
  const plain = (name, ...shape) => tensors.push([name, "F32", shape]);
  matrix("token_embd.weight", c.vocab_size, hidden);
  plain("output_norm.weight", hidden);
  matrix("output.weight", c.vocab_size, hidden);
  for (let i = 0; i < layers; i++) {
    const b = `blk.${i}.`;
    plain(`${b}attn_norm.weight`, hidden);
    plain(`${b}post_attention_norm.weight`, hidden);
    if (c.layer_types[i] === "full_attention") {
      matrix(`${b}attn_q.weight`, 2 * heads * dim, hidden);
      matrix(`${b}attn_k.weight`, kv * dim, hidden);
      matrix(`${b}attn_v.weight`, kv * dim, hidden);
      matrix(`${b}attn_output.weight`, hidden, heads * dim);
      plain(`${b}attn_q_norm.weight`, dim);
      plain(`${b}attn_k_norm.weight`, dim);
    } else {
      matrix(`${b}attn_qkv.weight`, 2 * keys + values, hidden);
      matrix(`${b}attn_gate.weight`, values, hidden);
      matrix(`${b}ssm_alpha.weight`, c.linear_num_value_heads, hidden);
      matrix(`${b}ssm_beta.weight`, c.linear_num_value_heads, hidden);
      matrix(`${b}ssm_out.weight`, hidden, values);
      plain(`${b}ssm_conv1d.weight`, 2 * keys + values, c.linear_conv_kernel_dim);
      plain(`${b}ssm_a`, c.linear_num_value_heads);
      plain(`${b}ssm_dt.bias`, c.linear_num_value_heads);
      plain(`${b}ssm_norm.weight`, c.linear_value_head_dim);
    }
    const [wide, shared] = [c.moe_intermediate_size, c.shared_expert_intermediate_size];
    plain(`${b}ffn_gate_inp.weight`, experts, hidden);
    plain(`${b}ffn_gate_inp_shexp.weight`, hidden);
    matrix(`${b}ffn_gate_shexp.weight`, shared, hidden);
    matrix(`${b}ffn_up_shexp.weight`, shared, hidden);
    matrix(`${b}ffn_down_shexp.weight`, hidden, shared);
    matrix(`${b}ffn_gate_exps.weight`, experts, wide, hidden);
    matrix(`${b}ffn_up_exps.weight`, experts, wide, hidden);
    matrix(`${b}ffn_down_exps.weight`, experts, hidden, wide);
  }
  let at = 0;
  const entries = tensors.map(([name, type, shape]) => {
    const [number, values, bytes] = TYPES[type];
    const entry = [text(name), u32(shape.length), ...[...shape].reverse().map(u64), u32(number), u64(at)];
    const length = (shape.reduce((a, b) => a * b, 1) / values) * bytes;
    at += Math.ceil(length / ALIGNMENT) * ALIGNMENT;
    return Buffer.concat(entry);
  });
  const header = Buffer.concat([
    Buffer.from("GGUF"), u32(3), u64(tensors.length), u64(pairs.length),
    ...pairs.flatMap(([key, value]) => [text(key), value]), ...entries,
  ]);
  return Buffer.concat([header, Buffer.alloc(Math.ceil(header.length / ALIGNMENT) * ALIGNMENT - header.length + at)]);
}
