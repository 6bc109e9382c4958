//! Writes small checkpoints for the tests of this crate.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test file uses its own part")]

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// One tensor to write: name, dtype as in a header, shape, bytes.
pub type Stored = (String, &'static str, Vec<usize>, Vec<u8>);

/// A tensor of zeros, or with `bytes` if its size is not known here.
pub fn tensor(name: &str, dtype: &'static str, shape: &[usize], bytes: Vec<u8>) -> Stored {
    (name.into(), dtype, shape.into(), bytes)
}

pub fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// The bytes of a safetensors file.
pub fn safetensors(tensors: &[Stored]) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend_from_slice(bytes);
        header.insert(
            name.clone(),
            json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]}),
        );
    }
    let text = Value::Object(header).to_string();
    let mut file = (text.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(text.as_bytes());
    file.extend_from_slice(&data);
    file
}

/// A folder with these files.
pub fn folder(files: &[(&str, Vec<u8>)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

/// A folder with a configuration and one weight file.
pub fn model(config: &Value, tensors: &[Stored]) -> TempDir {
    folder(&[("config.json", config.to_string().into_bytes()), ("model.safetensors", safetensors(tensors))])
}

/// A folder of the repository's fixtures.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/fixtures").join(name)
}

/// A compressed-tensors configuration with NVFP4 and FP8 groups, so that every format is a declared one.
pub fn any_format() -> Value {
    json!({"quantization_config": {"quant_method": "compressed-tensors", "format": "mixed-precision", "config_groups": {
        "a": {"targets": ["Linear"], "weights": {"type": "float", "num_bits": 4, "strategy": "tensor_group", "group_size": 16}},
        "b": {"targets": ["re:.*fp8.*"], "weights": {"type": "float", "num_bits": 8, "strategy": "channel"}}}}})
}

/// A little of everything: 4 x 32 matrices in every format, a norm, a stack of experts, an integer table.
pub fn every_format() -> Vec<Stored> {
    let codes: Vec<u8> = (0..128).map(|i| (i * 37 % 120) as u8).collect();
    vec![
        tensor("ct.weight_packed", "U8", &[4, 16], codes[..64].to_vec()),
        tensor("ct.weight_scale", "F8_E4M3", &[4, 2], codes[8..16].to_vec()),
        tensor("ct.weight_global_scale", "F32", &[1], f32s(&[1872.5])),
        tensor("mo.weight", "U8", &[4, 16], codes[64..].to_vec()),
        tensor("mo.weight_scale", "F8_E4M3", &[4, 2], codes[..8].to_vec()),
        tensor("mo.weight_scale_2", "F32", &[], f32s(&[0.5])),
        tensor("fp8_tensor.weight", "F8_E4M3", &[4, 32], codes.clone()),
        tensor("fp8_tensor.weight_scale", "F32", &[], f32s(&[0.25])),
        tensor("fp8_row.weight", "F8_E4M3", &[4, 32], codes.clone()),
        tensor("fp8_row.weight_scale", "BF16", &[4, 1], vec![0, 0x3f, 0, 0x40, 0, 0x3e, 0x80, 0x3f]),
        tensor("fp8_block.weight", "F8_E4M3", &[4, 32], codes),
        tensor("fp8_block.weight_scale_inv", "F32", &[1, 1], f32s(&[2.0])),
        tensor("bf16.weight", "BF16", &[4, 32], [0x80, 0x3f].repeat(128)),
        tensor("f16.weight", "F16", &[4, 32], [0, 0x3c].repeat(128)),
        tensor("f32.weight", "F32", &[4, 32], f32s(&[1.0; 128])),
        tensor("norm.weight", "BF16", &[32], [0x80, 0x3f].repeat(32)),
        tensor("experts.down_proj", "BF16", &[2, 4, 32], [0x80, 0x3f].repeat(256)),
        tensor("table", "I64", &[2], vec![0; 16]),
    ]
}
