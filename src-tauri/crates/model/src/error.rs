//! What can go wrong between a folder and its logits. The engine turns these into faults, the CLI prints them.

use hearth_checkpoint::CheckpointError;
use hearth_kernels::{MemoryPlan, OpError};
use serde::{Serialize, Serializer};
use serde_json::json;

/// A model that could not be described, sized, loaded or run.
#[derive(Debug, thiserror::Error, Serialize)]
#[serde(untagged)]
pub enum ModelError {
    /// No family adapter for this `model_type`.
    #[error("config.json: model_type `{found}` is not supported; known: {known}")]
    UnknownFamily {
        /// The `model_type` found, or `(none)`.
        found: String,
        /// The ones that are known, comma separated.
        known: String,
    },
    /// No family adapter for the architecture of a GGUF file.
    #[error("{file}: the GGUF architecture `{found}` is not supported; known: {known}")]
    UnknownArchitecture {
        /// The file.
        file: String,
        /// Its `general.architecture`, or `(none)`.
        found: String,
        /// The ones that are known, comma separated.
        known: String,
    },
    /// A key of a GGUF file's metadata is missing or has a value no model can have.
    #[error("{file}: {key} should be {expected}, found {found}")]
    Metadata {
        /// The file.
        file: String,
        /// The key.
        key: String,
        /// What it must hold.
        expected: String,
        /// What it holds.
        found: String,
    },
    /// A field of `config.json` is missing or has a value no model can have.
    #[error("config.json: {field} should be {expected}, found {found}")]
    Config {
        /// Dotted path of the field.
        field: String,
        /// What the field must hold.
        expected: String,
        /// What it holds.
        found: String,
    },
    /// A valid model with a feature that there is no code for.
    #[error("{feature} is not supported: {found}")]
    Unsupported {
        /// The feature.
        feature: String,
        /// What the model asks for.
        found: String,
    },
    /// A file of a checkpoint that is being written could not be.
    #[error("{path} could not be written: {reason}")]
    Save {
        /// The file.
        path: String,
        /// What the operating system says.
        reason: String,
    },
    /// A tensor or file of the checkpoint is missing, damaged or of the wrong shape.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Tensors that no part of the model reads: the folder holds a variant with other arithmetic.
    #[error("{count} tensors are not part of a {family} model, the first is `{first}`")]
    UnusedTensors {
        /// `model_type` of the spec.
        family: String,
        /// Name of the first one in alphabetical order.
        first: String,
        /// How many.
        count: usize,
    },
    /// The planned memory is larger than the limit given.
    #[error(
        "the model needs {} MiB, and {} MiB are free for it",
        plan.total() >> 20,
        available.saturating_sub(plan.reserve) >> 20
    )]
    DoesNotFit {
        /// Every use of the memory.
        #[serde(serialize_with = "as_sums")]
        plan: Box<MemoryPlan>,
        /// Bytes that were free, the reserve included.
        available: u64,
    },
    /// A load option that cannot be honoured.
    #[error("{option} should be {expected}, found {found}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// The allowed values.
        expected: String,
        /// The value given.
        found: String,
    },
    /// A pass that the loaded model cannot run: too many rows, an unknown slot, page or id.
    #[error("pass: {what} should be {expected}, found {found}")]
    Pass {
        /// The argument at fault.
        what: &'static str,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The MTP head was asked for and the model has none, or it was not loaded.
    #[error("this model has no MTP head loaded")]
    NoMtp,
    /// An op refused or failed.
    #[error("{place}: {}", brief(source))]
    Op {
        /// Module or layer where it happened.
        place: String,
        /// The op's own error.
        #[serde(serialize_with = "as_brief")]
        source: OpError,
    },
}

