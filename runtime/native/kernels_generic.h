// SPDX-License-Identifier: Apache-2.0
// The kernels as every instruction set has them. The including file is compiled for one instruction set and has
// defined `dot`, the 8-bit product of four features, and OUTPUTS and BLOCKS, how many sums fit its registers.
#pragma once

#include "hidden.h"
#include "kernels.h"
#include "vector.h"

namespace understudy {
namespace {

// ---- products ----

struct Output {
  const Matrix& matrix;
  const Quantised& x;
  float* y;              // or, with an activation:
  HiddenNumber* hidden;
  float* largest;        // of each token's hidden units so far
};

// Scales and shifts n rows from `output` on of the sums of one block, [row][16 tokens].
template <int n>
INLINE void scale_rows(const Matrix& m, int output, const int32_t* sums, Floats token_scale, Floats token_zero, Floats (&values)[n]) {
  const float *scale = m.scale + output, *offset = m.offset + output, *bias = m.bias + output;
#pragma GCC unroll 4
  for (int i = 0; i < n; ++i) {
    const Floats shift = multiply_add(token_zero, all(offset[i]), all(bias[i]));
    values[i] = multiply_add(to_floats(load(sums + i * BLOCK)), token_scale * scale[i], shift);
  }
}

template <int n>
INLINE void write_rows(const Matrix& m, int output, const int32_t* sums, Floats token_scale, Floats token_zero, float* y) {
  Floats values[n];
  scale_rows(m, output, sums, token_scale, token_zero, values);
#pragma GCC unroll 4
  for (int i = 0; i < n; ++i) store(y + i * BLOCK, values[i]);
}

// What becomes of the sums of one panel and one block.
template <Activation kind>
INLINE void finish_panel(const Output& out, int panel, int block, const int32_t* sums) {
  const int n_outputs = out.matrix.n_outputs, first = panel * PANEL;
  const Floats token_scale = load(out.x.scale + block * BLOCK), token_zero = load(out.x.zero + block * BLOCK);
  if constexpr (kind == Activation::NONE) {
    const int n = n_outputs - first;
    float* y = out.y + (size_t(block) * n_outputs + first) * BLOCK;
    if (n >= PANEL) {
#pragma GCC unroll 4
      for (int row = 0; row < PANEL; row += GROUP)
        write_rows<GROUP>(out.matrix, first + row, sums + row * BLOCK, token_scale, token_zero, y + row * BLOCK);
    } else {
      for (int row = 0; row < n; ++row)
        write_rows<1>(out.matrix, first + row, sums + row * BLOCK, token_scale, token_zero, y + row * BLOCK);
    }
  } else {
    auto* to = reinterpret_cast<Hidden*>(out.hidden + (size_t(block) * panels(n_outputs) + panel) * PANEL * BLOCK);
    Hidden largest{};
#pragma GCC unroll 4
    for (int row = 0; row < PANEL; row += GROUP) {
      Floats values[GROUP];
      Hidden units[HIDDEN_ROWS];
      scale_rows(out.matrix, first + row, sums + row * BLOCK, token_scale, token_zero, values);
      to_hidden(values, units);
      activate<kind>(units);
#pragma GCC unroll 4
      for (int i = 0; i < HIDDEN_ROWS; ++i) *to++ = units[i], largest = maximum(largest, units[i]);
    }
    store(out.largest + block * BLOCK, maximum(load(out.largest + block * BLOCK), largest_of(largest)));
  }
}

// The kernels' `product` and `activate` of some F<kind>::run(output, n_blocks, first_panel, last_panel).
template <template <Activation> class F>
void product_by(const Matrix& matrix, const Quantised& x, int n_blocks, int first_panel, int last_panel, float* y) {
  F<Activation::NONE>::run({matrix, x, y, nullptr, nullptr}, n_blocks, first_panel, last_panel);
}

template <template <Activation> class F>
void activate_by(const Matrix& matrix, const Quantised& x, int n_blocks, int first_panel, int last_panel, int activation,
                 std::byte* hidden, float* largest) {
  const Output out{matrix, x, nullptr, reinterpret_cast<HiddenNumber*>(hidden), largest};
  switch (Activation(activation)) {
    case Activation::NONE: return;
    case Activation::GELU: return F<Activation::GELU>::run(out, n_blocks, first_panel, last_panel);
    case Activation::GELU_TANH: return F<Activation::GELU_TANH>::run(out, n_blocks, first_panel, last_panel);
    case Activation::RELU: return F<Activation::RELU>::run(out, n_blocks, first_panel, last_panel);
  }
}

// One panel times n_blocks <= BLOCKS blocks, a few outputs at a time; sums is [block][16 outputs][16 tokens].
template <int n_blocks, bool sparse>
INLINE void panel_sums(const Matrix& m, int panel, const uint8_t* x, size_t block_bytes, int32_t* sums) {
  const int first = m.first_tile[panel], last = m.first_tile[panel + 1];
  for (int half = 0; half < PANEL; half += OUTPUTS) {
    Integers total[OUTPUTS][n_blocks] = {};
    for (int tile = first; tile < last; ++tile) {
      const int8_t* weights = m.tiles + size_t(tile) * TILE_BYTES + half * TILE_GROUPS * GROUP;
      const uint16_t* groups = sparse ? m.groups + size_t(tile) * TILE_GROUPS : nullptr;
      const size_t start = size_t(tile - first) * TILE_GROUPS;
      for (int j = 0; j < TILE_GROUPS; ++j) {
        const uint8_t* row = x + (sparse ? size_t(groups[j]) : start + j) * BLOCK * GROUP;
        Integers features[n_blocks];
#pragma GCC unroll 4
        for (int b = 0; b < n_blocks; ++b) features[b] = load(reinterpret_cast<const int32_t*>(row + b * block_bytes));
#pragma GCC unroll 16
        for (int o = 0; o < OUTPUTS; ++o) {
          int32_t weight;
          std::memcpy(&weight, weights + (o * TILE_GROUPS + j) * GROUP, sizeof weight);
#pragma GCC unroll 4
          for (int b = 0; b < n_blocks; ++b) total[o][b] = dot(total[o][b], features[b], weight);
        }
      }
    }
    for (int o = 0; o < OUTPUTS; ++o)
      for (int b = 0; b < n_blocks; ++b) store(sums + (b * PANEL + half + o) * BLOCK, total[o][b]);
  }
}

template <Activation kind>
struct VectorProduct {
  template <int n_blocks>
  static INLINE void some_blocks(const Output& out, int panel, int block) {
    alignas(64) int32_t sums[n_blocks * PANEL * BLOCK];
    const size_t block_bytes = size_t(out.x.n_groups) * BLOCK * GROUP;
    const uint8_t* x = out.x.values + block * block_bytes;
    if (out.matrix.groups)
      panel_sums<n_blocks, true>(out.matrix, panel, x, block_bytes, sums);
    else
      panel_sums<n_blocks, false>(out.matrix, panel, x, block_bytes, sums);
    for (int b = 0; b < n_blocks; ++b) finish_panel<kind>(out, panel, block + b, sums + b * PANEL * BLOCK);
  }

