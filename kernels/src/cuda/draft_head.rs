//! Launchers of draft_head.cu: a head for drafts made of the model's own without leaving the device, and its logits among all.

use super::Cuda;
use super::gpu::{Args, Launch, bytes_of};
use super::linear::rows_at;
use super::pack::{Stage, format_code, pack_from};
use super::weight::Matrix;
use crate::cpu::draft_head::check;
use crate::weight::{StoredScales, StoredWeight};
use crate::{DType, Fp8Scales, Nvfp4Global, Result, Tensor, Weight, WeightFormat};

/// Threads of a block; `THREADS` in draft_head.cu.
const THREADS: u32 = 256;

/// `struct DraftRows` in draft_head.cu.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RowArgs {
    head: Matrix,
    ids: u64,
    numbers: u64,
    scales: u64,
    row_scales: u64,
    target: u32,
    kept: u32,
}

/// `struct SpreadLogits` in draft_head.cu.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct SpreadArgs {
    x: u64,
    place: u64,
    out: u64,
    vocab: u32,
    kept: u32,
}

// SAFETY: repr(C); 8-byte fields before an even number of 4-byte ones: no padding.
unsafe impl Args for RowArgs {}
unsafe impl Args for SpreadArgs {}
const _: () = assert!(size_of::<RowArgs>() == 88 && size_of::<SpreadArgs>() == 32);

/// The op `draft_head`: rows are decoded and rounded in the form in which a checkpoint has them, stage by stage, and packed
/// from there.
pub(crate) fn draft_head(cuda: &Cuda, head: &Weight, ids: &[u32], format: WeightFormat) -> Result<Weight> {
    const OP: &str = "draft_head";
    check(OP, head, ids, format)?;
    let matrix = head.tiles(OP, "head")?.matrix;
    let (rows, cols) = (ids.len(), head.cols);
    let scales = match format {
        WeightFormat::Fp8 => StoredScales::Fp8(Fp8Scales::Tensor(1.0)),
        WeightFormat::Nvfp4 => StoredScales::Nvfp4(Nvfp4Global::Multiply(1.0)),
        _ => StoredScales::None,
    };
    let kept = u32::from(format == head.format && matrix.block_scales == 0);
    pack_from(cuda, &[StoredWeight { rows, cols, format, scales }], false, &mut |stage, packed| {
        let Stage { rows, numbers, scales } = stage;
        let ids: Vec<u8> = ids[rows.clone()].iter().flat_map(|id| id.to_le_bytes()).collect();
        let staged = cuda.working("rows of the draft head", ids.len())?;
        cuda.gpu.write(staged, &ids)?;
        let row_scales = packed.row_scales + 4 * rows.start as u64;
        let args = RowArgs {
            head: matrix,
            ids: staged,
            numbers,
            scales,
            row_scales,
            target: format_code(format),
            kept,
        };
        let grid = [rows.len() as u32, 1, 1];
        let launch = Launch { kernel: "draft_head_rows", grid, block: THREADS, shared: 0, pdl: true };
        cuda.gpu.launch(&launch, bytes_of(&args))?;
        Ok(rows.len())
    })
}

/// The op `spread_logits`.
pub(crate) fn spread(cuda: &Cuda, t: usize, x: &Tensor, place: &Tensor, out: &mut Tensor) -> Result<()> {
    const OP: &str = "spread_logits";
    let (kept, vocab) = (x.width(), out.width());
    place.expect_dtype(OP, "place", DType::U32)?;
    place.expect_shape(OP, "place", &[vocab])?;
    let args = SpreadArgs {
        x: rows_at(OP, "x", x, t, kept)?,
        place: place.address(OP, "place")?,
        out: rows_at(OP, "out", out, t, vocab)?,
        vocab: vocab as u32,
        kept: kept as u32,
    };
    if t == 0 || vocab == 0 {
        return Ok(());
    }
    let grid = [t as u32, (vocab as u32).div_ceil(THREADS), 1];
    let launch = Launch { kernel: "draft_head_spread", grid, block: THREADS, shared: 0, pdl: true };
    cuda.gpu.launch(&launch, bytes_of(&args))
}
