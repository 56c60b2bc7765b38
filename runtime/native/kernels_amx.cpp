// SPDX-License-Identifier: Apache-2.0
// AMX: 16 x 16 sums of 64 products in one instruction; int8 for the matrices, bfloat16 for attention.
//
// A tile of weights is the left operand, a tile of activations the right one. For a sparse matrix the sixteen groups
// that a weight tile names are copied into a right tile, which costs about what its product does.
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

namespace understudy {
namespace {

// All eight tiles as 16 rows of 64 bytes, while it lives. Whatever else runs on this thread sets its own.
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

// What was stored is in memory from here on. GCC's tile loads do not tell it that they read memory.
INLINE void settle() { __asm__ volatile("" ::: "memory"); }

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

constexpr int AHEAD = 12;  // tiles of weights fetched ahead: about the time of a fetch from the last cache

INLINE void fetch_ahead(const int8_t* tile) {
#pragma GCC unroll 16
  for (int line = 0; line < 16; ++line) _mm_prefetch(tile + AHEAD * TILE_BYTES + line * 64, _MM_HINT_T0);
}

// Dense sums of n_panels x n_blocks from (panel, block) on; sums is [n_panels][n_blocks][16][16].
template <int n_panels, int n_blocks, bool fetch>
INLINE void dense_sums(const Matrix& m, int panel, const uint8_t* x, size_t block_bytes, int32_t* sums) {
  const int n_tiles = m.first_tile[panel + 1] - m.first_tile[panel];
  const int8_t* left = m.tiles + size_t(m.first_tile[panel]) * TILE_BYTES;
  const size_t next_panel = size_t(n_tiles) * TILE_BYTES;
  clear_sum<0>();
  if constexpr (n_panels * n_blocks > 1) clear_sum<1>();
  if constexpr (n_panels * n_blocks > 2) clear_sum<2>(), clear_sum<3>();
  for (int tile = 0; tile < n_tiles; ++tile, left += TILE_BYTES, x += TILE_BYTES) {
    if constexpr (fetch) fetch_ahead(left);
    load_left<0>(left);
    load_right<0>(x);
    multiply_bytes<0, 0, 0>();
    if constexpr (n_panels == 2) {
      if constexpr (fetch) fetch_ahead(left + next_panel);
      load_left<1>(left + next_panel);
      multiply_bytes<n_blocks, 1, 0>();
    }
    if constexpr (n_blocks == 2) {
      load_right<1>(x + block_bytes);
      multiply_bytes<1, 0, 1>();
      if constexpr (n_panels == 2) multiply_bytes<3, 1, 1>();
    }
  }
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
template <int n_blocks, bool fetch>
INLINE void sparse_sums(const Matrix& m, int panel, const uint8_t* x, size_t block_bytes, int32_t* sums) {
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
    if constexpr (fetch) fetch_ahead(left);
    if (tile + 1 < n_tiles)
      for (int b = 0; b < n_blocks; ++b) gather(x + b * block_bytes, groups, gathered[(tile + 1) % 2][b]);
    settle();
    const auto& right = gathered[tile % 2];
    load_left<0>(left);
    load_right<0>(right[0]);
    multiply_bytes<0, 0, 0>();
    if constexpr (n_blocks > 1) load_right<1>(right[1]), multiply_bytes<1, 0, 1>();
    if constexpr (n_blocks > 2) {
      load_right<0>(right[2]), multiply_bytes<2, 0, 0>();
      load_right<1>(right[3]), multiply_bytes<3, 0, 1>();
    }
  }
  store_sum<0>(sums);
  if constexpr (n_blocks > 1) store_sum<1>(sums + 256);
  if constexpr (n_blocks > 2) store_sum<2>(sums + 512), store_sum<3>(sums + 768);
}

template <Activation kind, bool ranged>
struct TileProduct {
  template <int n_panels, int n_blocks, bool fetch>
  static INLINE void dense(const Output& out, int panel, int block) {
    alignas(64) int32_t sums[n_panels * n_blocks * 256];
    const size_t block_bytes = size_t(out.x.n_groups) * BLOCK * GROUP;
    dense_sums<n_panels, n_blocks, fetch>(out.matrix, panel, out.x.values + block * block_bytes, block_bytes, sums);
    for (int p = 0; p < n_panels; ++p)
      for (int b = 0; b < n_blocks; ++b)
        finish_panel<kind, ranged>(out, panel + p, block + b, sums + (p * n_blocks + b) * 256);
  }

