// SPDX-License-Identifier: Apache-2.0
// What an instruction set must be able to do: one table of functions for each, chosen when a student is loaded.
#pragma once

#include "matrix.h"

namespace understudy {

struct NormWeights {
  const float* weight;
  const float* bias;
  const float* smoothing;  // what each feature is multiplied by before it is taken in eight bits; null: nothing
  float epsilon;
};

// One sentence in a batch of tokens that stand end to end.
struct Span {
  int first;   // column of its first token
  int length;  // tokens
};

struct Kernels {
  const char* name;

  // y = matrix x + bias for panels first_panel to last_panel - 1; y is [block][n_outputs][16].
  void (*product)(const Matrix& matrix, const Quantised& x, int n_blocks, int first_panel, int last_panel, float* y);

  // Hidden units: activation(matrix x + bias) in a form of their own, [block][panels * 16][16] of hidden_bytes each; and
  // `largest` of each token becomes the largest of them, if it was less.
  void (*activate)(const Matrix& matrix, const Quantised& x, int n_blocks, int first_panel, int last_panel, int activation,
                   std::byte* hidden, float* largest);
  size_t hidden_bytes;

  // Hidden units in eight bits.
  void (*quantise_hidden)(const std::byte* hidden, int n_units, int activation, const float* largest, int first_block,
                          int last_block, const Quantised& q);

  // x + addend (null: x alone), normalised over the features, into x; and the same in eight bits into q.
  // For blocks first_block to last_block - 1.
  void (*normalise)(float* x, const float* addend, int width, const NormWeights& norm, int first_block,
                    int last_block, const Quantised& q);

  // x [block][width][16] in eight bits, each feature times its smoothing (null: as it is).
  void (*quantise)(const float* x, int width, const float* smoothing, int first_block, int last_block, const Quantised& q);

  // Rows of an int8 table with scales (and position rows in float32, or null) for the tokens of blocks, as columns.
  void (*look_up)(const int8_t* table, const float* scales, const float* positions, int width,
                  const int32_t* token_ids, const int32_t* token_positions, int n_tokens, int first_block,
                  int last_block, float* x);

  // Self-attention of one sentence's heads first_head to last_head - 1. qkv is [block][3 * heads * head_width][16],
  // context [block][heads * head_width][16]. scratch: attention_scratch() floats, 64-byte aligned.
  void (*attend)(const float* qkv, Span sentence, int n_heads, int head_width, int first_head, int last_head,
                 float* context, float* scratch);

  // The mean of the tokens' rows of an int8 table with scales: the static path.
  void (*average_rows)(const int8_t* table, const float* scales, int width, const int32_t* token_ids, int n_tokens,
                       float* mean);

  // The most probable expert of each token of blocks, and its probability. router is [n_experts][width].
  void (*route)(const float* x, int width, const float* router, int n_experts, int first_block, int last_block,
                int32_t* expert, float* probability);

  // Column i of blocks first_block to last_block - 1 of `to` becomes column columns[i] of `from`, times factor[i] if there are
  // factors; both are [block][n_rows][16].
  void (*gather)(const float* from, int n_rows, const int32_t* columns, const float* factor, int first_block,
                 int last_block, float* to);

  // The mean of a sentence's columns of x [block][width][16], as a row.
  void (*average_columns)(const float* x, int width, Span sentence, float* mean);

  // The sparse product is the faster one for a matrix that keeps at most this fraction of its 16 x 4 blocks.
  float sparse_below;
};

// Floats of scratch that `attend` needs for a sentence.
static inline constexpr size_t attention_scratch(int n_tokens, int head_width) {
  const size_t columns = size_t(blocks(n_tokens) + 1) / 2 * 2 * BLOCK, rows = size_t(head_width + 31) / 32 * 32;
  return columns * (4 * rows + 4 * BLOCK) + 4096;
}

extern const Kernels PORTABLE;
#if defined(__x86_64__)
extern const Kernels AVX2;
extern const Kernels AVX_VNNI;
extern const Kernels AVX512_VNNI;
extern const Kernels AMX;
#endif

}  // namespace understudy
