//! Contexts beyond the trained one: against transformers 5.23 under YaRN, on the CPU and on the CUDA kernels, and what a
//! person gets who asks for more tokens than the model has. See tests/fixtures/README.md.
#![allow(clippy::unwrap_used, reason = "tests end where they fail")]

mod common;

use common::{Fixture, close, folder, options, pass, run, same_bits, segment};
use hearth_checkpoint::Checkpoint;
use hearth_kernels::Device;
use hearth_kernels::ops::Pass;
use hearth_model::formats::Declared;
use hearth_model::spec::Mixer;
use hearth_model::{Budget, LoadOptions, Model, ModelSpec, Seed, family};
use safetensors::SafeTensors;
use serde_json::{Value, json};

const LOGITS: f32 = 1e-4;
/// Rows of logits that the fixture has: every eighth.
const EVERY: usize = 8;

/// What tests/fixtures/yarn.py lays over the fixture's rotary numbers.
fn variants() -> [(&'static str, Value); 3] {
    [
        ("ramp", json!({"rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 512})),
        (
            "given",
            json!({"rope_theta": 1e4, "factor": 2.5, "original_max_position_embeddings": 200,
                "attention_factor": 1.2, "beta_fast": 16.0, "beta_slow": 2.0, "truncate": false}),
        ),
        (
            "mscale",
            json!({"factor": 8.0, "original_max_position_embeddings": 64, "mscale": 1.0, "mscale_all_dim": 0.5}),
        ),
    ]
}

fn floats(name: &str) -> Vec<f32> {
    let bytes = std::fs::read(folder("qwen3_5").join("yarn.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let numbers = tensors.tensor(name).unwrap();
    numbers.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// The dense fixture with other rotary numbers.
fn load_with(rope: &Value, device: Device, options: LoadOptions) -> Model {
    let changed = tempfile::tempdir().unwrap();
    let from = folder("qwen3_5");
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
    for (key, value) in rope.as_object().unwrap() {
        config["rope_parameters"][key] = value.clone();
    }
    std::fs::write(changed.path().join("config.json"), config.to_string()).unwrap();
    std::fs::copy(from.join("model.safetensors"), changed.path().join("model.safetensors")).unwrap();
    let checkpoint = Checkpoint::open(changed.path()).unwrap();
    let ops = device.open(Some(2)).unwrap().ops;
    Model::load(&checkpoint, ops, options, &mut |_| {}).unwrap()
}

fn yarn(rope: &Value) -> Value {
    let mut rope = rope.clone();
    rope["rope_type"] = json!("yarn");
    rope
}

fn every_eighth(logits: &[f32], vocab: usize) -> Vec<f32> {
    logits.chunks_exact(vocab).skip(EVERY - 1).step_by(EVERY).flatten().copied().collect()
}

#[test]
fn logits_under_yarn_agree_with_transformers() {
    let ids = Fixture::read("qwen3_5").ids("input_ids").to_vec();
    for (name, rope) in variants() {
        let mut model = load_with(&yarn(&rope), Device::Cpu, options());
        let found = every_eighth(&run(&mut model, &ids, 96), model.vocab());
        close(name, &found, &floats(&format!("{name}.logits")), LOGITS);
    }
}

#[test]
fn the_cuda_kernels_turn_by_the_same_table() {
    let ids = Fixture::read("qwen3_5").ids("input_ids")[..24].to_vec();
    let want: Vec<u32> = (0..24).collect();
    let options = || LoadOptions { context: 128, max_rows: 64, ..options() };
    for (name, rope) in variants() {
        let mut model = load_with(&yarn(&rope), Device::Emulated, options());
        let pass = Pass { exact: true, ..pass(vec![segment(&model, 0, 0, 24)]) };
        let logits = model.forward(&pass, &ids, &want).unwrap().values;
        let theirs = floats(&format!("{name}.logits"));
        close(name, &every_eighth(&logits, model.vocab()), &theirs[..3 * model.vocab()], 1e-3);
    }
}

fn published() -> ModelSpec {
    let text = include_str!("configs/qwen3.6-35b-a3b.json");
    family::read(&serde_json::from_str(text).unwrap()).unwrap()
}

#[test]
fn the_35b_turns_by_the_table_that_transformers_makes_at_two_three_and_four_times_its_context() {
    for (context, factor) in [(262_145, 2), (524_288, 2), (600_000, 3), (1_048_576, 4)] {
        let spec = published().stretched(context).unwrap();
        assert_eq!(spec.yarn().map(|yarn| yarn.factor), Some(factor as f64), "{context}");
        assert!(spec.context >= context);
        let theirs = floats(&format!("qwen3_6.{factor}"));
        let mtp = spec.mtp.as_ref().map(|mtp| &mtp.layer);
        let mut attentions = 0;
        for layer in spec.layers.iter().chain(mtp) {
            let Mixer::FullAttention(attention) = &layer.mixer else { continue };
            attentions += 1;
            let shape = attention.shape();
            let ours = [shape.frequencies(), vec![shape.magnitude()]].concat();
            assert_eq!(ours.len(), theirs.len());
            for (i, (a, b)) in ours.iter().zip(&theirs).enumerate() {
                assert!((a / b - 1.0).abs() < 5e-7, "{factor} times, pair {i}: {a} and {b}");
            }
        }
        assert_eq!(attentions, 11, "ten layers and the MTP head");
    }
}

#[test]
fn nothing_is_stretched_that_was_not_asked_for_and_nothing_further_than_four_times() {
    let spec = published();
    assert_eq!((spec.context, spec.longest()), (262_144, 1_048_576));
    assert_eq!(spec.clone().stretched(262_144).unwrap(), spec);
    let error = spec.stretched(1_048_577).unwrap_err();
    assert_eq!(error.code(), "model_option_invalid");
    let sentence = error.to_string();
    for part in ["1048576", "4 times", "262144", "1048577", "YaRN"] {
        assert!(sentence.contains(part), "{sentence}");
    }
}

#[test]
fn a_million_tokens_of_the_35b_are_budgeted_to_the_byte() {
    let formats = Declared::read(
        &serde_json::from_str(include_str!("configs/qwen3.6-35b-a3b-nvfp4-nvidia.json")).unwrap(),
        None,
    )
    .unwrap();
    let spec = published();
    let options = LoadOptions { context: 1 << 20, mtp: true, ..LoadOptions::default() };
    let budget = Budget::of(&spec, &formats, &options).unwrap();
    // Ten layers and the MTP head, keys and values of two heads of 256, two bytes each.
    assert_eq!(budget.kv, (1 << 20) * 11 * 2 * 2 * 256 * 2);
    assert_eq!(budget.read_per_token(1 << 20).kv, (1 << 20) * 20 * 1024);
    assert_eq!(Budget::of(&spec.stretched(1 << 20).unwrap(), &formats, &options).unwrap(), budget);
}

#[test]
fn a_config_that_stretches_already_reaches_as_far_as_it_says_and_no_further() {
    let text = include_str!("configs/qwen3.6-35b-a3b.json");
    let mut config: Value = serde_json::from_str(text).unwrap();
    let rope = &mut config["text_config"]["rope_parameters"];
    (rope["rope_type"], rope["factor"]) = (json!("yarn"), json!(2.0));
    rope["original_max_position_embeddings"] = json!(262_144);
    let spec = family::read(&config).unwrap();
    assert_eq!((spec.context, spec.longest()), (524_288, 524_288));
    assert_eq!(spec.layers, published().stretched(524_288).unwrap().layers);
    assert!(spec.stretched(524_289).unwrap_err().to_string().contains("from 1 to 524288"));
}

/// A model asked for more than its own context computes what one computes whose config says so, MTP head included.
#[test]
fn asking_for_a_longer_context_is_the_same_as_a_config_that_says_so() {
    let ids = Fixture::read("qwen3_5").ids("input_ids").to_vec();
    let plain = json!({});
    let config = json!({"rope_type": "yarn", "factor": 3.0, "original_max_position_embeddings": 512});
    let longer = || LoadOptions { context: 1500, ..options() };
    let rows: Vec<u32> = (0..8).collect();
    let all = |model: &mut Model| {
        let trunk = run(model, &ids, 96);
        let pass = pass(vec![segment(model, 0, 0, 8)]);
        model.forward(&pass, &ids[..8], &[]).unwrap();
        let head = model.forward_mtp(&pass, &ids[1..9], Seed::Forward(&rows), &rows).unwrap().values;
        (trunk, head)
    };
    let (trunk, head) = all(&mut load_with(&plain, Device::Cpu, longer()));
    let (wanted_trunk, wanted_head) = all(&mut load_with(&config, Device::Cpu, longer()));
    same_bits("trunk", &trunk, &wanted_trunk);
    same_bits("MTP head", &head, &wanted_head);
    let (short_trunk, short_head) = all(&mut load_with(&plain, Device::Cpu, options()));
    assert!(trunk != short_trunk && head != short_head, "stretching changes something");

    let checkpoint = Checkpoint::open(&folder("qwen3_5")).unwrap();
    let ops = Device::Cpu.open(Some(1)).unwrap().ops;
    let beyond = LoadOptions { context: 2049, ..options() };
    let error = Model::load(&checkpoint, ops, beyond, &mut |_| {}).map(drop).unwrap_err();
    assert!(error.to_string().contains("4 times the model's own 512"), "{error}");
}

/// The last positions of a stretched context can be computed: a token there sees itself and what is kept before it.
#[test]
fn the_end_of_a_stretched_context_computes_numbers() {
    let mut model =
        load_with(&json!({}), Device::Cpu, LoadOptions { context: 2048, max_rows: 512, ..options() });
    let ids: Vec<u32> = (0..2048).map(|i| (i * 37 % 512) as u32).collect();
    let mut last = Vec::new();
    for (i, part) in ids.chunks(512).enumerate() {
        let pass = pass(vec![segment(&model, 0, i * 512, 512)]);
        last = model.forward(&pass, part, &[511]).unwrap().values;
    }
    assert!(last.iter().all(|logit| logit.is_finite()));
}
