//! ModelOpt's configuration: `hf_quant_config.json` with a `quantization` section, or the same fields flat in
//! `config.json`. `MIXED_PRECISION` names each layer's algorithm; an entry for `…experts` covers every expert.

use serde_json::Value;

use super::names::Names;
use super::{Place, QuantConfig, Writer, brief};
use crate::{LinearFormat, Result};

const KNOWN: &str =
    "NVFP4, W4A16_NVFP4, FP8, FP8_PER_CHANNEL_PER_TOKEN, FP8_PB_WO, FP8_BLOCK_SCALES or MIXED_PRECISION";

pub(super) fn read(place: Place<'_>, file: &Value) -> Result<QuantConfig> {
    let section = file.get("quantization").unwrap_or(file);
    if !section.is_object() {
        return Err(place.invalid("an object as quantization", section));
    }
    let mut exclude = Names::with_parents();
    for key in ["exclude_modules", "ignore"] {
        for name in place.strings(section.get(key), key)? {
            exclude.glob(name, ()).map_err(|reason| {
                place.invalid("names or short patterns in ignore", &Value::String(reason))
            })?;
        }
    }
    let mut rules = Names::with_parents();
    let default = match section.get("quant_algo") {
        None | Some(Value::Null) => None,
        Some(Value::String(algo)) if algo == "MIXED_PRECISION" => {
            let layers = match section.get("quantized_layers") {
                Some(Value::Object(layers)) => layers,
                other => {
                    return Err(place.invalid("an object as quantized_layers", other.unwrap_or(&Value::Null)));
                }
            };
            for (layer, settings) in layers {
                let algo = settings.get("quant_algo").unwrap_or(&Value::Null);
                let format = algorithm(place, layer, algo, settings.get("group_size"))?;
                rules.glob(layer, format).map_err(|reason| {
                    place.invalid("names or short patterns in quantized_layers", &Value::String(reason))
                })?;
            }
            None
        }
        Some(algo) => Some(algorithm(place, "quant_algo", algo, section.get("group_size"))?),
    };
    Ok(QuantConfig::new(Writer::ModelOpt, exclude, rules, default))
}

fn algorithm(
    place: Place<'_>,
    layer: &str,
    algo: &Value,
    group_size: Option<&Value>,
) -> Result<LinearFormat> {
    match algo.as_str() {
        Some("NVFP4" | "W4A16_NVFP4") => match group_size {
            None | Some(Value::Null) => Ok(LinearFormat::Nvfp4),
            Some(size) if size.as_u64() == Some(16) => Ok(LinearFormat::Nvfp4),
            Some(size) => {
                Err(place.unknown(layer, format!("NVFP4 in groups of {}", brief(size)), "groups of 16"))
            }
        },
        Some("FP8") => Ok(LinearFormat::Fp8Tensor),
        Some("FP8_PER_CHANNEL_PER_TOKEN") => Ok(LinearFormat::Fp8Row),
        Some("FP8_PB_WO" | "FP8_BLOCK_SCALES") => Ok(LinearFormat::Fp8Block128),
        _ => Err(place.unknown(layer, brief(algo), KNOWN)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn mixed_precision_names_layers_and_covers_all_experts_with_one_entry() {
        let config = json!({"quantization": {"quant_algo": "MIXED_PRECISION", "exclude_modules": ["mtp*"],
            "quantized_layers": {
                "model.language_model.layers.0.mlp.experts": {"quant_algo": "W4A16_NVFP4", "group_size": 16},
                "model.language_model.layers.0.self_attn.q_proj": {"quant_algo": "FP8"}}}});
        let read = read(Place { file: "f" }, &config).unwrap();
        assert_eq!(
            read.declared("model.language_model.layers.0.mlp.experts.9.up_proj"),
            Some(LinearFormat::Nvfp4)
        );
        assert_eq!(read.declared("model.layers.0.self_attn.q_proj"), Some(LinearFormat::Fp8Tensor));
        assert_eq!(read.declared("model.layers.0.self_attn.k_proj"), None);
        assert_eq!(read.declared("mtp.layers.0.mlp.experts.0.up_proj"), None);
    }

    #[test]
    fn an_unknown_algorithm_is_named_with_its_layer() {
        let config = json!({"quant_algo": "MIXED_PRECISION", "quantized_layers": {"lm_head": {"quant_algo": "MXFP8"}}});
        let text = read(Place { file: "f" }, &config).unwrap_err().to_string();
        assert!(text.contains("MXFP8") && text.contains("lm_head"), "{text}");
        for algo in [json!("NVFP4_AWQ"), json!("W4A8_NVFP4_FP8"), json!(7)] {
            let error = read(Place { file: "f" }, &json!({"quant_algo": algo})).unwrap_err();
            assert_eq!(error.code(), "unknown_quantization");
        }
        let groups_of_32 = json!({"quant_algo": "NVFP4", "group_size": 32});
        assert_eq!(read(Place { file: "f" }, &groups_of_32).unwrap_err().code(), "unknown_quantization");
    }
}
