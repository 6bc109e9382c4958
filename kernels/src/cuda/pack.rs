//! Repacks checkpoint matrices into the device layout (`kernels/cuda/tile.cuh` draws it). Runs once per weight, at load: the
//! numbers are copied to the device as the file has them, and `cuda/pack.cu` deals them out there.

#[cfg(all(test, feature = "emulator"))]
mod definition;

use super::Cuda;
use super::gpu::{Args, Launch, bytes_of};
use super::memory::DeviceBuffer;
use super::weight::{CudaWeight, Matrix};
use crate::cpu::pack::alike;
use crate::dequantise::{check, check_stored};
use crate::weight::{Numbers, Piece, Storage, StoredScales, StoredWeight};
use crate::{Fp8Scales, Nvfp4Global, OpError, PackedWeight, Result, Weight, WeightFormat};

/// Rows of a tile.
pub(crate) const TILE_ROWS: usize = 16;
/// Columns of a tile.
pub(crate) const TILE_COLS: usize = 64;
/// Columns that share one block scale.
const SCALE_COLS: usize = 128;
/// What an NVFP4 code comes out as on the device is 2^-14 of its number; the row scale makes up for it.
const NVFP4_UNIT: f32 = 16384.0;
/// Bytes of a matrix that lie on the device as stored at one time. A row of tiles that is longer goes alone.
const STAGE: usize = 32 << 20;
/// Threads of a block; `PACK_THREADS` in pack.cu.
const THREADS: usize = 256;

/// `struct PackArgs` in pack.cu.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct PackArgs {
    from: u64,
    scales: u64,
    tiles: u64,
    fault: u64,
    rows: u32,
    cols: u32,
    row_tiles: u32,
    k_tiles: u32,
    paired: u32,
    unused: u32,
}

// SAFETY: repr(C), 8-byte fields before 4-byte ones, an even number of those: no padding.
unsafe impl Args for PackArgs {}
const _: () = assert!(size_of::<PackArgs>() == 56);

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

/// Bytes of `cols` numbers of a row as stored, without scales.
fn row_bytes(format: WeightFormat, cols: usize) -> usize {
    match format {
        WeightFormat::F32 => 4 * cols,
        WeightFormat::F16 | WeightFormat::Bf16 => 2 * cols,
        WeightFormat::Fp8 => cols,
        WeightFormat::Nvfp4 => cols / 2,
    }
}

/// Which stacked row lies where.
struct Stack<'a> {
    parts: &'a [StoredWeight],
    rows: usize,
    /// Gate rows and as many up rows, interleaved by eights.
    paired: bool,
}

impl Stack<'_> {
    fn row_tiles(&self) -> usize {
        if self.paired { (self.rows / 2).div_ceil(8) } else { self.rows.div_ceil(TILE_ROWS) }
    }

    /// The stacked rows that tiles `first .. last` hold; paired: the gate rows among them.
    fn rows_of(&self, first: usize, last: usize) -> std::ops::Range<usize> {
        let (each, rows) = if self.paired { (8, self.rows / 2) } else { (TILE_ROWS, self.rows) };
        (first * each).min(rows)..(last * each).min(rows)
    }

    /// The pieces of parts that make the stacked rows `rows`.
    fn pieces(&self, rows: std::ops::Range<usize>) -> impl Iterator<Item = Piece> {
        let mut begin = 0;
        self.parts.iter().enumerate().filter_map(move |(part, stored)| {
            let (first, last) = (rows.start.max(begin), rows.end.min(begin + stored.rows));
            let piece =
                Piece { part, first: first - begin.min(first), rows: last - first.min(last), scales: false };
            begin += stored.rows;
            (first < last).then_some(piece)
        })
    }

    /// How many block scales the stack has: two per tile row and 128 columns if a part has any.
    fn block_scales(&self) -> usize {
        let scaled = |part: &StoredWeight| matches!(part.scales, StoredScales::Fp8(Fp8Scales::Block128(_)));
        if self.parts.iter().any(scaled) {
            self.row_tiles() * self.parts[0].cols.div_ceil(SCALE_COLS) * 2
        } else {
            0
        }
    }

    /// The part, and the row of it, that row `r` of row tile `tile` holds; None: padding.
    fn find(&self, tile: usize, r: usize) -> Option<(&StoredWeight, usize)> {
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
    parts.iter().try_for_each(check)?;
    let stored: Vec<StoredWeight> = parts.iter().map(PackedWeight::stored).collect();
    pack_stored(cuda, &stored, paired, &mut &*parts)
}