  static void run(const Output& out, int n_blocks, int first_panel, int last_panel) {
    for (int panel = first_panel; panel < last_panel; ++panel) {
      int block = 0;
      for (; block + BLOCKS <= n_blocks; block += BLOCKS) some_blocks<BLOCKS>(out, panel, block);
      if constexpr (BLOCKS > 2)
        if (block + 2 <= n_blocks) some_blocks<2>(out, panel, block), block += 2;
      for (; block < n_blocks; ++block) some_blocks<1>(out, panel, block);
    }
  }
};

// ---- eight bits ----

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
  constexpr float ROUNDING_HALVES = 1280.0f, MOST_PER_UNIT = 65504.0f;
  const __m256i halves = to_halves(minimum(all(254.0f) / (high - low), all(MOST_PER_UNIT)));
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
  const Floats low = all(Activation(activation) == Activation::RELU ? 0.0f : LEAST_GELU);
  for (int block = first_block; block < last_block; ++block)
    quantise_hidden_block(reinterpret_cast<const HiddenNumber*>(hidden) + size_t(block) * width * BLOCK, width, low,
                          load(largest + block * BLOCK), block, q);
}

template <bool smooth>
INLINE void normalise_blocks(float* x, const float* addend, int width, const NormWeights& norm, int first_block,
                             int last_block, const Quantised& q) {
  for (int block = first_block; block < last_block; ++block) {
    float* rows = x + size_t(block) * width * BLOCK;
    const float* more = addend ? addend + size_t(block) * width * BLOCK : nullptr;
    Floats total[CHAINS] = {}, squares[CHAINS] = {};
    for_each(width, [&](int feature, int chain) INLINE_LAMBDA {
      Floats value = load(rows + feature * BLOCK);
      if (more) {
        value += load(more + feature * BLOCK);
        store(rows + feature * BLOCK, value);
      }
      total[chain] += value;
      squares[chain] = multiply_add(value, value, squares[chain]);
    });
    const Floats share = all(1.0f / float(width));
    const Floats mean = ((total[0] + total[1]) + (total[2] + total[3])) * share;
    const Floats square = ((squares[0] + squares[1]) + (squares[2] + squares[3])) * share;
    const Floats variance = maximum(square - mean * mean, Floats{});
    const Floats inverse = all(1.0f) / square_root(variance + norm.epsilon);
    const Floats shift = (Floats{} - mean) * inverse;
    Extremes extremes;
    for_each(width, [&](int feature, int chain) INLINE_LAMBDA {
      const Floats standard = multiply_add(load(rows + feature * BLOCK), inverse, shift);
      const Floats value = multiply_add(standard, all(norm.weight[feature]), all(norm.bias[feature]));
      store(rows + feature * BLOCK, value);
      extremes.take(smooth ? value * norm.smoothing[feature] : value, chain);
    });
    quantise_block<smooth>(rows, width, norm.smoothing, extremes.lowest(), extremes.highest(), block, q);
  }
}

void normalise(float* x, const float* addend, int width, const NormWeights& norm, int first_block, int last_block,
               const Quantised& q) {
  if (norm.smoothing)
    normalise_blocks<true>(x, addend, width, norm, first_block, last_block, q);
  else
    normalise_blocks<false>(x, addend, width, norm, first_block, last_block, q);
}

// ---- tables ----

void look_up(const int8_t* table, const float* scales, const float* positions, int width, const int32_t* token_ids,
             const int32_t* token_positions, int n_tokens, int first_block, int last_block, float* x) {
  for (int block = first_block; block < last_block; ++block) {
    float* rows = x + size_t(block) * width * BLOCK;
    const int n = n_tokens - block * BLOCK < BLOCK ? n_tokens - block * BLOCK : BLOCK;
    const int8_t* token_rows[BLOCK];
    const float* position_rows[BLOCK];
    int columns[BLOCK];
    for (int i = 0; i < BLOCK; ++i) {  // the columns after the last token repeat it
      const int token = columns[i] = block * BLOCK + (i < n ? i : n - 1);
      token_rows[i] = table + size_t(token_ids[token]) * width;
      position_rows[i] = positions ? positions + size_t(token_positions[token]) * width : nullptr;
    }
    for (int first = 0; first < width; first += LANES) {
      const int n_features = width - first < LANES ? width - first : LANES;
      Floats values[LANES];
      for (int i = 0; i < BLOCK; ++i) {
        const Floats position = positions ? load_first(position_rows[i] + first, n_features) : Floats{};
        values[i] = multiply_add(load_first(token_rows[i] + first, n_features), all(scales[token_ids[columns[i]]]), position);
      }
      transpose(values);
      for (int f = 0; f < n_features; ++f) store(rows + (first + f) * BLOCK, values[f]);
    }
  }
}

void average_rows(const int8_t* table, const float* scales, int width, const int32_t* token_ids, int n_tokens,
                  float* mean) {
  for (int feature = 0; feature < width; ++feature) mean[feature] = 0.0f;
  for (int token = 0; token < n_tokens; ++token) {
    const int8_t* row = table + size_t(token_ids[token]) * width;
    const float scale = scales[token_ids[token]];
    for (int feature = 0; feature < width; ++feature) mean[feature] += scale * float(row[feature]);
  }
  const float share = n_tokens > 0 ? 1.0f / float(n_tokens) : 0.0f;
  for (int feature = 0; feature < width; ++feature) mean[feature] *= share;
}

// ---- experts and pooling ----

void route(const float* x, int width, const float* router, int n_experts, int first_block, int last_block,
           int32_t* expert, float* probability) {
  for (int block = first_block; block < last_block; ++block) {
    const float* rows = x + size_t(block) * width * BLOCK;
    Floats largest = all(-__builtin_inff()), total{};
    Integers best{};
    for (int first = 0; first < n_experts; first += OUTPUTS) {  // several at a time: each sum is a chain
      const int n = n_experts - first < OUTPUTS ? n_experts - first : OUTPUTS;
      const float* weights[OUTPUTS];
      for (int i = 0; i < OUTPUTS; ++i) weights[i] = router + size_t(first + (i < n ? i : 0)) * width;
      Floats logits[OUTPUTS] = {};
      for (int feature = 0; feature < width; ++feature) {
        const Floats x_row = load(rows + feature * BLOCK);
#pragma GCC unroll 8
        for (int i = 0; i < OUTPUTS; ++i) logits[i] = multiply_add(x_row, all(weights[i][feature]), logits[i]);
      }
      for (int i = 0; i < n; ++i) {
        const Integers better = logits[i] > largest;
        const Floats new_largest = maximum(largest, logits[i]);
        total = total * exponential(largest - new_largest) + exponential(logits[i] - new_largest);
        largest = new_largest;
        best = (best & ~better) | (all(int32_t(first + i)) & better);
      }
    }
    store(expert + block * BLOCK, best);
    store(probability + block * BLOCK, all(1.0f) / total);
  }
}

void gather(const float* from, int n_rows, const int32_t* columns, const float* factor, int first_block, int last_block,
            float* to) {
  for (int block = first_block; block < last_block; ++block) {
    const Integers column = load(columns + block * BLOCK);
    const Integers index = column / BLOCK * (n_rows * BLOCK) + column % BLOCK;
    float* rows = to + size_t(block) * n_rows * BLOCK;
    for (int row = 0; row < n_rows; ++row) {
      const Floats lanes = gather_lanes(from + row * BLOCK, index);
      store(rows + row * BLOCK, factor ? lanes * load(factor + block * BLOCK) : lanes);
    }
  }
}

INLINE Floats window_of(const float* x, int x_rows, int row, Span span, int b) {
  const int column = span.first + b * BLOCK, left = span.length - b * BLOCK, shift = span.first % BLOCK;
  const float* low = x + (size_t(column / BLOCK) * x_rows + row) * BLOCK;
  const float* high = shift + left > BLOCK ? low + size_t(x_rows) * BLOCK : low;  // never beyond the last block
  return keep_first(shift ? window(low, high, shift) : load(low), left);
}

void average_columns(const float* x, int width, Span span, float* mean) {
  const float share = span.length > 0 ? 1.0f / float(span.length) : 0.0f;
  for (int first = 0; first < width; first += LANES) {
    const int n_features = width - first < LANES ? width - first : LANES;
    Floats totals[LANES] = {};
    for (int f = 0; f < n_features; ++f)
      for (int b = 0; b < blocks(span.length); ++b) totals[f] += window_of(x, width, first + f, span, b);
    const Floats means = sum_each(totals) * share;
    std::memcpy(mean + first, &means, size_t(n_features) * sizeof(float));
  }
}

// ---- attention ----

// A sentence's rows of x from lane 0 on, padded with zeros to whole blocks, times a factor: [block][rows][16].
INLINE void copy_columns(const float* x, int x_rows, int first_row, int rows, Span span, float factor, float* y) {
  for (int b = 0; b < blocks(span.length); ++b)
    for (int row = 0; row < rows; ++row)
      store(y + (size_t(b) * rows + row) * BLOCK, window_of(x, x_rows, first_row + row, span, b) * factor);
}

// Write a block of columns, times a factor, that begins at a sentence's column into a batch's.
INLINE void write_columns(const float* y, Floats factor, int rows, Span span, int b, float* x, int x_rows, int first_row) {
  const int column = span.first + b * BLOCK, left = span.length - b * BLOCK, n = left < BLOCK ? left : BLOCK;
  const int shift = column % BLOCK, near = n < BLOCK - shift ? n : BLOCK - shift;
  float* low = x + (size_t(column / BLOCK) * x_rows + first_row) * BLOCK;
  if (near == BLOCK) {
    for (int row = 0; row < rows; ++row) store(low + row * BLOCK, load(y + row * BLOCK) * factor);
    return;
  }
  for (int row = 0; row < rows; ++row) write_lanes(load(y + row * BLOCK) * factor, shift, near, n, low + row * BLOCK, size_t(x_rows) * BLOCK);
}

// Softmax over the first n_keys rows of n_blocks columns' scores, unnormalised; rows up to padded_keys become zero.
template <int n_blocks>
INLINE void soften(float* scores, int n_keys, int padded_keys, Floats* inverse_total) {
  for (int b = 0; b < n_blocks; ++b) {
    Floats largest = load(scores + b * BLOCK);
    for (int key = 1; key < n_keys; ++key) largest = maximum(largest, load(scores + (key * n_blocks + b) * BLOCK));
    Floats total{};
    for (int key = 0; key < n_keys; ++key) {
      float* score = scores + (key * n_blocks + b) * BLOCK;
      const Floats value = exponential(load(score) - largest);
      total += value;
      store(score, value);
    }
    for (int key = n_keys; key < padded_keys; ++key) store(scores + (key * n_blocks + b) * BLOCK, Floats{});
    inverse_total[b] = all(1.0f) / total;
  }
}

// Sums over `depth` of a[depth][row lanes] x b[depth][column lanes]: rows one lane of a each, 8 rows at a time.
// a: `a_stride` floats from one depth to the next; b: n_blocks blocks `b_block` floats apart.
template <int n_rows, int n_blocks>
INLINE void outer_sums(const float* a, size_t a_stride, size_t a_lane, const float* b, size_t b_stride, size_t b_block, int depth,
                       Floats (*total)[n_blocks]) {
  for (int i = 0; i < n_rows; ++i)
    for (int c = 0; c < n_blocks; ++c) total[i][c] = Floats{};
  for (int k = 0; k < depth; ++k) {
    Floats column[n_blocks];
    for (int c = 0; c < n_blocks; ++c) column[c] = load(b + k * b_stride + c * b_block);
#pragma GCC unroll 8
    for (int i = 0; i < n_rows; ++i)
#pragma GCC unroll 2
      for (int c = 0; c < n_blocks; ++c)
        total[i][c] = multiply_add(all(a[k * a_stride + i * a_lane]), column[c], total[i][c]);
  }
}

// Context of n_blocks blocks of queries from block `q` on. queries, keys and values are [blocks][head_width][16].
template <int n_blocks>
INLINE void attend_queries(const float* queries, const float* keys, const float* values, Span span, int q,
                           int head_width, float* scores, float* context, int context_rows, int first_row) {
  constexpr int ROWS = 8;
  const int n_keys = span.length, padded_keys = blocks(n_keys) * BLOCK;
  const size_t block_floats = size_t(head_width) * BLOCK;
  for (int key = 0; key < padded_keys; key += ROWS) {
    Floats total[ROWS][n_blocks];
    outer_sums<ROWS, n_blocks>(keys + (key / BLOCK) * block_floats + key % BLOCK, BLOCK, 1, queries + q * block_floats,
                               BLOCK, block_floats, head_width, total);
    for (int i = 0; i < ROWS; ++i)
      for (int c = 0; c < n_blocks; ++c) store(scores + ((key + i) * n_blocks + c) * BLOCK, total[i][c]);
  }
  Floats inverse_total[n_blocks];
  soften<n_blocks>(scores, n_keys, padded_keys, inverse_total);
  alignas(64) float result[n_blocks][ROWS * BLOCK];
  for (int row = 0; row < head_width; row += ROWS) {
    const int rows = head_width - row < ROWS ? head_width - row : ROWS;
    Floats whole[ROWS][n_blocks] = {};
    for (int kb = 0; kb < padded_keys / BLOCK; ++kb) {
      const int n = n_keys - kb * BLOCK < BLOCK ? n_keys - kb * BLOCK : BLOCK;
      const float* value_rows = values + kb * block_floats + row * BLOCK;
      Floats total[ROWS][n_blocks];
      if (rows == ROWS)
        outer_sums<ROWS, n_blocks>(value_rows, 1, BLOCK, scores + kb * BLOCK * n_blocks * BLOCK, n_blocks * BLOCK, BLOCK, n,
                                   total);
      else
        for (int i = 0; i < rows; ++i)
          outer_sums<1, n_blocks>(value_rows + i * BLOCK, 1, BLOCK, scores + kb * BLOCK * n_blocks * BLOCK,
                                  n_blocks * BLOCK, BLOCK, n, total + i);
      for (int i = 0; i < rows; ++i)
        for (int c = 0; c < n_blocks; ++c) whole[i][c] += total[i][c];
    }
    for (int c = 0; c < n_blocks; ++c) {
      for (int i = 0; i < rows; ++i) store(result[c] + i * BLOCK, whole[i][c]);
      write_columns(result[c], inverse_total[c], rows, span, q + c, context, context_rows, first_row + row);
    }
  }
}

[[maybe_unused]] void vector_attend(const float* qkv, Span span, int n_heads, int head_width, int first_head, int last_head,
                   float* context, float* scratch) {
  const int width = n_heads * head_width, n_blocks = blocks(span.length);
  const size_t part = size_t(n_blocks) * head_width * BLOCK;
  float *queries = scratch, *keys = queries + part, *values = keys + part, *scores = values + part;
  const float factor = 1.0f / __builtin_sqrtf(float(head_width));
  for (int head = first_head; head < last_head; ++head) {
    const int row = head * head_width;
    copy_columns(qkv, 3 * width, row, head_width, span, factor, queries);
    copy_columns(qkv, 3 * width, width + row, head_width, span, 1.0f, keys);
    copy_columns(qkv, 3 * width, 2 * width + row, head_width, span, 1.0f, values);
    int q = 0;
    for (; q + 2 <= n_blocks; q += 2)
      attend_queries<2>(queries, keys, values, span, q, head_width, scores, context, width, row);
    if (q < n_blocks) attend_queries<1>(queries, keys, values, span, q, head_width, scores, context, width, row);
  }
}

}  // namespace
}  // namespace understudy
