// The grouped product of prefill (moe_prefill.cu's, item by item) on FP4 tensor cores, for experts of NVFP4 and rows that
// fp4_quantise rounded. One stage of x is four tiles wide.
#include "fp4.cuh"
#include "moe_prefill.cuh"

#if HEARTH_HAS_NVF4

static constexpr u32 ROW_TILES = 2; // of a warp
static constexpr u32 STAGES = 3;
static constexpr u32 STAGE_BYTES = GROUP * FP4_GROUP;

struct MoeFp4 {
    const Matrix* table;
    const u32* list;
    const uint4* items;
    const u32* item_count;
    const u8* x;         // rounded rows, x_groups * FP4_GROUP bytes each
    const float* undo;
    float* out;          // [pairs, out_stride]
    u32 divide;          // row of x = pair / divide
    u32 x_groups, out_stride, unused;
};
static_assert(sizeof(MoeFp4) == 72, "as in the launcher");

// One item times PRODUCT_WARPS * ROW_TILES row tiles. SWIGLU: the matrix is paired, out = silu(gate x) * (up x).
// Grid: share of the row tiles, item.
template <bool SWIGLU> MOE_FN void product(const MoeFp4& args) {
    SHARED(u8, stages, STAGES * STAGE_BYTES);
    SHARED(u32, pairs, GROUP);
    SHARED(float, undo, GROUP);
    const u32 warp = threadIdx.x / 32;
    const int lane = static_cast<int>(threadIdx.x % 32);
    const u32 g = static_cast<u32>(lane >> 2), c = static_cast<u32>(lane & 3);
    pdl_wait();
    pdl_launch();
    if (blockIdx.y >= *args.item_count) return;
    const uint4 item = ld16(args.items + blockIdx.y);
    const Matrix m = args.table[item.x];
    if (m.format != NVFP4) return;
    const u32 n = item.z, k_tiles = m.k_tiles, groups = (k_tiles + 3) / 4;
    const u32 first_tile = (blockIdx.x * PRODUCT_WARPS + warp) * ROW_TILES;
    // A block beyond the expert's rows has nothing to multiply, but act is zero there.
    const bool any = blockIdx.x * PRODUCT_WARPS * ROW_TILES < m.row_tiles;
    if (!any && !SWIGLU) return;
    if (threadIdx.x < GROUP) {
        const u32 pair = threadIdx.x < n ? args.list[item.y + threadIdx.x] : 0;
        pairs[threadIdx.x] = pair;
        undo[threadIdx.x] = threadIdx.x < n ? args.undo[pair / args.divide] : 0;
    }
    __syncthreads();

    float sum[ROW_TILES][GROUP / 8][4] = {};
    if (any) {
        const u8* tiles[ROW_TILES];
        Fp4Raw next[ROW_TILES];
        // Tile kt of the columns.
        auto fetch = [&](u32 kt) {
#pragma unroll
            for (u32 r = 0; r < ROW_TILES; r++) load_fp4<true>(next[r], tiles[r] + u64(kt) * Tile<NVFP4>::BYTES, lane);
        };
#pragma unroll
        for (u32 r = 0; r < ROW_TILES; r++) {
            // Warps beyond the last row tile do its work again and throw it away: all warps meet at the barriers.
            const u32 tile = min(first_tile + r, m.row_tiles - 1);
            tiles[r] = reinterpret_cast<const u8*>(m.tiles) + u64(tile) * k_tiles * Tile<NVFP4>::BYTES;
        }
        fetch(0);
        auto copy = [&](u32 group) {
            constexpr u32 PIECES = FP4_GROUP / 16;
            u8* stage = stages + group % STAGES * STAGE_BYTES;
            if (group < groups) {
                for (u32 piece = threadIdx.x; piece < n * PIECES; piece += 32 * PRODUCT_WARPS) {
                    const u64 row = pairs[piece / PIECES] / args.divide;
                    cp_async16(stage + 16 * piece, args.x + (row * args.x_groups + group) * FP4_GROUP + piece % PIECES * 16, true);
                }
            }
            cp_async_commit();
        };
#pragma unroll
        for (u32 s = 0; s + 1 < STAGES; s++) copy(s);
#pragma unroll 1
        for (u32 group = 0; group < groups; group++) {
            cp_async_wait<STAGES - 2>();
            __syncthreads();
            copy(group + STAGES - 1);
            const u8* x = stages + group % STAGES * STAGE_BYTES + g * FP4_GROUP;
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                const u32 kt = 4 * group + i;
                if (kt >= k_tiles) break;
                Fp4Tile a[ROW_TILES];
#pragma unroll
                for (u32 r = 0; r < ROW_TILES; r++) a[r] = fp4_tile(next[r], lane);
                if (kt + 1 < k_tiles) fetch(kt + 1);
#pragma unroll
                for (u32 column = 0; column < GROUP / 8; column++) {
                    if (8 * column >= n) break;
                    const u8* row = x + column * 8 * FP4_GROUP;
                    const uint2 codes = *reinterpret_cast<const uint2*>(row + 32 * c + 8 * i);
                    const u32 scales = *reinterpret_cast<const u32*>(row + 128 + 4 * i);
                    const u32 b[2] = {codes.x, codes.y};
#pragma unroll
                    for (u32 r = 0; r < ROW_TILES; r++) mma_nvf4(sum[r][column], a[r].codes, b, a[r].scales, scales);
                }
            }
        }
    }

    write_sums<ROW_TILES, SWIGLU>(m, first_tile, sum, n, pairs, undo, args.out, args.out_stride, lane);
}

KERNEL(moe_fp4_gate_up, 256, 2, MoeFp4) { product<true>(args); }
KERNEL(moe_fp4_down, 256, 2, MoeFp4) { product<false>(args); }

#endif
