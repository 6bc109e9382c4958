// How attend_decode.cu splits a row's positions among blocks, and where what they found lies until it is joined: by the last
// block (attend_last.cuh) or by a launch of its own (attend_merge.cu). Both add in one order: SET splits in a row, then the
// sets, each relative to the largest score within.
#pragma once
#include "hearth.cuh"

constexpr u32 BLOCK = 64; // positions of a tile
constexpr u32 SET = 16;   // splits of a set
constexpr u32 ALL = 0xffffffffu;

// Tiles of each of a row's splits, and how many splits it has: by its own position and the device alone (`most`, the device's
// splits of a row), so that a row gets the same bits whatever else is in its pass.
__device__ inline u32 blocks_per_split(u32 position, u32 most) { return (position / BLOCK + most) / most; }
__device__ inline u32 splits_of(u32 position, u32 most) { return position / BLOCK / blocks_per_split(position, most) + 1; }

// A part is head_dim mixed values, then the largest score and the sum of weights. A row's query head has one for each split
// and, behind those, one for each set.
constexpr u32 PAD = 4; // numbers behind the mixed values: those two, and what keeps the next part aligned
__device__ inline u32 parts_of_head(u32 most) { return most + (most + SET - 1) / SET; }

__device__ inline float finish(float mixed, float scale, float sum, const float* q, u32 head_dim, u32 d, u32 gated) {
    float o = mixed * scale / sum;
    return gated ? o * (1.0f / (1.0f + expf(-q[head_dim + d]))) : o;
}
