// SPDX-License-Identifier: Apache-2.0
// AVX-512 with VNNI: 16 tokens x 4 features in one instruction.
#include "vector.h"

namespace understudy {
namespace {

constexpr int OUTPUTS = 8, BLOCKS = 3;

INLINE Integers dot(Integers total, Integers features, int32_t weight) {
  return (Integers)_mm512_dpbusd_epi32((__m512i)total, (__m512i)features, _mm512_set1_epi32(weight));
}

}  // namespace
}  // namespace understudy

#include "kernels_generic.h"

namespace understudy {
const Kernels AVX512_VNNI{"avx512_vnni", product_by<VectorProduct>, activate_by<VectorProduct>, sizeof(HiddenNumber), quantise_hidden,
                  normalise, quantise, look_up, vector_attend, average_rows, route, gather, average_columns, 0.9f};
}
