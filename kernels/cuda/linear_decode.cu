// Products of 1 to 16 rows with packed weights: memory-bound, so everything serves the stream of weights. One launch takes up
// to four weights of equal width (the projections of a layer), with the layer's norm before them and a residual or SwiGLU
// behind.
//
// A block of 8 warps takes units of one row tile; warp w multiplies tiles w, w + 8, ... along the columns, AHEAD of which are
// always on their way to registers (the first before the kernels before this one have ended, as weights do not change). Each
// warp stages its own columns of x, so that no barrier stands before the first product; the only one joins the eight sums of
// a unit. A row's sum has one order whatever t: within a tile the tensor core's, then tiles in order, then warps in order.
#include "linear_decode.cuh"

// This block's units of a job: every job.blocks-th row tile.
template <u32 FMT, int N, int AHEAD, bool RESIDENT>
DECODE_FN void run_job(const LinearArgs& args, const LinearJob& job, const Block& block) {
    constexpr bool BFLOAT = Tile<FMT>::BFLOAT;
    constexpr u32 STEP = WARPS * Tile<FMT>::BYTES;
    const u32 k_tiles = job.w.k_tiles, units = job.w.row_tiles, warp = block.warp, t = args.t;
    const u32 own = k_tiles > warp ? (k_tiles - warp + WARPS - 1) / WARPS : 0;
    const float* scales = reinterpret_cast<const float*>(job.w.block_scales);
    const u32 scale_blocks = (args.cols + 127) / 128;

    typename Tile<FMT>::Raw raw[AHEAD];
    float2 scale[AHEAD];
    const auto fetch = [&](int l, const u8* tile, u32 unit, u32 j) {
        load_tile<FMT>(raw[l], tile, block.lane);
        if constexpr (FMT == FP8) {
            scale[l] = make_float2(1, 1);
            if (scales) {
                const uint2 v = ld_stream8(scales + 2 * (static_cast<u64>(unit) * scale_blocks + (warp + WARPS * j) / 2));
                scale[l] = make_float2(__uint_as_float(v.x), __uint_as_float(v.y));
            }
        }
    };

    u32 unit = blockIdx.x - job.first;
    const u64 unit_bytes = static_cast<u64>(k_tiles) * Tile<FMT>::BYTES;
    // First tile of this warp in the unit whose tiles are being requested.
    const u8* row = reinterpret_cast<const u8*>(job.w.tiles) + unit * unit_bytes + warp * Tile<FMT>::BYTES;
#pragma unroll
    for (int l = 0; l < AHEAD; l++) {
        if (l < static_cast<int>(own)) fetch(l, row + l * STEP, unit, l);
    }
    pdl_wait();

    float squares = 0;
    if constexpr (RESIDENT) squares = stage<BFLOAT>(args, block, 0, own);

    u32 at[N];
    const RowTile* results[N]; // of row 4n + c; of the last for columns without a row
#pragma unroll
    for (int n = 0; n < N; n++) {
        at[n] = staged_at(t, n, block.lane);
        results[n] = block.row_tiles + min(4u * n + (block.lane & 3), t - 1);
    }
    u32 turn = 0;
#pragma unroll 1
    for (; unit < units; unit += job.blocks) {
        float acc[N][2] = {};
#pragma unroll 1
        for (u32 first = 0; first < own; first += AHEAD) {
            // What is requested while these AHEAD are multiplied: the next of the unit, or the first of the next unit.
            u32 fetch_unit = unit, fetch_first = first + AHEAD, fetch_end = own;
            if (fetch_first >= own) {
                fetch_unit += job.blocks;
                fetch_first = 0;
                row += job.blocks * unit_bytes;
                if (fetch_unit >= units) fetch_end = 0;
            }
            const u8* next = row + fetch_first * STEP;
            const auto multiply = [&](int l) {
                const u32 j = first + l, slot = RESIDENT ? j : 0;
                if constexpr (!RESIDENT) {
                    __syncwarp();
                    squares += stage<BFLOAT>(args, block, j, 1);
                }
                add_tile<FMT, N>(acc, raw[l], block, slot, at, results, FMT == FP8 ? scale[l] : make_float2(1, 1), t);
            };
            // Nearly always: all are there, and as many follow. Without a question per tile their addresses are one.
            if (RESIDENT && N == 1 && first + AHEAD <= own && fetch_first + AHEAD <= fetch_end) {
#pragma unroll
                for (int l = 0; l < AHEAD; l++) {
                    multiply(l);
                    fetch(l, next + l * STEP, fetch_unit, fetch_first + l);
                }
                continue;
            }
#pragma unroll
            for (int l = 0; l < AHEAD; l++) {
                if (first + l < own) multiply(l);
                if (fetch_first + l < fetch_end) fetch(l, next + l * STEP, fetch_unit, fetch_first + l);
            }
        }
        if (turn == 0 && args.norm && block.lane < static_cast<int>(t)) {
            block.squares[warp * MOST_ROWS + block.lane] = squares;
        }
        // Other warps each time, so that none lags behind for good.
        const int n = (warp - turn) & (WARPS - 1);
        Finish finish;
        if (n < N) finish = ask_finish(args, job, block, unit, n);
        float* sums = block.sums + (turn & 1) * (WARPS * N * 64) + warp * N * 64 + block.lane;
#pragma unroll
        for (int n = 0; n < N; n++) {
            sums[n * 64] = acc[n][0];
            sums[n * 64 + 32] = acc[n][1];
        }
        __syncthreads();
        if (n < N) write_out<N>(args, job, block, unit, turn, n, finish);
        turn++;
    }
}

