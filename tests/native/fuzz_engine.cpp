// SPDX-License-Identifier: Apache-2.0
// Random students and sentences, possible and impossible ones, through the engine on every instruction set.
//
// Bytes become a student, a batch and a few faults. What is impossible must throw std::invalid_argument and nothing
// else; what is possible must give the same bits with any number of threads, in any company and from several callers at
// once, and finite numbers if the weights are those of a student. The sanitizers see the rest, except what AMX's tiles
// read and write; most of that the vector kernels read too. A target for libFuzzer; fuzz_main.cpp runs it without.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <thread>

#include "instruction_set.h"
#include "product.h"
#include "student.h"

using namespace understudy;

namespace {

void demand(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz_engine: %s\n", what);
  std::abort();
}

// Choices read from the bytes; the first of each once they have run out.
class Choices {
 public:
  Choices(const uint8_t* bytes, size_t n) : bytes_(bytes), n_(n) {}

  int up_to(int most) {  // 0 to most
    uint32_t value = 0;
    for (int i = 0; i < (most > 255 ? 4 : 1); ++i) value = value << 8 | (n_ ? (--n_, *bytes_++) : 0);
    return int(value % (uint32_t(most) + 1));
  }
  int between(int least, int most) { return least + up_to(most - least); }
  bool one_in(int n) { return up_to(n - 1) == n - 1; }
  template <typename T>
  T of(std::initializer_list<T> values) {
    return values.begin()[up_to(int(values.size()) - 1)];
  }

 private:
  const uint8_t* bytes_;
  size_t n_;
};

enum class Size { USUAL, ZERO, TINY, HUGE_, NO_NUMBER };

// Tensors in memory of their exact sizes.
struct Weights {
  std::map<std::string, std::vector<float>> values;
  std::map<std::string, Tensor> tensors;

  void borrow(const std::string& name, const std::vector<size_t>& shape) {
    tensors[name] = {values.at(name).data(), shape};
  }
};

class Maker {
 public:
  Maker(Size size, float sparsity, uint32_t seed) : size_(size), sparsity_(sparsity), generator_(seed) {}

  void add(const std::string& name, const std::vector<size_t>& shape) {
    size_t n = 1;
    for (size_t extent : shape) n *= extent;
    std::vector<float> values(n);
    const bool matrix = shape.size() > 1 && name.find("embeddings.tokens") != 0;
    const bool gain = name.find("norm.weight") != std::string::npos;
    std::normal_distribution<float> normal(gain ? 1.0f : 0.0f, matrix ? 1.0f / std::sqrt(float(shape.back())) : 0.1f);
    for (float& value : values) value = normal(generator_) * factor();
    if (matrix && sparsity_ > 0.0f) prune(values, shape.back());
    weights.values[name] = std::move(values);
    weights.borrow(name, shape);
  }
  void linear(const std::string& name, std::vector<size_t> shape) {
    add(name + ".weight", shape);
    shape.pop_back();
    add(name + ".bias", shape);
  }

  Weights weights;

 private:
  float factor() {
    switch (size_) {
      case Size::USUAL: return 1.0f;
      case Size::ZERO: return 0.0f;
      case Size::TINY: return 1e-41f;
      case Size::HUGE_: return 1e38f;
      case Size::NO_NUMBER: return generator_() % 8 ? 1.0f : std::numeric_limits<float>::quiet_NaN();
    }
    return 1.0f;
  }

  void prune(std::vector<float>& values, size_t n_inputs) {
    const size_t n_outputs = values.size() / n_inputs;
    std::uniform_real_distribution<float> uniform;
    for (size_t o = 0; o < n_outputs; o += PANEL)
      for (size_t i = 0; i < n_inputs; i += GROUP) {
        if (uniform(generator_) >= sparsity_) continue;
        for (size_t row = o; row < std::min(o + PANEL, n_outputs); ++row)
          std::fill_n(values.begin() + long(row * n_inputs + i), std::min(size_t(GROUP), n_inputs - i), 0.0f);
      }
  }

