// SPDX-License-Identifier: Apache-2.0
// AVX2: products of 16-bit halves, which are exact (the 8-bit product saturates).
#include "vector.h"

namespace understudy {
namespace {

constexpr int OUTPUTS = 4, BLOCKS = 1;

INLINE __m256i dot_half(__m256i total, __m256i features, __m256i even_weights, __m256i odd_weights) {
  const __m256i even = _mm256_and_si256(features, _mm256_set1_epi16(255)), odd = _mm256_srli_epi16(features, 8);
  return _mm256_add_epi32(total, _mm256_add_epi32(_mm256_madd_epi16(even, even_weights), _mm256_madd_epi16(odd, odd_weights)));
}

INLINE Integers dot(Integers total, Integers features, int32_t weight) {
  const __m256i weights = _mm256_set1_epi32(weight);
  const __m256i odd = _mm256_srai_epi16(weights, 8), even = _mm256_srai_epi16(_mm256_slli_epi16(weights, 8), 8);
  return by_part<Integers>([&](int p) INLINE_LAMBDA {
    return (Integers::Part)dot_half((__m256i)total.part[p], (__m256i)features.part[p], even, odd);
  });
}

}  // namespace
}  // namespace understudy

#include "kernels_generic.h"

namespace understudy {
const Kernels AVX2{"avx2", product_by<VectorProduct>, activate_by<VectorProduct>, sizeof(HiddenNumber), quantise_hidden,
                  normalise, quantise, look_up, vector_attend, average_rows, route, gather, average_columns, 0.9f};
}
