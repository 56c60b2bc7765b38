// SPDX-License-Identifier: Apache-2.0
// Eight-bit products on AMX, dense and sparse.
//
// A tile of weights is the left operand, a tile of activations the right one. For a sparse matrix the sixteen groups
// that a weight tile names are copied into a right tile, which costs about what its product does. Tiles multiply beside
// the core's other units, so the sums of one product are scaled while the next is under way (see Finisher).
#pragma once

#include "amx_tiles.h"
#include "generic_product.h"

namespace understudy {
namespace {

// Tiles of weights fetched ahead. The processor fetches what lies far ahead by itself; more than this, or less for one block,
// which takes half the time, is slower.
template <int n_blocks>
constexpr int AHEAD = n_blocks == 1 ? 3 : 1;

INLINE void fetch(const int8_t* tile) {  // beyond the last panel what it fetches is of no use and no harm
#pragma GCC unroll 16
  for (int line = 0; line < 16; ++line) _mm_prefetch(tile + line * 64, _MM_HINT_T0);
}

// Dense sums of n_panels x n_blocks from (panel, block) on; sums is [n_panels][n_blocks][16][16].
template <int n_panels, int n_blocks, bool fetching, typename Finisher>
INLINE void dense_sums(const Matrix& m, int panel, const uint8_t* x, size_t block_bytes, int32_t* sums, Finisher& finisher) {
  const int n_tiles = m.first_tile[panel + 1] - m.first_tile[panel];
  const int8_t* left = m.tiles + size_t(m.first_tile[panel]) * TILE_BYTES;
  const size_t next_panel = size_t(n_tiles) * TILE_BYTES;
  constexpr int ahead = AHEAD<n_blocks>;
  const int last = n_tiles > ahead ? n_tiles - ahead : n_tiles;  // from it on what is fetched is of the panels after these
  clear_sum<0>();
  if constexpr (n_panels * n_blocks > 1) clear_sum<1>();
  if constexpr (n_panels * n_blocks > 2) clear_sum<2>(), clear_sum<3>();
  for (int tile = 0; tile < n_tiles; ++tile, left += TILE_BYTES, x += TILE_BYTES) {
    const int8_t* later = left + ahead * TILE_BYTES + (tile < last ? 0 : (n_panels - 1) * next_panel);
    if constexpr (fetching) fetch(later);
    load_left<0>(left);
    load_right<0>(x);
    multiply_bytes<0, 0, 0>();
    if constexpr (n_panels == 2) {
      if constexpr (fetching) fetch(later + next_panel);
      load_left<1>(left + next_panel);
      multiply_bytes<n_blocks, 1, 0>();
    }
    if constexpr (n_blocks == 2) {
      load_right<1>(x + block_bytes);
      multiply_bytes<1, 0, 1>();
      if constexpr (n_panels == 2) multiply_bytes<3, 1, 1>();
    }
    finisher.finish_one();
  }
  finisher.finish_rest();
  store_sum<0>(sums);
  if constexpr (n_panels * n_blocks > 1) store_sum<1>(sums + 256);
  if constexpr (n_panels * n_blocks > 2) store_sum<2>(sums + 512), store_sum<3>(sums + 768);
}

// The sixteen groups that a sparse tile names, as a right operand.
INLINE void gather(const uint8_t* x, const uint16_t* groups, uint8_t* to) {
#pragma GCC unroll 16
  for (int j = 0; j < TILE_GROUPS; ++j)
    _mm512_store_si512(to + j * 64, _mm512_load_si512(x + size_t(groups[j]) * 64));
}

// Sparse sums of one panel and n_blocks <= 4 blocks; sums is [n_blocks][16][16].
template <int n_blocks, typename Finisher>
INLINE void sparse_sums(const Matrix& m, int panel, const uint8_t* x, size_t block_bytes, int32_t* sums, Finisher& finisher) {
  alignas(64) uint8_t gathered[2][n_blocks][TILE_BYTES];  // one is filled while the other is multiplied
  const int first = m.first_tile[panel], n_tiles = m.first_tile[panel + 1] - first;
  const int8_t* left = m.tiles + size_t(first) * TILE_BYTES;
  const uint16_t* groups = m.groups + size_t(first) * TILE_GROUPS;
  clear_sum<0>();
  if constexpr (n_blocks > 1) clear_sum<1>();
  if constexpr (n_blocks > 2) clear_sum<2>(), clear_sum<3>();
  if (n_tiles > 0)
    for (int b = 0; b < n_blocks; ++b) gather(x + b * block_bytes, groups, gathered[0][b]);
  for (int tile = 0; tile < n_tiles; ++tile, left += TILE_BYTES) {
    groups += TILE_GROUPS;
    fetch(left + AHEAD<n_blocks> * TILE_BYTES);
    if (tile + 1 < n_tiles)
      for (int b = 0; b < n_blocks; ++b) gather(x + b * block_bytes, groups, gathered[(tile + 1) % 2][b]);
    compiler_barrier();
    const auto& right = gathered[tile % 2];
    load_left<0>(left);
    load_right<0>(right[0]);
    multiply_bytes<0, 0, 0>();
    if constexpr (n_blocks > 1) load_right<1>(right[1]), multiply_bytes<1, 0, 1>();
    if constexpr (n_blocks > 2) {
      load_right<0>(right[2]), multiply_bytes<2, 0, 0>();
      load_right<1>(right[3]), multiply_bytes<3, 0, 1>();
    }
    finisher.finish_one();
  }
  finisher.finish_rest();
  store_sum<0>(sums);
  if constexpr (n_blocks > 1) store_sum<1>(sums + 256);
  if constexpr (n_blocks > 2) store_sum<2>(sums + 512), store_sum<3>(sums + 768);
}

// Sums that are finished, up to two panels by two blocks or one by four, while the next are multiplied.
template <Activation kind>
class Finisher {
 public:
  explicit Finisher(const Output& out) : out_(out) {}
  ~Finisher() { finish_rest(); }

