// Fault: a barrier that not all threads of the block reach, or not the same one.
#include "../../cuda/hearth.cuh"

struct Nothing {
    u64 rows;
};

// The early return of a thread that has no row.
KERNEL(fault_early_return, 64, 1, Nothing) {
    if (threadIdx.x >= args.rows) return;
    __syncthreads();
}

KERNEL(fault_divergent_barrier, 64, 1, Nothing) {
    if (threadIdx.x < args.rows) {
        __syncthreads();
    } else {
        __syncthreads();
    }
}

// Half of the block waits for the block, half for its warp.
KERNEL(fault_deadlock, 64, 1, Nothing) {
    if (threadIdx.x < args.rows) {
        __syncthreads();
    } else {
        __syncwarp();
    }
}

// A flag that a block waits for is set by none.
struct Waiting {
    const u32* flag;
};
KERNEL(fault_spin, 32, 1, Waiting) {
    while (ld_acquire(args.flag) != 1) {}
}

// A loop that no barrier interrupts and that never ends.
KERNEL(fault_endless, 32, 1, Waiting) {
    while (*reinterpret_cast<const volatile u32*>(args.flag) != 1) {}
}
