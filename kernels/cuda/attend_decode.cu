// attend_paged for 1 to 16 rows: keys and values are read once for all query heads of a key head, split among blocks.
//
// Both products run on tensor cores with the cache as the A operand, 16 positions (then 16 dimensions) by 16, and eight query
// heads as the eight columns of B: scores^T = K q^T, mixed^T = V^T p^T. Nothing is lost of the f32 side: a query and a weight
// enter as the sum of two 16-bit numbers. The dimensions are dealt to lanes so that a lane's bytes lie together in memory;
// queries are dealt alike, so no product notices.
//
// A UNIT is one row and up to eight query heads of the block's key head. Rows of one sequence share a block's reads. How a
// row's positions are split depends on its own position and the device alone (`blocks_per_split`), so rows of one sequence
// stand in one block only while that agrees, and a row gets the same bits alone and in company.
#include "attend_last.cuh"
#include "attend_tile.cuh"

// Waits until at most `slots - 2` copies are under way.
__device__ inline void wait_for_tile(u32 slots) {
    if (slots == 2) cp_async_wait<0>();
    else if (slots == 3) cp_async_wait<1>();
    else if (slots == 4) cp_async_wait<2>();
    else cp_async_wait<4>();
}

// PADDED: heads are a multiple of 16 shorter than HD, filled up with zeros in shared memory.
template <u32 FMT, u32 HD, u32 UNITS, bool PADDED> __device__ inline void attend(const AttendDecode& args, u8* shared, u32& flag) {
    using L = Layout<FMT, HD>;
    const u32 head_dim = PADDED ? args.q_stride >> args.gated : HD;
    // Of a position in the cache: bytes of its numbers, and scales.
    const u32 row_bytes = PADDED ? head_dim / 16 * (L::ROW / (HD / 16)) : L::ROW, row_scales = L::SCALES == 0 ? 0 : head_dim / 16;
    // What is copied at a time: an odd number of NVFP4's groups has no position at a multiple of 16.
    constexpr u32 PIECE = PADDED && FMT == KV_NVFP4 ? 8 : 16;
    constexpr u32 STEPS = HD / 16, TILES = L::DIMS / 2;
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x / 32, g = lane >> 2, c = lane & 3;
    pdl_launch();
    const Pass& pass = *args.pass;
    const u32 kv_head = blockIdx.y, row = args.first + blockIdx.z, end = args.first + args.rows;
    const u32 segment = pass.row_segment[row], index = row - pass.seg_first[segment], left = pass.seg_rows[segment] - index;
    const u32 position = pass.row_position[row], group = args.q_heads / args.kv_heads, octets = (group + 7) / 8;
    const u32 most = UNITS / octets, per_split = blocks_per_split(position, args.splits);
    // The first of some rows that agree works for all of them.
    if (row > args.first && index % most != 0 && blocks_per_split(position - 1, args.splits) == per_split) return pdl_wait();
    u32 members = 1;
    while (members < most - index % most && members < left && row + members < end &&
           blocks_per_split(position + members, args.splits) == per_split)
        members++;
    const u32 last = position + members - 1, blocks = last / BLOCK + 1;
    const u32 begin = blockIdx.x * per_split, stop = min(begin + per_split, blocks), splits = (blocks + per_split - 1) / per_split;
    if (begin >= blocks) return pdl_wait();

    u8* tiles = shared;
    uint4* queries = reinterpret_cast<uint4*>(tiles + args.slots * L::TILE); // [UNITS, STEPS, 32]
    uint4* weights = queries + UNITS * STEPS * 32;                           // [UNITS, WARPS, 32]
    float* peaks = reinterpret_cast<float*>(weights + UNITS * WARPS * 32);   // [WARPS, UNITS, 8]
    float* factors = peaks + WARPS * UNITS * 8;                              // [UNITS, 8]

    // Tile 2n holds keys, 2n + 1 values of block begin + n.
    const u32* pages = pass.pages + static_cast<u64>(segment) * pass.max_pages;
    const u32 count = 2 * (stop - begin);
    auto copy = [&](u32 tile) {
        if (tile < count) {
            u32 start = (begin + tile / 2) * BLOCK, held = last + 1 - start;
            bool value = tile & 1;
            const u8* page = (value ? args.values : args.keys) +
                             kv_page_at(pages[start / args.page_len], kv_head, args.kv_heads, args.page_len, row_bytes + row_scales);
            const u8* from = page + static_cast<u64>(start % args.page_len) * row_bytes;
            u8* to = tiles + tile % args.slots * L::TILE;
#pragma unroll 4
            for (u32 i = threadIdx.x; i < BLOCK * L::ROW / PIECE; i += THREADS) {
                u32 p = i / (L::ROW / PIECE), at = i % (L::ROW / PIECE) * PIECE;
                cp_async<PIECE>(to + tile_at<FMT, HD>(value, p, at), from + p * row_bytes + at, p < held && (!PADDED || at < row_bytes));
            }
            if (L::SCALES != 0 && threadIdx.x < BLOCK * row_scales / 16) {
                u32 at = threadIdx.x * 16;
                const u8* scales = page + static_cast<u64>(args.page_len) * row_bytes + start % args.page_len * row_scales;
                cp_async16(to + BLOCK * L::ROW + at, scales + at, at / (row_scales + (L::SCALES == 0)) < held);
            }
        }
        cp_async_commit();
    };
    // What earlier passes left in the cache can be read before the kernels ahead have ended, what this pass appends cannot.
    u32 old = pass.seg_position[segment] / BLOCK, tile = 0;
    for (; tile + 1 < args.slots && begin + tile / 2 < old; tile++) copy(tile);
    pdl_wait();
    for (; tile + 1 < args.slots; tile++) copy(tile);

    // Queries as B operands, raised by a power of two into f16's range. A warp takes every fourth step; all its numbers are
    // asked for before the first is looked at.
    {
        constexpr u32 MINE = STEPS / WARPS;
        float4 q[UNITS][MINE];
#pragma unroll
        for (u32 u = 0; u < UNITS; u++) {
            const u32 member = u / octets, in_group = u % octets * 8 + g;
            const bool used = member < members && in_group < group;
            const float* from = args.q + (static_cast<u64>(row + member) * args.q_heads + kv_head * group + in_group) * args.q_stride;
            float largest = 0.0f;
#pragma unroll
            for (u32 i = 0; i < MINE; i++) {
                const u32 step = warp + WARPS * i, j = step / L::STEPS, s = step % L::STEPS;
                q[u][i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                if (!used || (PADDED && dim_of<FMT, HD>(j, s, c, 0, 0) >= head_dim)) continue;
                if (FMT == KV_NVFP4) {
                    q[u][i] = make_float4(from[dim_of<FMT, HD>(j, s, c, 0, 0)], from[dim_of<FMT, HD>(j, s, c, 0, 1)],
                                          from[dim_of<FMT, HD>(j, s, c, 1, 0)], from[dim_of<FMT, HD>(j, s, c, 1, 1)]);
                } else {
                    q[u][i] = *reinterpret_cast<const float4*>(from + dim_of<FMT, HD>(j, s, c, 0, 0));
                }
            }
#pragma unroll
            for (u32 i = 0; i < MINE; i++)
                largest = fmaxf(fmaxf(largest, fmaxf(fabsf(q[u][i].x), fabsf(q[u][i].y))), fmaxf(fabsf(q[u][i].z), fabsf(q[u][i].w)));
            largest = fmaxf(largest, __shfl_xor_sync(ALL, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(ALL, largest, 2));
            if (c == 0) peaks[(warp * UNITS + u) * 8 + g] = largest;
        }
        __syncthreads();
#pragma unroll
        for (u32 u = 0; u < UNITS; u++) {
            float largest = 0.0f;
#pragma unroll
            for (u32 w = 0; w < WARPS; w++) largest = fmaxf(largest, peaks[(w * UNITS + u) * 8 + g]);
            u32 exponent = __float_as_uint(largest) >> 23;
            // 2^13 <= largest * raise < 2^14; nothing to raise in zeros.
            bool raised = FMT != KV_BF16 && exponent >= 14 && exponent < 255;
            float raise = raised ? __uint_as_float((267u - exponent) << 23) : 1.0f;
            float lower = raised ? __uint_as_float((exponent - 13u) << 23) : 1.0f;
            if (warp == 0 && c == 0) factors[u * 8 + g] = args.scale * 1.44269504f * L::KEY_SCALE * lower;
#pragma unroll
            for (u32 i = 0; i < MINE; i++) {
                u32 high[2], low[2];
                in_two<FMT>(raise * q[u][i].x, raise * q[u][i].y, high[0], low[0]);
                in_two<FMT>(raise * q[u][i].z, raise * q[u][i].w, high[1], low[1]);
                queries[(u * STEPS + warp + WARPS * i) * 32 + lane] = make_uint4(high[0], high[1], low[0], low[1]);
            }
        }
    }

    float peak[UNITS][2], sum[UNITS][2] = {}, mixed[UNITS][TILES][4] = {};
#pragma unroll
    for (u32 u = 0; u < UNITS; u++) peak[u][0] = peak[u][1] = -INFINITY;

    for (u32 n = 0; 2 * n < count; n++) {
        wait_for_tile(args.slots);
        __syncthreads();
        copy(2 * n + args.slots - 1);
        const u8* keys = tiles + 2 * n % args.slots * L::TILE;
        const u32 start = (begin + n) * BLOCK, here = start + 16 * warp + g;
        float high[UNITS][4] = {}, low[UNITS][4] = {};
#pragma unroll 2
        for (u32 j = 0; j < L::CHUNKS; j++) {
            KeyBytes near = load_key<FMT, HD, PADDED>(keys, 16 * warp + g, j, c, row_scales),
                     far = load_key<FMT, HD, PADDED>(keys, 16 * warp + g + 8, j, c, row_scales);
#pragma unroll
            for (u32 s = 0; s < L::STEPS; s++) {
                u32 a[4] = {key_pair<FMT>(near, s, 0), key_pair<FMT>(far, s, 0), key_pair<FMT>(near, s, 1), key_pair<FMT>(far, s, 1)};
#pragma unroll
                for (u32 u = 0; u < UNITS; u++) {
                    uint4 q = queries[(u * STEPS + j * L::STEPS + s) * 32 + lane];
                    multiply<FMT>(high[u], a, q.x, q.y);
                    multiply<FMT>(low[u], a, q.z, q.w);
                }
            }
        }
        // Scores in powers of two: rows are positions `here` and `here` + 8, columns heads 2c and 2c + 1.
#pragma unroll
        for (u32 u = 0; u < UNITS; u++) {
            u32 own = position + u / octets;
            float2 factor = *reinterpret_cast<const float2*>(factors + u * 8 + 2 * c);
            float top[2] = {-INFINITY, -INFINITY};
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                float score = (high[u][i] + low[u][i]) * ((i & 1) ? factor.y : factor.x);
                high[u][i] = here + 8 * (i / 2) <= own ? score : -INFINITY;
                top[i & 1] = fmaxf(top[i & 1], high[u][i]);
            }
#pragma unroll
            for (int with = 4; with <= 16; with *= 2) {
                top[0] = fmaxf(top[0], __shfl_xor_sync(ALL, top[0], with));
                top[1] = fmaxf(top[1], __shfl_xor_sync(ALL, top[1], with));
            }
            if (g == 0) *reinterpret_cast<float2*>(peaks + (warp * UNITS + u) * 8 + 2 * c) = make_float2(top[0], top[1]);
        }
        wait_for_tile(args.slots);
        __syncthreads();
        copy(2 * n + args.slots);
#pragma unroll
        for (u32 u = 0; u < UNITS; u++) {
            float now[2] = {peak[u][0], peak[u][1]}, keep[2], w[4];
#pragma unroll
            for (u32 i = 0; i < WARPS; i++) {
                float2 top = *reinterpret_cast<const float2*>(peaks + (i * UNITS + u) * 8 + 2 * c);
                now[0] = fmaxf(now[0], top.x), now[1] = fmaxf(now[1], top.y);
            }
#pragma unroll
            for (u32 i = 0; i < 2; i++) {
                // Nothing seen yet, or all scores NaN: weights are 0, or NaN.
                float base = now[i] == -INFINITY ? 0.0f : now[i];
                keep[i] = exp2f(peak[u][i] - base);
                w[i] = exp2f(high[u][i] - base);
                w[i + 2] = exp2f(high[u][i + 2] - base);
                sum[u][i] = sum[u][i] * keep[i] + (w[i] + w[i + 2]);
                peak[u][i] = now[i];
            }
#pragma unroll
            for (u32 i = 0; i < TILES; i++) {
                mixed[u][i][0] *= keep[0], mixed[u][i][1] *= keep[1];
                mixed[u][i][2] *= keep[0], mixed[u][i][3] *= keep[1];
            }
            // Turned round: lanes of neighbouring positions swap, each then has two positions of one head, as B wants them.
            u32 two[2], rest[2], odd = g & 1;
#pragma unroll
            for (u32 i = 0; i < 2; i++) {
                float mine = (odd ? w[2 * i + 1] : w[2 * i]) * L::WEIGHT_SCALE;
                float other = __shfl_xor_sync(ALL, (odd ? w[2 * i] : w[2 * i + 1]) * L::WEIGHT_SCALE, 4);
                in_two<FMT>(odd ? other : mine, odd ? mine : other, two[i], rest[i]);
            }
            weights[(u * WARPS + warp) * 32 + 4 * (2 * c + odd) + (g >> 1)] = make_uint4(two[0], two[1], rest[0], rest[1]);
        }
        __syncthreads();
        const u8* values = tiles + (2 * n + 1) % args.slots * L::TILE;
#pragma unroll
        for (u32 t = 0; t < BLOCK / 16; t++) {
            u32 a[TILES][4];
            load_values<FMT, HD>(a, values, t, warp, g, c, last + 1 - start, row_scales);
#pragma unroll
            for (u32 u = 0; u < UNITS; u++) {
                uint4 p = weights[(u * WARPS + t) * 32 + lane];
#pragma unroll
                for (u32 i = 0; i < TILES; i++) multiply<FMT>(mixed[u][i], a[i], p.x, p.y);
#pragma unroll
                for (u32 i = 0; i < TILES; i++) multiply<FMT>(mixed[u][i], a[i], p.z, p.w);
            }
        }
    }
    cp_async_wait<0>();

    // Sums of the weights over a warp's positions, then over the warps.
    __syncthreads();
#pragma unroll
    for (u32 u = 0; u < UNITS; u++) {
#pragma unroll
        for (int with = 4; with <= 16; with *= 2) {
            sum[u][0] += __shfl_xor_sync(ALL, sum[u][0], with);
            sum[u][1] += __shfl_xor_sync(ALL, sum[u][1], with);
        }
        if (g == 0) *reinterpret_cast<float2*>(peaks + (warp * UNITS + u) * 8 + 2 * c) = make_float2(sum[u][0], sum[u][1]);
    }
    __syncthreads();
    // A lane's dimensions of a head lie together, as many as one access takes.
    constexpr u32 EACH = L::DIMS < 4 ? L::DIMS : 4;
    const u32 stride = parts_of_head(args.splits);
#pragma unroll
    for (u32 u = 0; u < UNITS; u++) {
        const u32 member = u / octets, own = splits_of(position + member, args.splits);
        // A row may end before the last of this block's rows does.
        if (member >= members || blockIdx.x >= own) continue;
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            const u32 in_group = u % octets * 8 + 2 * c + i, head = kv_head * group + in_group;
            if (in_group >= group) continue;
            float total = 0.0f;
            for (u32 w = 0; w < WARPS; w++) total += peaks[(w * UNITS + u) * 8 + 2 * c + i];
            const u64 at = static_cast<u64>(row + member) * args.q_heads + head;
            float* part = args.partial + ((at - static_cast<u64>(args.first) * args.q_heads) * stride + blockIdx.x) * (head_dim + PAD);
            float* out = own > 1 ? part : args.out + at * head_dim;
#pragma unroll
            for (u32 k = 0; k < L::DIMS; k += EACH) {
                const u32 d = L::DIMS * (8 * warp + g) + k;
                if (PADDED && d >= head_dim) continue;
                float o[EACH];
#pragma unroll
                for (u32 e = 0; e < EACH; e++) {
                    o[e] = mixed[u][(k + e) / 2][2 * (e & 1) + i];
                    if (own == 1) o[e] = finish(o[e], L::MIXED_SCALE, total, args.q + at * args.q_stride, head_dim, d + e, args.gated);
                }
                if constexpr (EACH == 4) *reinterpret_cast<float4*>(out + d) = make_float4(o[0], o[1], o[2], o[3]);
                else *reinterpret_cast<float2*>(out + d) = make_float2(o[0], o[1]);
            }
            if (own > 1 && warp == 0 && g == 0) part[head_dim] = peak[u][i], part[head_dim + 1] = total;
        }
    }
    if (splits == 1 || args.counters == nullptr) return;
    // The last block of a set joins the set, the last set all sets.
    const u32 sets = (splits + SET - 1) / SET, most_sets = (args.splits + SET - 1) / SET, set = blockIdx.x / SET;
    u32* counters = args.counters + (static_cast<u64>(blockIdx.z) * args.kv_heads + kv_head) * (most_sets + 1);
    const Work work = {row, position, members, kv_head, group, octets};
    float* factors_of_parts = reinterpret_cast<float*>(queries);
#pragma unroll 1
    for (u32 level = 0; level < 2; level++) {
        const bool first = level == 0, whole = !first || sets == 1;
        if (!last_of(first ? counters + set : counters + most_sets, first ? min(SET, splits - set * SET) : sets, flag)) return;
        merge<HD>(args, work, stride, first ? set * SET : 0, first ? 1 : SET, whole ? ALL : args.splits + set,
                  whole ? L::MIXED_SCALE : 1.0f, factors_of_parts, head_dim);
        if (whole) return;
    }
}

