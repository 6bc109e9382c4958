// Fault: a kernel goes past the end of what it was given.
#include "../../cuda/hearth.cuh"

struct Range {
    float* data; // [count]
    u64 count;
};

// One element too far, in the last thread.
KERNEL(fault_read_beyond, 64, 1, Range) {
    float v = args.data[threadIdx.x + 1];
    if (threadIdx.x + 1 < args.count) args.data[threadIdx.x] = v;
}

KERNEL(fault_write_beyond, 64, 1, Range) {
    if (threadIdx.x <= args.count) args.data[threadIdx.x] = 1.0f;
}

KERNEL(fault_write_before, 64, 1, Range) { args.data[static_cast<int>(threadIdx.x) - 1] = 1.0f; }

// A pointer that nobody set.
KERNEL(fault_null, 32, 1, Range) { args.data[threadIdx.x] = reinterpret_cast<const float*>(args.count)[0]; }

KERNEL(fault_shared_beyond, 64, 1, Range) {
    SHARED(float, line, 32);
    float* p = line;
    p[threadIdx.x] = 1.0f;
    __syncthreads();
    args.data[threadIdx.x] = p[threadIdx.x];
}

KERNEL(fault_shared_index, 64, 1, Range) {
    SHARED(float, line, 64);
    line[threadIdx.x] = 0.0f;
    args.data[threadIdx.x] = line[threadIdx.x + threadIdx.x / 63 * 4];
}

KERNEL(fault_dynamic_beyond, 64, 1, Range) {
    DYNAMIC_SHARED(raw);
    reinterpret_cast<float*>(raw)[threadIdx.x] = 1.0f;
}

// A vector access to an address that is no multiple of its size: by wrapper and by dereference.
KERNEL(fault_misaligned_load, 32, 1, Range) { args.data[0] = static_cast<float>(ld16(args.data + 1).x); }
KERNEL(fault_misaligned_dereference, 32, 1, Range) { args.data[0] = reinterpret_cast<const float4*>(args.data + 2)->x; }

// Without an end.
__device__ __noinline__ float deeper(float v, const float* more) {
    if (more[0] == 7.0f) return v;
    float local[64];
    for (int i = 0; i < 64; i++) local[i] = v + more[0];
    return deeper(local[static_cast<int>(v) & 63], local) + local[1];
}
KERNEL_COLD(fault_stack, 32, 1, Range) { args.data[threadIdx.x] = deeper(args.data[0], args.data); }
