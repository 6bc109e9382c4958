// Products of NVFP4 weights with rows that were rounded to NVFP4 too, on the FP4 tensor cores of sm_121a. Opt-in, for
// prefill; on other chips none of it exists. src/fp4.rs defines the rounding; its numbers are exact here, and sums are f32.
//
// mma m16n8k64 wants, in lane 4g + t, eight codes of row g for k = 8t .. and eight for k = 32 + 8t .. (B: of column g), and
// has one scale for each 16 of k. A lane's 16 codes of a weight tile belong to one scale, block t of the tile's four, so the
// mma's k is dealt to the columns like this: lane t's first register is half t & 1 of block 2 (t >> 1), its second the same
// half of block 2 (t >> 1) + 1. Lanes 2p and 2p + 1 thus exchange one half each, and byte m of a scale register belongs to
// block 2 (m & 1) + (m >> 1). Within a register, nibble 4j + m is column j + {6, 2, 4, 0}[m] of its half: what the bits of a
// packed tile turn into with the fewest shifts.
//
// A rounded row is cut into groups of four tiles (256 columns), FP4_GROUP bytes each, zeros beyond the row's end:
//
//   32 t + 8 i + 4 b    register b of lane t for tile i
//   128 + 4 i           the scale register of tile i
#pragma once
#include "tile.cuh"

#if HEARTH_HAS_NVF4

#define FP4_FN static __device__ __forceinline__

static constexpr u32 FP4_GROUP = 144;

struct Fp4Quantise {
    const float* x;      // [rows, stride]
    const float* norm;   // [cols] or null: x is normed first, x * rsqrt(mean(x^2) + eps) * (norm + offset)
    const u32* ids;      // [rows] or null: the expert of each row, which knows its width; those of other formats are left out
    const Matrix* table;
    u8* out;             // [rows, groups * FP4_GROUP]
    float* undo;         // [rows]: what the sums of a row are multiplied with, besides the weight's row scale
    float eps, offset;
    u32 rows, stride, cols, groups, experts, unused;
};
static_assert(sizeof(Fp4Quantise) == 80, "as in the launcher");

// A lane's part of a tile as it lies in memory.
struct Fp4Raw {
    uint4 codes;
    uint2 scales; // byte 2b + r: of block b in row g + 8r
};

// The A operand.
struct Fp4Tile {
    u32 codes[4];
    u32 scales; // of row g in even lanes, of row g + 8 in odd ones
};

template <bool ONCE> FP4_FN void load_fp4(Fp4Raw& raw, const u8* tile, int lane) {
    raw.codes = fetch16<ONCE>(tile + 16 * lane);
    raw.scales = ld_stream8(tile + 512 + 8 * (lane >> 2));
}

// The bits of `yes` where the mask has ones, else those of `no`: one instruction.
FP4_FN u32 fp4_pick(u32 mask, u32 yes, u32 no) { return (yes & mask) | (no & ~mask); }

// The four codes of one row in the word of a step (Tile<NVFP4>::step tells where), in nibbles 3, 7 (columns 0 and 1) and 1, 5
// (2 and 3). The other nibbles hold anything.
FP4_FN u32 fp4_low_row(u32 w) {
    return fp4_pick(0xf000f000u, fp4_pick(0x80008000u, w, w << 3), fp4_pick(0x00800080u, w >> 7, w << 1));
}
FP4_FN u32 fp4_high_row(u32 w) {
    return fp4_pick(0xf000f000u, fp4_pick(0x80008000u, w << 3, w << 6), fp4_pick(0x00800080u, w >> 6, w << 4));
}

// Two steps' four codes each.
FP4_FN u32 fp4_half(u32 first, u32 second) { return fp4_pick(0xf0f0f0f0u, first, second >> 4); }

// All lanes of the warp take part.
FP4_FN Fp4Tile fp4_tile(const Fp4Raw& raw, int lane) {
    const uint4& w = raw.codes;
    u32 low[2] = {fp4_half(fp4_low_row(w.x), fp4_low_row(w.y)), fp4_half(fp4_low_row(w.z), fp4_low_row(w.w))};
    u32 high[2] = {fp4_half(fp4_high_row(w.x), fp4_high_row(w.y)), fp4_half(fp4_high_row(w.z), fp4_high_row(w.w))};
    // The mma's scales have no sign. Nobody writes a negative one, but the format has them.
    if ((raw.scales.x | raw.scales.y) & 0x80808080u) {
        const u32 mine = (lane & 2 ? raw.scales.y : raw.scales.x) >> (16 * (lane & 1));
        const u32 of_low = mine & 0x80u ? 0x88888888u : 0, of_high = mine & 0x8000u ? 0x88888888u : 0;
        low[0] ^= of_low, low[1] ^= of_low, high[0] ^= of_high, high[1] ^= of_high;
    }
    const bool odd = lane & 1;
    const u32 other_low = __shfl_xor_sync(0xffffffffu, odd ? low[0] : low[1], 1);
    const u32 other_high = __shfl_xor_sync(0xffffffffu, odd ? high[0] : high[1], 1);
    Fp4Tile tile;
    tile.codes[0] = odd ? other_low : low[0];
    tile.codes[1] = odd ? other_high : high[0];
    tile.codes[2] = odd ? low[1] : other_low;
    tile.codes[3] = odd ? high[1] : other_high;
    tile.scales = __byte_perm(raw.scales.x, raw.scales.y, odd ? 0x7351u : 0x6240u) & 0x7f7f7f7fu;
    return tile;
}

#endif
