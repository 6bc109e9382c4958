// The products of linear_decode.cu for 1 to 4 rows with weights on their way to shared memory instead of registers, and the
// same bits. A warp has a ring of its own there: what it multiplies next is always under way, and a block needs few registers
// and, of shared memory, what the launcher gives it. Where one block to a multiprocessor leaves room for another, the next
// kernel's blocks are there and ask for their weights while this one ends. Which of the two is faster is a question of the
// machine, so it is measured there (src/cuda/tune.rs).
#include "linear_decode.cuh"

// A group of tiles that is asked for and waited for at once.
template <u32 FMT> struct Group {
    static constexpr u32 TILES = Tile<FMT>::BYTES > 1024 ? 1 : 2;
    static constexpr u32 SCALES = TILES * Tile<FMT>::BYTES; // where an FP8 tile's two factors lie, 8 bytes each
    static constexpr u32 BYTES = SCALES + (FMT == FP8 ? 8 * TILES : 0);
};

// Waits for the oldest of `groups` groups that are under way.
static __device__ __forceinline__ void wait_for_group(u32 groups) {
    if (groups == 2) cp_async_wait<1>();
    else if (groups == 4) cp_async_wait<3>();
    else cp_async_wait<5>();
}

template <u32 FMT> DECODE_FN void run_job(const LinearArgs& args, const LinearJob& job, const Block& block, u8* ring) {
    constexpr u32 TILES = Group<FMT>::TILES, STEP = WARPS * Tile<FMT>::BYTES;
    const u32 k_tiles = job.w.k_tiles, units = job.w.row_tiles, warp = block.warp, lane = block.lane, t = args.t;
    const u32 own = k_tiles > warp ? (k_tiles - warp + WARPS - 1) / WARPS : 0;
    const float* scales = reinterpret_cast<const float*>(job.w.block_scales);
    const u32 scale_blocks = (args.cols + 127) / 128;
    const u64 unit_bytes = static_cast<u64>(k_tiles) * Tile<FMT>::BYTES;

    // The group that is asked for next: of which unit, from which of this warp's tiles on, and its place in the ring.
    u32 unit = blockIdx.x - job.first, asked_unit = unit, asked = 0, put = 0;
    const u8* row = reinterpret_cast<const u8*>(job.w.tiles) + unit * unit_bytes + warp * Tile<FMT>::BYTES;
    const auto ask = [&] {
        if (asked_unit < units) {
            u8* to = ring + put * Group<FMT>::BYTES;
#pragma unroll
            for (u32 l = 0; l < TILES; l++) {
                const u32 j = asked + l;
                if (j >= own) break;
                const u8* tile = row + j * STEP;
#pragma unroll
                for (u32 i = 0; i < Tile<FMT>::BYTES / 16; i += 32) {
                    const u32 piece = i + lane;
                    if (piece < Tile<FMT>::BYTES / 16) cp_async16(to + l * Tile<FMT>::BYTES + 16 * piece, tile + 16 * piece, true);
                }
                if (FMT == FP8 && scales && lane == 0) {
                    const float* of_tile = scales + 2 * (static_cast<u64>(asked_unit) * scale_blocks + (warp + WARPS * j) / 2);
                    cp_async<8>(to + Group<FMT>::SCALES + 8 * l, of_tile, true);
                }
            }
            asked += TILES;
            if (asked >= own) {
                asked = 0;
                asked_unit += job.blocks;
                row += job.blocks * unit_bytes;
            }
        }
        cp_async_commit();
        put = put + 1 == args.ring ? 0 : put + 1;
    };
#pragma unroll 1
    for (u32 i = 0; i < args.ring; i++) ask();
    pdl_wait();

    const float squares = stage<Tile<FMT>::BFLOAT>(args, block, 0, own);
    const u32 at[1] = {staged_at(t, 0, lane)};
    const RowTile* const results[1] = {block.row_tiles + min(lane & 3, t - 1)};
    u32 turn = 0, take = 0;
#pragma unroll 1
    for (; unit < units; unit += job.blocks) {
        float acc[1][2] = {};
#pragma unroll 1
        for (u32 first = 0; first < own; first += TILES) {
            wait_for_group(args.ring);
            __syncwarp();
            const u8* from = ring + take * Group<FMT>::BYTES;
            const auto multiply = [&]<u32 COUNT>() {
                typename Tile<FMT>::Raw raw[COUNT];
                float2 scale[COUNT];
#pragma unroll
                for (u32 l = 0; l < COUNT; l++) {
                    Tile<FMT>::template load<false>(raw[l], from + l * Tile<FMT>::BYTES, lane);
                    scale[l] = make_float2(1, 1);
                    if (FMT == FP8 && scales) scale[l] = *reinterpret_cast<const float2*>(from + Group<FMT>::SCALES + 8 * l);
                }
#pragma unroll
                for (u32 l = 0; l < COUNT; l++) add_tile<FMT, 1>(acc, raw[l], block, first + l, at, results, scale[l], t);
            };
            // Without a question between them two tiles are multiplied beside each other.
            if (first + TILES <= own) multiply.template operator()<TILES>();
            else multiply.template operator()<1>();
            __syncwarp();
            ask();
            take = take + 1 == args.ring ? 0 : take + 1;
        }
        // As in linear_decode.cu: other warps each time, so that none lags behind for good.
        if (turn == 0 && args.norm && lane < t) block.squares[warp * MOST_ROWS + lane] = squares;
        const bool writes = warp == (turn & (WARPS - 1));
        Finish finish;
        if (writes) finish = ask_finish(args, job, block, unit, 0);
        float* sums = block.sums + (turn & 1) * (WARPS * 64) + warp * 64 + lane;
        sums[0] = acc[0][0];
        sums[32] = acc[0][1];
        __syncthreads();
        if (writes) write_out<1>(args, job, block, unit, turn, 0, finish);
        turn++;
    }
    cp_async_wait<0>();
}

template <bool CONVOLVES> DECODE_FN void decode(const LinearArgs& args, u8* shared) {
    pdl_launch();
    const Block block = block_of<1>(args, shared);
    const LinearJob& job = job_of(args);
    // Behind the staged tiles of all warps.
    u8* rings = block.staged + (WARPS - block.warp) * args.slots * args.t * STAGED_ROW;
#define RUN(FMT)                                                                                                       \
    if (job.w.format == FMT) run_job<FMT>(args, job, block, rings + block.warp * args.ring * Group<FMT>::BYTES);
    RUN(F16) RUN(BF16) RUN(FP8) RUN(NVFP4)
#undef RUN
    if (CONVOLVES && blockIdx.x < args.jobs[0].blocks) convolve(args);
}

KERNEL(linear_ring, WARPS * 32, 3, LinearArgs) {
    DYNAMIC_SHARED(shared);
    decode<false>(args, shared);
}

KERNEL(linear_ring_conv, WARPS * 32, 3, LinearArgs) {
    DYNAMIC_SHARED(shared);
    decode<true>(args, shared);
}
