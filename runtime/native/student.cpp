// SPDX-License-Identifier: Apache-2.0
#include "student.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

namespace understudy {
namespace {

// Tokens that go through the layers together: so few that their activations stay in the second cache, but enough to fill
// the experts' blocks, and to be worth the weights of a layer that the second cache cannot keep anyway.
constexpr int PART_TOKENS = 128, LARGE_PART_TOKENS = 256, EXPERTS_PART_TOKENS = 1024;
constexpr size_t LARGE_LAYER_BYTES = 3 << 20;  // at 12 x 768, 2.2 MB are faster with 128 tokens, 2.9 MB as fast with either
constexpr float SMALLEST_NORM = 1e-12f;  // torch.nn.functional.normalize's floor
constexpr size_t MOST_SPACES = 16;       // workspaces kept for later calls
constexpr int SAMPLE_SENTENCES = 8, SAMPLE_TOKENS = 32;  // of random tokens, to learn the features' sizes from
constexpr double MOST_SMOOTHING = 64.0;
constexpr double SMALLEST_SIZE = 1e-9;
constexpr int MOST_ROWS = 1 << 24;       // of a table
constexpr int MOST_THREADS = 1024;
constexpr int LOCK_TRIES = 1000;         // some hundred microseconds

int rounded(int n, int unit) { return (n + unit - 1) / unit * unit; }

// The thread's share of n things, in multiples of `unit`.
struct Share {
  int first, last;
  Share(int n, int thread, int n_threads, int unit = 1) {
    const int units = (n + unit - 1) / unit;
    first = std::min(n, int(int64_t(units) * thread / n_threads) * unit);
    last = std::min(n, int(int64_t(units) * (thread + 1) / n_threads) * unit);
  }
};

std::string text(const std::vector<size_t>& shape) {
  std::string s = "[";
  for (size_t n : shape) s += (s.size() > 1 ? ", " : "") + std::to_string(n);
  return s + "]";
}

void require(bool holds, const char* rule) {
  if (!holds) throw std::invalid_argument(rule);
}

void require_size(int n, int least, int most, const char* name) {
  if (n < least || n > most)
    throw std::invalid_argument(std::string(name) + " must lie in " + std::to_string(least) + " to " + std::to_string(most) +
                                ", got " + std::to_string(n));
}

void check(const Shape& s) {
  require_size(s.vocabulary_size, 1, MOST_ROWS, "vocabulary_size");
  require_size(s.output_dim, 1, MOST_INPUTS, "output_dim");
  require_size(s.static_dim, 0, MOST_INPUTS, "static_dim");
  require_size(s.n_layers, 0, MOST_ROWS, "n_layers");
  require(s.n_layers > 0 || s.static_path, "a student needs layers or a static path");
  if (s.n_layers == 0) {
    require(s.width == 0 && s.n_heads == 0 && s.head_width == 0, "a student without layers must have no width and no heads");
    return;
  }
  require_size(s.width, 1, MOST_INPUTS, "width");
  require_size(s.n_heads, 1, s.width, "n_heads");
  require_size(s.head_width, 1, s.width / s.n_heads, "head_width");
  require_size(s.units, 1, MOST_INPUTS, "units");
  require_size(s.n_experts, 0, MOST_INPUTS, "n_experts");
  require_size(s.max_tokens, 1, MOST_ROWS, "max_tokens");
  require_size(s.embedding_dim, 0, MOST_INPUTS, "embedding_dim");
  require_size(s.activation, 1, 3, "activation");
  require(s.projection || s.width == s.output_dim, "without a projection the width must be output_dim");
  require(s.layer_norm_epsilon > 0.0f && std::isfinite(s.layer_norm_epsilon), "layer_norm_epsilon must be positive and finite");
}

// The lock, unless it cannot be had: a fork copies it locked if another thread holds it, which the child does not have.
std::unique_lock<std::mutex> lock_soon(std::mutex& mutex) {
  std::unique_lock<std::mutex> lock(mutex, std::defer_lock);
  for (int tries = 0; tries < LOCK_TRIES && !lock.try_lock(); ++tries) std::this_thread::yield();
  return lock;
}

// Sentences of random tokens, the same for every student of a vocabulary.
struct Sample {
  std::vector<int32_t> token_ids;
  std::vector<int64_t> offsets{0};

