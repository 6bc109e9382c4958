// What every kernel includes, and nothing else: the words below mean the same to nvcc and to the emulator.
//
//   KERNEL(name, threads, blocks_per_sm, Args) { ... }   a kernel; its one argument is `const Args& args`, plain values
//                                                        without padding. No spill, no local memory
//   KERNEL_COLD(...)                                     the same, where local memory is allowed
//   SHARED(T, name, count);                              a shared array, aligned to 16
//   DYNAMIC_SHARED(name);                                the block's dynamic shared memory, u8*, aligned to 16
//
// Instructions without a word in C++ are the functions of ptx.cuh.
#pragma once

#ifdef HEARTH_EMULATED
#include "../emu/cuda_emulated.hpp"
#else
#define KERNEL(name, threads, blocks_per_sm, Args)                                                                     \
    extern "C" __global__ void __launch_bounds__(threads, blocks_per_sm) name(const __grid_constant__ Args args)
// The symbol tells tests/cuda_build.rs that this kernel may have local memory.
#define KERNEL_COLD(name, threads, blocks_per_sm, Args)                                                                \
    extern "C" __device__ unsigned char hearth_cold_##name = 1;                                                        \
    KERNEL(name, threads, blocks_per_sm, Args)
#define SHARED(T, name, count) __shared__ __align__(16) T name[count]
#define DYNAMIC_SHARED(name)                                                                                           \
    extern __shared__ __align__(16) unsigned char hearth_dynamic_shared[];                                             \
    unsigned char* const name = hearth_dynamic_shared
#endif

#include "ptx.cuh"

// The pass on the device (src/cuda/pass.rs writes it): all that changes between two replays of one recorded graph.
struct Pass {
    const u32* row_segment;   // [rows] the segment of a row
    const u32* row_position;  // [rows] its position in its sequence
    const u32* seg_slot;      // [segments] the slot of the sequence's state
    const u32* seg_first;     // [segments] its first row
    const u32* seg_rows;      // [segments] how many rows it has
    const u32* seg_position;  // [segments] position of its first row
    const u32* pages;         // [segments, max_pages] its pages of the KV cache
    const u32* snapshots;     // [rows] the slot that gets the state after this row; 0xFFFFFFFF: none
    const u32* ids;           // [rows] token ids
    const u32* picks;         // rows to gather
    u32 rows, segments, max_pages, snapshotting;
};
static_assert(sizeof(Pass) == 96, "the layout of src/cuda/pass.rs");
