// Products of many rows with NVFP4 weights on FP4 tensor cores: linear_prefill.cu's, with rows that fp4_quantise rounded and
// tiles turned into the mma's operand in registers. One stage of x is four tiles wide.
#include "fp4.cuh"
#include "linear_prefill.cuh"

#if HEARTH_HAS_NVF4

struct LinearFp4 {
    Matrix w;
    const u8* x;       // [t, groups * FP4_GROUP]
    const float* undo; // [t]
    float* out;        // [t, stride]
    u32 stride, epilogue, t, groups;
};
static_assert(sizeof(LinearFp4) == 88, "as in linear_prefill.rs");

// Copies a group of the block's rows. In shared memory rows lie as in global memory, FP4_GROUP bytes apart, at which the
// eight lanes that read 16 bytes at a time meet all banks.
template <int ROWS> FP4_FN void copy_group(const LinearFp4& args, u8* stage, u32 first_row, u32 group) {
    constexpr u32 PIECES = FP4_GROUP / 16;
    const u8* x = args.x + u64(group) * FP4_GROUP;
    for (u32 piece = threadIdx.x; piece < ROWS * PIECES; piece += THREADS) {
        const u32 row = first_row + piece / PIECES;
        const bool valid = row < args.t;
        cp_async16(stage + 16 * piece, x + u64(valid ? row : 0) * args.groups * FP4_GROUP + piece % PIECES * 16, valid);
    }
}

template <int ROWS> FP4_FN void multiply(const LinearFp4& args, u8* shared) {
    constexpr int GROUPS = ROWS / 16; // of eight rows, of a warp
    pdl_launch();
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, c = lane & 3;
    const u32 k_tiles = args.w.k_tiles, row_tiles = args.w.row_tiles;
    const Corner at = corner_of<ROWS>(args.w, args.t, warp);

    const u8* tiles[WARP_TILES];
    Fp4Raw next[2][WARP_TILES];
    // The two tiles from kt on; beyond the last one zeros, codes and scales.
    auto fetch = [&](u32 kt) {
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
#pragma unroll
            for (int m = 0; m < WARP_TILES; m++) {
                if (kt + i < k_tiles) load_fp4<false>(next[i][m], tiles[m] + u64(kt + i) * Tile<NVFP4>::BYTES, lane);
                else next[i][m] = {make_uint4(0, 0, 0, 0), make_uint2(0, 0)};
            }
        }
    };
#pragma unroll
    for (int m = 0; m < WARP_TILES; m++) {
        const u32 tile = min(at.tile + m, row_tiles - 1);
        tiles[m] = reinterpret_cast<const u8*>(args.w.tiles) + u64(tile) * k_tiles * Tile<NVFP4>::BYTES;
    }
    fetch(0);
    pdl_wait();
#pragma unroll
    for (u32 s = 0; s < STAGES - 1; s++) {
        if (s < args.groups) copy_group<ROWS>(args, shared + s * ROWS * FP4_GROUP, at.row, s);
        cp_async_commit();
    }

    float acc[WARP_TILES][GROUPS][4] = {};
    const u32 mine = (warp % 2 * (ROWS / 2) + g) * FP4_GROUP;
    u32 stage = 0, into = STAGES - 1;
#pragma unroll 1
    for (u32 group = 0; group < args.groups; group++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        if (group + STAGES - 1 < args.groups) copy_group<ROWS>(args, shared + into * ROWS * FP4_GROUP, at.row, group + STAGES - 1);
        cp_async_commit();
        const u8* x = shared + stage * ROWS * FP4_GROUP + mine;
#pragma unroll
        for (u32 q = 0; q < 2; q++) {
            const u32 kt = 4 * group + 2 * q;
            if (kt >= k_tiles) break;
            Fp4Tile a[2][WARP_TILES];
#pragma unroll
            for (u32 i = 0; i < 2; i++) {
#pragma unroll
                for (int m = 0; m < WARP_TILES; m++) a[i][m] = fp4_tile(next[i][m], lane);
            }
            fetch(kt + 2);
#pragma unroll
            for (int n = 0; n < GROUPS; n++) {
                const u8* row = x + n * 8 * FP4_GROUP;
                const uint4 codes = ld16(row + 32 * c + 16 * q);
                const uint2 scales = *reinterpret_cast<const uint2*>(row + 128 + 8 * q);
                const u32 b[2][2] = {{codes.x, codes.y}, {codes.z, codes.w}};
#pragma unroll
                for (u32 i = 0; i < 2; i++) {
#pragma unroll
                    for (int m = 0; m < WARP_TILES; m++)
                        mma_nvf4(acc[m][n], a[i][m].codes, b[i], a[i][m].scales, i == 0 ? scales.x : scales.y);
                }
            }
        }
        stage = stage + 1 == STAGES ? 0 : stage + 1;
        into = into + 1 == STAGES ? 0 : into + 1;
    }

    float2 most[WARP_TILES];
#pragma unroll
    for (int m = 0; m < WARP_TILES; m++) most[m] = make_float2(1, 1);
    write_sums<ROWS>({args.out, args.undo, args.stride, args.epilogue, args.t}, args.w, at, acc, most);
}

KERNEL(linear_fp4_64, THREADS, 2, LinearFp4) {
    DYNAMIC_SHARED(shared);
    multiply<64>(args, shared);
}

KERNEL(linear_fp4_128, THREADS, 1, LinearFp4) {
    DYNAMIC_SHARED(shared);
    multiply<128>(args, shared);
}

#endif
