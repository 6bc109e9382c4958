// Products of many rows with packed weights on tensor cores. x is rounded once to f16 (bf16 for bf16 weights); weights become
// 16-bit fragments in registers, from the same tiles that decode reads; sums are f32.
//
// Along the columns a block goes tile by tile (64): three of x lie in shared memory, copied asynchronously; the next weights
// are on their way to registers while these are multiplied. A row of x in shared memory has 144 bytes: the eight lanes that
// read 16 bytes at a time then meet all banks.
#include "linear_prefill.cuh"

// ---- Rounding of x ---------------------------------------------------------------------------------------------------

struct RoundArgs {
    u64 x;    // f32 [t, cols]
    u64 norm; // f32 [cols] or 0: x is normed first, x * rsqrt(mean(x^2) + eps) * (norm + offset)
    u64 out;  // f16 or bf16 [t, padded], zeros beyond cols
    u64 undo; // f32 [t]: what the sums of a row are multiplied with
    float eps, offset;
    u32 cols, padded;
};
static_assert(sizeof(RoundArgs) == 48, "as in linear_prefill.rs");

// A row per block. f16: times the power of two that brings its largest number into [2^13, 2^14).
template <bool BFLOAT> LINEAR_FN void round_row(const RoundArgs& args, float* shared) {
    pdl_launch();
    pdl_wait();
    const float* x = reinterpret_cast<const float*>(args.x) + static_cast<u64>(blockIdx.x) * args.cols;
    const float* norm = reinterpret_cast<const float*>(args.norm);
    u32* out = reinterpret_cast<u32*>(args.out) + static_cast<u64>(blockIdx.x) * (args.padded / 2);
    float squares = 0, largest = 0;
    for (u32 i = threadIdx.x; i < args.cols; i += THREADS) {
        const float v = x[i];
        squares = fmaf(v, v, squares);
        largest = fmaxf(largest, fabsf(norm ? v * (norm[i] + args.offset) : v));
    }
#pragma unroll
    for (int with = 16; with > 0; with /= 2) {
        squares += __shfl_xor_sync(0xffffffffu, squares, with);
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, with));
    }
    if (threadIdx.x % 32 == 0) {
        shared[threadIdx.x / 32] = squares;
        shared[THREADS / 32 + threadIdx.x / 32] = largest;
    }
    __syncthreads();
    squares = 0;
    largest = 0;
#pragma unroll
    for (int w = 0; w < THREADS / 32; w++) {
        squares += shared[w];
        largest = fmaxf(largest, shared[THREADS / 32 + w]);
    }
    const float scale = norm ? 1.0f / sqrtf(squares / args.cols + args.eps) : 1.0f;
    const u32 e = BFLOAT ? 127u : min(267u - (__float_as_uint(largest * scale) >> 23 & 255u), 253u);
    const float factor = __uint_as_float(e << 23);
    if (threadIdx.x == 0) reinterpret_cast<float*>(args.undo)[blockIdx.x] = __uint_as_float((254u - e) << 23);
    for (u32 pair = threadIdx.x; pair < args.padded / 2; pair += THREADS) {
        float v[2] = {0, 0};
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const u32 i = 2 * pair + j;
            if (i < args.cols) v[j] = (norm ? x[i] * scale * (norm[i] + args.offset) : x[i]) * factor;
        }
        out[pair] = BFLOAT ? f32x2_to_bf16x2(v[0], v[1]) : f32x2_to_f16x2(v[0], v[1]);
    }
}

KERNEL(linear_round_f16, THREADS, 4, RoundArgs) {
    SHARED(float, shared, THREADS / 16);
    round_row<false>(args, shared);
}

KERNEL(linear_round_bf16, THREADS, 4, RoundArgs) {
    SHARED(float, shared, THREADS / 16);
    round_row<true>(args, shared);
}

// ---- Products --------------------------------------------------------------------------------------------------------

struct PrefillArgs {
    Matrix w;
    u64 x;        // f16 or bf16 [t, 64 k_tiles], rounded
    u64 undo;     // f32 [t]
    u64 out;      // f32 [t, stride]
    u32 stride, epilogue;
    u32 t, unused;
};
static_assert(sizeof(PrefillArgs) == 88, "as in linear_prefill.rs");

constexpr u32 ROW_BYTES = 144; // of x in shared memory

// Copies tile `kt` of the block's rows of x.
template <int ROWS> LINEAR_FN void copy_x(const PrefillArgs& args, u8* stage, u32 first_row, u32 kt) {
    const u32 row_bytes = args.w.k_tiles * 128;
    const u8* x = reinterpret_cast<const u8*>(args.x) + kt * 128;
#pragma unroll
    for (int i = 0; i < ROWS * 8 / THREADS; i++) {
        const u32 piece = threadIdx.x + i * THREADS, row = first_row + piece / 8;
        const bool valid = row < args.t;
        cp_async16(stage + piece / 8 * ROW_BYTES + piece % 8 * 16, x + static_cast<u64>(valid ? row : 0) * row_bytes + piece % 8 * 16,
                   valid);
    }
}

// Largest block scale of the eight rows of each half of a row tile: what their ratios are taken to.
LINEAR_FN float2 largest_scale(const float* scales, u32 blocks) {
    float2 most = make_float2(0, 0);
    for (u32 b = 0; b < blocks; b++) {
        most.x = fmaxf(most.x, fabsf(scales[2 * b]));
        most.y = fmaxf(most.y, fabsf(scales[2 * b + 1]));
    }
    return most;
}

