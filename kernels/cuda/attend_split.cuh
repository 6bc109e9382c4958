// How attend_decode.cu splits a row's positions among blocks, and what attend_merge.cu makes one again.
#pragma once
#include "hearth.cuh"

constexpr u32 BLOCK = 64; // positions of a tile
constexpr u32 ALL = 0xffffffffu;

// Tiles of each of a row's splits, and how many splits it has: by its own position and the device alone (`most`, the device's
// splits of a row), so that a row gets the same bits whatever else is in its pass.
__device__ inline u32 blocks_per_split(u32 position, u32 most) { return (position / BLOCK + most) / most; }
__device__ inline u32 splits_of(u32 position, u32 most) { return position / BLOCK / blocks_per_split(position, most) + 1; }

// What a split came to: its largest score, a power of two, and the sum of its weights, of which that one's is 1.
struct SplitEnd {
    float peak, sum;
};

// Dimension d of a head's output. `q` is the head's query, its gate behind it.
__device__ inline float finish(float mixed, float sum, const float* q, u32 head_dim, u32 d, u32 gated) {
    float o = mixed / sum;
    return gated ? o * (1.0f / (1.0f + expf(-q[head_dim + d]))) : o;
}
