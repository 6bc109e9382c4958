// Products of 1 to 16 rows with packed weights: memory-bound, so everything serves the stream of weights. One launch takes up
// to four weights of equal width (the projections of a layer), with the layer's norm before them and a residual or SwiGLU
// behind.
//
// A block of 8 warps takes units of one row tile; warp w multiplies tiles w, w + 8, ... along the columns, AHEAD of which are
// always on their way to registers (the first before the kernels before this one have ended, as weights do not change). Each
// warp stages its own columns of x, so that no barrier stands before the first product; the only one joins the eight sums of
// a unit. A row's sum has one order whatever t: within a tile the tensor core's, then tiles in order, then warps in order.
#include "activation.cuh"
#include "gdn.cuh"
#include "linear.cuh"

struct LinearJob {
    Matrix w;
    u64 out;       // f32 [t, stride]
    u32 stride;    // of out, elements
    u32 epilogue;  // SWIGLU: of a paired weight
    u32 first;     // its first block
    u32 blocks;    // and how many work on it
};

struct LinearArgs {
    LinearJob jobs[4];
    u64 x;              // f32 [t, cols]
    u64 norm;           // f32 [cols] or 0: y = x * rsqrt(mean(x^2) + eps) * (norm + offset) is multiplied instead of x
    float eps, offset;
    u32 t, cols, job_count;
    u32 slots;          // staged tiles per warp: all it multiplies, or 1: staged again for each
    // Of the kernels linear_mixed_conv_*: the first weight's outputs go through the causal convolution of width 4 over each
    // sequence's rows and SiLU, as gdn_conv.cu has it.
    const Pass* pass;
    const float* conv;  // [rows of w, 4]
    float* conv_state;  // [slots, 3, rows of w]
};
static_assert(sizeof(LinearJob) == 72 && sizeof(LinearArgs) == 352, "as in linear.rs");

#define DECODE_FN static __device__ __forceinline__

constexpr int WARPS = 8;
constexpr u32 MOST_ROWS = 16;

// Shared memory, in this order: sums of two units in turn [2][WARPS][N][2][32] f32; sums of squares [WARPS][16] f32; of each
// warp the RowTiles [slots][t] and staged tiles [slots][256 t].
template <int N> DECODE_FN constexpr u32 sums_bytes() { return 2 * WARPS * N * 2 * 32 * 4; }

struct Block {
    float* sums;
    float* squares;
    RowTile* row_tiles; // of this warp
    u8* staged;         // of this warp
    int warp, lane;
};

// Stages this warp's tiles `first_tile ..` (count of them) into slots 0 .., all rows, and gives lane i the squares of row i
// to add.
template <bool BFLOAT> DECODE_FN float stage(const LinearArgs& args, const Block& block, u32 first_tile, u32 count) {
    const u32 t = args.t, pairs = count * t;
    const float* norm = reinterpret_cast<const float*>(args.norm);
#pragma unroll 1
    for (u32 first = 0; first < pairs; first += 4) {
        const u32 pair = first + (block.lane >> 3), slot = pair / t, i = pair - slot * t;
        const float* row = pair < pairs ? reinterpret_cast<const float*>(args.x) + static_cast<u64>(i) * args.cols : nullptr;
        stage_row<BFLOAT, 8>(block.staged + slot * STAGED_ROW * t, block.row_tiles + pair, t, i, row, args.cols,
                             block.warp + WARPS * (first_tile + slot), norm, args.offset, block.lane);
    }
    __syncwarp();
    float squares = 0;
    if (norm && block.lane < static_cast<int>(t)) {
#pragma unroll 1
        for (u32 slot = 0; slot < count; slot++) squares += block.row_tiles[slot * t + block.lane].squares;
    }
    return squares;
}

// What the outputs of a lane need besides the sums, asked for before the barrier that joins those.
struct Finish {
    float scale[2];  // of the rows g and g + 8
    float before[2]; // what is there, where it is added to
};

DECODE_FN Finish ask_finish(const LinearArgs& args, const LinearJob& job, const Block& block, u32 unit, int n) {
    Finish finish = {};
    const int g = block.lane >> 2;
    const u32 i = 4 * n + (block.lane & 3);
    if (i >= args.t) return finish;
    const float* row_scales = reinterpret_cast<const float*>(job.w.row_scales) + 16 * unit + g;
    finish.scale[0] = row_scales[0], finish.scale[1] = row_scales[8];
    if (job.epilogue != ADD) return finish;
    const float* out = reinterpret_cast<const float*>(job.out) + static_cast<u64>(i) * job.stride;
    const u32 inter = job.w.rows / 2, feature = job.w.paired ? 8 * unit + g : 16 * unit + g;
    const u32 end = job.w.paired ? inter : job.w.rows, other = job.w.paired ? inter : 8;
    if (feature < end) finish.before[0] = out[feature];
    if (job.w.paired ? feature < end : feature + 8 < end) finish.before[1] = out[feature + other];
    return finish;
}

