// The router of a mixture of experts in one launch: norm, logits, softmax, the best experts, their weights, and the shared
// expert's switch. The columns of the router are spread over blocks; the last block of a strip to finish adds their parts
// in order and chooses.
#include "moe.cuh"

static constexpr u32 ROUTE_WARPS = 8;

// Rows of a strip. Strips are independent: a row's bits do not depend on the others of its strip.
static constexpr u32 STRIP = 16;

// x = hi + mid + lo: near ties between experts are decided by the last bits, which two bf16 would not carry. A row takes
// four columns of the mma, of which the last is not used; a group of eight columns holds two rows.
static constexpr u32 TERMS = 4;

struct MoeRoute {
    Matrix router, gate;  // gate.rows is 0 if there is no shared expert
    const float* x;       // [t, hidden]
    const float* norm;    // [hidden], or null: x is normed
    float* h;             // [t, hidden], written if norm is there
    u32* ids;             // [t, slots]
    float* weights;       // [t, slots]
    float* logits;        // [strips, splits, STRIP, stride]: a row's parts, and behind them its part of the sum of squares
    u32* arrived;         // [strips], zero between launches
    float eps, offset;
    u32 t, hidden, experts, top_k, slots, normalise;
    u32 splits, stride;   // stride: 16 * row tiles of router and gate, and 1
};
static_assert(sizeof(MoeRoute) == 192, "as in the launcher");

// Takes the leading 16-bit part of two numbers off them.
template <bool BFLOAT> MOE_FN void take_term(u32& pair, float& a, float& b) {
    if constexpr (BFLOAT) {
        pair = f32x2_to_bf16x2(a, b);
        a -= __uint_as_float(pair << 16);
        b -= __uint_as_float(pair & 0xffff0000u);
    } else {
        pair = f32x2_to_f16x2(a, b);
        a -= f16_to_f32(static_cast<u16>(pair));
        b -= f16_to_f32(static_cast<u16>(pair >> 16));
    }
}

MOE_FN u32 tile_bytes(u32 format) {
    switch (format) {
    case F32: return Tile<F32>::BYTES;
    case FP8: return Tile<FP8>::BYTES;
    case NVFP4: return Tile<NVFP4>::BYTES;
    default: return Tile<BF16>::BYTES;
    }
}

// This lane's columns of the norm's weight in tile kt; ones without a norm.
MOE_FN void load_norm(float4 w[4], const MoeRoute& args, u32 kt, int lane) {
#pragma unroll
    for (int s = 0; s < 4; s++) {
        w[s] = make_float4(1, 1, 1, 1);
        if (args.norm == nullptr) continue;
        w[s] = four_of_row(args.norm, 64 * kt + 16 * (lane & 3) + 4 * s, args.hidden);
        w[s].x += args.offset, w[s].y += args.offset, w[s].z += args.offset, w[s].w += args.offset;
    }
}

