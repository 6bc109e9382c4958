//! How many bytes of a checkpoint are in which format, from headers alone. For budgets and for the model's card.

use crate::gguf::GgufType;
use crate::outline::Outline;
use crate::{Dtype, LinearFormat};

/// Bytes by format; scales count with the codes they belong to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct FormatBytes {
    /// IEEE binary32.
    pub f32: u64,
    /// IEEE binary16.
    pub f16: u64,
    /// bfloat16.
    pub bf16: u64,
    /// FP8 codes and scales.
    pub fp8: u64,
    /// NVFP4 nibbles and scales.
    pub nvfp4: u64,
    /// Blocks of GGUF that are expanded to f16 or bf16 when they are loaded; bytes in the file.
    pub expanded: u64,
    /// Everything that is not a weight format, such as integer tables.
    pub other: u64,
}

/// The matrices of a GGUF that are expanded when they are loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expanded {
    /// Their types, as `Q4_K`.
    pub types: Vec<&'static str>,
    /// Their bytes in the file.
    pub stored: u64,
    /// Their bytes in memory.
    pub loaded: u64,
}

impl FormatBytes {
    /// Bytes of all formats together.
    pub fn total(&self) -> u64 {
        [self.f32, self.f16, self.bf16, self.fp8, self.nvfp4, self.expanded, self.other]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    fn of(&mut self, format: Option<LinearFormat>) -> &mut u64 {
        match format {
            Some(LinearFormat::F32) => &mut self.f32,
            Some(LinearFormat::F16) => &mut self.f16,
            Some(LinearFormat::Bf16) => &mut self.bf16,
            Some(LinearFormat::Fp8Tensor | LinearFormat::Fp8Row | LinearFormat::Fp8Block128) => &mut self.fp8,
            Some(LinearFormat::Nvfp4) => &mut self.nvfp4,
            None => &mut self.other,
        }
    }
}

impl Outline {
    /// What is expanded at load; None if nothing is.
    pub fn expanded(&self) -> Option<Expanded> {
        let mut sum = Expanded { types: Vec::new(), stored: 0, loaded: 0 };
        let mut kinds = std::collections::BTreeSet::new();
        for tensor in self.tensors() {
            let Dtype::Gguf(kind) = tensor.dtype else { continue };
            if kind.is_expanded() {
                kinds.insert(kind);
                sum.stored = sum.stored.saturating_add(tensor.bytes);
                sum.loaded = sum.loaded.saturating_add(tensor.loaded_bytes());
            }
        }
        sum.types = kinds.into_iter().map(GgufType::name).collect();
        (!sum.types.is_empty()).then_some(sum)
    }

    /// Bytes by format of all tensors whose name starts with `prefix` (`""` for all).
    pub fn bytes_by_format(&self, prefix: &str) -> FormatBytes {
        let mut sum = FormatBytes::default();
        for tensor in self.names_under(prefix).filter_map(|name| self.get(name)) {
            let module = [
                "weight_packed",
                "weight_global_scale",
                "weight_scale_inv",
                "weight_scale_2",
                "weight_scale",
            ]
            .iter()
            .chain(&["input_global_scale", "input_scale", "weight"])
            .find_map(|part| tensor.name.strip_suffix(part)?.strip_suffix('.'));
            let format = module.and_then(|module| self.quantized_format(module)).or(match tensor.dtype {
                Dtype::F32 => Some(LinearFormat::F32),
                Dtype::F16 => Some(LinearFormat::F16),
                Dtype::Bf16 => Some(LinearFormat::Bf16),
                Dtype::F8E4M3 => Some(LinearFormat::Fp8Tensor),
                _ => None,
            });
            let bytes = match tensor.dtype {
                Dtype::Gguf(kind) if kind.is_expanded() => &mut sum.expanded,
                Dtype::Gguf(GgufType::Nvfp4) => &mut sum.nvfp4,
                _ => sum.of(format),
            };
            *bytes = bytes.saturating_add(tensor.bytes);
        }
        sum
    }

    /// NVFP4 or FP8 if the module's weight is stored so, judged by dtypes alone.
    fn quantized_format(&self, module: &str) -> Option<LinearFormat> {
        let dtype = |suffix: &str| self.get(&format!("{module}{suffix}")).map(|tensor| tensor.dtype);
        let is_nvfp4 = dtype(".weight_packed") == Some(Dtype::U8)
            || (dtype(".weight") == Some(Dtype::U8) && dtype(".weight_scale_2").is_some());
        if is_nvfp4 {
            return Some(LinearFormat::Nvfp4);
        }
        (dtype(".weight") == Some(Dtype::F8E4M3)).then_some(LinearFormat::Fp8Tensor)
    }
}
