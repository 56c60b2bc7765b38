// SPDX-License-Identifier: Apache-2.0
// AVX2 with the 8-bit products of AVX-VNNI: client processors since 2021.
#include "vector.h"

namespace understudy {
namespace {

constexpr int OUTPUTS = 4, BLOCKS = 1;

INLINE Integers dot(Integers total, Integers features, int32_t weight) {
  const __m256i weights = _mm256_set1_epi32(weight);
  return by_part<Integers>([&](int p) INLINE_LAMBDA {
    return (Integers::Part)_mm256_dpbusd_avx_epi32((__m256i)total.part[p], (__m256i)features.part[p], weights);
  });
}

}  // namespace
}  // namespace understudy

#include "kernels_generic.h"

namespace understudy {
const Kernels AVX_VNNI{"avx_vnni", product_by<VectorProduct>, activate_by<VectorProduct>, sizeof(HiddenNumber), quantise_hidden,
                  normalise, quantise, look_up, vector_attend, average_rows, route, gather, average_columns, 0.9f};
}
