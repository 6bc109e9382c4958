//! Keys and values of an attention layer: in which formats they are kept and how a page lies in memory. The same bytes on
//! every backend. `cpu::kv` and `kernels/cuda/kv.cuh` write and read them.

use crate::{DType, OpError, Result, Tensor};

/// Numbers that share a scale in [`KvFormat::Nvfp4`].
const GROUP: usize = 16;

/// How a key or value is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// IEEE binary32.
    F32,
    /// bfloat16, rounded to nearest, ties to even.
    Bf16,
    /// E4M3 (OCP 8-bit floating point 1.0), rounded to nearest, ties to even; beyond +-448: +-448. No scale.
    Fp8,
    /// E2M1 numbers with one E4M3 scale per 16, see [`KvLayer`].
    Nvfp4,
}

impl KvFormat {
    /// Element type of the tensors.
    pub fn dtype(self) -> DType {
        match self {
            KvFormat::F32 => DType::F32,
            KvFormat::Bf16 => DType::Bf16,
            KvFormat::Fp8 | KvFormat::Nvfp4 => DType::U8,
        }
    }

    /// Bytes of one key or value of `head_dim` numbers.
    pub fn bytes(self, head_dim: usize) -> usize {
        self.elements(head_dim) * self.dtype().size()
    }

    /// The shape of a layer's keys, and of its values.
    pub fn shape(self, pages: usize, page_len: usize, kv_heads: usize, head_dim: usize) -> [usize; 4] {
        [pages, kv_heads, page_len, self.elements(head_dim)]
    }

    /// Elements of the tensors that hold `head_dim` numbers.
    fn elements(self, head_dim: usize) -> usize {
        match self {
            KvFormat::F32 | KvFormat::Bf16 | KvFormat::Fp8 => head_dim,
            KvFormat::Nvfp4 => head_dim / 2 + head_dim / GROUP,
        }
    }

    /// Refuses head sizes that the format cannot keep.
    pub fn check(self, op: &'static str, head_dim: usize) -> Result<()> {
        if self == KvFormat::Nvfp4 && !head_dim.is_multiple_of(GROUP) {
            return Err(OpError::shape(op, "head_dim", "a multiple of 16 for an NVFP4 cache", head_dim));
        }
        Ok(())
    }
}

/// Keys and values of one attention layer, all pages.
///
/// Each tensor is `[pages, kv_heads, page_len, elements]`: a page holds, head after head, `page_len` vectors of `head_dim`
/// numbers. F32, Bf16 and Fp8 keep one element per number. Nvfp4 keeps, of each page and head, first the codes of all its
/// positions, `[page_len, head_dim / 2]` bytes, then their scales, `[page_len, head_dim / 16]` bytes:
///
///   scale of a group of 16   s = e4m3(max|x| / 6)       rounded to nearest, ties to even; at most 448; NaN if an x is
///   code of a number         e2m1(x / s)                 likewise; at most 6 in size; 0 if s = 0
///   number i of a vector     low (i even) or high half of byte i / 2, times its group's scale
///
/// Both divisions are rounded to f32 first. A product has at most six significant bits: exact in f16, bf16 and f32.
#[derive(Debug)]
pub struct KvLayer {
    /// How the numbers are kept.
    pub format: KvFormat,
    /// Keys, normed and rotated.
    pub k: Tensor,
    /// Values, raw.
    pub v: Tensor,
}

impl KvLayer {
    /// Pages and positions per page, if both tensors are what `format` needs for such heads.
    pub(crate) fn size(&self, op: &'static str, kv_heads: usize, head_dim: usize) -> Result<(usize, usize)> {
        self.format.check(op, head_dim)?;
        let [pages, _, page_len, _] = self.k.shape[..] else {
            return Err(OpError::shape(
                op,
                "keys",
                "[pages, kv_heads, page_len, elements]",
                format!("{:?}", self.k.shape),
            ));
        };
        let shape = self.format.shape(pages, page_len, kv_heads, head_dim);
        for (what, tensor) in [("keys", &self.k), ("values", &self.v)] {
            tensor.expect_dtype(op, what, self.format.dtype())?;
            tensor.expect_shape(op, what, &shape)?;
        }
        if page_len == 0 {
            return Err(OpError::shape(op, "keys", "at least one position per page", 0));
        }
        Ok((pages, page_len))
    }
}

/// Where the number(s) of one key or value are: element offsets into its tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// First element of the vector; for Nvfp4 its first code byte.
    pub values: usize,
    /// Nvfp4: its first scale byte.
    pub scales: usize,
}

impl Place {
    /// The vector of `head` at `offset` within `page`.
    pub fn of(layer: &KvLayer, page: usize, head: usize, offset: usize, head_dim: usize) -> Place {
        let (heads, page_len, elements) = (layer.k.shape[1], layer.k.shape[2], layer.k.shape[3]);
        let start = (page * heads + head) * page_len * elements;
        match layer.format {
            KvFormat::Nvfp4 => Place {
                values: start + offset * (head_dim / 2),
                scales: start + page_len * (head_dim / 2) + offset * (head_dim / GROUP),
            },
            _ => Place { values: start + offset * elements, scales: 0 },
        }
    }
}
