// Fault: a thread reads what another warp's wrote, with no barrier between. The second kernel has it.
#include "../../cuda/hearth.cuh"

struct Neighbours {
    u32* out; // [128]
};

KERNEL(fault_missing_barrier, 128, 1, Neighbours) {
    SHARED(u32, line, 128);
    line[threadIdx.x] = threadIdx.x;
    args.out[threadIdx.x] = line[(threadIdx.x + 32) % 128];
}

KERNEL(fault_missing_barrier_mended, 128, 1, Neighbours) {
    SHARED(u32, line, 128);
    line[threadIdx.x] = threadIdx.x;
    __syncthreads();
    args.out[threadIdx.x] = line[(threadIdx.x + 32) % 128];
}

// The same within a warp.
KERNEL(fault_missing_syncwarp, 32, 1, Neighbours) {
    SHARED(u32, line, 32);
    line[threadIdx.x] = threadIdx.x;
    args.out[threadIdx.x] = line[31 - threadIdx.x];
}

// A barrier after the writes, none before the next round overwrites them.
KERNEL(fault_missing_second_barrier, 128, 1, Neighbours) {
    SHARED(u32, line, 128);
    u32 sum = 0;
    for (u32 round = 0; round < 4; round++) {
        line[threadIdx.x] = round;
        __syncthreads();
        sum += line[(threadIdx.x + 32) % 128];
    }
    args.out[threadIdx.x] = sum;
}
