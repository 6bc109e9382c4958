// Prefill's preparations and finish: pairs sorted by expert on the device, rows rounded to 16 bits, and the ordered sum of
// a row's experts.
#include "moe_prefill.cuh"

static constexpr u32 COUNT_THREADS = 256;

// The sum of the values of the threads before this one, and of all. `sums` holds one number per warp.
MOE_FN u32 sum_before(u32 value, u32* sums, u32& all) {
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    u32 upto = value;
#pragma unroll
    for (u32 by = 1; by < 32; by *= 2) {
        const u32 other = __shfl_up_sync(ALL, upto, by);
        if (lane >= by) upto += other;
    }
    __syncthreads();
    if (lane == 31) sums[warp] = upto;
    __syncthreads();
    u32 before = upto - value;
    all = 0;
    for (u32 w = 0; w < COUNT_THREADS / 32; w++) {
        if (w < warp) before += sums[w];
        all += sums[w];
    }
    return before;
}

// Counts the experts of each chunk of pairs; the last block turns the counts into places in the list, chunk by chunk within
// an expert, and cuts each expert's stretch into items of at most GROUP pairs.
KERNEL(moe_count, COUNT_THREADS, 1, MoeGroup) {
    DYNAMIC_SHARED(space);
    SHARED(u32, sums, COUNT_THREADS / 32);
    SHARED(u32, last, 1);
    u32* counts = reinterpret_cast<u32*>(space);
    for (u32 e = threadIdx.x; e < args.experts; e += COUNT_THREADS) counts[e] = 0;
    pdl_wait();
    pdl_launch();
    __syncthreads();
    const u32 first = blockIdx.x * GROUP_CHUNK, end = min(first + GROUP_CHUNK, args.pairs);
    for (u32 pair = first + threadIdx.x; pair < end; pair += COUNT_THREADS) {
        const u32 id = args.ids[pair];
        if (id < args.experts) atomicAdd(counts + id, 1u);
    }
    __syncthreads();
    for (u32 e = threadIdx.x; e < args.experts; e += COUNT_THREADS) args.places[u64(blockIdx.x) * args.experts + e] = counts[e];
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) *last = atomicInc(args.arrived, gridDim.x - 1) == gridDim.x - 1;
    __syncthreads();
    if (!*last) return;
    __threadfence();
    u32 pairs_before = 0, items_before = 0;
    for (u32 base = 0; base < args.experts; base += COUNT_THREADS) {
        const u32 e = base + threadIdx.x;
        u32 total = 0;
        if (e < args.experts)
            for (u32 chunk = 0; chunk < gridDim.x; chunk++) total += args.places[u64(chunk) * args.experts + e];
        u32 all_pairs, all_items;
        const u32 items = (total + GROUP - 1) / GROUP;
        u32 place = pairs_before + sum_before(total, sums, all_pairs);
        const u32 item = items_before + sum_before(items, sums, all_items);
        for (u32 i = 0; i < items; i++)
            st16(args.items + item + i, make_uint4(e, place + i * GROUP, min(GROUP, total - i * GROUP), 0));
        if (e < args.experts) {
            for (u32 chunk = 0; chunk < gridDim.x; chunk++) {
                u32* at = args.places + u64(chunk) * args.experts + e;
                const u32 here = *at;
                *at = place;
                place += here;
            }
        }
        pairs_before += all_pairs;
        items_before += all_items;
    }
    if (threadIdx.x == 0) *args.item_count = items_before;
}

// list[place] = pair. The order within an expert and chunk is left open: no result depends on it.
KERNEL(moe_list, COUNT_THREADS, 1, MoeGroup) {
    DYNAMIC_SHARED(space);
    u32* places = reinterpret_cast<u32*>(space);
    pdl_wait();
    pdl_launch();
    for (u32 e = threadIdx.x; e < args.experts; e += COUNT_THREADS) places[e] = args.places[u64(blockIdx.x) * args.experts + e];
    __syncthreads();
    const u32 first = blockIdx.x * GROUP_CHUNK, end = min(first + GROUP_CHUNK, args.pairs);
    for (u32 pair = first + threadIdx.x; pair < end; pair += COUNT_THREADS) {
        const u32 id = args.ids[pair];
        if (id < args.experts) args.list[atomicAdd(places + id, 1u)] = pair;
    }
}

// Rows rounded to 16 bits in the order of the weight tiles: number 16 s + 8 h + 2 c + j of a tile's 64 is column
// 16 c + 4 s + 2 h + j, so that ldmatrix hands out the B operand. For f16 a row is first multiplied by the power of two
// that brings its largest number into [2^13, 2^14); undo[row] is its inverse. A warp per row.
KERNEL(moe_round, 256, 4, MoeRound) {
    pdl_wait();
    pdl_launch();
    const u32 row = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= args.rows) return;
    u32 cols = args.cols;
    bool bfloat = args.bfloat != 0;
    if (args.ids) {
        const u32 id = args.ids[row];
        if (id >= args.experts) return;
        cols = args.table[id].cols;
        bfloat = args.table[id].format == BF16 || args.table[id].format == F32;
    }
    const float* x = args.x + u64(row) * args.stride;
    u32 e = 127;
    if (!bfloat) {
        float largest = 0;
        for (u32 at = 4 * lane; at < cols; at += 128) {
            const float4 v = four_of_row(x, at, cols);
            largest = fmaxf(fmaxf(largest, fmaxf(fabsf(v.x), fabsf(v.y))), fmaxf(fabsf(v.z), fabsf(v.w)));
        }
#pragma unroll
        for (int by = 16; by > 0; by /= 2) largest = fmaxf(largest, __shfl_xor_sync(ALL, largest, by));
        e = factor_exponent(largest);
    }
    const float factor = __uint_as_float(e << 23);
    if (lane == 0) args.undo[row] = __uint_as_float((254u - e) << 23);
    const u32 column = 16 * (lane & 3) + 4 * (lane >> 3) + 2 * (lane >> 2 & 1);
    u32* out = reinterpret_cast<u32*>(args.out + u64(row) * args.out_stride);
    for (u32 kt = 0; kt < args.out_stride / 64; kt++) {
        const u32 at = 64 * kt + column;
        const float a = at < cols ? x[at] * factor : 0, b = at + 1 < cols ? x[at + 1] * factor : 0;
        out[32 * kt + lane] = bfloat ? f32x2_to_bf16x2(a, b) : f32x2_to_f16x2(a, b);
    }
}

// out[row] += sum over slots, in order, of weight * each[row, slot].
KERNEL(moe_combine, 256, 4, MoeCombine) {
    pdl_wait();
    pdl_launch();
    const u32 row = blockIdx.x, at = 4 * (blockIdx.y * 256 + threadIdx.x);
    if (at >= args.hidden) return;
    float* out = args.out + u64(row) * args.hidden;
    float4 y = four_of_row(out, at, args.hidden);
#pragma unroll 4
    for (u32 slot = 0; slot < args.slots; slot++) {
        const u64 pair = u64(row) * args.slots + slot;
        const float weight = args.ids[pair] < args.experts ? args.weights[pair] : nan_float();
        const float4 v = four_of_row(args.each + pair * args.hidden, at, args.hidden);
        y.x = fmaf(weight, v.x, y.x);
        y.y = fmaf(weight, v.y, y.y);
        y.z = fmaf(weight, v.z, y.z);
        y.w = fmaf(weight, v.w, y.w);
    }
    put_four(out, at, args.hidden, y);
}