impl ModelError {
    /// Stable code for machines.
    pub fn code(&self) -> &'static str {
        match self {
            ModelError::UnknownFamily { .. } => "model_family_unknown",
            ModelError::UnknownArchitecture { .. } => "gguf_architecture_unknown",
            ModelError::Config { .. } | ModelError::Metadata { .. } => "model_config_invalid",
            ModelError::Unsupported { .. } => "model_feature_unsupported",
            ModelError::Save { .. } => "checkpoint_not_written",
            ModelError::Checkpoint(e) => e.code(),
            ModelError::UnusedTensors { .. } => "checkpoint_tensors_unused",
            ModelError::DoesNotFit { .. } => "model_does_not_fit",
            ModelError::Option { .. } => "model_option_invalid",
            ModelError::Pass { .. } => "pass_invalid",
            ModelError::NoMtp => "model_has_no_mtp",
            ModelError::Op { source: OpError::OutOfMemory { .. }, .. } => "out_of_memory",
            ModelError::Op { source: OpError::Plan { .. }, .. } => "memory_plan_failed",
            ModelError::Op { source: OpError::NotFinite { .. }, .. } => "tensor_not_finite",
            ModelError::Op { source: OpError::File { .. }, .. } => "checkpoint_unreadable",
            ModelError::Op { source: OpError::Device { .. }, .. } => "device_fault",
            ModelError::Op { .. } => "op_failed",
        }
    }

    /// What belongs to the error and is too long for its sentence: the memory plan, line by line.
    pub fn evidence(&self) -> Option<String> {
        match self {
            ModelError::DoesNotFit { plan, available } => {
                Some(plan.table(&[("available", *available)]).trim_start_matches('\n').to_owned())
            }
            ModelError::Op { source: OpError::Plan { table, .. }, .. } => {
                Some(table.trim_start_matches('\n').to_owned())
            }
            _ => None,
        }
    }

    /// The fault of the device behind it. No other call to the device can succeed then.
    pub fn device_fault(&self) -> Option<&OpError> {
        match self {
            ModelError::Op { source: source @ OpError::Device { .. }, .. } => Some(source),
            _ => None,
        }
    }

    /// What a person can do about it.
    pub fn next_step(&self) -> &'static str {
        match self {
            ModelError::UnknownFamily { .. } | ModelError::Unsupported { .. } => {
                "Choose a model of a supported family, or update Hearth."
            }
            ModelError::UnknownArchitecture { .. } => {
                "Choose a GGUF of Qwen3.5 or Qwen3.6, or a model of a supported family as safetensors."
            }
            ModelError::Save { .. } => {
                "Choose a folder that can be written, on a disk with room for the model."
            }
            ModelError::Checkpoint(e) => e.next_step(),
            ModelError::Config { .. } | ModelError::Metadata { .. } => {
                "Download the model again; if it persists, the checkpoint itself is damaged."
            }
            ModelError::UnusedTensors { .. } => {
                "Choose another quantisation of this model; this one would give wrong answers."
            }
            ModelError::DoesNotFit { .. } | ModelError::Op { source: OpError::OutOfMemory { .. }, .. } => {
                "Lower the context or the number of requests, or choose a smaller model."
            }
            ModelError::Op { source: OpError::Plan { .. }, .. } => {
                "Close other programs that use this memory, or lower the context or the number of requests."
            }
            ModelError::Op { source: OpError::NotFinite { .. } | OpError::File { .. }, .. } => {
                "Download the model again; if it persists, choose another copy of it."
            }
            ModelError::Op { source: OpError::Device { .. }, .. } => {
                "Start the engine again; if it happens twice, run `hearth selftest` and look at the kernel's log."
            }
            ModelError::Option { .. } => "Change the option to an allowed value.",
            ModelError::Pass { .. } => "This is a fault in Hearth; please report it with the log.",
            ModelError::NoMtp => "Run without MTP, or choose a model whose folder has `mtp.*` tensors.",
            ModelError::Op { .. } => "Restart the model; if it persists, report it with the log.",
        }
    }
}

fn as_brief<S: Serializer>(source: &OpError, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&brief(source))
}

/// What a plan needs and what it leaves to the host, bytes.
fn as_sums<S: Serializer>(plan: &MemoryPlan, to: S) -> Result<S::Ok, S::Error> {
    json!({ "needed": plan.total(), "reserve": plan.reserve }).serialize(to)
}

/// The op's error without a table, which is evidence.
fn brief(source: &OpError) -> String {
    match source {
        OpError::Plan { device, reason, .. } => format!("{device}: {reason}"),
        other => other.to_string(),
    }
}

/// Names the place of a failed op; the text is made only if there is an error.
pub(crate) fn at(place: impl std::fmt::Display) -> impl FnOnce(OpError) -> ModelError {
    move |source| ModelError::Op { place: place.to_string(), source }
}
