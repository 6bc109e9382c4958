//! Finds out how a linear layer is stored from which tensors are there, checks every dtype and shape, and hands out
//! the packed matrix. The configuration is only asked whether it agrees: writers forget modules in their lists, but a
//! tensor cannot be anything other than what it is. Called by `Checkpoint` and, without data, by budgets.

use crate::gguf::GgufType;
use crate::outline::{Outline, TensorOutline};
use crate::{CheckpointError, Dtype, LinearFormat, Result};

/// The tensors of one linear layer, checked, without their data.
#[derive(Debug, Clone, Copy)]
pub struct Linear<'a> {
    /// How it is stored.
    pub format: LinearFormat,
    /// Numbers, codes or nibbles.
    pub weight: TensorOutline<'a>,
    /// The scales, if quantised.
    pub scale: Option<TensorOutline<'a>>,
    /// NVFP4's scale of the whole matrix.
    pub global: Option<Global<'a>>,
}

/// The scale of a whole NVFP4 matrix, in the direction its writer chose.
#[derive(Debug, Clone, Copy)]
pub enum Global<'a> {
    /// compressed-tensors `weight_global_scale`, a divisor.
    Divide(TensorOutline<'a>),
    /// ModelOpt `weight_scale_2`, a multiplier.
    Multiply(TensorOutline<'a>),
}

impl<'a> Global<'a> {
    /// The tensor that holds it.
    pub fn tensor(&self) -> TensorOutline<'a> {
        match self {
            Global::Divide(tensor) | Global::Multiply(tensor) => *tensor,
        }
    }
}

impl Linear<'_> {
    /// Bytes of the matrix and its scales in the file.
    pub fn bytes(&self) -> u64 {
        let scales = self.scale.iter().map(|t| t.bytes).chain(self.global.iter().map(|g| g.tensor().bytes));
        scales.fold(self.weight.bytes, u64::saturating_add)
    }
}

/// Tensors beside a weight that mean a format Hearth does not read.
const FOREIGN: [(&str, &str); 9] = [
    (".qweight", "GPTQ or AWQ int4 (qweight)"),
    (".weight_zero_point", "integers with zero points (weight_zero_point)"),
    (".weight_shape", "packed integers (weight_shape)"),
    (".weight_g_idx", "packed integers with group indices (weight_g_idx)"),
    (".pre_quant_scale", "AWQ-scaled NVFP4 (pre_quant_scale)"),
    (".weight_bitmask", "sparse weights (weight_bitmask)"),
    (".weight_blocks", "MXFP4 (weight_blocks)"),
    (".absmax", "bitsandbytes (absmax)"),
    (".weight.absmax", "bitsandbytes (weight.absmax)"),
];

