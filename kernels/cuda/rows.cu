// Row-wise ops: lookup of embeddings, RMS norm, SwiGLU, gathering of rows. One block per row; a row's bits do not depend on
// the rows beside it.
#include "tile.cuh"

#define ROWS_FN static __device__ __forceinline__

constexpr int THREADS = 256;

struct EmbedArgs {
    Matrix table;
    u64 pass;   // its ids
    u64 out;    // f32 [t, cols]
    u64 chosen; // u32: tokens chosen by sample_pick; an id from CHOSEN on is the token in place id - CHOSEN
};
static_assert(sizeof(EmbedArgs) == 72, "as in rows.rs");

constexpr u32 CHOSEN = 0x80000000u;

// Half `j` of a fragment's register.
template <bool BFLOAT> ROWS_FN float half_of(u32 pair, int j) {
    const u16 bits = static_cast<u16>(pair >> (16 * j));
    return BFLOAT ? bf16_to_f32(bits) : f16_to_f32(bits);
}

template <u32 FMT> ROWS_FN void embed_row(const Matrix& table, u32 id, float* out) {
    using T = Tile<FMT>;
    const u32 tile_row = id / 16, r = id % 16;
    const float row_scale = reinterpret_cast<const float*>(table.row_scales)[id];
    const float* scales = reinterpret_cast<const float*>(table.block_scales);
    // A thread decodes what one lane of the products holds: 16 columns of a row.
    for (u32 part = threadIdx.x; part < 4 * table.k_tiles; part += THREADS) {
        const u32 kt = part / 4, lane = 4 * (r % 8) + part % 4;
        typename T::Raw raw;
        T::template load<true>(raw, reinterpret_cast<const u8*>(table.tiles) + (static_cast<u64>(tile_row) * table.k_tiles + kt) * T::BYTES,
                lane);
        const auto ready = T::ready(raw, lane);
        float scale = row_scale;
        if (scales) scale *= scales[(static_cast<u64>(tile_row) * ((table.cols + 127) / 128) + kt / 2) * 2 + r / 8];
#pragma unroll
        for (int s = 0; s < 4; s++) {
            float value[4] = {};
#pragma unroll
            for (int p = 0; p < T::PARTS; p++) {
                u32 a[4];
                T::step(a, raw, ready, s, p);
#pragma unroll
                for (int e = 0; e < 4; e++) value[e] += half_of<T::BFLOAT>(r < 8 ? a[e & 2] : a[(e & 2) + 1], e & 1);
            }
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const u32 column = 16 * part + 4 * s + e;
                if (column < table.cols) out[column] = value[e] * scale;
            }
        }
    }
}

KERNEL(rows_embed, THREADS, 2, EmbedArgs) {
    pdl_launch();
    pdl_wait();
    u32 id = reinterpret_cast<const Pass*>(args.pass)->ids[blockIdx.x];
    if (id >= CHOSEN) {
        id = reinterpret_cast<const u32*>(args.chosen)[id - CHOSEN];
        // A row for which no token could be chosen runs with any; nobody uses what comes of it.
        if (id >= args.table.rows) id = 0;
    }
    float* out = reinterpret_cast<float*>(args.out) + static_cast<u64>(blockIdx.x) * args.table.cols;
    switch (args.table.format) {
    case F32: return embed_row<F32>(args.table, id, out);
    case F16: return embed_row<F16>(args.table, id, out);
    case BF16: return embed_row<BF16>(args.table, id, out);
    case FP8: return embed_row<FP8>(args.table, id, out);
    default: return embed_row<NVFP4>(args.table, id, out);
    }
}

// Norms of two tensors into two halves of one, or of one (block row 0 only): out = x * rsqrt(mean(x^2) + eps) * (w + offset).
struct NormArgs {
    u64 x[2];      // f32 [t, width]
    u64 weight[2]; // f32 [width]
    u64 out;       // f32 [t, stride], the second at column `width`
    float eps[2], offset[2];
    u32 width, stride;
};
static_assert(sizeof(NormArgs) == 64, "as in rows.rs");

KERNEL(rows_norm, THREADS, 4, NormArgs) {
    SHARED(float, sums, THREADS / 32);
    pdl_launch();
    pdl_wait();
    const u32 width = args.width, part = blockIdx.y;
    const float* x = reinterpret_cast<const float*>(args.x[part]) + static_cast<u64>(blockIdx.x) * width;
    const float* weight = reinterpret_cast<const float*>(args.weight[part]);
    float* out = reinterpret_cast<float*>(args.out) + static_cast<u64>(blockIdx.x) * args.stride + part * width;
    float sum = 0;
    for (u32 i = threadIdx.x; i < width; i += THREADS) sum = fmaf(x[i], x[i], sum);
#pragma unroll
    for (int with = 16; with > 0; with /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, with);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    __syncthreads();
    float total = 0;
#pragma unroll
    for (int w = 0; w < THREADS / 32; w++) total += sums[w];
    const float scale = 1.0f / sqrtf(total / width + args.eps[part]), offset = args.offset[part];
    for (u32 i = threadIdx.x; i < width; i += THREADS) out[i] = x[i] * scale * (weight[i] + offset);
}

struct SwigluArgs {
    u64 x;   // f32 [t, 2 * inter], gate then up
    u64 out; // f32 [t, inter]
    u32 inter, unused;
};
static_assert(sizeof(SwigluArgs) == 24, "as in rows.rs");

KERNEL(rows_swiglu, THREADS, 4, SwigluArgs) {
    pdl_launch();
    pdl_wait();
    const u32 i = blockIdx.y * THREADS + threadIdx.x, inter = args.inter;
    if (i >= inter) return;
    const float* gate = reinterpret_cast<const float*>(args.x) + static_cast<u64>(blockIdx.x) * 2 * inter;
    const float g = gate[i], up = gate[inter + i];
    reinterpret_cast<float*>(args.out)[static_cast<u64>(blockIdx.x) * inter + i] = g / (1.0f + expf(-g)) * up;
}

struct GatherArgs {
    u64 x;    // f32 [*, width]
    u64 pass; // its picks: out[i] = x[picks[first + i]]
    u64 out;  // f32 [n, width]
    u32 width, first;
};
static_assert(sizeof(GatherArgs) == 32, "as in rows.rs");

KERNEL(rows_gather, THREADS, 4, GatherArgs) {
    pdl_launch();
    pdl_wait();
    const u32 width = args.width;
    const u32 row = reinterpret_cast<const Pass*>(args.pass)->picks[args.first + blockIdx.x];
    const float* x = reinterpret_cast<const float*>(args.x) + static_cast<u64>(row) * width;
    float* out = reinterpret_cast<float*>(args.out) + static_cast<u64>(blockIdx.x) * width;
    for (u32 i = threadIdx.x; i < width; i += THREADS) out[i] = x[i];
}
