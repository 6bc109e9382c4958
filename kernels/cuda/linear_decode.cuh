// What the kernels of decode's products share: their arguments, the rows of x in shared memory, and the end of a unit. How the
// weights come is what linear_decode.cu and linear_ring.cu differ in; the order of every sum is the same.
#pragma once
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
    u32 ring, unused;   // of linear_ring.cu: groups of tiles that a warp has on their way
};
static_assert(sizeof(LinearJob) == 72 && sizeof(LinearArgs) == 360, "as in linear.rs");

#define DECODE_FN static __device__ __forceinline__

constexpr int WARPS = 8;
constexpr u32 MOST_ROWS = 16;

// Shared memory, in this order: sums of two units in turn [2][WARPS][N][2][32] f32; sums of squares [WARPS][16] f32; of each
// warp the RowTiles [slots][t], staged tiles [slots][256 t], and (linear_ring.cu) the ring.
template <int N> DECODE_FN constexpr u32 sums_bytes() { return 2 * WARPS * N * 2 * 32 * 4; }

struct Block {
    float* sums;
    float* squares;
    RowTile* row_tiles; // of this warp
    u8* staged;         // of this warp
    int warp, lane;
};

template <int N> DECODE_FN Block block_of(const LinearArgs& args, u8* shared) {
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    float* squares = reinterpret_cast<float*>(shared + sums_bytes<N>());
    u8* own = reinterpret_cast<u8*>(squares + WARPS * MOST_ROWS);
    const u32 count = args.slots * args.t;
    return {reinterpret_cast<float*>(shared), squares, reinterpret_cast<RowTile*>(own) + warp * count,
            own + WARPS * count * sizeof(RowTile) + warp * count * STAGED_ROW, warp, lane};
}

// The job of this block.
DECODE_FN const LinearJob& job_of(const LinearArgs& args) {
    u32 q = 0;
    while (q + 1 < args.job_count && blockIdx.x >= args.jobs[q + 1].first) q++;
    return args.jobs[q];
}

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

// Adds the product of a tile and the staged tile in slot `slot`; at[n] = staged_at(t, n, lane), results[n] the RowTile of row
// 4n + c in slot 0, `scale` an FP8 tile's for its rows 0..7 and 8..15.
template <u32 FMT, int N>
DECODE_FN void add_tile(float acc[N][2], const typename Tile<FMT>::Raw& raw, const Block& block, u32 slot, const u32 at[N],
                        const RowTile* const results[N], float2 scale, u32 t) {
    float d[N][4] = {};
    staged_mma<FMT, N>(d, raw, block.staged + slot * STAGED_ROW * t, at, t, block.lane);
#pragma unroll
    for (int n = 0; n < N; n++) {
        float low = results[n][slot * t].undo, high = low;
        if constexpr (FMT == FP8) {
            low *= scale.x;
            high *= scale.y;
        }
        acc[n][0] = fmaf(d[n][0] + d[n][1], low, acc[n][0]);
        acc[n][1] = fmaf(d[n][2] + d[n][3], high, acc[n][1]);
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
