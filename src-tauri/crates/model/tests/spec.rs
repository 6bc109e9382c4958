//! Reading `config.json`: the variants that exist, and what is refused.
#![allow(clippy::unwrap_used, reason = "tests end where they fail")]

use hearth_model::formats::Declared;
use hearth_model::spec::{Ffn, Mixer};
use hearth_model::{Budget, LoadOptions, ModelError, family};
use proptest::prelude::*;
use serde_json::{Value, json};

fn outer() -> Value {
    serde_json::from_str(include_str!("configs/qwen3.6-35b-a3b.json")).unwrap()
}

fn text() -> Value {
    outer()["text_config"].clone()
}

#[test]
fn the_published_config_becomes_its_layers() {
    let spec = family::read(&outer()).unwrap();
    assert_eq!(spec.family, "qwen3_5_moe_text");
    assert_eq!((spec.hidden, spec.vocab, spec.context, spec.tied_head), (2048, 248_320, 262_144, false));
    assert_eq!(spec.layers.len(), 40);
    for (i, layer) in spec.layers.iter().enumerate() {
        assert_eq!(matches!(layer.mixer, Mixer::FullAttention(_)), (i + 1) % 4 == 0, "layer {i}");
    }
    let Mixer::FullAttention(attention) = &spec.layers[3].mixer else { panic!("layer 3 is attention") };
    assert_eq!((attention.rope_dims, attention.rope_theta, attention.gated), (64, 1e7, true));
    assert_eq!((attention.q_rows(), attention.kv_rows()), (8192, 512));
    let Mixer::GatedDeltaNet(gdn) = &spec.layers[0].mixer else { panic!("layer 0 is a delta net") };
    assert_eq!(gdn.shape().channels(), 8192);
    let Ffn::Moe(moe) = &spec.layers[0].ffn else { panic!("its ffn is a mixture") };
    assert_eq!((moe.experts, moe.top_k, moe.slots(), moe.shared_inter), (256, 8, 9, Some(512)));
    assert!(spec.mtp.is_some());
    let names = family::names(&spec);
    assert_eq!(names.embedding(), "model.language_model.embed_tokens");
    assert_eq!(names.head(), "lm_head");
}

#[test]
fn a_text_only_config_gives_the_same_layers_without_the_infix() {
    let (whole, text) = (family::read(&outer()).unwrap(), family::read(&text()).unwrap());
    assert_eq!(text.layers, whole.layers);
    assert_eq!(text.prefix, "model.");
}

#[test]
fn layers_without_a_list_of_types_follow_the_interval() {
    let mut config = text();
    config.as_object_mut().unwrap().remove("layer_types");
    assert_eq!(family::read(&config).unwrap().layers, family::read(&text()).unwrap().layers);
}

#[test]
fn legacy_rotary_fields_are_read_like_the_nested_ones() {
    let mut config = text();
    let object = config.as_object_mut().unwrap();
    object.remove("rope_parameters");
    object.insert("rope_theta".into(), json!(1e7));
    object.insert("partial_rotary_factor".into(), json!(0.25));
    assert_eq!(family::read(&config).unwrap(), family::read(&text()).unwrap());
}

#[test]
fn a_dense_config_has_dense_ffns_and_a_head_may_be_tied() {
    let mut config = text();
    config["model_type"] = json!("qwen3_5_text");
    config["intermediate_size"] = json!(5632);
    config["tie_word_embeddings"] = json!(true);
    let spec = family::read(&config).unwrap();
    assert!(spec.layers.iter().all(|layer| layer.ffn == Ffn::Dense { inter: 5632 }));
    assert!(spec.tied_head);
}

#[test]
fn the_tensors_decide_on_prefix_and_mtp_head() {
    let mut config = text();
    config.as_object_mut().unwrap().remove("mtp_num_hidden_layers");
    let mut spec = family::read(&config).unwrap();
    assert!(spec.mtp.is_none());
    let stored = ["model.language_model.embed_tokens.weight", "mtp.norm.weight"];
    family::settle(&mut spec, &|name| stored.contains(&name));
    assert_eq!(spec.prefix, "model.language_model.");
    assert_eq!(spec.mtp.as_ref().map(|mtp| &mtp.layer), Some(&spec.layers[3]));

    let mut without = family::read(&text()).unwrap();
    family::settle(&mut without, &|name| name == "model.embed_tokens.weight");
    assert_eq!((without.prefix.as_str(), &without.mtp), ("model.", &None));
}

