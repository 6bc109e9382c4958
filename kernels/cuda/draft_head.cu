// The head that drafts are proposed with, made of the model's own on the device: a copy of some or all of its rows, rounded to
// fewer bits. And logits of such rows in their places among all tokens. src/cpu/draft_head.rs defines both.
#include "tile.cuh"

#define DRAFT_FN static __device__ __forceinline__

static constexpr u32 THREADS = 256;
static constexpr u32 NOWHERE = 0xffffffffu;

struct DraftRows {
    Matrix head;
    const u32* ids;    // [rows]
    u8* numbers;       // [rows, cols] as a checkpoint stores the target's format, for pack.cu
    u8* scales;        // NVFP4: [rows, cols / 16]
    float* row_scales; // [rows] of the target
    u32 target, kept;  // kept: numbers and row scales as they are
};
static_assert(sizeof(DraftRows) == 88, "as in draft_head.rs");

// The 16 numbers of row `id` from column 16 * part on, without the row's scale. Returns their own scale where they have one.
template <u32 FMT> DRAFT_FN float sixteen(float to[16], const Matrix& head, u32 id, u32 part) {
    using T = Tile<FMT>;
    const u32 tile_row = id / 16, r = id % 16, kt = part / 4, lane = 4 * (r % 8) + part % 4;
    typename T::Raw raw;
    T::template load<true>(raw, reinterpret_cast<const u8*>(head.tiles) + (static_cast<u64>(tile_row) * head.k_tiles + kt) * T::BYTES, lane);
    const auto ready = T::ready(raw, lane);
    float scale = FMT == NVFP4 ? 16384.0f : 1.0f;
    if (head.block_scales)
        scale *= reinterpret_cast<const float*>(head.block_scales)[(static_cast<u64>(tile_row) * ((head.cols + 127) / 128) + kt / 2) * 2 + r / 8];
#pragma unroll
    for (int s = 0; s < 4; s++) {
        float value[4] = {};
#pragma unroll
        for (int p = 0; p < T::PARTS; p++) {
            u32 a[4];
            T::step(a, raw, ready, s, p);
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const u16 bits = static_cast<u16>((r < 8 ? a[e & 2] : a[(e & 2) + 1]) >> (16 * (e & 1)));
                value[e] += T::BFLOAT ? bf16_to_f32(bits) : f16_to_f32(bits);
            }
        }
#pragma unroll
        for (int e = 0; e < 4; e++) to[4 * s + e] = value[e] * scale;
    }
    if constexpr (FMT == NVFP4) return f16_to_f32(static_cast<u16>((r < 8 ? ready.scale[0] : ready.scale[1]) & 0xffffu));
    return 0.0f;
}

// Writes 16 numbers of row `row`, times `factor`, as the target has them. `s`: their scale, if it is kept.
DRAFT_FN void store_sixteen(const DraftRows& args, u32 row, u32 part, const float x[16], float factor, float s) {
    const u32 cols = args.head.cols, first = 16 * part;
    const u64 at = static_cast<u64>(row) * cols + first;
    if (args.target == NVFP4) {
        // Columns are a multiple of 16.
        if (!args.kept) {
            float most = 0;
#pragma unroll
            for (u32 i = 0; i < 16; i++) most = fmaxf(most, fabsf(x[i] * factor));
            s = most / 6.0f;
        }
        const u8 code = static_cast<u8>(f32x2_to_e4m3x2(s, 0.0f) & 0xffu);
        s = f16_to_f32(static_cast<u16>(e4m3x2_to_f16x2(code) & 0xffffu));
#pragma unroll
        for (u32 i = 0; i < 8; i++)
            args.numbers[at / 2 + i] = static_cast<u8>(s != 0.0f ? f32_to_e2m1(x[2 * i] * factor / s) | f32_to_e2m1(x[2 * i + 1] * factor / s) << 4 : 0);
        args.scales[at / 16] = code;
        return;
    }
#pragma unroll
    for (u32 i = 0; i < 16; i++) {
        if (first + i >= cols) continue;
        const float v = x[i] * factor;
        if (args.target == F32) reinterpret_cast<float*>(args.numbers)[at + i] = v;
        if (args.target == F16) reinterpret_cast<u16*>(args.numbers)[at + i] = static_cast<u16>(f32x2_to_f16x2(v, 0.0f) & 0xffffu);
        if (args.target == BF16) reinterpret_cast<u16*>(args.numbers)[at + i] = f32_to_bf16(v);
        if (args.target == FP8) args.numbers[at + i] = static_cast<u8>(f32x2_to_e4m3x2(v, 0.0f) & 0xffu);
    }
}

