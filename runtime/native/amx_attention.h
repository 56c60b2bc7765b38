// SPDX-License-Identifier: Apache-2.0
// Self-attention on AMX: queries, keys, values and softmax in bfloat16, sums in float32.
#pragma once

#include "amx_tiles.h"
#include "generic_columns.h"

namespace understudy {
namespace {

constexpr int PAIR_ROWS = 32;  // features or keys of a bfloat16 tile
constexpr float LOG2_E = 1.44269504088896341f;

// A bfloat16 has its exponent in the upper nine bits and a mantissa of seven, so 128 (x + 127), rounded, are the bits of 2^x but
// for the mantissa, which this table has for its lowest seven: 32 powers take three instructions. The error is that of x,
// 1 / 256, and bfloat16's own.
constexpr float EXPONENT_UNIT = 128.0f, EXPONENT_BIAS = 127.0f * EXPONENT_UNIT;
alignas(64) constexpr uint8_t MANTISSA[128] = {
    0, 1, 1, 2, 3, 4, 4, 5, 6, 6, 7, 8, 9, 9, 10, 11,
    12, 12, 13, 14, 15, 15, 16, 17, 18, 19, 19, 20, 21, 22, 23, 23,
    24, 25, 26, 27, 28, 28, 29, 30, 31, 32, 33, 34, 34, 35, 36, 37,
    38, 39, 40, 41, 42, 43, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52,
    53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66, 67, 68,
    69, 70, 72, 73, 74, 75, 76, 77, 78, 79, 80, 82, 83, 84, 85, 86,
    87, 88, 90, 91, 92, 93, 94, 96, 97, 98, 99, 100, 102, 103, 104, 105,
    107, 108, 109, 111, 112, 113, 115, 116, 117, 118, 120, 121, 123, 124, 125, 127,
};

// The logarithms, in units, as integers in the lowest 16 bits; `shift` is ROUNDING + EXPONENT_BIAS less the largest. Those too
// small for a bfloat16 are 2^-126.
INLINE Words to_exponents(Floats logarithms, Floats shift) {
  return reinterpret_cast<Words>(maximum(logarithms + shift, all(ROUNDING + EXPONENT_UNIT)));
}

// Two keys' powers of two, as `interleave` has them.
INLINE __m512i powers_of_two(Words near, Words far) {
  const __m512i exponents = _mm512_mask_blend_epi16(0xAAAAAAAA, (__m512i)near, _mm512_slli_epi32((__m512i)far, 16));
  const __m512i mantissas = _mm512_permutex2var_epi8(_mm512_load_si512(MANTISSA), exponents, _mm512_load_si512(MANTISSA + 64));
  return _mm512_ternarylogic_epi32(_mm512_set1_epi16(0x7f), mantissas, exponents, 0xCA);  // the first chooses
}

// Lane i holds a[i] in its lower and b[i] in its upper half, rounded to bfloat16 (what lies in the middle: up).
INLINE __m512i interleave(Floats a, Floats b) {
  const Words low = (reinterpret_cast<Words>(a) + 0x8000u) >> 16, high = reinterpret_cast<Words>(b) + 0x8000u;
  return _mm512_mask_blend_epi16(0xAAAAAAAA, (__m512i)low, (__m512i)high);
}

// Sixteen tokens of a sentence, from its block b on, feature by feature; zero beyond the sentence's end.
struct WholeBlock {
  const float* rows;

  INLINE Floats operator()(int row) const { return load(rows + row * BLOCK); }
};

struct PartOfBlocks {
  const float *low, *high;
  __m512i index;
  __mmask16 kept;

  INLINE Floats operator()(int row) const {
    return (Floats)_mm512_maskz_permutex2var_ps(kept, _mm512_load_ps(low + row * BLOCK), index, _mm512_load_ps(high + row * BLOCK));
  }
};

template <typename F>
INLINE void with_columns(const float* x, int x_rows, Span span, int b, F f) {
  const int column = span.first + b * BLOCK, left = span.length - b * BLOCK, shift = column % BLOCK;
  const float* rows = x + size_t(column / BLOCK) * x_rows * BLOCK;
  if (shift == 0 && left >= BLOCK) return f(WholeBlock{rows});
  const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const bool next = shift + (left < BLOCK ? left : BLOCK) > BLOCK;  // never beyond the last block
  f(PartOfBlocks{rows, next ? rows + size_t(x_rows) * BLOCK : rows, _mm512_add_epi32(lanes, _mm512_set1_epi32(shift)),
                 __mmask16(left >= BLOCK ? 0xffff : (1 << left) - 1)});
}

// Where a head's bfloat16 tiles are, each of 1,024 bytes or 256 floats: keys [block][depth tile], values [depth
// block][pair of blocks], and of two blocks of queries the queries [block][depth tile] and their scores [key][block] in
// float32, which the attention weights replace. All of it fits the L1 cache up to some 128 tokens.
struct HeadTiles {
  int n_blocks, n_pairs, depth_tiles, depth_blocks;
  float *keys, *values, *queries, *scores;