/// The same of matrices whose numbers come when they are asked for, each once, stage by stage.
pub(crate) fn pack_stored(
    cuda: &Cuda,
    parts: &[StoredWeight],
    paired: bool,
    given: &mut dyn Numbers,
) -> Result<Weight> {
    let (format, rows, cols) = alike(parts)?;
    let stack = checked(parts, rows, cols, paired)?;
    let (row, scale_row) = stored_bytes(format, cols);
    pack_from(cuda, parts, paired, &mut |Stage { rows, numbers, scales }, _| {
        let mut at = 0;
        // Paired, a stage has as many up rows as gate rows, which lie elsewhere in the stack.
        let halves = if paired {
            vec![rows.clone(), rows.start + stack.rows / 2..rows.end + stack.rows / 2]
        } else {
            vec![rows]
        };
        for piece in halves.into_iter().flat_map(|rows| stack.pieces(rows)) {
            given.give(piece, &mut |bytes| cuda.gpu.write(numbers + (at * row) as u64, bytes))?;
            if scale_row > 0 {
                let to = scales + (at * scale_row) as u64;
                given.give(Piece { scales: true, ..piece }, &mut |bytes| cuda.gpu.write(to, bytes))?;
            }
            at += piece.rows;
        }
        Ok(at)
    })
}

/// Where a stage of a stack is to lie on the device as a checkpoint would store it.
pub(super) struct Stage {
    /// Its rows; paired: its gate rows, and as many up rows belong to it.
    pub rows: std::ops::Range<usize>,
    /// Address of their numbers, row-major.
    pub numbers: u64,
    /// Address of NVFP4's scales per 16 of them.
    pub scales: u64,
}

/// Puts the numbers of a stage where it says, and returns how many rows they are.
type Fill<'a> = dyn FnMut(Stage, &Matrix) -> Result<usize> + 'a;

/// Packs a stack, stage by stage, from what `fill` puts on the device.
pub(super) fn pack_from(
    cuda: &Cuda,
    parts: &[StoredWeight],
    paired: bool,
    fill: &mut Fill<'_>,
) -> Result<Weight> {
    parts.iter().try_for_each(|part| check_stored(part).map(drop))?;
    let (format, rows, cols) = alike(parts)?;
    let stack = checked(parts, rows, cols, paired)?;
    let (row_tiles, k_tiles) = (stack.row_tiles(), cols.div_ceil(TILE_COLS));
    let bytes = k_tiles
        .checked_mul(tile_bytes(format))
        .and_then(|row| row.checked_mul(row_tiles))
        .filter(|bytes| *bytes <= isize::MAX as usize)
        .ok_or(OpError::OutOfMemory { device: cuda.gpu.device(), bytes: usize::MAX })?;
    let block_at = row_tiles * TILE_ROWS * 4;
    let scale_bytes = block_at + stack.block_scales() * 4;
    let tiles = DeviceBuffer::new(&cuda.gpu, bytes)?;
    let scales = if cuda.counts() {
        // Scales take time to find and nobody reads them.
        DeviceBuffer::new(&cuda.gpu, scale_bytes)?
    } else {
        let (rows, blocks) = (row_scales(&stack, row_tiles)?, block_scales(&stack, row_tiles, cols)?);
        let both: Vec<u8> = rows.iter().chain(&blocks).flat_map(|s| s.to_le_bytes()).collect();
        DeviceBuffer::from_host(&cuda.gpu, &both)?
    };
    let matrix = Matrix {
        tiles: tiles.address,
        row_scales: scales.address,
        block_scales: if scale_bytes == block_at { 0 } else { scales.address + block_at as u64 },
        rows: rows as u32,
        cols: cols as u32,
        row_tiles: row_tiles as u32,
        k_tiles: k_tiles as u32,
        format: format_code(format),
        paired: u32::from(paired),
    };
    deal(cuda, &stack, format, matrix, fill)?;
    let bytes = tiles.bytes + scales.bytes;
    let storage = Storage::Cuda(CudaWeight { matrix, _buffers: vec![tiles, scales] });
    Ok(Weight { rows, cols, format, bytes, storage })
}

/// The stack, if the device's layout can hold it.
fn checked(parts: &[StoredWeight], rows: usize, cols: usize, paired: bool) -> Result<Stack<'_>> {
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
    Ok(Stack { parts, rows, paired })
}

/// Bytes of a row of `cols` numbers as stored, and of its scales per 16.
fn stored_bytes(format: WeightFormat, cols: usize) -> (usize, usize) {
    (row_bytes(format, cols), if format == WeightFormat::Nvfp4 { cols / 16 } else { 0 })
}

