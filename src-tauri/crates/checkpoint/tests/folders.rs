//! Which files of a folder make a checkpoint, on the real fixtures, the built-in model, and folders that lack
//! something.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Stored, any_format, every_format, fixture, folder, safetensors, tensor};
use hearth_checkpoint::{Checkpoint, CheckpointError, LinearFormat, Outline, Writer};
use serde_json::{Value, json};

fn plain() -> Vec<u8> {
    b"{}".to_vec()
}

fn shard(names: &[&str]) -> Vec<u8> {
    let tensors: Vec<Stored> = names.iter().map(|name| tensor(name, "U8", &[1], vec![1])).collect();
    safetensors(&tensors)
}

fn index(map: Value) -> Vec<u8> {
    json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string().into_bytes()
}

fn refused(files: &[(&str, Vec<u8>)]) -> CheckpointError {
    let folder = folder(files);
    let error = Checkpoint::open(folder.path()).unwrap_err();
    assert_eq!(Outline::read(folder.path()).unwrap_err().code(), error.code(), "both halves refuse alike");
    assert!(!error.next_step().is_empty());
    error
}

#[test]
fn the_built_in_model_opens_with_everything_a_chat_needs() {
    let ember = Checkpoint::builtin().unwrap();
    assert_eq!(ember.name(), "ember");
    assert!(ember.is_builtin());
    assert!(ember.chat_template().unwrap().contains("<|im_start|>"));
    serde_json::from_slice::<Value>(&ember.tokenizer_json().unwrap()).unwrap();
    assert!(ember.tokenizer_config().is_some() && ember.generation_config().is_some());
    let hidden = ember.config()["hidden_size"].as_u64().unwrap() as usize;
    let inter = ember.config()["moe_intermediate_size"].as_u64().unwrap() as usize;
    let expert = ember.outline().linear("model.layers.0.mlp.experts.0.gate_proj", inter, hidden).unwrap();
    assert_eq!(expert.format, LinearFormat::Nvfp4);
    assert!(ember.total_bytes() < 12 << 20);
}

#[test]
fn the_fixtures_open_and_every_format_they_declare_is_found() {
    let plain = Checkpoint::open(&fixture("qwen3_5_moe")).unwrap();
    assert_eq!((plain.name(), plain.quantization().writer()), ("qwen3_5_moe", Writer::Nobody));
    assert!(!plain.contains("logits"), "fixture.safetensors lies beside the model but is no part of it");
    assert_eq!(plain.outline().bytes_by_format("").nvfp4, 0);

    let ct = Checkpoint::open(&fixture("qwen3_5_moe_nvfp4_ct")).unwrap();
    assert_eq!(ct.quantization().formats(), [LinearFormat::Nvfp4]);
    assert_eq!(ct.quantization().declared("model.layers.0.mlp.gate"), None);
    assert_eq!(ct.quantization().declared("model.layers.0.linear_attn.in_proj_z"), None);

    let mixed = Checkpoint::open(&fixture("qwen3_5_moe_modelopt_mixed")).unwrap();
    assert_eq!(mixed.quantization().formats(), [LinearFormat::Fp8Tensor, LinearFormat::Nvfp4]);

    for checkpoint in [&ct, &mixed] {
        let mut quantised = 0;
        for name in checkpoint.names().filter(|name| name.ends_with("_proj.weight_scale")) {
            let module = name.strip_suffix(".weight_scale").unwrap();
            let weight = checkpoint
                .tensor(&format!("{module}.weight"))
                .or(checkpoint.tensor(&format!("{module}.weight_packed")));
            let [rows, cols] = weight.unwrap().shape else { panic!("{module}") };
            let declared = checkpoint.quantization().declared(module).unwrap();
            let width = if declared == LinearFormat::Nvfp4 { cols * 2 } else { *cols };
            let linear = checkpoint.outline().linear(module, *rows, width).unwrap();
            assert_eq!(linear.format, declared, "{module}");
            assert_eq!(linear.bytes(), declared.bytes(*rows as u64, width as u64), "{module}");
            checkpoint.linear(module, *rows, width).unwrap();
            quantised += 1;
        }
        assert!(quantised > 200, "{quantised}");
    }
    assert_eq!(mixed.outline().linear("mtp.fc", 128, 256).unwrap().format, LinearFormat::Bf16);
}

