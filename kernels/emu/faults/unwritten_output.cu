// Fault: the last element of an odd row stays unwritten. The second kernel writes it.
#include "../../cuda/hearth.cuh"

struct Row {
    float* out; // [count]
    u64 count;
};

KERNEL(fault_unwritten_output, 32, 1, Row) {
    for (u64 i = 2 * threadIdx.x; i + 1 < args.count; i += 64) args.out[i] = args.out[i + 1] = 1.0f;
}

KERNEL(fault_unwritten_output_mended, 32, 1, Row) {
    for (u64 i = threadIdx.x; i < args.count; i += 32) args.out[i] = 1.0f;
}