#[test]
fn an_unknown_family_is_refused_with_the_known_ones() {
    for (config, found) in [
        (json!({"model_type": "llama"}), "llama"),
        (json!({}), "(none)"),
        (json!([1, 2]), "(none)"),
        (json!({"model_type": 7}), "(none)"),
    ] {
        let error = family::read(&config).unwrap_err();
        assert_eq!(error.code(), "model_family_unknown");
        let sentence = error.to_string();
        assert!(sentence.contains(found) && sentence.contains("qwen3_5_moe"), "{sentence}");
    }
}

#[test]
fn impossible_numbers_are_refused_by_name() {
    let huge = u64::MAX;
    for (field, value) in [
        ("hidden_size", json!(0)),
        ("hidden_size", json!(huge)),
        ("hidden_size", json!(-2048)),
        ("hidden_size", json!("2048")),
        ("hidden_size", json!(2048.5)),
        ("hidden_size", json!(null)),
        ("num_hidden_layers", json!(0)),
        ("num_hidden_layers", json!(1_000_000_000_000_u64)),
        ("num_attention_heads", json!(0)),
        ("num_key_value_heads", json!(0)),
        ("num_key_value_heads", json!(3)),
        ("head_dim", json!(0)),
        ("head_dim", json!(huge)),
        ("linear_num_key_heads", json!(0)),
        ("linear_num_key_heads", json!(5)),
        ("linear_num_value_heads", json!(huge)),
        ("linear_conv_kernel_dim", json!(0)),
        ("num_experts", json!(0)),
        ("num_experts", json!(huge)),
        ("num_experts_per_tok", json!(0)),
        ("num_experts_per_tok", json!(257)),
        ("moe_intermediate_size", json!(0)),
        ("vocab_size", json!(0)),
        ("vocab_size", json!(huge)),
        ("max_position_embeddings", json!(0)),
        ("rms_norm_eps", json!(-1.0)),
        ("rms_norm_eps", json!("small")),
        ("layer_types", json!([])),
        ("layer_types", json!("full_attention")),
        ("layer_types", json!(vec!["sliding_attention"; 40])),
        ("layer_types", json!(vec!["full_attention"; 39])),
        ("tie_word_embeddings", json!("yes")),
        ("mtp_num_hidden_layers", json!(huge)),
    ] {
        let mut config = text();
        config[field] = value.clone();
        match family::read(&config) {
            Err(ModelError::Config { field: named, .. }) => assert_eq!(named, field, "{value}"),
            other => panic!("{field} = {value}: {other:?}"),
        }
    }
}

#[test]
fn impossible_rotary_numbers_are_refused() {
    for (field, value) in [
        ("rope_theta", json!(0)),
        ("rope_theta", json!(1e300)),
        ("rope_theta", json!("10000")),
        ("partial_rotary_factor", json!(0.0)),
        ("partial_rotary_factor", json!(2.0)),
        ("partial_rotary_factor", json!(0.0121)),
    ] {
        let mut config = text();
        config["rope_parameters"][field] = value.clone();
        let error = family::read(&config).unwrap_err();
        assert_eq!(error.code(), "model_config_invalid", "{field} = {value}: {error}");
        assert!(error.to_string().contains(field), "{error}");
    }
}

