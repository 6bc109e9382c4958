// attend_paged for every head size, page length and format: one block per row and query head, f32 throughout. The only
// kernel for f32 caches; attend_decode.cu and attend_prefill.cu are fast where they apply.
#include "kv.cuh"

struct AttendGeneral {
    const Pass* pass;
    const float* q;    // [rows, q_heads, q_stride]
    const u8* keys;
    const u8* values;
    float* out;        // [rows, q_heads, head_dim]
    u32 q_heads, kv_heads, head_dim, q_stride, page_len, format, gated;
    float scale;
};
static_assert(sizeof(AttendGeneral) == 72, "the layout of src/cuda/attention.rs");

constexpr u32 THREADS = 128;
constexpr u32 PARTS = 8;

KERNEL(attend_general, THREADS, 4, AttendGeneral) {
    SHARED(float, query, 256);
    SHARED(float, scores, THREADS);
    SHARED(float, most_of, PARTS);
    pdl_launch();
    pdl_wait();
    const Pass& pass = *args.pass;
    const u32 head_dim = args.head_dim, page_len = args.page_len, tid = threadIdx.x;
    u32 row = blockIdx.x / args.q_heads, head = blockIdx.x % args.q_heads;
    u32 kv_head = head / (args.q_heads / args.kv_heads), bytes = kv_bytes(args.format, head_dim);
    u32 last = pass.row_position[row];
    const u32* pages = pass.pages + static_cast<u64>(pass.row_segment[row]) * pass.max_pages;
    const float* q = args.q + (static_cast<u64>(row) * args.q_heads + head) * args.q_stride;
    for (u32 i = tid; i < head_dim; i += THREADS) query[i] = q[i];
    __syncthreads();

    float most = -INFINITY, sum = 0.0f, mixed[2] = {0.0f, 0.0f};
    for (u32 start = 0; start <= last; start += THREADS) {
        // One position per thread.
        u32 position = start + tid, held = min(THREADS, last + 1 - start);
        float score = -INFINITY;
        if (tid < held) {
            const u8* page = args.keys + kv_page_at(pages[position / page_len], kv_head, args.kv_heads, page_len, bytes);
            float dot[4] = {0.0f, 0.0f, 0.0f, 0.0f};
            u32 i = 0;
            for (; i + 4 <= head_dim; i += 4) {
#pragma unroll
                for (u32 j = 0; j < 4; j++)
                    dot[j] = fmaf(query[i + j], kv_number(page, args.format, page_len, head_dim, position % page_len, i + j), dot[j]);
            }
            for (; i < head_dim; i++)
                dot[0] = fmaf(query[i], kv_number(page, args.format, page_len, head_dim, position % page_len, i), dot[0]);
            score = args.scale * ((dot[0] + dot[1]) + (dot[2] + dot[3]));
        }
        scores[tid] = score;
        __syncthreads();
        if (tid < PARTS) {
            float part = -INFINITY;
            for (u32 i = 0; i < THREADS / PARTS; i++) part = fmaxf(part, scores[tid * (THREADS / PARTS) + i]);
            most_of[tid] = part;
        }
        __syncthreads();
        float now = most;
        for (u32 i = 0; i < PARTS; i++) now = fmaxf(now, most_of[i]);
        // All scores NaN leaves the maximum at -inf; exp(NaN) keeps the NaN visible.
        float keep = start == 0 ? 0.0f : expf(most - now), weight = tid < held ? expf(score - now) : 0.0f;
        most = now;
        sum = sum * keep + weight;
        scores[tid] = weight;
        __syncthreads();
        // One or two dimensions per thread.
#pragma unroll
        for (u32 n = 0; n < 2; n++) {
            u32 d = tid + n * THREADS;
            if (d >= head_dim) continue;
            mixed[n] *= keep;
            for (u32 j = 0; j < held; j++) {
                u32 at = start + j;
                const u8* page = args.values + kv_page_at(pages[at / page_len], kv_head, args.kv_heads, page_len, bytes);
                mixed[n] = fmaf(scores[j], kv_number(page, args.format, page_len, head_dim, at % page_len, d), mixed[n]);
            }
        }
        __syncthreads();
    }
    scores[tid] = sum;
    __syncthreads();
    float total = 0.0f;
    for (u32 i = 0; i < THREADS; i++) total += scores[i];
#pragma unroll
    for (u32 n = 0; n < 2; n++) {
        u32 d = tid + n * THREADS;
        if (d >= head_dim) continue;
        float o = mixed[n] / total;
        if (args.gated) o *= 1.0f / (1.0f + expf(-q[head_dim + d]));
        args.out[(static_cast<u64>(row) * args.q_heads + head) * head_dim + d] = o;
    }
}
