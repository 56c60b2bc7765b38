// SPDX-License-Identifier: Apache-2.0
// Switch feed-forward: the router, and tokens gathered by expert.
#pragma once

#include "kernels.h"
#include "vector.h"

namespace understudy {
namespace {

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

}  // namespace
}  // namespace understudy
