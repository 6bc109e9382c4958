// Fault: thread i reads what its neighbour wrote, with no barrier between.
#include "../../cuda/hearth.cuh"

struct MissingBarrier {
    u64 out; // [threads] u32
};

KERNEL(fault_missing_barrier, 128, 1, MissingBarrier) {
    SHARED(u32, line, 128);
    line[threadIdx.x] = threadIdx.x + 1;
    reinterpret_cast<u32*>(args.out)[threadIdx.x] = line[(threadIdx.x + 1) % 128];
}
