// The host's bodies of the functions in cuda/ptx.cuh, which includes this file.
#pragma once

#include "cuda_emulated.hpp"

namespace emu {

template <class T> T load(const void* at) {
    if (reinterpret_cast<uintptr_t>(at) % sizeof(T)) {
        fail("CUDA_ERROR_MISALIGNED_ADDRESS (716)", "a load of " + std::to_string(sizeof(T)) + " bytes from address " + std::to_string(reinterpret_cast<uintptr_t>(at)));
    }
    T v;
    memcpy(&v, at, sizeof(T));
    return v;
}

template <class T> void store(void* at, T v) {
    if (reinterpret_cast<uintptr_t>(at) % sizeof(T)) {
        fail("CUDA_ERROR_MISALIGNED_ADDRESS (716)", "a store of " + std::to_string(sizeof(T)) + " bytes to address " + std::to_string(reinterpret_cast<uintptr_t>(at)));
    }
    memcpy(at, &v, sizeof(T));
}

// Slot of an mma: words 0..3 d and then the result, 4..7 a, 8..9 b, 10 and 11 the scales.
inline void mma(Together what, float d[4], const u32 a[4], const u32 b[2], u32 sfa, u32 sfb, Site site) {
    Slot& slot = my_slot();
    memcpy(slot.word, d, 16);
    memcpy(slot.word + 4, a, 16);
    memcpy(slot.word + 8, b, 8);
    slot.word[10] = sfa;
    slot.word[11] = sfb;
    meet(what, ALL_LANES, site);
    memcpy(d, slot.word, 16);
}

// Slot of an ldmatrix: words 4..7 the row that this lane gives the address of (read here, so that a bad address is this
// thread's), 0..3 the result.
inline void ldmatrix(Together what, u32* r, int count, const void* row, Site site) {
    Slot& slot = my_slot();
    if (static_cast<int>(thread->lane) < 8 * count) {
        if (!is_shared(row)) fail("CUDA_ERROR_ILLEGAL_ADDRESS (700)", "ldmatrix of an address outside shared memory");
        uint4 v = load<uint4>(row);
        memcpy(slot.word + 4, &v, 16);
    } else {
        memset(slot.word + 4, 0xff, 16);
    }
    meet(what, ALL_LANES, site);
    memcpy(r, slot.word, 4 * static_cast<size_t>(count));
}

} // namespace emu

inline uint4 ld_stream16(const void* at) { return emu::load<uint4>(at); }
inline uint2 ld_stream8(const void* at) { return emu::load<uint2>(at); }
inline u32 ld_stream4(const void* at) { return emu::load<u32>(at); }
inline uint4 ld16(const void* at) { return emu::load<uint4>(at); }
inline void st16(void* at, uint4 v) { emu::store(at, v); }
inline void prefetch_l2(const void*) {}

// A loop that waits on another thread goes through here, so others get to run.
HEARTH_EMU_UNWATCHED inline u32 ld_acquire(const u32* at, HEARTH_EMU_HERE) {
    emu::spin({file, line});
    emu::acquired();
    return *at;
}
HEARTH_EMU_UNWATCHED inline void st_release(u32* at, u32 v) {
    emu::fenced();
    emu::told(at);
    *at = v;
}

inline void cp_async16(void* smem, const void* gmem, bool valid, HEARTH_EMU_HERE) { emu::copy_async(smem, gmem, 16, valid, {file, line}); }
template <u32 BYTES> void cp_async(void* smem, const void* gmem, bool valid, HEARTH_EMU_HERE) {
    static_assert(BYTES == 8 || BYTES == 16);
    emu::copy_async(smem, gmem, BYTES, valid, {file, line});
}
inline void cp_async_commit() { emu::commit_copies(); }
template <int N> void cp_async_wait() { emu::wait_copies(N); }

inline void pdl_wait() {}
inline void pdl_launch() {}