  HeadTiles(int n_tokens, int head_width, float* scratch)
      : n_blocks(blocks(n_tokens)), n_pairs((n_blocks + 1) / 2), depth_tiles((head_width + PAIR_ROWS - 1) / PAIR_ROWS),
        depth_blocks(blocks(head_width)) {
    keys = scratch;
    values = keys + size_t(2 * n_pairs) * depth_tiles * 256;
    queries = values + size_t(depth_blocks) * n_pairs * 256;
    scores = queries + size_t(2) * depth_tiles * 256;
  }

  float* key(int b, int tile) const { return keys + (size_t(b) * depth_tiles + tile) * 256; }
  float* value(int depth_block, int pair) const { return values + (size_t(depth_block) * n_pairs + pair) * 256; }
  float* query(int c, int tile) const { return queries + (size_t(c) * depth_tiles + tile) * 256; }
  float* score(int key, int c) const { return scores + (size_t(key) * 2 + c) * BLOCK; }
};

struct NoColumns {
  INLINE Floats operator()(int) const { return Floats{}; }
};

// Rows first to first + 31 of which only the first n are there: f gets a function of their number.
template <typename Columns, typename F>
INLINE void with_rows(Columns columns, int first, int n, F f) {
  if (n >= PAIR_ROWS)
    f([=](int row) INLINE_LAMBDA { return columns(first + row); });
  else
    f([=](int row) INLINE_LAMBDA { return row < n ? columns(first + row) : Floats{}; });
}

// Block c of two of a head's queries, which begin at row `row`, times a factor.
template <typename Columns>
INLINE void pack_queries(Columns columns, const HeadTiles& t, int c, int row, int head_width, Floats factor) {
  for (int tile = 0; tile < t.depth_tiles; ++tile)
    with_rows(columns, row + tile * PAIR_ROWS, head_width - tile * PAIR_ROWS, [&](auto rows) INLINE_LAMBDA {
      float* to = t.query(c, tile);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) _mm512_store_si512(to + i * BLOCK, interleave(rows(2 * i) * factor, rows(2 * i + 1) * factor));
    });
}

// Block b of a head's keys and values.
template <typename Columns>
INLINE void pack_keys(Columns columns, const HeadTiles& t, int b, int key_row, int value_row, int head_width) {
  for (int tile = 0; tile < t.depth_tiles; ++tile) {
    const int first = tile * PAIR_ROWS, n = head_width - first;
    with_rows(columns, key_row + first, n, [&](auto rows) INLINE_LAMBDA {
      __m512i pairs[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) pairs[i] = interleave(rows(2 * i), rows(2 * i + 1));
      transpose_lanes(pairs);
      float* to = t.key(b, tile);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) _mm512_store_si512(to + i * BLOCK, pairs[i]);
    });
    with_rows(columns, value_row + first, n, [&](auto rows) INLINE_LAMBDA {
      for (int half = 0; half < 2 && 2 * tile + half < t.depth_blocks; ++half) {
        float* to = t.value(2 * tile + half, b / 2) + b % 2 * (BLOCK / 2);
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i)
          _mm256_store_si256(reinterpret_cast<__m256i*>(to + i * BLOCK), (__m256i)_mm512_cvtneps_pbh((__m512)rows(half * BLOCK + i)));
      }
    });
  }
}

// Adds two left tiles times two right ones, whose rows are `row_bytes` apart, to the sums.
INLINE void add_square(const float* left0, const float* left1, const float* right0, const float* right1, int row_bytes) {
  load_left<0>(left0);
  _tile_loadd(6, right0, row_bytes);
  multiply_halves<0, 0, 0>();
  _tile_loadd(7, right1, row_bytes);
  multiply_halves<1, 0, 1>();
  load_left<1>(left1);
  multiply_halves<2, 1, 0>();
  multiply_halves<3, 1, 1>();
}

INLINE void clear_square() { clear_sum<0>(), clear_sum<1>(), clear_sum<2>(), clear_sum<3>(); }

// The queries' scores for all keys.
INLINE void score(const HeadTiles& t) {
  for (int k = 0; k < t.n_blocks; k += 2) {
    clear_square();
    for (int tile = 0; tile < t.depth_tiles; ++tile)
      add_square(t.key(k, tile), t.key(k + 1, tile), t.query(0, tile), t.query(1, tile), 64);
    _tile_stored(0, t.score(k * BLOCK, 0), 128);
    _tile_stored(1, t.score(k * BLOCK, 1), 128);
    _tile_stored(2, t.score((k + 1) * BLOCK, 0), 128);
    _tile_stored(3, t.score((k + 1) * BLOCK, 1), 128);
  }
}

