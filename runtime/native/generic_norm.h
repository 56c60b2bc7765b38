// SPDX-License-Identifier: Apache-2.0
// Layer normalisation with the residual before it and the quantisation after it.
#pragma once

#include "generic_quantise.h"
#include "kernels.h"
#include "vector.h"

namespace understudy {
namespace {

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
    const Floats per_feature = all(1.0f / float(width));
    const Floats mean = ((total[0] + total[1]) + (total[2] + total[3])) * per_feature;
    const Floats square = ((squares[0] + squares[1]) + (squares[2] + squares[3])) * per_feature;
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

}  // namespace
}  // namespace understudy
