// SPDX-License-Identifier: Apache-2.0
// One part of a call (sentences that go through the layers together), and the memory for its activations.
#pragma once

#include <algorithm>

#include "student.h"

namespace understudy {

// Tokens that go through the layers together: few enough for their activations to stay in the L2 cache, but enough to
// fill the experts' blocks, and to amortise reading the weights of a layer that L2 cannot hold anyway.
constexpr int PART_TOKENS = 128, LARGE_PART_TOKENS = 256, EXPERTS_PART_TOKENS = 1024;

// Sentences first to last - 1 of a call.
struct Student::Part {
  const int32_t* token_ids;
  const int64_t* offsets;
  size_t first, last;
  float* vectors;

  int n_sentences() const { return int(last - first); }
  int n_tokens() const { return int(offsets[last] - offsets[first]); }
};

// The activations of one part at a time. Reused by later calls.
class Student::Workspace {
 public:
  Workspace(const Shape& s, const Kernels& kernels, int n_tokens, int n_sentences, int n_threads)
      : n_tokens(n_tokens), n_sentences(n_sentences), n_threads(n_threads),
        hidden_block_bytes(size_t(panels(s.units)) * PANEL * BLOCK * kernels.hidden_bytes) {
    for (int pass = 0; pass < 2; ++pass) {
      Layout layout(pass ? memory_.get() : nullptr);
      divide(layout, s);
      if (!pass) memory_ = Buffer::zeros(layout.used());
    }
  }

  bool fits(int tokens, int sentences, int threads) const {
    return tokens <= n_tokens && sentences <= n_sentences && threads <= n_threads;
  }

  const int n_tokens, n_sentences, n_threads;
  const size_t hidden_block_bytes;
  int n_blocks = 0, n_spans = 0;  // of the present part
  float *x, *y, *qkv, *context;  // y shares its memory with context, hidden with qkv
  std::byte* hidden;
  Quantised x8, context8, hidden8, narrow8;
  float* narrow;          // embeddings before their expansion
  int32_t* positions;
  std::vector<Span> spans;
  float* largest;         // hidden unit of each token: [thread][block * 16]
  std::vector<float*> scratch;
  float *pooled, *results, *row_columns, *result_columns;
  Quantised row8;
  // experts: tokens in the order of their experts
  Quantised sorted8;
  float *sorted_y, *probability;
  int32_t *expert, *place, *origin;   // expert of each token; its column among the sorted; and the token of each of those
  std::vector<int> first_block;       // [n_experts + 1]
  std::vector<int> counts;

  // Whole blocks of tokens, and one that is not whole for each expert that has tokens.
  int sorted_blocks(const Shape& s) const { return blocks(n_tokens) + std::min(s.n_experts, blocks(n_tokens) * BLOCK); }

 private:
  void divide(Layout& layout, const Shape& s) {
    const int n = blocks(n_tokens) + 1, attention_width = s.n_heads * s.head_width;  // one block more: windows look ahead
    const auto floats = [&](int rows, int n_blocks) { return layout.take<float>(size_t(n_blocks) * rows * BLOCK); };
    const auto bytes = [&](Quantised& q, int features, int n_blocks) { q = take_quantised(layout, features, n_blocks); };
    if (s.n_layers) {
      x = floats(s.width, n);
      y = context = floats(std::max(s.width, attention_width), n);
      bytes(x8, s.width, n);
      bytes(context8, attention_width, n);
      narrow = floats(s.embedding_dim, n);
      bytes(narrow8, s.embedding_dim, n);
      positions = layout.take<int32_t>(size_t(n) * BLOCK);
      const int most = sorted_blocks(s);
      const size_t n_hidden = size_t(s.n_experts ? most : n) * hidden_block_bytes;
      hidden = layout.take<std::byte>(std::max(n_hidden, size_t(n) * 3 * attention_width * BLOCK * sizeof(float)));
      qkv = reinterpret_cast<float*>(hidden);
      bytes(hidden8, s.units, s.n_experts ? most : n);
      if (s.n_experts) {
        bytes(sorted8, s.width, most);
        sorted_y = floats(s.width, most);
        expert = layout.take<int32_t>(size_t(n) * BLOCK);
        place = layout.take<int32_t>(size_t(n) * BLOCK);
        origin = layout.take<int32_t>(size_t(most) * BLOCK);
        probability = layout.take<float>(size_t(n) * BLOCK);
        first_block.assign(size_t(s.n_experts) + 1, 0);
        counts.assign(size_t(s.n_experts), 0);
      }
      largest = layout.take<float>(size_t(n_threads) * (s.n_experts ? most : n) * BLOCK);
      scratch.assign(size_t(n_threads), nullptr);
      for (float*& piece : scratch) piece = layout.take<float>(attention_scratch(n_tokens, s.head_width));
    }
    spans.resize(size_t(n_sentences));
    const int columns = blocks(n_sentences), widest = std::max({s.width, s.static_dim, s.output_dim});
    pooled = layout.take<float>(size_t(n_sentences) * widest);
    results = layout.take<float>(size_t(n_sentences) * s.output_dim);
    row_columns = floats(widest, columns);
    result_columns = floats(s.output_dim, columns);
    bytes(row8, widest, columns);
  }

  Buffer memory_;
};

}  // namespace understudy
