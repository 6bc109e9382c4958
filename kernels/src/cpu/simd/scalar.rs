//! The inner loop in plain code: the definition, and what runs where no SIMD level was found.

use crate::cpu::weight::{BLOCK, LANES, Panel};
use std::ops::Range;

/// See `Simd::multiply`.
pub(crate) fn multiply(panel: Panel<'_>, blocks: Range<usize>, x: &[f32], totals: &mut [[f32; LANES]]) {
    let t = totals.len();
    let mut weights = [[0.0f32; LANES]; BLOCK];
    for (at, block) in blocks.enumerate() {
        for (j, row) in weights.iter_mut().enumerate() {
            for (r, w) in row.iter_mut().enumerate() {
                *w = panel.value(block, j, r);
            }
        }
        let scales: [f32; LANES] = std::array::from_fn(|r| panel.scale(block, r));
        for (i, total) in totals.iter_mut().enumerate() {
            let mut sum = [0.0f32; LANES];
            for (j, row) in weights.iter().enumerate() {
                let x = x[(at * BLOCK + j) * t + i];
                for (s, w) in sum.iter_mut().zip(row) {
                    *s += w * x;
                }
            }
            for r in 0..LANES {
                total[r] += scales[r] * sum[r];
            }
        }
    }
}
