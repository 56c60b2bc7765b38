// SPDX-License-Identifier: Apache-2.0
// Hidden units of the feed-forward: written once with their activation, read once to be taken in eight bits.
//
// They live in whole panels, [block][panel][16 units][16 tokens] of float32; or, where the processor computes in
// sixteen bits, of half that: of four units the first and third share a register, and the second and fourth. Eleven
// bits are enough for what eight are made of, and a register holds twice as many.
#pragma once

#include "matrix.h"
#include "vector.h"

namespace understudy {
namespace {

enum class Activation : int { NONE, GELU, GELU_TANH, RELU };

constexpr float MIN_GELU = -0.1705f;  // of both

#if !defined(__AVX512FP16__)
typedef Floats Hidden;
typedef float HiddenNumber;

// Coefficients c of (gelu(a) - a) / a for a in 0 to 3.9 (3.8): a times c[0] + c[1] a + ... errs by at most 1.6e-4, the
// minimax of its degree, if it stays as it is beyond. That is far less than the eight bits that the result is rounded to.
constexpr float GELU_CENTRE = 0.0f, GELU_END = 3.9f, GELU_TANH_END = 3.8f;
constexpr float GELU[] = {-4.993295074e-01f, 3.851954043e-01f,  5.218329653e-02f, -1.472749710e-01f,
                          6.046702713e-02f,  -1.049047057e-02f, 6.865538890e-04f};
constexpr float GELU_TANH[] = {-4.986350238e-01f, 3.826177418e-01f,  5.525607243e-02f, -1.493256986e-01f,
                               6.132695079e-02f,  -1.068706904e-02f, 7.044271333e-04f};

INLINE Hidden all_hidden(float x) { return all(x); }
INLINE Hidden magnitude_of(Hidden x) { return bits_to_floats(bits_to_integers(x) & 0x7fffffff); }
INLINE Floats largest_of(Hidden x) { return x; }

INLINE void to_hidden(const Floats (&units)[4], Hidden (&to)[4]) {
  for (int i = 0; i < 4; ++i) to[i] = units[i];
}
#else
typedef _Float16 Hidden __attribute__((vector_size(64), may_alias));
typedef _Float16 HiddenNumber;

// The same of a - 2, as powers of a itself lose too much in sixteen bits, each coefficient fitted after those above it were
// rounded. The error is at most 4e-4 below zero, and above that a half's own.
constexpr float GELU_CENTRE = 2.0f, GELU_END = 3.69921875f, GELU_TANH_END = 3.80078125f;
constexpr float GELU[] = {-0.022705078125f,  0.0540771484375f,     -0.054534912109375f,   0.02685546875f,
                          -0.0034961700439f, -0.0023059844970703f, 0.00075674057006836f};
constexpr float GELU_TANH[] = {-0.022674560546875f, 0.054473876953125f,  -0.05474853515625f,  0.026519775390625f,
                               -0.0032787322998f,   -0.00223350524902f, 0.00070428848266602f};

INLINE Hidden maximum(Hidden a, Hidden b) { return (Hidden)_mm512_max_ph((__m512h)a, (__m512h)b); }
INLINE Hidden minimum(Hidden a, Hidden b) { return (Hidden)_mm512_min_ph((__m512h)a, (__m512h)b); }
INLINE Hidden multiply_add(Hidden a, Hidden b, Hidden c) { return (Hidden)_mm512_fmadd_ph((__m512h)a, (__m512h)b, (__m512h)c); }
INLINE Hidden all_hidden(float x) { return (Hidden)_mm512_set1_ph(_Float16(x)); }
INLINE Hidden magnitude_of(Hidden x) { return (Hidden)_mm512_abs_ph((__m512h)x); }

// Rounded towards zero: what is too large for a half is the largest one, not infinite.
INLINE __m256i to_halves(Floats x) { return (__m256i)_mm512_cvtx_roundps_ph((__m512)x, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC); }
INLINE Hidden join(__m256i first, __m256i second) { return (Hidden)_mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1); }

INLINE Floats largest_of(Hidden x) {  // of the units of each token
  const __m256h first = _mm256_castsi256_ph(_mm512_castsi512_si256((__m512i)x));
  const __m256h second = _mm256_castsi256_ph(_mm512_extracti64x4_epi64((__m512i)x, 1));
  return (Floats)_mm512_cvtxph_ps(_mm256_max_ph(first, second));
}

INLINE void to_hidden(const Floats (&units)[4], Hidden (&to)[2]) {
  for (int i = 0; i < 2; ++i) to[i] = join(to_halves(units[i]), to_halves(units[i + 2]));
}
#endif

constexpr int HIDDEN_ROWS = GROUP * BLOCK * int(sizeof(HiddenNumber)) / 64;  // registers of four units

// Several at a time, step by step together: each has long to wait for its last step.
template <Activation kind, int n>
INLINE void activate(Hidden (&x)[n]) {
  Hidden positive[n];
  for (int i = 0; i < n; ++i) positive[i] = maximum(x[i], Hidden{});
  if constexpr (kind == Activation::RELU) {
    for (int i = 0; i < n; ++i) x[i] = positive[i];
    return;
  }
  constexpr bool by_tanh = kind == Activation::GELU_TANH;
  const float* coefficients = by_tanh ? GELU_TANH : GELU;
  Hidden magnitude[n], power[n], y[n];
  for (int i = 0; i < n; ++i) {
    magnitude[i] = minimum(magnitude_of(x[i]), all_hidden(by_tanh ? GELU_TANH_END : GELU_END));
    power[i] = GELU_CENTRE > 0.0f ? magnitude[i] - all_hidden(GELU_CENTRE) : magnitude[i];
    y[i] = all_hidden(coefficients[6]);
  }
#pragma GCC unroll 6
  for (int c = 5; c >= 0; --c)
    for (int i = 0; i < n; ++i) y[i] = multiply_add(y[i], power[i], all_hidden(coefficients[c]));
  for (int i = 0; i < n; ++i) x[i] = multiply_add(y[i], magnitude[i], positive[i]);
}

}  // namespace
}  // namespace understudy
