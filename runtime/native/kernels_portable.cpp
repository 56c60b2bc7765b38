// SPDX-License-Identifier: Apache-2.0
// Plain C++, for every processor; what the others are tested against.
#include "vector.h"

namespace understudy {
namespace {

constexpr int OUTPUTS = 4, BLOCKS = 1;

// total[token] += the four features of each token (unsigned bytes) times four weights (signed bytes).
INLINE Integers dot(Integers total, Integers features, int32_t weight) {
  for (int i = 0; i < 4; ++i) total += ((features >> (8 * i)) & 255) * int32_t(int8_t(weight >> (8 * i)));
  return total;
}

}  // namespace
}  // namespace understudy

#include "kernels_generic.h"

namespace understudy {
const Kernels PORTABLE{"portable", product_by<VectorProduct>, activate_by<VectorProduct>, sizeof(HiddenNumber), quantise_hidden,
                  normalise, quantise, look_up, vector_attend, average_rows, route, gather, average_columns, 0.9f};
}
