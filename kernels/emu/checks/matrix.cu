// One product on the tensor cores per format, from row-major a [16, k] and b given as its columns [8, k], both of codes.
#include "../../cuda/hearth.cuh"

struct Product {
    const u8 *a, *b;
    const float* c;         // [16, 8]
    float* d;               // [16, 8]
    const u8 *a_scales, *b_scales; // NVFP4: [16, 4] and [8, 4]
};

// `words` 32-bit words of codes per row; a lane takes word c and the word that is half a row on.
template <class Multiply> __device__ void product(const Product& args, u32 words, Multiply multiply) {
    u32 lane = threadIdx.x, g = lane >> 2, c = lane & 3;
    const u32* a = reinterpret_cast<const u32*>(args.a);
    const u32* b = reinterpret_cast<const u32*>(args.b);
    u32 fa[4] = {a[g * words + c], a[(g + 8) * words + c], a[g * words + c + words / 2], a[(g + 8) * words + c + words / 2]};
    u32 fb[2] = {b[g * words + c], b[g * words + c + words / 2]};
    float d[4];
    for (u32 i = 0; i < 4; i++) d[i] = args.c[(g + i / 2 * 8) * 8 + 2 * c + i % 2];
    multiply(d, fa, fb, g, c);
    for (u32 i = 0; i < 4; i++) args.d[(g + i / 2 * 8) * 8 + 2 * c + i % 2] = d[i];
}

KERNEL(check_mma_f16, 32, 1, Product) {
    product(args, 8, [](float* d, const u32* a, const u32* b, u32, u32) { mma_f16(d, a, b); });
}
KERNEL(check_mma_bf16, 32, 1, Product) {
    product(args, 8, [](float* d, const u32* a, const u32* b, u32, u32) { mma_bf16(d, a, b); });
}
KERNEL(check_mma_e4m3, 32, 1, Product) {
    product(args, 8, [](float* d, const u32* a, const u32* b, u32, u32) { mma_e4m3(d, a, b); });
}
#if HEARTH_HAS_NVF4
KERNEL(check_mma_nvf4, 32, 1, Product) {
    const u32* sa = reinterpret_cast<const u32*>(args.a_scales);
    const u32* sb = reinterpret_cast<const u32*>(args.b_scales);
    product(args, 8, [&](float* d, const u32* a, const u32* b, u32 g, u32 c) {
        // The lanes that give no scale hold a code that would show.
        mma_nvf4(d, a, b, c == 0 ? sa[g] : c == 1 ? sa[g + 8] : 0x7f7f7f7fu, c == 0 ? sb[g] : 0x7f7f7f7fu);
    });
}
#endif

// ldmatrix of [16, 16] row-major gives the fragment of a; transposed, of [16, 8] row-major, the fragment of b.
struct Matrices {
    const u16 *a, *b; // [16, 16], [16, 8]
    u32* out;         // [12, 32]: a by loads, a by ldmatrix4, b by loads, b by ldmatrix2_trans
};

KERNEL(check_ldmatrix, 32, 1, Matrices) {
    SHARED(u16, a, 256);
    SHARED(u16, b, 128);
    u32 lane = threadIdx.x, g = lane >> 2, c = lane & 3;
    for (u32 i = lane; i < 256; i += 32) a[i] = args.a[i];
    for (u32 i = lane; i < 128; i += 32) b[i] = args.b[i];
    __syncwarp();
    u32 r[4];
    ldmatrix4(r, a + (lane & 15) * 16 + (lane >> 4) * 8);
    for (u32 i = 0; i < 4; i++) {
        u32 row = g + i % 2 * 8, col = i / 2 * 8 + 2 * c;
        args.out[i * 32 + lane] = a[row * 16 + col] | static_cast<u32>(a[row * 16 + col + 1]) << 16;
        args.out[(4 + i) * 32 + lane] = r[i];
    }
    ldmatrix2_trans(r, b + (lane & 15) * 8);
    for (u32 i = 0; i < 2; i++) {
        u32 k = i * 8 + 2 * c;
        args.out[(8 + i) * 32 + lane] = b[k * 8 + g] | static_cast<u32>(b[(k + 1) * 8 + g]) << 16;
        args.out[(10 + i) * 32 + lane] = r[i];
    }
}
