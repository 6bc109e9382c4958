//! Checkpoints with a number that is none: refused by the tensor's name before anything is served, whatever it is stored in.

#![allow(clippy::unwrap_used, reason = "tests end where they fail")]

use hearth_tests::house::Plot;
use serde_json::{Value, json};
use std::{fs, path::Path};

/// A copy of a fixture in which one number of a tensor is NaN.
fn spoilt(plot: &Plot, fixture: &str, tensor: &str) -> String {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(fixture);
    let to = plot.root().join(fixture);
    fs::create_dir_all(&to).unwrap();
    for file in fs::read_dir(&from).unwrap().map(|entry| entry.unwrap().path()) {
        fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
    // What is refused is the weight, not that there is no tokenizer.
    let tokenizer = concat!(env!("CARGO_MANIFEST_DIR"), "/../src-tauri/assets/ember/model/tokenizer.json");
    fs::copy(tokenizer, to.join("tokenizer.json")).unwrap();

    let path = to.join("model.safetensors");
    let mut file = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let names: Value = serde_json::from_slice(&file[8..header]).unwrap();
    let entry = names.get(tensor).unwrap_or_else(|| panic!("{fixture} has no {tensor}"));
    let at = header + entry["data_offsets"][0].as_u64().unwrap() as usize;
    match entry["dtype"].as_str().unwrap() {
        "BF16" => file[at + 4..at + 6].copy_from_slice(&[0xc0, 0x7f]),
        "F32" => file[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes()),
        "F8_E4M3" => file[at + 3] = 0x7f,
        dtype => panic!("no NaN is known in {dtype}"),
    }
    fs::write(&path, file).unwrap();
    to.to_str().unwrap().to_owned()
}

#[test]
fn a_model_with_a_nan_in_a_tensor_of_any_kind_is_refused_by_name_and_answers_nobody() {
    let (finite, value) = ("tensor_not_finite", "tensor_wrong_value");
    for (fixture, tensor, code) in [
        ("qwen3_5_moe", "model.embed_tokens.weight", finite),
        ("qwen3_5_moe", "model.layers.0.linear_attn.in_proj_qkv.weight", finite),
        ("qwen3_5_moe", "model.layers.0.linear_attn.A_log", finite),
        ("qwen3_5_moe_modelopt_mixed", "model.layers.0.linear_attn.in_proj_qkv.weight", finite),
        ("qwen3_5_moe_modelopt_mixed", "model.layers.3.self_attn.o_proj.weight_scale", value),
        ("qwen3_5_moe_modelopt_mixed", "model.layers.0.mlp.experts.0.down_proj.weight_scale", finite),
        ("qwen3_5_moe_modelopt_mixed", "model.layers.0.mlp.experts.0.down_proj.weight_scale_2", value),
        ("qwen3_5_moe_nvfp4_ct", "model.layers.3.self_attn.o_proj.weight_scale", finite),
        ("qwen3_5_moe_nvfp4_ct", "model.layers.3.self_attn.o_proj.weight_global_scale", value),
    ] {
        let plot = Plot::new();
        let model = spoilt(&plot, fixture, tensor);
        for device in ["cpu", "emulated"] {
            let what = format!("{fixture} {tensor} on {device}");
            let args = ["serve", &model, "--device", device, "--context", "64", "--port", "0", "--json"];
            let output = plot.refused(&args);
            let (said, words) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert_eq!(output.status.code(), Some(3), "{what}: {words}");
            // It says where it listens while it loads, then why it ends; nothing of a model between.
            let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert!(lines.len() == 2 && lines[0]["address"].is_string(), "{what}: {said}");
            let error = &lines[1]["error"];
            assert_eq!(error["code"], json!(code), "{what}: {error}");
            let (message, next) = (error["message"].as_str().unwrap(), error["next_step"].as_str().unwrap());
            // A weight goes by its module's name.
            let name = match code == finite {
                true => tensor.rsplit_once(".weight").map_or(tensor, |(module, _)| module),
                false => tensor,
            };
            assert!(message.contains(name) && message.ends_with('.'), "{what}: {message}");
            assert!(next.starts_with("Download the "), "{what}: {next}");
            assert!(
                words.contains(message) && words.contains(next),
                "{what}: a person reads the same: {words}"
            );
        }
    }
}
