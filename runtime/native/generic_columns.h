// SPDX-License-Identifier: Apache-2.0
// One sentence's columns in a batch whose sentences stand end to end: read, averaged and written back.
#pragma once

#include "kernels.h"
#include "vector.h"

namespace understudy {
namespace {

INLINE Floats window_of(const float* x, int x_rows, int row, Span span, int b) {
  const int column = span.first + b * BLOCK, left = span.length - b * BLOCK, shift = span.first % BLOCK;
  const float* low = x + (size_t(column / BLOCK) * x_rows + row) * BLOCK;
  const float* high = shift + left > BLOCK ? low + size_t(x_rows) * BLOCK : low;  // never beyond the last block
  return keep_first(shift ? window(low, high, shift) : load(low), left);
}

void average_columns(const float* x, int width, Span span, float* mean) {
  const float per_token = span.length > 0 ? 1.0f / float(span.length) : 0.0f;
  for (int first = 0; first < width; first += LANES) {
    const int n_features = width - first < LANES ? width - first : LANES;
    Floats totals[LANES] = {};
    for (int f = 0; f < n_features; ++f)
      for (int b = 0; b < blocks(span.length); ++b) totals[f] += window_of(x, width, first + f, span, b);
    const Floats means = sum_each(totals) * per_token;
    std::memcpy(mean + first, &means, size_t(n_features) * sizeof(float));
  }
}

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

}  // namespace
}  // namespace understudy