inline float f16_to_f32(u16 v) { return emu::f16_to_f32(v); }
inline u16 f32_to_f16(float v) { return emu::f32_to_f16(v); }
inline float bf16_to_f32(u16 v) { return emu::bf16_to_f32(v); }
inline u16 f32_to_bf16(float v) { return emu::f32_to_bf16(v); }
inline u32 f32x2_to_f16x2(float lo, float hi) { return emu::f32_to_f16(lo) | static_cast<u32>(emu::f32_to_f16(hi)) << 16; }
inline u32 f32x2_to_bf16x2(float lo, float hi) { return emu::f32_to_bf16(lo) | static_cast<u32>(emu::f32_to_bf16(hi)) << 16; }
inline u32 e4m3x2_to_f16x2(u16 v) {
    return f32x2_to_f16x2(emu::e4m3_to_f32(static_cast<u8>(v & 0xff)), emu::e4m3_to_f32(static_cast<u8>(v >> 8)));
}
inline u16 f32x2_to_e4m3x2(float lo, float hi) { return static_cast<u16>(emu::f32_to_e4m3(lo) | emu::f32_to_e4m3(hi) << 8); }
inline u8 f32_to_e2m1(float v) { return emu::f32_to_e2m1(v); }
inline u32 e2m1x2_to_f16x2_at(u32 word, int r) {
    u32 x = word << (4 * r);
    return (x & 0x80008000u) | ((x & 0x70007000u) >> 3);
}

// A product of two f16 is exact in f32, so rounding the f32 result to f16 rounds once.
inline u32 hmul2(u32 a, u32 b) {
    return f32x2_to_f16x2(f16_to_f32(static_cast<u16>(a & 0xffff)) * f16_to_f32(static_cast<u16>(b & 0xffff)),
                          f16_to_f32(static_cast<u16>(a >> 16)) * f16_to_f32(static_cast<u16>(b >> 16)));
}
inline u32 hfma2(u32 a, u32 b, u32 c) {
    return emu::f16_fma(static_cast<u16>(a & 0xffff), static_cast<u16>(b & 0xffff), static_cast<u16>(c & 0xffff)) |
           static_cast<u32>(emu::f16_fma(static_cast<u16>(a >> 16), static_cast<u16>(b >> 16), static_cast<u16>(c >> 16))) << 16;
}

inline void ldmatrix4(u32 r[4], const void* smem, HEARTH_EMU_HERE) { emu::ldmatrix(emu::Together::Ldmatrix, r, 4, smem, {file, line}); }
inline void ldmatrix4_trans(u32 r[4], const void* smem, HEARTH_EMU_HERE) { emu::ldmatrix(emu::Together::LdmatrixTrans, r, 4, smem, {file, line}); }
inline void ldmatrix2(u32 r[2], const void* smem, HEARTH_EMU_HERE) { emu::ldmatrix(emu::Together::Ldmatrix, r, 2, smem, {file, line}); }
inline void ldmatrix2_trans(u32 r[2], const void* smem, HEARTH_EMU_HERE) { emu::ldmatrix(emu::Together::LdmatrixTrans, r, 2, smem, {file, line}); }

inline void mma_f16(float d[4], const u32 a[4], const u32 b[2], HEARTH_EMU_HERE) { emu::mma(emu::Together::MmaF16, d, a, b, 0, 0, {file, line}); }
inline void mma_bf16(float d[4], const u32 a[4], const u32 b[2], HEARTH_EMU_HERE) { emu::mma(emu::Together::MmaBf16, d, a, b, 0, 0, {file, line}); }
inline void mma_e4m3(float d[4], const u32 a[4], const u32 b[2], HEARTH_EMU_HERE) { emu::mma(emu::Together::MmaE4m3, d, a, b, 0, 0, {file, line}); }
inline void mma_nvf4(float d[4], const u32 a[4], const u32 b[2], u32 sfa, u32 sfb, HEARTH_EMU_HERE) {
    emu::mma(emu::Together::MmaNvf4, d, a, b, sfa, sfb, {file, line});
}
