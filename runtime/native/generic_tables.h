// SPDX-License-Identifier: Apache-2.0
// Rows of int8 tables with one scale each: token embeddings, and the means of the static path.
#pragma once

#include "kernels.h"
#include "vector.h"

namespace understudy {
namespace {

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
  const float per_token = n_tokens > 0 ? 1.0f / float(n_tokens) : 0.0f;
  for (int feature = 0; feature < width; ++feature) mean[feature] *= per_token;
}

}  // namespace
}  // namespace understudy
