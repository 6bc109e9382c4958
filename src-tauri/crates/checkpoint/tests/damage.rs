//! Linear layers that are not what they should be: every refusal names file, tensor, what was expected and found.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Stored, any_format, every_format, f32s, model, tensor};
use hearth_checkpoint::{Checkpoint, CheckpointError, Writer};
use serde_json::{Value, json};

/// Opens `every_format` after a change and asks for `module` as 4 x 32.
fn after(config: &Value, module: &str, change: impl FnOnce(&mut Vec<Stored>)) -> CheckpointError {
    let mut tensors = every_format();
    change(&mut tensors);
    let folder = model(config, &tensors);
    let error = Checkpoint::open(folder.path()).unwrap().linear(module, 4, 32).unwrap_err();
    assert!(!error.file().is_empty() && !error.next_step().is_empty());
    error
}

fn without(name: &'static str) -> impl FnOnce(&mut Vec<Stored>) {
    move |tensors| tensors.retain(|t| t.0 != name)
}

fn with(
    name: &'static str,
    dtype: &'static str,
    shape: &'static [usize],
    bytes: Vec<u8>,
) -> impl FnOnce(&mut Vec<Stored>) {
    move |tensors| {
        tensors.retain(|t| t.0 != name);
        tensors.push(tensor(name, dtype, shape, bytes));
    }
}

#[test]
fn a_missing_tensor_is_named_with_what_it_is_for() {
    for (module, gone) in [
        ("ct", "ct.weight_scale"),
        ("ct", "ct.weight_global_scale"),
        ("fp8_tensor", "fp8_tensor.weight_scale"),
        ("fp8_block", "fp8_block.weight_scale_inv"),
    ] {
        let error = after(&any_format(), module, without(gone));
        let expected = if module == "fp8_block" { "fp8_block.weight_scale" } else { gone };
        assert_eq!((error.code(), error.tensor()), ("tensor_missing", Some(expected)));
    }
    let error = after(&any_format(), "bf16", without("bf16.weight"));
    assert!(error.to_string().contains("bf16.weight or bf16.weight_packed"), "{error}");
}

#[test]
fn a_wrong_shape_is_named_with_both_shapes() {
    let cases = [
        ("bf16", with("bf16.weight", "BF16", &[32, 4], vec![0; 256]), "[4, 32]", "[32, 4]"),
        ("ct", with("ct.weight_packed", "U8", &[4, 32], vec![0; 128]), "[4, 16]", "[4, 32]"),
    ];
    for (module, change, expected, found) in cases {
        let error = after(&any_format(), module, change);
        let text = error.to_string();
        assert_eq!(error.code(), "tensor_wrong_shape");
        assert!(
            text.contains(expected) && text.contains(found) && text.contains("model.safetensors"),
            "{text}"
        );
    }
    for (module, name, dtype) in
        [("ct", "ct.weight_scale", "F8_E4M3"), ("fp8_row", "fp8_row.weight_scale", "F32")]
    {
        let bytes = vec![1; if dtype == "F32" { 12 } else { 3 }];
        let error = after(&any_format(), module, with(name, dtype, &[3, 1], bytes));
        assert_eq!((error.code(), error.tensor()), ("tensor_wrong_shape", Some(name)));
    }
    let error = after(&any_format(), "ct", with("ct.weight_global_scale", "F32", &[2], f32s(&[1.0, 1.0])));
    assert_eq!(error.code(), "tensor_wrong_shape");
}

#[test]
fn a_width_that_no_nvfp4_matrix_can_have_is_refused() {
    let folder = model(&any_format(), &every_format());
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    for cols in [0, 1, 31, 33, usize::MAX] {
        assert_eq!(checkpoint.linear("ct", 4, cols).unwrap_err().code(), "tensor_wrong_shape");
        assert_eq!(checkpoint.linear("bf16", cols, cols).unwrap_err().code(), "tensor_wrong_shape");
        assert_eq!(checkpoint.linear("fp8_block", cols, 32).unwrap_err().code(), "tensor_wrong_shape");
    }
}

#[test]
fn a_wrong_dtype_is_named_with_both_dtypes() {
    let cases = [
        ("bf16", with("bf16.weight", "I8", &[4, 32], vec![0; 128]), "BF16, F16 or F32", "I8"),
        ("ct", with("ct.weight_scale", "U8", &[4, 2], vec![0; 8]), "F8_E4M3", "U8"),
        ("mo", with("mo.weight_scale_2", "BF16", &[], vec![0; 2]), "F32", "BF16"),
    ];
    for (module, change, expected, found) in cases {
        let error = after(&any_format(), module, change);
        assert_eq!(error.code(), "tensor_wrong_dtype");
        assert!(error.to_string().contains(expected) && error.to_string().contains(found), "{error}");
    }
}

