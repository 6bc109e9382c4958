// Second half of the chunked gated delta rule: a block takes one value head of one segment from chunk to chunk. With S the
// state [k, v] and the matrices of gdn_prepare.cu:
//
//   W = solve (V - diag(e^G) K S)                          what the chunk writes, per row
//   O = diag(e^G) Q S + attend W                           then the gated norm
//   S = e^G_last S + (diag(e^(G_last - G)) K)^T W
//
// Everything is computed transposed, with v along the rows of the products: a warp owns 16 of the 128 columns of the state
// and keeps them in registers as f32; a result of one product is, register for register, the left operand of the next, so
// warps meet only for the norm. Left operands (S, W, V - ..) are split into two f16 after a power of two, right ones are
// f16 as they came: error 2^-12 per number of K, Q, solve and attend.

#include "gdn_tile.cuh"

constexpr u32 SCAN_WARPS = 8;
constexpr u32 SCAN_THREADS = 32 * SCAN_WARPS;
constexpr u32 KEYS = 0, QUERIES = 64 * 256, SOLVE = 2 * QUERIES, ATTEND = SOLVE + 64 * 128, DECAYS = ATTEND + 64 * 128;
constexpr u32 STAGE = DECAYS + 512;
constexpr u32 SCAN_SHARED = 2 * STAGE;
static_assert(SCAN_SHARED == 99328, "as in src/cuda/gdn.rs; a block of GB10 may have 101376");
// The chunk's outputs, 64 x 128 f32, where its queries, solve and attend were.
constexpr u32 OUTPUTS = QUERIES;
static_assert(OUTPUTS + 64 * GDN_DIM * 4 == DECAYS, "room for the outputs");

// The place of column v of row i: the four rows that a warp writes together lie in different banks.
__device__ __forceinline__ u32 gdn_output(u32 i, u32 v) { return i * GDN_DIM + (v ^ (i / 2 % 4 * 8)); }

// Starts copying a chunk into a stage.
__device__ __forceinline__ void gdn_fetch(const GdnChunks& args, u8* stage, u32 local, u32 head) {
    u64 keys = (u64(local) * args.step.k_heads + head / (args.step.v_heads / args.step.k_heads)) * 64 * GDN_DIM;
    u64 square = (u64(local) * args.step.v_heads + head) * 64 * 64;
    // Not unrolled: the addresses would take the registers of the products.
#pragma unroll 1
    for (u32 i = threadIdx.x; i < 64 * 16; i += SCAN_THREADS) {
        u32 to = gdn_at<256>(i / 16, i % 16);
        cp_async16(stage + KEYS + to, args.k + keys + i * 8, true);
        cp_async16(stage + QUERIES + to, args.q + keys + i * 8, true);
    }
#pragma unroll 1
    for (u32 i = threadIdx.x; i < 64 * 8; i += SCAN_THREADS) {
        u32 to = gdn_at<128>(i / 8, i % 8);
        cp_async16(stage + SOLVE + to, args.solve + square + i * 8, true);
        cp_async16(stage + ATTEND + to, args.attend + square + i * 8, true);
    }
    if (threadIdx.x < 32) {
        const float* decays = args.decays + (u64(local) * args.step.v_heads + head) * 128;
        cp_async16(stage + DECAYS + 16 * threadIdx.x, decays + 4 * threadIdx.x, true);
    }
}

// The __syncwarp here and below keep the compiler from loading so far ahead that registers spill.

// d = the chunk's keys or queries, whose fragments lie at `at`, times the state times `by`.
__device__ __forceinline__ void gdn_times_state(float d[8][4], const float s[16][4], float by, const u8* memory, u32 at) {
#pragma unroll
    for (u32 n = 0; n < 8; ++n) d[n][0] = d[n][1] = d[n][2] = d[n][3] = 0.0f;
#pragma unroll
    for (u32 t = 0; t < 8; ++t) {
        if (t % 2 == 0) __syncwarp();
        u32 hi[4], lo[4];
        gdn_operand(s[2 * t], s[2 * t + 1], by, hi, lo);
#pragma unroll
        for (u32 pair = 0; pair < 4; ++pair) {
            u32 b[4];
            gdn_load_b<256>(b, memory, at, pair, t);
            mma_f16(d[2 * pair], hi, b);
            mma_f16(d[2 * pair + 1], hi, b + 2);
            mma_f16(d[2 * pair], lo, b);
            mma_f16(d[2 * pair + 1], lo, b + 2);
        }
    }
}