#define ATTEND_DECODE(name, FMT, HD, UNITS, PADDED)                                                                    \
    KERNEL(name, THREADS, 2, AttendDecode) {                                                                           \
        SHARED(u32, flag, 1);                                                                                          \
        DYNAMIC_SHARED(shared);                                                                                        \
        attend<FMT, HD, UNITS, PADDED>(args, shared, flag[0]);                                                    \
    }
#define ATTEND_DECODE_HEADS(name, FMT, UNITS)                                                                          \
    ATTEND_DECODE(attend_decode_##name##_64_##UNITS, FMT, 64, UNITS, false)                                            \
    ATTEND_DECODE(attend_decode_##name##_128_##UNITS, FMT, 128, UNITS, false)                                          \
    ATTEND_DECODE(attend_decode_##name##_256_##UNITS, FMT, 256, UNITS, false)
// Heads shorter than HD: fewer kernels, for they take room in the program; the units that fit into shared memory best.
#define ATTEND_DECODE_WITHIN(name, FMT)                                                                                \
    ATTEND_DECODE(attend_decode_##name##_within_128_1, FMT, 128, 1, true)                                              \
    ATTEND_DECODE(attend_decode_##name##_within_128_4, FMT, 128, 4, true)                                              \
    ATTEND_DECODE(attend_decode_##name##_within_256_1, FMT, 256, 1, true)                                              \
    ATTEND_DECODE(attend_decode_##name##_within_256_2, FMT, 256, 2, true)
#define ATTEND_DECODE_ROWS(name, FMT)                                                                                  \
    ATTEND_DECODE_HEADS(name, FMT, 1)                                                                                  \
    ATTEND_DECODE_HEADS(name, FMT, 2)                                                                                  \
    ATTEND_DECODE_HEADS(name, FMT, 4)                                                                                  \
    ATTEND_DECODE_WITHIN(name, FMT)
ATTEND_DECODE_ROWS(bf16, KV_BF16)
ATTEND_DECODE_ROWS(fp8, KV_FP8)
ATTEND_DECODE_ROWS(nvfp4, KV_NVFP4)
