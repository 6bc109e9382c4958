// Fault: masks that do not name the lanes that take part.
#include "../../cuda/hearth.cuh"

struct Lanes {
    u32* out; // [32]
};

// The mask says all; half of them come.
KERNEL(fault_mask_too_wide, 32, 1, Lanes) {
    u32 v = threadIdx.x;
    if (threadIdx.x < 16) v = __shfl_xor_sync(0xffffffffu, v, 1);
    args.out[threadIdx.x] = v;
}

// The mask says half; all come.
KERNEL(fault_mask_too_narrow, 32, 1, Lanes) { args.out[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, threadIdx.x, 1); }

// The mask is right, the lane that is read is not in it.
KERNEL(fault_reads_beyond_mask, 32, 1, Lanes) {
    u32 v = threadIdx.x;
    if (threadIdx.x < 16) v = __shfl_xor_sync(0x0000ffffu, v, 16);
    args.out[threadIdx.x] = v;
}

// Lanes that have returned are named.
KERNEL(fault_ended_lane, 32, 1, Lanes) {
    if (threadIdx.x == 9) return;
    args.out[threadIdx.x] = __ballot_sync(0xffffffffu, 1);
}

// A matrix product in one half of the warp only.
KERNEL(fault_half_mma, 32, 1, Lanes) {
    float d[4] = {};
    u32 a[4] = {}, b[2] = {};
    if (threadIdx.x < 16) mma_f16(d, a, b);
    args.out[threadIdx.x] = __float_as_uint(d[0]);
}
