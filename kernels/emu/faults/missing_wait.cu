// Fault: shared memory is read before the asynchronous copy into it has been waited for: no wait at all, a wait that lets
// one group too many be open, a group that was never closed.
#include "../../cuda/hearth.cuh"

struct Copied {
    const uint4* in; // [2, 32]
    uint4* out;      // [32]: the first half of `in`
};

KERNEL(fault_missing_wait, 32, 1, Copied) {
    SHARED(uint4, line, 32);
    cp_async16(line + threadIdx.x, args.in + threadIdx.x, true);
    cp_async_commit();
    __syncwarp();
    args.out[threadIdx.x] = line[threadIdx.x];
}

KERNEL(fault_lax_wait, 32, 1, Copied) {
    SHARED(uint4, line, 64);
    cp_async16(line + threadIdx.x, args.in + threadIdx.x, true);
    cp_async_commit();
    cp_async16(line + 32 + threadIdx.x, args.in + 32 + threadIdx.x, true);
    cp_async_commit();
    cp_async_wait<2>();
    __syncwarp();
    args.out[threadIdx.x] = line[threadIdx.x];
}

KERNEL(fault_missing_commit, 32, 1, Copied) {
    SHARED(uint4, line, 32);
    cp_async16(line + threadIdx.x, args.in + threadIdx.x, true);
    cp_async_wait<0>();
    __syncwarp();
    args.out[threadIdx.x] = line[threadIdx.x];
}

// Waited for, but each lane only for its own copy: no barrier before it reads its neighbour's.
KERNEL(fault_wait_without_barrier, 32, 1, Copied) {
    SHARED(uint4, line, 32);
    cp_async16(line + threadIdx.x, args.in + threadIdx.x, true);
    cp_async_commit();
    cp_async_wait<0>();
    args.out[threadIdx.x ^ 1] = line[threadIdx.x ^ 1];
}
