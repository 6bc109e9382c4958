//! The rotary numbers of a config: nested as transformers 5 writes them, or flat and under `rope_scaling` as older ones do;
//! plain, or stretched by YaRN. Used by the family adapters.

use super::fields::Fields;
use crate::ModelError;
use crate::yarn::Yarn;
use serde_json::{Value, json};

/// How the positions of an attention layer are rotated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rotary {
    pub dims: usize,
    pub theta: f32,
    pub yarn: Option<Yarn>,
}

/// Reads the rotary numbers of heads of `head_dim`, of which `share` is rotated where the config does not say.
pub(crate) fn read(text: &Fields<'_>, head_dim: usize, share: f64) -> Result<Rotary, ModelError> {
    let nested = text.get("rope_parameters").or(text.get("rope_scaling")).filter(|v| v.is_object());
    let flat = || Fields::new(text.object(), text.path());
    let rope = match nested {
        Some(object) if object.get("rope_theta").is_some() => Fields::new(object, "rope_parameters."),
        _ => flat(),
    };
    let theta = rope.real("rope_theta", 1.0..=1e12)?;
    let share = match rope.get("partial_rotary_factor") {
        Some(_) => rope.real("partial_rotary_factor", 0.0..=1.0)?,
        None if text.get("partial_rotary_factor").is_some() => {
            text.real("partial_rotary_factor", 0.0..=1.0)?
        }
        None => share,
    };
    let dims = (head_dim as f64 * share) as usize;
    if dims < 2 || !dims.is_multiple_of(2) {
        let expected = format!("a factor that rotates an even number of the {head_dim} dimensions of a head");
        return Err(rope.refuse("partial_rotary_factor", expected));
    }
    let yarn = match nested {
        Some(object) => yarn(&Fields::new(object, "rope_parameters."), text)?,
        None => None,
    };
    Ok(Rotary { dims, theta: theta as f32, yarn })
}

/// YaRN's numbers, if the config asks for it (transformers 5.23 `_compute_yarn_parameters`, with its defaults).
fn yarn(rope: &Fields<'_>, text: &Fields<'_>) -> Result<Option<Yarn>, ModelError> {
    let kind = if rope.get("rope_type").is_some() { "rope_type" } else { "type" };
    match rope.get(kind).map(Value::as_str) {
        None | Some(Some("default")) => return Ok(None),
        Some(Some("yarn")) => {}
        Some(_) => {
            return Err(ModelError::Unsupported {
                feature: format!("rope_parameters.{kind} other than \"default\" or \"yarn\""),
                found: rope.get(kind).map(Value::to_string).unwrap_or_default().chars().take(60).collect(),
            });
        }
    }
    // transformers has no such field; llama.cpp's other values stretch nothing, or less.
    rope.only("extrapolation_factor", &json!(1.0))?;
    let trained = text.number("max_position_embeddings", 1..=1 << 26)?;
    let original = rope.number_or("original_max_position_embeddings", 1..=1 << 26, trained)?;
    let real_or = |key, range, default| match rope.get(key) {
        None => Ok(default),
        Some(_) => rope.real(key, range),
    };
    let factor = real_or("factor", 1.0..=64.0, trained as f64 / original as f64)?;
    if !(1.0..=64.0).contains(&factor) {
        return Err(rope.refuse("factor", "a number from 1 to 64"));
    }
    let mut yarn = Yarn::by(factor, original);
    let mscale = [real_or("mscale", 0.0..=16.0, 0.0)?, real_or("mscale_all_dim", 0.0..=16.0, 0.0)?];
    if mscale.iter().all(|scale| *scale > 0.0) {
        yarn.magnitude = Yarn::spread(factor, mscale[0]) / Yarn::spread(factor, mscale[1]);
    }
    yarn.magnitude = real_or("attention_factor", 1e-3..=16.0, yarn.magnitude)?;
    yarn.beta_fast = real_or("beta_fast", 1e-3..=1e6, yarn.beta_fast)?;
    yarn.beta_slow = real_or("beta_slow", 1e-3..=1e6, yarn.beta_slow)?;
    yarn.truncate = rope.flag_or("truncate", true)?;
    Ok(Some(yarn))
}
