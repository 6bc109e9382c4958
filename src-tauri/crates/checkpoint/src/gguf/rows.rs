//! Rows of a matrix as a GGUF file stores them, turned into rows that the kernels read: blocks expanded or regrouped, columns put
//! in order. Used by `Checkpoint::linear` for whole matrices and by the loader for what it reads ahead of a device.

use half::{bf16, f16};

use super::blocks::{Block, decode, nvfp4_scale};
use super::change::{Change, Numbers, Tiling};
use super::types::{GgufType, MOST_ELEMENTS};
use crate::{Dtype, LinearFormat};

/// Columns of NVFP4 that share a scale.
const NVFP4_GROUP: usize = 16;
/// Elements that are worth a thread.
const PER_THREAD: usize = 1 << 18;

/// How rows of one matrix are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredRows {
    /// Their element type.
    pub kind: GgufType,
    /// Columns, a whole number of blocks.
    pub cols: usize,
    /// What was done to them.
    pub change: Change,
}

impl StoredRows {
    /// Bytes of a row in the file.
    pub fn bytes(&self) -> usize {
        self.cols / self.kind.elements() * self.kind.bytes()
    }

    /// What a converted row is; None for types that are not converted.
    pub fn format(&self) -> Option<LinearFormat> {
        self.kind.kept()
    }

    /// Bytes of the numbers of a converted row, without scales.
    pub fn converted_bytes(&self) -> usize {
        match self.format() {
            Some(LinearFormat::F32) => 4 * self.cols,
            Some(LinearFormat::Nvfp4) => self.cols / 2,
            _ => 2 * self.cols,
        }
    }

    /// The model's rows from stored ones, appended to `out`: numbers, or for NVFP4 nibbles or, if `scales`, E4M3 scales per 16.
    /// `stored` holds whole rows in the model's order: see [`Change::runs`].
    pub fn convert(&self, stored: &[u8], scales: bool, out: &mut Vec<u8>) {
        let Some(rows) = stored.len().checked_div(self.bytes()) else { return };
        let (from, to) =
            (self.bytes(), if scales { self.cols / NVFP4_GROUP } else { self.converted_bytes() });
        let start = out.len();
        out.resize(start + rows * to, 0);
        let out = &mut out[start..];
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = threads.min(rows * self.cols / PER_THREAD).max(1);
        let each = rows.div_ceil(threads).max(1);
        let work = |stored: &[u8], out: &mut [u8]| {
            let mut numbers = Vec::new();
            for (row, out) in stored.chunks_exact(from).zip(out.chunks_exact_mut(to)) {
                if self.kind == GgufType::Nvfp4 {
                    self.regroup(row, scales, out)
                } else {
                    self.row(row, &mut numbers, out)
                }
            }
        };
        if threads == 1 {
            return work(stored, out);
        }
        std::thread::scope(|scope| {
            for (stored, out) in stored.chunks(each * from).zip(out.chunks_mut(each * to)) {
                scope.spawn(move || work(stored, out));
            }
        });
    }

    /// All rows of a matrix in the model's order, converted.
    pub(crate) fn whole(&self, stored: &[u8], scales: bool) -> Vec<u8> {
        let (row, mut out) = (self.bytes().max(1), Vec::new());
        let rows = stored.len() / row;
        let to = if scales { self.cols / NVFP4_GROUP } else { self.converted_bytes() };
        out.reserve_exact(rows * to);
        for (first, run) in self.change.runs(0, rows) {
            self.convert(&stored[first * row..][..run * row], scales, &mut out);
        }
        out
    }