// In registers ahead of the product: 64 bytes a lane, 128 for f32; DEEP: 128 to 256, for few blocks with much to do each.
template <u32 FMT, bool RESIDENT, bool DEEP> DECODE_FN constexpr int tiles_ahead() {
    if (DEEP) return FMT == NVFP4 || FMT == FP8 ? 8 : FMT == F32 ? 2 : 4;
    return !RESIDENT ? 1 : FMT == NVFP4 ? 4 : FMT == FP8 ? 2 : 1;
}

// FORMATS: which of the formats the jobs may have, one bit each.
template <u32 FORMATS, int N, bool RESIDENT, bool DEEP, bool CONVOLVES = false> DECODE_FN void decode(const LinearArgs& args, u8* shared) {
    pdl_launch();
    const Block block = block_of<N>(args, shared);
    const LinearJob& job = job_of(args);
#define RUN(FMT)                                                                                                       \
    if constexpr ((FORMATS & 1 << FMT) != 0)                                                                           \
        if (job.w.format == FMT) run_job<FMT, N, tiles_ahead<FMT, RESIDENT, DEEP>(), RESIDENT>(args, job, block);
    RUN(F32) RUN(F16) RUN(BF16) RUN(FP8) RUN(NVFP4)
#undef RUN
    if (CONVOLVES && blockIdx.x < args.jobs[0].blocks) convolve(args);
}

#define LINEAR_DECODE(name, formats, n, resident, deep, blocks)                                                         \
    KERNEL(name, WARPS * 32, blocks, LinearArgs) {                                                                     \
        DYNAMIC_SHARED(shared);                                                                                        \
        decode<formats, n, resident, deep>(args, shared);                                                              \
    }
// Up to 4, 8 and 16 rows whose columns fit into shared memory; _wide: those that do not; _deep: up to 4 rows, where a
// multiprocessor has two blocks at most.
#define LINEAR_DECODE_ROWS(name, formats, blocks_4, blocks_8)                                                          \
    LINEAR_DECODE(linear_##name##_decode_4, formats, 1, true, false, blocks_4)                                         \
    LINEAR_DECODE(linear_##name##_decode_8, formats, 2, true, false, blocks_8)                                         \
    LINEAR_DECODE(linear_##name##_decode_16, formats, 4, true, false, 2)                                               \
    LINEAR_DECODE(linear_##name##_decode_wide, formats, 4, false, false, 2)
#define LINEAR_DECODE_DEEP(name, formats) LINEAR_DECODE(linear_##name##_decode_deep, formats, 1, true, true, 2)

LINEAR_DECODE_ROWS(f32, 1 << F32, 3, 3)
LINEAR_DECODE_DEEP(f32, 1 << F32)
LINEAR_DECODE_ROWS(f16, 1 << F16, 4, 3)
LINEAR_DECODE_DEEP(f16, 1 << F16)
LINEAR_DECODE_ROWS(bf16, 1 << BF16, 4, 3)
LINEAR_DECODE_DEEP(bf16, 1 << BF16)
LINEAR_DECODE_ROWS(fp8, 1 << FP8, 4, 3)
LINEAR_DECODE_DEEP(fp8, 1 << FP8)
LINEAR_DECODE_ROWS(nvfp4, 1 << NVFP4, 3, 3)
LINEAR_DECODE_DEEP(nvfp4, 1 << NVFP4)
// Several formats in one launch, f32 not among them.
LINEAR_DECODE_ROWS(mixed, 1 << F16 | 1 << BF16 | 1 << FP8 | 1 << NVFP4, 3, 2)

// The same, and for one format as well, with the delta net's convolution behind the first weight. _deep: of 16 bits.
#define LINEAR_CONV(n, formats, groups, resident, deep, blocks)                                                        \
    KERNEL(linear_mixed_conv_##n, WARPS * 32, blocks, LinearArgs) {                                                    \
        DYNAMIC_SHARED(shared);                                                                                        \
        decode<formats, groups, resident, deep, true>(args, shared);                                                   \
    }
LINEAR_CONV(4, 1 << F16 | 1 << BF16 | 1 << FP8 | 1 << NVFP4, 1, true, false, 3)
LINEAR_CONV(8, 1 << F16 | 1 << BF16 | 1 << FP8 | 1 << NVFP4, 2, true, false, 2)
LINEAR_CONV(16, 1 << F16 | 1 << BF16 | 1 << FP8 | 1 << NVFP4, 4, true, false, 2)
LINEAR_CONV(wide, 1 << F16 | 1 << BF16 | 1 << FP8 | 1 << NVFP4, 4, false, false, 2)
LINEAR_CONV(deep, 1 << F16 | 1 << BF16, 1, true, true, 2)