/// Has the stack put on the device, a stage after the other, and its tiles written.
fn deal(
    cuda: &Cuda,
    stack: &Stack<'_>,
    format: WeightFormat,
    matrix: Matrix,
    fill: &mut Fill<'_>,
) -> Result<()> {
    let (cols, row_tiles) = (matrix.cols as usize, matrix.row_tiles as usize);
    let (row, scale_row) = stored_bytes(format, cols);
    let each = (STAGE / (TILE_ROWS * (row + scale_row)).max(1)).clamp(1, row_tiles.max(1));
    let codes = (each * TILE_ROWS * row).next_multiple_of(256);
    let from = cuda.working("weights as stored", codes + each * TILE_ROWS * scale_row)?;
    let fault = cuda.working("what packing found", 4)?;
    let (kernel, what) = match format {
        WeightFormat::F32 => ("pack_f32", "f32 weights"),
        WeightFormat::F16 => ("pack_f16", "f16 weights"),
        WeightFormat::Bf16 => ("pack_bf16", "bf16 weights"),
        WeightFormat::Fp8 => ("pack_fp8", "fp8 codes"),
        WeightFormat::Nvfp4 => ("pack_nvfp4", "nvfp4 scales"),
    };
    for first in (0..row_tiles).step_by(each) {
        let last = (first + each).min(row_tiles);
        let stage = Stage { rows: stack.rows_of(first, last), numbers: from, scales: from + codes as u64 };
        let rows = fill(stage, &matrix)?;
        let args = PackArgs {
            from,
            scales: from + codes as u64,
            tiles: matrix.tiles + (first * matrix.k_tiles as usize * tile_bytes(format)) as u64,
            fault,
            rows: rows as u32,
            cols: matrix.cols,
            row_tiles: (last - first) as u32,
            k_tiles: matrix.k_tiles,
            paired: matrix.paired,
            unused: 0,
        };
        let threads = (last - first) * matrix.k_tiles as usize * 32;
        let grid = [threads.div_ceil(THREADS) as u32, 1, 1];
        let launch = Launch { kernel, grid, block: THREADS as u32, shared: 0, pdl: true };
        if threads > 0 {
            cuda.gpu.launch(&launch, bytes_of(&args))?;
        }
    }
    let mut found = [0; 4];
    cuda.gpu.read(fault, &mut found)?;
    if found != [0; 4] {
        cuda.gpu.fill(fault, 0, 4)?;
        return Err(OpError::NotFinite { what, at: None });
    }
    Ok(())
}

