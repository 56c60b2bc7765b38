// SPDX-License-Identifier: Apache-2.0
// Products of eight-bit weights and activations, and what becomes of their 32-bit sums: float32 outputs, or hidden units with
// their activation. `VectorProduct` takes `dot`, OUTPUTS and BLOCKS from the file that includes kernels_generic.h.
#pragma once

#include "hidden.h"
#include "kernels.h"
#include "vector.h"

namespace understudy {
namespace {

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

}  // namespace
}  // namespace understudy
