// SPDX-License-Identifier: Apache-2.0
// Sixteen lanes where the widest register has fewer: an array of registers that behaves as one vector.
//
// GCC's vector extension takes vectors wider than any register too, but keeps them in memory and moves them by words:
// several times slower.
#pragma once

#include <cstdint>

namespace understudy {
namespace {

template <typename T, int PART_BYTES>
struct Parts {
  typedef T Part __attribute__((vector_size(PART_BYTES), may_alias));
  static constexpr int PARTS = 64 / PART_BYTES, PART_LANES = PART_BYTES / int(sizeof(T));

  Part part[PARTS];

  INLINE T operator[](int lane) const { return part[lane / PART_LANES][lane % PART_LANES]; }
};

template <typename R, typename F>
INLINE R by_part(F f) {
  R result;
#pragma GCC unroll 4
  for (int p = 0; p < R::PARTS; ++p) result.part[p] = f(p);
  return result;
}

#define UNDERSTUDY_LANES_OPERATOR(op)                                                                     \
  template <typename T, int B>                                                                            \
  INLINE Parts<T, B> operator op(Parts<T, B> a, Parts<T, B> b) {                                          \
    return by_part<Parts<T, B>>([&](int p) INLINE_LAMBDA { return a.part[p] op b.part[p]; });             \
  }                                                                                                       \
  template <typename T, int B, typename S>                                                                \
  INLINE Parts<T, B> operator op(Parts<T, B> a, S b) {                                                    \
    return by_part<Parts<T, B>>([&](int p) INLINE_LAMBDA { return a.part[p] op T(b); });                  \
  }
UNDERSTUDY_LANES_OPERATOR(+)
UNDERSTUDY_LANES_OPERATOR(-)
UNDERSTUDY_LANES_OPERATOR(*)
UNDERSTUDY_LANES_OPERATOR(/)
UNDERSTUDY_LANES_OPERATOR(%)
UNDERSTUDY_LANES_OPERATOR(&)
UNDERSTUDY_LANES_OPERATOR(|)
UNDERSTUDY_LANES_OPERATOR(<<)
UNDERSTUDY_LANES_OPERATOR(>>)
#undef UNDERSTUDY_LANES_OPERATOR

template <typename T, int B>
INLINE Parts<T, B> operator~(Parts<T, B> a) {
  return by_part<Parts<T, B>>([&](int p) INLINE_LAMBDA { return ~a.part[p]; });
}
template <typename T, int B, typename S>
INLINE Parts<T, B>& operator+=(Parts<T, B>& a, S b) {
  return a = a + b;
}

// All bits of a lane are set where the comparison holds.
template <typename T, int B>
INLINE Parts<int32_t, B> operator>(Parts<T, B> a, Parts<T, B> b) {
  return by_part<Parts<int32_t, B>>([&](int p) INLINE_LAMBDA { return a.part[p] > b.part[p]; });
}
template <typename T, int B>
INLINE Parts<int32_t, B> operator<(Parts<T, B> a, Parts<T, B> b) {
  return b > a;
}

}  // namespace
}  // namespace understudy
