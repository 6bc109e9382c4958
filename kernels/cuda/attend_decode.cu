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
#include "kv.cuh"

struct AttendDecode {
    const Pass* pass;
    const float* q;      // [rows, q_heads, q_stride]
    const u8* keys;
    const u8* values;
    float* out;          // [rows, q_heads, HD]
    float* partial;      // [16, q_heads, splits + sets, HD + 4]: mixed values, largest score, sum of weights
    u32* counters;       // [16, kv_heads, sets + 1], zero between launches
    u32 first, rows;     // the rows of this launch: at most 16
    u32 q_heads, kv_heads, q_stride, page_len, gated;
    u32 splits;          // most splits of a row
    u32 slots;           // tiles in shared memory: 2, 3, 4 or 6
    float scale;
};
static_assert(sizeof(AttendDecode) == 96, "the layout of src/cuda/attention.rs");

constexpr u32 THREADS = 128, WARPS = 4;
constexpr u32 BLOCK = 64;  // positions of a tile: 16 per warp
constexpr u32 SET = 16;    // splits merged at a time
constexpr u32 ALL = 0xffffffffu;

// A tile: 64 positions of keys or of values of one head.
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

template <u32 FMT, u32 HD> __device__ inline KeyBytes load_key(const u8* tile, u32 position, u32 j, u32 c) {
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
        const u8* scales = tile + BLOCK * L::ROW + position * L::SCALES + (4 * j + c) * (L::LOAD / 8);
        for (u32 i = 0; i < L::LOAD / 8; i++) k.scale[i] = twice(e4m3x2_to_f16x2(scales[i]));
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
__device__ inline void load_values(u32 a[][4], const u8* tile, u32 t, u32 warp, u32 g, u32 c, u32 held) {
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
                u8 code = tile[BLOCK * L::ROW + position * L::SCALES + L::DIMS * (8 * warp + g) / 16];
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

// Waits until at most `slots - 2` copies are under way.
__device__ inline void wait_for_tile(u32 slots) {
    if (slots == 2) cp_async_wait<0>();
    else if (slots == 3) cp_async_wait<1>();
    else if (slots == 4) cp_async_wait<2>();
    else cp_async_wait<4>();
}

__device__ inline u32 blocks_per_split(u32 position, u32 splits) { return (position / BLOCK + splits) / splits; }

__device__ inline float finish(float mixed, float scale, float sum, const float* q, u32 head_dim, u32 d, u32 gated) {
    float o = mixed * scale / sum;
    return gated ? o * (1.0f / (1.0f + expf(-q[head_dim + d]))) : o;
}

// What a block works on.
struct Work {
    u32 row, position;  // the first row
    u32 members;        // rows
    u32 kv_head, group, octets;
};

// Numbers behind a part's mixed values: largest score, sum of weights, and what keeps the next part aligned.
constexpr u32 PAD = 4;

// Number of the first part of the unit's head e.
__device__ inline u64 parts_of(const AttendDecode& args, const Work& work, u32 stride, u32 e) {
    const u32 row = work.row + e / work.group - args.first, head = work.kv_head * work.group + e % work.group;
    return (static_cast<u64>(row) * args.q_heads + head) * stride;
}

// Merges up to SET parts, in order, of every unit's heads, eight heads at a time: a thread has 16 dimensions of a head. `from`
// is the first part to merge, `per` how many splits each stands for, `to` where the result goes: another part, or (ALL) the
// output. The loops are short and the code is there once, since few blocks come here and each finds it in no cache.
template <u32 HD>
__device__ inline void merge(const AttendDecode& args, const Work& work, u32 stride, u32 from, u32 per, u32 to, float scale, float* factors) {
    constexpr u32 HEADS = 8, FOURS = HD / 4, MINE = HEADS * FOURS / THREADS;
    float* sums = factors + HEADS * SET;
    const u32 heads = work.members * work.group;
#pragma unroll 1
    for (u32 first = 0; first < heads; first += HEADS) {
        // The factor of a part: a half warp for two heads has one part each.
#pragma unroll 1
        for (u32 at = threadIdx.x; at < HEADS * SET; at += THREADS) {
            const u32 e = first + at / SET, s = at % SET, member = e / work.group;
            // The row's own parts: those of rows behind it are not its business.
            const u32 splits = (work.position + member) / BLOCK / blocks_per_split(work.position, args.splits) + 1;
            const u32 have = (splits + per - 1) / per;
            const bool there = e < heads && from + s < have;
            const u64 part = parts_of(args, work, stride, e) + (per == 1 ? from : args.splits + from) + s;
            const float* of = args.partial + part * (HD + PAD) + HD;
            float peak = there ? of[0] : -INFINITY, sum = there ? of[1] : 0.0f, top = peak;
            for (int with = SET / 2; with > 0; with /= 2) top = fmaxf(top, __shfl_xor_sync(ALL, top, with));
            const float factor = there ? exp2f(peak - top) : 0.0f;
            sum *= factor;
            for (int with = SET / 2; with > 0; with /= 2) sum += __shfl_xor_sync(ALL, sum, with);
            factors[at] = there ? factor : -1.0f;
            if (s == 0) {
                sums[at / SET] = sum;
                if (to != ALL && there) {
                    float* result = args.partial + (parts_of(args, work, stride, e) + to) * (HD + PAD) + HD;
                    result[0] = top, result[1] = sum;
                }
            }
        }
        __syncthreads();
        float4 mixed[MINE];
#pragma unroll
        for (u32 k = 0; k < MINE; k++) mixed[k] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 2
        for (u32 s = 0; s < SET; s++) {
#pragma unroll
            for (u32 k = 0; k < MINE; k++) {
                const u32 at = threadIdx.x + THREADS * k, e = at / FOURS;
                const float f = factors[e * SET + s];
                // Not there. A part of NaN is, whatever its factor.
                if (f < 0.0f) continue;
                const u64 part = parts_of(args, work, stride, first + e) + (per == 1 ? from : args.splits + from) + s;
                const float4 v = *reinterpret_cast<const float4*>(args.partial + part * (HD + PAD) + 4 * (at % FOURS));
                mixed[k].x = fmaf(f, v.x, mixed[k].x), mixed[k].y = fmaf(f, v.y, mixed[k].y);
                mixed[k].z = fmaf(f, v.z, mixed[k].z), mixed[k].w = fmaf(f, v.w, mixed[k].w);
            }
        }
#pragma unroll 1
        for (u32 k = 0; k < MINE; k++) {
            const u32 at = threadIdx.x + THREADS * k, e = first + at / FOURS, d = 4 * (at % FOURS);
            if (e >= heads) continue;
            const u32 member = e / work.group, splits = (work.position + member) / BLOCK / blocks_per_split(work.position, args.splits) + 1;
            if ((splits + per - 1) / per <= from) continue;
            const float4 m = k == 0 ? mixed[0] : k == 1 ? mixed[MINE > 1 ? 1 : 0] : k == 2 ? mixed[MINE > 2 ? 2 : 0] : mixed[MINE > 3 ? 3 : 0];
            if (to != ALL) {
                *reinterpret_cast<float4*>(args.partial + (parts_of(args, work, stride, e) + to) * (HD + PAD) + d) = m;
                continue;
            }
            const u64 head = static_cast<u64>(work.row + member) * args.q_heads + work.kv_head * work.group + e % work.group;
            const float* q = args.q + head * args.q_stride;
            const float v[4] = {m.x, m.y, m.z, m.w}, sum = sums[at / FOURS];
#pragma unroll
            for (u32 i = 0; i < 4; i++) args.out[head * HD + d + i] = finish(v[i], scale, sum, q, HD, d + i, args.gated);
        }
        __syncthreads();
    }
}

// True in every thread of the last of `count` blocks to come here; what the others wrote before can then be read.
__device__ inline bool last_of(u32* counter, u32 count, u32& flag) {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) flag = atomicInc(counter, count - 1) == count - 1;
    __syncthreads();
    bool last = flag;
    __syncthreads();
    if (last) __threadfence();
    return last;
}

template <u32 FMT, u32 HD, u32 UNITS> __device__ inline void attend(const AttendDecode& args, u8* shared, u32& flag) {
    using L = Layout<FMT, HD>;
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
    const Work work = {row, position, members, kv_head, group, octets};
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
                             kv_page_at(pages[start / args.page_len], kv_head, args.kv_heads, args.page_len, L::ROW + L::SCALES);
            const u8* from = page + static_cast<u64>(start % args.page_len) * L::ROW;
            u8* to = tiles + tile % args.slots * L::TILE;
#pragma unroll 4
            for (u32 i = threadIdx.x; i < BLOCK * L::ROW / 16; i += THREADS) {
                u32 p = i / (L::ROW / 16), at = i % (L::ROW / 16) * 16;
                cp_async16(to + tile_at<FMT, HD>(value, p, at), from + p * L::ROW + at, p < held);
            }
            if (L::SCALES != 0 && threadIdx.x < BLOCK * L::SCALES / 16) {
                u32 at = threadIdx.x * 16;
                const u8* scales = page + static_cast<u64>(args.page_len) * L::ROW + start % args.page_len * L::SCALES;
                cp_async16(to + BLOCK * L::ROW + at, scales + at, at / (L::SCALES + (L::SCALES == 0)) < held);
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
                if (!used) continue;
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
            KeyBytes near = load_key<FMT, HD>(keys, 16 * warp + g, j, c), far = load_key<FMT, HD>(keys, 16 * warp + g + 8, j, c);
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
            load_values<FMT, HD>(a, values, t, warp, g, c, last + 1 - start);
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
    const u32 sets = (splits + SET - 1) / SET, most_sets = (args.splits + SET - 1) / SET, stride = args.splits + most_sets;
#pragma unroll
    for (u32 u = 0; u < UNITS; u++) {
        u32 member = u / octets;
        if (member >= members) continue;
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            u32 in_group = u % octets * 8 + 2 * c + i, head = kv_head * group + in_group;
            if (in_group >= group) continue;
            float total = 0.0f;
            for (u32 w = 0; w < WARPS; w++) total += peaks[(w * UNITS + u) * 8 + 2 * c + i];
            u64 at = static_cast<u64>(row + member) * args.q_heads + head;
            float* part = args.partial + ((at - static_cast<u64>(args.first) * args.q_heads) * stride + blockIdx.x) * (HD + PAD);
#pragma unroll
            for (u32 k = 0; k < L::DIMS; k++) {
                u32 d = L::DIMS * (8 * warp + g) + k;
                float o = mixed[u][k / 2][2 * (k & 1) + i];
                if (splits > 1) part[d] = o;
                else args.out[at * HD + d] = finish(o, L::MIXED_SCALE, total, args.q + at * args.q_stride, HD, d, args.gated);
            }
            if (splits > 1 && warp == 0 && g == 0) part[HD] = peak[u][i], part[HD + 1] = total;
        }
    }
    if (splits == 1) return;
    // The last block of a set merges the set, the last set all sets.
    u32* counters = args.counters + (static_cast<u64>(blockIdx.z) * args.kv_heads + kv_head) * (most_sets + 1);
    const u32 set = blockIdx.x / SET;
    float* factors_of_parts = reinterpret_cast<float*>(queries);
#pragma unroll 1
    for (u32 level = 0; level < 2; level++) {
        const bool first = level == 0, whole = !first || sets == 1;
        if (!last_of(first ? counters + set : counters + most_sets, first ? min(SET, splits - set * SET) : sets, flag)) return;
        merge<HD>(args, work, stride, first ? set * SET : 0, first ? 1 : SET, whole ? ALL : args.splits + set,
                  whole ? L::MIXED_SCALE : 1.0f, factors_of_parts);
        if (whole) return;
    }
}

#define ATTEND_DECODE(name, FMT, HD, UNITS)                                                                            \
    KERNEL(attend_decode_##name##_##HD##_##UNITS, THREADS, 2, AttendDecode) {                                          \
        SHARED(u32, flag, 1);                                                                                          \
        DYNAMIC_SHARED(shared);                                                                                        \
        attend<FMT, HD, UNITS>(args, shared, flag[0]);                                                                 \
    }
#define ATTEND_DECODE_HEADS(name, FMT, UNITS)                                                                          \
    ATTEND_DECODE(name, FMT, 64, UNITS)                                                                                \
    ATTEND_DECODE(name, FMT, 128, UNITS)                                                                               \
    ATTEND_DECODE(name, FMT, 256, UNITS)
#define ATTEND_DECODE_ROWS(name, FMT)                                                                                  \
    ATTEND_DECODE_HEADS(name, FMT, 1)                                                                                  \
    ATTEND_DECODE_HEADS(name, FMT, 2)                                                                                  \
    ATTEND_DECODE_HEADS(name, FMT, 4)
ATTEND_DECODE_ROWS(bf16, KV_BF16)
ATTEND_DECODE_ROWS(fp8, KV_FP8)
ATTEND_DECODE_ROWS(nvfp4, KV_NVFP4)
