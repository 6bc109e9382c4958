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

// A shuffle brings the lanes together, but orders no memory.
KERNEL(fault_shuffle_for_barrier, 32, 1, Neighbours) {
    SHARED(u32, line, 32);
    line[threadIdx.x] = threadIdx.x;
    u32 v = __shfl_sync(0xffffffffu, threadIdx.x, 0);
    args.out[threadIdx.x] = line[31 - threadIdx.x] + v;
}

// Each half of the warp has its barrier; the fault reads from the other half.
template <u32 WITH> __device__ void half_barrier(u32* line, u32* out) {
    line[threadIdx.x] = threadIdx.x;
    __syncwarp(threadIdx.x < 16 ? 0x0000ffffu : 0xffff0000u);
    out[threadIdx.x] = line[threadIdx.x ^ WITH];
}
KERNEL(fault_half_barrier, 32, 1, Neighbours) {
    SHARED(u32, line, 32);
    half_barrier<16>(line, args.out);
}
KERNEL(fault_half_barrier_mended, 32, 1, Neighbours) {
    SHARED(u32, line, 32);
    half_barrier<15>(line, args.out);
}

// Threads that write bytes of one word are no race; those that write one byte are.
template <u32 APART> __device__ void bytes(u8* line, u32* out) {
    line[threadIdx.x / APART] = static_cast<u8>(threadIdx.x);
    __syncwarp();
    out[threadIdx.x] = line[31 - threadIdx.x];
}
KERNEL(fault_bytes, 32, 1, Neighbours) {
    SHARED(u8, line, 32);
    bytes<2>(line, args.out);
}
KERNEL(fault_bytes_mended, 32, 1, Neighbours) {
    SHARED(u8, line, 32);
    bytes<1>(line, args.out);
}
