//! Every weight format, bit for bit against what the reference packages decode (tests/fixtures/quant).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{any_format, every_format, fixture, model};
use hearth_checkpoint::{Checkpoint, LinearFormat};
use hearth_kernels::{Fp8Scales, Values, dequantise};
use serde_json::{Value, json};

/// The quantised sample as a checkpoint with this configuration.
fn samples(config: &Value) -> (tempfile::TempDir, Checkpoint) {
    let weights = std::fs::read(fixture("quant/quant_formats.safetensors")).unwrap();
    let folder =
        common::folder(&[("config.json", config.to_string().into()), ("model.safetensors", weights)]);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    (folder, checkpoint)
}

fn assert_exact(checkpoint: &Checkpoint, module: &str, format: LinearFormat, rows: usize, cols: usize) {
    assert_eq!(checkpoint.outline().linear(module, rows, cols).unwrap().format, format);
    let found = dequantise(&checkpoint.linear(module, rows, cols).unwrap().packed()).unwrap();
    let expected = checkpoint.dense(&format!("{module}.expect"), &[rows, cols]).unwrap().to_f32().unwrap();
    assert_eq!(found.len(), expected.len());
    for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
        // Code 8 is minus zero; ModelOpt's own table decodes it as plain zero. Adding zero makes the two one.
        let (found_bits, expected_bits) = ((found + 0.0).to_bits(), (expected + 0.0).to_bits());
        assert_eq!(found_bits, expected_bits, "{module} element {at}: {found} for {expected}");
    }
}

#[test]
fn nvfp4_of_compressed_tensors_is_exact_with_its_dividing_scale() {
    assert_exact(&samples(&any_format()).1, "ct_nvfp4", LinearFormat::Nvfp4, 96, 128);
}

#[test]
fn nvfp4_of_modelopt_is_exact_with_its_multiplying_scale() {
    for algo in ["NVFP4", "W4A16_NVFP4"] {
        let config = json!({"quantization_config": {"quant_method": "modelopt", "quant_algo": algo}});
        assert_exact(&samples(&config).1, "modelopt_nvfp4", LinearFormat::Nvfp4, 96, 128);
    }
}

#[test]
fn fp8_with_one_scale_is_exact() {
    let config = json!({"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}});
    assert_exact(&samples(&config).1, "fp8_tensor", LinearFormat::Fp8Tensor, 24, 96);
}

#[test]
fn fp8_with_a_scale_per_channel_is_exact() {
    assert_exact(&samples(&any_format()).1, "fp8_channel", LinearFormat::Fp8Row, 24, 96);
}

#[test]
fn fp8_in_blocks_is_exact_where_the_last_blocks_are_cut() {
    let config = json!({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}});
    assert_exact(&samples(&config).1, "fp8_block", LinearFormat::Fp8Block128, 136, 264);
}

#[test]
fn dense_matrices_and_slices_of_stacks_are_views_of_the_file() {
    let mut tensors = every_format();
    let third: Vec<u8> = (0..=255).collect();
    let stack = tensors.iter_mut().find(|t| t.0 == "experts.down_proj").unwrap();
    stack.3[256..].copy_from_slice(&third);
    let folder = model(&any_format(), &tensors);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    for (module, one) in [("bf16", 1.0), ("f16", 1.0), ("f32", 1.0)] {
        let weight = checkpoint.linear(module, 4, 32).unwrap();
        assert_eq!(dequantise(&weight.packed()).unwrap(), vec![one; 128], "{module}");
    }
    let slice = checkpoint.linear_slice("experts.down_proj", 1, 4, 32).unwrap();
    assert!(matches!(slice.packed().values, Values::Bf16(bytes) if bytes == third));
    assert_eq!(
        checkpoint.linear_slice("experts.down_proj", 2, 4, 32).unwrap_err().code(),
        "tensor_wrong_shape"
    );
    assert_eq!(
        checkpoint.linear_slice("experts.down_proj", 0, 32, 4).unwrap_err().code(),
        "tensor_wrong_shape"
    );
}

#[test]
fn scales_stored_in_bf16_are_widened() {
    let folder = model(&any_format(), &every_format());
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let weight = checkpoint.linear("fp8_row", 4, 32).unwrap();
    let Values::Fp8 { scales, .. } = weight.packed().values else { panic!("not FP8") };
    assert_eq!(scales, Fp8Scales::Row(vec![0.5, 2.0, 0.125, 1.0]));
}

#[test]
fn a_modelopt_block_scale_of_four_dimensions_is_a_block_scale() {
    let mut tensors = every_format();
    let scale = tensors.iter_mut().find(|t| t.0 == "fp8_block.weight_scale_inv").unwrap();
    (scale.0, scale.2) = ("fp8_block.weight_scale".into(), vec![1, 1, 1, 1]);
    let folder = model(&any_format(), &tensors);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let format = checkpoint.outline().linear("fp8_block", 4, 32).unwrap().format;
    assert_eq!(format, LinearFormat::Fp8Block128);
}

#[test]
fn bytes_by_format_add_up_and_scales_go_with_their_codes() {
    let folder = model(&any_format(), &every_format());
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let bytes = checkpoint.outline().bytes_by_format("");
    assert_eq!(bytes.total(), checkpoint.total_bytes());
    assert_eq!(bytes.nvfp4, 2 * (64 + 8 + 4));
    assert_eq!(bytes.fp8, 3 * 128 + 4 + 8 + 4);
    assert_eq!(bytes.bf16, 256 + 64 + 512);
    assert_eq!((bytes.f16, bytes.f32, bytes.other), (256, 512, 16));
    assert_eq!(checkpoint.outline().bytes_by_format("ct.").total(), 76);
}
