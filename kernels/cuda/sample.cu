// From logits to a token, as src/cpu/sample.rs defines it. Shares of probability are integers (2^40 for the most likely
// token), so that sums have one value whatever their order, and the exponential is computed operation by operation as on
// the CPU: both draw the same token.
//
// Every filter keeps a prefix of the tokens in the order of logit, then lower id, and so does a draw end one. A prefix is
// found without sorting: tokens are numbered by (logit, id) in 64 bits, the numbers between the ends of a range are counted
// and weighed in 2048 bins, and the bin in which the prefix ends is the next range, until it holds one token.

#include "hearth.cuh"

constexpr u32 NOBODY = 0xffffffffu;
constexpr u32 EDIT_THREADS = 256, BEST_THREADS = 256, PICK_THREADS = 512;
constexpr u32 OWN_BINS = 4, BINS = OWN_BINS * PICK_THREADS;
constexpr u32 EVERY_LANE = 0xffffffffu;

struct SampleRow {
    u64 seed, position;
    float temperature, top_p, min_p;
    u32 top_k;
    u32 edits, penalties, biases, bans;  // its edits: penalties first, then biases, then bans
    u32 mask;                            // first word of its mask, or NOBODY
    u32 behind;                          // whose rejected drafts are taken from its position, or NOBODY
};
static_assert(sizeof(SampleRow) == 56, "no padding");

struct SampleEdit {
    u32 id;
    float repeat, minus;
};

struct Sample {
    float* logits;  // [rows, width]
    const SampleRow* rows;
    const SampleEdit* edits;
    const u32* masks;
    float* best;    // [rows, parts]: the largest logit of a part
    u32* best_ids;  // [rows, parts]: and whose it is
    u32* ids;       // [rows]: the result
    const u32* rejected;  // of rounds.cu
    u32 width, tokens, parts, unused;
};
static_assert(sizeof(Sample) == 80, "no padding");

__device__ __forceinline__ bool sample_finite(float x) { return fabsf(x) <= 3.402823466e38f; }

// Penalties, then biases, then bans: a token may have one of each. Grid: rows.
KERNEL(sample_edit, EDIT_THREADS, 4, Sample) {
    pdl_launch();
    pdl_wait();
    const SampleRow& row = args.rows[blockIdx.x];
    float* logits = args.logits + u64(blockIdx.x) * args.width;
    u32 begin = row.edits;
#pragma unroll 1
    for (u32 phase = 0; phase < 3; ++phase) {
        u32 count = phase == 0 ? row.penalties : phase == 1 ? row.biases : row.bans;
        for (u32 i = threadIdx.x; i < count; i += EDIT_THREADS) {
            SampleEdit edit = args.edits[begin + i];
            if (edit.id < args.tokens) {
                float x = logits[edit.id];
                logits[edit.id] = (x > 0.0f ? x / edit.repeat : x * edit.repeat) - edit.minus;
            }
        }
        begin += count;
        __syncthreads();
    }
}

// Takes the other if it is larger, or as large with a lower id.
__device__ __forceinline__ void sample_larger(float& x, u32& id, float other, u32 other_id) {
    if (other > x || (other == x && other_id < id)) {
        x = other;
        id = other_id;
    }
}

__device__ __forceinline__ void sample_warp_largest(float& x, u32& id) {
#pragma unroll
    for (int with = 16; with > 0; with >>= 1) {
        float other = __shfl_xor_sync(EVERY_LANE, x, with);
        u32 other_id = __shfl_xor_sync(EVERY_LANE, id, with);
        sample_larger(x, id, other, other_id);
    }
}

// Applies the mask and finds the largest logit of each part; where the row is drawn, the largest finite one.
// Grid: parts, rows.
KERNEL(sample_best, BEST_THREADS, 4, Sample) {
    SHARED(float, values, BEST_THREADS / 32);
    SHARED(u32, owners, BEST_THREADS / 32);
    pdl_launch();
    pdl_wait();
    const SampleRow& row = args.rows[blockIdx.y];
    float* logits = args.logits + u64(blockIdx.y) * args.width;
    u32 size = (args.tokens + args.parts - 1) / args.parts;
    u32 begin = blockIdx.x * size, end = min(args.tokens, begin + size);
    bool drawn = row.temperature > 0.0f;
    float best = -INFINITY;
    u32 owner = NOBODY;
    for (u32 id = begin + threadIdx.x; id < end; id += BEST_THREADS) {
        float x = logits[id];
        if (row.mask != NOBODY && (args.masks[row.mask + id / 32] >> (id % 32) & 1) == 0) {
            x = -INFINITY;
            logits[id] = x;
        }
        if (x > best && (!drawn || sample_finite(x))) {
            best = x;
            owner = id;
        }
    }
    sample_warp_largest(best, owner);
    if (threadIdx.x % 32 == 0) {
        values[threadIdx.x / 32] = best;
        owners[threadIdx.x / 32] = owner;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (u32 i = 1; i < BEST_THREADS / 32; ++i) sample_larger(best, owner, values[i], owners[i]);
        args.best[blockIdx.y * args.parts + blockIdx.x] = best;
        args.best_ids[blockIdx.y * args.parts + blockIdx.x] = owner;
    }
}

