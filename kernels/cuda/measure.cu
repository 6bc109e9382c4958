// What the device's memory can give: the figure that every other kernel's time is held against.
#include "hearth.cuh"

struct MeasureArgs {
    u64 from;
    u64 to;
    u64 count; // of 16-byte words
};
static_assert(sizeof(MeasureArgs) == 24, "mirrored in measure.rs");

static const u32 MEASURE_THREADS = 512;
// Loads of a thread that are on their way at the same time.
static const u32 MEASURE_DEPTH = 8;

// to[block] = exclusive-or of all 32-bit words that the block reads, so that no load can be left out.
KERNEL(measure_read, MEASURE_THREADS, 2, MeasureArgs) {
    pdl_wait();
    const uint4* from = reinterpret_cast<const uint4*>(args.from);
    const u64 step = static_cast<u64>(gridDim.x) * MEASURE_THREADS * MEASURE_DEPTH;
    u32 folded = 0;
    for (u64 first = static_cast<u64>(blockIdx.x) * MEASURE_THREADS * MEASURE_DEPTH + threadIdx.x; first < args.count;
         first += step) {
        uint4 words[MEASURE_DEPTH];
#pragma unroll
        for (u32 i = 0; i < MEASURE_DEPTH; i++) {
            const u64 at = first + i * MEASURE_THREADS;
            words[i] = at < args.count ? ld_stream16(from + at) : uint4{0, 0, 0, 0};
        }
#pragma unroll
        for (u32 i = 0; i < MEASURE_DEPTH; i++) folded ^= words[i].x ^ words[i].y ^ words[i].z ^ words[i].w;
    }
    SHARED(u32, warps, MEASURE_THREADS / 32);
#pragma unroll
    for (u32 distance = 16; distance > 0; distance /= 2) folded ^= __shfl_xor_sync(0xffffffffu, folded, distance);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = folded;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (u32 i = 1; i < MEASURE_THREADS / 32; i++) folded ^= warps[i];
        reinterpret_cast<u32*>(args.to)[blockIdx.x] = folded;
    }
}

KERNEL(measure_copy, MEASURE_THREADS, 2, MeasureArgs) {
    pdl_wait();
    const uint4* from = reinterpret_cast<const uint4*>(args.from);
    uint4* to = reinterpret_cast<uint4*>(args.to);
    const u64 step = static_cast<u64>(gridDim.x) * MEASURE_THREADS * MEASURE_DEPTH;
    for (u64 first = static_cast<u64>(blockIdx.x) * MEASURE_THREADS * MEASURE_DEPTH + threadIdx.x; first < args.count;
         first += step) {
        uint4 words[MEASURE_DEPTH];
#pragma unroll
        for (u32 i = 0; i < MEASURE_DEPTH; i++) {
            const u64 at = first + i * MEASURE_THREADS;
            if (at < args.count) words[i] = ld_stream16(from + at);
        }
#pragma unroll
        for (u32 i = 0; i < MEASURE_DEPTH; i++) {
            const u64 at = first + i * MEASURE_THREADS;
            if (at < args.count) st16(to + at, words[i]);
        }
    }
}

// Nothing: what a launch costs.
KERNEL(measure_nothing, 32, 1, MeasureArgs) {
    pdl_wait();
    pdl_launch();
}
