// SPDX-License-Identifier: Apache-2.0
// AVX2 with the 8-bit products of AVX-VNNI: client processors since 2021.
#include "vector.h"

namespace understudy {
namespace {

constexpr int OUTPUTS = 4, BLOCKS = 1;

INLINE Integers dot(Integers total, Integers features, int32_t weight) {
  const __m256i weights = _mm256_set1_epi32(weight);
  __m256i sums[2], halves[2];
  std::memcpy(sums, &total, sizeof total);
  std::memcpy(halves, &features, sizeof features);
  sums[0] = _mm256_dpbusd_avx_epi32(sums[0], halves[0], weights);
  sums[1] = _mm256_dpbusd_avx_epi32(sums[1], halves[1], weights);
  std::memcpy(&total, sums, sizeof total);
  return total;
}

}  // namespace
}  // namespace understudy

#include "kernels_generic.h"

namespace understudy {
const Kernels AVX_VNNI{"avx_vnni", vector_product, normalise, quantise, look_up, vector_attend, average_rows, route, gather, average_columns, 0.9f};
}
