// SPDX-License-Identifier: Apache-2.0
// AMX's tile registers: their shape, and the operations on them, whose tile numbers must be literals.
#pragma once

#include "vector.h"

namespace understudy {
namespace {

// Configures all eight tiles as 16 rows of 64 bytes, and releases them at the end of its scope.
class Tiles {
 public:
  Tiles() {
    alignas(64) static constexpr struct {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t columns[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } shape;
    _tile_loadconfig(&shape);
  }
  ~Tiles() { _tile_release(); }
};

// Stores before it stay before loads after it: GCC does not know that its tile loads read memory.
INLINE void compiler_barrier() { __asm__ volatile("" ::: "memory"); }

// Sums 0 to 3 are tiles 0 to 3, left operands 4 and 5, right operands 6 and 7. The instructions want literals.
template <int tile>
INLINE void clear_sum() {
  if constexpr (tile == 0) _tile_zero(0);
  if constexpr (tile == 1) _tile_zero(1);
  if constexpr (tile == 2) _tile_zero(2);
  if constexpr (tile == 3) _tile_zero(3);
}

template <int tile>
INLINE void store_sum(void* p) {
  if constexpr (tile == 0) _tile_stored(0, p, 64);
  if constexpr (tile == 1) _tile_stored(1, p, 64);
  if constexpr (tile == 2) _tile_stored(2, p, 64);
  if constexpr (tile == 3) _tile_stored(3, p, 64);
}

template <int side>
INLINE void load_left(const void* p) {
  if constexpr (side == 0) _tile_loadd(4, p, 64);
  if constexpr (side == 1) _tile_loadd(5, p, 64);
}

template <int side>
INLINE void load_right(const void* p) {
  if constexpr (side == 0) _tile_loadd(6, p, 64);
  if constexpr (side == 1) _tile_loadd(7, p, 64);
}

template <int sum_tile, int left, int right>
INLINE void multiply_bytes() {  // signed weights, unsigned activations
  if constexpr (sum_tile == 0 && left == 0 && right == 0) _tile_dpbsud(0, 4, 6);
  if constexpr (sum_tile == 1 && left == 0 && right == 1) _tile_dpbsud(1, 4, 7);
  if constexpr (sum_tile == 1 && left == 1 && right == 0) _tile_dpbsud(1, 5, 6);
  if constexpr (sum_tile == 2 && left == 0 && right == 0) _tile_dpbsud(2, 4, 6);
  if constexpr (sum_tile == 2 && left == 1 && right == 0) _tile_dpbsud(2, 5, 6);
  if constexpr (sum_tile == 3 && left == 0 && right == 1) _tile_dpbsud(3, 4, 7);
  if constexpr (sum_tile == 3 && left == 1 && right == 1) _tile_dpbsud(3, 5, 7);
}

template <int sum_tile, int left, int right>
INLINE void multiply_halves() {  // bfloat16
  if constexpr (sum_tile == 0 && left == 0 && right == 0) _tile_dpbf16ps(0, 4, 6);
  if constexpr (sum_tile == 1 && left == 0 && right == 1) _tile_dpbf16ps(1, 4, 7);
  if constexpr (sum_tile == 2 && left == 1 && right == 0) _tile_dpbf16ps(2, 5, 6);
  if constexpr (sum_tile == 3 && left == 1 && right == 1) _tile_dpbf16ps(3, 5, 7);
}

}  // namespace
}  // namespace understudy