// Rows of the strip, times the norm's weight, as f16 or bf16 triples in the warp's staging space: 512 bytes a row,
// [q][column][c] 16 bytes as in activation.cuh. undo[row] is what the sums are to be multiplied with, squares[row] the sum
// of squares of the row's columns in this tile. The inverse root mean square is a factor of the whole row, and comes last.
template <bool BFLOAT>
MOE_FN void stage_terms(u8* space, float* undo, float* squares, const MoeRoute& args, u32 first_row, u32 rows, u32 kt,
                        const float4 norm[4], int lane) {
    const u32 c = lane & 3;
    for (u32 base = 0; base < rows; base += 8) {
        const u32 i = base + (lane >> 2);
        const bool there = i < rows;
        const float* row = args.x + u64(first_row + (there ? i : 0)) * args.hidden;
        float4 x[4];
        float largest = 0, square = 0;
#pragma unroll
        for (int s = 0; s < 4; s++) {
            x[s] = make_float4(0, 0, 0, 0);
            if (there) x[s] = four_of_row(row, 64 * kt + 16 * c + 4 * s, args.hidden);
        }
#pragma unroll
        for (int s = 0; s < 4; s++) {
            square = fmaf(x[s].x, x[s].x, square);
            square = fmaf(x[s].y, x[s].y, square);
            square = fmaf(x[s].z, x[s].z, square);
            square = fmaf(x[s].w, x[s].w, square);
            x[s].x *= norm[s].x, x[s].y *= norm[s].y, x[s].z *= norm[s].z, x[s].w *= norm[s].w;
            largest = fmaxf(fmaxf(largest, fmaxf(fabsf(x[s].x), fabsf(x[s].y))), fmaxf(fabsf(x[s].z), fabsf(x[s].w)));
        }
        square = sum_of_lanes<4>(square);
        if (there && c == 0) squares[i] = square;
        float factor = 1;
        if constexpr (!BFLOAT) {
            const u32 e = factor_exponent(largest_of_lanes<4>(largest));
            factor = __uint_as_float(e << 23);
            if (there && c == 0) undo[i] = __uint_as_float((254u - e) << 23);
        } else if (there && c == 0) {
            undo[i] = 1;
        }
        if (!there) continue;
        u8* at = space + (i / 2) * 1024 + (i % 2) * 256 + 16 * c;
#pragma unroll
        for (int q = 0; q < 2; q++) {
            float4 u = x[2 * q], v = x[2 * q + 1];
            u.x *= factor, u.y *= factor, u.z *= factor, u.w *= factor;
            v.x *= factor, v.y *= factor, v.z *= factor, v.w *= factor;
#pragma unroll
            for (u32 term = 0; term < 3; term++) {
                uint4 pairs;
                take_term<BFLOAT>(pairs.x, u.x, u.y);
                take_term<BFLOAT>(pairs.y, u.z, u.w);
                take_term<BFLOAT>(pairs.z, v.x, v.y);
                take_term<BFLOAT>(pairs.w, v.z, v.w);
                st16(at + q * 512 + term * 64, pairs);
            }
        }
    }
}

// A lane's 16-bit weights of a tile, on their way before anything else is known.
using Early = Tile<BF16>::Raw;
MOE_FN bool may_come_early(const Matrix& m) { return m.format == BF16 || m.format == F16; }
MOE_FN void load_early(Early& raw, const Matrix& m, u32 row_tile, u32 kt, int lane) {
    load_tile<BF16>(raw, reinterpret_cast<const u8*>(m.tiles) + (u64(row_tile) * m.k_tiles + kt) * Tile<BF16>::BYTES, lane);
}

// part[row, 0 .. 15] of the warp = its columns of 16 rows of the matrix times the staged rows.
template <u32 FMT>
MOE_FN void route_tile(float* part, const Matrix& m, u32 row_tile, u32 kt, const typename Tile<FMT>::Raw& raw, const u8* space,
                       const float* undo, u32 rows, int lane) {
    const float* scales = reinterpret_cast<const float*>(m.block_scales);
    float low = 1, high = 1;
    if (FMT == FP8 && scales) {
        const u64 at = (u64(row_tile) * ((m.cols + 127) / 128) + kt / 2) * 2;
        low = scales[at], high = scales[at + 1];
    }
    const u32 g = lane >> 2, c = lane & 3;
    for (u32 group = 0; 2 * group < rows; group++) {
        u32 b[4][1][2] = {};
        if (g % TERMS != 3 && 2 * group + g / TERMS < rows) {
#pragma unroll
            for (int q = 0; q < 2; q++) {
                const uint4 v = ld16(space + group * 1024 + q * 512 + 16 * lane);
                b[2 * q][0][0] = v.x, b[2 * q][0][1] = v.y, b[2 * q + 1][0][0] = v.z, b[2 * q + 1][0][1] = v.w;
            }
        }
        float d[1][4] = {};
        tile_mma<FMT, 1>(d, raw, b, lane);
        // Columns 2c and 2c + 1: hi and mid of a row if c is even, else its lo and nothing.
        const float top = d[0][0] + d[0][1], bottom = d[0][2] + d[0][3];
        const float y0 = top + __shfl_xor_sync(ALL, top, 1), y1 = bottom + __shfl_xor_sync(ALL, bottom, 1);
        const u32 i = 2 * group + c / 2;
        if (c % 2 == 0 && i < rows) {
            part[i * 16 + g] = y0 * (undo[i] * low);
            part[i * 16 + g + 8] = y1 * (undo[i] * high);
        }
    }
}

