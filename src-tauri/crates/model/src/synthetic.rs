//! Models of a named shape with invented numbers, so that speed can be measured without a download. `hearth bench
//! --synthetic` loads one like a checkpoint; every matrix is a window into a few shared pools of random bytes.

mod save;

use crate::ModelError;
use crate::family;
use crate::formats::Formats;
use crate::parts;
use crate::source::{Dense, StoredMatrix, StoredTensor, WeightSource};
use crate::spec::ModelSpec;
use hearth_checkpoint::{LinearFormat, Matrix};
use hearth_kernels::splitmix::SplitMix64;
use hearth_kernels::{DType, Fp8Scales, Nvfp4Global, PackedWeight, Values};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::sync::OnceLock;

/// Names of the shapes, with what they are.
pub const SHAPES: [(&str, &str); 5] = [
    ("tiny", "a few layers, for tests"),
    ("moe-1gb", "mixture of experts, about 1 GB in NVFP4"),
    ("dense-1gb", "dense ffns, about 1 GB in NVFP4"),
    ("qwen3.6-35b-a3b", "Qwen3.6-35B-A3B"),
    ("qwen3.5-122b-a10b", "Qwen3.5-122B-A10B"),
];

/// Names of the recipes, with what they store how.
pub const RECIPES: [(&str, &str); 6] = [
    ("nvfp4", "every large matrix in NVFP4"),
    ("nvfp4-bf16", "NVFP4 attention and ffns, bf16 gated delta nets and head, as RedHatAI publishes"),
    ("nvfp4-fp8", "NVFP4 ffns and head, FP8 attention and gated delta nets, as NVIDIA publishes"),
    ("nvfp4-mixed", "another name of nvfp4-fp8, the mixture that ModelOpt calls MIXED_PRECISION"),
    ("fp8", "every large matrix but the head in FP8 blocks, as Qwen publishes"),
    ("bf16", "everything in bf16"),
];

/// How much later a window may start: enough that neighbours differ, small beside the pool.
const JITTER: usize = 1 << 16;

/// Which matrices are stored how; routers, small projections and embeddings are always bf16.
#[derive(Debug, Clone, Copy)]
struct Recipe {
    mixer: [LinearFormat; 2],
    ffn: LinearFormat,
    head: LinearFormat,
}

impl Recipe {
    fn named(name: &str) -> Option<Recipe> {
        use LinearFormat::{Bf16, Fp8Block128, Fp8Tensor, Nvfp4};
        let (gdn, attention, ffn, head) = match name {
            "nvfp4" => (Nvfp4, Nvfp4, Nvfp4, Nvfp4),
            "nvfp4-bf16" => (Bf16, Nvfp4, Nvfp4, Bf16),
            "nvfp4-fp8" | "nvfp4-mixed" => (Fp8Tensor, Fp8Tensor, Nvfp4, Nvfp4),
            "fp8" => (Fp8Block128, Fp8Block128, Fp8Block128, Bf16),
            "bf16" => (Bf16, Bf16, Bf16, Bf16),
            _ => return None,
        };
        Some(Recipe { mixer: [gdn, attention], ffn, head })
    }

    fn of(&self, module: &str) -> LinearFormat {
        let leaf = module.rsplit('.').next().unwrap_or(module);
        match leaf {
            _ if module.starts_with("mtp.") => LinearFormat::Bf16,
            "lm_head" => self.head,
            "in_proj_qkv" | "in_proj_z" | "out_proj" => self.mixer[0],
            "q_proj" | "k_proj" | "v_proj" | "o_proj" => self.mixer[1],
            "gate_proj" | "up_proj" | "down_proj" => self.ffn,
            _ => LinearFormat::Bf16,
        }
    }
}