// A block per row: first its largest number, which decides what it is multiplied with, then the row.
template <u32 FMT> DRAFT_FN void draft_row(const DraftRows& args, float* largest) {
    const u32 row = blockIdx.x, id = args.ids[row], parts = (args.head.cols + 15) / 16;
    const float scale = reinterpret_cast<const float*>(args.head.row_scales)[id];
    // NVFP4's row scales make up for the 2^14 of its products (tile.cuh).
    const float unit = args.target == NVFP4 ? 16384.0f : 1.0f;
    float factor = 1.0f, undo = scale;
    if (FMT == NVFP4) undo = scale / 16384.0f;
    if (!args.kept) {
        float most = 0;
        for (u32 part = threadIdx.x; part < parts; part += THREADS) {
            float x[16];
            sixteen<FMT>(x, args.head, id, part);
#pragma unroll
            for (u32 i = 0; i < 16; i++) most = fmaxf(most, fabsf(x[i]));
        }
#pragma unroll
        for (int with = 16; with > 0; with /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, with));
        if (threadIdx.x % 32 == 0) largest[threadIdx.x / 32] = most;
        __syncthreads();
        most = 0;
#pragma unroll
        for (u32 w = 0; w < THREADS / 32; w++) most = fmaxf(most, largest[w]);
        if (args.target == FP8 || args.target == NVFP4) {
            // The power of two that brings the largest number into [2^7, 2^8) for FP8, [2^10, 2^11) for NVFP4.
            const u32 e = min((args.target == FP8 ? 261u : 264u) - (__float_as_uint(most) >> 23), 253u);
            factor = __uint_as_float(e << 23);
            undo *= __uint_as_float((254u - e) << 23);
        }
    }
    if (threadIdx.x == 0) args.row_scales[row] = undo * unit;
    for (u32 part = threadIdx.x; part < parts; part += THREADS) {
        float x[16];
        const float s = sixteen<FMT>(x, args.head, id, part);
        store_sixteen(args, row, part, x, factor, s);
    }
}

KERNEL(draft_head_rows, THREADS, 2, DraftRows) {
    SHARED(float, largest, THREADS / 32);
    pdl_wait();
    switch (args.head.format) {
    case F32: return draft_row<F32>(args, largest);
    case F16: return draft_row<F16>(args, largest);
    case BF16: return draft_row<BF16>(args, largest);
    case FP8: return draft_row<FP8>(args, largest);
    default: return draft_row<NVFP4>(args, largest);
    }
}

struct SpreadLogits {
    const float* x;   // [rows, kept]
    const u32* place; // [vocab] the column of x, or NOWHERE
    float* out;       // [rows, vocab]
    u32 vocab, kept;
};
static_assert(sizeof(SpreadLogits) == 32, "as in draft_head.rs");

KERNEL(draft_head_spread, THREADS, 4, SpreadLogits) {
    pdl_launch();
    pdl_wait();
    const u32 token = blockIdx.y * THREADS + threadIdx.x;
    if (token >= args.vocab) return;
    const u32 column = args.place[token];
    args.out[static_cast<u64>(blockIdx.x) * args.vocab + token] =
        column == NOWHERE ? -INFINITY : args.x[static_cast<u64>(blockIdx.x) * args.kept + column];
}