impl Outline {
    /// How the linear layer `module` (`"lm_head"`, `"model.layers.0.mlp.experts.3.gate_proj"`) of `rows` output and
    /// `cols` input features is stored. Every dtype and shape is checked; no data is touched.
    pub fn linear(&self, module: &str, rows: usize, cols: usize) -> Result<Linear<'_>> {
        let part = |suffix: &str| self.get(&format!("{module}{suffix}"));
        if let Some((suffix, found)) = FOREIGN.iter().find(|(suffix, _)| part(suffix).is_some()) {
            let file = part(suffix).map_or(String::new(), |tensor| tensor.file.to_owned());
            return Err(self.unknown(file, module, found));
        }
        let linear = match (part(".weight_packed"), part(".weight")) {
            (Some(packed), Some(weight)) => {
                let found = format!("as {}", packed.name);
                return Err(CheckpointError::DoubledTensor {
                    file: weight.file.into(),
                    tensor: weight.name.into(),
                    found,
                });
            }
            (None, None) => {
                let expected = format!("{module}.weight or {module}.weight_packed");
                return Err(self.missing(module, &expected, "neither"));
            }
            (Some(packed), None) => self.nvfp4(module, packed, rows, cols)?,
            (None, Some(weight)) => match weight.dtype {
                Dtype::U8 => self.nvfp4(module, weight, rows, cols)?,
                Dtype::F8E4M3 => self.fp8(module, weight, rows, cols)?,
                // No configuration says anything about the types of a GGUF.
                Dtype::Gguf(kind) => return self.gguf(module, weight, kind, rows, cols),
                _ => {
                    let format = dense_format(weight)?;
                    shape(weight, &[rows, cols])?;
                    Linear { format, weight, scale: None, global: None }
                }
            },
        };
        self.agrees(module, &linear)?;
        Ok(linear)
    }

    /// One `[rows, cols]` matrix of a dense tensor `name` `[count, rows, cols]`; checks that `index` lies in it.
    pub fn slice(&self, name: &str, index: usize, rows: usize, cols: usize) -> Result<TensorOutline<'_>> {
        let tensor = self.tensor(name)?;
        dense_format(tensor)?;
        match tensor.shape {
            &[count, r, c] if index < count && (r, c) == (rows, cols) => Ok(tensor),
            found => Err(CheckpointError::WrongShape {
                file: tensor.file.into(),
                tensor: name.into(),
                expected: format!("[more than {index}, {rows}, {cols}]"),
                found: format!("{found:?}"),
            }),
        }
    }

    /// A bf16, f16 or f32 tensor of exactly this shape.
    pub fn dense(&self, name: &str, expected: &[usize]) -> Result<TensorOutline<'_>> {
        let tensor = self.tensor(name)?;
        dense_format(tensor)?;
        shape(tensor, expected)?;
        Ok(tensor)
    }

    fn nvfp4<'a>(
        &'a self,
        module: &str,
        weight: TensorOutline<'a>,
        rows: usize,
        cols: usize,
    ) -> Result<Linear<'a>> {
        let part = |suffix: &str| self.get(&format!("{module}{suffix}"));
        if weight.dtype != Dtype::U8 {
            return Err(self.unknown(
                weight.file.into(),
                module,
                &format!("{} packed in weight_packed", weight.dtype),
            ));
        }
        let global = match (part(".weight_global_scale"), part(".weight_scale_2")) {
            (Some(divisor), None) => Global::Divide(divisor),
            (None, Some(multiplier)) => Global::Multiply(multiplier),
            (Some(divisor), Some(_)) => {
                return Err(CheckpointError::DoubledTensor {
                    file: divisor.file.into(),
                    tensor: divisor.name.into(),
                    found: "as weight_scale_2".into(),
                });
            }
            (None, None) => {
                let name = format!("{module}.weight_global_scale");
                let expected = "the scale of an NVFP4 matrix (weight_global_scale or weight_scale_2)";
                return Err(self.missing(&name, expected, "u8 weights without one"));
            }
        };
        let scale = self.scale_of(module, ".weight_scale")?;
        dtype(scale, &[Dtype::F8E4M3])?;
        dtype(global.tensor(), &[Dtype::F32])?;
        if !cols.is_multiple_of(16) {
            return Err(CheckpointError::WrongShape {
                file: weight.file.into(),
                tensor: weight.name.into(),
                expected: "a width that is a multiple of 16".into(),
                found: cols.to_string(),
            });
        }
        shape(weight, &[rows, cols / 2])?;
        shape(scale, &[rows, cols / 16])?;
        if !is_scalar(global.tensor().shape) {
            shape(global.tensor(), &[1])?;
        }
        Ok(Linear { format: LinearFormat::Nvfp4, weight, scale: Some(scale), global: Some(global) })
    }

    fn gguf<'a>(
        &'a self,
        module: &str,
        weight: TensorOutline<'a>,
        kind: GgufType,
        rows: usize,
        cols: usize,
    ) -> Result<Linear<'a>> {
        let Some(format) = kind.kept() else {
            return Err(CheckpointError::UnsupportedGgufType {
                file: weight.file.into(),
                tensor: weight.name.into(),
                expected: GgufType::known(),
                found: kind.name().into(),
            });
        };
        shape(weight, &[rows, cols])?;
        // Of types that have blocks, only NVFP4 has a scale beside them; without one it is 1.
        let global = self.get(&format!("{module}.weight_scale_2")).filter(|_| kind == GgufType::Nvfp4);
        if let Some(global) = global {
            dtype(global, &[Dtype::F32])?;
            if !is_scalar(global.shape) {
                shape(global, &[1])?;
            }
        }
        Ok(Linear { format, weight, scale: None, global: global.map(Global::Multiply) })
    }

    fn fp8<'a>(
        &'a self,
        module: &str,
        weight: TensorOutline<'a>,
        rows: usize,
        cols: usize,
    ) -> Result<Linear<'a>> {
        let suffix = if self.contains(&format!("{module}.weight_scale_inv")) { "_inv" } else { "" };
        let scale = self.scale_of(module, &format!(".weight_scale{suffix}"))?;
        if suffix == "_inv" && self.contains(&format!("{module}.weight_scale")) {
            return Err(CheckpointError::DoubledTensor {
                file: scale.file.into(),
                tensor: scale.name.into(),
                found: "as weight_scale".into(),
            });
        }
        dtype(scale, &[Dtype::F32, Dtype::Bf16, Dtype::F16])?;
        shape(weight, &[rows, cols])?;
        let blocks = (rows.div_ceil(128), cols.div_ceil(128));
        let format = match *scale.shape {
            [] | [1] | [1, 1] => LinearFormat::Fp8Tensor,
            [r] | [r, 1] if r == rows => LinearFormat::Fp8Row,
            [r, c] | [r, 1, c, 1] if (r, c) == blocks => LinearFormat::Fp8Block128,
            _ => {
                return Err(CheckpointError::WrongShape {
                    file: scale.file.into(),
                    tensor: scale.name.into(),
                    expected: format!("[], [{rows}, 1] or [{}, {}]", blocks.0, blocks.1),
                    found: format!("{:?}", scale.shape),
                });
            }
        };
        Ok(Linear { format, weight, scale: Some(scale), global: None })
    }

    fn scale_of(&self, module: &str, suffix: &str) -> Result<TensorOutline<'_>> {
        let name = format!("{module}{suffix}");
        self.get(&name).ok_or_else(|| self.missing(&name, "the scales of its weight", "none"))
    }

    /// Refuses a quantised layer in a format that the configuration excludes.
    fn agrees(&self, module: &str, linear: &Linear<'_>) -> Result<()> {
        if !linear.format.is_quantized() {
            return Ok(());
        }
        let found = linear.format.weight_format();
        let named = self.quantization.declared(module);
        let fits = match named {
            Some(format) => format.weight_format() == found,
            None => self.quantization.formats().iter().any(|format| format.weight_format() == found),
        };
        if fits {
            return Ok(());
        }
        let expected = match named {
            Some(format) => format.to_string(),
            None => self.quantization.to_string(),
        };
        Err(CheckpointError::QuantizationMismatch {
            file: linear.weight.file.into(),
            tensor: linear.weight.name.into(),
            expected,
            found: linear.format.to_string(),
        })
    }

    fn unknown(&self, file: String, module: &str, found: &str) -> CheckpointError {
        CheckpointError::UnknownQuantization {
            file,
            place: module.into(),
            expected: "bf16, f16, f32, FP8 or NVFP4 tensors".into(),
            found: found.into(),
        }
    }
}

