// The experts of 1 to 16 rows, straight from the route: no sorting, no gathering. The shared expert is one more expert.
#include "moe.cuh"

// Warps of a block of moe_gate_up: they split the columns.
static constexpr u32 GATE_UP_WARPS = 4;

// Rows that share an expert's weights in one block. Others come to the same weights through L2.
static constexpr u32 COMPANY = 4;

struct MoeGateUp {
    const Matrix* table; // gate/up of all experts, then down of all
    const float* x;  // [t, hidden]
    const u32* ids;  // [pairs]
    float* act;      // [pairs, max_inter]
    u32 pairs, slots, hidden, max_inter;
    u32 experts, company; // company: rows of the staging space, min(t, COMPANY)
};
static_assert(sizeof(MoeGateUp) == 56, "as in the launcher");

// The pairs that want expert `id`, in order, are served COMPANY at a time by the block of the first of them. False if this
// pair is not a first; else n and, in lane l, the pair of x row l & 3.
MOE_FN bool find_company(const MoeGateUp& args, u32 mine, u32 id, int lane, u32& n, u32& pair) {
    u32 before = 0;
    n = 0;
    pair = mine;
    for (u32 base = 0; base < args.pairs && n < COMPANY; base += 32) {
        const u32 p = base + lane;
        u32 same = __ballot_sync(ALL, p < args.pairs && args.ids[p] == id);
        if (base + 32 <= mine) {
            before += __popc(same);
            continue;
        }
        if (base <= mine) {
            const u32 earlier = (1u << (mine - base)) - 1;
            before += __popc(same & earlier);
            if (before % COMPANY != 0) return false;
            same &= ~earlier;
        }
        for (; same != 0 && n < COMPANY; same &= same - 1, n++)
            if ((lane & 3) == static_cast<int>(n)) pair = base + __ffs(static_cast<int>(same)) - 1;
    }
    return true;
}

// Most experts whose descriptions a block keeps in shared memory.
static constexpr u32 KNOWN = 264;

// act[pair, 8 tile ..] = silu(gate x) * (up x). Grid: tile of the expert, pair.
template <u32 ONLY> MOE_FN void gate_up(const MoeGateUp& args) {
    DYNAMIC_SHARED(space);
    SHARED(float, parts, GATE_UP_WARPS * 64);
    SHARED(uint4, known, KNOWN * (sizeof(Matrix) / 16));
    const u32 tile = blockIdx.x, mine = blockIdx.y;
    const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
    // Which experts it will be is not known yet; so all descriptions are brought before the route is waited for. Not for
    // several rows: most of their blocks leave at once.
    const bool all_known = args.experts <= KNOWN && args.pairs == args.slots;
    if (all_known) {
        const u8* table = reinterpret_cast<const u8*>(args.table);
        for (u32 i = threadIdx.x; i < args.experts * (sizeof(Matrix) / 16); i += 32 * GATE_UP_WARPS)
            known[i] = ld_stream16(table + 16 * i);
    }
    __syncthreads();
    pdl_wait();
    pdl_launch();
    const u32 id = args.ids[mine];
    u32 n = 1, pair = mine;
    // The experts of one row are all different.
    if (args.pairs != args.slots && !find_company(args, mine, id, lane, n, pair)) return;
    // Lane 4o + c of warp 0 writes output o of x row c.
    auto write = [&](float y) {
        const u32 column = 8 * tile + static_cast<u32>(lane >> 2);
        if (warp == 0 && (lane & 3) < static_cast<int>(n) && column < args.max_inter)
            args.act[u64(pair) * args.max_inter + column] = y;
    };
    if (id >= args.experts) return write(nan_float());
    const Matrix m = all_known ? reinterpret_cast<const Matrix*>(known)[id] : args.table[id];
    if (tile >= m.row_tiles) return write(0);
    const u32 each = (m.k_tiles + GATE_UP_WARPS - 1) / GATE_UP_WARPS;
    const u32 first = min(warp * each, m.k_tiles), last = min(first + each, m.k_tiles);
    const float* x_row = args.x + u64(pair / args.slots) * args.hidden;
    // Of warp 0's outputs; needed last, but from as far away as the weights.
    const u32 o = static_cast<u32>(lane >> 2);
    const float* scales = reinterpret_cast<const float*>(m.row_scales) + 16 * tile;
    const float gate_scale = scales[o], up_scale = scales[o + 8];
    u8* mine_space = space + static_cast<u32>(warp) * window_bytes(args.company);
    float sum[2] = {0, 0};
    auto product = [&]<u32 FMT>() {
        WarpProduct<FMT, tiles_within<FMT>(ONLY == ANY_FORMAT ? 16 : 32)> w;
        w.load(m, tile, first, last, lane);
        w.run(sum, m, tile, first, last, x_row, n, mine_space, args.company, lane);
    };
    if constexpr (ONLY != ANY_FORMAT) product.template operator()<ONLY>();
    else if (m.format == NVFP4) product.template operator()<NVFP4>();
    else if (m.format == FP8) product.template operator()<FP8>();
    else if (m.format == BF16) product.template operator()<BF16>();
    else if (m.format == F16) product.template operator()<F16>();
    else product.template operator()<F32>();
    parts[warp * 64 + lane * 2] = sum[0];
    parts[warp * 64 + lane * 2 + 1] = sum[1];
    __syncthreads();
    if (warp != 0) return;
    float gate = 0, up = 0;
#pragma unroll
    for (u32 w = 0; w < GATE_UP_WARPS; w++) gate += parts[w * 64 + lane * 2], up += parts[w * 64 + lane * 2 + 1];
    const float y = silu(gate * gate_scale) * (up * up_scale);
    write(8 * tile + o < m.rows / 2 ? y : 0.0f);
}

