// attend_paged for many rows: flash attention (arXiv 2205.14135, 2307.08691) over pages, on tensor cores. A block takes 64
// queries, which are the rows of a stretch of one sequence times the query heads of a key head, and walks over the positions
// that they see, 32 at a time; four warps of 16 queries each. Queries and weights are rounded to 16 bits once, sums are f32.
#include "kv.cuh"

struct AttendPrefill {
    const Pass* pass;
    const float* q;      // [rows, q_heads, q_stride]
    const u8* keys;
    const u8* values;
    float* out;          // [rows, q_heads, head_dim]
    u32 q_heads, kv_heads, q_stride, page_len, gated;
    float scale;
};
static_assert(sizeof(AttendPrefill) == 64, "the layout of src/cuda/attention.rs");

constexpr u32 THREADS = 128, QUERIES = 64;
constexpr u32 BLOCK = 32; // positions of a tile
constexpr u32 ALL = 0xffffffffu;

template <u32 FMT, u32 HD> struct Layout {
    static constexpr u32 ROW = FMT == KV_BF16 ? 2 * HD : FMT == KV_FP8 ? HD : HD / 2; // bytes of a position as it is kept
    static constexpr u32 SCALES = FMT == KV_NVFP4 ? HD / 16 : 0;
    static constexpr u32 RAW = BLOCK * (ROW + SCALES);
    // E2M1 pairs come as 2^-14 of their value; f16 weights are raised by 2^14 so that small ones keep their bits.
    static constexpr float KEY_SCALE = FMT == KV_NVFP4 ? 16384.0f : 1.0f;
    static constexpr float WEIGHT_SCALE = FMT == KV_BF16 ? 1.0f : 16384.0f;
    static constexpr float MIXED_SCALE = FMT == KV_FP8 ? 1.0f / 16384.0f : 1.0f;
};

// Byte of the 16-byte piece `piece` of a row of HD 16-bit numbers; pieces change places so that eight rows use all banks.
template <u32 HD> __device__ inline u32 piece_at(u32 row, u32 piece) { return row * 2 * HD + (piece ^ (row & 7)) * 16; }

template <u32 FMT> __device__ inline u32 pair_of(float x, float y) {
    return FMT == KV_BF16 ? f32x2_to_bf16x2(x, y) : f32x2_to_f16x2(x, y);
}

template <u32 FMT> __device__ inline void multiply(float d[4], const u32 a[4], u32 b0, u32 b1) {
    u32 b[2] = {b0, b1};
    if (FMT == KV_BF16) mma_bf16(d, a, b);
    else mma_f16(d, a, b);
}

// Eight numbers of a position of `head_dim` numbers as 16-bit ones.
template <u32 FMT, u32 HD> __device__ inline uint4 widened(const u8* raw, u32 position, u32 piece, bool held, u32 head_dim) {
    using L = Layout<FMT, HD>;
    constexpr u32 BYTES = L::ROW / (HD / 8);
    const u32 row_bytes = head_dim / 8 * BYTES, row_scales = head_dim / 16;
    const u8* at = raw + position * row_bytes + piece * BYTES;
    if constexpr (FMT == KV_BF16) {
        return ld16(at);
    } else if constexpr (FMT == KV_FP8) {
        uint2 v = *reinterpret_cast<const uint2*>(at);
        return make_uint4(e4m3x2_to_f16x2(static_cast<u16>(v.x & 0xffffu)), e4m3x2_to_f16x2(static_cast<u16>(v.x >> 16)),
                          e4m3x2_to_f16x2(static_cast<u16>(v.y & 0xffffu)), e4m3x2_to_f16x2(static_cast<u16>(v.y >> 16)));
    } else {
        u32 word = *reinterpret_cast<const u32*>(at);
        // A 16-byte copy may bring scales of positions that nobody wrote.
        u8 code = raw[BLOCK * row_bytes + position * row_scales + piece / 2];
        u32 scale = (e4m3x2_to_f16x2(held ? code : 0u) & 0xffffu) * 0x10001u;
        // Pair r has numbers 3 - r and 7 - r.
        u32 n04 = hmul2(e2m1x2_to_f16x2_at(word, 3), scale), n15 = hmul2(e2m1x2_to_f16x2_at(word, 2), scale);
        u32 n26 = hmul2(e2m1x2_to_f16x2_at(word, 1), scale), n37 = hmul2(e2m1x2_to_f16x2_at(word, 0), scale);
        return make_uint4(__byte_perm(n04, n15, 0x5410), __byte_perm(n26, n37, 0x5410), __byte_perm(n04, n15, 0x7632),
                          __byte_perm(n26, n37, 0x7632));
    }
}

