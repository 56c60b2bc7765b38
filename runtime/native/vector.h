// SPDX-License-Identifier: Apache-2.0
// Sixteen lanes of float32 or int32, one for each token of a block, and the mathematics on them.
//
// GCC's and clang's vector extension turns one source into the instructions of whatever instruction set the
// including file is compiled for. Everything is in an anonymous namespace and nothing is a template of the standard
// library: code compiled for one instruction set must never be linked into another's.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))

namespace understudy {
namespace {

constexpr int LANES = 16;

typedef float Floats __attribute__((vector_size(64), may_alias));
typedef int32_t Integers __attribute__((vector_size(64), may_alias));
typedef uint32_t Words __attribute__((vector_size(64), may_alias));  // bits: their sums wrap whatever they are, as those of a NaN

INLINE Floats load(const float* p) { return *reinterpret_cast<const Floats*>(p); }
INLINE Integers load(const int32_t* p) { return *reinterpret_cast<const Integers*>(p); }
INLINE void store(float* p, Floats x) { *reinterpret_cast<Floats*>(p) = x; }
INLINE void store(int32_t* p, Integers x) { *reinterpret_cast<Integers*>(p) = x; }

INLINE Floats all(float x) { return Floats{} + x; }
INLINE Integers all(int32_t x) { return Integers{} + x; }

INLINE Floats bits_to_floats(Integers x) { return reinterpret_cast<Floats>(x); }
INLINE Integers bits_to_integers(Floats x) { return reinterpret_cast<Integers>(x); }
INLINE Floats to_floats(Integers x) { return __builtin_convertvector(x, Floats); }

typedef int8_t Bytes __attribute__((vector_size(16)));
INLINE Floats to_floats(const int8_t (&x)[LANES]) {
  Bytes bytes;
  std::memcpy(&bytes, x, sizeof bytes);
  return __builtin_convertvector(bytes, Floats);
}

#if defined(__AVX512F__)
INLINE Floats maximum(Floats a, Floats b) { return (Floats)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE Floats minimum(Floats a, Floats b) { return (Floats)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE Floats square_root(Floats x) { return (Floats)_mm512_sqrt_ps((__m512)x); }
INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
#else
INLINE Floats maximum(Floats a, Floats b) { return a > b ? a : b; }
INLINE Floats minimum(Floats a, Floats b) { return a < b ? a : b; }
INLINE Floats square_root(Floats x) {
  for (int i = 0; i < LANES; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
}
INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return a * b + c; }  // fused where the target can
#endif

// The first `n` lanes of x; zero in the others.
INLINE Floats keep_first(Floats x, int n) {
  constexpr Integers lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return bits_to_floats(bits_to_integers(x) & (lane < all(int32_t(n))));
}

// Adding it to a float of less than 2^22 rounds that to the nearest whole number, held in the lowest bits.
constexpr float ROUNDING = 12582912.0f;  // 1.5 * 2^23
constexpr uint32_t ROUNDING_BITS = 0x4B400000;

// e^x for x <= 0, relative error 2e-7; below -87 it is e^-87.
INLINE Floats exponential(Floats x) {
  const Floats scaled = maximum(x, all(-87.0f)) * 1.44269504088896341f;
  const Floats shifted = scaled + ROUNDING;
  const Floats fraction = scaled - (shifted - ROUNDING);
  Floats y = all(1.340043217e-03f);
  y = multiply_add(y, fraction, all(9.676037098e-03f));
  y = multiply_add(y, fraction, all(5.550327214e-02f));
  y = multiply_add(y, fraction, all(2.402210736e-01f));
  y = multiply_add(y, fraction, all(6.931472067e-01f));
  y = multiply_add(y, fraction, all(1.000000075f));
  return reinterpret_cast<Floats>(reinterpret_cast<Words>(y) + (reinterpret_cast<Words>(shifted) << 23));
}

enum class Activation : int { NONE, GELU, GELU_TANH, RELU };

// Coefficients of g(a) = a - gelu(a) for a in 0 to 4.5, a polynomial of degree 10 in a / 2.25 - 1 fitted at Chebyshev
// nodes: it errs by at most 1.6e-5, far less than the eight bits that its result is rounded to.
constexpr float GELU[] = {2.749903500e-02f, -1.330170631e-01f, 2.464785576e-01f,  -1.475407928e-01f,
                          -2.019351274e-01f, 4.360252321e-01f, -2.080824375e-01f, -1.780532300e-01f,
                          1.802777648e-01f, 2.258405089e-02f,  -4.423601553e-02f};
constexpr float GELU_TANH[] = {2.719805576e-02f, -1.346304864e-01f, 2.492420375e-01f,  -1.402253360e-01f,
                               -2.122495323e-01f, 4.229828417e-01f, -1.899899840e-01f, -1.674130708e-01f,
                               1.653177589e-01f, 1.927747577e-02f,  -3.951969743e-02f};

template <Activation kind>
INLINE Floats activate(Floats x) {
  if constexpr (kind == Activation::NONE) return x;
  const Floats positive = maximum(x, Floats{});
  if constexpr (kind == Activation::RELU) return positive;
  const float* coefficients = kind == Activation::GELU ? GELU : GELU_TANH;
  const Floats magnitude = minimum(maximum(x, -x), all(4.5f));
  const Floats t = multiply_add(magnitude, all(1.0f / 2.25f), all(-1.0f));
  Floats y = all(coefficients[10]);
#pragma GCC unroll 10
  for (int i = 9; i >= 0; --i) y = multiply_add(y, t, all(coefficients[i]));
  return positive - y;
}

// Lane i of the result is lane `first + i` of the 32 lanes of low and high; first in 0 to 15.
INLINE Floats window(const float* low, const float* high, int first) {
#if defined(__AVX512F__)
  const __m512i index = _mm512_add_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                                         _mm512_set1_epi32(first));
  return (Floats)_mm512_permutex2var_ps(_mm512_load_ps(low), index, _mm512_load_ps(high));
#else
  Floats x;
  float* lanes = reinterpret_cast<float*>(&x);
  std::memcpy(lanes, low + first, sizeof(float) * (LANES - first));
  std::memcpy(lanes + LANES - first, high, sizeof(float) * first);
  return x;
#endif
}

#if defined(__AVX512F__)
// 16 x 16 lanes, transposed.
INLINE void transpose_lanes(__m512i (&r)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
  }
}

INLINE void transpose(Floats (&rows)[LANES]) {
  __m512i lanes[LANES];
#pragma GCC unroll 16
  for (int i = 0; i < LANES; ++i) lanes[i] = (__m512i)rows[i];
  transpose_lanes(lanes);
#pragma GCC unroll 16
  for (int i = 0; i < LANES; ++i) rows[i] = (Floats)lanes[i];
}
#else
// Lane j of row i becomes lane i of row j.
INLINE void transpose(Floats (&rows)[LANES]) {
  float lanes[LANES][LANES];
  std::memcpy(lanes, rows, sizeof lanes);
  auto* to = reinterpret_cast<float*>(rows);
  for (int i = 0; i < LANES; ++i)
    for (int j = 0; j < LANES; ++j) to[j * LANES + i] = lanes[i][j];
}
#endif

// Lane i of the result is the sum of row i's lanes, always in the same order.
INLINE Floats sum_each(Floats (&rows)[LANES]) {
  transpose(rows);
  for (int step = LANES / 2; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) rows[i] += rows[i + step];
  return rows[0];
}

}  // namespace
}  // namespace understudy
