//! `quantization_config` as compressed-tensors writes it: groups of targets with one scheme each, and an ignore list.
//! Names starting with `re:` are regular expressions, other targets are module names or class names such as `Linear`.

use serde_json::Value;

use super::names::Names;
use super::{Place, QuantConfig, Writer, brief};
use crate::{LinearFormat, Result};

const KNOWN: &str = "NVFP4 (4-bit float in groups of 16) or FP8 per tensor, channel or 128x128 block";

pub(super) fn read(place: Place<'_>, quantization: &Value) -> Result<QuantConfig> {
    let mut exclude = Names::default();
    for name in place.strings(quantization.get("ignore"), "ignore")? {
        add(place, &mut exclude, name, ())?;
    }
    let sparsity = quantization.get("sparsity_config").and_then(|sparsity| sparsity.get("format"));
    if let Some(sparsity) = sparsity.filter(|format| format.as_str() != Some("dense")) {
        return Err(place.unknown("sparsity_config", brief(sparsity), "dense weights"));
    }
    let (mut rules, mut default) = (Names::default(), None);
    let groups = match quantization.get("config_groups") {
        Some(Value::Object(groups)) => groups,
        other => return Err(place.invalid("an object as config_groups", other.unwrap_or(&Value::Null))),
    };
    for (name, group) in groups {
        let Some(weights) = group.get("weights").filter(|weights| !weights.is_null()) else { continue };
        let layout = group.get("format").filter(|f| !f.is_null()).or(quantization.get("format"));
        let format = scheme(place, name, weights, layout)?;
        for target in place.strings(group.get("targets"), "targets")? {
            if target.starts_with("re:") || target.contains('.') || target == "lm_head" {
                add(place, &mut rules, target, format)?;
            } else {
                default = Some(format);
            }
        }
    }
    Ok(QuantConfig::new(Writer::CompressedTensors, exclude, rules, default))
}

fn add<V>(place: Place<'_>, names: &mut Names<V>, name: &str, value: V) -> Result<()> {
    match name.strip_prefix("re:") {
        Some(pattern) => names.regex(pattern, value).map_err(|reason| {
            place.invalid("regular expressions after re:", &Value::String(format!("{reason} in {name}")))
        }),
        None => {
            names.name(name, value);
            Ok(())
        }
    }
}

/// The format of one group from its `weights`.
fn scheme(place: Place<'_>, group: &str, weights: &Value, layout: Option<&Value>) -> Result<LinearFormat> {
    let layout = match layout {
        None | Some(Value::Null) => "",
        Some(Value::String(layout)) => layout.as_str(),
        Some(other) => return Err(place.unknown(group, brief(other), KNOWN)),
    };
    if !["", "nvfp4-pack-quantized", "float-quantized", "naive-quantized", "mixed-precision"]
        .contains(&layout)
    {
        return Err(place.unknown(group, brief(&Value::String(layout.into())), KNOWN));
    }
    let number = |key: &str| weights.get(key).and_then(Value::as_u64);
    let word = |key: &str| weights.get(key).and_then(Value::as_str);
    let block = weights.get("block_structure").and_then(Value::as_array);
    let is_128 =
        block.is_some_and(|sides| sides.len() == 2 && sides.iter().all(|side| side.as_u64() == Some(128)));
    match (word("type"), number("num_bits"), word("strategy")) {
        (Some("float"), Some(4), Some("tensor_group")) if number("group_size") == Some(16) => {
            Ok(LinearFormat::Nvfp4)
        }
        (Some("float"), Some(8), Some("tensor")) => Ok(LinearFormat::Fp8Tensor),
        (Some("float"), Some(8), Some("channel")) => Ok(LinearFormat::Fp8Row),
        (Some("float"), Some(8), Some("block")) if is_128 => Ok(LinearFormat::Fp8Block128),
        (kind, bits, strategy) => {
            let found = format!(
                "{layout} {} of {} bits, strategy {}, group_size {}",
                kind.unwrap_or("no type"),
                bits.map_or("unknown".into(), |bits| bits.to_string()),
                strategy.unwrap_or("none"),
                number("group_size").map_or("none".into(), |size| size.to_string()),
            );
            Err(place.unknown(group, brief(&Value::String(found.trim().into())), KNOWN))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(weights: Value, format: &str) -> Value {
        json!({"quant_method": "compressed-tensors", "format": format,
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
            "ignore": ["lm_head", "re:.*mlp.gate$", "re:^mtp.*"]})
    }

    #[test]
    fn each_scheme_is_one_format() {
        let cases = [
            (
                json!({"type": "float", "num_bits": 4, "strategy": "tensor_group", "group_size": 16}),
                LinearFormat::Nvfp4,
            ),
            (json!({"type": "float", "num_bits": 8, "strategy": "tensor"}), LinearFormat::Fp8Tensor),
            (json!({"type": "float", "num_bits": 8, "strategy": "channel"}), LinearFormat::Fp8Row),
            (
                json!({"type": "float", "num_bits": 8, "strategy": "block", "block_structure": [128, 128]}),
                LinearFormat::Fp8Block128,
            ),
        ];
        for (weights, format) in cases {
            let read = read(Place { file: "f" }, &config(weights, "mixed-precision")).unwrap();
            assert_eq!(read.formats(), [format]);
            assert_eq!(read.declared("model.layers.0.mlp.up_proj"), Some(format));
            assert_eq!(read.declared("model.layers.0.mlp.gate_proj"), Some(format));
            assert_eq!(read.declared("model.layers.0.mlp.gate"), None);
            assert_eq!(read.declared("lm_head"), None);
            assert_eq!(read.declared("mtp.fc"), None);
            assert_eq!(read.declared("model.embed_tokens"), None);
        }
    }

    #[test]
    fn integers_are_an_unknown_quantization_that_is_named() {
        let weights = json!({"type": "int", "num_bits": 4, "strategy": "group", "group_size": 128});
        for format in ["pack-quantized", "mixed-precision"] {
            let error = read(Place { file: "f" }, &config(weights.clone(), format)).unwrap_err();
            assert_eq!(error.code(), "unknown_quantization");
            assert!(error.to_string().contains(if format == "pack-quantized" {
                format
            } else {
                "int of 4 bits"
            }));
        }
    }

    #[test]
    fn a_target_named_by_pattern_wins_over_the_class() {
        let fp8 = json!({"type": "float", "num_bits": 8, "strategy": "channel"});
        let fp4 = json!({"type": "float", "num_bits": 4, "strategy": "tensor_group", "group_size": 16});
        let config = json!({"format": "mixed-precision", "config_groups": {
            "a": {"targets": ["Linear"], "weights": fp4}, "b": {"targets": ["re:.*self_attn.*"], "weights": fp8}}});
        let read = read(Place { file: "f" }, &config).unwrap();
        assert_eq!(read.declared("model.layers.3.self_attn.q_proj"), Some(LinearFormat::Fp8Row));
        assert_eq!(read.declared("model.layers.3.mlp.up_proj"), Some(LinearFormat::Nvfp4));
    }
}
