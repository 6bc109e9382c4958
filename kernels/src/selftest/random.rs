//! Random numbers, tensors and packed matrices for the self-test, the same for the same seed on every backend.

use crate::ops::{Norm, Pass, Segment};
use crate::splitmix::{STEP, SplitMix64};
use crate::{DType, Fp8Scales, Nvfp4Global, Ops, PackedWeight, Result, Tensor, Values, Weight, WeightFormat};

/// A stream of numbers.
pub(super) struct Random(SplitMix64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(SplitMix64(seed.wrapping_mul(STEP)))
    }

    pub fn next(&mut self) -> u64 {
        self.0.next()
    }

    /// Uniform in -1 .. 1.
    pub fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    /// An f32 tensor of such numbers.
    pub fn tensor(&mut self, ops: &dyn Ops, shape: &[usize]) -> Result<Tensor> {
        let count = shape.iter().product::<usize>();
        let bytes: Vec<u8> = (0..count).flat_map(|_| self.float().to_le_bytes()).collect();
        ops.upload(DType::F32, &bytes, DType::F32, shape)
    }

    /// Such numbers, each sixteen of them of another size: 2^-4 to 2^3.
    pub fn uneven(&mut self, ops: &dyn Ops, shape: &[usize]) -> Result<Tensor> {
        let mut bytes = Vec::new();
        let mut size = 1.0;
        for i in 0..shape.iter().product::<usize>() {
            if i % 16 == 0 {
                size = 2f32.powi((self.next() % 8) as i32 - 4);
            }
            bytes.extend((self.float() * size).to_le_bytes());
        }
        ops.upload(DType::F32, &bytes, DType::F32, shape)
    }

    /// A norm over `width` with a zero-centred (`offset` 1) or plain (0) weight near one.
    pub fn norm(&mut self, ops: &dyn Ops, width: usize, offset: f32) -> Result<Norm> {
        let bytes: Vec<u8> =
            (0..width).flat_map(|_| (1.0 - offset + 0.2 * self.float()).to_le_bytes()).collect();
        let weight = ops.upload(DType::F32, &bytes, DType::F32, &[width])?;
        Ok(Norm { weight, eps: 1e-6, offset })
    }

    /// A packed matrix with results of a size near one; `paired`: gate rows and up rows.
    pub fn weight(
        &mut self,
        ops: &dyn Ops,
        format: WeightFormat,
        rows: usize,
        cols: usize,
        paired: bool,
    ) -> Result<Weight> {
        let count = rows * cols;
        let unit = (cols as f32).powf(-0.5);
        let mut bytes = |n: usize, mask: u8, set: u8| -> Vec<u8> {
            (0..n).map(|_| (self.next() as u8 & mask) | set).collect()
        };
        // Codes whose exponent stays below its largest value: never NaN.
        let (codes, scales) = match format {
            WeightFormat::Nvfp4 => (bytes(count / 2, 0xff, 0), bytes(count / 16, 0x07, 0x38)),
            WeightFormat::Fp8 => (bytes(count, 0xbf, 0), Vec::new()),
            _ => (Vec::new(), Vec::new()),
        };
        let dense: Vec<f32> = match format {
            WeightFormat::Nvfp4 | WeightFormat::Fp8 => Vec::new(),
            _ => (0..count).map(|_| self.float() * 2.0 * unit).collect(),
        };
        let wide: Vec<u8> = match format {
            WeightFormat::F32 => dense.iter().flat_map(|x| x.to_le_bytes()).collect(),
            WeightFormat::F16 => dense.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
            _ => dense.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
        };
        let blocks = rows.div_ceil(128) * cols.div_ceil(128);
        let values = match format {
            WeightFormat::F32 => Values::F32(&wide),
            WeightFormat::F16 => Values::F16(&wide),
            WeightFormat::Bf16 => Values::Bf16(&wide),
            WeightFormat::Fp8 => Values::Fp8 {
                codes: &codes,
                scales: Fp8Scales::Block128((0..blocks).map(|i| unit * (1.0 + i as f32 / 64.0)).collect()),
            },
            WeightFormat::Nvfp4 => {
                Values::Nvfp4 { nibbles: &codes, scales: &scales, global: Nvfp4Global::Multiply(unit / 4.2) }
            }
        };
        let part = [PackedWeight { rows, cols, values }];
        if paired { ops.pack_gate_up(&part) } else { ops.pack(&part) }
    }
}

/// An output full of NaN: what an op leaves out shows.
pub(super) fn poisoned(ops: &dyn Ops, shape: &[usize]) -> Result<Tensor> {
    let count = shape.iter().product::<usize>();
    let bytes: Vec<u8> = (0..count).flat_map(|_| f32::NAN.to_le_bytes()).collect();
    ops.upload(DType::F32, &bytes, DType::F32, shape)
}

/// `rows` rows of one sequence in slot 0 from `position` on, its pages in reverse order.
pub(super) fn pass(rows: usize, position: usize, page_len: usize) -> Pass {
    let pages = (position + rows).div_ceil(page_len) as u32;
    let segment = Segment {
        slot: 0,
        first_row: 0,
        rows,
        position,
        pages: (0..pages).rev().collect(),
        snapshots: Vec::new(),
    };
    Pass { segments: vec![segment], exact: false }
}
