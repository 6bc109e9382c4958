// Packed weights: tiles of 16 rows x 64 columns, read by one warp as the A operand of mma m16n8k16. Every kernel that
// multiplies by a weight goes through this file; src/cuda/pack.rs writes the layout.
//
// Row-tile major: tile (rt, kt) is number rt * k_tiles + kt. lane = 4g + c. A lane holds 32 numbers of a tile: step
// s = 0..3, register r = 0..3, half j = 0..1:
//
//   row = g + 8 * (r & 1)        column = 16 c + 4 s + 2 (r >> 1) + j
//
// The columns of a tile are thereby dealt to the steps in an order of our own, as a sum may take them: a lane's 16 columns
// of a row are consecutive, so that they share one NVFP4 scale, and the same 16 numbers of x are its B operands.
//
//   nvfp4   576 bytes  lane's 16 bytes at 16 lane: word s holds the eight codes of step s, bits laid out for Tile::step
//                      (half j in bits 16 j ..); then at 512 + 2 lane the E4M3 scales of rows g and g + 8
//   fp8    1024 bytes  lane's 16 bytes at 512 q + 16 lane: steps 2q and 2q + 1; bytes in order (s, r, j)
//   f16    2048 bytes  lane's 16 bytes at 512 s + 16 lane: word r is the pair
//   bf16   2048 bytes  the same
//   f32    4096 bytes  a bf16 tile of the rounded numbers, then one of the remainders
//
// Rows are padded to 16 and columns to 64 with zeros.
#pragma once
#include "hearth.cuh"

#define TILE_FN static __device__ __forceinline__

enum Format : u32 { F32 = 0, F16 = 1, BF16 = 2, FP8 = 3, NVFP4 = 4 };

// One packed weight; src/cuda/pack.rs has the same struct. What a finished sum of row r is multiplied with is
// row_scales[r] (it holds NVFP4's 2^14, see Tile<NVFP4>). block_scales, or 0: [row_tiles, ceil(cols / 128), 2] f32 for rows
// 0..7 and 8..15 of the tile, multiplied to the sum of each 128 columns.
struct Matrix {
    u64 tiles, row_scales, block_scales;
    u32 rows, cols, row_tiles, k_tiles;
    u32 format, paired; // paired: rows 0..7 of tile i are gate rows 8i.., rows 8..15 up rows 8i..
};
static_assert(sizeof(Matrix) == 48, "as in pack.rs");

