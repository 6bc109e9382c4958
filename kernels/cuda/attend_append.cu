// attend_append: norm and rotation of queries (in place) and keys, and keys and values into their pages. A warp per vector.
#include "kv.cuh"

struct AttendAppend {
    const Pass* pass;
    float* q;             // [rows, q_heads, q_stride]
    const float* k;       // [rows, kv_heads, head_dim]
    const float* v;       // the same
    const float* q_norm;  // [head_dim]
    const float* k_norm;
    u8* keys;             // the cache
    u8* values;
    u32 rows, q_heads, kv_heads, head_dim, q_stride, page_len, format;
    u32 half;             // rotated pairs: (i, i + half)
    float q_eps, k_eps, q_offset, k_offset;
    float magnitude;      // of cosine and sine
    u32 unused;
    float frequencies[128];
};
static_assert(sizeof(AttendAppend) == 632, "the layout of src/cuda/attention.rs");

constexpr u32 WARPS = 4;
constexpr u32 MOST = 256; // largest head_dim

// Cosine and sine of position * frequency to 1e-7, for positions to 2^24. The product is taken as its rounded value and what
// that leaves out (rounded alone it is off by 1/32 of a radian at a million positions). From it a multiple of pi/2 is taken,
// which three floats hold to 2^-70 (the first product and difference are exact), then Taylor's polynomials on |r| < 0.9.
__device__ inline void turn(float position, float frequency, float& cosine, float& sine) {
    float angle = __fmul_rn(position, frequency), rest = fmaf(position, frequency, -angle);
    float k = floorf(angle * 0.636619772f + 0.5f);
    float r = fmaf(-k, 1.57079637050628662109375f, angle) + rest;
    r = fmaf(-k, -4.37113882867379e-8f, r);
    r = fmaf(-k, -1.71512451e-15f, r);
    float r2 = r * r;
    float s = fmaf(r2, -2.50521084e-8f, 2.75573192e-6f);
    s = fmaf(r2, s, -1.98412698e-4f);
    s = fmaf(r2, s, 8.33333333e-3f);
    s = fmaf(r2, s, -1.66666667e-1f);
    s = fmaf(r2 * r, s, r);
    float c = fmaf(r2, -2.75573192e-7f, 2.48015873e-5f);
    c = fmaf(r2, c, -1.38888889e-3f);
    c = fmaf(r2, c, 4.16666667e-2f);
    c = fmaf(r2, c, -0.5f);
    c = fmaf(r2, c, 1.0f);
    int quadrant = static_cast<int>(k) & 3;
    cosine = (quadrant & 1) ? s : c;
    sine = (quadrant & 1) ? c : s;
    if (quadrant == 1 || quadrant == 2) cosine = -cosine;
    if (quadrant >= 2) sine = -sine;
}

// The 16 numbers at x as NVFP4: eight bytes of codes, a byte of scale.
__device__ inline void store_nvfp4(const float* x, u8* codes, u8* scale) {
    float most = 0.0f;
    bool nan = false;
    for (u32 i = 0; i < 16; i++) {
        most = fmaxf(most, fabsf(x[i]));
        nan = nan || x[i] != x[i];
    }
    u8 code = nan ? 0x7f : static_cast<u8>(f32x2_to_e4m3x2(most / 6.0f, 0.0f) & 0xffu);
    float s = f16_to_f32(static_cast<u16>(e4m3x2_to_f16x2(code) & 0xffffu));
    for (u32 i = 0; i < 8; i++) {
        u32 pair = s > 0.0f ? f32_to_e2m1(x[2 * i] / s) | static_cast<u32>(f32_to_e2m1(x[2 * i + 1] / s)) << 4 : 0u;
        codes[i] = static_cast<u8>(pair);
    }
    *scale = code;
}

KERNEL(attend_append, 32 * WARPS, 4, AttendAppend) {
    SHARED(float, vectors, WARPS * MOST);
    pdl_launch();
    pdl_wait();
    u32 lane = threadIdx.x & 31, heads = args.q_heads + 2 * args.kv_heads;
    u32 item = blockIdx.x * WARPS + threadIdx.x / 32, row = item / heads, head = item % heads;
    if (row >= args.rows) return; // the whole warp
    float* x = vectors + threadIdx.x / 32 * MOST;
    const u32 head_dim = args.head_dim;
    bool query = head < args.q_heads, value = head >= args.q_heads + args.kv_heads;
    u32 kv_head = query ? 0 : (head - args.q_heads) % args.kv_heads;
    const float* from = query ? args.q + (static_cast<u64>(row) * args.q_heads + head) * args.q_stride
                              : (value ? args.v : args.k) + (static_cast<u64>(row) * args.kv_heads + kv_head) * head_dim;
    const Pass& pass = *args.pass;
    u32 position = pass.row_position[row];

    float squares = 0.0f;
    for (u32 i = lane; i < head_dim; i += 32) {
        x[i] = from[i];
        squares = fmaf(x[i], x[i], squares);
    }
    if (!value) {
        for (int with = 16; with > 0; with /= 2) squares += __shfl_xor_sync(0xffffffffu, squares, with);
        const float* weight = query ? args.q_norm : args.k_norm;
        float size = 1.0f / sqrtf(squares / static_cast<float>(head_dim) + (query ? args.q_eps : args.k_eps));
        float offset = query ? args.q_offset : args.k_offset;
        for (u32 i = lane; i < head_dim; i += 32) x[i] = x[i] * size * (weight[i] + offset);
        __syncwarp(0xffffffffu);
        for (u32 i = lane; i < args.half; i += 32) {
            float c, s, a = x[i], b = x[i + args.half];
            turn(static_cast<float>(position), args.frequencies[i], c, s);
            c *= args.magnitude, s *= args.magnitude;
            x[i] = a * c - b * s;
            x[i + args.half] = b * c + a * s;
        }
    }
    __syncwarp(0xffffffffu);
    if (query) {
        float* to = args.q + (static_cast<u64>(row) * args.q_heads + head) * args.q_stride;
        for (u32 i = lane; i < head_dim; i += 32) to[i] = x[i];
        return;
    }
    u32 page_len = args.page_len, offset = position % page_len, bytes = kv_bytes(args.format, head_dim);
    u32 page = pass.pages[static_cast<u64>(pass.row_segment[row]) * pass.max_pages + position / page_len];
    u8* at = (value ? args.values : args.keys) + kv_page_at(page, kv_head, args.kv_heads, page_len, bytes);
    u64 first = static_cast<u64>(offset) * head_dim;
    if (args.format == KV_NVFP4) {
        u8* scales = at + static_cast<u64>(page_len) * (head_dim / 2) + first / 16;
        for (u32 i = lane; i < head_dim / 16; i += 32) store_nvfp4(x + 16 * i, at + first / 2 + 8 * i, scales + i);
        return;
    }
    for (u32 i = lane; i < head_dim; i += 32) {
        if (args.format == KV_F32) reinterpret_cast<float*>(at)[first + i] = x[i];
        if (args.format == KV_BF16) reinterpret_cast<u16*>(at)[first + i] = f32_to_bf16(x[i]);
        if (args.format == KV_FP8) at[first + i] = static_cast<u8>(f32x2_to_e4m3x2(x[i], 0.0f) & 0xffu);
    }
}