/// The `config.json` of a shape. The large ones are the published models' own numbers.
fn config(shape: &str) -> Option<Value> {
    // hidden, layers, q heads, kv heads, head dim, linear k heads, v heads, dim, experts, top-k, inter, vocab, context
    let (moe, n) = match shape {
        "tiny" => (true, [128, 4, 4, 2, 32, 2, 4, 32, 8, 2, 64, 512, 512]),
        "moe-1gb" => (true, [1024, 20, 8, 2, 256, 8, 16, 128, 64, 8, 384, 65_536, 32_768]),
        "dense-1gb" => (false, [2048, 24, 8, 2, 256, 16, 16, 128, 0, 0, 6144, 65_536, 32_768]),
        "qwen3.6-35b-a3b" => (true, [2048, 40, 16, 2, 256, 16, 32, 128, 256, 8, 512, 248_320, 262_144]),
        "qwen3.5-122b-a10b" => (true, [3072, 48, 32, 2, 256, 16, 64, 128, 256, 8, 1024, 248_320, 262_144]),
        _ => return None,
    };
    let mut config = json!({
        "model_type": if moe { "qwen3_5_moe_text" } else { "qwen3_5_text" },
        "hidden_size": n[0], "num_hidden_layers": n[1], "full_attention_interval": 4,
        "num_attention_heads": n[2], "num_key_value_heads": n[3], "head_dim": n[4],
        "linear_num_key_heads": n[5], "linear_num_value_heads": n[6],
        "linear_key_head_dim": n[7], "linear_value_head_dim": n[7], "linear_conv_kernel_dim": 4,
        "vocab_size": n[11], "max_position_embeddings": n[12], "rms_norm_eps": 1e-6,
        "rope_parameters": { "rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25 },
        "tie_word_embeddings": false, "mtp_num_hidden_layers": 1,
    });
    let ffn = if moe {
        json!({
            "num_experts": n[8], "num_experts_per_tok": n[9],
            "moe_intermediate_size": n[10], "shared_expert_intermediate_size": n[10],
        })
    } else {
        json!({ "intermediate_size": n[10] })
    };
    if let (Some(config), Some(ffn)) = (config.as_object_mut(), ffn.as_object()) {
        config.extend(ffn.clone());
    }
    Some(config)
}

/// Random bytes that are valid numbers in every window.
#[derive(Debug, Default)]
struct Pools {
    nibbles: Vec<u8>,
    /// E4M3 codes of 1 to 1.875.
    scales: Vec<u8>,
    /// E4M3 codes below 2 in magnitude.
    codes: Vec<u8>,
    bf16: Vec<u8>,
}

/// A source of invented weights.
#[derive(Debug)]
pub struct Synthetic {
    name: String,
    config: Value,
    spec: ModelSpec,
    recipe: Recipe,
    /// Made when the first matrix is asked for: sizes alone need none.
    pools: OnceLock<Pools>,
}

impl Synthetic {
    /// Reads `SHAPE` or `SHAPE:RECIPE` (default recipe `nvfp4`) and invents its numbers, the same ones every time.
    ///
    /// # Errors
    /// [`ModelError::Option`] with the known names.
    pub fn named(text: &str) -> Result<Synthetic, ModelError> {
        let (shape, recipe_name) = text.split_once(':').unwrap_or((text, "nvfp4"));
        let refuse = |expected: &[(&str, &str)]| ModelError::Option {
            option: "synthetic",
            expected: expected.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
            found: text.chars().take(60).collect(),
        };
        let config = config(shape).ok_or_else(|| refuse(&SHAPES))?;
        let recipe = Recipe::named(recipe_name).ok_or_else(|| refuse(&RECIPES))?;
        let spec = family::read(&config)?;
        Ok(Synthetic { name: format!("{shape}:{recipe_name}"), config, spec, recipe, pools: OnceLock::new() })
    }

    /// The same with room for `tokens` of context where the model's own are fewer: a long cache costs what it costs, whatever
    /// positions mean there.
    ///
    /// # Errors
    /// Those of reading the config.
    pub fn with_context(mut self, tokens: usize) -> Result<Synthetic, ModelError> {
        if self.spec.context < tokens {
            self.config["max_position_embeddings"] = json!(tokens);
            self.spec = family::read(&self.config)?;
        }
        Ok(self)
    }

    /// `SHAPE:RECIPE`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }
}

impl Formats for Synthetic {
    fn format(&self, module: &str, _rows: usize, _cols: usize) -> Result<LinearFormat, ModelError> {
        Ok(self.recipe.of(module))
    }
}

impl WeightSource for Synthetic {
    fn config(&self) -> &Value {
        &self.config
    }

    fn contains(&self, tensor: &str) -> bool {
        let names = family::names(&self.spec);
        tensor == format!("{}.weight", names.embedding()) || names.mtp_norms().contains(&tensor)
    }

    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(std::iter::empty())
    }

    fn format(&self, module: &str, _rows: usize, _cols: usize) -> Result<LinearFormat, ModelError> {
        Ok(self.recipe.of(module))
    }

    fn linear(&self, module: &str, rows: usize, cols: usize) -> Result<Matrix<'_>, ModelError> {
        let start = (hash(module) as usize % JITTER) & !63;
        let pools = self.pools.get_or_init(|| pools(&self.spec, &self.recipe));
        let window = |pool: &'static str, len: usize| {
            let pool = match pool {
                "nibbles" => &pools.nibbles,
                "scales" => &pools.scales,
                "codes" => &pools.codes,
                _ => &pools.bf16,
            };
            &pool[start..start + len]
        };
        let n = rows * cols;
        // Scales that keep the variance of a row's result near one.
        let unit = (cols as f32).powf(-0.5);
        let fp8 = |scales| Values::Fp8 { codes: window("codes", n), scales };
        let values = match self.recipe.of(module) {
            LinearFormat::Nvfp4 => Values::Nvfp4 {
                nibbles: window("nibbles", n / 2),
                scales: window("scales", n / 16),
                global: Nvfp4Global::Multiply(unit / 4.2),
            },
            LinearFormat::Fp8Tensor => fp8(Fp8Scales::Tensor(unit)),
            LinearFormat::Fp8Row => fp8(Fp8Scales::Row(vec![unit; rows])),
            LinearFormat::Fp8Block128 => {
                fp8(Fp8Scales::Block128(vec![unit; rows.div_ceil(128) * cols.div_ceil(128)]))
            }
            LinearFormat::Bf16 | LinearFormat::F16 | LinearFormat::F32 => Values::Bf16(window("bf16", 2 * n)),
        };
        Ok(PackedWeight { rows, cols, values }.into())
    }

    fn linear_slice(
        &self,
        tensor: &str,
        index: usize,
        rows: usize,
        cols: usize,
    ) -> Result<Matrix<'_>, ModelError> {
        self.linear(&format!("{tensor}.{index}"), rows, cols)
    }

    fn stored_dense(&self, _tensor: &str, _shape: &[usize]) -> Result<Option<StoredTensor>, ModelError> {
        Ok(None)
    }

    fn stored(&self, _module: &str, _rows: usize, _cols: usize) -> Result<Option<StoredMatrix>, ModelError> {
        Ok(None)
    }

    fn stored_slice(
        &self,
        _tensor: &str,
        _index: usize,
        _rows: usize,
        _cols: usize,
    ) -> Result<Option<StoredMatrix>, ModelError> {
        Ok(None)
    }

    fn dense(&self, tensor: &str, shape: &[usize]) -> Result<Dense<'_>, ModelError> {
        let mut random = SplitMix64(hash(tensor));
        let mut draw = |low: f32, high: f32| low + (high - low) * unit(&mut random);
        let numbers = (0..shape.iter().product::<usize>()).map(|_| match tensor.rsplit('.').nth(1) {
            _ if tensor.ends_with("A_log") => draw(0.05, 4.0).ln(),
            _ if tensor.ends_with("dt_bias") => draw(-1.5, -0.5),
            Some("conv1d") => draw(-0.5, 0.5),
            // The gated norm is stored plain, the others zero-centred.
            Some("norm") if tensor.contains("linear_attn") => draw(0.8, 1.2),
            _ => draw(-0.2, 0.2),
        });
        let bytes: Vec<u8> = numbers.flat_map(f32::to_le_bytes).collect();
        Ok(Dense { dtype: DType::F32, bytes: Cow::Owned(bytes) })
    }
}

