//! Finds tensors of a checkpoint that nothing reads. A bias, a pre-scale or an extra matrix means that the model
//! computes something else than the spec says, and running it anyway would give wrong answers without an error.

use crate::ModelError;
use crate::family::{Names, Place};
use crate::parts;
use crate::source::WeightSource;
use crate::spec::{Ffn, Layer, ModelSpec};
use std::collections::HashSet;

/// What a module's tensors may be called: the weight, its scales, and scales of activations, which only kernels that
/// quantise activations use.
const LEAVES: [&str; 8] = [
    "weight",
    "weight_packed",
    "weight_scale",
    "weight_global_scale",
    "weight_scale_2",
    "weight_scale_inv",
    "input_scale",
    "input_global_scale",
];

/// Parts of a folder that serve other purposes: the vision tower, scales of a quantised KV cache.
const OTHER: [&str; 3] = ["model.visual.", "visual.", "model.vision_tower."];
const OTHER_LEAVES: [&str; 4] = ["k_scale", "v_scale", "kv_scale", "inv_freq"];

/// Refuses a source with tensors outside of the spec.
///
/// # Errors
/// [`ModelError::UnusedTensors`] with the first one's name.
pub(crate) fn refuse(source: &dyn WeightSource, spec: &ModelSpec, names: &Names) -> Result<(), ModelError> {
    let mut modules = HashSet::from([names.embedding(), names.head()]);
    let mut tensors = HashSet::from([names.final_norm()]);
    for (i, layer) in spec.layers.iter().enumerate() {
        add(layer, Place::Layer(i), spec.hidden, names, &mut modules, &mut tensors);
    }
    let mtp = spec.mtp.as_ref();
    if let Some(mtp) = mtp {
        add(&mtp.layer, Place::Mtp, spec.hidden, names, &mut modules, &mut tensors);
        modules.insert(names.mtp_join().to_owned());
        tensors.extend(names.mtp_norms().map(str::to_owned));
    }
    let known = |name: &str| {
        let (module, leaf) = name.rsplit_once('.').unwrap_or(("", name));
        tensors.contains(name)
            || (modules.contains(module) && LEAVES.contains(&leaf))
            || OTHER_LEAVES.contains(&leaf)
            || OTHER.iter().any(|prefix| name.starts_with(prefix))
            || (mtp.is_none() && name.starts_with("mtp."))
    };
    let mut unknown: Vec<&str> = source.names().filter(|name| !known(name)).collect();
    unknown.sort_unstable();
    match unknown.first() {
        None => Ok(()),
        Some(first) => Err(ModelError::UnusedTensors {
            family: spec.family.clone(),
            first: (*first).to_owned(),
            count: unknown.len(),
        }),
    }
}

fn add(
    layer: &Layer,
    place: Place,
    hidden: usize,
    names: &Names,
    modules: &mut HashSet<String>,
    tensors: &mut HashSet<String>,
) {
    for m in parts::matrices(layer, hidden) {
        modules.extend((0..m.copies).map(|expert| names.matrix(place, m.matrix, expert)));
    }
    tensors.extend(parts::vectors(layer, hidden).into_iter().map(|(v, _)| names.vector(place, v)));
    if matches!(layer.ffn, Ffn::Moe(_)) {
        tensors.extend(names.fused_experts(place));
    }
}
