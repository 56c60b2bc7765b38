// SPDX-License-Identifier: Apache-2.0
// The constructor: checks the shape and the tensors, computes the smoothing factors and packs the weights, layer by layer.
#include "student.h"

#include <algorithm>
#include <cmath>

#include "require.h"
#include "student_workspace.h"

namespace understudy {
namespace {

constexpr size_t LARGE_LAYER_BYTES = 3 << 20;  // at 12 x 768, 2.2 MB are faster with 128 tokens, 2.9 MB as fast with either
constexpr int CALIBRATION_SENTENCES = 8, CALIBRATION_TOKENS = 32;  // random tokens, on which features are measured for smoothing
constexpr double MAX_SMOOTHING = 64.0;  // and 1 / 64 at least, relative to the geometric mean
constexpr double MIN_RMS = 1e-9;
constexpr int MAX_ROWS = 1 << 24;  // of a table

std::string to_text(const std::vector<size_t>& shape) {
  std::string s = "[";
  for (size_t n : shape) s += (s.size() > 1 ? ", " : "") + std::to_string(n);
  return s + "]";
}

void check_shape(const Shape& s) {
  require_size(s.vocabulary_size, 1, MAX_ROWS, "vocabulary_size");
  require_size(s.output_dim, 1, MAX_INPUTS, "output_dim");
  require_size(s.static_dim, 0, MAX_INPUTS, "static_dim");
  require_size(s.n_layers, 0, MAX_ROWS, "n_layers");
  require(s.n_layers > 0 || s.static_path, "a student needs layers or a static path");
  if (s.n_layers == 0) {
    require(s.width == 0 && s.n_heads == 0 && s.head_width == 0, "a student without layers must have no width and no heads");
    return;
  }
  require_size(s.width, 1, MAX_INPUTS, "width");
  require_size(s.n_heads, 1, s.width, "n_heads");
  require_size(s.head_width, 1, s.width / s.n_heads, "head_width");
  require_size(s.units, 1, MAX_INPUTS, "units");
  require_size(s.n_experts, 0, MAX_INPUTS, "n_experts");
  require_size(s.max_tokens, 1, MAX_ROWS, "max_tokens");
  require_size(s.embedding_dim, 0, MAX_INPUTS, "embedding_dim");
  require_size(s.activation, 1, 3, "activation");
  require(s.projection || s.width == s.output_dim, "without a projection the width must be output_dim");
  require(s.layer_norm_epsilon > 0.0f && std::isfinite(s.layer_norm_epsilon), "layer_norm_epsilon must be positive and finite");
}

// Sentences of random tokens, the same for every student of a vocabulary.
struct CalibrationSample {
  std::vector<int32_t> token_ids;
  std::vector<int64_t> offsets{0};

