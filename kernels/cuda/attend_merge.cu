// The splits of attend_decode.cu, joined: a launch behind it, since the last of its blocks would do alone, and after a fence
// and a counter, what these do beside each other. A block has 64 dimensions of a row's query head.
//
// Threads are 16 columns of four dimensions by 16 lanes; a lane adds every 16th split in order, then the lanes are added in
// order: the number of splits alone decides how a sum is rounded.
#include "attend_split.cuh"

struct AttendMerge {
    const Pass* pass;
    const float* q;       // [rows, q_heads, q_stride]
    const float* mixed;   // [16, q_heads, splits, head_dim]
    const SplitEnd* ends; // [16, q_heads, splits]
    float* out;           // [rows, q_heads, head_dim]
    u32 first;            // the first row of this launch
    u32 q_heads, q_stride, head_dim, gated;
    u32 splits;           // most splits of a row: at most THREADS
};
static_assert(sizeof(AttendMerge) == 64, "the layout of src/cuda/attention_decode.rs");

constexpr u32 THREADS = 256, WARPS = 8;
constexpr u32 COLUMNS = 16, LANES = 16;
constexpr u32 DIMS = 4 * COLUMNS;
constexpr u32 AHEAD = 8; // splits of a lane that are asked for at once

KERNEL(attend_merge, THREADS, 2, AttendMerge) {
    SHARED(float, factors, THREADS);
    SHARED(float, peaks, WARPS);
    SHARED(float, sums, WARPS);
    SHARED(float4, lanes, LANES * COLUMNS);
    pdl_launch();
    const u32 row = args.first + blockIdx.z, head = blockIdx.x, warp = threadIdx.x / 32;
    const u32 splits = splits_of(args.pass->row_position[row], args.splits);
    // What decides what a row needs is there before the kernel ahead has ended; one split has written the output itself.
    pdl_wait();
    if (splits == 1) return;

    const u64 of = (static_cast<u64>(blockIdx.z) * args.q_heads + head) * args.splits;
    const u32 column = threadIdx.x % COLUMNS, lane = threadIdx.x / COLUMNS, d = DIMS * blockIdx.y + 4 * column;
    const bool held = d < args.head_dim;
    const float* from = args.mixed + of * args.head_dim + d;
    float4 ahead[AHEAD];
    const auto ask = [&](u32 begin) {
#pragma unroll
        for (u32 i = 0; i < AHEAD; i++) {
            const u32 s = begin + LANES * i;
            ahead[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (held && s < splits) ahead[i] = *reinterpret_cast<const float4*>(from + static_cast<u64>(s) * args.head_dim);
        }
    };
    ask(lane);
    // The output that this thread writes: of one dimension, if it is among the first 64.
    const u32 own = DIMS * blockIdx.y + threadIdx.x;
    const bool writes = threadIdx.x < DIMS && own < args.head_dim;

    SplitEnd end = {-INFINITY, 0.0f};
    if (threadIdx.x < splits) end = args.ends[of + threadIdx.x];
    float peak = end.peak;
    for (int with = 16; with > 0; with /= 2) peak = fmaxf(peak, __shfl_xor_sync(ALL, peak, with));
    if (threadIdx.x % 32 == 0) peaks[warp] = peak;
    __syncthreads();
#pragma unroll
    for (u32 w = 0; w < WARPS; w++) peak = fmaxf(peak, peaks[w]);
    // All scores NaN: a factor of NaN.
    const float factor = threadIdx.x < splits ? exp2f(end.peak - peak) : 0.0f;
    factors[threadIdx.x] = factor;
    float sum = end.sum * factor;
    for (int with = 16; with > 0; with /= 2) sum += __shfl_xor_sync(ALL, sum, with);
    if (threadIdx.x % 32 == 0) sums[warp] = sum;
    __syncthreads();

    float4 mixed = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 1
    for (u32 begin = lane; begin < splits; begin += LANES * AHEAD) {
        if (begin > lane) ask(begin);
#pragma unroll
        for (u32 i = 0; i < AHEAD; i++) {
            const u32 s = begin + LANES * i;
            if (s >= splits) break;
            const float f = factors[s];
            mixed.x = fmaf(f, ahead[i].x, mixed.x), mixed.y = fmaf(f, ahead[i].y, mixed.y);
            mixed.z = fmaf(f, ahead[i].z, mixed.z), mixed.w = fmaf(f, ahead[i].w, mixed.w);
        }
    }
    lanes[lane * COLUMNS + column] = mixed;
    __syncthreads();
    if (!writes) return;
    const float* of_lanes = reinterpret_cast<const float*>(lanes) + threadIdx.x;
    float whole = 0.0f, weights = 0.0f;
#pragma unroll
    for (u32 i = 0; i < LANES; i++) whole += of_lanes[DIMS * i];
#pragma unroll
    for (u32 w = 0; w < WARPS; w++) weights += sums[w];
    const u64 at = static_cast<u64>(row) * args.q_heads + head;
    args.out[at * args.head_dim + own] = finish(whole, weights, args.q + at * args.q_stride, args.head_dim, own, args.gated);
}
