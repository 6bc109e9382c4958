//! What a load that fails, or goes another way than asked, says to a person. Used by `load`.

use hearth_checkpoint::{CheckpointError, Expanded, Outline};
use hearth_kernels::OpError;
use hearth_model::ModelError;

use crate::{device_fault, status::Fault};

/// What is said of weights that take more memory than room in their file, if there are any.
pub(crate) fn expanded(outline: &Outline) -> Option<Fault> {
    let Expanded { types, stored, loaded } = outline.expanded()?;
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let text = format!(
        "The weights stored as {} are expanded to 16 bits at load: {:.1} GiB in the file, {:.1} GiB in memory, and a token reads as much more.",
        types.join(", "),
        gib(stored),
        gib(loaded)
    );
    let fault = Fault::new("gguf_expanded", text, "A safetensors copy in NVFP4 or FP8 stays packed.");
    Some(fault.with("types", types).with("stored", stored).with("loaded", loaded))
}

/// A notice that the machine's GPU is not used, with the reason that opening it gave.
pub(crate) fn gpu_not_used(error: &OpError) -> Fault {
    let (reason, remedy) = match error {
        OpError::Unavailable { reason, remedy, .. } => (reason.clone(), *remedy),
        other => (other.to_string(), "Free some of the GPU's memory and start the model again."),
    };
    Fault::new(
        "gpu_not_used",
        format!("Models run on the CPU, since the GPU cannot be used: {reason}."),
        remedy,
    )
    .with("reason", reason)
    .with("remedy", remedy)
}

/// A device that does not open.
pub(crate) fn not_opened(error: OpError) -> Fault {
    match error {
        OpError::Unavailable { reason, remedy, .. } => {
            let fault = Fault::new("device_unavailable", as_sentence(&reason), remedy);
            fault.with("reason", reason).with("remedy", remedy)
        }
        _ => Fault::new("device_failed", sentence(&error), "Free some memory and try again.")
            .with("reason", error.to_string()),
    }
}

/// A checkpoint that cannot be read.
pub(crate) fn checkpoint_fault(error: CheckpointError) -> Fault {
    Fault::new(error.code(), sentence(&error), error.next_step())
        .with_fields(&error)
        .with_evidence(error.file())
}

/// A model that cannot be loaded; what the device says of it goes first.
pub(crate) fn model_fault(error: ModelError) -> Fault {
    if let Some(fault) = error.device_fault().and_then(device_fault::fault) {
        return fault;
    }
    let fault = Fault::new(error.code(), sentence(&error), error.next_step()).with_fields(&error);
    match error.evidence() {
        Some(evidence) => fault.with_evidence(evidence),
        None => fault,
    }
}

/// The error's text with a capital and a full stop; a name of a file or a tensor stays as it is.
pub(crate) fn sentence(error: &dyn std::error::Error) -> String {
    as_sentence(&error.to_string())
}

fn as_sentence(text: &str) -> String {
    let text = text.trim_end_matches('.');
    if text.split([' ', ':']).next().is_some_and(|word| word.contains(['.', '_', '/'])) {
        return format!("{text}.");
    }
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", chars.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_begins_with_a_capital_unless_it_begins_with_a_name() {
        assert_eq!(as_sentence("the model needs 5 MiB"), "The model needs 5 MiB.");
        assert_eq!(as_sentence("model.layers.0.mlp.gate: no number."), "model.layers.0.mlp.gate: no number.");
        assert_eq!(as_sentence("config.json: no type"), "config.json: no type.");
    }
}
