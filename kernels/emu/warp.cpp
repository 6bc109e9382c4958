// What the lanes of a warp compute together. Fragment layouts: PTX ISA 9.0, "Matrix fragments for mma"; the block-scaled
// one is that of m16n8k64 with kind::mxf4nvf4. Lane 4g + c; g = 0..7, c = 0..3.
#include "executor.hpp"
#include "numbers.hpp"

namespace emu {

static void shuffle(Warp& w, uint32_t mask) {
    uint32_t value[WARP][2];
    uint32_t key = w.slot[__builtin_ctz(mask)].word[3];
    for (uint32_t l = 0; l < WARP; l++) memcpy(value[l], w.slot[l].word, 8);
    for (uint32_t l = 0; l < WARP; l++) {
        if (!(mask >> l & 1u)) continue;
        uint32_t from = w.slot[l].word[2];
        if (w.slot[l].word[3] != key) fail("CUDA_ERROR_LAUNCH_FAILED (719)", "lanes of one warp shuffle in different ways");
        if (!(mask >> from & 1u)) {
            fail("CUDA_ERROR_LAUNCH_FAILED (719)", "a shuffle in which lane " + std::to_string(l) + " reads lane " + std::to_string(from) + ", which the mask does not name");
        }
        memcpy(w.slot[l].word, value[from], 8);
    }
}

static void vote(Warp& w, uint32_t mask) {
    uint32_t yes = 0;
    for (uint32_t l = 0; l < WARP; l++) {
        if (mask >> l & w.slot[l].word[0] & 1u) yes |= 1u << l;
    }
    for (uint32_t l = 0; l < WARP; l++) {
        if (mask >> l & 1u) w.slot[l].word[0] = yes;
    }
}

// Matrix m's row i lies in lane 8m + i.
static void ldmatrix(Warp& w, bool transposed) {
    uint16_t rows[WARP][8];
    for (uint32_t l = 0; l < WARP; l++) memcpy(rows[l], w.slot[l].word + 4, 16);
    for (uint32_t l = 0; l < WARP; l++) {
        uint32_t g = l / 4, c = l % 4;
        for (uint32_t m = 0; m < 4; m++) {
            uint16_t lo = transposed ? rows[8 * m + 2 * c][g] : rows[8 * m + g][2 * c];
            uint16_t hi = transposed ? rows[8 * m + 2 * c + 1][g] : rows[8 * m + g][2 * c + 1];
            w.slot[l].word[m] = lo | static_cast<uint32_t>(hi) << 16;
        }
    }
}

// d += a b. Products are exact and sums are kept in f64 and rounded once: the hardware's own order of additions is not
// documented, so this is the value that its results scatter around.
template <uint32_t K> static void multiply(Warp& w, const double (&a)[16][K], const double (&b)[K][8]) {
    for (uint32_t row = 0; row < 16; row++) {
        double sum[8];
        for (uint32_t n = 0; n < 8; n++) {
            sum[n] = static_cast<double>(float_of(w.slot[row % 8 * 4 + n / 2].word[row / 8 * 2 + n % 2]));
        }
        for (uint32_t k = 0; k < K; k++) {
            for (uint32_t n = 0; n < 8; n++) sum[n] += a[row][k] * b[k][n];
        }
        for (uint32_t n = 0; n < 8; n++) {
            w.slot[row % 8 * 4 + n / 2].word[row / 8 * 2 + n % 2] = bits_of(static_cast<float>(sum[n]));
        }
    }
}

// Registers hold PER elements; a0, a1: rows g, g + 8 of the first half of k, a2, a3 of the second; b0, b1 the halves of k,
// column g. `decode` turns the registers of all lanes into numbers, in the order of lane, register and element.
template <uint32_t K, uint32_t PER, class Decode> static void fragments(Warp& w, double (&a)[16][K], double (&b)[K][8], Decode decode) {
    uint32_t words[WARP * 6];
    float values[WARP * 6 * PER];
    for (uint32_t l = 0; l < WARP; l++) memcpy(words + 6 * l, w.slot[l].word + 4, 24);
    decode(words, values);
    for (uint32_t l = 0; l < WARP; l++) {
        uint32_t g = l / 4, c = l % 4;
        const float* v = values + l * 6 * PER;
        for (uint32_t r = 0; r < 4; r++) {
            for (uint32_t j = 0; j < PER; j++) a[g + 8 * (r % 2)][r / 2 * (K / 2) + PER * c + j] = static_cast<double>(*v++);
        }
        for (uint32_t r = 0; r < 2; r++) {
            for (uint32_t j = 0; j < PER; j++) b[r * (K / 2) + PER * c + j][g] = static_cast<double>(*v++);
        }
    }
}

// Decodes registers of PER elements, the lowest index in the lowest bits, one by one.
template <uint32_t PER, class One> static auto each(One one) {
    return [one](const uint32_t* words, float* values) {
        for (uint32_t i = 0; i < WARP * 6; i++) {
            for (uint32_t j = 0; j < PER; j++) values[i * PER + j] = one(words[i] >> (32 / PER * j));
        }
    };
}

template <uint32_t K, uint32_t PER, class One> static void mma(Warp& w, One one) {
    double a[16][K], b[K][8];
    fragments<K, PER>(w, a, b, each<PER>(one));
    multiply<K>(w, a, b);
}

static void mma_nvf4(Warp& w) {
    double a[16][64], b[64][8];
    fragments<64, 8>(w, a, b, each<8>([](uint32_t v) { return e2m1_to_f32(v); }));
    auto scale = [](uint32_t word, uint32_t k) { return static_cast<double>(e4m3_to_f32(static_cast<uint8_t>(word >> (k / 2) & 0x7fu))); };
    for (uint32_t k = 0; k < 64; k += 16) { // byte k / 16 of the scales
        for (uint32_t row = 0; row < 16; row++) {
            double s = scale(w.slot[row % 8 * 4 + row / 8].word[10], k);
            for (uint32_t i = k; i < k + 16; i++) a[row][i] *= s;
        }
        for (uint32_t n = 0; n < 8; n++) {
            double s = scale(w.slot[n * 4].word[11], k);
            for (uint32_t i = k; i < k + 16; i++) b[i][n] *= s;
        }
    }
    multiply<64>(w, a, b);
}

void compute(Together what, Warp& w, uint32_t mask) {
    switch (what) {
    case Together::Syncwarp: return;
    case Together::Shuffle: return shuffle(w, mask);
    case Together::Vote: return vote(w, mask);
    case Together::MmaF16: return mma<16, 2>(w, [](uint32_t v) { return f16_to_f32(static_cast<uint16_t>(v)); });
    case Together::MmaBf16: return mma<16, 2>(w, [](uint32_t v) { return bf16_to_f32(static_cast<uint16_t>(v)); });
    case Together::MmaE4m3: return mma<32, 4>(w, [](uint32_t v) { return e4m3_to_f32(static_cast<uint8_t>(v)); });
    case Together::MmaNvf4: return mma_nvf4(w);
    case Together::Ldmatrix: return ldmatrix(w, false);
    case Together::LdmatrixTrans: return ldmatrix(w, true);
    }
}

} // namespace emu
