// Conversions among f32 and the narrow formats: to nearest, ties to even; E4M3 and E2M1 saturate. The same bits as the
// cvt instructions of PTX ISA 9.0. Written without branches where the matrix units convert many numbers at once.
#pragma once

#include <cstdint>
#include <cstring>

namespace emu {

inline uint32_t bits_of(float v) {
    uint32_t r;
    memcpy(&r, &v, 4);
    return r;
}

inline float float_of(uint32_t bits) {
    float r;
    memcpy(&r, &bits, 4);
    return r;
}

// The exponent is moved by a multiplication, so subnormals come out right; what lands beyond f16's range was Inf or NaN.
inline float f16_to_f32(uint16_t v) {
    float r = float_of((v & 0x7fffu) << 13) * 0x1p112f;
    uint32_t special = r >= 65536.0f ? 0x7f800000u : 0u;
    return float_of(bits_of(r) | special | (v & 0x8000u) << 16);
}

inline float bf16_to_f32(uint16_t v) { return float_of(static_cast<uint32_t>(v) << 16); }

inline uint16_t f32_to_f16(float v) {
    uint32_t sign = bits_of(v) >> 16 & 0x8000u, x = bits_of(v) & 0x7fffffffu;
    if (x > 0x7f800000u) return 0x7fff;
    if (x >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u); // 65520 and above
    if (x < 0x38800000u) { // below 2^-14: adding 0.5 rounds at 2^-24, the unit of f16's subnormals
        return static_cast<uint16_t>(sign | (bits_of(float_of(x) + 0.5f) - 0x3f000000u));
    }
    x += 0xfffu + (x >> 13 & 1u);
    return static_cast<uint16_t>(sign | (x - 0x38000000u) >> 13);
}

inline uint16_t f32_to_bf16(float v) {
    uint32_t x = bits_of(v);
    if ((x & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return static_cast<uint16_t>((x + 0x7fffu + (x >> 16 & 1u)) >> 16);
}

inline float e4m3_to_f32(uint8_t v) {
    if ((v & 0x7f) == 0x7f) return float_of(0x7fffffffu);
    return float_of(bits_of(float_of((v & 0x7fu) << 20) * 0x1p120f) | (v & 0x80u) << 24);
}

// Beyond +-448: +-448. NaN: 0x7f.
inline uint8_t f32_to_e4m3(float v) {
    uint32_t sign = bits_of(v) >> 24 & 0x80u, x = bits_of(v) & 0x7fffffffu;
    if (x > 0x7f800000u) return 0x7f;
    if (x >= 0x43e00000u) return static_cast<uint8_t>(sign | 0x7eu); // 448 and above
    if (x < 0x3c800000u) { // below 2^-6: adding 2^14 rounds at 2^-9, the unit of E4M3's subnormals
        return static_cast<uint8_t>(sign | (bits_of(float_of(x) + 16384.0f) - 0x46800000u));
    }
    x += 0x7ffffu + (x >> 20 & 1u);
    return static_cast<uint8_t>(sign | (x - 0x3c000000u) >> 20);
}

inline float e2m1_to_f32(uint32_t code) {
    static constexpr float VALUES[16] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f, -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};
    return VALUES[code & 15u];
}

// Beyond +-6: +-6. NaN: +6. Each comparison is the midpoint below one magnitude; a tie goes to the even code.
inline uint8_t f32_to_e2m1(float v) {
    uint32_t x = bits_of(v) & 0x7fffffffu;
    if (x > 0x7f800000u) return 7;
    float m = float_of(x);
    int code = (m > 0.25f) + (m >= 0.75f) + (m > 1.25f) + (m >= 1.75f) + (m > 2.5f) + (m >= 3.5f) + (m > 5.0f);
    return static_cast<uint8_t>((bits_of(v) >> 28 & 8u) | static_cast<uint32_t>(code));
}

// a b + c rounded once. The product is exact in f64; the sum is rounded to odd there, so that the second rounding cannot
// fall on a tie that the first one made.
inline uint16_t f64_to_f16(double v) {
    // To f32 with the dropped bits or-ed into the last one: f32 has 13 bits more than f16, room for that.
    float f = static_cast<float>(v);
    if (static_cast<double>(f) != v && f == f && (bits_of(f) & 0x7f800000u) != 0x7f800000u) {
        uint32_t x = bits_of(f);
        double back = f;
        bool above = (back < 0 ? -back : back) > (v < 0 ? -v : v);
        if (above) x -= 1; // truncated
        f = float_of(x | 1u);
    }
    return f32_to_f16(f);
}

inline uint16_t f16_fma(uint16_t a, uint16_t b, uint16_t c) {
    double product = static_cast<double>(f16_to_f32(a)) * f16_to_f32(b);
    return f64_to_f16(product + f16_to_f32(c));
}

} // namespace emu