// Adds up the warps' sums of a unit and writes its outputs of column group n: lane 4g + c, row 4n + c, features g, g + 8.
template <int N>
DECODE_FN void write_out(const LinearArgs& args, const LinearJob& job, const Block& block, u32 unit, u32 turn, int n,
                         const Finish& finish) {
    const int g = block.lane >> 2;
    const u32 i = 4 * n + (block.lane & 3);
    if (i >= args.t) return;
    const float* sums = block.sums + (turn & 1) * (WARPS * N * 64) + n * 64 + block.lane;
    float low = 0, high = 0, scale = 1;
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
        low += sums[w * N * 64];
        high += sums[w * N * 64 + 32];
    }
    if (args.norm) {
        float squares = 0;
#pragma unroll
        for (int w = 0; w < WARPS; w++) squares += block.squares[w * MOST_ROWS + i];
        scale = rsqrtf(squares / args.cols + args.eps);
    }
    low *= finish.scale[0] * scale;
    high *= finish.scale[1] * scale;
    float* out = reinterpret_cast<float*>(job.out) + static_cast<u64>(i) * job.stride;
    const u32 inter = job.w.rows / 2;
    const u32 feature = job.w.paired ? 8 * unit + g : 16 * unit + g;
    if (job.epilogue == SWIGLU) {
        if (feature < inter) out[feature] = low / (1.0f + expf(-low)) * high;
        return;
    }
    const u32 end = job.w.paired ? inter : job.w.rows, other = job.w.paired ? inter : 8;
    if (feature < end) out[feature] = job.epilogue == ADD ? finish.before[0] + low : low;
    if (job.w.paired ? feature < end : feature + 8 < end) {
        out[feature + other] = job.epilogue == ADD ? finish.before[1] + high : high;
    }
}

// Rows of a sequence that a thread of `convolve` asks for at once.
constexpr u32 CONV_AHEAD = 4;

// Convolves what this block has stored of the first weight, in place: a thread has a feature of a sequence, so that the
// sequences of a pass wait for memory beside each other. At the very end, when no tile waits in registers any more.
static __device__ __noinline__ void convolve(const LinearArgs& args) {
    const LinearJob& job = args.jobs[0];
    __syncthreads();
    const Pass& pass = *args.pass;
    const u32 channels = job.w.rows, mine = blockIdx.x - job.first;
    const u32 features = 16 * ((job.w.row_tiles - mine + job.blocks - 1) / job.blocks), pairs = features * pass.segments;
    const u64 slot_size = 3 * static_cast<u64>(channels);
#pragma unroll 1
    for (u32 at = threadIdx.x; at < pairs; at += WARPS * 32) {
        const u32 s = at / features, feature = at - s * features, channel = 16 * (mine + feature / 16 * job.blocks) + feature % 16;
        if (channel >= channels) continue;
        const float4 taps = four_at(args.conv + 4 * static_cast<u64>(channel));
        const u32 first = pass.seg_first[s], rows = pass.seg_rows[s];
        float* state = args.conv_state + pass.seg_slot[s] * slot_size + channel;
        float* out = reinterpret_cast<float*>(job.out) + static_cast<u64>(first) * job.stride + channel;
        const bool empty = pass.seg_position[s] == 0, snapshots = pass.snapshots[first] != NO_SNAPSHOT;
        float past[3];
#pragma unroll
        for (u32 j = 0; j < 3; j++) past[j] = empty ? 0.0f : state[j * channels];
#pragma unroll 1
        for (u32 begin = 0; begin < rows; begin += CONV_AHEAD, out += CONV_AHEAD * job.stride) {
            float raw[CONV_AHEAD];
#pragma unroll
            for (u32 i = 0; i < CONV_AHEAD; i++) raw[i] = begin + i < rows ? out[i * job.stride] : 0.0f;
#pragma unroll
            for (u32 i = 0; i < CONV_AHEAD; i++) {
                if (begin + i >= rows) break;
                float sum = taps.x * past[0];
                sum = fmaf(taps.y, past[1], sum);
                sum = fmaf(taps.z, past[2], sum);
                sum = fmaf(taps.w, raw[i], sum);
                out[i * job.stride] = gdn_silu(sum);
                past[0] = past[1], past[1] = past[2], past[2] = raw[i];
                if (snapshots) {
                    float* to = args.conv_state + pass.snapshots[first + begin + i] * slot_size + channel;
#pragma unroll
                    for (u32 j = 0; j < 3; j++) to[j * channels] = past[j];
                }
            }
        }
        if (!snapshots) {
#pragma unroll
            for (u32 j = 0; j < 3; j++) state[j * channels] = past[j];
        }
    }
}

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
                float d[N][4] = {};
                staged_mma<FMT, N>(d, raw[l], block.staged + slot * STAGED_ROW * t, at, t, block.lane);
#pragma unroll
                for (int n = 0; n < N; n++) {
                    float low = results[n][slot * t].undo, high = low;
                    if constexpr (FMT == FP8) {
                        low *= scale[l].x;
                        high *= scale[l].y;
                    }
                    acc[n][0] = fmaf(d[n][0] + d[n][1], low, acc[n][0]);
                    acc[n][1] = fmaf(d[n][2] + d[n][3], high, acc[n][1]);
                }
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
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    float* squares = reinterpret_cast<float*>(shared + sums_bytes<N>());
    u8* own = reinterpret_cast<u8*>(squares + WARPS * MOST_ROWS);
    const u32 count = args.slots * args.t;
    const Block block = {reinterpret_cast<float*>(shared), squares, reinterpret_cast<RowTile*>(own) + warp * count,
                         own + WARPS * count * sizeof(RowTile) + warp * count * STAGED_ROW, warp, lane};
    u32 q = 0;
    while (q + 1 < args.job_count && blockIdx.x >= args.jobs[q + 1].first) q++;
    const LinearJob& job = args.jobs[q];
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
