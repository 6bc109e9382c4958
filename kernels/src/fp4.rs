//! NVFP4 activations: how a row of x is rounded where prefill multiplies it with NVFP4 weights on FP4 tensor cores. This is
//! the definition; `cuda/fp4_quantise.cu` computes the same bits. Off unless asked for ([`crate::Ops::set_fp4_activations`]):
//! four bits per number change what a model answers, and no checkpoint was calibrated for it.

use crate::dequantise::{E2M1, e4m3};
use crate::narrow::to_nvfp4;

/// Numbers that share a scale.
pub const BLOCK: usize = 16;

/// A row as NVFP4: x\[i\] = e2m1(codes\[i\]) * e4m3(scales\[i / 16\]) * unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Nvfp4Row {
    /// One code (0 to 15) per number; zeros up to a multiple of 16.
    pub codes: Vec<u8>,
    /// One E4M3 code per 16, never negative or NaN.
    pub scales: Vec<u8>,
    /// A power of two for the whole row; NaN if one of its numbers is infinite or NaN.
    pub unit: f32,
}

/// The exponent bits of the power of two that brings `most` into [2^10, 2^11), at most 2^112: a sixth of it is then a scale
/// that E4M3 holds, with sixteen octaves below it, and its inverse is no subnormal even after the weight's own 2^14.
fn factor_exponent(most: f32) -> u32 {
    (264 - (most.to_bits() >> 23)).min(239)
}

/// Rounds a row: each 16 numbers to the nearest multiples (ties to even) of a scale that is a sixth of their largest, itself
/// rounded to E4M3. The row is first multiplied by a power of two, which rounds nothing.
pub fn round_row(x: &[f32]) -> Nvfp4Row {
    let blocks = x.len().div_ceil(BLOCK);
    let mut row = Nvfp4Row { codes: vec![0; blocks * BLOCK], scales: vec![0; blocks], unit: f32::NAN };
    if x.iter().any(|x| !x.is_finite()) {
        return row;
    }
    let e = factor_exponent(x.iter().fold(0.0, |most, x| most.max(x.abs())));
    let factor = f32::from_bits(e << 23);
    row.unit = f32::from_bits((254 - e) << 23);
    let blocks = x.chunks(BLOCK).zip(row.codes.chunks_exact_mut(BLOCK)).zip(&mut row.scales);
    for ((x, codes), scale) in blocks {
        let (mut numbers, mut pairs) = ([0.0; BLOCK], [0; BLOCK / 2]);
        numbers.iter_mut().zip(x).for_each(|(to, x)| *to = x * factor);
        *scale = to_nvfp4(&numbers, &mut pairs);
        for (codes, pair) in codes.chunks_exact_mut(2).zip(pairs) {
            (codes[0], codes[1]) = (pair & 15, pair >> 4);
        }
    }
    row
}

impl Nvfp4Row {
    /// The number at `i`. Exact, unless it is below f32's normal numbers.
    pub fn number(&self, i: usize) -> f32 {
        E2M1[usize::from(self.codes[i])] * e4m3(self.scales[i / BLOCK]) * self.unit
    }
}

/// Puts in place of each number what its row makes of it.
pub(crate) fn round_in_place(x: &mut [f32]) {
    let row = round_row(x);
    x.iter_mut().enumerate().for_each(|(i, x)| *x = row.number(i));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounded(x: &[f32]) -> Vec<f32> {
        let mut x = x.to_vec();
        round_in_place(&mut x);
        x
    }

    #[test]
    fn numbers_that_nvfp4_has_stay_as_they_are_at_every_size() {
        let steps = [0.0, 0.5, 1.0, -1.5, 2.0, 3.0, -4.0, 6.0];
        for size in [1.0, 1.75 / 8.0, 2f32.powi(-80), 2f32.powi(100)] {
            let x: Vec<f32> =
                (0..32).map(|i| steps[i % 8] * size * if i < 16 { 1.0 } else { 0.25 }).collect();
            assert_eq!(rounded(&x), x, "{size:e}");
        }
    }

    #[test]
    fn a_row_times_a_power_of_two_rounds_to_the_same_codes() {
        let x: Vec<f32> = (0..48).map(|i| ((i * i) as f32 * 0.37).sin()).collect();
        let row = round_row(&x);
        for power in [-60, -1, 3, 90] {
            let by = 2f32.powi(power);
            let other = round_row(&x.iter().map(|x| x * by).collect::<Vec<f32>>());
            assert_eq!((&other.codes, &other.scales), (&row.codes, &row.scales), "2^{power}");
            assert_eq!(other.unit, row.unit * by);
        }
    }

    #[test]
    fn every_number_is_off_by_at_most_a_sixth_of_the_largest_of_its_sixteen() {
        let x: Vec<f32> =
            (0..160).map(|i| ((i * 7919 % 1000) as f32 - 500.0) * (1.0 + (i / 16) as f32)).collect();
        for (x, rounded) in x.chunks(BLOCK).zip(rounded(&x).chunks(BLOCK)) {
            let most = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            for (x, y) in x.iter().zip(rounded) {
                // Half of the widest gap (4 to 6), and the scale's own rounding of 1/16.
                assert!((x - y).abs() <= most / 6.0 * (1.0 + 1.0 / 16.0), "{x} became {y}");
            }
        }
    }

    #[test]
    fn zeros_stay_zero_tails_are_whole_and_what_is_no_number_spoils_its_row() {
        assert_eq!(rounded(&[0.0; 20]), [0.0; 20]);
        assert_eq!(rounded(&[3.0, -3.0, 1.0]), [3.0, -3.0, 1.0]);
        assert_eq!(rounded(&[6e-40, 3e-40]), [0.0; 2], "too small for its row's unit");
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; 40];
            x[17] = bad;
            assert!(rounded(&x).iter().all(|x| x.is_nan()), "{bad}");
        }
    }
}
