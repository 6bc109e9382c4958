// Shared memory, asynchronous copies, and what a block finds there.
#include "../../cuda/hearth.cuh"

struct Stream {
    const uint4* in; // [steps, 32]
    uint4* out;      // [steps, 32]: in, each lane its neighbour's; zeros in the last step
    u64 steps;
};

// A ring of three stages with two groups in flight.
KERNEL(check_async_ring, 32, 1, Stream) {
    DYNAMIC_SHARED(raw);
    uint4* ring = reinterpret_cast<uint4*>(raw);
    u32 lane = threadIdx.x, steps = static_cast<u32>(args.steps);
    auto fetch = [&](u32 step) {
        if (step < steps) cp_async16(ring + step % 3 * 32 + lane, args.in + step * 32 + lane, step + 1 < steps);
        cp_async_commit();
    };
    fetch(0);
    fetch(1);
    for (u32 step = 0; step < steps; step++) {
        cp_async_wait<1>();
        __syncwarp();
        args.out[step * 32 + lane] = ring[step % 3 * 32 + (lane + 1) % 32];
        __syncwarp();
        fetch(step + 2);
    }
}

// What shared memory holds before anybody writes: each block writes after it has read.
struct Fresh {
    u32* fixed;   // [blocks, 32]
    u32* dynamic; // [blocks, 32]
};

KERNEL(check_fresh_shared, 32, 1, Fresh) {
    SHARED(u32, fixed, 32);
    DYNAMIC_SHARED(raw);
    u32* dynamic = reinterpret_cast<u32*>(raw);
    u32 lane = threadIdx.x;
    args.fixed[blockIdx.x * 32 + lane] = fixed[lane];
    args.dynamic[blockIdx.x * 32 + lane] = dynamic[lane];
    fixed[lane] = dynamic[lane] = 1;
}

// In which order the threads of a block run to their first wait.
struct Arrival {
    u32* counter; // 0
    u32* order;   // [blocks * threads]
};

KERNEL(check_order, 64, 1, Arrival) { args.order[atomicAdd(args.counter, 1u)] = blockIdx.x * 64 + threadIdx.x; }
