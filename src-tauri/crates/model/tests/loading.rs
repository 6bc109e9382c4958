//! Loading: every way a folder may store the same model, and every way it may be wrong. Folders are made by rewriting a
//! fixture's tensors.
#![allow(clippy::unwrap_used, reason = "tests end where they fail")]

mod common;

use common::{Fixture, close, folder, load, options, run, same_bits};
use hearth_checkpoint::Checkpoint;
use hearth_kernels::Device;
use hearth_kernels::cpu::Cpu;
use hearth_model::synthetic::{RECIPES, SHAPES, Synthetic};
use hearth_model::{
    LoadOptions, LoadProgress, LoadStage, MemoryLimit, Model, ModelError, WeightSource, family,
};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A copy of a fixture's model, changed.
fn changed(family: &str, change: impl FnOnce(&mut Value, &mut Tensors)) -> tempfile::TempDir {
    let from = folder(family);
    let mut config = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let mut tensors: Tensors = SafeTensors::deserialize(&bytes)
        .unwrap()
        .tensors()
        .into_iter()
        .map(|(name, view)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
        .collect();
    change(&mut config, &mut tensors);
    let to = tempfile::tempdir().unwrap();
    std::fs::write(to.path().join("config.json"), config.to_string()).unwrap();
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    safetensors::serialize_to_file(views, None, &to.path().join("model.safetensors")).unwrap();
    to
}

fn try_load(folder: &tempfile::TempDir, options: LoadOptions) -> Result<Model, ModelError> {
    let checkpoint = Checkpoint::open(folder.path())?;
    Model::load(&checkpoint, Arc::new(Cpu::new(None).unwrap()), options, &mut |_| {})
}

fn prompt() -> Vec<u32> {
    (0..20).map(|i| i * 23 % 512).collect()
}

/// Logits of a changed model, which must equal those of the fixture it was made from.
fn same_model(family: &str, change: impl FnOnce(&mut Value, &mut Tensors)) {
    let expected = run(&mut load(family, options()), &prompt(), 20);
    let mut model = try_load(&changed(family, change), options()).unwrap();
    same_bits(family, &run(&mut model, &prompt(), 20), &expected);
}

#[test]
fn an_outer_config_with_the_infix_and_a_vision_tower_is_the_same_model() {
    same_model("qwen3_5_moe", |config, tensors| {
        let text = std::mem::take(config);
        *config = json!({"model_type": "qwen3_5_moe", "text_config": text, "tie_word_embeddings": false});
        let infixed = |name: String| match name.strip_prefix("model.") {
            Some(rest) => format!("model.language_model.{rest}"),
            None => name,
        };
        *tensors = std::mem::take(tensors).into_iter().map(|(name, t)| (infixed(name), t)).collect();
        tensors.insert("model.visual.patch_embed.weight".into(), (Dtype::BF16, vec![2], vec![0; 4]));
    });
}

#[test]
fn fused_experts_are_the_same_model() {
    same_model("qwen3_5_moe", |_, tensors| {
        for layer in 0..8 {
            let experts = format!("model.layers.{layer}.mlp.experts");
            let mut take =
                |e: usize, matrix: &str| tensors.remove(&format!("{experts}.{e}.{matrix}.weight")).unwrap().2;
            let (mut gate_up, mut down) = (Vec::new(), Vec::new());
            for e in 0..8 {
                gate_up.extend(take(e, "gate_proj"));
                gate_up.extend(take(e, "up_proj"));
                down.extend(take(e, "down_proj"));
            }
            tensors.insert(format!("{experts}.gate_up_proj"), (Dtype::BF16, vec![8, 128, 128], gate_up));
            tensors.insert(format!("{experts}.down_proj"), (Dtype::BF16, vec![8, 128, 64], down));
        }
    });
}

#[test]
fn a_tied_head_is_the_embedding() {
    let tie = |config: &mut Value, tensors: &mut Tensors| {
        config["tie_word_embeddings"] = json!(true);
        tensors.remove("lm_head.weight");
    };
    let copied = changed("qwen3_5", |_, tensors| {
        let embedding = tensors["model.embed_tokens.weight"].clone();
        tensors.insert("lm_head.weight".into(), embedding);
    });
    let expected = run(&mut try_load(&copied, options()).unwrap(), &prompt(), 20);
    let mut tied = try_load(&changed("qwen3_5", tie), options()).unwrap();
    same_bits("tied", &run(&mut tied, &prompt(), 20), &expected);
    assert_eq!(tied.budget().weights.head, 0);
    assert_eq!(tied.budget().read_per_token(0).weights.head, tied.budget().weights.embedding);
}

#[test]
fn f32_weights_of_the_same_numbers_are_the_same_model_within_rounding() {
    let widened = changed("qwen3_5", |_, tensors| {
        for (dtype, _, data) in tensors.values_mut().filter(|(dtype, ..)| *dtype == Dtype::BF16) {
            *dtype = Dtype::F32;
            *data = data.chunks_exact(2).flat_map(|b| [0, 0, b[0], b[1]]).collect();
        }
    });
    let mut model = try_load(&widened, options()).unwrap();
    let fixture = Fixture::read("qwen3_5");
    close("f32", &run(&mut model, fixture.ids("input_ids"), 96), fixture.floats("logits"), 1e-3);
}

#[test]
fn a_missing_tensor_is_named() {
    for name in [
        "model.embed_tokens.weight",
        "lm_head.weight",
        "model.norm.weight",
        "model.layers.0.linear_attn.A_log",
        "model.layers.0.linear_attn.in_proj_a.weight",
        "model.layers.3.self_attn.k_norm.weight",
        "model.layers.5.mlp.experts.7.down_proj.weight",
        "model.layers.5.mlp.shared_expert_gate.weight",
        "mtp.fc.weight",
    ] {
        let folder = changed("qwen3_5_moe", |_, tensors| drop(tensors.remove(name).unwrap()));
        let error = try_load(&folder, options()).unwrap_err();
        assert_eq!(error.code(), "tensor_missing", "{name}: {error}");
        let module = name.strip_suffix(".weight").unwrap_or(name);
        assert!(error.to_string().contains(module), "{error}");
    }
}

#[test]
fn a_tensor_of_another_shape_is_refused_with_both_shapes() {
    for (name, shape) in [
        ("model.layers.0.linear_attn.conv1d.weight", vec![1, 256, 4]),
        ("model.layers.0.mlp.gate.weight", vec![128, 8]),
        ("model.layers.3.self_attn.q_proj.weight", vec![128, 256]),
        ("model.layers.1.input_layernorm.weight", vec![64, 2]),
    ] {
        let folder = changed("qwen3_5_moe", |_, tensors| tensors.get_mut(name).unwrap().1 = shape.clone());
        let error = try_load(&folder, options()).unwrap_err();
        assert_eq!(error.code(), "tensor_wrong_shape", "{name}: {error}");
        let sentence = error.to_string();
        assert!(sentence.contains(name) && sentence.contains(&format!("{shape:?}")), "{sentence}");
    }
}

#[test]
fn what_is_no_number_is_refused_by_name_before_anything_is_served_on_the_cpu_and_on_a_device() {
    let nan_at = |dtype: Dtype, data: &mut [u8]| match dtype {
        Dtype::BF16 => data[6..8].copy_from_slice(&[0xc0, 0x7f]),
        Dtype::F32 => data[0..4].copy_from_slice(&f32::NAN.to_le_bytes()),
        _ => data[3] = 0x7f,
    };
    for (family, tensor, code) in [
        ("qwen3_5_moe", "model.layers.1.mlp.experts.3.up_proj.weight", "tensor_not_finite"),
        ("qwen3_5_moe", "model.embed_tokens.weight", "tensor_not_finite"),
        ("qwen3_5_moe", "model.layers.0.linear_attn.dt_bias", "tensor_not_finite"),
        ("qwen3_5_moe", "model.layers.3.self_attn.q_norm.weight", "tensor_not_finite"),
        ("qwen3_5_moe_nvfp4_ct", "model.layers.0.mlp.experts.0.down_proj.weight_scale", "tensor_not_finite"),
        (
            "qwen3_5_moe_nvfp4_ct",
            "model.layers.0.mlp.experts.0.down_proj.weight_global_scale",
            "tensor_wrong_value",
        ),
        ("qwen3_5_moe_modelopt_mixed", "model.layers.0.linear_attn.in_proj_qkv.weight", "tensor_not_finite"),
        (
            "qwen3_5_moe_modelopt_mixed",
            "model.layers.0.linear_attn.in_proj_qkv.weight_scale",
            "tensor_wrong_value",
        ),
    ] {
        let folder = changed(family, |_, tensors| {
            let (dtype, _, data) = tensors.get_mut(tensor).unwrap_or_else(|| panic!("there is no {tensor}"));
            nan_at(*dtype, data);
        });
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        for device in [Device::Cpu, Device::Emulated] {
            let ops = device.open(None).unwrap().ops;
            let options = LoadOptions { context: 64, max_rows: 16, ..options() };
            let error = Model::load(&checkpoint, ops, options, &mut |_| {}).unwrap_err();
            assert_eq!(error.code(), code, "{tensor} on {device:?}: {error}");
            let module = tensor.rsplit_once(".weight").map_or(tensor, |(module, _)| module);
            // Gate and up are packed together and go by the first one's name.
            let module = module.strip_suffix("up_proj").unwrap_or(module);
            assert!(error.to_string().contains(module), "{tensor} on {device:?}: {error}");
            assert!(error.next_step().contains("again"), "{}", error.next_step());
        }
    }
}

#[test]
fn tensors_that_the_model_would_ignore_are_refused() {
    for (name, shape) in [
        ("model.layers.3.self_attn.q_proj.bias", vec![256]),
        ("model.layers.8.mlp.gate.weight", vec![8, 128]),
        ("model.layers.0.mlp.experts.8.up_proj.weight", vec![64, 128]),
        ("model.layers.0.mlp.gate.e_score_correction_bias", vec![8]),
    ] {
        let folder = changed("qwen3_5_moe", |_, tensors| {
            let bytes = vec![0; 2 * shape.iter().product::<usize>()];
            tensors.insert(name.into(), (Dtype::BF16, shape.clone(), bytes));
        });
        let error = try_load(&folder, options()).unwrap_err();
        assert_eq!(error.code(), "checkpoint_tensors_unused", "{name}: {error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn gate_and_up_stored_in_different_formats_are_refused_by_name() {
    let folder = changed("qwen3_5", |_, tensors| {
        let (dtype, _, data) = tensors.get_mut("model.layers.0.mlp.up_proj.weight").unwrap();
        *dtype = Dtype::F32;
        *data = data.chunks_exact(2).flat_map(|b| [0, 0, b[0], b[1]]).collect();
    });
    let error = try_load(&folder, options()).unwrap_err();
    assert!(error.to_string().contains("model.layers.0.mlp.gate_proj"), "{error}");
}

#[test]
fn a_model_that_is_too_large_is_refused_before_its_weights_are_read() {
    let checkpoint = Checkpoint::open(&folder("qwen3_5")).unwrap();
    let mut stages = Vec::new();
    let options =
        LoadOptions { memory_limit: Some(MemoryLimit { available: 110_000, reserve: 10_000 }), ..options() };
    let result =
        Model::load(&checkpoint, Arc::new(Cpu::new(None).unwrap()), options, &mut |p: LoadProgress| {
            stages.push(p.stage);
        });
    let error = result.unwrap_err();
    assert_eq!(error.code(), "model_does_not_fit");
    let table = error.evidence().expect("the plan is told");
    for line in
        ["weights", "keys and values", "recurrent state", "planned", "left to everything else", "0.1 MiB"]
    {
        assert!(table.contains(line), "{line} is missing in: {table}");
    }
    assert!(stages.iter().all(|stage| *stage == LoadStage::Plan), "{stages:?}");
}

#[test]
fn progress_goes_forward_through_all_stages() {
    let checkpoint = Checkpoint::open(&folder("qwen3_5")).unwrap();
    let mut seen = Vec::new();
    let ops = Arc::new(Cpu::new(None).unwrap());
    Model::load(&checkpoint, ops, options(), &mut |p: LoadProgress| seen.push((p.stage as u8, p.fraction)))
        .unwrap();
    assert!(seen.windows(2).all(|w| w[0] <= w[1]), "{seen:?}");
    assert_eq!(seen.first(), Some(&(LoadStage::Plan as u8, 0.0)));
    assert_eq!(seen.last(), Some(&(LoadStage::RecordGraphs as u8, 1.0)));
}

#[test]
fn the_memory_that_was_planned_is_the_memory_that_is_held() {
    for family in ["qwen3_5_moe", "qwen3_5_moe_modelopt_mixed"] {
        let model = load(family, LoadOptions { slots: 3, ..options() });
        let (plan, held) = (model.budget(), model.memory());
        assert_eq!((held.kv, held.state, held.scratch), (plan.kv, plan.state, plan.scratch));
        let planned = plan.weights.total() + plan.mtp_weights.total();
        // Backends may pad; the tiny matrices here are padded most.
        assert!(held.weights.abs_diff(planned) * 10 < planned, "{} held, {planned} planned", held.weights);
    }
}

#[test]
fn every_synthetic_shape_is_a_model_and_every_recipe_of_the_tiny_one_runs() {
    for (shape, _) in SHAPES {
        if shape.starts_with("qwen") {
            continue; // gigabytes of numbers; their configs are those of the budget tests
        }
        let source = Synthetic::named(shape).unwrap();
        assert!(source.spec().layers.len() >= 4, "{shape}");
    }
    for (recipe, _) in RECIPES {
        let source = Synthetic::named(&format!("tiny:{recipe}")).unwrap();
        let mut model =
            Model::load(&source, Arc::new(Cpu::new(None).unwrap()), options(), &mut |_| {}).unwrap();
        let logits = run(&mut model, &prompt(), 20);
        assert!(logits.iter().all(|v| v.is_finite()), "{recipe}");
        let (low, high) = logits.iter().fold((0f32, 0f32), |(low, high), v| (low.min(*v), high.max(*v)));
        assert!(high - low > 0.1, "{recipe}: logits from {low} to {high}");
    }
    for wrong in ["huge", "tiny:int3", ""] {
        assert_eq!(Synthetic::named(wrong).unwrap_err().code(), "model_option_invalid");
    }
}

#[test]
fn a_synthetic_model_is_the_same_every_time() {
    let bits = || {
        let source = Synthetic::named("tiny").unwrap();
        assert!(family::read(source.config()).is_ok());
        let mut model =
            Model::load(&source, Arc::new(Cpu::new(None).unwrap()), options(), &mut |_| {}).unwrap();
        run(&mut model, &prompt(), 20)
    };
    same_bits("again", &bits(), &bits());
}
