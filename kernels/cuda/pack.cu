// Repacks a checkpoint's matrix, which lies on the device as the file has it, into the tiles that tile.cuh draws. Once per
// weight, at load: a thread writes what one lane of one tile will read. Rows and columns beyond the matrix become zeros.
#include "tile.cuh"

struct PackArgs {
    u64 from;   // [rows, cols] numbers, row-major as stored; NVFP4: [rows, cols / 2] bytes, low nibble = even column
    u64 scales; // NVFP4: [rows, cols / 16] E4M3, else 0
    u64 tiles;
    u64 fault;  // u32, set to 1 where something is no finite number that a kernel would take for one
    u32 rows, cols, row_tiles, k_tiles;
    u32 paired, unused; // paired: gate rows, then as many up rows, interleaved by eights
};
static_assert(sizeof(PackArgs) == 56, "as in pack.rs");

constexpr u32 PACK_THREADS = 256;
constexpr u32 NO_ROW = 0xffffffffu;

// The stacked row that row r of a row tile holds.
__device__ __forceinline__ u32 row_of(const PackArgs& args, u32 row_tile, u32 r) {
    if (args.paired) {
        const u32 inter = args.rows / 2, i = row_tile * 8 + (r & 7);
        return i < inter ? (r >> 3) * inter + i : NO_ROW;
    }
    const u32 row = row_tile * 16 + r;
    return row < args.rows ? row : NO_ROW;
}

// The 16 numbers of `SIZE` bytes from column `column` of a row, zeros beyond its end.
template <u32 SIZE> __device__ __forceinline__ void load_sixteen(u32 to[4 * SIZE], const PackArgs& args, u32 row, u32 column) {
#pragma unroll
    for (u32 i = 0; i < 4 * SIZE; i++) to[i] = 0;
    if (row == NO_ROW || column >= args.cols) return;
    const u8* at = reinterpret_cast<const u8*>(args.from) + (u64(row) * args.cols + column) * SIZE;
    if (args.cols - column >= 16 && (reinterpret_cast<u64>(at) & 15) == 0) {
#pragma unroll
        for (u32 i = 0; i < SIZE; i++) {
            const uint4 v = ld_stream16(at + 16 * i);
            to[4 * i] = v.x, to[4 * i + 1] = v.y, to[4 * i + 2] = v.z, to[4 * i + 3] = v.w;
        }
        return;
    }
    const u32 bytes = min(16u, args.cols - column) * SIZE;
#pragma unroll
    for (u32 i = 0; i < 16 * SIZE; i++)
        if (i < bytes) to[i / 4] |= static_cast<u32>(at[i]) << (8 * (i % 4));
}

__device__ __forceinline__ void complain(const PackArgs& args) { *reinterpret_cast<u32*>(args.fault) = 1; }

// True if one of four E4M3 codes is NaN.
__device__ __forceinline__ bool e4m3_nan(u32 four) {
    bool found = false;
#pragma unroll
    for (u32 i = 0; i < 4; i++) found |= (four >> (8 * i) & 0x7fu) == 0x7fu;
    return found;
}

// One NVFP4 code, spread over the word of its step as Tile<NVFP4>::step takes it apart.
__device__ __forceinline__ u32 spread(u32 reg, u32 code) {
    const u32 sign = code >> 3, magnitude = code & 7u;
    return reg == 0 ? sign << 15 | magnitude << 9 : reg == 1 ? sign << 12 | magnitude << 6 : reg == 2 ? sign << 14 | magnitude << 3 : sign << 13 | magnitude;
}

// The tile and the lane that a thread writes. False: there is none.
struct PackPlace {
    u32 row_tile, k_tile, lane;
    u8* tile;
};
template <u32 BYTES> __device__ __forceinline__ bool find(const PackArgs& args, PackPlace& place) {
    const u64 index = u64(blockIdx.x) * PACK_THREADS + threadIdx.x, tile = index / 32;
    if (tile >= u64(args.row_tiles) * args.k_tiles) return false;
    place = {static_cast<u32>(tile / args.k_tiles), static_cast<u32>(tile % args.k_tiles), static_cast<u32>(index % 32),
             reinterpret_cast<u8*>(args.tiles) + tile * BYTES};
    return true;
}

