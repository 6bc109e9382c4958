// Every conversion of ptx.cuh, one number per thread.
#include "../../cuda/hearth.cuh"

struct ToNarrow {
    const float* in; // [count]
    u16 *f16, *bf16, *e4m3;
    u8* e2m1;
    u64 count;
};

KERNEL(check_to_narrow, 256, 1, ToNarrow) {
    u64 i = blockIdx.x * 256 + threadIdx.x;
    if (i >= args.count) return;
    float v = args.in[i];
    args.f16[i] = f32_to_f16(v);
    args.bf16[i] = f32_to_bf16(v);
    args.e4m3[i] = f32x2_to_e4m3x2(v, -v);
    args.e2m1[i] = f32_to_e2m1(v);
    // The pairs are the single ones, the lower index in the low half.
    if (f32x2_to_f16x2(v, 1.0f) != (f32_to_f16(v) | 0x3c000000u)) __trap();
    if (f32x2_to_bf16x2(1.0f, v) != (static_cast<u32>(f32_to_bf16(v)) << 16 | 0x3f80u)) __trap();
}

struct ToF32 {
    float *f16, *bf16; // [65536]
    u32* e4m3;         // [65536] f16 pairs
    u32* product;      // [65536] f16 pairs: code times (1.5, 2^-14), and the same plus (1, 2^-24)
    u32* sum;
};

KERNEL(check_to_f32, 256, 1, ToF32) {
    u32 i = blockIdx.x * 256 + threadIdx.x;
    u16 code = static_cast<u16>(i);
    args.f16[i] = f16_to_f32(code);
    args.bf16[i] = bf16_to_f32(code);
    args.e4m3[i] = e4m3x2_to_f16x2(code);
    u32 pair = i | i << 16, by = 0x3e00u | 0x0400u << 16;
    args.product[i] = hmul2(pair, by);
    args.sum[i] = hfma2(pair, by, 0x3c00u | 0x0001u << 16);
}