LINEAR_FN u32 ratio_pair(float scale, float most) {
    const float ratio = most > 0 ? scale / most : 0.0f;
    return f32x2_to_f16x2(ratio, ratio);
}

// SCALED: the weight has block scales. Their ratios to the largest of the row tile go into the f16 fragments.
template <u32 FMT, int ROWS, bool SCALED> LINEAR_FN void prefill(const PrefillArgs& args, u8* shared) {
    using T = Tile<FMT>;
    constexpr int GROUPS = ROWS / 16; // of eight rows, of a warp
    pdl_launch();
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, c = lane & 3;
    const u32 k_tiles = args.w.k_tiles, row_tiles = args.w.row_tiles;
    const Corner at = corner_of<ROWS>(args.w, args.t, warp);

    const u8* tiles[WARP_TILES];
    const float* scales[WARP_TILES];
    float2 most[WARP_TILES];
    typename T::Raw next[WARP_TILES];
    const u32 blocks = (args.w.cols + 127) / 128;
#pragma unroll
    for (int m = 0; m < WARP_TILES; m++) {
        const u32 tile = min(at.tile + m, row_tiles - 1);
        tiles[m] = reinterpret_cast<const u8*>(args.w.tiles) + static_cast<u64>(tile) * k_tiles * T::BYTES;
        T::template load<false>(next[m], tiles[m], lane);
        most[m] = make_float2(1, 1);
        if constexpr (SCALED) {
            scales[m] = reinterpret_cast<const float*>(args.w.block_scales) + static_cast<u64>(tile) * blocks * 2;
            most[m] = largest_scale(scales[m], blocks);
        }
    }
    pdl_wait();
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < static_cast<int>(k_tiles)) copy_x<ROWS>(args, shared + s * ROWS * ROW_BYTES, at.row, s);
        cp_async_commit();
    }

    float acc[WARP_TILES][GROUPS][4] = {};
    const u32 mine = (warp % 2 * (ROWS / 2) + g) * ROW_BYTES + c * 32;
    u32 stage = 0, into = STAGES - 1;
#pragma unroll 1
    for (u32 kt = 0; kt < k_tiles; kt++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        if (kt + STAGES - 1 < k_tiles) copy_x<ROWS>(args, shared + into * ROWS * ROW_BYTES, at.row, kt + STAGES - 1);
        cp_async_commit();
        typename T::Raw raw[WARP_TILES];
        u32 ratio[WARP_TILES][2];
#pragma unroll
        for (int m = 0; m < WARP_TILES; m++) {
            raw[m] = next[m];
            if (kt + 1 < k_tiles) T::template load<false>(next[m], tiles[m] + static_cast<u64>(kt + 1) * T::BYTES, lane);
            if constexpr (SCALED) {
                ratio[m][0] = ratio_pair(scales[m][kt / 2 * 2], most[m].x);
                ratio[m][1] = ratio_pair(scales[m][kt / 2 * 2 + 1], most[m].y);
            }
        }
        const u8* x = shared + stage * ROWS * ROW_BYTES + mine;
#pragma unroll
        for (int q = 0; q < 2; q++) {
            u32 a[WARP_TILES][2][4];
#pragma unroll
            for (int m = 0; m < WARP_TILES; m++) {
                const auto ready = T::ready(raw[m], lane);
#pragma unroll
                for (int s = 0; s < 2; s++) {
                    T::step(a[m][s], raw[m], ready, 2 * q + s, 0);
                    if constexpr (SCALED) {
#pragma unroll
                        for (int r = 0; r < 4; r++) a[m][s][r] = hmul2(a[m][s][r], ratio[m][r & 1]);
                    }
                }
            }
// Two groups of rows at a time: a sum is added to again only after three others.
#pragma unroll
            for (int n = 0; n < GROUPS; n += 2) {
                uint4 b[2];
#pragma unroll
                for (int k = 0; k < 2; k++) b[k] = ld16(x + (n + k) * 8 * ROW_BYTES + q * 16);
#pragma unroll
                for (int s = 0; s < 2; s++) {
#pragma unroll
                    for (int k = 0; k < 2; k++) {
                        const u32 of_step[2] = {s == 0 ? b[k].x : b[k].z, s == 0 ? b[k].y : b[k].w};
#pragma unroll
                        for (int m = 0; m < WARP_TILES; m++) mma_16<T::BFLOAT>(acc[m][n + k], a[m][s], of_step);
                    }
                }
            }
        }
        stage = stage + 1 == STAGES ? 0 : stage + 1;
        into = into + 1 == STAGES ? 0 : into + 1;
    }

    const Output to = {reinterpret_cast<float*>(args.out), reinterpret_cast<const float*>(args.undo), args.stride, args.epilogue, args.t};
    write_sums<ROWS>(to, args.w, at, acc, most);
}

#define LINEAR_PREFILL(name, format, scaled)                                                                           \
    KERNEL(linear_##name##_prefill_64, THREADS, 2, PrefillArgs) {                                                      \
        DYNAMIC_SHARED(shared);                                                                                        \
        prefill<format, 64, scaled>(args, shared);                                                                     \
    }                                                                                                                  \
    KERNEL(linear_##name##_prefill_128, THREADS, 1, PrefillArgs) {                                                     \
        DYNAMIC_SHARED(shared);                                                                                        \
        prefill<format, 128, scaled>(args, shared);                                                                    \
    }

LINEAR_PREFILL(f16, F16, false)
LINEAR_PREFILL(bf16, BF16, false)
LINEAR_PREFILL(fp8, FP8, false)
LINEAR_PREFILL(fp8_block, FP8, true)
LINEAR_PREFILL(nvfp4, NVFP4, false)
