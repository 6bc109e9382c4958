// The gated delta rule, row after row: decode, verification, and prefill where it must have decode's bits. A block owns
// one value head of one segment; the state is read once, stays in registers for all rows, and is written once (and once
// per snapshot). The arithmetic of a row is the same whatever else runs, so no cut of the rows changes a bit.

#include "gdn.cuh"

// The sums over the lanes g of a warp, the same bits in each.
__device__ __forceinline__ float4 gdn_sum_of_groups(float4 v) {
#pragma unroll
    for (int with = 8; with <= 16; with *= 2) {
        v.x += __shfl_xor_sync(ALL_LANES, v.x, with);
        v.y += __shfl_xor_sync(ALL_LANES, v.y, with);
        v.z += __shfl_xor_sync(ALL_LANES, v.z, with);
        v.w += __shfl_xor_sync(ALL_LANES, v.w, with);
    }
    return v;
}

constexpr u32 STEP_WARPS = 16;
constexpr u32 STEP_THREADS = 32 * STEP_WARPS;
// Rows whose keys, queries and outputs are in shared memory together.
constexpr u32 STEP_ROWS = 8;
// Warps that share a column, each with a quarter of the state's rows.
constexpr u32 QUARTERS = 4;
// Four numbers of the state that a lane holds, times eight.
constexpr u32 HELD = GDN_DIM / QUARTERS / 4;

