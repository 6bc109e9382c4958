// Every instruction that C++ has no word for, as a small function. The only file with inline PTX; hearth.cuh includes it.
// Compiled for sm_90a and sm_121a; on the host each function has a body in emu/ptx_emulated.hpp that computes the same bits.
//
// Numbers narrower than 32 bits travel as integers: f16 and bf16 as u16, pairs as u32 with the element of the lower index
// in the low half. Fragment layouts: PTX ISA 9.0, "Matrix fragments for mma" (m16n8k16, m16n8k32, m16n8k64).
//
// `asm volatile` keeps the order among these functions; "memory" besides keeps ordinary loads and stores from moving across.
#pragma once

#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

// 1 where mma_nvf4 exists. A kernel that needs it stands between `#if HEARTH_HAS_NVF4` and `#endif`.
#if defined(HEARTH_EMULATED) || defined(__CUDA_ARCH_FEAT_SM121_ALL)
#define HEARTH_HAS_NVF4 1
#else
#define HEARTH_HAS_NVF4 0
#endif

#ifdef HEARTH_EMULATED
#include "../emu/ptx_emulated.hpp"
#else

#define HEARTH_PTX static __device__ __forceinline__

// ---- Memory ----------------------------------------------------------------------------------------------------------

// Reads of weights: once, past L1. Only for memory that nobody writes while the kernel runs, and the kernels before it
// neither: such a load may be issued before pdl_wait().
HEARTH_PTX uint4 ld_stream16(const void* at) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(at));
    return v;
}

HEARTH_PTX uint2 ld_stream8(const void* at) {
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(at));
    return v;
}

HEARTH_PTX u32 ld_stream4(const void* at) {
    u32 v;
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(at));
    return v;
}

// Plain 16-byte access, global or shared; `at` is a multiple of 16.
HEARTH_PTX uint4 ld16(const void* at) { return *reinterpret_cast<const uint4*>(at); }
HEARTH_PTX void st16(void* at, uint4 v) { *reinterpret_cast<uint4*>(at) = v; }

// Asks for the line of `at` to be brought into L2. Never faults on a mapped address, returns nothing.
HEARTH_PTX void prefetch_l2(const void* at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }

// Counters and flags between CTAs: what was written before a release is seen after the acquire that reads its value.
HEARTH_PTX u32 ld_acquire(const u32* at) {
    u32 v;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(at) : "memory");
    return v;
}

HEARTH_PTX void st_release(u32* at, u32 v) {
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(at), "r"(v) : "memory");
}

HEARTH_PTX u32 shared_address(const void* at) { return static_cast<u32>(__cvta_generic_to_shared(at)); }

// 16 bytes to shared memory behind the thread's back; zeros when !valid (`gmem` is not read then). What was copied may be
// read after cp_async_commit(), cp_async_wait<groups still allowed to be open>() and a barrier.
HEARTH_PTX void cp_async16(void* smem, const void* gmem, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(smem)), "l"(gmem), "r"(valid ? 16 : 0)
                 : "memory");
}
// The same, 16 or 8 bytes; both addresses are multiples of as many.
template <u32 BYTES> HEARTH_PTX void cp_async(void* smem, const void* gmem, bool valid) {
    if constexpr (BYTES == 16) cp_async16(smem, gmem, valid);
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared_address(smem)), "l"(gmem), "r"(valid ? 8 : 0)
                     : "memory");
}
HEARTH_PTX void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> HEARTH_PTX void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// ---- Order of kernels: programmatic dependent launch -----------------------------------------------------------------

// Returns when the kernels before this one have ended and what they wrote can be seen. Returns at once in a launch
// without the attribute.
HEARTH_PTX void pdl_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// Lets the next kernel start as soon as every CTA has said so. It is no fence: the next kernel's pdl_wait() is.
HEARTH_PTX void pdl_launch() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

// ---- Conversions: to nearest, ties to even ---------------------------------------------------------------------------

HEARTH_PTX float f16_to_f32(u16 v) {
    float r;
    asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(v));
    return r;
}

HEARTH_PTX u16 f32_to_f16(float v) {
    u16 r;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(v));
    return r;
}

HEARTH_PTX float bf16_to_f32(u16 v) { return __uint_as_float(static_cast<u32>(v) << 16); }

HEARTH_PTX u16 f32_to_bf16(float v) {
    u16 r;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(v));
    return r;
}

HEARTH_PTX u32 f32x2_to_f16x2(float lo, float hi) {
    u32 r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}

HEARTH_PTX u32 f32x2_to_bf16x2(float lo, float hi) {
    u32 r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}

// Exact. A code of NaN (0x7f, 0xff) gives NaN.
HEARTH_PTX u32 e4m3x2_to_f16x2(u16 v) {
    u32 r;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(r) : "h"(v));
    return r;
}

