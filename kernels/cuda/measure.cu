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

// Numbers drawn from the seed (`from`) and the place, SplitMix64: bytes that are finite in every format, as the CPU draws them.
KERNEL(measure_scramble, MEASURE_THREADS, 2, MeasureArgs) {
    pdl_wait();
    uint4* to = reinterpret_cast<uint4*>(args.to);
    const u64 step = static_cast<u64>(gridDim.x) * MEASURE_THREADS;
    for (u64 at = static_cast<u64>(blockIdx.x) * MEASURE_THREADS + threadIdx.x; at < args.count; at += step) {
        u32 words[4];
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            u64 z = args.from + (2 * at + i + 1) * 0x9e3779b97f4a7c15ull;
            z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
            z = (z ^ z >> 27) * 0x94d049bb133111ebull;
            z = (z ^ z >> 31) & 0xbbbbbbbbbbbbbbbbull;
            words[2 * i] = static_cast<u32>(z);
            words[2 * i + 1] = static_cast<u32>(z >> 32);
        }
        st16(to + at, make_uint4(words[0], words[1], words[2], words[3]));
    }
}
