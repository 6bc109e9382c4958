// First half of the chunked gated delta rule (WY form, arXiv 2406.06484 and 2412.06464): all that one chunk of 64 rows needs
// and that does not need the state. With G the running sum of the log decays g in the chunk:
//
//   L_ij = e^(G_i - G_j), i >= j        A = diag(beta) tril(K K^T * L, -1)
//   solve = (I + A)^-1 diag(beta)       attend = tril(Q K^T * L)
//
// gdn_scan.cu does the rest. Products of keys are split into two f16 each, three terms (2^-22); sums, exponents and the
// inverse are f32; what leaves is rounded to f16 once.

#include "gdn_tile.cuh"

constexpr u32 PREPARE_THREADS = 256;
constexpr u32 KEY_ROW = 256;        // bytes of a row of keys
constexpr u32 TILE = 64 * KEY_ROW;  // bytes of a chunk of keys
constexpr u32 PRODUCT_STRIDE = 66, MATRIX_STRIDE = 68;
constexpr u32 MATRIX = 64 * MATRIX_STRIDE;
// A and its inverse, over which the keys lie until their products are made; then those.
constexpr u32 PREPARE_SHARED = 8 * MATRIX + 8 * 64 * PRODUCT_STRIDE;
static_assert(PREPARE_SHARED == 68608 && PREPARE_SHARED >= 4 * TILE, "as in src/cuda/gdn.rs");

// to = factor * left right, n x n, in four columns per thread.
__device__ __forceinline__ void gdn_block_product(float* to, const float* left, const float* right, u32 n, float factor,
                                                  u32 thread) {
    u32 i = thread / (n / 4), j = thread % (n / 4) * 4;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (u32 l = 0; l < n; ++l) {
        float a = left[i * MATRIX_STRIDE + l];
        float4 b = gdn_load4(right + l * MATRIX_STRIDE + j);
        sum.x = fmaf(a, b.x, sum.x);
        sum.y = fmaf(a, b.y, sum.y);
        sum.z = fmaf(a, b.z, sum.z);
        sum.w = fmaf(a, b.w, sum.w);
    }
    gdn_store4(to + i * MATRIX_STRIDE + j, gdn_scale4(sum, factor));
}

// t = (I + a)^-1 for a strictly lower a, 64 x 64; the upper right quarter of t is working space. Blocks of 16 by
// substitution, then [[P, 0], [R, S]]^-1 = [[P', 0], [-S' R P', S']] twice.
__device__ __forceinline__ void gdn_invert(const float* a, float* t) {
    u32 thread = threadIdx.x;
    if (thread < 64) {
        u32 block = thread / 16 * 16, j = thread % 16;
        const float* from = a + block * MATRIX_STRIDE + block;
        float x[16];
#pragma unroll
        for (u32 i = 0; i < 16; ++i) {
            float sum = i == j ? 1.0f : 0.0f;
#pragma unroll
            for (u32 l = 0; l < i; ++l) sum = fmaf(-from[i * MATRIX_STRIDE + l], x[l], sum);
            x[i] = sum;
            t[(block + i) * MATRIX_STRIDE + block + j] = sum;
        }
    }
    // The quarters beside the diagonal of a half hold nothing yet, and the product over a half reads the upper one.
    for (u32 i = thread; i < 512; i += PREPARE_THREADS) {
        u32 half = i / 256 * 32, row = half + i % 256 / 16, column = half + 16 + i % 16;
        t[row * MATRIX_STRIDE + column] = 0.0f;
    }
    __syncthreads();
    float* space = t + 32;
    u32 half = thread / 64 * 32 * (MATRIX_STRIDE + 1), below = 16 * MATRIX_STRIDE, right = 16;
    float* small = space + thread / 64 * 16 * (MATRIX_STRIDE + 1);
    if (thread < 128) gdn_block_product(small, a + half + below, t + half, 16, 1.0f, thread % 64);
    __syncthreads();
    if (thread < 128) gdn_block_product(t + half + below, t + half + below + right, small, 16, -1.0f, thread % 64);
    __syncthreads();
    below = 32 * MATRIX_STRIDE;
    gdn_block_product(space, a + below, t, 32, 1.0f, thread);
    __syncthreads();
    gdn_block_product(t + below, t + below + 32, space, 32, -1.0f, thread);
    __syncthreads();
}

