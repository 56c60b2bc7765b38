// SPDX-License-Identifier: Apache-2.0
// float32 weights into eight bits and into the order in which the products read them.
#pragma once

#include <vector>

#include "arena.h"
#include "kernels.h"

namespace understudy {

enum class Storage { FASTER, DENSE, SPARSE };

// weight [n_outputs][n_inputs], each column divided by its smoothing (null: as it is), bias [n_outputs] or null. FASTER
// leaves out zero groups if enough of them are zero for these kernels. Throws std::invalid_argument if there are no
// outputs or not 1 to MAX_INPUTS inputs. What the matrix points to is in the arena.
Matrix pack_matrix(Arena& arena, const float* weight, const float* bias, int n_outputs, int n_inputs, const Kernels& kernels,
                   const float* smoothing = nullptr, Storage storage = Storage::FASTER);

// Room for the eight-bit activations of so many blocks.
inline Quantised take_quantised(Layout& layout, int n_features, int n_blocks) {
  Quantised q;
  q.n_groups = padded_groups(n_features);
  q.values = layout.take<uint8_t>(size_t(n_blocks) * q.n_groups * BLOCK * GROUP);
  q.scale = layout.take<float>(size_t(n_blocks) * BLOCK);
  q.zero = layout.take<float>(size_t(n_blocks) * BLOCK);
  return q;
}

// Rows in eight bits with one scale each.
struct PackedTable {
  Buffer values;  // int8 [n_rows][width]
  Buffer scales;  // float [n_rows]

  const int8_t* rows() const { return reinterpret_cast<const int8_t*>(values.get()); }
  const float* row_scales() const { return reinterpret_cast<const float*>(scales.get()); }
};

PackedTable pack_table(const float* table, size_t n_rows, size_t width);

}  // namespace understudy