// PADDED: heads are a multiple of 16 shorter than HD, filled up with zeros where they are 16 bits wide.
template <u32 FMT, u32 HD, bool PADDED> __device__ inline void attend(const AttendPrefill& args, u8* shared) {
    using L = Layout<FMT, HD>;
    const u32 head_dim = PADDED ? args.q_stride >> args.gated : HD;
    const u32 row_bytes = PADDED ? head_dim / 16 * (L::ROW / (HD / 16)) : L::ROW, row_scales = L::SCALES == 0 ? 0 : head_dim / 16;
    constexpr u32 TILE = BLOCK * HD * 2;
    u8* queries = shared;               // [64, HD]
    u8* keys = queries + QUERIES * HD * 2; // [32, HD], and values behind them
    u8* raw = keys + 2 * TILE;          // keys and values as they are kept
    float* factors = reinterpret_cast<float*>(raw + 2 * L::RAW); // [64]
    const u32 tid = threadIdx.x, lane = tid & 31, warp = tid / 32, g = lane >> 2, c = lane & 3;
    pdl_launch();
    pdl_wait();
    const Pass& pass = *args.pass;
    const u32 kv_head = blockIdx.y, group = args.q_heads / args.kv_heads, per = QUERIES / group;
    // The blocks with most positions first.
    u32 tile = gridDim.x - 1 - blockIdx.x, segment = 0;
    for (; segment < pass.segments; segment++) {
        u32 here = (pass.seg_rows[segment] + per - 1) / per;
        if (tile < here) break;
        tile -= here;
    }
    if (segment == pass.segments) return;
    const u32 row = pass.seg_first[segment] + tile * per, position = pass.seg_position[segment] + tile * per;
    const u32 rows = min(per, pass.seg_rows[segment] - tile * per), last = position + rows - 1;
    const u32* pages = pass.pages + static_cast<u64>(segment) * pass.max_pages;

    auto copy = [&](u32 start) {
        for (u32 which = 0; which < 2 && start <= last; which++) {
            const u8* page = (which ? args.values : args.keys) +
                             kv_page_at(pages[start / args.page_len], kv_head, args.kv_heads, args.page_len, row_bytes + row_scales);
            const u8* from = page + static_cast<u64>(start % args.page_len) * row_bytes;
            u8* to = raw + which * L::RAW;
            for (u32 i = tid; i < BLOCK * row_bytes / 16; i += THREADS)
                cp_async16(to + i * 16, from + i * 16, start + (PADDED ? i * 16 / row_bytes : i / (L::ROW / 16)) <= last);
            if (L::SCALES != 0 && tid < BLOCK * row_scales / 16) {
                const u8* scales = page + static_cast<u64>(args.page_len) * row_bytes + start % args.page_len * row_scales;
                cp_async16(to + BLOCK * row_bytes + tid * 16, scales + tid * 16, start + tid * 16 / (row_scales + (L::SCALES == 0)) <= last);
            }
        }
        cp_async_commit();
    };
    copy(0);

    // Queries to 16 bits, raised by a power of two into f16's range; two threads to a query.
    {
        u32 m = tid / 2, half = tid & 1;
        bool used = m < rows * group;
        const float* q = args.q + (static_cast<u64>(row + (used ? m / group : 0)) * args.q_heads + kv_head * group + (used ? m % group : 0)) * args.q_stride +
                         half * (HD / 2);
        // Of this half's dimensions those that the head has.
        const u32 have = PADDED ? min(HD / 2, max(head_dim, half * (HD / 2)) - half * (HD / 2)) : HD / 2;
        float largest = 0.0f;
        for (u32 i = 0; i < have; i += 4) {
            float4 v = *reinterpret_cast<const float4*>(q + i);
            largest = fmaxf(fmaxf(fmaxf(largest, fabsf(v.x)), fmaxf(fabsf(v.y), fabsf(v.z))), fabsf(v.w));
        }
        largest = fmaxf(largest, __shfl_xor_sync(ALL, largest, 1));
        u32 exponent = __float_as_uint(largest) >> 23;
        bool raised = FMT != KV_BF16 && exponent >= 14 && exponent < 255;
        float raise = !used ? 0.0f : raised ? __uint_as_float((267u - exponent) << 23) : 1.0f;
        float lower = raised ? __uint_as_float((exponent - 13u) << 23) : 1.0f;
        if (half == 0) factors[m] = args.scale * 1.44269504f * L::KEY_SCALE * lower;
        for (u32 i = 0; i < HD / 2; i += 8) {
            const bool there = !PADDED || i < have;
            const float* at = there ? q + i : args.q;
            float4 x = *reinterpret_cast<const float4*>(at), y = *reinterpret_cast<const float4*>(at + 4);
            uint4 v = make_uint4(pair_of<FMT>(raise * x.x, raise * x.y), pair_of<FMT>(raise * x.z, raise * x.w),
                                 pair_of<FMT>(raise * y.x, raise * y.y), pair_of<FMT>(raise * y.z, raise * y.w));
            st16(queries + piece_at<HD>(m, (half * (HD / 2) + i) / 8), used && there ? v : make_uint4(0, 0, 0, 0));
        }
    }

    // Lane's queries are g and g + 8 of the warp's 16.
    const u32 mine[2] = {16 * warp + g, 16 * warp + g + 8};
    float peak[2] = {-INFINITY, -INFINITY}, sum[2] = {}, mixed[HD / 8][4] = {};
    for (u32 start = 0; start <= last; start += BLOCK) {
        cp_async_wait<0>();
        __syncthreads();
#pragma unroll 2
        for (u32 i = tid; i < 2 * BLOCK * HD / 8; i += THREADS) {
            u32 which = i / (BLOCK * HD / 8), p = i / (HD / 8) % BLOCK, piece = i % (HD / 8);
            const bool there = !PADDED || piece < head_dim / 8;
            uint4 v = make_uint4(0, 0, 0, 0);
            if (there) v = widened<FMT, HD>(raw + which * L::RAW, p, piece, start + p <= last, head_dim);
            st16(keys + which * TILE + piece_at<HD>(p, piece), v);
        }
        __syncthreads();
        copy(start + BLOCK);

        float score[4][4] = {};
#pragma unroll 4
        for (u32 k = 0; k < HD / 16; k++) {
            u32 a[4], b[2][4];
            ldmatrix4(a, queries + piece_at<HD>(16 * warp + (lane & 15), 2 * k + (lane >> 4)));
#pragma unroll
            for (u32 n = 0; n < 2; n++)
                ldmatrix4(b[n], keys + piece_at<HD>(16 * n + (lane & 7) + 8 * (lane >> 4), 2 * k + (lane >> 3 & 1)));
#pragma unroll
            for (u32 n = 0; n < 4; n++) multiply<FMT>(score[n], a, b[n / 2][2 * (n & 1)], b[n / 2][2 * (n & 1) + 1]);
        }
        u32 weights[2][4];
        float keep[2];
#pragma unroll
        for (u32 h = 0; h < 2; h++) {
            float factor = factors[mine[h]], now = peak[h];
            u32 own = position + mine[h] / group;
#pragma unroll
            for (u32 n = 0; n < 4; n++) {
#pragma unroll
                for (u32 e = 0; e < 2; e++) {
                    float s = score[n][2 * h + e] * factor;
                    score[n][2 * h + e] = start + 8 * n + 2 * c + e <= own ? s : -INFINITY;
                    now = fmaxf(now, score[n][2 * h + e]);
                }
            }
            now = fmaxf(now, __shfl_xor_sync(ALL, now, 1));
            now = fmaxf(now, __shfl_xor_sync(ALL, now, 2));
            // All scores NaN: the weights are NaN too.
            float base = now == -INFINITY ? 0.0f : now;
            keep[h] = exp2f(peak[h] - base);
            peak[h] = now;
            sum[h] *= keep[h];
#pragma unroll
            for (u32 n = 0; n < 4; n++) {
                float x = exp2f(score[n][2 * h] - base), y = exp2f(score[n][2 * h + 1] - base);
                sum[h] += x + y;
                weights[n / 2][2 * (n & 1) + h] = pair_of<FMT>(x * L::WEIGHT_SCALE, y * L::WEIGHT_SCALE);
            }
        }
#pragma unroll
        for (u32 n = 0; n < HD / 8; n++) {
            mixed[n][0] *= keep[0], mixed[n][1] *= keep[0];
            mixed[n][2] *= keep[1], mixed[n][3] *= keep[1];
        }
#pragma unroll
        for (u32 k = 0; k < BLOCK / 16; k++) {
#pragma unroll
            for (u32 n = 0; n < HD / 16; n++) {
                u32 b[4];
                ldmatrix4_trans(b, keys + TILE + piece_at<HD>(16 * k + (lane & 15), 2 * n + (lane >> 4)));
                multiply<FMT>(mixed[2 * n], weights[k], b[0], b[1]);
                multiply<FMT>(mixed[2 * n + 1], weights[k], b[2], b[3]);
            }
        }
    }
    cp_async_wait<0>();
#pragma unroll
    for (u32 h = 0; h < 2; h++) {
        sum[h] += __shfl_xor_sync(ALL, sum[h], 1);
        sum[h] += __shfl_xor_sync(ALL, sum[h], 2);
        if (mine[h] >= rows * group) continue;
        u64 at = static_cast<u64>(row + mine[h] / group) * args.q_heads + kv_head * group + mine[h] % group;
        const float* gate = args.q + at * args.q_stride + head_dim;
        float scale = L::MIXED_SCALE / sum[h];
#pragma unroll
        for (u32 n = 0; n < HD / 8; n++) {
            u32 d = 8 * n + 2 * c;
            if (PADDED && d >= head_dim) continue;
            float x = mixed[n][2 * h] * scale, y = mixed[n][2 * h + 1] * scale;
            if (args.gated) {
                float2 z = *reinterpret_cast<const float2*>(gate + d);
                x *= 1.0f / (1.0f + expf(-z.x)), y *= 1.0f / (1.0f + expf(-z.y));
            }
            *reinterpret_cast<float2*>(args.out + at * head_dim + d) = make_float2(x, y);
        }
    }
}

#define ATTEND_PREFILL(name, FMT, HD, PADDED)                                                                          \
    KERNEL(name, THREADS, 2, AttendPrefill) {                                                                          \
        DYNAMIC_SHARED(shared);                                                                                        \
        attend<FMT, HD, PADDED>(args, shared);                                                                         \
    }
// _within: heads shorter than HD.
#define ATTEND_PREFILL_HEADS(name, FMT)                                                                                \
    ATTEND_PREFILL(attend_prefill_##name##_64, FMT, 64, false)                                                         \
    ATTEND_PREFILL(attend_prefill_##name##_128, FMT, 128, false)                                                       \
    ATTEND_PREFILL(attend_prefill_##name##_256, FMT, 256, false)                                                       \
    ATTEND_PREFILL(attend_prefill_##name##_within_128, FMT, 128, true)                                                 \
    ATTEND_PREFILL(attend_prefill_##name##_within_256, FMT, 256, true)
ATTEND_PREFILL_HEADS(bf16, KV_BF16)
ATTEND_PREFILL_HEADS(fp8, KV_FP8)
ATTEND_PREFILL_HEADS(nvfp4, KV_NVFP4)