  template <int n_panels>
  static INLINE void dense_row(const Output& out, int panel, int n_blocks) {
    int block = 0;
    if (n_blocks >= 2) dense<n_panels, 2, true>(out, panel, block), block += 2;
    for (; block + 2 <= n_blocks; block += 2) dense<n_panels, 2, false>(out, panel, block);
    if (block < n_blocks) {
      if (block == 0)
        dense<n_panels, 1, true>(out, panel, block);
      else
        dense<n_panels, 1, false>(out, panel, block);
    }
  }

  template <int n_blocks, bool fetch>
  static INLINE void sparse(const Output& out, int panel, int block) {
    alignas(64) int32_t sums[n_blocks * 256];
    const size_t block_bytes = size_t(out.x.n_groups) * BLOCK * GROUP;
    sparse_sums<n_blocks, fetch>(out.matrix, panel, out.x.values + block * block_bytes, block_bytes, sums);
    for (int b = 0; b < n_blocks; ++b) finish_panel<kind, ranged>(out, panel, block + b, sums + b * 256);
  }

  static void run(const Output& out, int n_blocks, int first_panel, int last_panel) {
    const Tiles tiles;
    int panel = first_panel;
    if (out.matrix.groups) {
      for (; panel < last_panel; ++panel) {
        int block = 0;
        for (; block + 4 <= n_blocks; block += 4) sparse<4, true>(out, panel, block);
        if (block + 2 <= n_blocks) sparse<2, true>(out, panel, block), block += 2;
        if (block < n_blocks) sparse<1, true>(out, panel, block);
      }
      return;
    }
    for (; panel + 2 <= last_panel; panel += 2) dense_row<2>(out, panel, n_blocks);
    if (panel < last_panel) dense_row<1>(out, panel, n_blocks);
  }
};

void tile_product(const Matrix& matrix, const Quantised& x, int n_blocks, int first_panel, int last_panel,
                  int activation, float* y, int y_rows, const Range* range) {
  const Output out{matrix, x, y, y_rows, range};
  dispatch<TileProduct>(activation, range != nullptr, out, n_blocks, first_panel, last_panel);
}

// ---- attention in bfloat16 ----

constexpr int PAIR_ROWS = 32;  // features or keys of a bfloat16 tile

// Lane i holds a[i] in its lower and b[i] in its upper half.
INLINE __m512i interleave(Floats a, Floats b) {
  const auto low = (__m256i)_mm512_cvtneps_pbh((__m512)a), high = (__m256i)_mm512_cvtneps_pbh((__m512)b);
  return _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
}

void tile_attend(const float* qkv, Span span, int n_heads, int head_width, int first_head, int last_head,
                        float* context, float* scratch) {
  const int width = n_heads * head_width, n_blocks = blocks(span.length), n_pairs = (n_blocks + 1) / 2;
  const int depth_tiles = (head_width + PAIR_ROWS - 1) / PAIR_ROWS, depth_blocks = blocks(head_width);
  const float factor = 1.0f / __builtin_sqrtf(float(head_width));
  // All tiles of 1,024 bytes, 256 floats: queries [block][depth tile], keys [block][depth tile], values
  // [depth block][pair of blocks], shares [pair of blocks][2 blocks of queries]; scores [key][2 blocks of queries].
  float* queries = scratch;
  float* keys = queries + size_t(2 * n_pairs) * depth_tiles * 256;
  float* values = keys + size_t(2 * n_pairs) * depth_tiles * 256;
  float* shares = values + size_t(depth_blocks) * n_pairs * 256;
  float* scores = shares + size_t(n_pairs) * 2 * 256;
  // Feature f of a head's rows of block b; zero where head or sentence are padded.
  const auto feature = [&](int first_row, int f, int b) {
    return f < head_width && b < n_blocks ? window_of(qkv, 3 * width, first_row + f, span, b) : Floats{};
  };
  const Tiles tiles;
  for (int head = first_head; head < last_head; ++head) {
    const int row = head * head_width;
    for (int b = 0; b < 2 * n_pairs; ++b) {
      const auto q = [&](int f) { return feature(row, f, b); };
      const auto k = [&](int f) { return feature(width + row, f, b); };
      for (int tile = 0; tile < depth_tiles; ++tile) {
        __m512i pairs[16];
        for (int i = 0; i < 16; ++i) {
          const int f = tile * PAIR_ROWS + 2 * i;
          _mm512_store_si512(queries + ((size_t(b) * depth_tiles + tile) * 16 + i) * BLOCK,
                             interleave(q(f) * factor, q(f + 1) * factor));
          pairs[i] = interleave(k(f), k(f + 1));
        }
        transpose_lanes(pairs);
        for (int i = 0; i < 16; ++i)
          _mm512_store_si512(keys + ((size_t(b) * depth_tiles + tile) * 16 + i) * BLOCK, pairs[i]);
      }
    }
    for (int pair = 0; pair < n_pairs; ++pair) {
      for (int f = 0; f < depth_blocks * BLOCK; ++f) {
        const Floats near = feature(2 * width + row, f, 2 * pair), far = feature(2 * width + row, f, 2 * pair + 1);
        _mm512_store_si512(values + ((size_t(f / BLOCK) * n_pairs + pair) * 16 + f % BLOCK) * BLOCK,
                           (__m512i)_mm512_cvtne2ps_pbh((__m512)far, (__m512)near));
      }
    }
    settle();
    for (int q = 0; q < n_blocks; q += 2) {
      for (int k = 0; k < n_blocks; ++k) {
        _tile_zero(0);
        _tile_zero(1);
        for (int tile = 0; tile < depth_tiles; ++tile) {
          _tile_loadd(4, keys + (size_t(k) * depth_tiles + tile) * 256, 64);
          _tile_loadd(6, queries + (size_t(q) * depth_tiles + tile) * 256, 64);
          _tile_loadd(7, queries + (size_t(q + 1) * depth_tiles + tile) * 256, 64);
          _tile_dpbf16ps(0, 4, 6);
          _tile_dpbf16ps(1, 4, 7);
        }
        _tile_stored(0, scores + size_t(k) * BLOCK * 2 * BLOCK, 128);
        _tile_stored(1, scores + size_t(k) * BLOCK * 2 * BLOCK + BLOCK, 128);
      }
      Floats inverse_total[2];
      soften<2>(scores, span.length, n_pairs * PAIR_ROWS, inverse_total);
      for (int key = 0; key < n_pairs * PAIR_ROWS; key += 2)
        for (int c = 0; c < 2; ++c)
          _mm512_store_si512(shares + (size_t(key / PAIR_ROWS * 2 + c) * 16 + key % PAIR_ROWS / 2) * BLOCK,
                             interleave(load(scores + (key * 2 + c) * BLOCK), load(scores + ((key + 1) * 2 + c) * BLOCK)));
      settle();
      for (int f = 0; f < depth_blocks; ++f) {
        alignas(64) float result[2][256];
        _tile_zero(2);
        _tile_zero(3);
        for (int pair = 0; pair < n_pairs; ++pair) {
          _tile_loadd(5, values + (size_t(f) * n_pairs + pair) * 256, 64);
          _tile_loadd(6, shares + size_t(pair) * 2 * 256, 64);
          _tile_loadd(7, shares + (size_t(pair) * 2 + 1) * 256, 64);
          _tile_dpbf16ps(2, 5, 6);
          _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(2, result[0], 64);
        _tile_stored(3, result[1], 64);
        const int rows = head_width - f * BLOCK < BLOCK ? head_width - f * BLOCK : BLOCK;
        for (int c = 0; c < 2 && q + c < n_blocks; ++c) {
          for (int i = 0; i < rows; ++i) store(result[c] + i * BLOCK, load(result[c] + i * BLOCK) * inverse_total[c]);
          write_columns(result[c], rows, span, q + c, context, width, row + f * BLOCK);
        }
      }
    }
  }
}

}  // namespace

const Kernels AMX{"amx", tile_product, normalise, quantise, look_up, tile_attend, average_rows, route, average_columns, 0.6f};

}  // namespace understudy
