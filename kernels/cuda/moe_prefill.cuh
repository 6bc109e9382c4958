// The mixture of experts for many rows: pairs are sorted by expert, and each stretch of at most GROUP pairs is multiplied
// with the expert's weights on the tensor cores. Rows are rounded to 16 bits once, weights decoded in registers.
#pragma once
#include "moe.cuh"

// Pairs of one item of work. Columns of the product come in eights, so that a small group wastes at most seven.
static constexpr u32 GROUP = 64;

// Pairs that one block counts.
static constexpr u32 GROUP_CHUNK = 2048;

struct MoeGroup {
    const u32* ids;  // [pairs]
    u32* places;     // [chunks, experts]
    u32* list;       // [pairs], sorted by expert
    uint4* items;    // expert, first place in the list, pairs, 0
    u32* item_count;
    u32* arrived;    // zero between launches
    u32 pairs, experts;
};
static_assert(sizeof(MoeGroup) == 56, "as in the launcher");

struct MoeRound {
    const float* x;      // [rows, stride]
    const u32* ids;      // null, or the expert of each row, which knows its width and type
    const Matrix* table;
    u16* out;            // [rows, out_stride], a multiple of 64, zeros beyond cols
    float* undo;         // [rows]
    u32 rows, stride, cols, out_stride, experts, bfloat;
};
static_assert(sizeof(MoeRound) == 64, "as in the launcher");

struct MoeProduct {
    const Matrix* table;
    const u32* list;
    const uint4* items;
    const u32* item_count;
    const u16* x;        // rounded rows
    const float* undo;
    float* out;          // [pairs, out_stride]
    u32 divide;          // row of x = pair / divide
    u32 x_stride, out_stride;
    u32 only;            // format of the experts that this launch serves
};
static_assert(sizeof(MoeProduct) == 72, "as in the launcher");

struct MoeCombine {
    const float* each;   // [t, slots, hidden]
    const u32* ids;
    const float* weights;
    float* out;          // [t, hidden]
    u32 slots, hidden, experts, zero;
};
static_assert(sizeof(MoeCombine) == 48, "as in the launcher");