#[test]
fn both_configuration_files_of_modelopt_are_read_and_must_agree() {
    let read = |file: &str| std::fs::read(fixture("qwen3_5_moe_modelopt_mixed").join(file)).unwrap();
    let mut config: Value = serde_json::from_slice(&read("config.json")).unwrap();
    config.as_object_mut().unwrap().remove("quantization_config");
    let only_its_own = [
        ("config.json", config.to_string().into_bytes()),
        ("hf_quant_config.json", read("hf_quant_config.json")),
        ("model.safetensors", read("model.safetensors")),
    ];
    let folder = folder(&only_its_own);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.quantization().declared("lm_head"), Some(LinearFormat::Nvfp4));

    let error = refused(&[
        ("config.json", read("config.json")),
        ("hf_quant_config.json", br#"{"quantization": {"quant_algo": "FP8"}}"#.to_vec()),
        ("model.safetensors", shard(&["a"])),
    ]);
    assert_eq!(error.code(), "unknown_quantization");
    assert!(error.file().ends_with("hf_quant_config.json"));
}

#[test]
fn names_can_be_asked_for_by_prefix() {
    let checkpoint = Checkpoint::open(&fixture("qwen3_5_moe")).unwrap();
    let under: Vec<&str> = checkpoint.names_under("mtp.").collect();
    let filtered: Vec<&str> = checkpoint.names().filter(|name| name.starts_with("mtp.")).collect();
    assert!(!under.is_empty());
    assert_eq!(under, filtered);
    assert_eq!(checkpoint.names_under("zzz").count(), 0);
}

#[test]
fn an_index_joins_its_shards_and_extra_files_come_along() {
    let map = json!({"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"});
    let folder = folder(&[
        ("config.json", plain()),
        ("model.safetensors.index.json", index(map)),
        ("model-00001-of-00002.safetensors", shard(&["a"])),
        ("model-00002-of-00002.safetensors", shard(&["b"])),
        ("mtp.safetensors", shard(&["mtp.norm"])),
        ("model_extra_tensors.safetensors", shard(&["mtp.fc"])),
        ("consolidated.safetensors", shard(&["a"])),
    ]);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b", "mtp.fc", "mtp.norm"]);
    assert!(checkpoint.tensor("b").unwrap().file.ends_with("model-00002-of-00002.safetensors"));
    assert_eq!(checkpoint.total_bytes(), 4);
}

#[test]
fn a_numbered_set_without_an_index_must_be_complete() {
    let files = [
        ("config.json", plain()),
        ("model-00001-of-00002.safetensors", shard(&["a"])),
        ("model-00002-of-00002.safetensors", shard(&["b"])),
    ];
    assert_eq!(Checkpoint::open(folder(&files).path()).unwrap().names().count(), 2);
    assert_eq!(refused(&files[..2]).code(), "checkpoint_missing_file");
}

#[test]
fn one_safetensors_file_of_any_name_is_the_checkpoint_and_two_are_a_question() {
    let files =
        [("config.json", plain()), ("weights.safetensors", shard(&["a"])), ("x.safetensors", shard(&["b"]))];
    assert_eq!(Checkpoint::open(folder(&files[..2]).path()).unwrap().names().count(), 1);
    let text = refused(&files).to_string();
    assert!(text.contains("weights.safetensors") && text.contains("x.safetensors"), "{text}");
}

