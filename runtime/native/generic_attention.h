// SPDX-License-Identifier: Apache-2.0
// Self-attention in float32, for every instruction set but AMX (see amx_attention.h).
#pragma once

#include "generic_columns.h"
#include "kernels.h"
#include "vector.h"

namespace understudy {
namespace {

// Softmax over the first n_keys rows of n_blocks columns' scores, unnormalised; rows up to padded_keys become zero.
template <int n_blocks>
INLINE void softmax(float* scores, int n_keys, int padded_keys, Floats* inverse_total) {
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
  softmax<n_blocks>(scores, n_keys, padded_keys, inverse_total);
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