  const Size size_;
  const float sparsity_;
  std::mt19937 generator_;
};

Shape choose_shape(Choices& choices) {
  Shape s;
  s.vocabulary_size = choices.between(1, 60);
  s.n_layers = choices.up_to(2);
  s.static_path = s.n_layers == 0 || choices.one_in(3);
  s.normalise = choices.one_in(2);
  s.output_dim = choices.between(1, 80);
  if (s.static_path && choices.one_in(2)) s.static_dim = choices.between(1, 70);
  if (s.n_layers == 0) return s;
  const bool wide = choices.one_in(4);
  s.n_heads = choices.between(1, wide ? 2 : 4);
  s.head_width = wide ? choices.between(33, 80) : choices.between(1, 33);
  s.width = s.n_heads * s.head_width + choices.of({0, 0, 1, 13});
  s.units = choices.between(1, 100);
  s.n_experts = choices.one_in(3) ? choices.of({2, 3, 5, 40}) : 0;
  s.max_tokens = choices.of({1, 16, 33, 90, 200, 300});
  s.embedding_dim = choices.one_in(3) ? choices.between(1, 66) : 0;
  s.first_token_pooling = choices.one_in(3);
  s.projection = choices.one_in(2);
  s.tanh = s.projection && choices.one_in(2);
  if (!s.projection) s.output_dim = s.width;
  s.activation = choices.between(1, 3);
  s.layer_norm_epsilon = choices.of({1e-12f, 1e-5f, 0x1p-126f, 1.0f});
  return s;
}

Weights make_weights(const Shape& s, Size size, float sparsity, uint32_t seed) {
  Maker maker(size, sparsity, seed);
  const auto vocabulary = size_t(s.vocabulary_size), width = size_t(s.width), units = size_t(s.units);
  const auto dim = size_t(s.output_dim), attention = size_t(s.n_heads * s.head_width), experts = size_t(s.n_experts);
  if (s.n_layers) {
    maker.add("embeddings.tokens", {vocabulary, s.embedding_dim ? size_t(s.embedding_dim) : width});
    if (s.embedding_dim) maker.add("embeddings.expand", {width, size_t(s.embedding_dim)});
    maker.add("embeddings.positions", {size_t(s.max_tokens), width});
    maker.linear("embeddings.norm", {width, 1});
    maker.weights.borrow("embeddings.norm.weight", {width});
  }
  for (int i = 0; i < s.n_layers; ++i) {
    const std::string layer = "layers." + std::to_string(i) + ".", feed_forward = layer + "feed_forward.";
    maker.linear(layer + "attention.qkv", {3 * attention, width});
    maker.linear(layer + "attention.output", {width, attention});
    if (experts) {
      maker.add(feed_forward + "router.weight", {experts, width});
      maker.linear(feed_forward + "experts_input", {experts, units, width});
      maker.linear(feed_forward + "experts_output", {experts, width, units});
    } else {
      maker.linear(feed_forward + "input", {units, width});
      maker.linear(feed_forward + "output", {width, units});
    }
    for (const std::string& norm : {layer + "attention.norm", feed_forward + "norm"}) {
      maker.linear(norm, {width, 1});
      maker.weights.borrow(norm + ".weight", {width});
    }
  }
  if (s.projection) maker.linear("projection", {dim, width});
  if (s.static_path) maker.add("static.tokens", {vocabulary, s.static_dim ? size_t(s.static_dim) : dim});
  if (s.static_dim) maker.add("static.expand", {dim, size_t(s.static_dim)});
  return std::move(maker.weights);
}

int hostile_number(Choices& choices) {
  constexpr int least = std::numeric_limits<int>::min(), most = std::numeric_limits<int>::max();
  return choices.of({0, -1, 1, 2, 7, 65536, 65537, 1 << 24, (1 << 24) + 1, most, most - 15, least});
}

// Changes what a student says of itself or one of its tensors; returns whether it is still possible.
void damage(Choices& choices, Shape& s, Weights& weights) {
  int* const numbers[] = {&s.vocabulary_size, &s.output_dim, &s.static_dim, &s.n_layers,   &s.width,         &s.n_heads,
                          &s.head_width,      &s.units,      &s.n_experts,  &s.max_tokens, &s.embedding_dim, &s.activation};
  if (choices.one_in(2)) {
    *numbers[choices.up_to(int(std::size(numbers)) - 1)] = hostile_number(choices);
    return;
  }
  auto chosen = weights.tensors.begin();
  std::advance(chosen, choices.up_to(int(weights.tensors.size()) - 1));
  switch (choices.up_to(3)) {
    case 0: weights.tensors.erase(chosen); break;
    case 1: chosen->second.shape.pop_back(); break;
    case 2: chosen->second.shape.push_back(1); break;
    case 3: chosen->second.shape[0] += size_t(1) << 32; break;
  }
}

struct Batch {
  std::vector<int32_t> token_ids;
  std::vector<int64_t> offsets{0};
  bool possible = true;