  explicit Sample(const Shape& s) {
    uint64_t state = 1;
    for (int i = 0; i < SAMPLE_SENTENCES; ++i) {
      for (int t = 0; t < std::min(SAMPLE_TOKENS, s.max_tokens); ++t) {
        state = state * 6364136223846793005u + 1442695040888963407u;  // Knuth's MMIX generator
        token_ids.push_back(int32_t((state >> 33) % uint64_t(s.vocabulary_size)));
      }
      offsets.push_back(int64_t(token_ids.size()));
    }
  }
};

}  // namespace

// Sentences first to last - 1 of a call.
struct Student::Part {
  const int32_t* token_ids;
  const int64_t* offsets;
  size_t first, last;
  float* vectors;

  int n_sentences() const { return int(last - first); }
  int n_tokens() const { return int(offsets[last] - offsets[first]); }
};

// The memory of one part on its way through the layers.
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

Student::Student(const Shape& shape, const std::map<std::string, Tensor>& tensors, const Kernels& kernels)
    : shape_(shape), kernels_(kernels), part_tokens_(PART_TOKENS) {
  check(shape);
  const Shape& s = shape_;
  const auto vocabulary = size_t(s.vocabulary_size);
  const auto table = [&](const char* name, int width) {
    const Tensor& t = tensor(tensors, name, {vocabulary, size_t(width)});
    n_bytes_ += vocabulary * (size_t(width) + sizeof(float));
    return pack_table(t.data, vocabulary, size_t(width));
  };
  if (s.n_layers) {
    tokens_ = table("embeddings.tokens", s.embedding_dim ? s.embedding_dim : s.width);
    if (s.embedding_dim) expand_ = matrix(tensors, "embeddings.expand", s.width, s.embedding_dim);
    const Tensor& positions = tensor(tensors, "embeddings.positions", {size_t(s.max_tokens), size_t(s.width)});
    positions_.assign(positions.data, positions.data + size_t(s.max_tokens) * s.width);
    n_bytes_ += positions_.size() * sizeof(float);
    embedding_norm_ = norm(tensors, "embeddings.norm");
    const int attention_width = s.n_heads * s.head_width;
    Sample sample(s);
    Workspace space(s, kernels, int(sample.token_ids.size()), SAMPLE_SENTENCES, 1);
    Barrier alone(1);
    look_up({sample.token_ids.data(), sample.offsets.data(), 0, SAMPLE_SENTENCES, nullptr}, space, 0, 1, alone);
    layers_.reserve(size_t(s.n_layers));
    const size_t n_bytes_before = weights_.n_bytes();
    for (int i = 0; i < s.n_layers; ++i) {
      const std::string name = "layers." + std::to_string(i) + ".";
      Norm& before = i ? layers_.back().feed_forward_norm : embedding_norm_;
      smooth(before, tensor(tensors, name + "attention.qkv.weight", {3 * size_t(attention_width), size_t(s.width)}), space);
      Layer& layer = layers_.emplace_back();
      layer.qkv = matrix(tensors, name + "attention.qkv", 3 * attention_width, s.width, before.weights.smoothing);
      layer.attention_output = matrix(tensors, name + "attention.output", s.width, attention_width);
      layer.attention_norm = norm(tensors, name + "attention.norm");
      attend(layer, space, 0, 1, alone);
      add_feed_forward(layer, tensors, name + "feed_forward.", space);
      feed_forward(layer, space, 0, 1, alone);
    }
    if (s.n_experts)
      part_tokens_ = EXPERTS_PART_TOKENS;
    else if (weights_.n_bytes() - n_bytes_before > LARGE_LAYER_BYTES * size_t(s.n_layers))
      part_tokens_ = LARGE_PART_TOKENS;
    if (s.projection) projection_ = matrix(tensors, "projection", s.output_dim, s.width);
  }
  if (s.static_path) {
    static_tokens_ = table("static.tokens", s.static_dim ? s.static_dim : s.output_dim);
    if (s.static_dim) static_expand_ = matrix(tensors, "static.expand", s.output_dim, s.static_dim);
  }
}

Student::~Student() = default;

void Student::add_feed_forward(Layer& layer, const std::map<std::string, Tensor>& tensors, const std::string& name,
                               Workspace& space) {
  const Shape& s = shape_;
  const auto units = size_t(s.units), width = size_t(s.width), experts = size_t(s.n_experts);
  if (s.n_experts) {
    const Tensor& router = tensor(tensors, name + "router.weight", {experts, width});
    layer.router.assign(router.data, router.data + experts * width);
  }
  const std::string input = name + (s.n_experts ? "experts_input" : "input");
  const std::string output = name + (s.n_experts ? "experts_output" : "output");
  const auto shape = s.n_experts ? std::vector<size_t>{experts, units, width} : std::vector<size_t>{units, width};
  smooth(layer.attention_norm, tensor(tensors, input + ".weight", shape), space);
  const float* smoothing = layer.attention_norm.weights.smoothing;
  if (!s.n_experts) {
    layer.input.push_back(matrix(tensors, input, s.units, s.width, smoothing));
    layer.output.push_back(matrix(tensors, output, s.width, s.units));
  }
  for (int e = 0; e < s.n_experts; ++e) {
    layer.input.push_back(matrix(tensors, input, s.units, s.width, smoothing, e));
    layer.output.push_back(matrix(tensors, output, s.width, s.units, nullptr, e));
  }
  layer.feed_forward_norm = norm(tensors, name + "norm");
}

// Features that vary much cost all others precision, so activations are divided and weights multiplied by the root of
// the ratio of their sizes (SmoothQuant, Xiao et al. 2023). Random tokens tell a feature's size as well as text does.
void Student::smooth(Norm& norm, const Tensor& weight, Workspace& space) const {
  const auto width = size_t(shape_.width);
  std::vector<float> largest(width, 0.0f), squares(width, 0.0f);
  size_t n_weights = 1;
  for (size_t n : weight.shape) n_weights *= n;
  for (size_t i = 0; i < n_weights; i += width)
    for (size_t f = 0; f < width; ++f) largest[f] = std::max(largest[f], std::fabs(weight.data[i + f]));
  for (int b = 0; b < space.n_blocks; ++b)
    for (size_t f = 0; f < width; ++f)
      for (int lane = 0; lane < BLOCK; ++lane) {
        const float value = space.x[(size_t(b) * width + f) * BLOCK + lane];
        squares[f] += value * value;
      }
  auto* smoothing = reinterpret_cast<float*>(norm.memory.get()) + 2 * width;
  double logarithms = 0.0;
  size_t n_used = 0;
  for (size_t f = 0; f < width; ++f) {
    const double size = std::sqrt(double(squares[f]) / (double(space.n_blocks) * BLOCK));
    const double ratio = std::sqrt(double(largest[f]) / std::max(size, SMALLEST_SIZE));
    smoothing[f] = std::isfinite(ratio) ? float(ratio) : 1.0f;
    if (smoothing[f] > 0.0f) logarithms += std::log(smoothing[f]), ++n_used;
  }
  const double centre = n_used ? std::exp(logarithms / double(n_used)) : 1.0;
  for (size_t f = 0; f < width; ++f)  // a feature that no output uses is left out
    if (smoothing[f] > 0.0f)
      smoothing[f] = float(std::clamp(smoothing[f] / centre, 1.0 / MOST_SMOOTHING, MOST_SMOOTHING));
  norm.weights.smoothing = smoothing;
  kernels_.quantise(space.x, shape_.width, smoothing, 0, space.n_blocks, space.x8);
}

const Tensor& Student::tensor(const std::map<std::string, Tensor>& tensors, const std::string& name,
                              const std::vector<size_t>& shape) const {
  const auto found = tensors.find(name);
  if (found == tensors.end()) throw std::invalid_argument("the student needs the tensor " + name + ", which is missing");
  if (found->second.shape != shape)
    throw std::invalid_argument(name + " must have the shape " + text(shape) + ", got " + text(found->second.shape));
  return found->second;
}

Matrix Student::matrix(const std::map<std::string, Tensor>& tensors, const std::string& name, int n_outputs,
                       int n_inputs, const float* smoothing, int expert) {
  const auto o = size_t(n_outputs), i = size_t(n_inputs), experts = size_t(shape_.n_experts);
  const bool stacked = expert >= 0;
  const auto shape = stacked ? std::vector<size_t>{experts, o, i} : std::vector<size_t>{o, i};
  const bool biased = name.find("expand") == std::string::npos;  // only a factorised table's expansion has no bias
  const Tensor& weight = tensor(tensors, biased ? name + ".weight" : name, shape);
  const float* bias = nullptr;
  if (biased) bias = tensor(tensors, name + ".bias", stacked ? std::vector<size_t>{experts, o} : std::vector<size_t>{o}).data;
  const size_t e = stacked ? size_t(expert) : 0;
  const Matrix packed =
      pack_matrix(weights_, weight.data + e * o * i, bias ? bias + e * o : nullptr, n_outputs, n_inputs, kernels_, smoothing);
  n_sparse_ += packed.groups != nullptr;
  return packed;
}

Student::Norm Student::norm(const std::map<std::string, Tensor>& tensors, const std::string& name) {
  const auto width = size_t(shape_.width);
  const Tensor &weight = tensor(tensors, name + ".weight", {width}), &bias = tensor(tensors, name + ".bias", {width});
  Norm n{Buffer(3 * width * sizeof(float)), {}};
  auto* values = reinterpret_cast<float*>(n.memory.get());
  std::copy(weight.data, weight.data + width, values);
  std::copy(bias.data, bias.data + width, values + width);
  n.weights = {values, values + width, nullptr, shape_.layer_norm_epsilon};
  n_bytes_ += n.memory.size();
  return n;
}

std::unique_ptr<Student::Workspace> Student::borrow(int n_tokens, int n_sentences, int n_threads) const {
  if (const auto lock = lock_soon(spaces_lock_))
    for (auto& space : spaces_)
      if (space->fits(n_tokens, n_sentences, n_threads)) {
        std::swap(space, spaces_.back());
        auto found = std::move(spaces_.back());
        spaces_.pop_back();
        return found;
      }
  return std::make_unique<Workspace>(shape_, kernels_, rounded(std::max(n_tokens, 1), PART_TOKENS), rounded(n_sentences, 16), n_threads);
}

void Student::give_back(std::unique_ptr<Workspace> space) const {
  const auto lock = lock_soon(spaces_lock_);
  if (!lock) return;
  if (spaces_.size() == MOST_SPACES) spaces_.erase(spaces_.begin());
  spaces_.push_back(std::move(space));
}

void Student::embed(const int32_t* token_ids, size_t n_tokens, const int64_t* offsets, size_t n_sentences, int n_threads,
                    float* vectors) const {
  require_size(n_threads, 1, MOST_THREADS, "n_threads");
  require(offsets[0] == 0 && offsets[n_sentences] == int64_t(n_tokens), "offsets must run from 0 to the number of tokens");
  const int64_t most_tokens_each = shape_.n_layers ? shape_.max_tokens : std::numeric_limits<int>::max() / 2;
  for (size_t i = 0; i < n_sentences; ++i) {
    require(offsets[i] <= offsets[i + 1], "offsets must not fall");
    require(offsets[i + 1] <= int64_t(n_tokens), "offsets must not exceed the number of tokens");
    if (const int64_t length = offsets[i + 1] - offsets[i]; length > most_tokens_each)
      throw std::invalid_argument("at most " + std::to_string(most_tokens_each) + " tokens fit this student, got " +
                                  std::to_string(length) + "; cut the sentences");
  }
  for (size_t i = 0; i < n_tokens; ++i)
    if (token_ids[i] < 0 || token_ids[i] >= shape_.vocabulary_size)
      throw std::invalid_argument("token ids must lie in 0 to " + std::to_string(shape_.vocabulary_size - 1) + ", got " +
                                  std::to_string(token_ids[i]) + "; use the student's own tokenizer");

  std::vector<Part> parts;
  for (size_t first = 0; first < n_sentences;) {
    size_t last = first + 1;
    while (last < n_sentences && last - first < size_t(part_tokens_) && offsets[last + 1] - offsets[first] <= part_tokens_)
      ++last;
    parts.push_back({token_ids, offsets, first, last, vectors});
    first = last;
  }

  const bool together = shape_.n_layers && n_threads > 1 && parts.size() < size_t(n_threads);  // too few parts for one each
  if (together) {
    for (const Part& part : parts) {
      auto space = borrow(part.n_tokens(), part.n_sentences(), n_threads);
      crew_.run(n_threads, [&](int thread, int n, Barrier& barrier) {
        encode(part, *space, thread, n, barrier);
        if (thread == 0) finish(part, *space);
      });
      give_back(std::move(space));
    }
    return;
  }
  std::atomic<size_t> next{0};
  int widest = 0, most_sentences = 0;
  for (const Part& part : parts) {
    widest = std::max(widest, part.n_tokens());
    most_sentences = std::max(most_sentences, part.n_sentences());
  }
  n_threads = std::min<int>(n_threads, int(std::max<size_t>(parts.size(), 1)));
  std::vector<std::unique_ptr<Workspace>> spaces;
  for (int i = 0; i < n_threads; ++i) spaces.push_back(borrow(widest, most_sentences, 1));
  crew_.run(n_threads, [&](int thread, int, Barrier&) {
    Barrier alone(1);
    for (size_t i; (i = next.fetch_add(1)) < parts.size();) {
      if (shape_.n_layers) encode(parts[i], *spaces[thread], 0, 1, alone);
      finish(parts[i], *spaces[thread]);
    }
  });
  for (auto& space : spaces) give_back(std::move(space));
}

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
  const Share own(n_blocks, thread, n_threads);
  if (s.embedding_dim) {
    kernels_.look_up(tokens_.rows(), tokens_.row_scales(), nullptr, s.embedding_dim, token_ids, w.positions, n_tokens,
                     own.first, own.last, w.narrow);
    kernels_.quantise(w.narrow, s.embedding_dim, nullptr, own.first, own.last, w.narrow8);
    barrier.wait();
    const Share rows(panels(s.width), thread, n_threads, 2);
    kernels_.product(expand_, w.narrow8, n_blocks, rows.first, rows.last, w.x);
    barrier.wait();
    for (int t = own.first * BLOCK; t < std::min(n_tokens, own.last * BLOCK); ++t) {
      const float* position = positions_.data() + size_t(w.positions[t]) * s.width;
      float* column = w.x + size_t(t / BLOCK) * s.width * BLOCK + t % BLOCK;
      for (int f = 0; f < s.width; ++f) column[f * BLOCK] += position[f];
    }
  } else {
    kernels_.look_up(tokens_.rows(), tokens_.row_scales(), positions_.data(), s.width, token_ids, w.positions, n_tokens,
                     own.first, own.last, w.x);
  }
  kernels_.normalise(w.x, nullptr, s.width, embedding_norm_.weights, own.first, own.last, w.x8);
  barrier.wait();
}