  // Where the next sums go: [n_panels][n_blocks][16][16].
  int32_t* free() { return sums_[1 - taken_]; }

  // What is there now is complete. Nothing else may be left.
  INLINE void take(int panel, int block, int n_panels, int n_blocks) {
    taken_ = 1 - taken_;
    panel_ = panel, block_ = block, n_blocks_ = n_blocks;
    done_ = 0, n_ = n_panels * n_blocks;
  }

  INLINE void finish_one() {
    if (done_ < n_) finish_next();
  }
  INLINE void finish_rest() {
    while (done_ < n_) finish_next();
  }

 private:
  INLINE void finish_next() {
    const bool second = done_ >= n_blocks_;
    finish_panel<kind>(out_, panel_ + second, block_ + done_ - (second ? n_blocks_ : 0), sums_[taken_] + done_ * 256);
    ++done_;
  }

  const Output& out_;
  int taken_ = 0, panel_ = 0, block_ = 0, n_blocks_ = 1, done_ = 0, n_ = 0;
  alignas(64) int32_t sums_[2][4 * 256];
};

template <Activation kind>
struct TileProduct {
  using Rows = Finisher<kind>;

  template <int n_panels, int n_blocks, bool fetching>
  static INLINE void dense(const Output& out, int panel, int block, Rows& rows) {
    const size_t block_bytes = size_t(out.x.n_groups) * BLOCK * GROUP;
    dense_sums<n_panels, n_blocks, fetching>(out.matrix, panel, out.x.values + block * block_bytes, block_bytes, rows.free(), rows);
    rows.take(panel, block, n_panels, n_blocks);
  }

  template <int n_panels>
  static INLINE void dense_row(const Output& out, int panel, int n_blocks, Rows& rows) {
    int block = 0;
    if (n_blocks >= 2) dense<n_panels, 2, true>(out, panel, block, rows), block += 2;
    for (; block + 2 <= n_blocks; block += 2) dense<n_panels, 2, false>(out, panel, block, rows);
    if (block < n_blocks) {
      if (block == 0)
        dense<n_panels, 1, true>(out, panel, block, rows);
      else
        dense<n_panels, 1, false>(out, panel, block, rows);
    }
  }

  template <int n_blocks>
  static INLINE void sparse(const Output& out, int panel, int block, Rows& rows) {
    const size_t block_bytes = size_t(out.x.n_groups) * BLOCK * GROUP;
    sparse_sums<n_blocks>(out.matrix, panel, out.x.values + block * block_bytes, block_bytes, rows.free(), rows);
    rows.take(panel, block, 1, n_blocks);
  }

  static void run(const Output& out, int n_blocks, int first_panel, int last_panel) {
    const Tiles tiles;
    Rows rows(out);
    int panel = first_panel;
    if (out.matrix.groups) {
      for (; panel < last_panel; ++panel) {
        int block = 0;
        for (; block + 4 <= n_blocks; block += 4) sparse<4>(out, panel, block, rows);
        if (block + 2 <= n_blocks) sparse<2>(out, panel, block, rows), block += 2;
        if (block < n_blocks) sparse<1>(out, panel, block, rows);
      }
      return;
    }
    for (; panel + 2 <= last_panel; panel += 2) dense_row<2>(out, panel, n_blocks, rows);
    if (panel < last_panel) dense_row<1>(out, panel, n_blocks, rows);
  }
};

}  // namespace
}  // namespace understudy
