//! Repacks checkpoint matrices into the device layout (`kernels/cuda/tile.cuh` draws it) on the host and copies them to the
//! device. Runs once per weight, at load.

use super::Cuda;
use super::memory::DeviceBuffer;
use super::weight::{CudaWeight, Matrix};
use crate::weight::Storage;
use crate::{
    Fp8Scales, Nvfp4Global, OpError, PackedWeight, Result, Values, Weight, WeightFormat, cpu::pack::stacked,
};
use half::bf16;

/// Rows of a tile.
pub(crate) const TILE_ROWS: usize = 16;
/// Columns of a tile.
pub(crate) const TILE_COLS: usize = 64;
/// Columns that share one block scale.
const SCALE_COLS: usize = 128;
/// What an NVFP4 code comes out as on the device is 2^-14 of its number; the row scale makes up for it.
const NVFP4_UNIT: f32 = 16384.0;
/// Bytes below which a second thread costs more than it saves.
const THREAD_BYTES: usize = 1 << 20;

/// A packed matrix in host memory, before it is copied.
#[derive(Debug)]
pub(crate) struct HostTiles {
    format: WeightFormat,
    rows: usize,
    cols: usize,
    row_tiles: usize,
    k_tiles: usize,
    paired: bool,
    tiles: Vec<u8>,
    row_scales: Vec<f32>,
    block_scales: Vec<f32>,
}

/// Bytes of a tile.
pub(crate) fn tile_bytes(format: WeightFormat) -> usize {
    match format {
        WeightFormat::F32 => 4096,
        WeightFormat::F16 | WeightFormat::Bf16 => 2048,
        WeightFormat::Fp8 => 1024,
        WeightFormat::Nvfp4 => 576,
    }
}

/// The number by which kernels know a format.
pub(crate) fn format_code(format: WeightFormat) -> u32 {
    match format {
        WeightFormat::F32 => 0,
        WeightFormat::F16 => 1,
        WeightFormat::Bf16 => 2,
        WeightFormat::Fp8 => 3,
        WeightFormat::Nvfp4 => 4,
    }
}

/// Which stacked row lies where.
struct Stack<'a> {
    parts: &'a [PackedWeight<'a>],
    rows: usize,
    /// Gate rows and as many up rows, interleaved by eights.
    paired: bool,
}

impl Stack<'_> {
    fn row_tiles(&self) -> usize {
        if self.paired { (self.rows / 2).div_ceil(8) } else { self.rows.div_ceil(TILE_ROWS) }
    }

    /// The part, and the row of it, that row `r` of row tile `tile` holds; None: padding.
    fn find(&self, tile: usize, r: usize) -> Option<(&PackedWeight<'_>, usize)> {
        let mut row = if self.paired {
            let (inter, i) = (self.rows / 2, tile * 8 + r % 8);
            (i < inter).then_some(r / 8 * inter + i)?
        } else {
            tile * TILE_ROWS + r
        };
        for part in self.parts {
            if row < part.rows {
                return Some((part, row));
            }
            row -= part.rows;
        }
        None
    }
}

