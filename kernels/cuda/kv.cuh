// The paged cache of keys and values (src/kv.rs defines the bytes): where a vector is, and one number of it. Used by the
// attend kernels.
#pragma once

#include "hearth.cuh"

enum KvFormat : u32 { KV_F32 = 0, KV_BF16 = 1, KV_FP8 = 2, KV_NVFP4 = 3 };

// Bytes of a vector's numbers; NVFP4's scales lie elsewhere.
__device__ inline u32 kv_value_bytes(u32 format, u32 head_dim) {
    return format == KV_F32 ? 4 * head_dim : format == KV_BF16 ? 2 * head_dim : format == KV_FP8 ? head_dim : head_dim / 2;
}

// Bytes of a vector with its scales.
__device__ inline u32 kv_bytes(u32 format, u32 head_dim) {
    return kv_value_bytes(format, head_dim) + (format == KV_NVFP4 ? head_dim / 16 : 0);
}

// Where a page's positions of one head begin.
__device__ inline u64 kv_page_at(u32 page, u32 head, u32 kv_heads, u32 page_len, u32 bytes) {
    return (static_cast<u64>(page) * kv_heads + head) * page_len * bytes;
}

// Number i of the vector at `offset` of a page of one head.
__device__ inline float kv_number(const u8* page, u32 format, u32 page_len, u32 head_dim, u32 offset, u32 i) {
    u64 at = static_cast<u64>(offset) * head_dim + i;
    if (format == KV_F32) return reinterpret_cast<const float*>(page)[at];
    if (format == KV_BF16) return bf16_to_f32(reinterpret_cast<const u16*>(page)[at]);
    if (format == KV_FP8) return f16_to_f32(static_cast<u16>(e4m3x2_to_f16x2(page[at]) & 0xffffu));
    u8 scale = page[static_cast<u64>(page_len) * (head_dim / 2) + at / 16];
    u32 code = static_cast<u32>(page[at / 2]) >> (4 * (at & 1)) & 15u;
    // The code's pair form needs it at bit 12; the result is 2^-14 of the number.
    float number = 16384.0f * f16_to_f32(static_cast<u16>(e2m1x2_to_f16x2_at(code << 12, 0) & 0xffffu));
    return number * f16_to_f32(static_cast<u16>(e4m3x2_to_f16x2(scale) & 0xffffu));
}
