// CUDA C++ as kernels write it, for the host compiler. hearth.cuh includes it in place of what nvcc knows by itself.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "machine.hpp"
#include "numbers.hpp"
#include "registry.hpp"

#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __constant__ static const
#define __restrict__ __restrict

#define threadIdx (::emu::thread->index)
#define blockIdx (::emu::block.block)
#define blockDim (::emu::block.dim)
#define gridDim (::emu::block.grid)
constexpr int warpSize = 32;

struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// `args` is read-only for the kernel, as on the device.
#define KERNEL(name, threads, blocks_per_sm, Args)                                                                     \
    static void name##_kernel(const Args& args);                                                                       \
    static const ::emu::Kernel name##_entry(#name, __FILE__, threads, sizeof(Args),                                    \
                                            [](const void* args) { name##_kernel(*static_cast<const Args*>(args)); }); \
    static void name##_kernel([[maybe_unused]] const Args& args)
#define KERNEL_COLD(name, threads, blocks_per_sm, Args) KERNEL(name, threads, blocks_per_sm, Args)

// A reference to an array, so that sizeof and bounds are those of the array.
#define SHARED(T, name, count)                                                                                         \
    static constinit ::emu::SharedArray name##_shared{#name, sizeof(T) * (count)};                                     \
    T(&name)[count] = *static_cast<T(*)[count]>(::emu::shared_array(name##_shared, {__FILE__, __LINE__}))
#define DYNAMIC_SHARED(name) uint8_t* const name = ::emu::block.dynamic_shared

// ---- Barriers, shuffles, votes. The last two arguments are the caller's line, for messages ---------------------------

#define HEARTH_EMU_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(HEARTH_EMU_HERE) { emu::syncthreads({file, line}); }
inline void __syncwarp(unsigned mask = emu::ALL_LANES, HEARTH_EMU_HERE) { emu::meet(emu::Together::Syncwarp, mask, {file, line}); }

namespace emu {

// Slot of a shuffle: words 0, 1 the value, 2 the lane to take it from, 3 how it was asked for.
template <class T> T shuffle(unsigned mask, T value, int from, int key, Site site) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle moves 4 or 8 bytes");
    Slot& slot = my_slot();
    memcpy(slot.word, &value, sizeof(T));
    slot.word[2] = static_cast<uint32_t>(from);
    slot.word[3] = static_cast<uint32_t>(key) << 8 | sizeof(T);
    meet(Together::Shuffle, mask, site);
    memcpy(&value, slot.word, sizeof(T));
    return value;
}

inline uint32_t vote(unsigned mask, bool yes, Site site) {
    Slot& slot = my_slot();
    slot.word[0] = yes;
    meet(Together::Vote, mask, site);
    return slot.word[0];
}

} // namespace emu

// A lane beyond the segment of `width` lanes keeps its own value, as PTX says.
template <class T> T __shfl_sync(unsigned mask, T value, int from, int width = 32, HEARTH_EMU_HERE) {
    int lane = static_cast<int>(emu::thread->lane);
    return emu::shuffle(mask, value, (lane & ~(width - 1)) | (from & (width - 1)), width, {file, line});
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32, HEARTH_EMU_HERE) {
    int lane = static_cast<int>(emu::thread->lane), from = lane ^ with;
    return emu::shuffle(mask, value, from > (lane | (width - 1)) ? lane : from, 1 << 8 | width, {file, line});
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, HEARTH_EMU_HERE) {
    int lane = static_cast<int>(emu::thread->lane), from = lane - static_cast<int>(by);
    return emu::shuffle(mask, value, from < (lane & ~(width - 1)) ? lane : from, 2 << 8 | width, {file, line});
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, HEARTH_EMU_HERE) {
    int lane = static_cast<int>(emu::thread->lane), from = lane + static_cast<int>(by);
    return emu::shuffle(mask, value, from > (lane | (width - 1)) ? lane : from, 3 << 8 | width, {file, line});
}

// Of a whole warp.
inline unsigned __reduce_max_sync(unsigned mask, unsigned value, HEARTH_EMU_HERE) {
    for (int with = 16; with > 0; with /= 2) {
        unsigned other = __shfl_xor_sync(mask, value, with, 32, file, line);
        value = other > value ? other : value;
    }
    return value;
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value, HEARTH_EMU_HERE) {
    return ~__reduce_max_sync(mask, ~value, file, line);
}
inline unsigned __ballot_sync(unsigned mask, int yes, HEARTH_EMU_HERE) { return emu::vote(mask, yes != 0, {file, line}); }
inline int __any_sync(unsigned mask, int yes, HEARTH_EMU_HERE) { return emu::vote(mask, yes != 0, {file, line}) != 0; }
inline int __all_sync(unsigned mask, int yes, HEARTH_EMU_HERE) { return emu::vote(mask, yes != 0, {file, line}) == mask; }

// ---- Atomics: a block's threads share one OS thread, blocks run one after another ------------------------------------

#define HEARTH_EMU_UNWATCHED __attribute__((no_sanitize("thread"), noinline))

namespace emu {
template <class T, class F> HEARTH_EMU_UNWATCHED T exchange(T* at, F f) {
    told(at);
    T old = *at;
    *at = f(old);
    return old;
}
} // namespace emu

template <class T> T atomicAdd(T* at, T v) { return emu::exchange(at, [=](T old) { return static_cast<T>(old + v); }); }
template <class T> T atomicSub(T* at, T v) { return emu::exchange(at, [=](T old) { return static_cast<T>(old - v); }); }
template <class T> T atomicMax(T* at, T v) { return emu::exchange(at, [=](T old) { return old < v ? v : old; }); }
template <class T> T atomicMin(T* at, T v) { return emu::exchange(at, [=](T old) { return v < old ? v : old; }); }
template <class T> T atomicAnd(T* at, T v) { return emu::exchange(at, [=](T old) { return old & v; }); }
template <class T> T atomicOr(T* at, T v) { return emu::exchange(at, [=](T old) { return old | v; }); }
template <class T> T atomicExch(T* at, T v) { return emu::exchange(at, [=](T) { return v; }); }
template <class T> T atomicCAS(T* at, T is, T then) { return emu::exchange(at, [=](T old) { return old == is ? then : old; }); }
inline unsigned atomicInc(unsigned* at, unsigned most) { return emu::exchange(at, [=](unsigned old) { return old >= most ? 0 : old + 1; }); }

inline void __threadfence() { emu::fenced(); }
inline void __threadfence_block() {}
[[noreturn]] inline void __trap() { emu::fail("CUDA_ERROR_LAUNCH_FAILED (719)", "the kernel called __trap()"); }

// ---- Arithmetic ------------------------------------------------------------------------------------------------------

inline float rsqrtf(float v) { return 1.0f / sqrtf(v); }
inline int min(int a, int b) { return b < a ? b : a; }
inline int max(int a, int b) { return a < b ? b : a; }
inline unsigned min(unsigned a, unsigned b) { return b < a ? b : a; }
inline unsigned max(unsigned a, unsigned b) { return a < b ? b : a; }
inline unsigned long min(unsigned long a, unsigned long b) { return b < a ? b : a; }
inline unsigned long max(unsigned long a, unsigned long b) { return a < b ? b : a; }
inline long min(long a, long b) { return b < a ? b : a; }
inline long max(long a, long b) { return a < b ? b : a; }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }

inline unsigned __float_as_uint(float v) { return emu::bits_of(v); }
inline float __uint_as_float(unsigned v) { return emu::float_of(v); }
inline int __float_as_int(float v) { return static_cast<int>(emu::bits_of(v)); }
inline float __int_as_float(int v) { return emu::float_of(static_cast<unsigned>(v)); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fsqrt_rn(float v) { return sqrtf(v); }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __clz(int v) { return v == 0 ? 32 : __builtin_clz(static_cast<unsigned>(v)); }
inline int __ffs(int v) { return __builtin_ffs(v); }
// Bytes of b:a picked by the low three bits of each nibble of `from`; sign replication is not needed here.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned from) {
    uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
    unsigned v = 0;
    for (int i = 0; i < 4; i++) v |= static_cast<unsigned>(bytes >> (8 * (from >> (4 * i) & 7)) & 0xff) << (8 * i);
    return v;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32); }
inline float __ldg(const float* at) { return *at; }
inline unsigned __ldg(const unsigned* at) { return *at; }
