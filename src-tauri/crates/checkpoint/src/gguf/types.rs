//! Element types of a GGUF file: their numbers in its header, their blocks, and what becomes of them at load. The layouts
//! themselves are in `blocks`.

use crate::LinearFormat;

/// Element type of a tensor in a GGUF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are those of the format")]
pub enum GgufType {
    F32,
    F16,
    Bf16,
    F64,
    I8,
    I16,
    I32,
    I64,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
    Iq1S,
    Iq1M,
    Iq2Xxs,
    Iq2Xs,
    Iq2S,
    Iq3Xxs,
    Iq3S,
    Iq4Nl,
    Iq4Xs,
    Tq1_0,
    Tq2_0,
    Mxfp4,
    Nvfp4,
}

use GgufType as T;

/// Every type: its number in a header, its name, elements of a block, bytes of a block.
const ALL: [(GgufType, u32, &str, usize, usize); 33] = [
    (T::F32, 0, "F32", 1, 4),
    (T::F16, 1, "F16", 1, 2),
    (T::Q4_0, 2, "Q4_0", 32, 18),
    (T::Q4_1, 3, "Q4_1", 32, 20),
    (T::Q5_0, 6, "Q5_0", 32, 22),
    (T::Q5_1, 7, "Q5_1", 32, 24),
    (T::Q8_0, 8, "Q8_0", 32, 34),
    (T::Q8_1, 9, "Q8_1", 32, 36),
    (T::Q2K, 10, "Q2_K", 256, 84),
    (T::Q3K, 11, "Q3_K", 256, 110),
    (T::Q4K, 12, "Q4_K", 256, 144),
    (T::Q5K, 13, "Q5_K", 256, 176),
    (T::Q6K, 14, "Q6_K", 256, 210),
    (T::Q8K, 15, "Q8_K", 256, 292),
    (T::Iq2Xxs, 16, "IQ2_XXS", 256, 66),
    (T::Iq2Xs, 17, "IQ2_XS", 256, 74),
    (T::Iq3Xxs, 18, "IQ3_XXS", 256, 98),
    (T::Iq1S, 19, "IQ1_S", 256, 50),
    (T::Iq4Nl, 20, "IQ4_NL", 32, 18),
    (T::Iq3S, 21, "IQ3_S", 256, 110),
    (T::Iq2S, 22, "IQ2_S", 256, 82),
    (T::Iq4Xs, 23, "IQ4_XS", 256, 136),
    (T::I8, 24, "I8", 1, 1),
    (T::I16, 25, "I16", 1, 2),
    (T::I32, 26, "I32", 1, 4),
    (T::I64, 27, "I64", 1, 8),
    (T::F64, 28, "F64", 1, 8),
    (T::Iq1M, 29, "IQ1_M", 256, 56),
    (T::Bf16, 30, "BF16", 1, 2),
    (T::Tq1_0, 34, "TQ1_0", 256, 54),
    (T::Tq2_0, 35, "TQ2_0", 256, 66),
    (T::Mxfp4, 39, "MXFP4", 32, 17),
    (T::Nvfp4, 40, "NVFP4", 64, 36),
];

/// Most elements of a block.
pub(crate) const MOST_ELEMENTS: usize = 256;

impl GgufType {
    /// From the number in a header.
    pub fn of(number: u32) -> Option<GgufType> {
        ALL.iter().find(|row| row.1 == number).map(|row| row.0)
    }

    /// The name that everybody writes, such as `Q4_K`.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// Elements of a block; a row holds whole blocks.
    pub fn elements(self) -> usize {
        self.row().3
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        self.row().4
    }

    /// What a matrix of this type is in memory; None if Hearth does not compute with it.
    ///
    /// The kernels read f32, f16, bf16 and NVFP4 as they are. The others are expanded: to bf16 where that is exact (MXFP4, whose
    /// numbers are a sign and a bit and a half times a power of two), and else to f16, whose 11 bits keep a stored number to
    /// within 0.05 %, where bf16 would keep it to 0.4 %.
    pub fn kept(self) -> Option<LinearFormat> {
        match self {
            T::F32 => Some(LinearFormat::F32),
            T::F16 => Some(LinearFormat::F16),
            T::Bf16 | T::Mxfp4 => Some(LinearFormat::Bf16),
            T::Nvfp4 => Some(LinearFormat::Nvfp4),
            T::Q4_0 | T::Q4_1 | T::Q5_0 | T::Q5_1 | T::Q8_0 => Some(LinearFormat::F16),
            T::Q2K | T::Q3K | T::Q4K | T::Q5K | T::Q6K | T::Iq4Nl | T::Iq4Xs => Some(LinearFormat::F16),
            _ => None,
        }
    }

    /// Whether a matrix of this type takes more memory than room in its file.
    pub fn is_expanded(self) -> bool {
        self.elements() > 1 && self != T::Nvfp4 && self.kept().is_some()
    }

    /// The names of all types that [`GgufType::kept`] knows, for messages.
    pub fn known() -> String {
        let known = ALL.iter().filter(|row| row.0.kept().is_some()).map(|row| row.2);
        known.collect::<Vec<_>>().join(", ")
    }

    fn row(self) -> &'static (GgufType, u32, &'static str, usize, usize) {
        ALL.iter().find(|row| row.0 == self).expect("the table lists every variant")
    }
}

impl std::fmt::Display for GgufType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_found_by_its_own_number_and_its_blocks_are_small() {
        for (kind, number, name, elements, bytes) in ALL {
            assert_eq!(GgufType::of(number), Some(kind));
            assert_eq!((kind.name(), kind.elements(), kind.bytes()), (name, elements, bytes));
            assert!(elements <= MOST_ELEMENTS && bytes <= 8 * elements);
        }
        assert_eq!(GgufType::of(4), None, "Q4_2 was withdrawn");
    }
}