// Blocks that share a multiprocessor: on a GB10 shared memory allows four, on Hopper five hold all blocks of a row at once.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
#define GATE_UP_BLOCKS 4
#else
#define GATE_UP_BLOCKS 5
#endif
KERNEL(moe_gate_up_nvfp4, 128, GATE_UP_BLOCKS, MoeGateUp) { gate_up<NVFP4>(args); }
KERNEL(moe_gate_up_fp8, 128, GATE_UP_BLOCKS, MoeGateUp) { gate_up<FP8>(args); }
KERNEL(moe_gate_up_bf16, 128, 4, MoeGateUp) { gate_up<BF16>(args); }
KERNEL(moe_gate_up_f16, 128, 4, MoeGateUp) { gate_up<F16>(args); }
KERNEL(moe_gate_up_any, 128, 3, MoeGateUp) { gate_up<ANY_FORMAT>(args); }

// Most experts of a row, the shared one included.
static constexpr u32 MOST_SLOTS = 33;

struct MoeDown {
    const Matrix* table;  // of the down matrices
    const float* act;     // [t, slots, max_inter]
    const u32* ids;       // [t, slots]
    const float* weights; // [t, slots]
    float* out;           // [t, hidden]
    u32 slots, hidden, max_inter, experts;
};
static_assert(sizeof(MoeDown) == 56, "as in the launcher");

// out[row, 16 tile ..] += sum over slots, in order, of weight * (down act). Grid: row, tile. A warp per slot.
template <u32 ONLY> MOE_FN void down(const MoeDown& args) {
    DYNAMIC_SHARED(space);
    SHARED(float, parts, MOST_SLOTS * 16);
    const u32 row = blockIdx.x, tile = blockIdx.y, warps = blockDim.x / 32;
    const u32 warp = threadIdx.x / 32;
    const int lane = static_cast<int>(threadIdx.x % 32);
    bool waited = false;
    for (u32 slot = warp; slot < args.slots; slot += warps) {
        const u32 pair = row * args.slots + slot;
        auto product = [&]<u32 FMT>(u32 id, const Matrix& m) {
            WarpProduct<FMT, tiles_within<FMT>(ONLY == ANY_FORMAT ? 16 : 40)> w;
            w.load(m, tile, 0, m.k_tiles, lane);
            if (!waited) {
                // The id was read before what wrote it was known to be done: usually that was long ago, and the weights
                // are on their way while the kernel before this one ends. If not, they are asked for anew.
                pdl_wait();
                pdl_launch();
                waited = true;
                if (ld_acquire(args.ids + pair) != id) return false;
            }
            const float* scales = reinterpret_cast<const float*>(m.row_scales) + 16 * tile;
            const float low = scales[lane / 4], high = scales[8 + lane / 4];
            float sum[2];
            w.run(sum, m, tile, 0, m.k_tiles, args.act + u64(pair) * args.max_inter, 1, space + warp * window_bytes(1), 1, lane);
            if (lane % 4 == 0) {
                parts[slot * 16 + lane / 4] = sum[0] * low;
                parts[slot * 16 + 8 + lane / 4] = sum[1] * high;
            }
            return true;
        };
        auto any = [&](u32 id) {
            if (id >= args.experts) {
                if (!waited) {
                    pdl_wait();
                    pdl_launch();
                    waited = true;
                    if (ld_acquire(args.ids + pair) != id) return false;
                }
                if (lane < 16) parts[slot * 16 + lane] = nan_float();
                return true;
            }
            const Matrix m = args.table[id];
            if constexpr (ONLY != ANY_FORMAT) return product.template operator()<ONLY>(id, m);
            else if (m.format == NVFP4) return product.template operator()<NVFP4>(id, m);
            else if (m.format == FP8) return product.template operator()<FP8>(id, m);
            else if (m.format == BF16) return product.template operator()<BF16>(id, m);
            else if (m.format == F16) return product.template operator()<F16>(id, m);
            else return product.template operator()<F32>(id, m);
        };
        u32 id = args.ids[pair];
        while (!any(id)) id = ld_acquire(args.ids + pair);
    }
    if (!waited) {
        pdl_wait();
        pdl_launch();
    }
    // Asked for before the barrier: what is there, and in lane l of the first warp the weight of slot l.
    const u32 column = 16 * tile + threadIdx.x;
    const bool writes = threadIdx.x < 16 && column < args.hidden;
    float* out = args.out + u64(row) * args.hidden + column;
    float y = writes ? *out : 0.0f;
    const float* weights = args.weights + u64(row) * args.slots;
    const float mine = threadIdx.x < min(args.slots, 32u) ? weights[threadIdx.x] : 0.0f;
    __syncthreads();
    if (warp != 0) return;
    for (u32 slot = 0; slot < args.slots; slot++) {
        const float weight = slot < 32 ? __shfl_sync(ALL, mine, static_cast<int>(slot)) : weights[slot];
        if (writes) y = fmaf(weight, parts[slot * 16 + threadIdx.x], y);
    }
    if (writes) *out = y;
}

KERNEL(moe_down_nvfp4, 320, 2, MoeDown) { down<NVFP4>(args); }
KERNEL(moe_down_fp8, 320, 2, MoeDown) { down<FP8>(args); }
KERNEL(moe_down_bf16, 320, 2, MoeDown) { down<BF16>(args); }
KERNEL(moe_down_f16, 320, 2, MoeDown) { down<F16>(args); }
KERNEL(moe_down_any, 320, 1, MoeDown) { down<ANY_FORMAT>(args); }
