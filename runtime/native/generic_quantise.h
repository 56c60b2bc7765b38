// SPDX-License-Identifier: Apache-2.0
// Activations from float32 (or the hidden units' form) to eight bits: asymmetric, with one scale and one zero point per token.
#pragma once

#include "hidden.h"
#include "kernels.h"
#include "vector.h"

namespace understudy {
namespace {

// Sums and extremes are taken in so many chains, for each step of one waits for the step before.
constexpr int CHAINS = 4;

// Calls f(feature, chain) for every feature, in order.
template <typename F>
INLINE void for_each(int width, F f) {
  int feature = 0;
  for (; feature + CHAINS <= width; feature += CHAINS)
#pragma GCC unroll 4
    for (int chain = 0; chain < CHAINS; ++chain) f(feature + chain, chain);
#pragma GCC unroll 4
  for (int chain = 0; chain < CHAINS - 1; ++chain)
    if (feature + chain < width) f(feature + chain, chain);
}

// The least and the largest of the values taken, and of 0.
struct Extremes {
  Floats low[CHAINS] = {}, high[CHAINS] = {};

  INLINE void take(Floats value, int chain) {
    low[chain] = minimum(low[chain], value);
    high[chain] = maximum(high[chain], value);
  }
  INLINE Floats lowest() const { return minimum(minimum(low[0], low[1]), minimum(low[2], low[3])); }
  INLINE Floats highest() const { return maximum(maximum(high[0], high[1]), maximum(high[2], high[3])); }
};

// Rows of one block in eight bits, between low and high of each token; zero is always one of the 256 values.
template <bool smooth>
INLINE void quantise_block(const float* x, int width, const float* smoothing, Floats low, Floats high, int block,
                           const Quantised& q) {
  low = minimum(low, Floats{});
  const Floats size = maximum(maximum(high, Floats{}) - low, all(1e-30f));
  const Floats per_unit = all(254.0f) / size;  // one step of 255 is left for rounding at both ends
  const Floats zero = all(ROUNDING) - low * per_unit;  // rounds to a whole number: the zero point, exactly
  const Floats scale = size * (1.0f / 254.0f);
  store(q.scale + block * BLOCK, scale);
  store(q.zero + block * BLOCK, (all(ROUNDING) - zero) * scale);
  const auto byte = [&](int feature) {
    const Floats value = smooth ? load(x + feature * BLOCK) * smoothing[feature] : load(x + feature * BLOCK);
    return bits_as<Words>(multiply_add(value, per_unit, zero));  // the byte, and ROUNDING_BITS
  };
  constexpr uint32_t FOUR_ROUNDING_BITS = ROUNDING_BITS * 0x01010101u;
  auto* row = reinterpret_cast<int32_t*>(q.values + size_t(block) * q.n_groups * BLOCK * GROUP);
  int feature = 0;
  for (; feature + GROUP <= width; feature += GROUP, row += BLOCK) {
    const Words low_half = byte(feature) + (byte(feature + 1) << 8);
    const Words packed = low_half + (byte(feature + 2) << 16) + (byte(feature + 3) << 24);
    store(row, bits_as<Integers>(packed - FOUR_ROUNDING_BITS));
  }
  if (feature < width) {  // a width that is no multiple of 4: the weights beyond it are zero
    Words packed{};
    for (int i = 0; feature + i < width; ++i) packed += (byte(feature + i) - ROUNDING_BITS) << (8 * i);
    store(row, bits_as<Integers>(packed));
  }
}

template <bool smooth>
INLINE void quantise_blocks(const float* x, int width, const float* smoothing, int first_block, int last_block, const Quantised& q) {
  for (int block = first_block; block < last_block; ++block) {
    const float* rows = x + size_t(block) * width * BLOCK;
    Extremes extremes;
    for_each(width, [&](int feature, int chain) INLINE_LAMBDA {
      extremes.take(smooth ? load(rows + feature * BLOCK) * smoothing[feature] : load(rows + feature * BLOCK), chain);
    });
    quantise_block<smooth>(rows, width, smoothing, extremes.lowest(), extremes.highest(), block, q);
  }
}

void quantise(const float* x, int width, const float* smoothing, int first_block, int last_block, const Quantised& q) {
  if (smoothing)
    quantise_blocks<true>(x, width, smoothing, first_block, last_block, q);
  else
    quantise_blocks<false>(x, width, nullptr, first_block, last_block, q);
}

#if !defined(__AVX512FP16__)
INLINE void quantise_hidden_block(const HiddenNumber* hidden, int width, Floats low, Floats high, int block, const Quantised& q) {
  quantise_block<false>(hidden, width, nullptr, low, high, block, q);
}
#else
// As quantise_block, but that adding 1280 rounds a half to a whole number, held in its lower byte. Units that are all below
// 0.004, which only ReLU can give, get fewer than the 256 values: more per unit are no half.
INLINE void quantise_hidden_block(const HiddenNumber* hidden, int width, Floats low, Floats high, int block, const Quantised& q) {
  constexpr float ROUNDING_HALVES = 1280.0f, MAX_PER_UNIT = 65504.0f;
  const __m256i halves = to_halves(minimum(all(254.0f) / (high - low), all(MAX_PER_UNIT)));
  const Floats per_unit = (Floats)_mm512_cvtxph_ps((__m256h)halves);
  const Floats scale = all(1.0f) / per_unit;
  const Floats zero = (all(ROUNDING) - low * per_unit) - all(ROUNDING);
  store(q.scale + block * BLOCK, scale);
  store(q.zero + block * BLOCK, (Floats{} - zero) * scale);
  const __m256i shift = to_halves(zero + ROUNDING_HALVES);
  const Hidden factors = join(halves, halves), shifts = join(shift, shift);
  const __m512i lower_bytes = _mm512_set1_epi16(0xff);
  alignas(64) static constexpr uint16_t BY_TOKEN[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i by_token = _mm512_load_si512(BY_TOKEN);
  const auto* units = reinterpret_cast<const Hidden*>(hidden);
  auto* row = q.values + size_t(block) * q.n_groups * BLOCK * GROUP;
  for (int feature = 0; feature < width; feature += GROUP, units += 2, row += BLOCK * GROUP) {
    const auto even = (__m512i)multiply_add(units[0], factors, shifts), odd = (__m512i)multiply_add(units[1], factors, shifts);
    const __m512i pairs = _mm512_ternarylogic_epi32(lower_bytes, even, _mm512_slli_epi16(odd, 8), 0xCA);  // the first chooses
    _mm512_store_si512(row, _mm512_permutexvar_epi16(by_token, pairs));
  }
}
#endif

void quantise_hidden(const std::byte* hidden, int n_units, int activation, const float* largest, int first_block, int last_block,
                     const Quantised& q) {
  const int width = panels(n_units) * PANEL;
  const Floats low = all(Activation(activation) == Activation::RELU ? 0.0f : MIN_GELU);
  for (int block = first_block; block < last_block; ++block)
    quantise_hidden_block(reinterpret_cast<const HiddenNumber*>(hidden) + size_t(block) * width * BLOCK, width, low,
                          load(largest + block * BLOCK), block, q);
}

}  // namespace
}  // namespace understudy
