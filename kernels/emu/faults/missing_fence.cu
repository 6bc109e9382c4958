// Blocks that leave their sums for the last one of them, with each fence and the barrier left out in turn.
#include "../../cuda/hearth.cuh"

struct FaultLast {
    u32* parts;   // [blocks]
    u32* arrived; // zero
    u32* out;     // the sum over blocks of 1 + blockIdx.x
};

enum Fences { BOTH, NONE_BEFORE, NONE_BEHIND, NO_BARRIER };

template <Fences FENCES> static __device__ void sum_of_blocks(const FaultLast& args, u32& last) {
    if (threadIdx.x == 0) args.parts[blockIdx.x] = 1 + blockIdx.x;
    if (FENCES != NONE_BEFORE) __threadfence();
    if (FENCES != NO_BARRIER) __syncthreads();
    if (threadIdx.x == 32) last = atomicInc(args.arrived, gridDim.x - 1) == gridDim.x - 1;
    __syncthreads();
    if (!last) return;
    if (FENCES != NONE_BEHIND) __threadfence();
    if (threadIdx.x != 0) return;
    u32 sum = 0;
    for (u32 i = 0; i < gridDim.x; i++) sum += args.parts[i];
    *args.out = sum;
}

KERNEL(fault_missing_fence_mended, 64, 1, FaultLast) {
    SHARED(u32, last, 1);
    sum_of_blocks<BOTH>(args, last[0]);
}
KERNEL(fault_missing_fence_before, 64, 1, FaultLast) {
    SHARED(u32, last, 1);
    sum_of_blocks<NONE_BEFORE>(args, last[0]);
}
KERNEL(fault_missing_fence_behind, 64, 1, FaultLast) {
    SHARED(u32, last, 1);
    sum_of_blocks<NONE_BEHIND>(args, last[0]);
}
KERNEL(fault_told_too_early, 64, 1, FaultLast) {
    SHARED(u32, last, 1);
    sum_of_blocks<NO_BARRIER>(args, last[0]);
}