  size_t n_sentences() const { return offsets.size() - 1; }
};

Batch choose_batch(Choices& choices, const Shape& s) {
  Batch batch;
  const int longest = s.n_layers ? s.max_tokens : 400;
  std::mt19937 generator(uint32_t(choices.up_to(255)));
  for (int n = choices.of({0, 1, 1, 2, 3, 5, 140}); n > 0; --n) {
    const int long_one = n > 2 ? 64 : n > 1 ? 129 : 400;
    const int length = n > 20 ? choices.up_to(1) : choices.of({0, 1, 2, 7, 15, 16, 17, 31, 33, 48, 64, long_one});
    for (int t = 0; t < std::min(length, longest); ++t)
      batch.token_ids.push_back(int32_t(generator() % uint32_t(s.vocabulary_size)));
    batch.offsets.push_back(int64_t(batch.token_ids.size()));
  }
  if (choices.one_in(8) && !batch.token_ids.empty())
    batch.token_ids[size_t(choices.up_to(int(batch.token_ids.size()) - 1))] = hostile_number(choices);
  if (choices.one_in(8))
    batch.offsets[size_t(choices.up_to(int(batch.offsets.size()) - 1))] =
        choices.one_in(2) ? hostile_number(choices) : int64_t(uint64_t(hostile_number(choices)) << 31);
  if (choices.one_in(16) && s.n_layers) {
    batch.token_ids.resize(batch.token_ids.size() + size_t(s.max_tokens) + 1, 0);
    batch.offsets.push_back(int64_t(batch.token_ids.size()));
  }

  for (int32_t id : batch.token_ids) batch.possible &= id >= 0 && id < s.vocabulary_size;
  batch.possible &= batch.offsets.front() == 0 && batch.offsets.back() == int64_t(batch.token_ids.size());
  for (size_t i = 0; i + 1 < batch.offsets.size(); ++i) {
    const auto end = uint64_t(batch.offsets[i + 1]), length = end - uint64_t(batch.offsets[i]);
    batch.possible &= end <= batch.token_ids.size() && length <= uint64_t(s.n_layers ? s.max_tokens : 1 << 30);
  }
  return batch;
}

std::vector<float> embed(const Student& student, const Batch& batch, int n_threads) {
  std::vector<float> vectors(batch.n_sentences() * size_t(student.shape().output_dim));
  bool refused = false;
  try {
    student.embed(batch.token_ids.data(), batch.token_ids.size(), batch.offsets.data(), batch.n_sentences(), n_threads,
                  vectors.data());
  } catch (const std::invalid_argument&) {
    refused = true;
  }
  demand(refused != batch.possible, batch.possible ? "a possible batch was refused" : "an impossible batch was taken");
  return vectors;
}

void check_batch(Choices& choices, const Student& student, const Batch& batch, bool finite) {
  const std::vector<float> vectors = embed(student, batch, 1);
  if (!batch.possible) return;
  for (float value : vectors) demand(!finite || std::isfinite(value), "a vector is not finite");
  if (!finite) {  // which of two NaN comes out is nobody's promise
    embed(student, batch, 3);
    return;
  }
  for (int n_threads = 2; n_threads <= 3; ++n_threads)
    demand(embed(student, batch, n_threads) == vectors, "threads change a vector");
  if (choices.one_in(3)) {
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 3; ++caller)
      callers.emplace_back([&, caller] {
        for (int turn = 0; turn < 2; ++turn)
          demand(embed(student, batch, 1 + (caller + turn) % 3) == vectors, "callers at once change a vector");
      });
    for (std::thread& caller : callers) caller.join();
  }
  if (batch.n_sentences() > 0) {
    const auto i = size_t(choices.up_to(int(batch.n_sentences()) - 1)), dim = size_t(student.shape().output_dim);
    const auto first = batch.token_ids.begin() + batch.offsets[i], last = batch.token_ids.begin() + batch.offsets[i + 1];
    const std::vector<float> alone = embed(student, {{first, last}, {0, last - first}}, choices.between(1, 3));
    demand(std::equal(alone.begin(), alone.end(), vectors.begin() + long(i * dim)), "company changes a vector");
  }
}