/// Stacks `parts` by rows into one weight on the device. `paired`: they are gate rows followed by as many up rows.
pub(crate) fn pack(cuda: &Cuda, parts: &[PackedWeight<'_>], paired: bool) -> Result<Weight> {
    let host = tiles(parts, paired)?;
    let bytes_of = |scales: &[f32]| -> Vec<u8> { scales.iter().flat_map(|s| s.to_le_bytes()).collect() };
    let tiles = DeviceBuffer::from_host(&cuda.gpu, &host.tiles)?;
    let mut scales = bytes_of(&host.row_scales);
    let block_at = scales.len() as u64;
    scales.extend(bytes_of(&host.block_scales));
    let scales = DeviceBuffer::from_host(&cuda.gpu, &scales)?;
    let matrix = Matrix {
        tiles: tiles.address,
        row_scales: scales.address,
        block_scales: if host.block_scales.is_empty() { 0 } else { scales.address + block_at },
        rows: host.rows as u32,
        cols: host.cols as u32,
        row_tiles: host.row_tiles as u32,
        k_tiles: host.k_tiles as u32,
        format: format_code(host.format),
        paired: u32::from(host.paired),
    };
    let bytes = tiles.bytes + scales.bytes;
    let storage = Storage::Cuda(CudaWeight { matrix, _buffers: vec![tiles, scales] });
    Ok(Weight { rows: host.rows, cols: host.cols, format: host.format, bytes, storage })
}

/// The packing itself.
pub(crate) fn tiles(parts: &[PackedWeight<'_>], paired: bool) -> Result<HostTiles> {
    let (format, rows, cols) = stacked(parts)?;
    if u32::try_from(rows.div_ceil(8) * 16).is_err() || u32::try_from(cols).is_err() {
        return Err(OpError::shape(
            "pack",
            "weight",
            "fewer than 2^31 rows and columns",
            format!("[{rows}, {cols}]"),
        ));
    }
    if paired && !rows.is_multiple_of(2) {
        return Err(OpError::shape("pack", "gate and up rows", "equally many", format!("{rows} together")));
    }
    let stack = Stack { parts, rows, paired };
    let (row_tiles, k_tiles) = (stack.row_tiles(), cols.div_ceil(TILE_COLS));
    let bytes = k_tiles.checked_mul(tile_bytes(format)).and_then(|row| row.checked_mul(row_tiles));
    let bytes = bytes.filter(|b| *b <= isize::MAX as usize);
    let mut tiles = Vec::new();
    bytes
        .and_then(|bytes| tiles.try_reserve_exact(bytes).ok().map(|()| tiles.resize(bytes, 0)))
        .ok_or(OpError::OutOfMemory { device: "cpu", bytes: bytes.unwrap_or(usize::MAX) })?;
    let row_scales = row_scales(&stack, row_tiles)?;
    let block_scales = block_scales(&stack, row_tiles, cols)?;
    write_tiles(&stack, &mut tiles, k_tiles * tile_bytes(format));
    Ok(HostTiles { format, rows, cols, row_tiles, k_tiles, paired, tiles, row_scales, block_scales })
}

/// Fills the tiles, on several threads if they are many.
fn write_tiles(stack: &Stack<'_>, tiles: &mut [u8], row_bytes: usize) {
    let write = |first: usize, tiles: &mut [u8]| {
        for (i, tiles) in tiles.chunks_exact_mut(row_bytes).enumerate() {
            for r in 0..TILE_ROWS {
                if let Some((part, row)) = stack.find(first + i, r) {
                    write_row(tiles, part, row, r);
                }
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = (tiles.len() / THREAD_BYTES).clamp(1, cores);
    if threads == 1 {
        return write(0, tiles);
    }
    let share = (tiles.len() / row_bytes).div_ceil(threads);
    std::thread::scope(|scope| {
        for (i, tiles) in tiles.chunks_mut(share * row_bytes).enumerate() {
            scope.spawn(move || write(i * share, tiles));
        }
    });
}

/// What each finished row is multiplied with.
fn row_scales(stack: &Stack<'_>, row_tiles: usize) -> Result<Vec<f32>> {
    let mut scales = Vec::with_capacity(row_tiles * TILE_ROWS);
    for tile in 0..row_tiles {
        for r in 0..TILE_ROWS {
            let scale = stack.find(tile, r).map_or(1.0, |(part, row)| match &part.values {
                Values::Fp8 { scales: Fp8Scales::Tensor(scale), .. } => *scale,
                Values::Fp8 { scales: Fp8Scales::Row(scales), .. } => scales[row],
                Values::Nvfp4 { global: Nvfp4Global::Divide(global), .. } => NVFP4_UNIT / global,
                Values::Nvfp4 { global: Nvfp4Global::Multiply(global), .. } => NVFP4_UNIT * global,
                _ => 1.0,
            });
            if !scale.is_finite() {
                return Err(OpError::shape("pack", "scale of a row", "a finite number", scale));
            }
            scales.push(scale);
        }
    }
    Ok(scales)
}

/// Block scales of the upper and lower eight rows of each tile; empty if no part has them.
fn block_scales(stack: &Stack<'_>, row_tiles: usize, cols: usize) -> Result<Vec<f32>> {
    let of = |part: &PackedWeight<'_>, row: usize, block: usize| match &part.values {
        Values::Fp8 { scales: Fp8Scales::Block128(scales), .. } => {
            scales[row / 128 * cols.div_ceil(SCALE_COLS) + block]
        }
        _ => 1.0,
    };
    let blocks = cols.div_ceil(SCALE_COLS);
    let scaled =
        |part: &PackedWeight<'_>| matches!(part.values, Values::Fp8 { scales: Fp8Scales::Block128(_), .. });
    if !stack.parts.iter().any(scaled) {
        return Ok(Vec::new());
    }
    let mut scales = Vec::with_capacity(row_tiles * blocks * 2);
    for tile in 0..row_tiles {
        for block in 0..blocks {
            for half in 0..2 {
                let mut rows = (0..8).filter_map(|r| stack.find(tile, half * 8 + r));
                let scale = rows.next().map_or(1.0, |(part, row)| of(part, row, block));
                if !scale.is_finite() {
                    return Err(OpError::shape("pack", "fp8 block scales", "finite numbers", scale));
                }
                if let Some((part, row)) = rows.find(|(part, row)| of(part, *row, block) != scale) {
                    return Err(OpError::shape(
                        "pack",
                        "fp8 block scales",
                        "the same for each eight rows of the stack (parts of a multiple of 8 rows)",
                        format!("{scale} and {} (row {row} of its part)", of(part, row, block)),
                    ));
                }
                scales.push(scale);
            }
        }
    }
    Ok(scales)
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