#[test]
fn yarn_is_read_nested_and_flat_and_its_impossible_numbers_are_refused() {
    let mut nested = text();
    for (key, value) in [("rope_type", json!("yarn")), ("factor", json!(4.0))] {
        nested["rope_parameters"][key] = value;
    }
    let mut flat = text();
    flat.as_object_mut().unwrap().remove("rope_parameters");
    for (key, value) in [("rope_theta", json!(1e7)), ("rope_scaling", json!({"type": "yarn", "factor": 4.0}))]
    {
        flat[key] = value;
    }
    let spec = family::read(&nested).unwrap();
    assert_eq!((spec.context, spec.longest()), (1_048_576, 1_048_576));
    assert_eq!(spec.yarn().map(|yarn| (yarn.factor, yarn.original)), Some((4.0, 262_144)));
    assert_eq!(family::read(&flat).unwrap(), spec);
    for (field, value) in [
        ("factor", json!(0.5)),
        ("factor", json!("4")),
        ("factor", json!(1e9)),
        ("original_max_position_embeddings", json!(0)),
        ("original_max_position_embeddings", json!(100)),
        ("beta_fast", json!(0)),
        ("beta_slow", json!(-1)),
        ("attention_factor", json!(0)),
        ("mscale", json!("big")),
        ("truncate", json!("no")),
    ] {
        let mut config = nested.clone();
        // Without a factor of its own the config's is context / original.
        if field == "original_max_position_embeddings" {
            config["rope_parameters"].as_object_mut().unwrap().remove("factor");
        }
        config["rope_parameters"][field] = value.clone();
        let error = family::read(&config).unwrap_err();
        assert_eq!(error.code(), "model_config_invalid", "{field} = {value}: {error}");
    }
}

#[test]
fn features_without_code_are_refused_rather_than_ignored() {
    for (field, value) in [
        ("hidden_act", json!("gelu")),
        ("attention_bias", json!(true)),
        ("mlp_only_layers", json!([0])),
        ("mtp_use_dedicated_embeddings", json!(true)),
        ("mtp_num_hidden_layers", json!(3)),
        ("rope_parameters", json!({"rope_type": "longrope", "rope_theta": 1e7, "factor": 4.0})),
        ("rope_parameters", json!({"rope_type": 4, "rope_theta": 1e7})),
        ("rope_scaling", json!({"type": "dynamic", "factor": 4.0})),
    ] {
        let mut config = text();
        config[field] = value.clone();
        if field == "rope_scaling" {
            config.as_object_mut().unwrap().remove("rope_parameters");
            config["rope_theta"] = json!(1e7);
        }
        let error = family::read(&config).unwrap_err();
        assert_eq!(error.code(), "model_feature_unsupported", "{field} = {value}: {error}");
    }
}

#[test]
fn a_spec_survives_json() {
    let spec = family::read(&outer()).unwrap();
    let text = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<hearth_model::ModelSpec>(&text).unwrap(), spec);
}

/// Values that configs should not have, and some that they may.
fn odd() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!(null)),
        Just(json!([])),
        Just(json!({})),
        Just(json!("")),
        any::<bool>().prop_map(|v| json!(v)),
        any::<u64>().prop_map(|v| json!(v)),
        any::<i64>().prop_map(|v| json!(v)),
        any::<f64>().prop_map(|v| json!(v)),
        (0u32..40).prop_map(|shift| json!(1u64 << shift)),
        (0u64..300).prop_map(|v| json!(v)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    /// In a build with overflow checks this also shows that no size overflows.
    #[test]
    fn no_config_makes_reading_or_sizing_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), odd(), any::<bool>()), 1..6),
        context in any::<usize>(), slots in 0usize..5000, max_rows in 0usize..70_000,
    ) {
        let mut config = text();
        for (index, value, nested) in changes {
            let target = if nested { &mut config["rope_parameters"] } else { &mut config };
            if let Some(object) = target.as_object_mut().filter(|object| !object.is_empty()) {
                let keys: Vec<String> = object.keys().cloned().collect();
                object.insert(index.get(&keys).clone(), value);
            }
        }
        if let Ok(spec) = family::read(&config) {
            let options = LoadOptions {
                context: context % (spec.context + 1), slots, max_rows, mtp: true, ..LoadOptions::default()
            };
            if let Ok(formats) = Declared::read(&config, None)
                && let Ok(budget) = Budget::of(&spec, &formats, &options)
            {
                prop_assert!(budget.total() > 0);
                prop_assert!(budget.read_per_step(usize::MAX, usize::MAX) >= budget.read_per_step(1, 1));
            }
        }
    }

    #[test]
    fn no_json_at_all_makes_reading_panic(value in odd(), key in "[a-z_]{0,12}") {
        let _ = family::read(&json!({"model_type": "qwen3_5_moe", key: value.clone()}));
        let _ = family::read(&json!({"model_type": "qwen3_5_moe", "text_config": value.clone()}));
        let _ = family::read(&value);
    }
}