/// What each finished row is multiplied with.
fn row_scales(stack: &Stack<'_>, row_tiles: usize) -> Result<Vec<f32>> {
    let mut scales = Vec::with_capacity(row_tiles * TILE_ROWS);
    for tile in 0..row_tiles {
        for r in 0..TILE_ROWS {
            let scale = stack.find(tile, r).map_or(1.0, |(part, row)| match &part.scales {
                StoredScales::Fp8(Fp8Scales::Tensor(scale)) => *scale,
                StoredScales::Fp8(Fp8Scales::Row(scales)) => scales[row],
                StoredScales::Nvfp4(Nvfp4Global::Divide(global)) => NVFP4_UNIT / global,
                StoredScales::Nvfp4(Nvfp4Global::Multiply(global)) => NVFP4_UNIT * global,
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
    let of = |part: &StoredWeight, row: usize, block: usize| match &part.scales {
        StoredScales::Fp8(Fp8Scales::Block128(scales)) => {
            scales[row / 128 * cols.div_ceil(SCALE_COLS) + block]
        }
        _ => 1.0,
    };
    let blocks = cols.div_ceil(SCALE_COLS);
    if stack.block_scales() == 0 {
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

#[cfg(all(test, feature = "emulator"))]
mod tests {
    use super::*;
    use crate::Values;
    use crate::cuda::emulated::EmulatorOptions;

    /// Bytes that are finite numbers in every format.
    fn finite(count: usize, seed: usize) -> Vec<u8> {
        (0..count).map(|i| ((i * 131 + seed * 29 + (i >> 6)) as u8) & 0xbb).collect()
    }

    fn device_tiles(cuda: &Cuda, weight: &Weight) -> Vec<u8> {
        let matrix = weight.tiles("test", "weight").expect("it lies on the device").matrix;
        let mut bytes =
            vec![0; matrix.row_tiles as usize * matrix.k_tiles as usize * tile_bytes(weight.format)];
        cuda.gpu.read(matrix.tiles, &mut bytes).expect("it can be read");
        bytes
    }

    #[test]
    fn the_device_deals_every_format_as_the_definition_does() {
        let cuda = Cuda::emulated(EmulatorOptions::default()).expect("the emulator opens");
        for (rows, cols) in [(16, 64), (24, 80), (50, 144), (8, 16)] {
            let bytes = finite(rows * cols * 4, rows);
            let scales = finite(rows * cols / 16, cols);
            let all = [
                Values::F32(&bytes),
                Values::F16(&bytes[..rows * cols * 2]),
                Values::Bf16(&bytes[..rows * cols * 2]),
                Values::Fp8 { codes: &bytes[..rows * cols], scales: Fp8Scales::Tensor(1.0) },
                Values::Nvfp4 {
                    nibbles: &bytes[..rows * cols / 2],
                    scales: &scales,
                    global: Nvfp4Global::Multiply(1.0),
                },
            ];
            for values in all {
                let part = PackedWeight { rows, cols, values };
                for parts in [vec![part.clone()], vec![part.clone(), part]] {
                    for paired in [false, true] {
                        let want = definition::tiles(&parts, paired).expect("a sound weight");
                        let weight = pack(&cuda, &parts, paired).expect("a sound weight");
                        let name =
                            format!("{:?} [{rows}, {cols}] x {}, {paired}", weight.format, parts.len());
                        assert!(device_tiles(&cuda, &weight) == want, "{name}");
                    }
                }
            }
        }
    }

    #[test]
    fn columns_that_no_load_of_sixteen_bytes_fits_are_dealt_too() {
        let cuda = Cuda::emulated(EmulatorOptions::default()).expect("the emulator opens");
        let (rows, cols) = (19, 77);
        let bytes = finite(rows * cols * 4, 3);
        let all = [
            Values::F32(&bytes),
            Values::Bf16(&bytes[..rows * cols * 2]),
            Values::Fp8 { codes: &bytes[..rows * cols], scales: Fp8Scales::Tensor(1.0) },
        ];
        for values in all {
            let parts = [PackedWeight { rows, cols, values }];
            let weight = pack(&cuda, &parts, false).expect("a sound weight");
            let want = definition::tiles(&parts, false).expect("a sound weight");
            assert!(device_tiles(&cuda, &weight) == want, "{:?}", weight.format);
        }
    }

    #[test]
    fn a_matrix_of_several_stages_is_packed_like_one() {
        let cuda = Cuda::emulated(EmulatorOptions { watch: false, ..EmulatorOptions::default() })
            .expect("the emulator opens");
        // Rows so long that a stage holds few.
        let (rows, cols) = (40, STAGE / 64);
        let codes = finite(rows * cols, 5);
        let parts = [PackedWeight {
            rows,
            cols,
            values: Values::Fp8 { codes: &codes, scales: Fp8Scales::Tensor(1.0) },
        }];
        for paired in [false, true] {
            let weight = pack(&cuda, &parts, paired).expect("a sound weight");
            let want = definition::tiles(&parts, paired).expect("a sound weight");
            assert!(device_tiles(&cuda, &weight) == want, "{paired}");
        }
    }

    #[test]
    fn one_number_that_is_none_is_found_wherever_it_lies_and_the_next_weight_is_packed_again() {
        let cuda = Cuda::emulated(EmulatorOptions::default()).expect("the emulator opens");
        let (rows, cols) = (20, 80);
        let sound = finite(rows * cols * 4, 1);
        fn pack_one(cuda: &Cuda, (rows, cols): (usize, usize), values: Values<'_>) -> Result<()> {
            pack(cuda, &[PackedWeight { rows, cols, values }], false).map(drop)
        }
        fn fp8(codes: &[u8]) -> Values<'_> {
            Values::Fp8 { codes, scales: Fp8Scales::Tensor(1.0) }
        }
        for at in [0, 7 * cols + 5, rows * cols - 1] {
            let with = |size: usize, number: &[u8]| {
                let mut bytes = sound[..rows * cols * size].to_vec();
                bytes[at * size..(at + 1) * size].copy_from_slice(number);
                bytes
            };
            let f32s = with(4, &f32::NAN.to_le_bytes());
            let bf16s = with(2, &half::bf16::INFINITY.to_le_bytes());
            let f16s = with(2, &half::f16::NAN.to_le_bytes());
            let codes = with(1, &[0xff]);
            let all = [Values::F32(&f32s), Values::Bf16(&bf16s), Values::F16(&f16s), fp8(&codes)];
            for values in all {
                let error = pack_one(&cuda, (rows, cols), values)
                    .expect_err("it holds what is no number")
                    .to_string();
                assert!(error.contains("NaN or infinite"), "{error}");
            }
            pack_one(&cuda, (rows, cols), fp8(&sound[..rows * cols])).expect("a sound weight");
        }
    }
}
