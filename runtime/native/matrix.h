// SPDX-License-Identifier: Apache-2.0
// Weights in eight bits, packed for the products, and activations in blocks of sixteen tokens.
//
// Everything that is computed has the features as rows and the tokens as columns, sixteen columns (a block) at a time:
//
//   float32 activations   [block][feature][16 tokens]
//   8-bit activations     [block][group of 4 features][16 tokens][4]      one row of 64 bytes is one vector register
//   8-bit weights         [panel of 16 outputs][tile][16 outputs][16 groups][4]      a tile is one AMX tile
//
// So a sum over features needs no shuffling, the scale of a token is a vector, and a pruned block of 16 outputs x 4
// inputs is a group that a panel's tiles leave out: a sparse matrix is a dense one whose tiles name their groups.
#pragma once

#include <cstddef>
#include <cstdint>

namespace understudy {

constexpr int BLOCK = 16;         // tokens of a block
constexpr int PANEL = 16;         // outputs of a panel
constexpr int GROUP = 4;          // inputs of a group
constexpr int TILE_GROUPS = 16;   // groups of a tile
constexpr int MAX_INPUTS = 65536;  // of a matrix: sums of 255 x 127 still fit 32 bits, and groups 16
constexpr int TILE_BYTES = PANEL * TILE_GROUPS * GROUP;

static inline constexpr int panels(int n_outputs) { return (n_outputs + PANEL - 1) / PANEL; }
static inline constexpr int blocks(int n_tokens) { return (n_tokens + BLOCK - 1) / BLOCK; }
// Groups of a row of 8-bit activations: whole tiles, so that a dense tile never reads beyond.
static inline constexpr int padded_groups(int n_inputs) {
  return (n_inputs + GROUP * TILE_GROUPS - 1) / (GROUP * TILE_GROUPS) * TILE_GROUPS;
}

// A packed matrix. The pointers are into the student's arena.
struct Matrix {
  int n_outputs = 0, n_inputs = 0;
  const int8_t* tiles = nullptr;         // [n_tiles][TILE_BYTES], panel after panel
  const int32_t* first_tile = nullptr;   // [panels + 1]: where each panel's tiles begin
  const uint16_t* groups = nullptr;      // [n_tiles][TILE_GROUPS] of a sparse matrix; null: dense
  const float* scale = nullptr;          // [panels * 16]: what a unit of the weight is worth
  const float* offset = nullptr;         // [panels * 16]: scale times the sum of the row, for the tokens' zero points
  const float* bias = nullptr;           // [panels * 16]
};

// 8-bit activations: value = scale[token] * q + zero[token].
struct Quantised {
  uint8_t* values = nullptr;  // [block][padded_groups][16][4]
  float* scale = nullptr;     // [block * 16]
  float* zero = nullptr;      // [block * 16]
  int n_groups = 0;           // padded groups of a block
};

}  // namespace understudy
