// A tile of attend_decode.cu: 64 positions of keys or of values of one head in shared memory, and the operands of the tensor
// cores that lanes read from it.
#pragma once
#include "attend_split.cuh"
#include "kv.cuh"

static_assert(BLOCK == 64, "16 positions for each of four warps");

// A tile: 64 positions of keys or of values of one head. Heads of other sizes lie in one of the next larger HD, which is zeros
// behind them; their scales, as many to a position as it has, lie as close as in the cache.
template <u32 FMT, u32 HD> struct Layout {
    static constexpr u32 ROW = FMT == KV_BF16 ? 2 * HD : FMT == KV_FP8 ? HD : HD / 2; // bytes of a position
    static constexpr u32 SCALES = FMT == KV_NVFP4 ? HD / 16 : 0;
    static constexpr u32 TILE = BLOCK * (ROW + SCALES);
    static constexpr u32 LOAD = ROW / 4 < 16 ? ROW / 4 : 16;                           // bytes of keys a lane reads at once
    static constexpr u32 CHUNKS = ROW / (4 * LOAD);
    static constexpr u32 STEPS = HD / 16 / CHUNKS;                                     // k16 steps per chunk
    static constexpr u32 DIMS = HD / 32;                                               // dimensions of a lane in the second product
    // E2M1 pairs come as 2^-14 of their value; f16 weights are raised by 2^14 so that small ones keep their bits.
    static constexpr float KEY_SCALE = FMT == KV_NVFP4 ? 16384.0f : 1.0f;
    static constexpr float WEIGHT_SCALE = FMT == KV_BF16 ? 1.0f : 16384.0f;
    static constexpr float MIXED_SCALE = FMT == KV_FP8 ? 1.0f / 16384.0f : 1.0f;
};

// Byte `at` of a position in a tile. 16-byte pieces change places so that the lanes of one access use different banks:
// among keys neighbouring positions, among values every other one.
template <u32 FMT, u32 HD> __device__ inline u32 tile_at(bool value, u32 position, u32 at) {
    constexpr u32 ROW = Layout<FMT, HD>::ROW;
    u32 swap = 0;
    if (ROW >= 128) swap = value ? (position >> 1 & 3) << 1 : (position & 1) << 2;
    if (ROW == 64) swap = value ? position >> 1 & 3 : 0;
    return position * ROW + ((at / 16 ^ swap) * 16 | at % 16);
}

// The dimension that element e of pair p of lane c stands for at step s of chunk j.
template <u32 FMT, u32 HD> __device__ inline u32 dim_of(u32 j, u32 s, u32 c, u32 p, u32 e) {
    constexpr u32 EACH = HD / Layout<FMT, HD>::CHUNKS / 4; // of a lane in a chunk
    u32 first = 4 * EACH * j + EACH * c;
    // 3 ^ n is 3 - n. Written as a difference, nvcc 13.0 moves the 3 behind the step from 32 to 64 bits: an address 16 GiB off.
    if (FMT == KV_NVFP4) return first + 8 * (s / 2) + (3 ^ (2 * (s & 1) + p)) + 4 * e;
    return first + 4 * s + 2 * p + e;
}

template <u32 FMT> __device__ inline void multiply(float d[4], const u32 a[4], u32 b0, u32 b1) {
    u32 b[2] = {b0, b1};
    if (FMT == KV_BF16) mma_bf16(d, a, b);
    else mma_f16(d, a, b);
}

// Two numbers as the sum of two pairs of 16-bit ones.
template <u32 FMT> __device__ inline void in_two(float x, float y, u32& high, u32& low) {
    if (FMT == KV_BF16) {
        high = f32x2_to_bf16x2(x, y);
        low = f32x2_to_bf16x2(x - bf16_to_f32(high & 0xffffu), y - bf16_to_f32(high >> 16));
    } else {
        high = f32x2_to_f16x2(x, y);
        low = f32x2_to_f16x2(x - f16_to_f32(high & 0xffffu), y - f16_to_f32(high >> 16));
    }
}

__device__ inline u32 twice(u32 half) { return (half & 0xffffu) * 0x10001u; }

// One position's bytes of a chunk and its scales, as a lane holds them.
struct KeyBytes {
    u32 word[4];
    u32 scale[2];
};

