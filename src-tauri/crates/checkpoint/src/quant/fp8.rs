//! `quant_method: fp8`, the format of Qwen's own FP8 checkpoints: E4M3 in 128x128 blocks with `weight_scale_inv`, which
//! multiplies in spite of its name. Without `weight_block_size` there is one scale per matrix.

use serde_json::Value;

use super::names::Names;
use super::{Place, QuantConfig, Writer, brief};
use crate::{LinearFormat, Result};

pub(super) fn read(place: Place<'_>, quantization: &Value) -> Result<QuantConfig> {
    if let Some(kind) =
        quantization.get("fmt").filter(|kind| !kind.is_null() && kind.as_str() != Some("e4m3"))
    {
        return Err(place.unknown("fmt", brief(kind), "e4m3"));
    }
    let format = match quantization.get("weight_block_size") {
        None | Some(Value::Null) => LinearFormat::Fp8Tensor,
        Some(Value::Array(sides))
            if sides.len() == 2 && sides.iter().all(|side| side.as_u64() == Some(128)) =>
        {
            LinearFormat::Fp8Block128
        }
        Some(Value::Array(sides)) if sides.len() == 2 => {
            let found = format!("blocks of {} x {}", brief(&sides[0]), brief(&sides[1]));
            return Err(place.unknown("weight_block_size", found, "blocks of 128 x 128"));
        }
        Some(other) => return Err(place.unknown("weight_block_size", brief(other), "[128, 128]")),
    };
    // The writer keeps the head as it is, whether it is listed or not.
    let mut exclude = Names::with_parents();
    exclude.name("lm_head", ());
    for name in place.strings(quantization.get("modules_to_not_convert"), "modules_to_not_convert")? {
        exclude.name(name, ());
    }
    Ok(QuantConfig::new(Writer::Fp8, exclude, Names::default(), Some(format)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn blocks_of_128_are_read_and_others_are_named() {
        let config = |size: Value| json!({"fmt": "e4m3", "weight_block_size": size, "modules_to_not_convert": ["a.b"]});
        let blocks = read(Place { file: "f" }, &config(json!([128, 128]))).unwrap();
        assert_eq!(blocks.declared("a.c"), Some(LinearFormat::Fp8Block128));
        assert_eq!(blocks.declared("a.b.c"), None);
        let whole = read(Place { file: "f" }, &config(Value::Null)).unwrap();
        assert_eq!(whole.declared("a.c"), Some(LinearFormat::Fp8Tensor));
        for size in [json!([64, 128]), json!([1, 2, 3]), json!("x")] {
            assert_eq!(read(Place { file: "f" }, &config(size)).unwrap_err().code(), "unknown_quantization");
        }
    }
}
