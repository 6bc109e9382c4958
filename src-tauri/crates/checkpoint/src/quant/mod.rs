//! What the configuration says about quantization, whoever wrote it: which format each linear layer should have.
//! `outline` reads it when a checkpoint is opened, `linear` checks tensors against it, and budgets made before any
//! weight is downloaded predict formats with it.

mod compressed_tensors;
mod fp8;
mod modelopt;
mod names;

use serde_json::Value;

use crate::{CheckpointError, LinearFormat, Result};
use names::Names;

/// Who quantised a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// Nobody: full-precision floats.
    Nobody,
    /// compressed-tensors (llm-compressor).
    CompressedTensors,
    /// NVIDIA ModelOpt.
    ModelOpt,
    /// The FP8 writer of transformers: 128x128 blocks, or one scale per matrix.
    Fp8,
}

impl Writer {
    /// Its name in sentences.
    pub fn name(self) -> &'static str {
        match self {
            Writer::Nobody => "nobody",
            Writer::CompressedTensors => "compressed-tensors",
            Writer::ModelOpt => "ModelOpt",
            Writer::Fp8 => "FP8",
        }
    }
}

/// The declared format of every linear layer.
#[derive(Debug)]
pub struct QuantConfig {
    writer: Writer,
    /// Layers left in full precision; wins over everything else.
    exclude: Names<()>,
    /// Layers named one by one or by pattern.
    rules: Names<LinearFormat>,
    /// The format of all other linear layers.
    default: Option<LinearFormat>,
    formats: Vec<LinearFormat>,
}

/// The configuration under examination, for messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub file: &'a str,
}

impl Place<'_> {
    fn unknown(&self, place: &str, found: impl Into<String>, expected: &str) -> CheckpointError {
        CheckpointError::UnknownQuantization {
            file: self.file.into(),
            place: place.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    fn invalid(&self, expected: &str, found: &Value) -> CheckpointError {
        CheckpointError::InvalidJson {
            file: self.file.into(),
            expected: expected.into(),
            found: brief(found),
        }
    }

    /// The strings of a list; an absent or null list is empty.
    fn strings<'v>(&self, list: Option<&'v Value>, what: &str) -> Result<Vec<&'v str>> {
        let Some(list) = list.filter(|list| !list.is_null()) else { return Ok(Vec::new()) };
        let strings = list.as_array().and_then(|items| items.iter().map(Value::as_str).collect());
        strings.ok_or_else(|| self.invalid(&format!("a list of strings as {what}"), list))
    }
}

/// The start of a value's text, short enough for a message.
fn brief(value: &Value) -> String {
    let text: String = match value {
        Value::String(text) => text.chars().take(81).collect(),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(fields) => format!("an object of {} fields", fields.len()),
        other => other.to_string(),
    };
    if text.chars().count() > 80 { text.chars().take(80).chain(['…']).collect() } else { text }
}

impl QuantConfig {
    /// Reads `quantization_config` of a `config.json` (at the top or in `text_config`), and ModelOpt's
    /// `hf_quant_config.json` where there is one. Errors: `unknown_quantization`, `checkpoint_invalid_json`.
    pub fn read(config: &Value, hf_quant_config: Option<&Value>) -> Result<QuantConfig> {
        Self::read_at(config, "config.json", hf_quant_config, "hf_quant_config.json")
    }

    /// As `read`, with the paths of both files for messages.
    pub(crate) fn read_at(
        config: &Value,
        config_file: &str,
        hf_quant_config: Option<&Value>,
        hf_quant_file: &str,
    ) -> Result<QuantConfig> {
        let place = Place { file: config_file };
        let declared = ["quantization_config", "compression_config"].iter().find_map(|key| {
            let inner = config.get("text_config").and_then(|text| text.get(key));
            config.get(key).filter(|v| !v.is_null()).or(inner).filter(|v| !v.is_null())
        });
        let from_config = match declared {
            None => None,
            Some(quantization) if !quantization.is_object() => {
                return Err(place.invalid("an object as quantization_config", quantization));
            }
            Some(quantization) => Some(Self::by_method(place, quantization)?),
        };
        let from_modelopt = match hf_quant_config {
            None => None,
            Some(quantization) => Some(modelopt::read(Place { file: hf_quant_file }, quantization)?),
        };
        match (from_config, from_modelopt) {
            (Some(config), Some(other))
                if config.writer == Writer::ModelOpt && config.formats != other.formats =>
            {
                Err(Place { file: hf_quant_file }.unknown(
                    "beside config.json",
                    other.to_string(),
                    &format!("the same as config.json says: {config}"),
                ))
            }
            (Some(read), _) | (None, Some(read)) => Ok(read),
            (None, None) => Ok(Self::new(Writer::Nobody, Names::default(), Names::default(), None)),
        }
    }

    fn by_method(place: Place<'_>, quantization: &Value) -> Result<QuantConfig> {
        const KNOWN: &str = "compressed-tensors, modelopt or fp8";
        let method = match quantization.get("quant_method") {
            Some(Value::String(method)) => method.as_str(),
            Some(other) => return Err(place.unknown("quant_method", brief(other), KNOWN)),
            // ModelOpt's first writers put no method, only their section or algorithm.
            None if ["quantization", "quant_algo"].iter().any(|key| quantization.get(key).is_some()) => {
                "modelopt"
            }
            None if quantization.get("config_groups").is_some() => "compressed-tensors",
            None => return Err(place.unknown("quant_method", "none", KNOWN)),
        };
        match method {
            "compressed-tensors" | "compressed_tensors" => compressed_tensors::read(place, quantization),
            "modelopt" | "modelopt_fp4" | "modelopt_mixed" => modelopt::read(place, quantization),
            "fp8" => fp8::read(place, quantization),
            other => Err(place.unknown("quant_method", brief(&Value::String(other.into())), KNOWN)),
        }
    }

    fn new(
        writer: Writer,
        exclude: Names<()>,
        rules: Names<LinearFormat>,
        default: Option<LinearFormat>,
    ) -> QuantConfig {
        let mut formats: Vec<LinearFormat> = rules.values().copied().chain(default).collect();
        formats.sort();
        formats.dedup();
        QuantConfig { writer, exclude, rules, default, formats }
    }

    /// Who quantised the checkpoint.
    pub fn writer(&self) -> Writer {
        self.writer
    }

    /// Every format that some layer is declared to have, each once.
    pub fn formats(&self) -> &[LinearFormat] {
        &self.formats
    }

    /// The declared format of the linear layer `module`; `None` means full precision, as far as the configuration
    /// knows. `language_model.` may be there or not, on either side. Checkpoints do hold full-precision layers that no
    /// list mentions, so where tensors can be seen, [`crate::Outline::linear`] decides.
    pub fn declared(&self, module: &str) -> Option<LinearFormat> {
        if self.exclude.get(module).is_some() {
            return None;
        }
        self.rules.get(module).copied().or(self.default.filter(|_| names::is_linear(module)))
    }
}

impl std::fmt::Display for QuantConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.formats.is_empty() {
            return f.write_str("no quantization");
        }
        let formats: Vec<String> = self.formats.iter().map(LinearFormat::to_string).collect();
        write!(f, "{} by {}", formats.join(" and "), self.writer.name())
    }
}