/// The dense format of a tensor. Error: `tensor_wrong_dtype`.
pub(crate) fn dense_format(tensor: TensorOutline<'_>) -> Result<LinearFormat> {
    match tensor.dtype {
        Dtype::F32 => Ok(LinearFormat::F32),
        Dtype::F16 => Ok(LinearFormat::F16),
        Dtype::Bf16 => Ok(LinearFormat::Bf16),
        found => Err(CheckpointError::WrongDtype {
            file: tensor.file.into(),
            tensor: tensor.name.into(),
            expected: "BF16, F16 or F32".into(),
            found: found.name().into(),
        }),
    }
}

/// Error: `tensor_wrong_shape`.
pub(crate) fn shape(tensor: TensorOutline<'_>, expected: &[usize]) -> Result<()> {
    if tensor.shape == expected {
        return Ok(());
    }
    Err(CheckpointError::WrongShape {
        file: tensor.file.into(),
        tensor: tensor.name.into(),
        expected: format!("{expected:?}"),
        found: format!("{:?}", tensor.shape),
    })
}

fn dtype(tensor: TensorOutline<'_>, expected: &[Dtype]) -> Result<()> {
    if expected.contains(&tensor.dtype) {
        return Ok(());
    }
    let names: Vec<&str> = expected.iter().map(|dtype| dtype.name()).collect();
    Err(CheckpointError::WrongDtype {
        file: tensor.file.into(),
        tensor: tensor.name.into(),
        expected: names.join(" or "),
        found: tensor.dtype.name().into(),
    })
}

fn is_scalar(shape: &[usize]) -> bool {
    shape.iter().all(|&d| d == 1)
}