KERNEL(pack_nvfp4, PACK_THREADS, 4, PackArgs) {
    pdl_wait();
    PackPlace at;
    if (!find<576>(args, at)) return;
    const u32 column = 64 * at.k_tile + 16 * (at.lane & 3);
    u32 word[4] = {}, scales = 0;
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        const u32 row = row_of(args, at.row_tile, (at.lane >> 2) + 8 * half);
        if (row == NO_ROW || column >= args.cols) continue;
        // Columns are a multiple of 16.
        const u8* from = reinterpret_cast<const u8*>(args.from) + u64(row) * (args.cols / 2) + column / 2;
        const u32 scale = reinterpret_cast<const u8*>(args.scales)[u64(row) * (args.cols / 16) + column / 16];
        if ((scale & 0x7fu) == 0x7fu) complain(args);
        scales |= scale << (8 * half);
        u32 codes[2] = {};
        if ((reinterpret_cast<u64>(from) & 7) == 0) {
            const uint2 v = ld_stream8(from);
            codes[0] = v.x, codes[1] = v.y;
        } else {
#pragma unroll
            for (u32 i = 0; i < 8; i++) codes[i / 4] |= static_cast<u32>(from[i]) << (8 * (i % 4));
        }
#pragma unroll
        for (u32 pair = 0; pair < 8; pair++) {
            const u32 both = codes[pair / 4] >> (8 * (pair % 4)), reg = 2 * (pair % 2) + half;
            word[pair / 2] |= spread(reg, both & 15u) | spread(reg, both >> 4 & 15u) << 16;
        }
    }
    st16(at.tile + 16 * at.lane, make_uint4(word[0], word[1], word[2], word[3]));
    *reinterpret_cast<u16*>(at.tile + 512 + 2 * at.lane) = static_cast<u16>(scales);
}

KERNEL(pack_fp8, PACK_THREADS, 4, PackArgs) {
    pdl_wait();
    PackPlace at;
    if (!find<1024>(args, at)) return;
    u32 row[2][4];
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        load_sixteen<1>(row[half], args, row_of(args, at.row_tile, (at.lane >> 2) + 8 * half), 64 * at.k_tile + 16 * (at.lane & 3));
#pragma unroll
        for (u32 i = 0; i < 4; i++)
            if (e4m3_nan(row[half][i])) complain(args);
    }
#pragma unroll
    for (u32 q = 0; q < 2; q++) {
        u32 word[4];
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            const u32 first = row[0][2 * q + i], second = row[1][2 * q + i];
            word[2 * i] = (first & 0xffffu) | second << 16;
            word[2 * i + 1] = first >> 16 | (second & 0xffff0000u);
        }
        st16(at.tile + 512 * q + 16 * at.lane, make_uint4(word[0], word[1], word[2], word[3]));
    }
}

// f16 and bf16. EXPONENT: the bits of a number's exponent, all set in what is infinite or NaN.
template <u32 EXPONENT> __device__ __forceinline__ void pack_wide(const PackArgs& args) {
    pdl_wait();
    PackPlace at;
    if (!find<2048>(args, at)) return;
    u32 row[2][8];
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        load_sixteen<2>(row[half], args, row_of(args, at.row_tile, (at.lane >> 2) + 8 * half), 64 * at.k_tile + 16 * (at.lane & 3));
#pragma unroll
        for (u32 i = 0; i < 8; i++)
            if ((row[half][i] & EXPONENT) == EXPONENT || (row[half][i] >> 16 & EXPONENT) == EXPONENT) complain(args);
    }
#pragma unroll
    for (u32 s = 0; s < 4; s++)
        st16(at.tile + 512 * s + 16 * at.lane, make_uint4(row[0][2 * s], row[1][2 * s], row[0][2 * s + 1], row[1][2 * s + 1]));
}
KERNEL(pack_f16, PACK_THREADS, 4, PackArgs) { pack_wide<0x7c00>(args); }
KERNEL(pack_bf16, PACK_THREADS, 4, PackArgs) { pack_wide<0x7f80>(args); }

// Two tiles of bf16: the rounded numbers, then what is left of each.
KERNEL(pack_f32, PACK_THREADS, 2, PackArgs) {
    pdl_wait();
    PackPlace at;
    if (!find<4096>(args, at)) return;
    u32 high[2][8], low[2][8];
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        u32 row[16];
        load_sixteen<4>(row, args, row_of(args, at.row_tile, (at.lane >> 2) + 8 * half), 64 * at.k_tile + 16 * (at.lane & 3));
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            if ((row[2 * i] & 0x7f800000u) == 0x7f800000u || (row[2 * i + 1] & 0x7f800000u) == 0x7f800000u) complain(args);
            const float a = __uint_as_float(row[2 * i]), b = __uint_as_float(row[2 * i + 1]);
            const u32 rounded = f32x2_to_bf16x2(a, b);
            high[half][i] = rounded;
            low[half][i] = f32x2_to_bf16x2(a - __uint_as_float(rounded << 16), b - __uint_as_float(rounded & 0xffff0000u));
        }
    }
#pragma unroll
    for (u32 s = 0; s < 4; s++) {
        st16(at.tile + 512 * s + 16 * at.lane, make_uint4(high[0][2 * s], high[1][2 * s], high[0][2 * s + 1], high[1][2 * s + 1]));
        st16(at.tile + 2048 + 512 * s + 16 * at.lane, make_uint4(low[0][2 * s], low[1][2 * s], low[0][2 * s + 1], low[1][2 * s + 1]));
    }
}