INLINE void find_largest(const HeadTiles& t, int n_keys, Floats (&largest)[2]) {
  Floats found[2][2];
  for (int c = 0; c < 2; ++c) found[c][0] = found[c][1] = load(t.score(0, c));
  for (int key = 1; key + 1 < n_keys; key += 2)
#pragma GCC unroll 2
    for (int c = 0; c < 2; ++c)
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) found[c][i] = maximum(found[c][i], load(t.score(key + i, c)));
  for (int c = 0; c < 2; ++c) largest[c] = maximum(maximum(found[c][0], found[c][1]), load(t.score(n_keys - 1, c)));
}

// Attention weights of one pair of blocks of keys, two keys a row, in place of their scores: powers of two, not yet divided by
// their total, to which they are added as rounded. Keys from n_keys on get weight 0.
INLINE void exponentiate_scores(const HeadTiles& t, int pair, int n_keys, const Floats (&shift)[2], Floats (&total)[2]) {
  const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
  float* scores = t.score(pair * PAIR_ROWS, 0);
  int key = 0;
  for (; key + 1 < n_keys; key += 2, scores += 4 * BLOCK)
#pragma GCC unroll 2
    for (int c = 0; c < 2; ++c) {
      const __m512i weights = powers_of_two(to_exponents(load(scores + c * BLOCK), shift[c]),
                                           to_exponents(load(scores + (2 + c) * BLOCK), shift[c]));
      total[c] = (Floats)_mm512_dpbf16_ps((__m512)total[c], (__m512bh)weights, ones);
      _mm512_store_si512(scores + c * BLOCK, weights);
    }
  for (; key < PAIR_ROWS; key += 2, scores += 4 * BLOCK)
    for (int c = 0; c < 2; ++c) {
      __m512i last{};
      if (key < n_keys) last = powers_of_two(to_exponents(load(scores + c * BLOCK), shift[c]), Words{});
      last = _mm512_maskz_mov_epi16(0x55555555, last);
      total[c] = (Floats)_mm512_dpbf16_ps((__m512)total[c], (__m512bh)last, ones);
      _mm512_store_si512(scores + c * BLOCK, last);
    }
}

// Adds the values' depth blocks f and f + 1 (if there is one) times the attention weights of one pair of blocks of keys.
INLINE void mix(const HeadTiles& t, int pair, int f) {
  const float *value = t.value(f, pair), *weights = t.score(pair * PAIR_ROWS, 0);
  add_square(value, f + 1 < t.depth_blocks ? t.value(f + 1, pair) : value, weights, weights + BLOCK, 256);
}

void tile_attend(const float* qkv, Span span, int n_heads, int head_width, int first_head, int last_head, float* context,
                 float* scratch) {
  const int width = n_heads * head_width;
  const HeadTiles t(span.length, head_width, scratch);
  const Floats factor = all(EXPONENT_UNIT * LOG2_E / __builtin_sqrtf(float(head_width)));
  const auto with_block = [&](int b, auto f) { b < t.n_blocks ? with_columns(qkv, 3 * width, span, b, f) : f(NoColumns{}); };
  const Tiles tiles;
  for (int head = first_head; head < last_head; ++head) {
    const int row = head * head_width;
    for (int b = 0; b < 2 * t.n_pairs; ++b)
      with_block(b, [&](auto columns) { pack_keys(columns, t, b, width + row, 2 * width + row, head_width); });
    for (int q = 0; q < t.n_blocks; q += 2) {
      for (int c = 0; c < 2; ++c)
        with_block(q + c, [&](auto columns) { pack_queries(columns, t, c, row, head_width, factor); });
      compiler_barrier();
      score(t);
      Floats largest[2], shift[2], total[2] = {};
      find_largest(t, span.length, largest);
      for (int c = 0; c < 2; ++c) shift[c] = all(ROUNDING + EXPONENT_BIAS) - largest[c];
      clear_square();
      for (int pair = 0; pair < t.n_pairs; ++pair) {  // values one pair behind: tiles wait for what was just written
        const int n_keys = span.length - pair * PAIR_ROWS;
        exponentiate_scores(t, pair, n_keys < PAIR_ROWS ? n_keys : PAIR_ROWS, shift, total);
        compiler_barrier();
        if (pair > 0) mix(t, pair - 1, 0);
      }
      mix(t, t.n_pairs - 1, 0);
      for (int f = 0; f < t.depth_blocks; f += 2) {
        if (f > 0) {
          clear_square();
          for (int pair = 0; pair < t.n_pairs; ++pair) mix(t, pair, f);
        }
        alignas(64) float sums[2][2][256];  // [depth block][block of queries]
        _tile_stored(0, sums[0][0], 64);
        _tile_stored(1, sums[0][1], 64);
        _tile_stored(2, sums[1][0], 64);
        _tile_stored(3, sums[1][1], 64);
        for (int i = 0; i < 2 && f + i < t.depth_blocks; ++i) {
          const int first = (f + i) * BLOCK, rows = head_width - first < BLOCK ? head_width - first : BLOCK;
          for (int c = 0; c < 2 && q + c < t.n_blocks; ++c)
            write_columns(sums[i][c], all(1.0f) / total[c], rows, span, q + c, context, width, row + first);
        }
      }
    }
  }
}

}  // namespace
}  // namespace understudy
