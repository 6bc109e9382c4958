//! Element types a safetensors file can hold. Only some of them are weights Hearth computes with; the others may
//! lie in a checkpoint and are counted, but never read.

use hearth_kernels::DType;

use crate::gguf::GgufType;

/// Element type of a stored tensor, named as in the safetensors format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are those of the format")]
pub enum Dtype {
    Bool,
    F4,
    F6E2M3,
    F6E3M2,
    U8,
    I8,
    F8E5M2,
    F8E4M3,
    F8E8M0,
    F8E4M3Fnuz,
    F8E5M2Fnuz,
    I16,
    U16,
    F16,
    Bf16,
    I32,
    U32,
    F32,
    C64,
    F64,
    I64,
    U64,
    /// A block type of GGUF, or an integer of it; in no safetensors file.
    Gguf(GgufType),
}

/// Every dtype of safetensors with its name in a header and its width in bits.
const ALL: [(Dtype, &str, u64); 22] = [
    (Dtype::Bool, "BOOL", 8),
    (Dtype::F4, "F4", 4),
    (Dtype::F6E2M3, "F6_E2M3", 6),
    (Dtype::F6E3M2, "F6_E3M2", 6),
    (Dtype::U8, "U8", 8),
    (Dtype::I8, "I8", 8),
    (Dtype::F8E5M2, "F8_E5M2", 8),
    (Dtype::F8E4M3, "F8_E4M3", 8),
    (Dtype::F8E8M0, "F8_E8M0", 8),
    (Dtype::F8E4M3Fnuz, "F8_E4M3FNUZ", 8),
    (Dtype::F8E5M2Fnuz, "F8_E5M2FNUZ", 8),
    (Dtype::I16, "I16", 16),
    (Dtype::U16, "U16", 16),
    (Dtype::F16, "F16", 16),
    (Dtype::Bf16, "BF16", 16),
    (Dtype::I32, "I32", 32),
    (Dtype::U32, "U32", 32),
    (Dtype::F32, "F32", 32),
    (Dtype::C64, "C64", 64),
    (Dtype::F64, "F64", 64),
    (Dtype::I64, "I64", 64),
    (Dtype::U64, "U64", 64),
];

impl Dtype {
    /// From the name in a header.
    pub fn parse(name: &str) -> Option<Dtype> {
        ALL.iter().find(|(_, n, _)| *n == name).map(|(d, _, _)| *d)
    }

    /// The name in a header.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::Gguf(kind) => kind.name(),
            _ => self.row().1,
        }
    }

    /// Width of one element in bits; of a block, its share rounded up.
    pub fn bits(self) -> u64 {
        match self {
            Dtype::Gguf(kind) => (8 * kind.bytes()).div_ceil(kind.elements()) as u64,
            _ => self.row().2,
        }
    }

    /// The dtype the kernels take directly, if this is one of the three dense float types.
    pub fn dense(self) -> Option<DType> {
        match self {
            Dtype::F32 => Some(DType::F32),
            Dtype::F16 => Some(DType::F16),
            Dtype::Bf16 => Some(DType::Bf16),
            _ => None,
        }
    }

    fn row(self) -> &'static (Dtype, &'static str, u64) {
        ALL.iter().find(|(d, _, _)| *d == self).expect("the table lists every other variant")
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_is_found_by_its_own_name() {
        for (dtype, name, bits) in ALL {
            assert_eq!(Dtype::parse(name), Some(dtype));
            assert_eq!((dtype.name(), dtype.bits()), (name, bits));
        }
        assert_eq!(Dtype::parse("BFLOAT16"), None);
    }
}
