// SPDX-License-Identifier: Apache-2.0
// One product by itself, for tests and benchmarks: a packed matrix with its activations and results.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "pack.h"

namespace understudy {

class Product {
 public:
  // Runs go through the copies of the matrix in turn: with enough of them its weights never come from a cache.
  Product(const float* weight, int n_outputs, int n_inputs, const Kernels& kernels, Storage storage, int n_copies = 1)
      : kernels_(kernels) {
    if (n_copies < 1) throw std::invalid_argument("n_copies must be at least 1, got " + std::to_string(n_copies));
    for (int i = 0; i < n_copies; ++i)
      matrices_.push_back(pack_matrix(weights_, weight, nullptr, n_outputs, n_inputs, kernels, nullptr, storage));
  }

  // Takes x [n_tokens][n_inputs] in eight bits.
  void prepare(const float* x, int n_tokens) {
    const Matrix& m = matrix();
    n_tokens_ = n_tokens;
    const int n = blocks(n_tokens);
    Buffer columns(size_t(n) * m.n_inputs * BLOCK * sizeof(float));
    auto* rows = reinterpret_cast<float*>(columns.get());
    for (int t = 0; t < n * BLOCK; ++t)
      for (int i = 0; i < m.n_inputs; ++i)
        rows[(size_t(t / BLOCK) * m.n_inputs + i) * BLOCK + t % BLOCK] = t < n_tokens ? x[size_t(t) * m.n_inputs + i] : 0.0f;
    for (int pass = 0; pass < 2; ++pass) {
      Layout layout(pass ? memory_.get() : nullptr);
      x_ = take_quantised(layout, m.n_inputs, n);
      y_ = layout.take<float>(size_t(n) * m.n_outputs * BLOCK);
      if (!pass) memory_ = Buffer::zeros(layout.used());
    }
    kernels_.quantise(rows, m.n_inputs, nullptr, 0, n, x_);
  }

  void run() {
    const Matrix& m = matrices_[next_];
    next_ = (next_ + 1) % matrices_.size();
    kernels_.product(m, x_, blocks(n_tokens_), 0, panels(m.n_outputs), y_);
  }

  // [n_tokens][n_outputs] of the last run.
  void result(float* y) const {
    const int n = matrix().n_outputs;
    for (int t = 0; t < n_tokens_; ++t)
      for (int o = 0; o < n; ++o) y[size_t(t) * n + o] = y_[(size_t(t / BLOCK) * n + o) * BLOCK + t % BLOCK];
  }

  int n_tokens() const { return n_tokens_; }
  const Matrix& matrix() const { return matrices_.front(); }

 private:
  const Kernels& kernels_;
  Arena weights_;
  std::vector<Matrix> matrices_;
  size_t next_ = 0;
  Buffer memory_;
  Quantised x_;
  float* y_ = nullptr;
  int n_tokens_ = 0;
};

}  // namespace understudy