// Beyond +-448: +-448. NaN: 0x7f.
HEARTH_PTX u16 f32x2_to_e4m3x2(float lo, float hi) {
    u16 r;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(r) : "f"(hi), "f"(lo));
    return r;
}

// Code 0..15: sign in bit 3, magnitudes 0 0.5 1 1.5 2 3 4 6. Beyond +-6: +-6. NaN: +6.
HEARTH_PTX u8 f32_to_e2m1(float v) {
#ifdef __CUDA_ARCH_FEAT_SM121_ALL
    u32 r;
    asm("{ .reg .b8 pair; cvt.rn.satfinite.e2m1x2.f32 pair, %1, %2; cvt.u32.u8 %0, pair; }" : "=r"(r) : "f"(0.0f), "f"(v));
    return static_cast<u8>(r & 15u);
#else
    // Each comparison is the midpoint below one magnitude; a tie goes to the even code. NaN passes all of them.
    float m = fabsf(v);
    u32 code = u32(!(m <= 0.25f)) + u32(!(m < 0.75f)) + u32(!(m <= 1.25f)) + u32(!(m < 1.75f)) + u32(!(m <= 2.5f)) +
               u32(!(m < 3.5f)) + u32(!(m <= 5.0f));
    u32 sign = v == v ? __float_as_uint(v) >> 28 & 8u : 0u;
    return static_cast<u8>(sign | code);
#endif
}

// Two FP4 weights of a packed tile word as an f16 pair, times 2^-14 (exact, subnormals included). Pair r of the word has
// its nibbles at bits 12 - 4r and 28 - 4r: the sign stays on top, exponent and mantissa move to f16's lowest exponent bits.
HEARTH_PTX u32 e2m1x2_to_f16x2_at(u32 word, int r) {
    u32 x = word << (4 * r);
    return (x & 0x80008000u) | ((x & 0x70007000u) >> 3);
}

// ---- f16 pairs, subnormals kept --------------------------------------------------------------------------------------

HEARTH_PTX u32 hmul2(u32 a, u32 b) {
    u32 r;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}

HEARTH_PTX u32 hfma2(u32 a, u32 b, u32 c) {
    u32 r;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
    return r;
}

// ---- Tensor cores: d += a b for one warp. Every lane of the warp must take part --------------------------------------

// Loads 8x8 matrices of 16-bit elements; lane i gives the address of row i & 7 of matrix i >> 3 (16 bytes, aligned).
HEARTH_PTX void ldmatrix4(u32 r[4], const void* smem) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(smem))
                 : "memory");
}

HEARTH_PTX void ldmatrix4_trans(u32 r[4], const void* smem) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(smem))
                 : "memory");
}

// Lanes 0..15 give the addresses; those of the others are not used.
HEARTH_PTX void ldmatrix2(u32 r[2], const void* smem) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(smem))
                 : "memory");
}

HEARTH_PTX void ldmatrix2_trans(u32 r[2], const void* smem) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(smem))
                 : "memory");
}

#define HEARTH_MMA(SHAPE_AND_TYPES)                                                                                    \
    asm("mma.sync.aligned." SHAPE_AND_TYPES " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"          \
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                               \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

// a [16, 16] row-major, b [16, 8] column-major, d [16, 8] f32. Lane 4g + c: d[0..1] are row g, columns 2c and 2c + 1;
// d[2..3] the same of row g + 8.
HEARTH_PTX void mma_f16(float d[4], const u32 a[4], const u32 b[2]) { HEARTH_MMA("m16n8k16.row.col.f32.f16.f16.f32"); }
HEARTH_PTX void mma_bf16(float d[4], const u32 a[4], const u32 b[2]) { HEARTH_MMA("m16n8k16.row.col.f32.bf16.bf16.f32"); }

// a [16, 32], b [32, 8] of E4M3, four to a register, the lowest index in the lowest byte.
HEARTH_PTX void mma_e4m3(float d[4], const u32 a[4], const u32 b[2]) { HEARTH_MMA("m16n8k32.row.col.f32.e4m3.e4m3.f32"); }

#undef HEARTH_MMA

#if HEARTH_HAS_NVF4
// a [16, 64], b [64, 8] of E2M1, eight to a register, the lowest index in the lowest nibble, with one unsigned E4M3 scale
// per 16 along k. Byte i of a scale register belongs to k = 16 i .. 16 i + 15: sfa of row g from lane 4g, of row g + 8 from
// lane 4g + 1; sfb of column g from lane 4g. The other lanes' scale registers are not used.
HEARTH_PTX void mma_nvf4(float d[4], const u32 a[4], const u32 b[2], u32 sfa, u32 sfb) {
    asm("mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::4X.f32.e2m1.e2m1.f32.ue4m3 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3}, %10, {%12, %12}, %11, {%12, %12};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(sfa), "r"(sfb), "n"(0));
}
#endif

#undef HEARTH_PTX
#endif // HEARTH_EMULATED
