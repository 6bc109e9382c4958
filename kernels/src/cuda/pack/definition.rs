//! What packing must write, number by number on the host: the definition that `cuda/pack.cu` is compared with.

use super::{TILE_COLS, TILE_ROWS, checked, tile_bytes};
use crate::cpu::pack::stacked;
use crate::weight::StoredWeight;
use crate::{PackedWeight, Result, Values};
use half::bf16;

/// The tiles of a stack.
pub(super) fn tiles(parts: &[PackedWeight<'_>], paired: bool) -> Result<Vec<u8>> {
    let (format, rows, cols) = stacked(parts)?;
    let stored: Vec<StoredWeight> = parts.iter().map(PackedWeight::stored).collect();
    let stack = checked(&stored, rows, cols, paired)?;
    let row_bytes = cols.div_ceil(TILE_COLS) * tile_bytes(format);
    let mut tiles = vec![0; stack.row_tiles() * row_bytes];
    for (tile, bytes) in tiles.chunks_exact_mut(row_bytes).enumerate() {
        for r in 0..TILE_ROWS {
            if let Some((part, row)) = stack.find(tile, r) {
                let part = stored.iter().position(|stored| std::ptr::eq(stored, part));
                write_row(bytes, &parts[part.expect("it is one of them")], row, r);
            }
        }
    }
    Ok(tiles)
}

/// The bits of an NVFP4 code in the word of its step: `Tile<NVFP4>::step` of tile.cuh.
const fn spread(register: usize, code: u32) -> u32 {
    let (sign, magnitude) = (code >> 3, code & 7);
    match register {
        0 => sign << 15 | magnitude << 9,
        1 => sign << 12 | magnitude << 6,
        2 => sign << 14 | magnitude << 3,
        _ => sign << 13 | magnitude,
    }
}

/// Both codes of a byte, spread: `[register][byte]`.
static SPREAD: [[u32; 256]; 4] = {
    let mut table = [[0; 256]; 4];
    let mut register = 0;
    while register < 4 {
        let mut byte = 0;
        while byte < 256 {
            let (even, odd) = (byte as u32 & 15, byte as u32 >> 4);
            table[register][byte] = spread(register, even) | spread(register, odd) << 16;
            byte += 1;
        }
        register += 1;
    }
    table
};

/// Where a pair of columns lies in its row of tiles.
struct Place {
    tile: usize,
    lane: usize,
    step: usize,
    register: usize,
}

/// The place of columns `2 * pair` and `2 * pair + 1` of row `r` of a tile.
fn place(pair: usize, r: usize) -> Place {
    let in_tile = pair % (TILE_COLS / 2);
    Place {
        tile: pair / (TILE_COLS / 2),
        lane: 4 * (r % 8) + in_tile / 8,
        step: in_tile / 2 % 4,
        register: 2 * (in_tile % 2) + r / 8,
    }
}

/// Row `row` of a part as row `r` of its row of tiles.
fn write_row(tiles: &mut [u8], part: &PackedWeight<'_>, row: usize, r: usize) {
    let cols = part.cols;
    match &part.values {
        Values::F32(bytes) => {
            for (pair, values) in bytes[row * cols * 4..(row + 1) * cols * 4].chunks(8).enumerate() {
                let at = wide_place(&place(pair, r), 4096);
                for (j, value) in values.chunks_exact(4).enumerate() {
                    let value = f32::from_le_bytes([value[0], value[1], value[2], value[3]]);
                    let high = bf16::from_f32(value);
                    let low = bf16::from_f32(value - high.to_f32());
                    tiles[at + 2 * j..][..2].copy_from_slice(&high.to_le_bytes());
                    tiles[at + 2048 + 2 * j..][..2].copy_from_slice(&low.to_le_bytes());
                }
            }
        }
        Values::F16(bytes) | Values::Bf16(bytes) => {
            for (pair, value) in bytes[row * cols * 2..(row + 1) * cols * 2].chunks(4).enumerate() {
                let at = wide_place(&place(pair, r), 2048);
                tiles[at..at + value.len()].copy_from_slice(value);
            }
        }
        Values::Fp8 { codes, .. } => {
            for (pair, value) in codes[row * cols..(row + 1) * cols].chunks(2).enumerate() {
                let p = place(pair, r);
                let at = p.tile * 1024 + p.step / 2 * 512 + p.lane * 16 + p.step % 2 * 8 + p.register * 2;
                tiles[at..at + value.len()].copy_from_slice(value);
            }
        }
        Values::Nvfp4 { nibbles, scales, .. } => {
            for (pair, byte) in nibbles[row * cols / 2..(row + 1) * cols / 2].iter().enumerate() {
                let p = place(pair, r);
                let at = p.tile * 576 + p.lane * 16 + p.step * 4;
                let word = &mut tiles[at..at + 4];
                for (to, bits) in word.iter_mut().zip(SPREAD[p.register][usize::from(*byte)].to_le_bytes()) {
                    *to |= bits;
                }
            }
            for (group, scale) in scales[row * cols / 16..(row + 1) * cols / 16].iter().enumerate() {
                let lane = 4 * (r % 8) + group % 4;
                tiles[group / 4 * 576 + 512 + 2 * lane + r / 8] = *scale;
            }
        }
    }
}

/// Byte of a pair of 16-bit numbers whose tiles are `bytes` long.
fn wide_place(p: &Place, bytes: usize) -> usize {
    p.tile * bytes + p.step * 512 + p.lane * 16 + p.register * 4
}