// Leaving zero groups out gives the same sums, whatever the sizes.
void check_product(Choices& choices, const Kernels& kernels) {
  const int n_outputs = choices.between(1, 70), n_inputs = choices.between(1, 300), n_tokens = choices.between(1, 80);
  Maker maker(Size::USUAL, choices.of({0.0f, 0.5f, 0.9f, 1.0f}), uint32_t(choices.up_to(255)));
  maker.add("weight", {size_t(n_outputs), size_t(n_inputs)});
  maker.add("x", {size_t(n_tokens), size_t(n_inputs)});
  std::vector<float> results[2];
  for (int sparse = 0; sparse < 2; ++sparse) {
    const float* weight = maker.weights.values.at("weight").data();
    Product product(weight, n_outputs, n_inputs, kernels, sparse ? Storage::SPARSE : Storage::DENSE);
    product.prepare(maker.weights.values.at("x").data(), n_tokens);
    product.run();
    results[sparse].resize(size_t(n_tokens) * size_t(n_outputs));
    product.result(results[sparse].data());
  }
  demand(results[0] == results[1], "leaving zero groups out changes a product");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Choices choices(data, size);
  Shape shape = choose_shape(choices);
  const Size weight_size =
      choices.of({Size::USUAL, Size::USUAL, Size::USUAL, Size::USUAL, Size::ZERO, Size::TINY, Size::HUGE_, Size::NO_NUMBER});
  const float sparsity = choices.of({0.0f, 0.0f, 0.5f, 0.9f, 1.0f});
  Weights weights = make_weights(shape, weight_size, sparsity, uint32_t(choices.up_to(255)));
  const bool damaged = choices.one_in(5);
  if (damaged) damage(choices, shape, weights);

  for (const InstructionSet& set : instruction_sets()) {
    const bool slow = set.kernels == &PORTABLE && instruction_sets().front().usable;  // as long as all others together
    if (!set.usable || (slow && !choices.one_in(3))) continue;
    Choices own = choices;
    std::unique_ptr<Student> student;
    try {
      student = std::make_unique<Student>(shape, weights.tensors, *set.kernels);
    } catch (const std::invalid_argument&) {
      demand(damaged, "a possible student was refused");
      return 0;
    }
    for (int turn = 0; turn < 2; ++turn)  // the second in memory that the first has used
      check_batch(own, *student, choose_batch(own, shape), weight_size != Size::HUGE_ && weight_size != Size::NO_NUMBER);
    if (own.one_in(3)) check_product(own, *set.kernels);
  }
  return 0;
}