// Heads of 128 x 128. Warp 4 quarter + w, lane 8 g + c: columns 32 w + 4 c .. + 3 of the state's rows 32 quarter + 16 i + 4 g
// + e, i < 2, e < 4. A load of the warp touches whole 128-byte lines, and a lane finds its keys four at a time. A sum over the
// rows is that of the lane, then of the lanes g, then of the quarters in order.
// Grid: value heads, segments.
KERNEL(gdn_step_128, STEP_THREADS, 1, GdnStep) {
    SHARED(float, keys, STEP_ROWS * GDN_DIM);
    SHARED(float, queries, STEP_ROWS * GDN_DIM);
    SHARED(float, values, STEP_ROWS * GDN_DIM);
    SHARED(float, outputs, QUARTERS * STEP_ROWS * GDN_DIM);
    // Two in turn, so that one barrier a row is enough.
    SHARED(float, seen_parts, 2 * QUARTERS * GDN_DIM);
    SHARED(float, decays, STEP_ROWS);
    SHARED(float, betas, STEP_ROWS);
    pdl_launch();
    const Pass& pass = *args.pass;
    u32 head = blockIdx.x, segment = blockIdx.y;
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    u64 slot_size = u64(args.v_heads) * GDN_DIM * GDN_DIM;
    float* heads = args.state + u64(head) * GDN_DIM * GDN_DIM;
    if (segment >= pass.segments || gdn_chunked(args, pass, segment)) return pdl_wait();
    u32 first_row = pass.seg_first[segment], rows = pass.seg_rows[segment];
    u32 quarter = warp / 4, group = lane / 8, column = 32 * (warp % 4) + 4 * (lane % 8);
    u32 my_row = GDN_DIM / QUARTERS * quarter + 4 * group;
    u64 mine = u64(my_row) * GDN_DIM + column;  // of the lane's first number in a state
    bool snapshots = pass.snapshots[first_row] != NO_SNAPSHOT;
    float a_log = args.a_log[head], dt_bias = args.dt_bias[head];
    // Before the kernels ahead have ended: nobody but this kernel writes the state, and that was in an earlier pass.
    float4 s[HELD];
    if (pass.seg_position[segment] > 0) {
        const float* state = heads + pass.seg_slot[segment] * slot_size + mine;
#pragma unroll
        for (u32 i = 0; i < HELD; ++i) s[i] = gdn_load4(state + (i / 4 * 16 + i % 4) * GDN_DIM);
    } else {
#pragma unroll
        for (u32 i = 0; i < HELD; ++i) s[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
    pdl_wait();

    u32 key_head = head / (args.v_heads / args.k_heads);
    u32 channels = 2 * args.k_heads * GDN_DIM + args.v_heads * GDN_DIM;
    for (u32 first = 0; first < rows; first += STEP_ROWS) {
        u32 count = min(STEP_ROWS, rows - first);
        // A row to a warp.
        if (warp < count) {
            u64 row = first_row + first + warp;
            const float* qkv = args.qkv + row * channels + 4 * lane;
            float4 q = gdn_load4(qkv + key_head * GDN_DIM);
            float4 k = gdn_load4(qkv + (args.k_heads + key_head) * GDN_DIM);
            float4 v = gdn_load4(qkv + (2 * args.k_heads + head) * GDN_DIM);
            float a = args.a[row * args.v_heads + head], b = args.b[row * args.v_heads + head];
            float q_scale = 1.0f / sqrtf(gdn_warp_sum(gdn_square4(q)) + 1e-6f) * 0.08838834764831845f;
            float k_scale = 1.0f / sqrtf(gdn_warp_sum(gdn_square4(k)) + 1e-6f);
            u32 to = warp * GDN_DIM + 4 * lane;
            gdn_store4(queries + to, gdn_scale4(q, q_scale));
            gdn_store4(keys + to, gdn_scale4(k, k_scale));
            gdn_store4(values + to, v);
            if (lane == 0) {
                decays[warp] = expf(gdn_log_decay(a_log, a + dt_bias));
                betas[warp] = gdn_sigmoid(b);
            }
        }
        __syncthreads();
        for (u32 i = 0; i < count; ++i) {
            const float* k_row = keys + i * GDN_DIM + my_row;
            const float* q_row = queries + i * GDN_DIM + my_row;
            float decay = decays[i], beta = betas[i];
            // What the state holds for this key.
            float4 seen = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
            for (u32 j = 0; j < HELD / 4; ++j) {
                float4 k4 = gdn_load4(k_row + 16 * j);
                float k[4] = {k4.x, k4.y, k4.z, k4.w};
#pragma unroll
                for (u32 e = 0; e < 4; ++e) {
                    float4& row = s[4 * j + e];
                    row = gdn_scale4(row, decay);
                    seen.x = fmaf(row.x, k[e], seen.x);
                    seen.y = fmaf(row.y, k[e], seen.y);
                    seen.z = fmaf(row.z, k[e], seen.z);
                    seen.w = fmaf(row.w, k[e], seen.w);
                }
            }
            seen = gdn_sum_of_groups(seen);
            float* parts = seen_parts + (i & 1) * QUARTERS * GDN_DIM + column;
            if (group == 0) gdn_store4(parts + quarter * GDN_DIM, seen);
            __syncthreads();
            seen = gdn_load4(parts);
#pragma unroll
            for (u32 other = 1; other < QUARTERS; ++other) {
                float4 part = gdn_load4(parts + other * GDN_DIM);
                seen.x += part.x, seen.y += part.y, seen.z += part.z, seen.w += part.w;
            }
            float4 v = gdn_load4(values + i * GDN_DIM + column);
            float4 delta = make_float4(beta * (v.x - seen.x), beta * (v.y - seen.y), beta * (v.z - seen.z),
                                       beta * (v.w - seen.w));
            float4 o = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
            for (u32 j = 0; j < HELD / 4; ++j) {
                float4 k4 = gdn_load4(k_row + 16 * j), q4 = gdn_load4(q_row + 16 * j);
                float k[4] = {k4.x, k4.y, k4.z, k4.w}, q[4] = {q4.x, q4.y, q4.z, q4.w};
#pragma unroll
                for (u32 e = 0; e < 4; ++e) {
                    float4& row = s[4 * j + e];
                    row.x = fmaf(k[e], delta.x, row.x);
                    row.y = fmaf(k[e], delta.y, row.y);
                    row.z = fmaf(k[e], delta.z, row.z);
                    row.w = fmaf(k[e], delta.w, row.w);
                    o.x = fmaf(row.x, q[e], o.x);
                    o.y = fmaf(row.y, q[e], o.y);
                    o.z = fmaf(row.z, q[e], o.z);
                    o.w = fmaf(row.w, q[e], o.w);
                }
            }
            o = gdn_sum_of_groups(o);
            if (group == 0) gdn_store4(outputs + (quarter * STEP_ROWS + i) * GDN_DIM + column, o);
            if (snapshots) {
                float* to = heads + pass.snapshots[first_row + first + i] * slot_size + mine;
#pragma unroll
                for (u32 j = 0; j < HELD; ++j) gdn_store4(to + (j / 4 * 16 + j % 4) * GDN_DIM, s[j]);
            }
        }
        __syncthreads();
        // The gated norm, a row to a warp. The next rows' barrier keeps `outputs` until all are done.
        if (warp < count) {
            u64 at = ((first_row + first + warp) * u64(args.v_heads) + head) * GDN_DIM + 4 * lane;
            const float* parts = outputs + warp * GDN_DIM + 4 * lane;
            float4 o = gdn_load4(parts), z = gdn_load4(args.z + at);
#pragma unroll
            for (u32 other = 1; other < QUARTERS; ++other) {
                float4 part = gdn_load4(parts + other * STEP_ROWS * GDN_DIM);
                o.x += part.x, o.y += part.y, o.z += part.z, o.w += part.w;
            }
            float4 w = gdn_load4(args.out_norm + 4 * lane);
            float scale = 1.0f / sqrtf(gdn_warp_sum(gdn_square4(o)) * (1.0f / GDN_DIM) + args.eps);
            gdn_store4(args.out + at, make_float4(o.x * scale * (w.x + args.offset) * gdn_silu(z.x),
                                                  o.y * scale * (w.y + args.offset) * gdn_silu(z.y),
                                                  o.z * scale * (w.z + args.offset) * gdn_silu(z.z),
                                                  o.w * scale * (w.w + args.offset) * gdn_silu(z.w)));
        }
    }
    if (!snapshots) {
        float* to = heads + pass.seg_slot[segment] * slot_size + mine;
#pragma unroll
        for (u32 j = 0; j < HELD; ++j) gdn_store4(to + (j / 4 * 16 + j % 4) * GDN_DIM, s[j]);
    }
}

constexpr u32 ANY_THREADS = 128;

// The sum over the block, the same bits in every thread. `partial` holds one float per warp.
__device__ __forceinline__ float gdn_block_sum(float x, float* partial) {
    x = gdn_warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = 0.0f;
    for (u32 i = 0; i < ANY_THREADS / 32; ++i) sum += partial[i];
    return sum;
}

// Heads of any size: a thread owns columns and keeps their state in global memory from row to row.
// Grid: value heads, segments. Dynamic shared memory: 2 * k_dim + v_dim floats.
KERNEL(gdn_step_any, ANY_THREADS, 4, GdnStep) {
    DYNAMIC_SHARED(memory);
    SHARED(float, partial, ANY_THREADS / 32);
    float* q = reinterpret_cast<float*>(memory);
    float* k = q + args.k_dim;
    float* o = k + args.k_dim;
    pdl_launch();
    pdl_wait();
    const Pass& pass = *args.pass;
    u32 head = blockIdx.x, segment = blockIdx.y;
    if (segment >= pass.segments) return;
    u32 k_dim = args.k_dim, v_dim = args.v_dim;
    u64 slot_size = u64(args.v_heads) * k_dim * v_dim;
    float* heads = args.state + u64(head) * k_dim * v_dim;
    const float* from = heads + pass.seg_slot[segment] * slot_size;
    bool empty = pass.seg_position[segment] == 0;
    u32 key_head = head / (args.v_heads / args.k_heads);
    u32 channels = 2 * args.k_heads * k_dim + args.v_heads * v_dim;
    u32 first_row = pass.seg_first[segment], rows = pass.seg_rows[segment];
    for (u32 i = 0; i < rows; ++i) {
        u64 row = first_row + i;
        const float* qkv = args.qkv + row * channels;
        const float *q_raw = qkv + key_head * k_dim, *k_raw = qkv + (args.k_heads + key_head) * k_dim;
        const float* v = qkv + 2 * args.k_heads * k_dim + head * v_dim;
        float q_sum = 0.0f, k_sum = 0.0f;
        for (u32 j = threadIdx.x; j < k_dim; j += ANY_THREADS) {
            q_sum = fmaf(q_raw[j], q_raw[j], q_sum);
            k_sum = fmaf(k_raw[j], k_raw[j], k_sum);
        }
        float q_scale = 1.0f / sqrtf(gdn_block_sum(q_sum, partial) + 1e-6f) / sqrtf(float(k_dim));
        float k_scale = 1.0f / sqrtf(gdn_block_sum(k_sum, partial) + 1e-6f);
        for (u32 j = threadIdx.x; j < k_dim; j += ANY_THREADS) {
            q[j] = q_raw[j] * q_scale;
            k[j] = k_raw[j] * k_scale;
        }
        __syncthreads();
        u64 gate = row * args.v_heads + head;
        float decay = expf(gdn_log_decay(args.a_log[head], args.a[gate] + args.dt_bias[head]));
        float beta = gdn_sigmoid(args.b[gate]);
        u32 slot = pass.snapshots[row] != NO_SNAPSHOT ? pass.snapshots[row] : pass.seg_slot[segment];
        float* to = heads + slot * slot_size;
        float squares = 0.0f;
        for (u32 c = threadIdx.x; c < v_dim; c += ANY_THREADS) {
            float seen = 0.0f, sum = 0.0f;
            if (!empty) {
                for (u32 j = 0; j < k_dim; ++j) seen = fmaf(decay * from[u64(j) * v_dim + c], k[j], seen);
            }
            float delta = beta * (v[c] - seen);
            for (u32 j = 0; j < k_dim; ++j) {
                float s = fmaf(k[j], delta, empty ? 0.0f : decay * from[u64(j) * v_dim + c]);
                to[u64(j) * v_dim + c] = s;
                sum = fmaf(s, q[j], sum);
            }
            o[c] = sum;
            squares = fmaf(sum, sum, squares);
        }
        float scale = 1.0f / sqrtf(gdn_block_sum(squares, partial) / float(v_dim) + args.eps);
        for (u32 c = threadIdx.x; c < v_dim; c += ANY_THREADS) {
            u64 at = gate * v_dim + c;
            args.out[at] = o[c] * scale * (args.out_norm[c] + args.offset) * gdn_silu(args.z[at]);
        }
        from = to;
        empty = false;
    }
}