// Grid: value heads, segments. Dynamic shared memory: SCAN_SHARED.
KERNEL(gdn_scan, SCAN_THREADS, 1, GdnChunks) {
    DYNAMIC_SHARED(memory);
    pdl_launch();
    pdl_wait();
    const GdnStep& step = args.step;
    const Pass& pass = *step.pass;
    u32 head = blockIdx.x, segment = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (segment >= pass.segments) return;
    u32 base = 0;
    for (u32 s = 0; s < segment; ++s) base += gdn_chunks(step, pass, s);
    // Chunks of this segment among those of the launch, counted in the pass.
    u32 begin = max(args.first, base), end = min(args.first + args.count, base + gdn_chunks(step, pass, segment));
    if (begin >= end) return;

    u32 g = lane / 4, c = lane % 4;
    u32 v = 16 * warp + g;  // the lane's columns of the state: v and v + 8
    float* state = step.state + (u64(pass.seg_slot[segment]) * step.v_heads + head) * GDN_DIM * GDN_DIM + v;
    bool empty = begin == base && pass.seg_position[segment] == 0;
    gdn_fetch(args, memory, begin - args.first, head);
    cp_async_commit();
    float s[16][4];  // [k / 8][..]: k = 8 n + 2 c + e % 2, v + 8 (e / 2)
#pragma unroll
    for (u32 n = 0; n < 16; ++n) {
#pragma unroll
        for (u32 e = 0; e < 4; ++e) s[n][e] = empty ? 0.0f : state[(8 * n + 2 * c + e % 2) * GDN_DIM + e / 2 * 8];
    }
    u32 channels = 2 * step.k_heads * GDN_DIM + step.v_heads * GDN_DIM;
    u32 width = step.v_heads * GDN_DIM;

    for (u32 chunk = begin; chunk < end; ++chunk) {
        u32 stage = (chunk - begin) % 2 * STAGE;
        u32 keys = stage + KEYS + gdn_lane_b<256>(lane), squares = stage + SOLVE + gdn_lane_b<128>(lane);
        u32 first = (chunk - base) * GDN_CHUNK, count = min(GDN_CHUNK, pass.seg_rows[segment] - first);
        u64 row = pass.seg_first[segment] + first;
        // The lane's first row of the chunk is 2 c.
        const float* value = step.qkv + (row + 2 * c) * channels + 2 * step.k_heads * GDN_DIM + head * GDN_DIM + v;
        float w[8][4];  // [i / 8][..]: row i = 8 n + 2 c + e % 2 of the chunk, column v + 8 (e / 2)
#pragma unroll
        for (u32 n = 0; n < 8; ++n, value += 8 * channels) {
            bool even = 8 * n + 2 * c < count, odd = 8 * n + 2 * c + 1 < count;
            w[n][0] = even ? value[0] : 0.0f;
            w[n][1] = odd ? value[channels] : 0.0f;
            w[n][2] = even ? value[8] : 0.0f;
            w[n][3] = odd ? value[channels + 8] : 0.0f;
        }
        cp_async_wait<0>();
        __syncthreads();
        // Every warp has left the last chunk, whose place the next one takes.
        if (chunk + 1 < end) gdn_fetch(args, memory + (STAGE - stage), chunk + 1 - args.first, head);
        cp_async_commit();
        const float* grown = reinterpret_cast<const float*>(memory + stage + DECAYS);  // e^G, then e^(G_last - G)

        // K S.
        float x[8][4];
        Power power = gdn_power<16>(s);
        float grow = power.undo, by_state = power.by;
        gdn_times_state(x, s, power.by, memory, keys);
#pragma unroll
        for (u32 n = 0; n < 8; ++n) {
            float2 decay = *reinterpret_cast<const float2*>(grown + 8 * n + 2 * c);
            decay = make_float2(decay.x * grow, decay.y * grow);
#pragma unroll
            for (u32 e = 0; e < 4; ++e) {
                w[n][e] = fmaf(e % 2 == 0 ? -decay.x : -decay.y, x[n][e], w[n][e]);
                x[n][e] = 0.0f;
            }
        }

        // W, in x.
        power = gdn_power<8>(w);
#pragma unroll
        for (u32 t = 0; t < 4; ++t) {
            u32 hi[4], lo[4];
            gdn_operand(w[2 * t], w[2 * t + 1], power.by, hi, lo);
#pragma unroll
            for (u32 pair = t; pair < 4; ++pair) {
                u32 b[4];
                gdn_load_b<128>(b, memory, squares, pair, t);
                mma_f16(x[2 * pair], hi, b);
                mma_f16(x[2 * pair + 1], hi, b + 2);
                mma_f16(x[2 * pair], lo, b);
                mma_f16(x[2 * pair + 1], lo, b + 2);
            }
        }
        float scaled = power.undo * (1.0f / GDN_SQUARE);

        __syncwarp();
        // Q S. Its left operands are made a second time: held beside w they would not fit into the registers.
        float o[8][4];
        gdn_times_state(o, s, by_state, memory + QUERIES, keys);
#pragma unroll
        for (u32 n = 0; n < 8; ++n) {
            float2 decay = *reinterpret_cast<const float2*>(grown + 8 * n + 2 * c);
#pragma unroll
            for (u32 e = 0; e < 4; ++e) o[n][e] *= (e % 2 == 0 ? decay.x : decay.y) * grow;
        }
        power = gdn_power<8>(x);
        float undo = scaled * power.undo;

        // attend W, 32 rows and then the other 32, for want of registers.
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            float sum[4][4];
#pragma unroll
            for (u32 n = 0; n < 4; ++n) sum[n][0] = sum[n][1] = sum[n][2] = sum[n][3] = 0.0f;
#pragma unroll
            for (u32 t = 0; t < 2 * half + 2; ++t) {
                u32 hi[4], lo[4];
                gdn_operand(x[2 * t], x[2 * t + 1], power.by, hi, lo);
#pragma unroll
                for (u32 pair = 0; pair < 2; ++pair) {
                    if (2 * half + pair >= t) {
                        u32 b[4];
                        gdn_load_b<128>(b, memory + (ATTEND - SOLVE), squares, 2 * half + pair, t);
                        mma_f16(sum[2 * pair], hi, b);
                        mma_f16(sum[2 * pair + 1], hi, b + 2);
                        mma_f16(sum[2 * pair], lo, b);
                        mma_f16(sum[2 * pair + 1], lo, b + 2);
                    }
                }
            }
#pragma unroll
            for (u32 n = 0; n < 4; ++n) {
#pragma unroll
                for (u32 e = 0; e < 4; ++e) o[4 * half + n][e] = fmaf(undo * (1.0f / GDN_SQUARE), sum[n][e], o[4 * half + n][e]);
            }
        }

        __syncthreads();
        float* outputs = reinterpret_cast<float*>(memory + stage + OUTPUTS);
#pragma unroll
        for (u32 n = 0; n < 8; ++n) {
#pragma unroll
            for (u32 e = 0; e < 4; ++e) outputs[gdn_output(8 * n + 2 * c + e % 2, v + e / 2 * 8)] = o[n][e];
        }

        // The state.
        {
            u32 hi[4][4], lo[4][4];
#pragma unroll
            for (u32 n = 0; n < 8; ++n) {
                float2 decay = *reinterpret_cast<const float2*>(grown + 64 + 8 * n + 2 * c);
#pragma unroll
                for (u32 e = 0; e < 4; ++e) x[n][e] *= e % 2 == 0 ? decay.x : decay.y;
            }
#pragma unroll
            for (u32 t = 0; t < 4; ++t) gdn_operand(x[2 * t], x[2 * t + 1], power.by, hi[t], lo[t]);
            float decay = grown[63];
            u32 columns = stage + KEYS + gdn_lane_a<256>(lane);
#pragma unroll
            for (u32 pair = 0; pair < 8; ++pair) {
                if (pair % 2 == 0) __syncwarp();
                float sum[2][4] = {{0.0f, 0.0f, 0.0f, 0.0f}, {0.0f, 0.0f, 0.0f, 0.0f}};
#pragma unroll
                for (u32 t = 0; t < 4; ++t) {
                    u32 b[4];
                    gdn_load_b_trans<256>(b, memory, columns, pair, t);
                    mma_f16(sum[0], hi[t], b);
                    mma_f16(sum[1], hi[t], b + 2);
                    mma_f16(sum[0], lo[t], b);
                    mma_f16(sum[1], lo[t], b + 2);
                }
#pragma unroll
                for (u32 e = 0; e < 4; ++e) {
                    s[2 * pair][e] = fmaf(undo, sum[0][e], decay * s[2 * pair][e]);
                    s[2 * pair + 1][e] = fmaf(undo, sum[1][e], decay * s[2 * pair + 1][e]);
                }
            }
        }

        // The gated norm, a row to a warp.
        __syncthreads();
        float4 norm = gdn_load4(step.out_norm + 4 * lane);
#pragma unroll 1
        for (u32 i = warp; i < count; i += SCAN_WARPS) {
            u64 at = (row + i) * width + head * GDN_DIM + 4 * lane;
            float4 z = gdn_load4(step.z + at), y = gdn_load4(outputs + gdn_output(i, 4 * lane));
            float scale = 1.0f / sqrtf(gdn_warp_sum(gdn_square4(y)) * (1.0f / GDN_DIM) + step.eps);
            gdn_store4(step.out + at, make_float4(y.x * scale * (norm.x + step.offset) * gdn_silu(z.x),
                                                  y.y * scale * (norm.y + step.offset) * gdn_silu(z.y),
                                                  y.z * scale * (norm.z + step.offset) * gdn_silu(z.z),
                                                  y.w * scale * (norm.w + step.offset) * gdn_silu(z.w)));
        }
    }
#pragma unroll
    for (u32 n = 0; n < 16; ++n) {
#pragma unroll
        for (u32 e = 0; e < 4; ++e) state[(8 * n + 2 * c + e % 2) * GDN_DIM + e / 2 * 8] = s[n][e];
    }
}