template <u32 FMT, u32 HD, bool PADDED> __device__ inline KeyBytes load_key(const u8* tile, u32 position, u32 j, u32 c, u32 row_scales) {
    using L = Layout<FMT, HD>;
    KeyBytes k = {};
    const u8* at = tile + tile_at<FMT, HD>(false, position, L::LOAD * (4 * j + c));
    if (L::LOAD == 16) {
        uint4 v = ld16(at);
        k.word[0] = v.x, k.word[1] = v.y, k.word[2] = v.z, k.word[3] = v.w;
    } else {
        uint2 v = *reinterpret_cast<const uint2*>(at);
        k.word[0] = v.x, k.word[1] = v.y;
    }
    if (FMT == KV_NVFP4) {
        const u32 first = (4 * j + c) * (L::LOAD / 8);
        const u8* scales = tile + BLOCK * L::ROW + position * row_scales + first;
        // Behind a head that is shorter than the tile is another position's scale, which may be NaN.
        for (u32 i = 0; i < L::LOAD / 8; i++) k.scale[i] = !PADDED || first + i < row_scales ? twice(e4m3x2_to_f16x2(scales[i])) : 0u;
    }
    return k;
}

// Pair p of step s.
template <u32 FMT> __device__ inline u32 key_pair(const KeyBytes& k, u32 s, u32 p) {
    if (FMT == KV_BF16) return k.word[2 * s + p];
    if (FMT == KV_FP8) return e4m3x2_to_f16x2(static_cast<u16>(k.word[s] >> (16 * p) & 0xffffu));
    return hmul2(e2m1x2_to_f16x2_at(k.word[s / 2], 2 * (s & 1) + p), k.scale[s / 4]);
}

// The A operands of 16 positions (step t) for a lane's dimensions: tile i has dimension 2i in rows 0..7, 2i + 1 in 8..15.
template <u32 FMT, u32 HD>
__device__ inline void load_values(u32 a[][4], const u8* tile, u32 t, u32 warp, u32 g, u32 c, u32 held, u32 row_scales) {
    using L = Layout<FMT, HD>;
    constexpr u32 BYTES = L::DIMS * L::ROW / HD; // of a lane: NVFP4 1 2 4, FP8 2 4 8, BF16 4 8 16
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        u32 w[2][4] = {}, scale[2] = {};
#pragma unroll
        for (u32 n = 0; n < 2; n++) {
            u32 position = 16 * t + 8 * half + 2 * c + n;
            const u8* at = tile + tile_at<FMT, HD>(true, position, BYTES * (8 * warp + g));
            if constexpr (BYTES == 1) w[n][0] = *at;
            if constexpr (BYTES == 2) w[n][0] = *reinterpret_cast<const u16*>(at);
            if constexpr (BYTES == 4) w[n][0] = *reinterpret_cast<const u32*>(at);
            if constexpr (BYTES == 8) {
                uint2 v = *reinterpret_cast<const uint2*>(at);
                w[n][0] = v.x, w[n][1] = v.y;
            }
            if constexpr (BYTES == 16) {
                uint4 v = ld16(at);
                w[n][0] = v.x, w[n][1] = v.y, w[n][2] = v.z, w[n][3] = v.w;
            }
            if constexpr (FMT == KV_NVFP4) {
                // A 16-byte copy may bring scales of positions that nobody wrote.
                u8 code = tile[BLOCK * L::ROW + position * row_scales + L::DIMS * (8 * warp + g) / 16];
                scale[n] = position < held ? code : 0u;
            }
        }
        if constexpr (FMT == KV_BF16) {
#pragma unroll
            for (u32 i = 0; i < L::DIMS / 2; i++) {
                a[i][2 * half] = __byte_perm(w[0][i], w[1][i], 0x5410);
                a[i][2 * half + 1] = __byte_perm(w[0][i], w[1][i], 0x7632);
            }
        } else if constexpr (FMT == KV_FP8) {
#pragma unroll
            for (u32 i = 0; i < L::DIMS / 2; i++) {
                u32 both = __byte_perm(w[0][i / 2], w[1][i / 2], (i & 1) ? 0x7362 : 0x5140);
                a[i][2 * half] = e4m3x2_to_f16x2(static_cast<u16>(both & 0xffffu));
                a[i][2 * half + 1] = e4m3x2_to_f16x2(static_cast<u16>(both >> 16));
            }
        } else {
            u32 scales = e4m3x2_to_f16x2(static_cast<u16>(scale[0] | scale[1] << 8));
#pragma unroll
            for (u32 i = 0; i < L::DIMS / 2; i++) {
                u32 both = __byte_perm(w[0][0], w[1][0], i < 2 ? 0x5410 : 0x7632);
                a[i][2 * half] = hmul2(e2m1x2_to_f16x2_at(both, 3 - 2 * (i & 1)), scales);
                a[i][2 * half + 1] = hmul2(e2m1x2_to_f16x2_at(both, 2 - 2 * (i & 1)), scales);
            }
        }
    }
}