#[test]
fn what_an_index_promises_must_be_there() {
    let with = |map: Value, shards: &[(&'static str, Vec<u8>)]| {
        let mut files = vec![("config.json", plain()), ("model.safetensors.index.json", index(map))];
        files.extend_from_slice(shards);
        refused(&files)
    };
    let error =
        with(json!({"a": "one.safetensors", "b": "two.safetensors"}), &[("one.safetensors", shard(&["a"]))]);
    assert_eq!(error.code(), "checkpoint_missing_file");
    assert!(error.file().ends_with("two.safetensors"));

    let error =
        with(json!({"a": "one.safetensors", "b": "one.safetensors"}), &[("one.safetensors", shard(&["a"]))]);
    assert_eq!((error.code(), error.tensor()), ("tensor_missing", Some("b")));
    assert!(error.file().ends_with("one.safetensors"));

    let two = [("one.safetensors", shard(&["a", "b"])), ("two.safetensors", shard(&["b", "c"]))];
    let error = with(json!({"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}), &two);
    assert_eq!((error.code(), error.tensor()), ("tensor_doubled", Some("b")));
    assert!(error.to_string().contains("one.safetensors") && error.to_string().contains("two.safetensors"));

    for escape in ["../one.safetensors", "/etc/one.safetensors", "one.bin", ""] {
        assert_eq!(with(json!({"a": escape}), &[]).code(), "checkpoint_invalid_json", "{escape}");
    }
    assert_eq!(with(json!({}), &[]).code(), "checkpoint_invalid_json");
    assert_eq!(with(json!([]), &[]).code(), "checkpoint_invalid_json");
}

#[test]
fn a_name_given_twice_in_an_index_is_doubled() {
    let text = br#"{"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}}"#.to_vec();
    let error = refused(&[("config.json", plain()), ("model.safetensors.index.json", text)]);
    assert_eq!((error.code(), error.tensor()), ("tensor_doubled", Some("a")));
}

#[test]
fn a_shard_that_is_cut_short_says_how_long_it_should_be() {
    let whole = safetensors(&every_format());
    let config = any_format().to_string().into_bytes();
    let error =
        refused(&[("config.json", config.clone()), ("model.safetensors", whole[..whole.len() - 1].to_vec())]);
    let CheckpointError::Truncated { expected, found, tensor, .. } = error else { panic!("{error}") };
    assert_eq!((expected, found, tensor.as_str()), (whole.len() as u64, whole.len() as u64 - 1, "table"));
    for length in [0, 7, 8, 20] {
        let error =
            refused(&[("config.json", config.clone()), ("model.safetensors", whole[..length].to_vec())]);
        assert_eq!(error.code(), "safetensors_invalid_header", "{length}");
    }
}

#[test]
fn a_folder_without_weights_configuration_or_tokenizer_says_which() {
    assert_eq!(refused(&[("config.json", plain())]).code(), "checkpoint_missing_file");
    let error = refused(&[("model.safetensors", shard(&["a"]))]);
    assert!(error.file().ends_with("config.json"));
    assert_eq!(refused(&[("config.json", b"[1]".to_vec())]).code(), "checkpoint_invalid_json");
    assert_eq!(refused(&[("config.json", b"{".to_vec())]).code(), "checkpoint_invalid_json");

    let folder = folder(&[("config.json", plain()), ("model.safetensors", shard(&["a"]))]);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let error = checkpoint.tokenizer_json().unwrap_err();
    assert_eq!(error.code(), "checkpoint_missing_file");
    assert!(error.file().ends_with("tokenizer.json"));
    assert_eq!((checkpoint.chat_template(), checkpoint.tokenizer_config()), (None, None));
}

#[test]
fn a_chat_template_is_taken_from_its_file_before_the_tokenizer_configuration() {
    let configured = br#"{"chat_template": "from the configuration"}"#.to_vec();
    let files = [
        ("config.json", plain()),
        ("model.safetensors", shard(&["a"])),
        ("tokenizer_config.json", configured),
        ("chat_template.jinja", b"from the file".to_vec()),
    ];
    let template =
        |files: &[(&str, Vec<u8>)]| Checkpoint::open(folder(files).path()).unwrap().chat_template();
    assert_eq!(template(&files).as_deref(), Some("from the file"));
    assert_eq!(template(&files[..3]).as_deref(), Some("from the configuration"));
    let not_text = [files[0].clone(), files[1].clone(), ("chat_template.jinja", vec![0xff, 0xfe])];
    let folder = folder(&not_text);
    assert_eq!(Checkpoint::open(folder.path()).unwrap_err().code(), "checkpoint_invalid_json");
}

#[test]
fn a_path_that_is_no_folder_is_refused_with_what_it_is() {
    let folder = folder(&[("model.gguf", vec![0; 8])]);
    let error = Checkpoint::open(&folder.path().join("model.gguf")).unwrap_err();
    assert_eq!(error.code(), "checkpoint_not_a_folder");
    assert_eq!(Checkpoint::open(&folder.path().join("none")).unwrap_err().code(), "checkpoint_unreadable");
}

#[cfg(unix)]
#[test]
fn a_path_that_is_not_utf8_is_refused_and_so_is_such_a_weight_file() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let folder = folder(&[("config.json", plain()), ("model.safetensors", shard(&["a"]))]);
    let error = Checkpoint::open(&folder.path().join(OsStr::from_bytes(b"\xff\xfe"))).unwrap_err();
    assert_eq!(error.code(), "path_not_utf8");
    std::fs::write(folder.path().join(OsStr::from_bytes(b"notes-\xff")), b"").unwrap();
    assert!(Checkpoint::open(folder.path()).is_ok());
    std::fs::write(folder.path().join(OsStr::from_bytes(b"mtp-\xff.safetensors")), b"").unwrap();
    assert_eq!(Checkpoint::open(folder.path()).unwrap_err().code(), "path_not_utf8");
}

#[cfg(unix)]
#[test]
fn a_socket_in_place_of_a_file_does_not_hang() {
    let folder = folder(&[("config.json", plain())]);
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("model.safetensors")).unwrap();
    assert_eq!(Checkpoint::open(folder.path()).unwrap_err().code(), "checkpoint_unreadable");
}
