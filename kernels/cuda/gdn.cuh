// What the kernels of the gated delta net share: arguments (mirrored in src/cuda/gdn.rs), who runs a segment, small sums.
#pragma once

#include "hearth.cuh"

// Rows of a convolution block, and of a chunk of the delta rule.
constexpr u32 GDN_CHUNK = 64;
// The head size for which there are specialised kernels.
constexpr u32 GDN_DIM = 128;
constexpr u32 NO_SNAPSHOT = 0xffffffffu;
constexpr u32 ALL_LANES = 0xffffffffu;

struct GdnConv {
    const Pass* pass;
    const float* w;  // [channels, width]
    float* state;    // [slots, width - 1, channels]
    float* x;        // [t, channels]
    float* borders;  // [row blocks, width - 1, channels]: the raw rows before each block of a segment of several blocks
    u32 channels, width;
};
static_assert(sizeof(GdnConv) == 48, "no padding");

struct GdnStep {
    const Pass* pass;
    const float *qkv, *z, *a, *b, *a_log, *dt_bias, *out_norm;
    float *state, *out;
    u32 k_heads, v_heads, k_dim, v_dim;
    float eps, offset;
    u32 most_rows;  // segments of more rows, without snapshots, belong to the chunked kernels
    u32 unused;
};
static_assert(sizeof(GdnStep) == 112, "no padding");

struct GdnChunks {
    GdnStep step;
    u16 *q, *k;           // [chunks, k_heads, 64, 128] f16, unit rows (q times 128^-0.5)
    u16 *solve, *attend;  // [chunks, v_heads, 64, 64] f16: (I + A)^-1 diag(beta), and the decayed q k^T
    float* decays;        // [chunks, v_heads, 2, 64]: e^G, then e^(G_last - G)
    u32 first, count;     // which chunks of the pass
};
static_assert(sizeof(GdnChunks) == 160, "no padding");

// True if the rows of segment `s` go through the chunked kernels.
__device__ __forceinline__ bool gdn_chunked(const GdnStep& args, const Pass& pass, u32 s) {
    return pass.seg_rows[s] > args.most_rows && pass.snapshots[pass.seg_first[s]] == NO_SNAPSHOT;
}

__device__ __forceinline__ float gdn_sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ __forceinline__ float gdn_silu(float x) { return x * gdn_sigmoid(x); }

// g of the decay e^g: -e^a_log softplus(a + dt_bias), softplus linear above 20.
__device__ __forceinline__ float gdn_log_decay(float a_log, float x) {
    return -expf(a_log) * (x > 20.0f ? x : log1pf(expf(x)));
}

// The sum over a warp, the same bits in every lane.
__device__ __forceinline__ float gdn_warp_sum(float x) {
#pragma unroll
    for (int with = 16; with > 0; with >>= 1) x += __shfl_xor_sync(ALL_LANES, x, with);
    return x;
}

__device__ __forceinline__ float4 gdn_load4(const float* at) { return *reinterpret_cast<const float4*>(at); }
__device__ __forceinline__ void gdn_store4(float* at, float4 v) { *reinterpret_cast<float4*>(at) = v; }
__device__ __forceinline__ float gdn_square4(float4 v) {
    return fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, v.w * v.w)));
}
__device__ __forceinline__ float4 gdn_scale4(float4 v, float by) {
    return make_float4(v.x * by, v.y * by, v.z * by, v.w * by);
}