/// Fills every pool to the largest matrix that is cut from it.
fn pools(spec: &ModelSpec, recipe: &Recipe) -> Pools {
    let names = family::names(spec);
    let mut largest = [0usize; 3];
    let mut need = |module: &str, rows: usize, cols: usize| {
        let pool = match recipe.of(module) {
            LinearFormat::Nvfp4 => 0,
            LinearFormat::Fp8Tensor | LinearFormat::Fp8Row | LinearFormat::Fp8Block128 => 1,
            LinearFormat::Bf16 | LinearFormat::F16 | LinearFormat::F32 => 2,
        };
        largest[pool] = largest[pool].max(rows * cols);
    };
    need(&names.embedding(), spec.vocab, spec.hidden);
    need(&names.head(), spec.vocab, spec.hidden);
    need(names.mtp_join(), spec.hidden, 2 * spec.hidden);
    for (i, layer) in spec.layers.iter().enumerate() {
        for m in parts::matrices(layer, spec.hidden) {
            need(&names.matrix(family::Place::Layer(i), m.matrix, 0), m.rows, m.cols);
        }
    }
    if let Some(mtp) = &spec.mtp {
        for m in parts::matrices(&mtp.layer, spec.hidden) {
            need(&names.matrix(family::Place::Mtp, m.matrix, 0), m.rows, m.cols);
        }
    }
    let [nvfp4, fp8, bf16] = largest;
    let mut random = SplitMix64(0x4845_4152_5448);
    let mut bytes = |len: usize, map: fn(u64) -> u64| -> Vec<u8> {
        if len == 0 {
            return Vec::new();
        }
        let words = (len + JITTER).div_ceil(8);
        (0..words).flat_map(|_| map(random.next()).to_le_bytes()).collect()
    };
    // bf16 of magnitude 2^-7 to 2^-5: sign and mantissa at random, the exponent one of two.
    let small_bf16 = |x: u64| (x & 0x80ff_80ff_80ff_80ff) | 0x3c00_3c00_3c00_3c00;
    Pools {
        nibbles: bytes(nvfp4 / 2, |x| x),
        scales: bytes(nvfp4 / 16, |x| (x & 0x0707_0707_0707_0707) | 0x3838_3838_3838_3838),
        codes: bytes(fp8, |x| x & 0xbfbf_bfbf_bfbf_bfbf),
        bf16: bytes(2 * bf16, small_bf16),
    }
}

/// FNV-1a.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// Uniform in 0..1.
fn unit(random: &mut SplitMix64) -> f32 {
    (random.next() >> 40) as f32 / (1u32 << 24) as f32
}
