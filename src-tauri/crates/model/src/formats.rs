//! Tells how each matrix of a model is stored: promised by `config.json` before anything is downloaded, or found in the
//! tensors of a checkpoint. `budget` sizes weights with it.

use crate::ModelError;
use crate::source::WeightSource;
use hearth_checkpoint::{LinearFormat, Outline, QuantConfig};
use hearth_kernels::Values;
use serde_json::Value;

/// Tells how each matrix is stored.
pub trait Formats {
    /// Format of the matrix `[rows, cols]` of a module (its tensor name without `.weight`).
    ///
    /// # Errors
    /// When the module is missing or its storage has no code.
    fn format(&self, module: &str, rows: usize, cols: usize) -> Result<LinearFormat, ModelError>;
}

/// The formats that `config.json` (and ModelOpt's `hf_quant_config.json`) promise.
#[derive(Debug)]
pub struct Declared {
    quantization: QuantConfig,
    dense: LinearFormat,
}

impl Declared {
    /// Reads the promise; unquantised matrices have the config's `dtype`, bf16 if it names none.
    ///
    /// # Errors
    /// A quantisation that there is no code for.
    pub fn read(config: &Value, modelopt: Option<&Value>) -> Result<Declared, ModelError> {
        let text = config.get("text_config").unwrap_or(config);
        let dtype = [text, config].iter().find_map(|c| c.get("dtype").or(c.get("torch_dtype"))?.as_str());
        let dense = match dtype {
            Some("float32") => LinearFormat::F32,
            Some("float16") => LinearFormat::F16,
            _ => LinearFormat::Bf16,
        };
        Ok(Declared { quantization: QuantConfig::read(config, modelopt)?, dense })
    }
}

impl Formats for Declared {
    fn format(&self, module: &str, _rows: usize, _cols: usize) -> Result<LinearFormat, ModelError> {
        // An embedding is a table, not a linear layer; no writer quantises it.
        if module.ends_with("embed_tokens") {
            return Ok(self.dense);
        }
        Ok(self.quantization.declared(module).unwrap_or(self.dense))
    }
}

/// The formats of a checkpoint whose headers have been read.
impl Formats for Outline {
    fn format(&self, module: &str, rows: usize, cols: usize) -> Result<LinearFormat, ModelError> {
        if let Some((tensor, rows)) = fused(module, rows, &|name| self.contains(name)) {
            return match self.slice(&tensor, 0, rows, cols)?.dtype {
                hearth_checkpoint::Dtype::F32 => Ok(LinearFormat::F32),
                hearth_checkpoint::Dtype::F16 => Ok(LinearFormat::F16),
                _ => Ok(LinearFormat::Bf16),
            };
        }
        Ok(self.linear(module, rows, cols)?.format)
    }
}

/// The formats of whatever the loader reads.
pub(crate) struct FromSource<'a>(pub &'a dyn WeightSource);

impl Formats for FromSource<'_> {
    fn format(&self, module: &str, rows: usize, cols: usize) -> Result<LinearFormat, ModelError> {
        if let Some((tensor, rows)) = fused(module, rows, &|name| self.0.contains(name)) {
            return Ok(match self.0.linear_slice(&tensor, 0, rows, cols)?.packed().values {
                Values::F32(_) => LinearFormat::F32,
                Values::F16(_) => LinearFormat::F16,
                _ => LinearFormat::Bf16,
            });
        }
        self.0.format(module, rows, cols)
    }
}

/// If the first expert's matrix lies in a fused tensor: that tensor, and the rows of one slice of it.
fn fused(module: &str, rows: usize, contains: &dyn Fn(&str) -> bool) -> Option<(String, usize)> {
    let (experts, matrix) = module.split_once(".experts.0.")?;
    let (name, rows) = if matrix == "down_proj" { ("down_proj", rows) } else { ("gate_up_proj", 2 * rows) };
    let tensor = format!("{experts}.experts.{name}");
    contains(&tensor).then_some((tensor, rows))
}
