// Rows of x as the B operand of decode: 1 to 16 rows, each split into hi + lo of 16 bits, in shared memory.
//
// Row i of the pass is columns 2i (hi) and 2i + 1 (lo) of the mma, so its sum comes out in one lane as d[0] + d[1] (weight
// row g) and d[2] + d[3] (row g + 8), of pass row 4n + c for column group n. A column of an mma knows nothing of the others:
// the bits of a row depend neither on the rows beside it nor on their number.
//
// For f16 a row's 64 numbers of a tile are first multiplied by the power of two that brings the largest into [2^13, 2^14):
// nothing overflows and what is left out is 2^-22 of it. The sum of the tile is multiplied by its inverse, `undo`. bf16
// needs no factor and leaves out 2^-17.
//
// Memory of one tile, 256 bytes a row: [q = steps 2q, 2q + 1][column][c] 16 bytes = the lane's b[2q][2], b[2q + 1][2]; read by
// 32 lanes as 512 consecutive bytes.
#pragma once
#include "tile.cuh"

#define ACTIVATION_FN static __device__ __forceinline__

// A tile of one row: what its sum is multiplied with, and the sum of squares of x before the norm's weight.
struct RowTile {
    float undo, squares;
};

// Bytes of a staged tile of t rows, without its RowTiles.
static constexpr u32 STAGED_ROW = 256;

// Sum over the LANES lanes that share a row; the same bits in each.
template <int LANES> ACTIVATION_FN float sum_of_lanes(float v) {
#pragma unroll
    for (int with = 1; with < LANES; with *= 2) v += __shfl_xor_sync(0xffffffffu, v, with);
    return v;
}

template <int LANES> ACTIVATION_FN float largest_of_lanes(float v) {
#pragma unroll
    for (int with = 1; with < LANES; with *= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, with));
    return v;
}

// Exponent bits of the power of two that brings `largest` into [2^13, 2^14). Zero and denormals: as far as is safe.
ACTIVATION_FN u32 factor_exponent(float largest) {
    u32 e = __float_as_uint(largest) >> 23 & 255u;
    return min(267u - e, 253u);
}

// Two numbers into a pair of hi and a pair of lo.
template <bool BFLOAT> ACTIVATION_FN void split_pair(float a, float b, u32& hi, u32& lo) {
    if constexpr (BFLOAT) {
        hi = f32x2_to_bf16x2(a, b);
        lo = f32x2_to_bf16x2(a - __uint_as_float(hi << 16), b - __uint_as_float(hi & 0xffff0000u));
    } else {
        hi = f32x2_to_f16x2(a, b);
        lo = f32x2_to_f16x2(a - f16_to_f32(static_cast<u16>(hi)), b - f16_to_f32(static_cast<u16>(hi >> 16)));
    }
}

// Sixteen or eight numbers of a row of x, or of the norm's weight, on their way to shared memory.
template <int LANES> struct RowPiece {
    float4 x[16 / LANES];
};

ACTIVATION_FN float4 four_at(const float* at) {
    uint4 v = ld16(at);
    return make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w));
}

ACTIVATION_FN bool aligned16(const float* at) { return (reinterpret_cast<u64>(at) & 15) == 0; }

// Four numbers at column `at`, a multiple of 4, of a row `cols` wide; zeros beyond its end. The row may start anywhere.
ACTIVATION_FN float4 four_of_row(const float* row, u32 at, u32 cols) {
    if (at + 4 <= cols && aligned16(row)) return four_at(row + at);
    float4 v = make_float4(0, 0, 0, 0);
    if (at < cols) v.x = row[at];
    if (at + 1 < cols) v.y = row[at + 1];
    if (at + 2 < cols) v.z = row[at + 2];
    if (at + 3 < cols) v.w = row[at + 3];
    return v;
}

// Asks for this lane's part of tile `kt` of a row; see stage_row for the arguments. All loads leave before the first is
// waited for.
template <int LANES> ACTIVATION_FN void load_piece(RowPiece<LANES>& piece, const float* row, u32 cols, u32 kt, int lane) {
    constexpr int FOURS = 16 / LANES;
    const u32 begin = 64 * kt + 4 * FOURS * (lane & (LANES - 1));
#pragma unroll
    for (int s = 0; s < FOURS; s++) piece.x[s] = make_float4(0, 0, 0, 0);
    if (!row) return;
    if (aligned16(row) && begin + 4 * FOURS <= cols) {
#pragma unroll
        for (int s = 0; s < FOURS; s++) piece.x[s] = four_at(row + begin + 4 * s);
    } else {
#pragma unroll
        for (int s = 0; s < FOURS; s++) piece.x[s] = four_of_row(row, begin + 4 * s, cols);
    }
}

