// The mixture of experts: what its kernels share. A pair is one (row, slot) of the route, number row * slots + slot; the
// expert of a pair is ids[pair]. `table` holds the Matrix of gate/up of every expert, then of down of every expert.
#pragma once
#include "activation.cuh"
#include "tile.cuh"

#define MOE_FN static __device__ __forceinline__

// A kernel for whatever format an expert has; the others know theirs.
static constexpr u32 ANY_FORMAT = 5;

static constexpr u32 ALL = 0xffffffffu;

// Tiles of one warp that are staged together, one row of each by four lanes.
static constexpr u32 WINDOW = 8;

// Tiles whose weights a warp has under way at once: as many as `registers` 32-bit registers hold, but one at least.
template <u32 FMT> static __device__ constexpr u32 tiles_within(u32 registers) {
    const u32 each = sizeof(typename Tile<FMT>::Raw) / 4;
    return each * 8 <= registers ? 8 : each * 4 <= registers ? 4 : each * 2 <= registers ? 2 : 1;
}

MOE_FN float silu(float v) { return v / (1.0f + expf(-v)); }

// Not a number: the answer to an expert id that does not exist, as a kernel cannot refuse.
MOE_FN float nan_float() { return __uint_as_float(0x7fc00000u); }

// The opposite of four_of_row: columns beyond the row's end are left alone.
MOE_FN void put_four(float* row, u32 at, u32 cols, const float4& v) {
    if (at + 4 <= cols && (reinterpret_cast<u64>(row) & 15) == 0) {
        st16(row + at, make_uint4(__float_as_uint(v.x), __float_as_uint(v.y), __float_as_uint(v.z), __float_as_uint(v.w)));
        return;
    }
    if (at < cols) row[at] = v.x;
    if (at + 1 < cols) row[at + 1] = v.y;
    if (at + 2 < cols) row[at + 2] = v.z;
    if (at + 3 < cols) row[at + 3] = v.w;
}

// Shared memory of one warp: a window of tiles of up to `rows` rows, and what each sum is to be multiplied with.
MOE_FN u32 window_bytes(u32 rows) { return WINDOW * rows * (STAGED_ROW + static_cast<u32>(sizeof(RowTile))); }

// One warp's part of W[16 rows of tile row_tile] * x for n <= 4 rows: tiles first .. last of the columns. load() asks for
// the first weights and needs no x; run() does the work. The sum of weight row g (g + 8) and x row c ends in sum[0]
// (sum[1]) of lane 4g + c, in an order that depends on first and last only. AHEAD: tiles under way.
template <u32 FMT, u32 AHEAD> struct WarpProduct {
    typename Tile<FMT>::Raw raw[AHEAD];

    __device__ __forceinline__ void load(const Matrix& m, u32 row_tile, u32 first, u32 last, int lane) {
        const u8* tiles = tiles_of(m, row_tile);
#pragma unroll
        for (u32 j = 0; j < AHEAD; j++)
            if (first + j < last) load_tile<FMT>(raw[j], tiles + u64(first + j) * Tile<FMT>::BYTES, lane);
        // Needed last, but from as far away.
        if (lane == 0) prefetch_l2(reinterpret_cast<const float*>(m.row_scales) + 16 * u64(row_tile));
    }

    // Lane l knows in `x_row` the address of x row l & 3. `space` holds window_bytes(rows), rows >= n.
    __device__ __forceinline__ void run(float sum[2], const Matrix& m, u32 row_tile, u32 first, u32 last, const float* x_row,
                                        u32 n, u8* space, u32 rows, int lane) {
        const u8* tiles = tiles_of(m, row_tile);
        RowTile* results = reinterpret_cast<RowTile*>(space + WINDOW * rows * STAGED_ROW);
        const float* scales = reinterpret_cast<const float*>(m.block_scales);
        if (scales) scales += u64(row_tile) * ((m.cols + 127) / 128) * 2;
        const u32 c = lane & 3;
        sum[0] = sum[1] = 0;
        for (u32 base = first; base < last; base += WINDOW) {
            for (u32 i = 0; i < n; i++) {
                const u64 at = __shfl_sync(ALL, reinterpret_cast<u64>(x_row), static_cast<int>(i));
                // All of the window is asked for before the first is looked at.
                RowPiece<8> piece[WINDOW / 4];
                const float* row[WINDOW / 4];
#pragma unroll
                for (u32 q = 0; q < WINDOW / 4; q++) {
                    const u32 j = (lane >> 3) + 4 * q;
                    row[q] = base + j < last ? reinterpret_cast<const float*>(at) : nullptr;
                    load_piece<8>(piece[q], row[q], m.cols, base + j, lane);
                }
#pragma unroll
                for (u32 q = 0; q < WINDOW / 4; q++) {
                    const u32 j = (lane >> 3) + 4 * q;
                    stage_piece<Tile<FMT>::BFLOAT, 8>(space + j * rows * STAGED_ROW, results + j * rows + i, rows, i,
                                                      row[q] != nullptr, piece[q], false, piece[q], 0, lane);
                }
            }
            // Lane l has the block scales of columns 128 (base / 2 + l) ...
            float2 block = make_float2(1, 1);
            if (FMT == FP8 && scales && base / 2 + lane < (last + 1) / 2) {
                const uint2 v = ld_stream8(scales + 2 * (base / 2 + lane));
                block = make_float2(__uint_as_float(v.x), __uint_as_float(v.y));
            }
            __syncwarp();
#pragma unroll 1
            for (u32 round = 0; round < WINDOW; round += AHEAD) {
#pragma unroll
                for (u32 i = 0; i < AHEAD; i++) {
                    const u32 j = round + i, kt = base + j;
                    if (kt >= last) break;
                    const u8* staged = space + j * rows * STAGED_ROW;
                    u32 b[4][1][2];
#pragma unroll
                    for (int q = 0; q < 2; q++) {
                        const uint4 v = staged_b(staged, rows, q, 0, lane);
                        b[2 * q][0][0] = v.x, b[2 * q][0][1] = v.y, b[2 * q + 1][0][0] = v.z, b[2 * q + 1][0][1] = v.w;
                    }
                    float d[1][4] = {};
                    tile_mma<FMT, 1>(d, raw[i], b, lane);
                    if (kt + AHEAD < last)
                        load_tile<FMT>(raw[i], tiles + u64(kt + AHEAD) * Tile<FMT>::BYTES, lane);
                    const float undo = c < n ? results[j * rows + c].undo : 0;
                    float low = undo, high = undo;
                    if constexpr (FMT == FP8) {
                        low *= __shfl_sync(ALL, block.x, static_cast<int>(kt / 2 - base / 2));
                        high *= __shfl_sync(ALL, block.y, static_cast<int>(kt / 2 - base / 2));
                    }
                    sum[0] = fmaf(d[0][0] + d[0][1], low, sum[0]);
                    sum[1] = fmaf(d[0][2] + d[0][3], high, sum[1]);
                }
            }
            __syncwarp();
        }
    }

    __device__ __forceinline__ static const u8* tiles_of(const Matrix& m, u32 row_tile) {
        return reinterpret_cast<const u8*>(m.tiles) + u64(row_tile) * m.k_tiles * Tile<FMT>::BYTES;
    }
};