void Student::attend(const Layer& layer, Workspace& w, int thread, int n_threads, Barrier& barrier) const {
  const Shape& s = shape_;
  const int attention_width = s.n_heads * s.head_width;
  const Share own(w.n_blocks, thread, n_threads), qkv(panels(3 * attention_width), thread, n_threads, 2),
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
  kernels_.quantise(w.context, attention_width, nullptr, own.first, own.last, w.context8);
  barrier.wait();
  kernels_.product(layer.attention_output, w.context8, w.n_blocks, out.first, out.last, w.y);
  barrier.wait();
  kernels_.normalise(w.x, w.y, s.width, layer.attention_norm.weights, own.first, own.last, w.x8);
  barrier.wait();
}

void Student::feed_forward(const Layer& layer, Workspace& w, int thread, int n_threads, Barrier& barrier) const {
  if (shape_.n_experts)
    feed_forward_experts(layer, w, thread, n_threads, barrier);
  else
    feed_forward_dense(layer, w, thread, n_threads, barrier);
  const Share own(w.n_blocks, thread, n_threads);
  kernels_.normalise(w.x, w.y, shape_.width, layer.feed_forward_norm.weights, own.first, own.last, w.x8);
  barrier.wait();
}

void Student::feed_forward_dense(const Layer& layer, Workspace& w, int thread, int n_threads, Barrier& barrier) const {
  const Shape& s = shape_;
  const int columns = w.n_blocks * BLOCK;
  const Share units(panels(s.units), thread, n_threads, 2), own(w.n_blocks, thread, n_threads), out(panels(s.width), thread, n_threads, 2);
  float* largest = w.largest + size_t(thread) * columns;
  std::fill(largest, largest + columns, 0.0f);
  kernels_.activate(layer.input[0], w.x8, w.n_blocks, units.first, units.last, s.activation, w.hidden, largest);
  barrier.wait();
  for (int i = own.first * BLOCK; i < own.last * BLOCK; ++i)
    for (int t = 1; t < n_threads; ++t) w.largest[i] = std::max(w.largest[i], w.largest[size_t(t) * columns + i]);
  kernels_.quantise_hidden(w.hidden, s.units, s.activation, w.largest, own.first, own.last, w.hidden8);
  barrier.wait();
  kernels_.product(layer.output[0], w.hidden8, w.n_blocks, out.first, out.last, w.y);
  barrier.wait();
}

void Student::feed_forward_experts(const Layer& layer, Workspace& w, int thread, int n_threads, Barrier& barrier) const {
  const Shape& s = shape_;
  const int n_tokens = w.n_blocks * BLOCK;
  const Share own(w.n_blocks, thread, n_threads);
  kernels_.route(w.x, s.width, layer.router.data(), s.n_experts, own.first, own.last, w.expert, w.probability);
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
  const Share sorted(w.first_block[s.n_experts], thread, n_threads);
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
  kernels_.gather(w.sorted_y, s.width, w.place, w.probability, own.first, own.last, w.y);
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