template <u32 FMT>
MOE_FN void load_and_route(float* part, const Matrix& m, u32 row_tile, u32 kt, const u8* space, const float* undo, u32 rows,
                           int lane) {
    typename Tile<FMT>::Raw raw;
    load_tile<FMT>(raw, reinterpret_cast<const u8*>(m.tiles) + (u64(row_tile) * m.k_tiles + kt) * Tile<FMT>::BYTES, lane);
    route_tile<FMT>(part, m, row_tile, kt, raw, space, undo, rows, lane);
}

// h of the strip's rows, columns `first .. last`: the norm with the row's inverse root mean square, in an order of its sum
// that only the width decides.
MOE_FN void write_h(const MoeRoute& args, u32 first_row, u32 rows, u32 first, u32 last, float* parts, float* rms) {
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (u32 i = 0; i < rows; i++) {
        const float* row = args.x + u64(first_row + i) * args.hidden;
        float sum = 0;
#pragma unroll 4
        for (u32 at = 4 * threadIdx.x; at < args.hidden; at += 4 * 32 * ROUTE_WARPS) {
            const float4 v = four_of_row(row, at, args.hidden);
            sum = fmaf(v.x, v.x, sum);
            sum = fmaf(v.y, v.y, sum);
            sum = fmaf(v.z, v.z, sum);
            sum = fmaf(v.w, v.w, sum);
        }
#pragma unroll
        for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(ALL, sum, by);
        if (lane == 0) parts[i * ROUTE_WARPS + warp] = sum;
    }
    __syncthreads();
    if (threadIdx.x < rows) {
        float sum = 0;
        for (u32 w = 0; w < ROUTE_WARPS; w++) sum += parts[threadIdx.x * ROUTE_WARPS + w];
        rms[threadIdx.x] = 1.0f / sqrtf(sum / static_cast<float>(args.hidden) + args.eps);
    }
    __syncthreads();
    for (u32 i = 0; i < rows; i++) {
        const u64 row = u64(first_row + i) * args.hidden;
        for (u32 at = first + 4 * threadIdx.x; at < last; at += 4 * 32 * ROUTE_WARPS) {
            float4 v = four_of_row(args.x + row, at, args.hidden);
            const float4 w = four_of_row(args.norm, at, args.hidden);
            const float inverse = rms[i];
            v.x = v.x * inverse * (w.x + args.offset), v.y = v.y * inverse * (w.y + args.offset);
            v.z = v.z * inverse * (w.z + args.offset), v.w = v.w * inverse * (w.w + args.offset);
            put_four(args.h + row, at, args.hidden, v);
        }
    }
}

// A candidate among the experts: NONE until one is found. A NaN never wins against a number, and if all are NaN the
// lowest id wins, so that every id is an expert's and the NaN shows in the weight.
struct Candidate {
    float p;
    u32 id;
};
static constexpr u32 NONE = 0xffffffffu;
static constexpr float TAKEN = -1.0f;

MOE_FN bool better(const Candidate& a, const Candidate& b) {
    if (a.id == NONE || b.id == NONE) return b.id == NONE && a.id != NONE;
    return a.p > b.p || (!(b.p > a.p) && a.id < b.id);
}

// The best that this lane is responsible for.
MOE_FN Candidate best_of_lane(const float* p, u32 experts, int lane) {
    Candidate best = {0, NONE};
    for (u32 e = lane; e < experts; e += 32) {
        const Candidate other = {p[e], e};
        if (other.p != TAKEN && better(other, best)) best = other;
    }
    return best;
}

