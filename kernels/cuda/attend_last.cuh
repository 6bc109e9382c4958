// The parts of attend_decode.cu's splits, joined by the last block of each set, and the sets by the last of those.
#pragma once
#include "attend_split.cuh"

struct AttendDecode {
    const Pass* pass;
    const float* q;      // [rows, q_heads, q_stride]
    const u8* keys;
    const u8* values;
    float* out;          // [rows, q_heads, head_dim]
    float* partial;      // [16, q_heads, splits + sets, head_dim + PAD]
    u32* counters;       // [16, kv_heads, sets + 1], zero between launches; null: a launch of its own joins the parts
    u32 first, rows;     // the rows of this launch: at most 16
    u32 q_heads, kv_heads, q_stride, page_len, gated;
    u32 splits;          // most splits of a row
    u32 slots;           // tiles in shared memory: 2, 3, 4 or 6
    float scale;
};
static_assert(sizeof(AttendDecode) == 96, "the layout of src/cuda/attention_decode.rs");

constexpr u32 THREADS = 128, WARPS = 4;

// What a block works on.
struct Work {
    u32 row, position;  // the first row
    u32 members;        // rows
    u32 kv_head, group, octets;
};

// Number of the first part of the unit's head e.
__device__ inline u64 parts_of(const AttendDecode& args, const Work& work, u32 stride, u32 e) {
    const u32 row = work.row + e / work.group - args.first, head = work.kv_head * work.group + e % work.group;
    return (static_cast<u64>(row) * args.q_heads + head) * stride;
}

// Merges up to SET parts, in order, of every unit's heads, eight heads at a time: a thread has 16 dimensions of a head. `from`
// is the first part to merge, `per` how many splits each stands for, `to` where the result goes: another part, or (ALL) the
// output; `head_dim` is HD or less. The loops are short and the code is there once, since few blocks come here and each finds
// it in no cache.
template <u32 HD>
__device__ inline void merge(const AttendDecode& args, const Work& work, u32 stride, u32 from, u32 per, u32 to, float scale, float* factors,
                             u32 head_dim) {
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
            const u32 splits = splits_of(work.position + member, args.splits), have = (splits + per - 1) / per;
            // A row of one split has written its output itself.
            const bool there = e < heads && splits > 1 && from + s < have;
            const u64 part = parts_of(args, work, stride, e) + (per == 1 ? from : args.splits + from) + s;
            const float* of = args.partial + part * (head_dim + PAD) + head_dim;
            float peak = there ? of[0] : -INFINITY, sum = there ? of[1] : 0.0f, top = peak;
            for (int with = SET / 2; with > 0; with /= 2) top = fmaxf(top, __shfl_xor_sync(ALL, top, with));
            const float factor = there ? exp2f(peak - top) : 0.0f;
            sum *= factor;
            for (int with = SET / 2; with > 0; with /= 2) sum += __shfl_xor_sync(ALL, sum, with);
            factors[at] = there ? factor : -1.0f;
            if (s == 0) {
                sums[at / SET] = sum;
                if (to != ALL && there) {
                    float* result = args.partial + (parts_of(args, work, stride, e) + to) * (head_dim + PAD) + head_dim;
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
                if (f < 0.0f || (head_dim < HD && 4 * (at % FOURS) >= head_dim)) continue;
                const u64 part = parts_of(args, work, stride, first + e) + (per == 1 ? from : args.splits + from) + s;
                const float4 v = *reinterpret_cast<const float4*>(args.partial + part * (head_dim + PAD) + 4 * (at % FOURS));
                mixed[k].x = fmaf(f, v.x, mixed[k].x), mixed[k].y = fmaf(f, v.y, mixed[k].y);
                mixed[k].z = fmaf(f, v.z, mixed[k].z), mixed[k].w = fmaf(f, v.w, mixed[k].w);
            }
        }
#pragma unroll 1
        for (u32 k = 0; k < MINE; k++) {
            const u32 at = threadIdx.x + THREADS * k, e = first + at / FOURS, d = 4 * (at % FOURS);
            if (e >= heads || (head_dim < HD && d >= head_dim)) continue;
            const u32 member = e / work.group, splits = splits_of(work.position + member, args.splits);
            if (splits == 1 || (splits + per - 1) / per <= from) continue;
            const float4 m = k == 0 ? mixed[0] : k == 1 ? mixed[MINE > 1 ? 1 : 0] : k == 2 ? mixed[MINE > 2 ? 2 : 0] : mixed[MINE > 3 ? 3 : 0];
            if (to != ALL) {
                *reinterpret_cast<float4*>(args.partial + (parts_of(args, work, stride, e) + to) * (head_dim + PAD) + d) = m;
                continue;
            }
            const u64 head = static_cast<u64>(work.row + member) * args.q_heads + work.kv_head * work.group + e % work.group;
            const float* q = args.q + head * args.q_stride;
            const float v[4] = {m.x, m.y, m.z, m.w}, sum = sums[at / FOURS];
#pragma unroll
            for (u32 i = 0; i < 4; i++) args.out[head * head_dim + d + i] = finish(v[i], scale, sum, q, head_dim, d + i, args.gated);
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