// Rounds what load_piece brought and puts it into the staged tile. `here`: this group of lanes has a row; `normed`: it is
// multiplied by weight + offset.
template <bool BFLOAT, int LANES>
ACTIVATION_FN void stage_piece(u8* b, RowTile* result, u32 t, u32 i, bool here, RowPiece<LANES>& piece, bool normed,
                               const RowPiece<LANES>& weight, float offset, int lane) {
    constexpr int FOURS = 16 / LANES;
    const u32 part = lane & (LANES - 1);
    float4* x = piece.x;
    float squares = 0, largest = 0;
#pragma unroll
    for (int s = 0; s < FOURS; s++) {
        if (normed) {
            squares = fmaf(x[s].x, x[s].x, squares);
            squares = fmaf(x[s].y, x[s].y, squares);
            squares = fmaf(x[s].z, x[s].z, squares);
            squares = fmaf(x[s].w, x[s].w, squares);
            x[s].x *= weight.x[s].x + offset;
            x[s].y *= weight.x[s].y + offset;
            x[s].z *= weight.x[s].z + offset;
            x[s].w *= weight.x[s].w + offset;
        }
        largest = fmaxf(fmaxf(largest, fmaxf(fabsf(x[s].x), fabsf(x[s].y))), fmaxf(fabsf(x[s].z), fabsf(x[s].w)));
    }
    squares = sum_of_lanes<LANES>(squares);
    float factor = 1, undo = 1;
    if constexpr (!BFLOAT) {
        const u32 e = factor_exponent(largest_of_lanes<LANES>(largest));
        factor = __uint_as_float(e << 23);
        undo = __uint_as_float((254u - e) << 23);
    }
    if (!here) return;
#pragma unroll
    for (int s = 0; s < FOURS; s += 2) {
        uint4 hi, lo;
        const float4 u = x[s], v = x[s + 1];
        split_pair<BFLOAT>(u.x * factor, u.y * factor, hi.x, lo.x);
        split_pair<BFLOAT>(u.z * factor, u.w * factor, hi.y, lo.y);
        split_pair<BFLOAT>(v.x * factor, v.y * factor, hi.z, lo.z);
        split_pair<BFLOAT>(v.z * factor, v.w * factor, hi.w, lo.w);
        const u32 eighth = FOURS / 2 * part + s / 2; // c and q
        u8* at = b + (eighth & 1) * 128 * t + 128 * i + 16 * (eighth >> 1);
        st16(at, hi);
        st16(at + 64, lo);
    }
    if (part == 0) *result = {undo, squares};
}

// Stages 32 / LANES tile rows at once, LANES (4 or 8) lanes to each: `row` (null: this group of lanes has none) is the row
// of x, `cols` wide, `kt` the tile; b the staged tile of `t` rows, i this row's number in it. With `weight` (f32 [cols]) x is
// multiplied by weight + offset. All 32 lanes of the warp call it.
template <bool BFLOAT, int LANES = 4>
ACTIVATION_FN void stage_row(u8* b, RowTile* result, u32 t, u32 i, const float* row, u32 cols, u32 kt, const float* weight,
                             float offset, int lane) {
    RowPiece<LANES> piece, of_weight;
    load_piece<LANES>(piece, row, cols, kt, lane);
    load_piece<LANES>(of_weight, row ? weight : nullptr, cols, kt, lane);
    stage_piece<BFLOAT, LANES>(b, result, t, i, row != nullptr, piece, weight != nullptr, of_weight, offset, lane);
}

// Where in a staged tile of `t` rows the lane's B operands of column group n lie. Columns without a row read those of row 0:
// their sums mean nothing, and nobody looks at them.
ACTIVATION_FN u32 staged_at(u32 t, int n, int lane) {
    return 4 * n + (lane >> 3) < static_cast<int>(t) ? 512 * n + 16 * lane : 16 * (lane & 3);
}

// The lane's B operands of steps 2q and 2q + 1 in column group n of a staged tile of `t` rows; zeros for columns without a
// row.
ACTIVATION_FN uint4 staged_b(const u8* b, u32 t, int q, int n, int lane) {
    if (4 * n + (lane >> 3) >= static_cast<int>(t)) return make_uint4(0, 0, 0, 0);
    return ld16(b + q * 128 * t + 512 * n + 16 * lane);
}

// d[n] += tile * staged x, for 4 N rows of which the first `t` are there; at[n] = staged_at(t, n, lane).
template <u32 FMT, int N>
ACTIVATION_FN void staged_mma(float d[N][4], const typename Tile<FMT>::Raw& raw, const u8* b, const u32 at[N], u32 t, int lane) {
    const auto ready = Tile<FMT>::ready(raw, lane);
#pragma unroll
    for (int q = 0; q < 2; q++) {
        uint4 x[N];
#pragma unroll
        for (int n = 0; n < N; n++) x[n] = ld16(b + q * 128 * t + at[n]);
#pragma unroll
        for (int s = 0; s < 2; s++) {
#pragma unroll
            for (int part = 0; part < Tile<FMT>::PARTS; part++) {
                u32 a[4];
                Tile<FMT>::step(a, raw, ready, 2 * q + s, part);
#pragma unroll
                for (int n = 0; n < N; n++) {
                    const u32 of_step[2] = {s == 0 ? x[n].x : x[n].z, s == 0 ? x[n].y : x[n].w};
                    mma_16<Tile<FMT>::BFLOAT>(d[n], a, of_step);
                }
            }
        }
    }
}