// The sums of a row over its splits, and what its inverse root mean square makes of them.
MOE_FN float sum_of_splits(const MoeRoute& args, const float* logits, u32 at) {
    const u64 split = u64(STRIP) * args.stride;
    float sum = 0;
#pragma unroll 4
    for (u32 s = 0; s < args.splits; s++) sum += logits[s * split + at];
    return sum;
}

MOE_FN float inverse_of_row(const MoeRoute& args, const float* logits) {
    if (args.norm == nullptr) return 1;
    const float squares = sum_of_splits(args, logits, args.stride - 1);
    return 1.0f / sqrtf(squares / static_cast<float>(args.hidden) + args.eps);
}

// The ids and weights of a row: lane k knows the k-th choice.
MOE_FN void write_choice(const MoeRoute& args, const float* logits, u32 row, const Candidate& kept, float sum, int lane) {
    const u64 at = u64(row) * args.slots;
    if (lane < static_cast<int>(args.top_k)) {
        args.ids[at + lane] = kept.id;
        args.weights[at + lane] = args.normalise ? kept.p / sum : kept.p;
    }
    if (args.gate.rows != 0 && lane == 0) {
        const float gate = sum_of_splits(args, logits, 16 * args.router.row_tiles) * inverse_of_row(args, logits);
        args.ids[at + args.top_k] = args.experts;
        args.weights[at + args.top_k] = 1.0f / (1.0f + expf(-gate));
    }
}

// Most experts of a lane that choose_few holds in registers.
static constexpr u32 FEW = 8;

// One warp finishes one row of at most 32 FEW experts; p holds its logits. An expert's key is larger for a larger probability,
// and smallest for NaN: 0 is none.
MOE_FN void choose_few(const MoeRoute& args, const float* logits, u32 row, const float* p, int lane) {
    float v[FEW], most = -INFINITY, total = 0;
#pragma unroll
    for (u32 j = 0; j < FEW; j++) {
        const u32 e = lane + 32 * j;
        v[j] = e < args.experts ? p[e] : -INFINITY;
        most = fmaxf(most, v[j]);
    }
#pragma unroll
    for (int by = 16; by > 0; by /= 2) most = fmaxf(most, __shfl_xor_sync(ALL, most, by));
#pragma unroll
    for (u32 j = 0; j < FEW; j++) {
        const bool there = lane + 32 * j < args.experts;
        v[j] = there ? expf(v[j] - most) : 0.0f;
        total += v[j];
    }
#pragma unroll
    for (int by = 16; by > 0; by /= 2) total += __shfl_xor_sync(ALL, total, by);
    u32 key[FEW];
#pragma unroll
    for (u32 j = 0; j < FEW; j++) {
        const float of = v[j] / total;
        key[j] = lane + 32 * j >= args.experts ? 0u : of == of ? __float_as_uint(of) + 2 : 1u;
    }
    Candidate kept = {0, 0};
    float sum = 0;
    for (u32 k = 0; k < args.top_k; k++) {
        u32 best = 0, id = NONE;
#pragma unroll
        for (u32 j = 0; j < FEW; j++) best = max(best, key[j]);
        best = __reduce_max_sync(ALL, best);
#pragma unroll
        for (u32 j = 0; j < FEW; j++)
            if (key[FEW - 1 - j] == best) id = lane + 32 * (FEW - 1 - j);
        id = __reduce_min_sync(ALL, id);
#pragma unroll
        for (u32 j = 0; j < FEW; j++)
            if (lane + 32 * j == id) key[j] = 0;
        const float of = best >= 2 ? __uint_as_float(best - 2) : nan_float();
        sum += of;
        if (lane == static_cast<int>(k)) kept = {of, id};
    }
    write_choice(args, logits, row, kept, sum, lane);
}

