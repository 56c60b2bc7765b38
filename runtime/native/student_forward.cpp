// SPDX-License-Identifier: Apache-2.0
// The forward pass of one part, shared by the threads of a call: embeddings, layers, pooling, static path.
#include "student.h"

#include <algorithm>
#include <cmath>

#include "student_workspace.h"

namespace understudy {
namespace {

constexpr float SMALLEST_NORM = 1e-12f;  // torch.nn.functional.normalize's floor

// The thread's range of n items, in multiples of `unit`.
struct Slice {
  int first, last;
  Slice(int n, int thread, int n_threads, int unit = 1) {
    const int units = (n + unit - 1) / unit;
    first = std::min(n, int(int64_t(units) * thread / n_threads) * unit);
    last = std::min(n, int(int64_t(units) * (thread + 1) / n_threads) * unit);
  }
};

}  // namespace

void Student::encode(const Part& part, Workspace& w, int thread, int n_threads, Barrier& barrier) const {
  look_up(part, w, thread, n_threads, barrier);
  if (part.n_tokens() == 0) return;
  for (const Layer& layer : layers_) {
    attend(layer, w, thread, n_threads, barrier);
    feed_forward(layer, w, thread, n_threads, barrier);
  }
}

// Each stage leaves the hidden vectors in x and, in eight bits, in x8, and ends with a barrier.
void Student::look_up(const Part& part, Workspace& w, int thread, int n_threads, Barrier& barrier) const {
  const Shape& s = shape_;
  const int n_tokens = part.n_tokens(), n_blocks = blocks(n_tokens);
  const int32_t* token_ids = part.token_ids + part.offsets[part.first];
  if (thread == 0) {
    w.n_blocks = n_blocks;
    w.n_spans = part.n_sentences();
    int column = 0;
    for (int i = 0; i < w.n_spans; ++i) {
      const int length = int(part.offsets[part.first + i + 1] - part.offsets[part.first + i]);
      w.spans[i] = {column, length};
      for (int t = 0; t < length; ++t) w.positions[column + t] = t;
      column += length;
    }
  }
  if (n_tokens == 0) return;
  barrier.wait();
  const Slice own_blocks(n_blocks, thread, n_threads);
  if (s.embedding_dim) {
    kernels_.look_up(tokens_.rows(), tokens_.row_scales(), nullptr, s.embedding_dim, token_ids, w.positions, n_tokens,
                     own_blocks.first, own_blocks.last, w.narrow);
    kernels_.quantise(w.narrow, s.embedding_dim, nullptr, own_blocks.first, own_blocks.last, w.narrow8);
    barrier.wait();
    const Slice rows(panels(s.width), thread, n_threads, 2);
    kernels_.product(expand_, w.narrow8, n_blocks, rows.first, rows.last, w.x);
    barrier.wait();
    for (int t = own_blocks.first * BLOCK; t < std::min(n_tokens, own_blocks.last * BLOCK); ++t) {
      const float* position = positions_.data() + size_t(w.positions[t]) * s.width;
      float* column = w.x + size_t(t / BLOCK) * s.width * BLOCK + t % BLOCK;
      for (int f = 0; f < s.width; ++f) column[f * BLOCK] += position[f];
    }
  } else {
    kernels_.look_up(tokens_.rows(), tokens_.row_scales(), positions_.data(), s.width, token_ids, w.positions, n_tokens,
                     own_blocks.first, own_blocks.last, w.x);
  }
  kernels_.normalise(w.x, nullptr, s.width, embedding_norm_.weights, own_blocks.first, own_blocks.last, w.x8);
  barrier.wait();
}

void Student::attend(const Layer& layer, Workspace& w, int thread, int n_threads, Barrier& barrier) const {
  const Shape& s = shape_;
  const int attention_width = s.n_heads * s.head_width;
  const Slice own_blocks(w.n_blocks, thread, n_threads), qkv(panels(3 * attention_width), thread, n_threads, 2),
      out(panels(s.width), thread, n_threads, 2), heads(w.n_spans * s.n_heads, thread, n_threads);
  kernels_.product(layer.qkv, w.x8, w.n_blocks, qkv.first, qkv.last, w.qkv);
  barrier.wait();
  for (int task = heads.first; task < heads.last;) {
    const int sentence = task / s.n_heads, head = task % s.n_heads;
    const int last = std::min(s.n_heads, head + heads.last - task);
    if (w.spans[sentence].length > 0)
      kernels_.attend(w.qkv, w.spans[sentence], s.n_heads, s.head_width, head, last, w.context, w.scratch[thread]);
    task += last - head;
  }
  barrier.wait();
  kernels_.quantise(w.context, attention_width, nullptr, own_blocks.first, own_blocks.last, w.context8);
  barrier.wait();
  kernels_.product(layer.attention_output, w.context8, w.n_blocks, out.first, out.last, w.y);
  barrier.wait();
  kernels_.normalise(w.x, w.y, s.width, layer.attention_norm.weights, own_blocks.first, own_blocks.last, w.x8);
  barrier.wait();
}

void Student::feed_forward(const Layer& layer, Workspace& w, int thread, int n_threads, Barrier& barrier) const {
  if (shape_.n_experts)
    feed_forward_experts(layer, w, thread, n_threads, barrier);
  else
    feed_forward_dense(layer, w, thread, n_threads, barrier);
  const Slice own_blocks(w.n_blocks, thread, n_threads);
  kernels_.normalise(w.x, w.y, shape_.width, layer.feed_forward_norm.weights, own_blocks.first, own_blocks.last, w.x8);
  barrier.wait();
}

void Student::feed_forward_dense(const Layer& layer, Workspace& w, int thread, int n_threads, Barrier& barrier) const {
  const Shape& s = shape_;
  const int columns = w.n_blocks * BLOCK;
  const Slice units(panels(s.units), thread, n_threads, 2), own_blocks(w.n_blocks, thread, n_threads), out(panels(s.width), thread, n_threads, 2);
  float* largest = w.largest + size_t(thread) * columns;
  std::fill(largest, largest + columns, 0.0f);
  kernels_.activate(layer.input[0], w.x8, w.n_blocks, units.first, units.last, s.activation, w.hidden, largest);
  barrier.wait();
  for (int i = own_blocks.first * BLOCK; i < own_blocks.last * BLOCK; ++i)
    for (int t = 1; t < n_threads; ++t) w.largest[i] = std::max(w.largest[i], w.largest[size_t(t) * columns + i]);
  kernels_.quantise_hidden(w.hidden, s.units, s.activation, w.largest, own_blocks.first, own_blocks.last, w.hidden8);
  barrier.wait();
  kernels_.product(layer.output[0], w.hidden8, w.n_blocks, out.first, out.last, w.y);
  barrier.wait();
}

void Student::feed_forward_experts(const Layer& layer, Workspace& w, int thread, int n_threads, Barrier& barrier) const {
  const Shape& s = shape_;
  const int n_tokens = w.n_blocks * BLOCK;
  const Slice own_blocks(w.n_blocks, thread, n_threads);
  kernels_.route(w.x, s.width, layer.router.data(), s.n_experts, own_blocks.first, own_blocks.last, w.expert, w.probability);
  barrier.wait();
  if (thread == 0) {  // tokens in the order of their experts, each expert's from a new block on
    std::fill(w.counts.begin(), w.counts.end(), 0);
    for (int t = 0; t < n_tokens; ++t) w.place[t] = w.counts[w.expert[t]]++;
    for (int e = 0; e < s.n_experts; ++e) w.first_block[e + 1] = w.first_block[e] + blocks(w.counts[e]);
    std::fill(w.origin, w.origin + w.first_block[s.n_experts] * BLOCK, 0);  // a column that is left over repeats a token
    for (int t = 0; t < n_tokens; ++t) {
      w.place[t] += w.first_block[w.expert[t]] * BLOCK;
      w.origin[w.place[t]] = t;
    }
  }
  barrier.wait();
  const Slice sorted(w.first_block[s.n_experts], thread, n_threads);
  kernels_.gather(reinterpret_cast<const float*>(w.x8.values), w.x8.n_groups, w.origin, nullptr, sorted.first, sorted.last,
                  reinterpret_cast<float*>(w.sorted8.values));
  for (int i = sorted.first * BLOCK; i < sorted.last * BLOCK; ++i) {
    w.sorted8.scale[i] = w.x8.scale[w.origin[i]];
    w.sorted8.zero[i] = w.x8.zero[w.origin[i]];
  }
  barrier.wait();
  for (int e = thread; e < s.n_experts; e += n_threads) {
    const int first = w.first_block[e], n = w.first_block[e + 1] - first, columns = n * BLOCK;
    if (n == 0) continue;
    const auto part = [](const Quantised& q, int block) {
      return Quantised{q.values + size_t(block) * q.n_groups * BLOCK * GROUP, q.scale + block * BLOCK, q.zero + block * BLOCK, q.n_groups};
    };
    float* largest = w.largest + first * BLOCK;
    std::fill(largest, largest + columns, 0.0f);
    const int place = n_threads > 1 ? first : 0;  // alone, in the place of the expert before, which is in the cache
    std::byte* hidden = w.hidden + size_t(place) * w.hidden_block_bytes;
    kernels_.activate(layer.input[e], part(w.sorted8, first), n, 0, panels(s.units), s.activation, hidden, largest);
    kernels_.quantise_hidden(hidden, s.units, s.activation, largest, 0, n, part(w.hidden8, place));
    kernels_.product(layer.output[e], part(w.hidden8, place), n, 0, panels(s.width), w.sorted_y + size_t(first) * s.width * BLOCK);
  }
  barrier.wait();
  kernels_.gather(w.sorted_y, s.width, w.place, w.probability, own_blocks.first, own_blocks.last, w.y);
}

void Student::multiply_rows(const Matrix& matrix, const float* rows, int n_rows, Workspace& w, float* results) const {
  const int n_blocks = blocks(n_rows), width = matrix.n_inputs;
  for (int r = 0; r < n_blocks * BLOCK; ++r) {
    const float* row = rows + size_t(std::min(r, n_rows - 1)) * width;
    float* column = w.row_columns + size_t(r / BLOCK) * width * BLOCK + r % BLOCK;
    for (int f = 0; f < width; ++f) column[f * BLOCK] = row[f];
  }
  Quantised q = w.row8;
  q.n_groups = padded_groups(width);
  kernels_.quantise(w.row_columns, width, nullptr, 0, n_blocks, q);
  kernels_.product(matrix, q, n_blocks, 0, panels(matrix.n_outputs), w.result_columns);
  for (int r = 0; r < n_rows; ++r) {
    const float* column = w.result_columns + size_t(r / BLOCK) * matrix.n_outputs * BLOCK + r % BLOCK;
    for (int f = 0; f < matrix.n_outputs; ++f) results[size_t(r) * matrix.n_outputs + f] = column[f * BLOCK];
  }
}

void Student::finish(const Part& part, Workspace& w) const {
  const Shape& s = shape_;
  const int n_sentences = part.n_sentences();
  const auto dim = size_t(s.output_dim);
  float* vectors = part.vectors + part.first * dim;
  if (s.n_layers) {
    for (int i = 0; i < n_sentences; ++i) {
      float* row = w.pooled + size_t(i) * s.width;
      Span span = w.spans[i];
      if (s.first_token_pooling) span.length = std::min(span.length, 1);
      kernels_.average_columns(w.x, s.width, span, row);
    }
    if (s.projection)
      multiply_rows(projection_, w.pooled, n_sentences, w, vectors);
    else
      std::copy(w.pooled, w.pooled + n_sentences * dim, vectors);
    if (s.tanh) std::transform(vectors, vectors + n_sentences * dim, vectors, [](float v) { return std::tanh(v); });
  } else {
    std::fill(vectors, vectors + n_sentences * dim, 0.0f);
  }
  if (s.static_path) {
    const int width = s.static_dim ? s.static_dim : s.output_dim;
    for (int i = 0; i < n_sentences; ++i) {
      const int64_t first = part.offsets[part.first + i], last = part.offsets[part.first + i + 1];
      kernels_.average_rows(static_tokens_.rows(), static_tokens_.row_scales(), width, part.token_ids + first,
                            int(last - first), w.pooled + size_t(i) * width);
    }
    const float* added = w.pooled;
    if (s.static_dim) {
      multiply_rows(static_expand_, w.pooled, n_sentences, w, w.results);
      added = w.results;
    }
    for (size_t i = 0; i < n_sentences * dim; ++i) vectors[i] += added[i];
  }
  if (!s.normalise) return;
  for (int i = 0; i < n_sentences; ++i) {
    float* row = vectors + i * dim;
    double squares = 0.0;
    for (size_t f = 0; f < dim; ++f) squares += double(row[f]) * row[f];
    const float factor = 1.0f / std::max(float(std::sqrt(squares)), SMALLEST_NORM);
    for (size_t f = 0; f < dim; ++f) row[f] *= factor;
  }
}

}  // namespace understudy