TILE_FN u32 word_of(const uint4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

// ONCE: global memory that no other warp of the block reads.
template <bool ONCE> TILE_FN uint4 fetch16(const u8* at) { return ONCE ? ld_stream16(at) : ld16(at); }

// Of every format: BYTES of a tile; BFLOAT, the type of its fragments and of the B operand; PARTS, mma per step; Raw, the
// registers of a lane; load<ONCE>(); Ready, what step() needs besides; step(), the A fragment of step s.
template <u32 FMT> struct Tile;

template <> struct Tile<NVFP4> {
    static constexpr u32 BYTES = 576;
    static constexpr bool BFLOAT = false;
    static constexpr int PARTS = 1;
    struct Raw {
        uint4 codes;
        u32 scales; // of this lane and of its neighbour
    };
    struct Ready {
        u32 scale[2]; // f16 pairs: of row g, of row g + 8
    };
    template <bool ONCE> TILE_FN void load(Raw& raw, const u8* tile, int lane) {
        raw.codes = fetch16<ONCE>(tile + 16 * lane);
        const u8* scales = tile + 512 + 4 * (lane >> 1);
        raw.scales = ONCE ? ld_stream4(scales) : *reinterpret_cast<const u32*>(scales);
    }
    TILE_FN Ready ready(const Raw& raw, int lane) {
        u32 both = e4m3x2_to_f16x2(static_cast<u16>(raw.scales >> (16 * (lane & 1))));
        return {{(both & 0xffffu) | both << 16, (both & 0xffff0000u) | both >> 16}};
    }
    // The bits of a code lie so that a shift brings its sign to bit 15 and its magnitude to bits 11..9 of each half: an f16
    // that is the code's number times 2^-14. That product is exact, and so is the one with the scale (a multiple of
    // 2^-24 with at most six significant bits). r = 0: sign 15, magnitude 11..9; 1: 12, 8..6; 2: 14, 5..3; 3: 13, 2..0.
    TILE_FN void step(u32 a[4], const Raw& raw, const Ready& ready, int s, int) {
        u32 w = word_of(raw.codes, s);
        a[0] = hmul2(w & 0x8e008e00u, ready.scale[0]);
        a[1] = hmul2(w << 3 & 0x8e008e00u, ready.scale[1]);
        a[2] = hmul2((w << 1 & 0x80008000u) | (w << 6 & 0x0e000e00u), ready.scale[0]);
        a[3] = hmul2((w << 2 & 0x80008000u) | (w << 9 & 0x0e000e00u), ready.scale[1]);
    }
};

template <> struct Tile<FP8> {
    static constexpr u32 BYTES = 1024;
    static constexpr bool BFLOAT = false;
    static constexpr int PARTS = 1;
    struct Raw {
        uint4 codes[2];
    };
    struct Ready {};
    template <bool ONCE> TILE_FN void load(Raw& raw, const u8* tile, int lane) {
        raw.codes[0] = fetch16<ONCE>(tile + 16 * lane);
        raw.codes[1] = fetch16<ONCE>(tile + 512 + 16 * lane);
    }
    TILE_FN Ready ready(const Raw&, int) { return {}; }
    TILE_FN void step(u32 a[4], const Raw& raw, const Ready&, int s, int) {
        u32 low = word_of(raw.codes[s >> 1], 2 * (s & 1)), high = word_of(raw.codes[s >> 1], 2 * (s & 1) + 1);
        a[0] = e4m3x2_to_f16x2(static_cast<u16>(low));
        a[1] = e4m3x2_to_f16x2(static_cast<u16>(low >> 16));
        a[2] = e4m3x2_to_f16x2(static_cast<u16>(high));
        a[3] = e4m3x2_to_f16x2(static_cast<u16>(high >> 16));
    }
};

template <bool BF, int P> struct WideTile {
    static constexpr u32 BYTES = 2048 * P;
    static constexpr bool BFLOAT = BF;
    static constexpr int PARTS = P;
    struct Raw {
        uint4 pairs[4 * P];
    };
    struct Ready {};
    template <bool ONCE> TILE_FN void load(Raw& raw, const u8* tile, int lane) {
#pragma unroll
        for (int i = 0; i < 4 * P; i++) raw.pairs[i] = fetch16<ONCE>(tile + 512 * i + 16 * lane);
    }
    TILE_FN Ready ready(const Raw&, int) { return {}; }
    TILE_FN void step(u32 a[4], const Raw& raw, const Ready&, int s, int part) {
#pragma unroll
        for (int r = 0; r < 4; r++) a[r] = word_of(raw.pairs[4 * part + s], r);
    }
};
template <> struct Tile<F16> : WideTile<false, 1> {};
template <> struct Tile<BF16> : WideTile<true, 1> {};
template <> struct Tile<F32> : WideTile<true, 2> {};

template <u32 FMT> TILE_FN void load_tile(typename Tile<FMT>::Raw& raw, const u8* tile, int lane) {
    Tile<FMT>::template load<true>(raw, tile, lane);
}

template <bool BFLOAT> TILE_FN void mma_16(float d[4], const u32 a[4], const u32 b[2]) {
    if constexpr (BFLOAT) mma_bf16(d, a, b);
    else mma_f16(d, a, b);
}

// d[n] += tile * b[.][n]: four steps into N groups of eight columns. b[s][n] is the lane's B operand: x of column g at
// 16 c + 4 s + {0, 1} and {2, 3} of the tile's 64.
template <u32 FMT, int N>
TILE_FN void tile_mma(float d[N][4], const typename Tile<FMT>::Raw& raw, const u32 b[4][N][2], int lane) {
    const auto ready = Tile<FMT>::ready(raw, lane);
#pragma unroll
    for (int s = 0; s < 4; s++) {
#pragma unroll
        for (int part = 0; part < Tile<FMT>::PARTS; part++) {
            u32 a[4];
            Tile<FMT>::step(a, raw, ready, s, part);
#pragma unroll
            for (int n = 0; n < N; n++) mma_16<Tile<FMT>::BFLOAT>(d[n], a, b[s][n]);
        }
    }
}
