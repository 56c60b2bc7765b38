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

// The sanitizers check every access, and what is inlined everywhere is checked everywhere: minutes of compiling.
#if defined(UNDERSTUDY_SANITIZE)
#define INLINE inline
#define INLINE_LAMBDA
#else
#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))
#endif

#include "lanes.h"

namespace understudy {
namespace {

constexpr int LANES = 16;

#if defined(__AVX512F__)
typedef float Floats __attribute__((vector_size(64), may_alias));
typedef int32_t Integers __attribute__((vector_size(64), may_alias));
typedef uint32_t Words __attribute__((vector_size(64), may_alias));  // bits: their sums wrap whatever they are, as those of a NaN

INLINE Floats load(const float* p) { return *reinterpret_cast<const Floats*>(p); }
INLINE Integers load(const int32_t* p) { return *reinterpret_cast<const Integers*>(p); }
INLINE void store(float* p, Floats x) { *reinterpret_cast<Floats*>(p) = x; }
INLINE void store(int32_t* p, Integers x) { *reinterpret_cast<Integers*>(p) = x; }

INLINE Floats all(float x) { return Floats{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
INLINE Integers all(int32_t x) { return Integers{} + x; }

// The same bits as other lanes.
template <typename To, typename From>
INLINE To bits_as(From x) {
  return reinterpret_cast<To>(x);
}
INLINE Floats to_floats(Integers x) { return __builtin_convertvector(x, Floats); }

// The first n of what stands at p; zero in the other lanes.
INLINE __mmask16 first_lanes(int n) { return __mmask16((1u << n) - 1); }
INLINE Floats load_first(const float* p, int n) { return (Floats)_mm512_maskz_loadu_ps(first_lanes(n), p); }
INLINE Floats load_first(const int8_t* p, int n) {
  return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(first_lanes(n), p)));
}

INLINE Floats maximum(Floats a, Floats b) { return (Floats)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE Floats minimum(Floats a, Floats b) { return (Floats)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE Floats square_root(Floats x) { return (Floats)_mm512_sqrt_ps((__m512)x); }
INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
#else
#if defined(__AVX2__)
constexpr int REGISTER_BYTES = 32;
#else
constexpr int REGISTER_BYTES = 16;
#endif
typedef Parts<float, REGISTER_BYTES> Floats;
typedef Parts<int32_t, REGISTER_BYTES> Integers;
typedef Parts<uint32_t, REGISTER_BYTES> Words;

template <typename Lanes, typename T>
INLINE Lanes load_parts(const T* p) {
  return by_part<Lanes>([&](int i) INLINE_LAMBDA { return reinterpret_cast<const typename Lanes::Part*>(p)[i]; });
}
template <typename Lanes, typename T>
INLINE void store_parts(T* p, Lanes x) {
#pragma GCC unroll 4
  for (int i = 0; i < Lanes::PARTS; ++i) reinterpret_cast<typename Lanes::Part*>(p)[i] = x.part[i];
}
INLINE Floats load(const float* p) { return load_parts<Floats>(p); }
INLINE Integers load(const int32_t* p) { return load_parts<Integers>(p); }
INLINE void store(float* p, Floats x) { store_parts(p, x); }
INLINE void store(int32_t* p, Integers x) { store_parts(p, x); }

INLINE Floats all(float x) {
  return by_part<Floats>([&](int) INLINE_LAMBDA {
#if defined(__AVX2__)
    return Floats::Part{x, x, x, x, x, x, x, x};
#else
    return Floats::Part{x, x, x, x};
#endif
  });
}
INLINE Integers all(int32_t x) { return Integers{} + x; }

template <typename To, typename From>
INLINE To bits_as(From x) {
  return by_part<To>([&](int p) INLINE_LAMBDA { return reinterpret_cast<typename To::Part>(x.part[p]); });
}
INLINE Floats to_floats(Integers x) {
  return by_part<Floats>([&](int p) INLINE_LAMBDA { return __builtin_convertvector(x.part[p], Floats::Part); });
}
INLINE Floats load_first(const float* p, int n) {
  Floats lanes{};
  std::memcpy(&lanes, p, size_t(n) * sizeof(float));
  return lanes;
}
INLINE Floats load_first(const int8_t* p, int n) {
  int32_t lanes[LANES] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  Integers integers;
  std::memcpy(&integers, lanes, sizeof integers);
  return to_floats(integers);
}

INLINE Floats maximum(Floats a, Floats b) {
  return by_part<Floats>([&](int p) INLINE_LAMBDA { return a.part[p] > b.part[p] ? a.part[p] : b.part[p]; });
}
INLINE Floats minimum(Floats a, Floats b) {
  return by_part<Floats>([&](int p) INLINE_LAMBDA { return a.part[p] < b.part[p] ? a.part[p] : b.part[p]; });
}
INLINE Floats square_root(Floats x) {
  float lanes[LANES];
  std::memcpy(lanes, &x, sizeof lanes);
  for (float& lane : lanes) lane = __builtin_sqrtf(lane);
  std::memcpy(&x, lanes, sizeof lanes);
  return x;
}
INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return a * b + c; }  // fused where the target can
#endif

INLINE Floats bits_to_floats(Integers x) { return bits_as<Floats>(x); }
INLINE Integers bits_to_integers(Floats x) { return bits_as<Integers>(x); }

// The first `n` lanes of x; zero in the others.
INLINE Floats keep_first(Floats x, int n) {
  alignas(64) static constexpr int32_t LANE[LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return bits_to_floats(bits_to_integers(x) & (load(LANE) < all(int32_t(n))));
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
  return bits_as<Floats>(bits_as<Words>(y) + (bits_as<Words>(shifted) << 23));
}

// Lane i of the result is lane `first + i` of the 32 lanes of low and high; first in 0 to 15.
INLINE Floats window(const float* low, const float* high, int first) {
#if defined(__AVX512F__)
  const __m512i index = _mm512_add_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                                         _mm512_set1_epi32(first));
  return (Floats)_mm512_permutex2var_ps(_mm512_load_ps(low), index, _mm512_load_ps(high));
#else
  alignas(64) float lanes[LANES];
  std::memcpy(lanes, low + first, sizeof(float) * (LANES - first));
  std::memcpy(lanes + LANES - first, high, sizeof(float) * first);
  return load(lanes);
#endif
}

// Lane i is x[index[i]], bit for bit.
INLINE Floats gather_lanes(const float* x, Integers index) {
#if defined(__AVX512F__)
  return (Floats)_mm512_i32gather_ps((__m512i)index, x, sizeof(float));
#else
  alignas(64) int32_t at[LANES], lanes[LANES];
  store(at, index);
  for (int i = 0; i < LANES; ++i) std::memcpy(lanes + i, x + at[i], sizeof(int32_t));
  return bits_to_floats(load(lanes));
#endif
}

// The first n lanes of x: `near` of them to lanes `shift` on of low, the others to the lanes from 0 on, `next` floats away.
INLINE void write_lanes(Floats x, int shift, int near, int n, float* low, size_t next) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(low + shift, __mmask16((1u << near) - 1), (__m512)x);
  if (n > near) _mm512_mask_storeu_ps(low + next - near, __mmask16((1u << n) - (1u << near)), (__m512)x);
#else
  for (int i = 0; i < near; ++i) low[shift + i] = x[i];
  for (int i = near; i < n; ++i) low[next + i - near] = x[i];
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