  explicit CalibrationSample(const Shape& s) {
    uint64_t state = 1;
    for (int i = 0; i < CALIBRATION_SENTENCES; ++i) {
      for (int t = 0; t < std::min(CALIBRATION_TOKENS, s.max_tokens); ++t) {
        state = state * 6364136223846793005u + 1442695040888963407u;  // Knuth's MMIX generator
        token_ids.push_back(int32_t((state >> 33) % uint64_t(s.vocabulary_size)));
      }
      offsets.push_back(int64_t(token_ids.size()));
    }
  }
};

}  // namespace

Student::Student(const Shape& shape, const std::map<std::string, Tensor>& tensors, const Kernels& kernels)
    : shape_(shape), kernels_(kernels), part_tokens_(PART_TOKENS) {
  check_shape(shape);
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
    CalibrationSample sample(s);
    Workspace workspace(s, kernels, int(sample.token_ids.size()), CALIBRATION_SENTENCES, 1);
    Barrier alone(1);
    look_up({sample.token_ids.data(), sample.offsets.data(), 0, CALIBRATION_SENTENCES, nullptr}, workspace, 0, 1, alone);
    layers_.reserve(size_t(s.n_layers));
    const size_t n_bytes_before = weights_.n_bytes();
    for (int i = 0; i < s.n_layers; ++i) {
      const std::string name = "layers." + std::to_string(i) + ".";
      Norm& before = i ? layers_.back().feed_forward_norm : embedding_norm_;
      smooth(before, tensor(tensors, name + "attention.qkv.weight", {3 * size_t(attention_width), size_t(s.width)}), workspace);
      Layer& layer = layers_.emplace_back();
      layer.qkv = matrix(tensors, name + "attention.qkv", 3 * attention_width, s.width, before.weights.smoothing);
      layer.attention_output = matrix(tensors, name + "attention.output", s.width, attention_width);
      layer.attention_norm = norm(tensors, name + "attention.norm");
      attend(layer, workspace, 0, 1, alone);
      add_feed_forward(layer, tensors, name + "feed_forward.", workspace);
      feed_forward(layer, workspace, 0, 1, alone);
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

void Student::add_feed_forward(Layer& layer, const std::map<std::string, Tensor>& tensors, const std::string& name,
                               Workspace& workspace) {
  const Shape& s = shape_;
  const auto units = size_t(s.units), width = size_t(s.width), experts = size_t(s.n_experts);
  if (s.n_experts) {
    const Tensor& router = tensor(tensors, name + "router.weight", {experts, width});
    layer.router.assign(router.data, router.data + experts * width);
  }
  const std::string input = name + (s.n_experts ? "experts_input" : "input");
  const std::string output = name + (s.n_experts ? "experts_output" : "output");
  const auto shape = s.n_experts ? std::vector<size_t>{experts, units, width} : std::vector<size_t>{units, width};
  smooth(layer.attention_norm, tensor(tensors, input + ".weight", shape), workspace);
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

// SmoothQuant (Xiao et al. 2023, alpha 0.5): a feature with large activations costs the others of its token precision, so
// each feature is multiplied by sqrt(largest weight / RMS of its activations) and its weights are divided by it. The RMS is
// that of random tokens, which give it as well as text does.
void Student::smooth(Norm& norm, const Tensor& weight, Workspace& workspace) const {
  const auto width = size_t(shape_.width);
  std::vector<float> largest(width, 0.0f), squares(width, 0.0f);
  size_t n_weights = 1;
  for (size_t n : weight.shape) n_weights *= n;
  for (size_t i = 0; i < n_weights; i += width)
    for (size_t f = 0; f < width; ++f) largest[f] = std::max(largest[f], std::fabs(weight.data[i + f]));
  for (int b = 0; b < workspace.n_blocks; ++b)
    for (size_t f = 0; f < width; ++f)
      for (int lane = 0; lane < BLOCK; ++lane) {
        const float value = workspace.x[(size_t(b) * width + f) * BLOCK + lane];
        squares[f] += value * value;
      }
  auto* smoothing = reinterpret_cast<float*>(norm.memory.get()) + 2 * width;
  double logarithms = 0.0;
  size_t n_used = 0;
  for (size_t f = 0; f < width; ++f) {
    const double rms = std::sqrt(double(squares[f]) / (double(workspace.n_blocks) * BLOCK));
    const double ratio = std::sqrt(double(largest[f]) / std::max(rms, MIN_RMS));
    smoothing[f] = std::isfinite(ratio) ? float(ratio) : 1.0f;
    if (smoothing[f] > 0.0f) logarithms += std::log(smoothing[f]), ++n_used;
  }
  const double centre = n_used ? std::exp(logarithms / double(n_used)) : 1.0;
  for (size_t f = 0; f < width; ++f)  // 0: no output uses the feature
    if (smoothing[f] > 0.0f)
      smoothing[f] = float(std::clamp(smoothing[f] / centre, 1.0 / MAX_SMOOTHING, MAX_SMOOTHING));
  norm.weights.smoothing = smoothing;
  kernels_.quantise(workspace.x, shape_.width, smoothing, 0, workspace.n_blocks, workspace.x8);
}

const Tensor& Student::tensor(const std::map<std::string, Tensor>& tensors, const std::string& name,
                              const std::vector<size_t>& shape) const {
  const auto found = tensors.find(name);
  if (found == tensors.end()) throw std::invalid_argument("the student needs the tensor " + name + ", which is missing");
  if (found->second.shape != shape)
    throw std::invalid_argument(name + " must have the shape " + to_text(shape) + ", got " + to_text(found->second.shape));
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

}  // namespace understudy
