// Shuffles, votes and warp barriers, of whole and of split warps.
#include "../../cuda/hearth.cuh"

struct Shuffles {
    u32* out; // [8, 32]
    u64* wide; // [32]
};

KERNEL(check_shuffles, 32, 1, Shuffles) {
    u32 lane = threadIdx.x;
    u32 v = 100 + lane;
    args.out[lane] = __shfl_sync(0xffffffffu, v, 5);
    args.out[32 + lane] = __shfl_sync(0xffffffffu, v, lane + 1, 8);
    args.out[64 + lane] = __shfl_xor_sync(0xffffffffu, v, 16);
    args.out[96 + lane] = __shfl_up_sync(0xffffffffu, v, 3);
    args.out[128 + lane] = __shfl_down_sync(0xffffffffu, v, 3);
    args.out[160 + lane] = __ballot_sync(0xffffffffu, lane % 3 == 0);
    args.out[192 + lane] = static_cast<u32>(__any_sync(0xffffffffu, lane == 7)) | static_cast<u32>(__all_sync(0xffffffffu, lane < 32)) << 1 |
                           static_cast<u32>(__all_sync(0xffffffffu, lane != 7)) << 2;
    // Two halves, each with its own mask, one step behind the other.
    u32 half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
    u32 sum = v;
    if (lane < 16) __syncwarp(half);
    for (int with = 8; with; with >>= 1) sum += __shfl_xor_sync(half, sum, with);
    args.out[224 + lane] = sum;
    args.wide[lane] = __shfl_sync(0xffffffffu, static_cast<u64>(lane) << 40 | lane, 31);
}

// The sum of 0..255 by a tree in shared memory, in each of `gridDim.x` blocks; the last block adds them up.
struct Sums {
    u32* partial; // [blocks]
    u32* counter; // 0
    u32* total;
    float* float_total; // 0
};

KERNEL(check_last_block, 256, 1, Sums) {
    SHARED(u32, sum, 256);
    SHARED(u32, last, 1);
    u32 i = threadIdx.x;
    sum[i] = i + blockIdx.x;
    for (u32 half = 128; half; half >>= 1) {
        __syncthreads();
        if (i < half) sum[i] += sum[i + half];
    }
    if (i == 0) {
        args.partial[blockIdx.x] = sum[0];
        __threadfence();
        *last = atomicInc(args.counter, gridDim.x - 1) == gridDim.x - 1;
        atomicAdd(args.float_total, 0.5f);
    }
    __syncthreads();
    if (*last && i == 0) {
        u32 all = 0;
        for (u32 b = 0; b < gridDim.x; b++) all += ld_acquire(args.partial + b);
        *args.total = all;
    }
}

// Warp 0 waits in a loop for a flag that warp 1 sets.
struct Flag {
    u32* flag; // 0
    u32* seen;
};

KERNEL(check_flag, 64, 1, Flag) {
    if (threadIdx.x < 32) {
        while (ld_acquire(args.flag) == 0) {}
        args.seen[threadIdx.x] = ld_acquire(args.flag);
    } else if (threadIdx.x == 63) {
        st_release(args.flag, 7);
    }
}