#[test]
fn two_forms_of_one_weight_are_doubled() {
    for (module, change) in [
        ("ct", with("ct.weight", "BF16", &[4, 32], vec![0; 256])),
        ("mo", with("mo.weight_global_scale", "F32", &[1], f32s(&[1.0]))),
        ("fp8_block", with("fp8_block.weight_scale", "F32", &[1, 1], f32s(&[1.0]))),
    ] {
        assert_eq!(after(&any_format(), module, change).code(), "tensor_doubled", "{module}");
    }
}

#[test]
fn scales_that_no_writer_produces_are_refused() {
    for value in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let error = after(&any_format(), "ct", with("ct.weight_global_scale", "F32", &[1], f32s(&[value])));
        assert_eq!((error.code(), error.tensor()), ("tensor_wrong_value", Some("ct.weight_global_scale")));
    }
    let error =
        after(&any_format(), "fp8_tensor", with("fp8_tensor.weight_scale", "F32", &[], f32s(&[f32::NAN])));
    assert_eq!(error.code(), "tensor_wrong_value");
}

#[test]
fn foreign_formats_are_named() {
    for (part, word) in [("qweight", "GPTQ"), ("weight_shape", "packed integers"), ("pre_quant_scale", "AWQ")]
    {
        let name: &'static str = Box::leak(format!("mo.{part}").into_boxed_str());
        let error = after(&any_format(), "mo", with(name, "I32", &[1], vec![0; 4]));
        assert_eq!(error.code(), "unknown_quantization");
        assert!(error.to_string().contains(word) && error.to_string().contains("mo"), "{error}");
    }
}

#[test]
fn tensors_and_configuration_must_not_contradict_each_other() {
    let none = json!({});
    let error = after(&none, "ct", |_| {});
    assert_eq!((error.code(), error.tensor()), ("quantization_mismatch", Some("ct.weight_packed")));
    assert!(error.to_string().contains("no quantization"), "{error}");
    let only_fp8 = json!({"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}});
    assert_eq!(after(&only_fp8, "mo", |_| {}).code(), "quantization_mismatch");
    let swapped = json!({"quantization_config": {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION",
        "quantized_layers": {"mo": {"quant_algo": "FP8"}, "x": {"quant_algo": "NVFP4"}}}});
    let text = after(&swapped, "mo", |_| {}).to_string();
    assert!(text.contains("FP8 with one scale") && text.contains("NVFP4"), "{text}");
}

#[test]
fn a_full_precision_weight_that_no_list_excludes_is_taken_as_it_is() {
    let config = json!({"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}});
    let folder = model(&config, &every_format());
    assert!(Checkpoint::open(folder.path()).unwrap().linear("bf16", 4, 32).is_ok());
}

#[test]
fn an_old_modelopt_configuration_without_a_method_is_known_by_its_algorithm() {
    let groups = json!({"group_0": {"weights": {"num_bits": 4, "type": "float", "group_size": 16}, "targets": ["Linear"]}});
    let config = json!({"quantization_config": {"config_groups": groups, "ignore": ["lm_head"], "quant_algo": "NVFP4"}});
    let folder = model(&config, &every_format());
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.quantization().writer(), Writer::ModelOpt);
    assert!(checkpoint.linear("mo", 4, 32).is_ok());
}

#[test]
fn an_unknown_quantization_is_named_when_the_folder_is_opened() {
    for (quantization, name) in [
        (json!({"quant_method": "awq", "bits": 4}), "awq"),
        (json!({"quant_method": "auto-round"}), "auto-round"),
        (json!({"quant_method": "mxfp4"}), "mxfp4"),
        (json!({"quant_method": 4}), "4"),
        (json!({"bits": 4}), "none"),
        (json!({"quant_method": "modelopt", "quant_algo": "INT4_AWQ"}), "INT4_AWQ"),
    ] {
        let folder = model(&json!({"quantization_config": quantization}), &every_format());
        let error = Checkpoint::open(folder.path()).unwrap_err();
        assert_eq!(error.code(), "unknown_quantization", "{quantization}");
        assert!(error.to_string().contains(name) && error.file().ends_with("config.json"), "{error}");
    }
}

#[test]
fn dense_tensors_are_checked_too() {
    let folder = model(&any_format(), &every_format());
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.dense("norm.weight", &[32]).unwrap().to_f32().unwrap(), vec![1.0; 32]);
    assert_eq!(checkpoint.dense("norm.weight", &[16]).unwrap_err().code(), "tensor_wrong_shape");
    assert_eq!(checkpoint.dense("table", &[2]).unwrap_err().code(), "tensor_wrong_dtype");
    assert_eq!(checkpoint.dense("none", &[2]).unwrap_err().code(), "tensor_missing");
    assert_eq!(checkpoint.tensor("table").unwrap().bytes[..], [0; 16]);
}
