//! What llama.cpp's converter did to the tensors of a checkpoint, and how it is undone: whole heads in another order, and numbers
//! stored as something else. A family says which; `rows` and `Checkpoint` apply it, so that everything behind them sees the
//! checkpoint that the file was made of.

use half::bf16;

/// How a stored tensor differs from the one it was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// Rows are stored in another order.
    pub rows: Option<Tiling>,
    /// Columns are.
    pub cols: Option<Tiling>,
    /// The numbers are others.
    pub numbers: Numbers,
}

/// Heads in tiles instead of groups: head `v` of group `g` is head `g * ratio + v` of the model and lies at `v * groups + g` in the
/// file, where one operation repeats the groups' own heads over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    /// Rows (or columns) before the first head; they stay.
    pub first: usize,
    /// Rows of a head.
    pub head: usize,
    /// Groups.
    pub groups: usize,
    /// Heads of a group.
    pub ratio: usize,
}

/// Numbers that are stored as a function of themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Numbers {
    /// As they are.
    #[default]
    Same,
    /// x + 1: norms around zero.
    PlusOne,
    /// -exp(x): the decay of a gated delta net.
    NegatedExp,
}

impl Tiling {
    /// Rows in all.
    pub fn rows(&self) -> Option<usize> {
        self.head.checked_mul(self.groups)?.checked_mul(self.ratio)?.checked_add(self.first)
    }

    /// Where row `row` of the model lies in the file.
    pub fn stored(&self, row: usize) -> usize {
        let Some(beyond) = row.checked_sub(self.first) else { return row };
        let (head, within) = (beyond / self.head, beyond % self.head);
        let (group, v) = (head / self.ratio, head % self.ratio);
        self.first + (v * self.groups + group) * self.head + within
    }

    /// Rows from `row` on that follow one another in the file, at most `most`.
    fn run(&self, row: usize, most: usize) -> usize {
        let whole = match row.checked_sub(self.first) {
            None => self.first - row,
            Some(beyond) => self.head - beyond % self.head,
        };
        whole.min(most)
    }
}

impl Change {
    /// None if nothing changes.
    pub fn some(self) -> Option<Change> {
        (self != Change::default()).then_some(self)
    }

    /// The stored rows that are the model's rows `first .. first + rows`, as runs `(stored row, rows)`.
    pub fn runs(&self, first: usize, rows: usize) -> impl Iterator<Item = (usize, usize)> {
        let (tiling, mut at, end) = (self.rows, first, first + rows);
        std::iter::from_fn(move || {
            let left = end.checked_sub(at).filter(|left| *left > 0)?;
            let (stored, run) = tiling.map_or((at, left), |t| (t.stored(at), t.run(at, left)));
            at += run;
            Some((stored, run))
        })
    }
}

impl Numbers {
    /// The number that is stored as `x`.
    pub fn undone(self, x: f32) -> f32 {
        match self {
            Numbers::Same => x,
            // Adding one again gives the stored number exactly, whatever the sum had lost.
            Numbers::PlusOne => x - 1.0,
            Numbers::NegatedExp => logarithm(-x),
        }
    }
}

/// The roundest number whose exponential is `x`: first of 8 significant bits, as bf16 has, then of all that f32 has. What was
/// stored in bf16 so comes back as it was; -inf and NaN of what is no exponential are refused by whoever loads them.
fn logarithm(x: f32) -> f32 {
    let exact = f64::from(x).ln();
    let round = bf16::from_f64(exact).to_f32();
    if f64::from(round).exp() as f32 == x { round } else { exact as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_the_groups_transposed_and_the_rows_before_them_stay() {
        let tiling = Tiling { first: 3, head: 2, groups: 2, ratio: 3 };
        // Heads of the model in the order of the file: g0v0 g1v0 g0v1 g1v1 g0v2 g1v2.
        let stored: Vec<usize> = (0..tiling.rows().unwrap()).map(|row| tiling.stored(row)).collect();
        assert_eq!(stored, [0, 1, 2, 3, 4, 7, 8, 11, 12, 5, 6, 9, 10, 13, 14]);
        let change = Change { rows: Some(tiling), ..Change::default() };
        for (first, rows) in [(0, 15), (1, 3), (4, 6), (14, 1), (5, 0)] {
            let runs: Vec<usize> = change.runs(first, rows).flat_map(|(at, n)| at..at + n).collect();
            assert_eq!(runs, stored[first..first + rows], "{first} {rows}");
        }
    }

    #[test]
    fn numbers_come_back_as_the_kernels_need_them() {
        for x in [-1.5f32, -0.99, -0.3, -1e-3, 0.0, 3e-7, 0.4, 0.9, 7.25, 300.0] {
            assert_eq!(1.0 + Numbers::PlusOne.undone(1.0 + x), 1.0 + x, "{x}");
        }
        for x in [-7.0f32, -2.546875, -0.01, 0.0, 0.0625, 0.69, 1.2, 2.75, 4.5] {
            let x = bf16::from_f32(x).to_f32();
            assert_eq!(Numbers::NegatedExp.undone(-x.exp()), x);
        }
        let odd = 1.234_567_8_f32;
        let back = Numbers::NegatedExp.undone(-f64::from(odd).exp() as f32);
        assert!((back - odd).abs() <= 2.0 * f32::EPSILON, "{back}");
    }
}
