// SPDX-License-Identifier: Apache-2.0
// AMX: 16 x 16 sums of 64 products in one instruction; int8 for the matrices, bfloat16 for attention.
#include "vector.h"

namespace understudy {
namespace {

constexpr int OUTPUTS = 8, BLOCKS = 3;  // of the vector kernels, for what AMX is not used for

INLINE Integers dot(Integers total, Integers features, int32_t weight) {
  return (Integers)_mm512_dpbusd_epi32((__m512i)total, (__m512i)features, _mm512_set1_epi32(weight));
}

}  // namespace
}  // namespace understudy

#include "kernels_generic.h"
#include "amx_product.h"
#include "amx_attention.h"

namespace understudy {
const Kernels AMX{"amx", product_by<TileProduct>, activate_by<TileProduct>, sizeof(HiddenNumber), quantise_hidden,
                  normalise, quantise, look_up, tile_attend, average_rows, route, gather, average_columns, 0.6f};

}  // namespace understudy
