// What the products of many rows share, whatever their rows were rounded to (linear_prefill.cu, linear_fp4.cu): which block makes
// which part of the output, and how sums become outputs.
//
// A block makes 128 features x ROWS rows. Of its 8 warps four stand along the features, two row tiles each, and two along the
// rows.
#pragma once
#include "linear.cuh"

constexpr int THREADS = 256;
constexpr int FEATURE_TILES = 8; // of a block
constexpr int WARP_TILES = 2;    // of a warp
constexpr int STAGES = 3;
constexpr u32 TOGETHER = 8; // blocks that share their features run side by side

// Where a warp's outputs begin.
struct Corner {
    u32 row, tile;
};

// TOGETHER blocks of rows go through all features before the next ones do. `row`: of the block.
template <int ROWS> LINEAR_FN Corner corner_of(const Matrix& w, u32 t, int warp) {
    const u32 row_blocks = (t + ROWS - 1) / ROWS, feature_blocks = (w.row_tiles + FEATURE_TILES - 1) / FEATURE_TILES;
    const u32 band = blockIdx.x / (TOGETHER * feature_blocks), band_rows = min(TOGETHER, row_blocks - band * TOGETHER);
    const u32 in_band = blockIdx.x - band * TOGETHER * feature_blocks;
    return {(band * TOGETHER + in_band % band_rows) * ROWS, in_band / band_rows * FEATURE_TILES + warp / 2 * WARP_TILES};
}

// Where the sums go.
struct Output {
    float* out;        // [t, stride]
    const float* undo; // [t]
    u32 stride, epilogue, t;
};

LINEAR_FN void write_one(const Output& to, u32 row, u32 column, float value) {
    float* out = to.out + static_cast<u64>(row) * to.stride + column;
    *out = to.epilogue == ADD ? *out + value : value;
}

// Writes a warp's sums: acc[m][n] is row tile m times rows 8n .. of the warp's ROWS / 2, as the mma leaves them. `most`: what the sums of
// rows 0..7 and 8..15 of a tile are multiplied with besides their row scales.
template <int ROWS> LINEAR_FN void write_sums(const Output& to, const Matrix& w, Corner at, const float acc[WARP_TILES][ROWS / 16][4],
                                              const float2 most[WARP_TILES]) {
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, c = lane & 3;
    const bool paired = w.paired != 0;
    const u32 inter = w.rows / 2, end = paired ? inter : w.rows;
#pragma unroll
    for (int m = 0; m < WARP_TILES; m++) {
        const u32 tile = at.tile + m;
        if (tile >= w.row_tiles) break;
        const float* row_scales = reinterpret_cast<const float*>(w.row_scales) + 16 * tile + g;
        const float low_scale = row_scales[0] * most[m].x, high_scale = row_scales[8] * most[m].y;
        // The row of the weight; of a paired one, the row of gate or up.
        const u32 feature = paired ? 8 * tile + g : 16 * tile + g;
#pragma unroll
        for (int n = 0; n < ROWS / 16; n++) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const u32 row = at.row + warp % 2 * (ROWS / 2) + 8 * n + 2 * c + j;
                if (row >= to.t) continue;
                const float of_row = to.undo[row];
                const float low = acc[m][n][j] * (low_scale * of_row), high = acc[m][n][2 + j] * (high_scale * of_row);
                if (to.epilogue == SWIGLU) {
                    if (feature < inter) write_one(to, row, feature, low / (1.0f + expf(-low)) * high);
                    continue;
                }
                if (feature < end) write_one(to, row, feature, low);
                if (paired ? feature < end : feature + 8 < end) write_one(to, row, feature + (paired ? inter : 8), high);
            }
        }
    }
}
