// The mixture of experts for many rows: pairs are sorted by expert, and each stretch of at most GROUP pairs is multiplied
// with the expert's weights on the tensor cores. Rows are rounded to 16 bits once, weights decoded in registers.
#pragma once
#include "moe.cuh"

// Pairs of one item of work. Columns of the product come in eights, so that a small group wastes at most seven.
static constexpr u32 GROUP = 64;

// Warps of a block of the product: each has its own row tiles.
static constexpr u32 PRODUCT_WARPS = 8;

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

// Writes a warp's sums of an item: sum[r][i] is row tile first_tile + r times tokens 8i .., as the mma leaves them. SWIGLU: the matrix
// is paired, out = silu(gate x) * (up x), and zero beyond the expert's own width.
template <u32 RT, bool SWIGLU>
MOE_FN void write_sums(const Matrix& m, u32 first_tile, const float sum[RT][GROUP / 8][4], u32 n, const u32* pairs, const float* undo,
                       float* to, u32 stride, int lane) {
    const u32 g = static_cast<u32>(lane >> 2), c = static_cast<u32>(lane & 3);
#pragma unroll
    for (u32 r = 0; r < RT; r++) {
        const u32 tile = first_tile + r;
        const bool live = tile < m.row_tiles;
        const float* scales = reinterpret_cast<const float*>(m.row_scales) + 16 * u64(tile);
        const float low = live ? scales[g] : 0, high = live ? scales[g + 8] : 0;
#pragma unroll
        for (u32 i = 0; i < GROUP / 8; i++) {
#pragma unroll
            for (u32 j = 0; j < 2; j++) {
                const u32 token = 8 * i + 2 * c + j;
                if (token >= n) continue;
                float* out = to + u64(pairs[token]) * stride;
                const float first = sum[r][i][j] * (low * undo[token]), second = sum[r][i][2 + j] * (high * undo[token]);
                if constexpr (SWIGLU) {
                    const u32 column = 8 * tile + g;
                    if (column < stride) out[column] = live && column < m.rows / 2 ? silu(first) * second : 0.0f;
                } else {
                    const u32 column = 16 * tile + g;
                    if (live && column < stride) out[column] = first;
                    if (live && column + 8 < stride) out[column + 8] = second;
                }
            }
        }
    }
}
