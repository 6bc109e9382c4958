// The parts of attend_decode.cu's splits, joined by a launch behind it instead of by its last blocks: those work alone, and after
// a fence and a counter; here all blocks ask at once. The bits are the same. A block has 64 dimensions of a row's query head.
//
// Threads are 16 columns of four dimensions by 16 lanes, a set of splits to each. Which of the two ways is faster is a question
// of the machine, so it is measured there (src/cuda/tune.rs).
#include "attend_split.cuh"

struct AttendMerge {
    const Pass* pass;
    const float* q;       // [rows, q_heads, q_stride]
    const float* partial; // [16, q_heads, splits + sets, head_dim + PAD]
    float* out;           // [rows, q_heads, head_dim]
    u32 first;            // the first row of this launch
    u32 q_heads, q_stride, head_dim, gated;
    u32 splits;           // most splits of a row: at most THREADS
    float scale;          // of the mixed values
    u32 unused;
};
static_assert(sizeof(AttendMerge) == 64, "the layout of src/cuda/attention_decode.rs");

constexpr u32 THREADS = 256;
constexpr u32 COLUMNS = 16, LANES = THREADS / COLUMNS;
constexpr u32 DIMS = 4 * COLUMNS;
static_assert(LANES * SET == THREADS, "a thread has the end of a split, a lane those of a set");

KERNEL(attend_merge, THREADS, 2, AttendMerge) {
    SHARED(float, factors, THREADS);
    SHARED(float, peaks, LANES);
    SHARED(float, sums, LANES);
    SHARED(float, set_factors, LANES);
    SHARED(float, weights, 1);
    SHARED(float4, lanes, LANES * COLUMNS);
    pdl_launch();
    const u32 row = args.first + blockIdx.z, head = blockIdx.x, tid = threadIdx.x;
    // What decides how many there are is there before the kernel ahead has ended. One split has written the output itself.
    const u32 splits = splits_of(args.pass->row_position[row], args.splits), sets = (splits + SET - 1) / SET;
    pdl_wait();
    if (splits == 1) return;

    const u32 size = args.head_dim + PAD;
    const float* parts =
        args.partial + (static_cast<u64>(blockIdx.z) * args.q_heads + head) * parts_of_head(args.splits) * size;
    const u32 column = tid % COLUMNS, lane = tid / COLUMNS, d = DIMS * blockIdx.y + 4 * column;
    const bool held = d < args.head_dim;
    // The lane's set: all of it is asked for before the first is looked at.
    float4 ahead[SET];
#pragma unroll
    for (u32 i = 0; i < SET; i++) {
        const u32 s = SET * lane + i;
        ahead[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (held && s < splits) ahead[i] = *reinterpret_cast<const float4*>(parts + static_cast<u64>(s) * size + d);
    }
    // The output that this thread writes: of one dimension, if it is among the first 64.
    const u32 own = DIMS * blockIdx.y + tid;
    const bool writes = tid < DIMS && own < args.head_dim;

    // A split's factor is relative to the largest score of its set; a half warp has a set.
    const bool there = tid < splits;
    const float* end = parts + static_cast<u64>(tid) * size + args.head_dim;
    const float peak = there ? end[0] : -INFINITY;
    float sum = there ? end[1] : 0.0f, top = peak;
    for (int with = SET / 2; with > 0; with /= 2) top = fmaxf(top, __shfl_xor_sync(ALL, top, with));
    // All scores NaN: a factor of NaN.
    const float factor = there ? exp2f(peak - top) : 0.0f;
    factors[tid] = factor;
    sum *= factor;
    for (int with = SET / 2; with > 0; with /= 2) sum += __shfl_xor_sync(ALL, sum, with);
    if (tid % SET == 0) peaks[tid / SET] = top, sums[tid / SET] = sum;
    __syncthreads();

    // The same of the sets, by the first warp, while all add up their own.
    if (tid < 32) {
        const bool is_set = tid < sets;
        const float set_peak = is_set ? peaks[tid] : -INFINITY;
        float set_sum = is_set ? sums[tid] : 0.0f, most = set_peak;
        for (int with = LANES / 2; with > 0; with /= 2) most = fmaxf(most, __shfl_xor_sync(ALL, most, with));
        const float of_set = is_set ? exp2f(set_peak - most) : 0.0f;
        set_sum *= of_set;
        for (int with = LANES / 2; with > 0; with /= 2) set_sum += __shfl_xor_sync(ALL, set_sum, with);
        if (tid < LANES) set_factors[tid] = of_set;
        if (tid == 0) weights[0] = set_sum;
    }
    float4 mixed = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
    for (u32 i = 0; i < SET; i++) {
        const u32 s = SET * lane + i;
        if (s >= splits) break;
        const float f = factors[s];
        mixed.x = fmaf(f, ahead[i].x, mixed.x), mixed.y = fmaf(f, ahead[i].y, mixed.y);
        mixed.z = fmaf(f, ahead[i].z, mixed.z), mixed.w = fmaf(f, ahead[i].w, mixed.w);
    }
    lanes[lane * COLUMNS + column] = mixed;
    __syncthreads();
    if (!writes) return;
    const float* of_lanes = reinterpret_cast<const float*>(lanes) + tid;
    float whole = 0.0f;
    for (u32 i = 0; i < sets; i++) whole = fmaf(set_factors[i], of_lanes[DIMS * i], whole);
    const u64 at = static_cast<u64>(row) * args.q_heads + head;
    args.out[at * args.head_dim + own] = finish(whole, args.scale, weights[0], args.q + at * args.q_stride, args.head_dim, own, args.gated);
}
