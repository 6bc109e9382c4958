// The grouped product of prefill.
#include "moe_prefill.cuh"

// Tiles of x in shared memory: three on their way, one in use.
static constexpr u32 STAGES = 4;
static constexpr u32 STAGE_BYTES = GROUP * 128;

// Row tiles per warp: what the accumulators leave room for.
template <u32 FMT> static constexpr u32 ROW_TILES = FMT == NVFP4 ? 2 : 1;

// Where the 16 bytes number `chunk` of a token's 128 lie: turned, so that eight tokens' same chunk use all banks.
MOE_FN u32 place_of(u32 token, u32 chunk) { return token * 128 + ((chunk ^ (token & 7)) * 16); }

// One item times PRODUCT_WARPS * ROW_TILES row tiles. SWIGLU: the matrix is paired, out = silu(gate x) * (up x).
// Grid: share of the row tiles, item.
template <u32 FMT, u32 AHEAD, bool SWIGLU> MOE_FN void product(const MoeProduct& args) {
    constexpr u32 RT = ROW_TILES<FMT>;
    constexpr int PARTS = Tile<FMT>::PARTS;
    SHARED(u8, stages, STAGES * STAGE_BYTES);
    SHARED(u32, pairs, GROUP);
    SHARED(float, undo, GROUP);
    static_assert(STAGES % AHEAD == 0, "the loop below is unrolled over both");
    const u32 warp = threadIdx.x / 32;
    const int lane = static_cast<int>(threadIdx.x % 32);
    pdl_wait();
    pdl_launch();
    if (blockIdx.y >= *args.item_count) return;
    const uint4 item = ld16(args.items + blockIdx.y);
    const Matrix m = args.table[item.x];
    if (m.format != args.only) return;
    const u32 n = item.z, k_tiles = m.k_tiles;
    const u32 first_tile = (blockIdx.x * PRODUCT_WARPS + warp) * RT;
    // A block beyond the expert's rows has nothing to multiply, but act is zero there.
    const bool any = blockIdx.x * PRODUCT_WARPS * RT < m.row_tiles;
    if (!any && !SWIGLU) return;
    if (threadIdx.x < GROUP) {
        const u32 pair = threadIdx.x < n ? args.list[item.y + threadIdx.x] : 0;
        pairs[threadIdx.x] = pair;
        undo[threadIdx.x] = threadIdx.x < n ? args.undo[pair / args.divide] : 0;
    }
    __syncthreads();

    float sum[RT][GROUP / 8][4] = {};
    if (any) {
        const u8* tiles[RT];
        typename Tile<FMT>::Raw raw[AHEAD][RT];
#pragma unroll
        for (u32 r = 0; r < RT; r++) {
            // Warps beyond the last row tile do its work again and throw it away: all warps meet at the barriers.
            const u32 tile = min(first_tile + r, m.row_tiles - 1);
            tiles[r] = reinterpret_cast<const u8*>(m.tiles) + u64(tile) * k_tiles * Tile<FMT>::BYTES;
#pragma unroll
            for (u32 i = 0; i < AHEAD; i++)
                if (i < k_tiles) load_tile<FMT>(raw[i][r], tiles[r] + u64(i) * Tile<FMT>::BYTES, lane);
        }
        // Two tokens per thread: 16 bytes of the tile of each.
        const u32 chunk = threadIdx.x % 8, token0 = threadIdx.x / 8, token1 = token0 + 32;
        const u16* row0 = args.x + u64(pairs[token0] / args.divide) * args.x_stride + 8 * chunk;
        const u16* row1 = args.x + u64(pairs[token1] / args.divide) * args.x_stride + 8 * chunk;
        auto fetch = [&](u32 kt) {
            u8* stage = stages + kt % STAGES * STAGE_BYTES;
            if (kt < k_tiles) {
                if (token0 < n) cp_async16(stage + place_of(token0, chunk), row0 + 64 * kt, true);
                if (token1 < n) cp_async16(stage + place_of(token1, chunk), row1 + 64 * kt, true);
            }
            cp_async_commit();
        };
#pragma unroll
        for (u32 i = 0; i + 1 < STAGES; i++) fetch(i);
        // Lane's address for ldmatrix: token and half of the step.
        const u32 token = static_cast<u32>((lane >> 4) * 8 + (lane & 7)), half = static_cast<u32>(lane >> 3 & 1);
        // FP8 with block scales: 128 columns are summed, then scaled.
        float block[FMT == FP8 ? RT : 1][FMT == FP8 ? GROUP / 8 : 1][4] = {};
        for (u32 base = 0; base < k_tiles; base += STAGES) {
#pragma unroll
            for (u32 i = 0; i < STAGES; i++) {
                const u32 kt = base + i;
                if (kt >= k_tiles) break;
                cp_async_wait<STAGES - 2>();
                __syncthreads();
                fetch(kt + STAGES - 1);
                const u8* stage = stages + i * STAGE_BYTES;
                auto& here = raw[i % AHEAD];
#pragma unroll
                for (int s = 0; s < 4; s++) {
                    u32 a[RT][PARTS][4];
#pragma unroll
                    for (u32 r = 0; r < RT; r++) {
                        const auto ready = Tile<FMT>::ready(here[r], lane);
#pragma unroll
                        for (int part = 0; part < PARTS; part++) Tile<FMT>::step(a[r][part], here[r], ready, s, part);
                    }
#pragma unroll
                    for (u32 pair = 0; pair < GROUP / 16; pair++) {
                        if (16 * pair >= n) break;
                        u32 b[4];
                        ldmatrix4(b, stage + place_of(16 * pair + token, static_cast<u32>(2 * s) + half));
#pragma unroll
                        for (u32 side = 0; side < 2; side++) {
                            if (16 * pair + 8 * side >= n) break;
#pragma unroll
                            for (u32 r = 0; r < RT; r++) {
#pragma unroll
                                for (int part = 0; part < PARTS; part++) {
                                    float* d = FMT == FP8 ? block[FMT == FP8 ? r : 0][FMT == FP8 ? 2 * pair + side : 0]
                                                          : sum[r][2 * pair + side];
                                    mma_16<Tile<FMT>::BFLOAT>(d, a[r][part], b + 2 * side);
                                }
                            }
                        }
                    }
                }
#pragma unroll
                for (u32 r = 0; r < RT; r++)
                    if (kt + AHEAD < k_tiles) load_tile<FMT>(here[r], tiles[r] + u64(kt + AHEAD) * Tile<FMT>::BYTES, lane);
                if constexpr (FMT == FP8) {
                    if (kt % 2 == 1 || kt + 1 == k_tiles) {
                        float low = 1, high = 1;
                        const float* scales = reinterpret_cast<const float*>(m.block_scales);
                        if (scales) {
                            const u64 at = (u64(min(first_tile, m.row_tiles - 1)) * ((m.cols + 127) / 128) + kt / 2) * 2;
                            low = scales[at], high = scales[at + 1];
                        }
#pragma unroll
                        for (u32 c = 0; c < GROUP / 8; c++) {
                            if (8 * c >= n) break;
#pragma unroll
                            for (u32 i = 0; i < 4; i++) {
                                sum[0][c][i] = fmaf(block[0][c][i], i < 2 ? low : high, sum[0][c][i]);
                                block[0][c][i] = 0;
                            }
                        }
                    }
                }
            }
        }
    }

    write_sums<RT, SWIGLU>(m, first_tile, sum, n, pairs, undo, args.out, args.out_stride, lane);
}

KERNEL(moe_prefill_gate_up_nvfp4, 256, 2, MoeProduct) { product<NVFP4, 2, true>(args); }
KERNEL(moe_prefill_gate_up_fp8, 256, 2, MoeProduct) { product<FP8, 2, true>(args); }
KERNEL(moe_prefill_gate_up_bf16, 256, 2, MoeProduct) { product<BF16, 2, true>(args); }
KERNEL(moe_prefill_gate_up_f16, 256, 2, MoeProduct) { product<F16, 2, true>(args); }
KERNEL(moe_prefill_gate_up_f32, 256, 1, MoeProduct) { product<F32, 1, true>(args); }
KERNEL(moe_prefill_down_nvfp4, 256, 2, MoeProduct) { product<NVFP4, 2, false>(args); }
KERNEL(moe_prefill_down_fp8, 256, 2, MoeProduct) { product<FP8, 2, false>(args); }
KERNEL(moe_prefill_down_bf16, 256, 2, MoeProduct) { product<BF16, 2, false>(args); }
KERNEL(moe_prefill_down_f16, 256, 2, MoeProduct) { product<F16, 2, false>(args); }
KERNEL(moe_prefill_down_f32, 256, 1, MoeProduct) { product<F32, 1, false>(args); }