// src/cpu/math.rs `exp` for x <= 0, operation by operation.
__device__ __forceinline__ float sample_exp(float x) {
    constexpr float SHIFT = 12582912.0f;
    x = fmaxf(x, -104.0f);
    float shifted = x * 1.44269504088896340736f + SHIFT;
    float n = shifted - SHIFT;
    float r = (x - n * 0.69314575f) - n * 1.4286068e-6f;
    float p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = (p * r * r + r) + 1.0f;
    int exponent = int(__float_as_uint(shifted) - __float_as_uint(SHIFT)), half = exponent >> 1;
    return p * __uint_as_float(u32(half + 127) << 23) * __uint_as_float(u32(exponent - half + 127) << 23);
}

// A token's number: larger for larger logits, then for lower ids. -0 is below 0, as Rust's total_cmp has it.
__device__ __forceinline__ u64 sample_number(float logit, u32 id) {
    u32 bits = __float_as_uint(logit);
    u32 key = bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
    return u64(key) << 32 | (NOBODY - id);
}

// 53 random bits: Philox4x32-10 (Salmon et al., SC 2011).
__device__ __forceinline__ u64 sample_random(u64 seed, u64 position) {
    u32 c[4] = {u32(position), u32(position >> 32), 0, 0};
    u32 key[2] = {u32(seed), u32(seed >> 32)};
#pragma unroll
    for (u32 round = 0; round < 10; ++round) {
        u32 a_hi = __umulhi(0xD2511F53u, c[0]), a_lo = 0xD2511F53u * c[0];
        u32 b_hi = __umulhi(0xCD9E8D57u, c[2]), b_lo = 0xCD9E8D57u * c[2];
        c[0] = b_hi ^ c[1] ^ key[0];
        c[1] = b_lo;
        c[2] = a_hi ^ c[3] ^ key[1];
        c[3] = a_lo;
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
    return (u64(c[0]) << 32 | c[1]) >> 11;
}

// a * b >> 53 of the 128-bit product.
__device__ __forceinline__ u64 sample_share(u64 a, u64 b) {
    u64 a_lo = u32(a), a_hi = a >> 32, b_lo = u32(b), b_hi = b >> 32;
    u64 low = a_lo * b_lo, left = a_hi * b_lo, right = a_lo * b_hi;
    u64 middle = (low >> 32) + u32(left) + u32(right);
    u64 high = a_hi * b_hi + (left >> 32) + (right >> 32) + (middle >> 32);
    return high << 11 | (middle << 32 | u32(low)) >> 53;
}

// The tokens of a row, and working space.
struct Bench {
    const float* logits;
    u32 tokens;
    float max, temperature, min_p;
    u64 *weights, *members;  // [BINS]: sum of weights; a member's number
    u32* counts;             // [BINS]
    u64* sums;               // [2, warps]
    u64* found;              // [4]: bin, then count and weight before it; all ones if there is none
};

// A prefix of the tokens: its last one's number, its length and weight. All tokens if it has no end.
struct Prefix {
    u64 last, count, weight;
    bool ends;
};

// An inclusive sum over the block, and the whole in `all`.
__device__ __forceinline__ u64 sample_block_sum(u64 x, u64* sums, u64& all) {
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (u32 by = 1; by < 32; by *= 2) {
        u64 other = __shfl_up_sync(EVERY_LANE, x, by);
        if (lane >= by) x += other;
    }
    if (lane == 31) sums[warp] = x;
    __syncthreads();
    u64 before = 0;
    all = 0;
    for (u32 i = 0; i < PICK_THREADS / 32; ++i) {
        if (i < warp) before += sums[i];
        all += sums[i];
    }
    return before + x;
}

// The shortest prefix of the tokens numbered `lowest` or above whose count (`counted`) or weight reaches `need`; with
// `filtered`, of those that min_p leaves.
__device__ __forceinline__ Prefix sample_prefix(const Bench& bench, u64 lowest, bool counted, bool filtered, u64 need) {
    u64 high = sample_number(bench.max, 0);
    // Below this weights are zero.
    u64 low = sample_number(bench.max - 29.0f * bench.temperature, NOBODY);
    if (low < lowest) low = lowest;
    Prefix prefix = {0, 0, 0, false};
    for (;;) {
        u64 span = high - low;
        u32 shift = 0;
        while (span >> shift >= BINS) ++shift;
        for (u32 i = threadIdx.x; i < BINS; i += PICK_THREADS) {
            bench.weights[i] = 0;
            bench.counts[i] = 0;
        }
        if (threadIdx.x == 0) bench.found[0] = ~u64(0);
        __syncthreads();
        for (u32 id = threadIdx.x; id < bench.tokens; id += PICK_THREADS) {
            float x = bench.logits[id];
            u64 number = sample_number(x, id);
            if (!sample_finite(x) || number < low || number > high) continue;
            float share = sample_exp((x - bench.max) / bench.temperature);
            u64 weight = u64(share * 1099511627776.0f);
            if (weight == 0 || (filtered && share < bench.min_p)) continue;
            u32 bin = u32((high - number) >> shift);
            atomicAdd(&bench.counts[bin], 1u);
            atomicAdd(reinterpret_cast<unsigned long long*>(&bench.weights[bin]), static_cast<unsigned long long>(weight));
            // Read only where it is the only one.
            atomicExch(reinterpret_cast<unsigned long long*>(&bench.members[bin]), static_cast<unsigned long long>(number));
        }
        __syncthreads();
        u32 bin = OWN_BINS * threadIdx.x;
        u64 own_count = 0, own_weight = 0, all_counts, all_weights;
#pragma unroll
        for (u32 i = 0; i < OWN_BINS; ++i) {
            own_count += bench.counts[bin + i];
            own_weight += bench.weights[bin + i];
        }
        u64 count = prefix.count + sample_block_sum(own_count, bench.sums, all_counts) - own_count;
        u64 weight = prefix.weight + sample_block_sum(own_weight, bench.sums + PICK_THREADS / 32, all_weights) - own_weight;
#pragma unroll
        for (u32 i = 0; i < OWN_BINS; ++i) {
            u64 next_count = count + bench.counts[bin + i], next_weight = weight + bench.weights[bin + i];
            if ((counted ? count : weight) < need && (counted ? next_count : next_weight) >= need) {
                bench.found[0] = bin + i;
                bench.found[1] = count;
                bench.found[2] = weight;
            }
            count = next_count;
            weight = next_weight;
        }
        __syncthreads();
        u64 end = bench.found[0];
        if (end == ~u64(0)) {
            // Whoever comes next clears what this pass has read.
            __syncthreads();
            return {0, prefix.count + all_counts, prefix.weight + all_weights, false};
        }
        prefix.count = bench.found[1];
        prefix.weight = bench.found[2];
        if (bench.counts[end] == 1) {
            prefix = {bench.members[end], prefix.count + 1, prefix.weight + bench.weights[end], true};
        } else {
            high -= end << shift;
            u64 width = (u64(1) << shift) - 1;
            if (high - low > width) low = high - width;
        }
        // The next pass writes what this one has read.
        __syncthreads();
        if (prefix.ends) return prefix;
    }
}

// Grid: rows.
KERNEL(sample_pick, PICK_THREADS, 1, Sample) {
    SHARED(u64, weights, BINS);
    SHARED(u64, members, BINS);
    SHARED(u32, counts, BINS);
    SHARED(u64, sums, 2 * PICK_THREADS / 32);
    SHARED(u64, found, 4);
    pdl_launch();
    pdl_wait();
    const SampleRow& row = args.rows[blockIdx.x];
    float max = -INFINITY;
    u32 owner = NOBODY;
    for (u32 part = threadIdx.x % 32; part < args.parts; part += 32) {
        sample_larger(max, owner, args.best[blockIdx.x * args.parts + part], args.best_ids[blockIdx.x * args.parts + part]);
    }
    sample_warp_largest(max, owner);
    if (row.temperature == 0.0f || owner == NOBODY) {
        if (threadIdx.x == 0) args.ids[blockIdx.x] = owner;
        return;
    }
    const u64 NEVER = ~u64(0);
    Bench bench = {args.logits + u64(blockIdx.x) * args.width,
                   args.tokens,
                   max,
                   row.temperature,
                   row.min_p,
                   weights,
                   members,
                   counts,
                   sums,
                   found};
    // The three prefixes, one after the other at one place of the program: top-k, top-p, the draw.
    u64 lowest = 0, total = 0, kept = 0;
#pragma unroll 1
    for (u32 stage = 0; stage < 3; ++stage) {
        u64 need = NEVER;
        if (stage == 0) {
            if (row.top_k > 0) need = row.top_k;
            else if (row.top_p >= 1.0f) continue;
        } else if (stage == 1) {
            if (row.top_p < 1.0f) need = u64(fmax(ceil(double(row.top_p) * double(total)), 1.0));
        } else {
            const u64 position = row.position - (row.behind == NOBODY ? 0 : args.rejected[row.behind]);
            need = sample_share(sample_random(row.seed, position), kept) + 1;
        }
        Prefix prefix = sample_prefix(bench, lowest, stage == 0 && row.top_k > 0, stage > 0, need);
        if (stage == 0) {
            if (prefix.ends) lowest = prefix.last;
            total = prefix.weight;
        } else if (stage == 1) {
            kept = prefix.weight;
        } else if (threadIdx.x == 0) {
            args.ids[blockIdx.x] = NOBODY - u32(prefix.last);
        }
    }
}
