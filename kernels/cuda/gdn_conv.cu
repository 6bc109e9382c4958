// The causal convolution of the gated delta net: y[i] = silu(sum_j w[j] x[i - (width - 1) + j]), in place, one channel to
// a thread, rows in order. A long segment is cut into blocks of 64 rows that run beside each other; as each block
// overwrites what the next one starts from, those rows are put aside first. A sum's terms come oldest first, so that no
// cut changes a bit.

#include "gdn.cuh"

constexpr u32 CONV_THREADS = 128;
// Rows in flight per thread.
constexpr u32 CONV_AHEAD = 8;

struct RowBlock {
    u32 segment, first, rows;  // rows `first .. first + rows` of the segment
    bool found;
};

// Row block `index` of the pass: 64 rows each, the last of a segment shorter.
__device__ __forceinline__ RowBlock gdn_row_block(const Pass& pass, u32 index) {
    for (u32 s = 0; s < pass.segments; ++s) {
        u32 rows = pass.seg_rows[s], blocks = (rows + GDN_CHUNK - 1) / GDN_CHUNK;
        if (index < blocks) {
            u32 first = index * GDN_CHUNK;
            return {s, first, min(GDN_CHUNK, rows - first), true};
        }
        index -= blocks;
    }
    return {0, 0, 0, false};
}

// Puts aside what each row block starts from, for segments of several. Grid: channels / 128, row blocks.
KERNEL(gdn_conv_borders, CONV_THREADS, 8, GdnConv) {
    pdl_launch();
    pdl_wait();
    const Pass& pass = *args.pass;
    RowBlock block = gdn_row_block(pass, blockIdx.y);
    u32 channel = blockIdx.x * CONV_THREADS + threadIdx.x;
    if (!block.found || pass.seg_rows[block.segment] <= GDN_CHUNK || channel >= args.channels) return;
    u32 held = args.width - 1;
    float* to = args.borders + u64(blockIdx.y) * held * args.channels + channel;
    const float* state = args.state + u64(pass.seg_slot[block.segment]) * held * args.channels + channel;
    const float* x = args.x + u64(pass.seg_first[block.segment] + block.first) * args.channels + channel;
    for (u32 j = 0; j < held; ++j) {
        u32 back = held - j;  // rows before the block
        float value = 0.0f;
        if (back <= block.first) {
            value = x[-int64_t(back) * args.channels];
        } else if (pass.seg_position[block.segment] > 0) {
            // Older than the segment: the state's last rows.
            value = state[u64(j + block.first) * args.channels];
        }
        to[u64(j) * args.channels] = value;
    }
}

// HELD is width - 1, or 0 for any width, with the raw rows in shared memory.
template <u32 HELD> struct Past {
    float rows[HELD];
    __device__ __forceinline__ float& at(u32 j) { return rows[j]; }
};
template <> struct Past<0> {
    float* rows;
    __device__ __forceinline__ float& at(u32 j) { return rows[j * CONV_THREADS]; }
};

template <u32 HELD>
__device__ __forceinline__ void gdn_convolve(const GdnConv& args, Past<HELD>& past, Past<HELD>& taps) {
    pdl_launch();
    u32 channel = blockIdx.x * CONV_THREADS + threadIdx.x;
    bool mine = channel < args.channels;
    u32 held = HELD == 0 ? args.width - 1 : HELD;
    u32 c = mine ? channel : 0;
#pragma unroll
    for (u32 j = 0; j < held; ++j) taps.at(j) = args.w[u64(c) * args.width + j];
    float last_tap = args.w[u64(c) * args.width + held];
    const Pass& pass = *args.pass;
    RowBlock block = gdn_row_block(pass, blockIdx.y);
    if (!block.found || !mine) return pdl_wait();
    u32 rows = pass.seg_rows[block.segment], first = pass.seg_first[block.segment] + block.first;
    u64 slot_size = u64(held) * args.channels;
    float* state = args.state + u64(pass.seg_slot[block.segment]) * slot_size + c;
    bool cut = rows > GDN_CHUNK;
    // The state is older than this pass, the borders come from the kernel ahead.
    if (cut) pdl_wait();
    const float* from = cut ? args.borders + blockIdx.y * slot_size + c : state;
    bool empty = !cut && pass.seg_position[block.segment] == 0;
#pragma unroll
    for (u32 j = 0; j < held; ++j) past.at(j) = empty ? 0.0f : from[u64(j) * args.channels];
    pdl_wait();
    float* x = args.x + u64(first) * args.channels + c;
    bool snapshots = pass.snapshots[first] != NO_SNAPSHOT;
    for (u32 at = 0; at < block.rows; at += CONV_AHEAD) {
        float raw[CONV_AHEAD];
#pragma unroll
        for (u32 i = 0; i < CONV_AHEAD; ++i) {
            raw[i] = at + i < block.rows ? x[u64(at + i) * args.channels] : 0.0f;
        }
#pragma unroll
        for (u32 i = 0; i < CONV_AHEAD; ++i) {
            if (at + i < block.rows) {
                float sum = taps.at(0) * past.at(0);
#pragma unroll
                for (u32 j = 1; j < held; ++j) sum = fmaf(taps.at(j), past.at(j), sum);
                sum = fmaf(last_tap, raw[i], sum);
                x[u64(at + i) * args.channels] = gdn_silu(sum);
#pragma unroll
                for (u32 j = 1; j < held; ++j) past.at(j - 1) = past.at(j);
                past.at(held - 1) = raw[i];
                if (snapshots) {
                    float* to = args.state + pass.snapshots[first + at + i] * slot_size + c;
#pragma unroll
                    for (u32 j = 0; j < held; ++j) to[u64(j) * args.channels] = past.at(j);
                }
            }
        }
    }
    if (!snapshots && block.first + block.rows == rows) {
#pragma unroll
        for (u32 j = 0; j < held; ++j) state[u64(j) * args.channels] = past.at(j);
    }
}

// Grid: channels / 128, row blocks.
KERNEL(gdn_conv_4, CONV_THREADS, 8, GdnConv) {
    Past<3> past, taps;
    gdn_convolve<3>(args, past, taps);
}

// The same for any width; dynamic shared memory: 2 * (width - 1) * 128 floats.
KERNEL(gdn_conv_any, CONV_THREADS, 4, GdnConv) {
    DYNAMIC_SHARED(memory);
    float* mine = reinterpret_cast<float*>(memory) + threadIdx.x;
    Past<0> past{mine}, taps{mine + (args.width - 1) * CONV_THREADS};
    gdn_convolve<0>(args, past, taps);
}
