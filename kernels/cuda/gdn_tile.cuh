// Fragments of the chunked gated delta rule: f16 tiles in shared memory, and f32 numbers split into two f16.
#pragma once

#include "gdn.cuh"

// Byte of the 16-byte piece `piece` of a row of ROW_BYTES in shared memory. Eight rows of one piece lie in eight different
// groups of banks.
template <u32 ROW_BYTES> __device__ __forceinline__ u32 gdn_at(u32 row, u32 piece) {
    return row * ROW_BYTES + ((piece ^ (row & 7)) << 4);
}

// Both squares of a chunk, times this in memory: a small beta, or a query almost at right angles to its key, is then no
// subnormal number of f16 (they are at most 1).
constexpr float GDN_SQUARE = 8192.0f;

// Where a lane's share of a fragment lies, from the start of its tile (a multiple of 256 bytes): of a B operand, of an A or
// transposed B operand. The steps of a product are an exclusive or away, its tiles a constant: no register per step.
template <u32 ROW_BYTES> __device__ __forceinline__ u32 gdn_lane_b(u32 lane) {
    return gdn_at<ROW_BYTES>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
}
template <u32 ROW_BYTES> __device__ __forceinline__ u32 gdn_lane_a(u32 lane) {
    return gdn_at<ROW_BYTES>(lane % 16, lane / 16);
}

// B operands of two neighbouring n-tiles, b[0..1] and b[2..3]: n = rows 16 pair .. + 15 of the tile, k = its columns
// 16 step .. + 15. `at` is the tile's start plus gdn_lane_b.
template <u32 ROW_BYTES> __device__ __forceinline__ void gdn_load_b(u32 b[4], const u8* memory, u32 at, u32 pair, u32 step) {
    ldmatrix4(b, memory + (at ^ (step << 5)) + pair * 16 * ROW_BYTES);
}

// The same of the transposed tile: n = columns 16 pair .. + 15, k = rows 16 step .. + 15. `at`: plus gdn_lane_a.
template <u32 ROW_BYTES>
__device__ __forceinline__ void gdn_load_b_trans(u32 b[4], const u8* memory, u32 at, u32 pair, u32 step) {
    ldmatrix4_trans(b, memory + (at ^ (pair << 5)) + step * 16 * ROW_BYTES);
}

// A operand: m = rows 16 m .. + 15, k = columns 16 step .. + 15. `at`: plus gdn_lane_a.
template <u32 ROW_BYTES> __device__ __forceinline__ void gdn_load_a(u32 a[4], const u8* memory, u32 at, u32 m, u32 step) {
    ldmatrix4(a, memory + (at ^ (step << 5)) + m * 16 * ROW_BYTES);
}

// x and y as f16 pairs: hi + lo leaves out 2^-22.
__device__ __forceinline__ void gdn_split(float x, float y, u32& hi, u32& lo) {
    hi = f32x2_to_f16x2(x, y);
    lo = f32x2_to_f16x2(x - f16_to_f32(u16(hi)), y - f16_to_f32(u16(hi >> 16)));
}

// Two neighbouring result tiles d [16, 8] as one A operand [16, 16], times `by`: a result is held as an operand is.
__device__ __forceinline__ void gdn_operand(const float left[4], const float right[4], float by, u32 hi[4], u32 lo[4]) {
    gdn_split(left[0] * by, left[1] * by, hi[0], lo[0]);
    gdn_split(left[2] * by, left[3] * by, hi[1], lo[1]);
    gdn_split(right[0] * by, right[1] * by, hi[2], lo[2]);
    gdn_split(right[2] * by, right[3] * by, hi[3], lo[3]);
}

// A power of two that brings a warp's largest number into [2^13, 2^14), and its inverse: f16 neither overflows nor loses
// small numbers.
struct Power {
    float by, undo;
};
template <u32 TILES> __device__ __forceinline__ Power gdn_power(const float d[TILES][4]) {
    float most = 0.0f;
#pragma unroll
    for (u32 n = 0; n < TILES; ++n) {
        most = fmaxf(most, fmaxf(fmaxf(fabsf(d[n][0]), fabsf(d[n][1])), fmaxf(fabsf(d[n][2]), fabsf(d[n][3]))));
    }
#pragma unroll
    for (int with = 16; with > 0; with >>= 1) most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, with));
    u32 exponent = max(__float_as_uint(most) >> 23, 20u);
    return {__uint_as_float((267 - exponent) << 23), __uint_as_float((exponent - 13) << 23)};
}

// Which chunk of which segment.
struct Chunk {
    u32 segment, first, rows;  // rows `first .. first + rows` of the segment
    bool found;
};

__device__ __forceinline__ u32 gdn_chunks(const GdnStep& args, const Pass& pass, u32 segment) {
    return gdn_chunked(args, pass, segment) ? (pass.seg_rows[segment] + GDN_CHUNK - 1) / GDN_CHUNK : 0;
}