// Grid: key heads, chunks. Dynamic shared memory: PREPARE_SHARED.
KERNEL(gdn_prepare, PREPARE_THREADS, 1, GdnChunks) {
    DYNAMIC_SHARED(memory);
    SHARED(float, logs, 64);
    SHARED(float, sums, 64);
    SHARED(float, betas, 64);
    pdl_launch();
    pdl_wait();
    const GdnStep& step = args.step;
    const Pass& pass = *step.pass;
    u32 key_head = blockIdx.x, local = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Chunk chunk = {0, 0, 0, false};
    u32 index = args.first + local;
    for (u32 s = 0; s < pass.segments && !chunk.found; ++s) {
        u32 chunks = gdn_chunks(step, pass, s);
        if (index < chunks) chunk = {s, index * GDN_CHUNK, min(GDN_CHUNK, pass.seg_rows[s] - index * GDN_CHUNK), true};
        else index -= chunks;
    }
    if (!chunk.found) return;
    u64 first_row = pass.seg_first[chunk.segment] + chunk.first;
    u32 channels = 2 * step.k_heads * GDN_DIM + step.v_heads * GDN_DIM;

    // Keys and queries of length one, hi and lo; a row to a warp.
    u64 tile = (u64(local) * step.k_heads + key_head) * 64 * GDN_DIM;
    for (u32 i = warp; i < 64; i += PREPARE_THREADS / 32) {
        float4 q = make_float4(0.0f, 0.0f, 0.0f, 0.0f), k = q;
        if (i < chunk.rows) {
            const float* qkv = step.qkv + (first_row + i) * channels + 4 * lane;
            q = gdn_load4(qkv + key_head * GDN_DIM);
            k = gdn_load4(qkv + (step.k_heads + key_head) * GDN_DIM);
        }
        q = gdn_scale4(q, 1.0f / sqrtf(gdn_warp_sum(gdn_square4(q)) + 1e-6f) * 0.08838834764831845f);
        k = gdn_scale4(k, 1.0f / sqrtf(gdn_warp_sum(gdn_square4(k)) + 1e-6f));
        uint2 k_hi, k_lo, q_hi, q_lo;
        gdn_split(k.x, k.y, k_hi.x, k_lo.x);
        gdn_split(k.z, k.w, k_hi.y, k_lo.y);
        gdn_split(q.x, q.y, q_hi.x, q_lo.x);
        gdn_split(q.z, q.w, q_hi.y, q_lo.y);
        u32 at = gdn_at<KEY_ROW>(i, lane / 2) + lane % 2 * 8;
        *reinterpret_cast<uint2*>(memory + at) = k_hi;
        *reinterpret_cast<uint2*>(memory + TILE + at) = k_lo;
        *reinterpret_cast<uint2*>(memory + 2 * TILE + at) = q_hi;
        *reinterpret_cast<uint2*>(memory + 3 * TILE + at) = q_lo;
        *reinterpret_cast<uint2*>(args.k + tile + i * GDN_DIM + 4 * lane) = k_hi;
        *reinterpret_cast<uint2*>(args.q + tile + i * GDN_DIM + 4 * lane) = q_hi;
    }
    __syncthreads();

    // K K^T by warps 0 to 3, Q K^T by the others, 16 rows each, up to the diagonal.
    u32 m = warp % 4;
    u32 left = warp / 4 * 2 * TILE + gdn_lane_a<KEY_ROW>(lane), right = gdn_lane_b<KEY_ROW>(lane);
    float d[8][4];
#pragma unroll
    for (u32 n = 0; n < 8; ++n) d[n][0] = d[n][1] = d[n][2] = d[n][3] = 0.0f;
#pragma unroll 2
    for (u32 s = 0; s < GDN_DIM / 16; ++s) {
        u32 hi[4], lo[4];
        gdn_load_a<KEY_ROW>(hi, memory, left, m, s);
        gdn_load_a<KEY_ROW>(lo, memory + TILE, left, m, s);
#pragma unroll
        for (u32 pair = 0; pair < 4; ++pair) {
            if (pair <= m) {
                u32 b_hi[4], b_lo[4];
                gdn_load_b<KEY_ROW>(b_hi, memory, right, pair, s);
                gdn_load_b<KEY_ROW>(b_lo, memory + TILE, right, pair, s);
                mma_f16(d[2 * pair], hi, b_hi);
                mma_f16(d[2 * pair + 1], hi, b_hi + 2);
                mma_f16(d[2 * pair], lo, b_hi);
                mma_f16(d[2 * pair + 1], lo, b_hi + 2);
                mma_f16(d[2 * pair], hi, b_lo);
                mma_f16(d[2 * pair + 1], hi, b_lo + 2);
            }
        }
    }
    __syncthreads();
    float* a = reinterpret_cast<float*>(memory);
    float* t = a + MATRIX;
    float* key_products = t + MATRIX;
    float* query_products = key_products + 64 * PRODUCT_STRIDE;
    float* product = warp < 4 ? key_products : query_products;
#pragma unroll
    for (u32 n = 0; n < 8; ++n) {
        if (n / 2 <= m) {
            float* to = product + (16 * m + lane / 4) * PRODUCT_STRIDE + 8 * n + lane % 4 * 2;
            *reinterpret_cast<float2*>(to) = make_float2(d[n][0], d[n][1]);
            *reinterpret_cast<float2*>(to + 8 * PRODUCT_STRIDE) = make_float2(d[n][2], d[n][3]);
        }
    }

    u32 group = step.v_heads / step.k_heads;
    for (u32 head = key_head * group; head < (key_head + 1) * group; ++head) {
        if (threadIdx.x < 64) {
            // Rows behind the end neither decay nor write.
            u64 at = (first_row + threadIdx.x) * step.v_heads + head;
            bool there = threadIdx.x < chunk.rows;
            logs[threadIdx.x] = there ? gdn_log_decay(step.a_log[head], step.a[at] + step.dt_bias[head]) : 0.0f;
            betas[threadIdx.x] = there ? gdn_sigmoid(step.b[at]) : 0.0f;
        }
        __syncthreads();
        if (threadIdx.x < 64) {
            float sum = 0.0f, all = 0.0f;
            for (u32 i = 0; i < 64; ++i) {
                all += logs[i];
                if (i == threadIdx.x) sum = all;
            }
            sums[threadIdx.x] = sum;
            float* decays = args.decays + (u64(local) * step.v_heads + head) * 128;
            decays[threadIdx.x] = expf(sum);
            decays[64 + threadIdx.x] = expf(all - sum);
        }
        __syncthreads();
        u64 square = (u64(local) * step.v_heads + head) * 64 * 64;
        for (u32 at = threadIdx.x; at < 64 * 32; at += PREPARE_THREADS) {
            u32 i = at / 32, j = at % 32 * 2;
            float x[2], y[2];
#pragma unroll
            for (u32 e = 0; e < 2; ++e) {
                float decay = expf(min(sums[i] - sums[j + e], 0.0f));
                x[e] = j + e < i ? betas[i] * (key_products[i * PRODUCT_STRIDE + j + e] * decay) : 0.0f;
                y[e] = j + e <= i ? query_products[i * PRODUCT_STRIDE + j + e] * decay : 0.0f;
            }
            *reinterpret_cast<float2*>(a + i * MATRIX_STRIDE + j) = make_float2(x[0], x[1]);
            *reinterpret_cast<u32*>(args.attend + square + i * 64 + j) = f32x2_to_f16x2(y[0] * GDN_SQUARE, y[1] * GDN_SQUARE);
        }
        __syncthreads();
        gdn_invert(a, t);
        for (u32 at = threadIdx.x; at < 64 * 32; at += PREPARE_THREADS) {
            u32 i = at / 32, j = at % 32 * 2;
            float x = j <= i ? t[i * MATRIX_STRIDE + j] * betas[j] : 0.0f;
            float y = j + 1 <= i ? t[i * MATRIX_STRIDE + j + 1] * betas[j + 1] : 0.0f;
            *reinterpret_cast<u32*>(args.solve + square + i * 64 + j) = f32x2_to_f16x2(x * GDN_SQUARE, y * GDN_SQUARE);
        }
        __syncthreads();
    }
}