// The same for any number of experts; p is changed.
MOE_FN void choose_many(const MoeRoute& args, const float* logits, u32 row, float* p, int lane) {
    float most = -INFINITY;
    for (u32 e = lane; e < args.experts; e += 32) most = fmaxf(most, p[e]);
#pragma unroll
    for (int by = 16; by > 0; by /= 2) most = fmaxf(most, __shfl_xor_sync(ALL, most, by));
    float total = 0;
    for (u32 e = lane; e < args.experts; e += 32) {
        p[e] = expf(p[e] - most);
        total += p[e];
    }
#pragma unroll
    for (int by = 16; by > 0; by /= 2) total += __shfl_xor_sync(ALL, total, by);
    for (u32 e = lane; e < args.experts; e += 32) p[e] /= total;
    Candidate mine = best_of_lane(p, args.experts, lane), kept = {0, 0};
    float sum = 0;
    for (u32 k = 0; k < args.top_k; k++) {
        Candidate best = mine;
#pragma unroll
        for (int by = 16; by > 0; by /= 2) {
            const Candidate other = {__shfl_xor_sync(ALL, best.p, by), __shfl_xor_sync(ALL, best.id, by)};
            if (better(other, best)) best = other;
        }
        sum += best.p;
        if (lane == static_cast<int>(k)) kept = best;
        if (mine.id == best.id) {
            p[best.id] = TAKEN;
            mine = best_of_lane(p, args.experts, lane);
        }
    }
    write_choice(args, logits, row, kept, sum, lane);
}

