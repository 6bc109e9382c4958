// Rows rounded to NVFP4 in the order in which the FP4 mma takes them (fp4.cuh): the same bits as src/fp4.rs.
#include "fp4.cuh"

#if HEARTH_HAS_NVF4

static constexpr u32 WARPS = 4;
static constexpr u32 ALL_LANES = 0xffffffffu;

// Numbers at, at + 1, .. at + 3 of a row after its norm; zeros beyond its end.
FP4_FN float4 four_numbers(const Fp4Quantise& args, const float* x, u32 at, u32 cols, float scale) {
    float v[4] = {0, 0, 0, 0};
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
        if (at + j >= cols) continue;
        v[j] = x[at + j];
        if (args.norm) v[j] = v[j] * scale * (args.norm[at + j] + args.offset);
    }
    return make_float4(v[0], v[1], v[2], v[3]);
}

FP4_FN float largest_of(const float4& v) { return fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))); }

// False for infinities and NaN.
FP4_FN bool finite(float v) { return (__float_as_uint(v) & 0x7f800000u) != 0x7f800000u; }

// A warp per row, four lanes to each 16 columns. A row is first multiplied by the power of two that brings its largest number
// into [2^10, 2^11), so that the scales reach high into E4M3; undo takes that back, and the 2^14 of the weight's row scales.
KERNEL(fp4_quantise, 32 * WARPS, 4, Fp4Quantise) {
    pdl_launch();
    pdl_wait();
    const u32 row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= args.rows) return; // the whole warp
    u32 cols = args.cols;
    if (args.ids) {
        const u32 id = args.ids[row];
        if (id >= args.experts || args.table[id].format != NVFP4) return;
        cols = args.table[id].cols;
    }
    const float* x = args.x + u64(row) * args.stride;
    float scale = 1;
    if (args.norm) {
        float squares = 0;
        for (u32 i = lane; i < cols; i += 32) squares = fmaf(x[i], x[i], squares);
#pragma unroll
        for (int with = 16; with > 0; with /= 2) squares += __shfl_xor_sync(ALL_LANES, squares, with);
        scale = 1.0f / sqrtf(squares / static_cast<float>(cols) + args.eps);
    }
    float largest = 0;
    bool number = true;
    for (u32 at = 4 * lane; at < cols; at += 128) {
        const float4 v = four_numbers(args, x, at, cols, scale);
        number = number && finite(v.x) && finite(v.y) && finite(v.z) && finite(v.w);
        largest = fmaxf(largest, largest_of(v));
    }
#pragma unroll
    for (int with = 16; with > 0; with /= 2) largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, with));
    number = __all_sync(ALL_LANES, number);
    const u32 e = min(264u - (__float_as_uint(largest) >> 23), 239u);
    const float factor = __uint_as_float(e << 23);
    if (lane == 0) args.undo[row] = number ? __uint_as_float((240u - e) << 23) : __uint_as_float(0x7fc00000u);

    const u32 block = lane / 4 % 4, quarter = lane % 4;
    for (u32 half = 0; half < 2 * args.groups; half++) {
        u8* out = args.out + (u64(row) * args.groups + half / 2) * FP4_GROUP;
        float4 v = make_float4(0, 0, 0, 0);
        if (number) v = four_numbers(args, x, 128 * half + 4 * lane, cols, scale);
        v.x *= factor, v.y *= factor, v.z *= factor, v.w *= factor;
        float most = largest_of(v);
        most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 1));
        most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 2));
        const u32 code = f32x2_to_e4m3x2(most / 6.0f, 0.0f) & 0xffu;
        const float s = f16_to_f32(static_cast<u16>(e4m3x2_to_f16x2(static_cast<u16>(code)) & 0xffffu));
        u32 part = 0;
        if (s > 0) {
            part = static_cast<u32>(f32_to_e2m1(v.x / s)) << 12 | static_cast<u32>(f32_to_e2m1(v.y / s)) << 28 |
                   static_cast<u32>(f32_to_e2m1(v.z / s)) << 4 | static_cast<u32>(f32_to_e2m1(v.w / s)) << 20;
        }
        // Columns 4 to 7 of a half lie in the nibbles below those of 0 to 3.
        if (quarter & 1) part >>= 4;
        part |= __shfl_xor_sync(ALL_LANES, part, 1);
        const u32 tile = 2 * (half % 2) + lane / 16;
        if (quarter % 2 == 0) {
            const u32 of_lane = 2 * (block >> 1) + quarter / 2;
            *reinterpret_cast<u32*>(out + 32 * of_lane + 8 * tile + 4 * (block & 1)) = part;
        }
        if (quarter == 0) out[128 + 4 * tile + (block >> 1) + 2 * (block & 1)] = static_cast<u8>(code);
    }
}

#endif