    /// All numbers of a dense tensor as the model has them, and their element type: f32 where they are functions of what is stored.
    pub fn undone(&self, stored: &[u8]) -> (Dtype, Vec<u8>) {
        let numbers = self.whole(stored, false);
        let dtype = match self.kind {
            GgufType::F32 => Dtype::F32,
            GgufType::F16 => Dtype::F16,
            _ => Dtype::Bf16,
        };
        if self.change.numbers == Numbers::Same {
            return (dtype, numbers);
        }
        let two = |to_f32: fn([u8; 2]) -> f32| {
            numbers.chunks_exact(2).map(|b| to_f32([b[0], b[1]])).collect::<Vec<f32>>()
        };
        let values = match dtype {
            Dtype::F32 => {
                numbers.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            Dtype::F16 => two(|b| f16::from_le_bytes(b).to_f32()),
            _ => two(|b| bf16::from_le_bytes(b).to_f32()),
        };
        (Dtype::F32, values.into_iter().flat_map(|x| self.change.numbers.undone(x).to_le_bytes()).collect())
    }

    /// One row of anything but NVFP4.
    fn row(&self, row: &[u8], numbers: &mut Vec<u8>, out: &mut [u8]) {
        let Some(tiling) = self.change.cols else { return self.expand(row, out) };
        numbers.resize(out.len(), 0);
        self.expand(row, numbers);
        // All that is left to do is to put the columns in order, a head at a time.
        let width = out.len() / self.cols.max(1);
        for (col, bytes) in heads(self.cols, &tiling) {
            let stored = tiling.stored(col) * width;
            out[col * width..][..bytes * width].copy_from_slice(&numbers[stored..][..bytes * width]);
        }
    }

    /// The numbers of a row in its own order.
    fn expand(&self, row: &[u8], out: &mut [u8]) {
        if self.kind.elements() == 1 {
            return out.copy_from_slice(row);
        }
        let mut block: Block = [0.0; MOST_ELEMENTS];
        let elements = self.kind.elements();
        for (stored, out) in row.chunks_exact(self.kind.bytes()).zip(out.chunks_exact_mut(2 * elements)) {
            decode(self.kind, stored, &mut block);
            let two = |out: &mut [u8], bytes: fn(f32) -> [u8; 2]| {
                for (out, x) in out.chunks_exact_mut(2).zip(&block[..elements]) {
                    out.copy_from_slice(&bytes(*x));
                }
            };
            match self.format() {
                Some(LinearFormat::Bf16) => two(out, |x| bf16::from_f32(x).to_le_bytes()),
                _ => two(out, |x| f16::from_f32(x).to_le_bytes()),
            }
        }
    }

    /// One row of NVFP4: the nibbles of 16 columns lie as two halves and shall lie in pairs; scales stay as they are.
    fn regroup(&self, row: &[u8], scales: bool, out: &mut [u8]) {
        let group = |g: usize| (&row[g / 4 * 36..][..36], g % 4);
        for g in 0..self.cols / NVFP4_GROUP {
            let col = g * NVFP4_GROUP;
            let stored = self.change.cols.map_or(col, |tiling| tiling.stored(col)) / NVFP4_GROUP;
            let (block, part) = group(stored);
            if scales {
                out[g] = nvfp4_scale(block[part]);
                continue;
            }
            let halves = &block[4 + 8 * part..][..8];
            let nibble = |i: usize| if i < 8 { halves[i] & 15 } else { halves[i - 8] >> 4 };
            for (pair, byte) in out[8 * g..][..8].iter_mut().enumerate() {
                *byte = nibble(2 * pair) | nibble(2 * pair + 1) << 4;
            }
        }
    }
}

/// The model's columns in runs `(first, count)` that follow one another in the file.
fn heads(cols: usize, tiling: &Tiling) -> impl Iterator<Item = (usize, usize)> + '_ {
    let heads = (tiling.first..cols).step_by(tiling.head.max(1));
    let before = (tiling.first > 0).then_some((0, tiling.first));
    before.into_iter().chain(heads.map(|col| (col, tiling.head)))
}

/// Whether the columns of a type can be put in this order: NVFP4's only in groups of 16.
pub(crate) fn can_reorder(kind: GgufType, tiling: &Tiling) -> bool {
    kind != GgufType::Nvfp4
        || (tiling.head.is_multiple_of(NVFP4_GROUP) && tiling.first.is_multiple_of(NVFP4_GROUP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_come_in_the_models_order_whatever_their_type() {
        let tiling = Tiling { first: 0, head: 16, groups: 2, ratio: 2 };
        let change = Change { cols: Some(tiling), ..Change::default() };
        let plain: Vec<u8> = (0..64u16).flat_map(|c| f16::from_f32(f32::from(c)).to_le_bytes()).collect();
        let mut out = Vec::new();
        StoredRows { kind: GgufType::F16, cols: 64, change }.convert(&plain, false, &mut out);
        let found: Vec<f32> =
            out.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
        let wanted: Vec<f32> = (0..64).map(|c| tiling.stored(c) as f32).collect();
        assert_eq!(found, wanted);

        // The same order of NVFP4 columns that are numbered by their scales and nibbles.
        let mut block = vec![1, 2, 3, 4];
        block.extend((0..32u8).map(|i| (i % 8) | ((i % 8 + 8) << 4)));
        let (mut nibbles, mut scales) = (Vec::new(), Vec::new());
        let rows = StoredRows { kind: GgufType::Nvfp4, cols: 64, change };
        rows.convert(&block, false, &mut nibbles);
        rows.convert(&block, true, &mut scales);
        assert_eq!(scales, [1, 3, 2, 4]);
        assert_eq!(nibbles[..8], [0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe]);
    }

    #[test]
    fn many_rows_are_converted_as_one_by_one() {
        let rows = StoredRows { kind: GgufType::Q8_0, cols: 1024, change: Change::default() };
        let stored: Vec<u8> = (0..1200 * rows.bytes()).map(|i| (i * 7 % 61) as u8).collect();
        let (mut all, mut single) = (vec![9], vec![9]);
        rows.convert(&stored, false, &mut all);
        stored.chunks(rows.bytes()).for_each(|row| rows.convert(row, false, &mut single));
        assert!(all == single && all.len() == 1 + 1200 * 2048);
    }
}