// Grid: share of the row tiles, split of the columns (ROUTE_WARPS tiles each), strip.
KERNEL(moe_route, 256, 2, MoeRoute) {
    DYNAMIC_SHARED(space); // the warps' staging; then the logits of one row per warp
    SHARED(float, parts, ROUTE_WARPS * STRIP * 16);
    SHARED(float, rms, STRIP);
    SHARED(float, undos, ROUTE_WARPS * STRIP);
    SHARED(float, squares, ROUTE_WARPS * STRIP);
    SHARED(u32, last, 1);
    const u32 warp = threadIdx.x / 32, kt = blockIdx.y * ROUTE_WARPS + warp, first_row = blockIdx.z * STRIP;
    const int lane = static_cast<int>(threadIdx.x % 32);
    const u32 rows = min(STRIP, args.t - first_row), staged_rows = min(STRIP, args.t);
    const u32 router_tiles = args.router.row_tiles, tiles = router_tiles + (args.gate.rows != 0 ? 1 : 0);
    auto matrix_of = [&](u32 tile) -> const Matrix& { return tile < router_tiles ? args.router : args.gate; };
    // What is read whatever x is.
    Early early = {};
    float4 norm[4];
    {
        const Matrix& m = matrix_of(blockIdx.x);
        const u32 row_tile = blockIdx.x < router_tiles ? blockIdx.x : 0, bytes = tile_bytes(m.format);
        if (kt < m.k_tiles) {
            if (may_come_early(m)) load_early(early, m, row_tile, kt, lane);
            else if (static_cast<u32>(lane) * 128 < bytes)
                prefetch_l2(reinterpret_cast<const u8*>(m.tiles) + (u64(row_tile) * m.k_tiles + kt) * bytes + lane * 128);
        }
        load_norm(norm, args, kt, lane);
        if (threadIdx.x == 0) prefetch_l2(reinterpret_cast<const float*>(m.row_scales) + 16 * row_tile);
    }
    pdl_wait();
    pdl_launch();

    u8* mine = space + warp * ((staged_rows + 1) / 2) * 1024;
    float* undo = undos + warp * STRIP;
    float* part = parts + warp * STRIP * 16;
    if (kt >= args.router.k_tiles)
        for (u32 i = lane; i < STRIP; i += 32) squares[warp * STRIP + i] = 0;
    u32 staged_as = NONE;
    for (u32 tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const Matrix& m = matrix_of(tile);
        const u32 row_tile = tile < router_tiles ? tile : 0;
        const u32 bfloat = m.format == BF16 || m.format == F32;
        if (kt < m.k_tiles) {
            if (staged_as != bfloat) {
                __syncwarp();
                if (bfloat) stage_terms<true>(mine, undo, squares + warp * STRIP, args, first_row, rows, kt, norm, lane);
                else stage_terms<false>(mine, undo, squares + warp * STRIP, args, first_row, rows, kt, norm, lane);
                staged_as = bfloat;
                __syncwarp();
            }
            if (may_come_early(m)) {
                if (tile != blockIdx.x) load_early(early, m, row_tile, kt, lane);
                if (m.format == BF16) {
                    route_tile<BF16>(part, m, row_tile, kt, early, mine, undo, rows, lane);
                } else {
                    Tile<F16>::Raw raw;
#pragma unroll
                    for (int i = 0; i < 4; i++) raw.pairs[i] = early.pairs[i];
                    route_tile<F16>(part, m, row_tile, kt, raw, mine, undo, rows, lane);
                }
            } else if (m.format == F32) load_and_route<F32>(part, m, row_tile, kt, mine, undo, rows, lane);
            else if (m.format == FP8) load_and_route<FP8>(part, m, row_tile, kt, mine, undo, rows, lane);
            else load_and_route<NVFP4>(part, m, row_tile, kt, mine, undo, rows, lane);
        } else {
            for (u32 i = lane; i < STRIP * 16; i += 32) part[i] = 0;
        }
        __syncthreads();
        const u32 i = threadIdx.x / 16, o = threadIdx.x % 16;
        float* logits = args.logits + ((u64(blockIdx.z) * args.splits + blockIdx.y) * STRIP + i) * args.stride;
        if (i < rows) {
            float sum = 0;
#pragma unroll
            for (u32 w = 0; w < ROUTE_WARPS; w++) sum += parts[w * STRIP * 16 + threadIdx.x];
            sum *= reinterpret_cast<const float*>(m.row_scales)[16 * row_tile + o];
            logits[16 * tile + o] = sum;
            if (tile == 0 && o == 0) {
                float square = 0;
#pragma unroll
                for (u32 w = 0; w < ROUTE_WARPS; w++) square += squares[w * STRIP + i];
                logits[args.stride - 1] = square;
            }
        }
        __syncthreads();
    }

    __threadfence();
    __syncthreads();
    const u32 blocks = gridDim.x * gridDim.y;
    if (threadIdx.x == 0) *last = atomicInc(args.arrived + blockIdx.z, blocks - 1) == blocks - 1;
    if (args.norm && blockIdx.x == 0) {
        const u32 first = blockIdx.y * ROUTE_WARPS * 64;
        write_h(args, first_row, rows, first, min(first + ROUTE_WARPS * 64, args.hidden), parts, rms);
    }
    __syncthreads();
    if (!*last) return;
    __threadfence();
    float* p = reinterpret_cast<float*>(space);
    for (u32 base = 0; base < rows; base += ROUTE_WARPS) {
        const u32 here = min(ROUTE_WARPS, rows - base);
        const float* logits = args.logits + (u64(blockIdx.z) * args.splits * STRIP + base) * args.stride;
        for (u32 at = threadIdx.x; at < here * args.experts; at += 32 * ROUTE_WARPS) {
            const u32 i = at / args.experts;
            const float* of_row = logits + u64(i) * args.stride;
            p[at] = sum_of_splits(args, of_row, at - i * args.experts) * inverse_of_row(args, of_row);
        }
        __syncthreads();
        if (warp < here) {
            const float* of_row = logits + u64(warp) * args.stride;
            if (args.experts <= 32 * FEW) choose_few(args, of_row, first_row + base + warp, p + warp * args.experts, lane);
            else choose_many(args, of_row, first_row + base + warp, p + warp * args.experts, lane);
        }
        __syncthreads();
    }
}
