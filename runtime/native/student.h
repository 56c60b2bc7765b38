// SPDX-License-Identifier: Apache-2.0
// A student, loaded once and embedding from any number of threads.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "thread_pool.h"
#include "kernels.h"
#include "pack.h"

namespace understudy {

// What `spaces.student.StudentSpec` says, as numbers. 0 stands for "not there".
struct Shape {
  int vocabulary_size = 0, output_dim = 0;
  bool normalise = true;
  // encoder
  int n_layers = 0, width = 0, n_heads = 0, head_width = 0, units = 0, n_experts = 0, max_tokens = 0, embedding_dim = 0;
  bool first_token_pooling = false, projection = false, tanh = false;
  int activation = 1;  // kernels' Activation
  float layer_norm_epsilon = 1e-12f;
  // static path
  bool static_path = false;
  int static_dim = 0;
};

// A float32 array in row-major order, borrowed while a student is built.
struct Tensor {
  const float* data = nullptr;
  std::vector<size_t> shape;
};

class Student {
 public:
  // Throws std::invalid_argument if the shape is impossible or a tensor is missing or of another shape.
  Student(const Shape& shape, const std::map<std::string, Tensor>& tensors, const Kernels& kernels);

  ~Student();

  // One row of output_dim floats per sentence into `vectors`. token_ids stand end to end, offsets is [n_sentences + 1].
  // Every sentence gives the same vector in whatever company and with however many threads it comes.
  // Throws std::invalid_argument for offsets that do not fit, tokens outside the vocabulary and too long sentences.
  void embed(const int32_t* token_ids, size_t n_tokens, const int64_t* offsets, size_t n_sentences, int n_threads,
             float* vectors) const;

  const Shape& shape() const { return shape_; }
  const Kernels& kernels() const { return kernels_; }
  size_t n_bytes() const { return n_bytes_ + weights_.n_bytes(); }
  int n_sparse() const { return n_sparse_; }

 private:
  struct Norm {
    Buffer memory;  // [3][width]: weight, bias, smoothing
    NormWeights weights;
  };
  struct Layer {
    Matrix qkv, attention_output;
    Norm attention_norm, feed_forward_norm;
    std::vector<float> router;                   // [n_experts][width]; empty: dense
    std::vector<Matrix> input, output;           // one for each expert, or one
  };
  class Workspace;
  struct Part;  // sentences that go through the layers together

  Matrix matrix(const std::map<std::string, Tensor>& tensors, const std::string& name, int n_outputs, int n_inputs,
                const float* smoothing = nullptr, int expert = -1);
  void add_feed_forward(Layer& layer, const std::map<std::string, Tensor>& tensors, const std::string& name, Workspace& space);
  void smooth(Norm& norm, const Tensor& weight, Workspace& space) const;
  Norm norm(const std::map<std::string, Tensor>& tensors, const std::string& name);
  const Tensor& tensor(const std::map<std::string, Tensor>& tensors, const std::string& name,
                       const std::vector<size_t>& shape) const;

  void encode(const Part& part, Workspace& space, int thread, int n_threads, Barrier& barrier) const;
  void look_up(const Part& part, Workspace& space, int thread, int n_threads, Barrier& barrier) const;
  void attend(const Layer& layer, Workspace& space, int thread, int n_threads, Barrier& barrier) const;
  void feed_forward(const Layer& layer, Workspace& space, int thread, int n_threads, Barrier& barrier) const;
  void feed_forward_dense(const Layer& layer, Workspace& space, int thread, int n_threads, Barrier& barrier) const;
  void feed_forward_experts(const Layer& layer, Workspace& space, int thread, int n_threads, Barrier& barrier) const;
  void finish(const Part& part, Workspace& space) const;
  void multiply_rows(const Matrix& matrix, const float* rows, int n_rows, Workspace& space, float* results) const;

  std::unique_ptr<Workspace> borrow(int n_tokens, int n_sentences, int n_threads) const;
  void give_back(std::unique_ptr<Workspace> space) const;

  const Shape shape_;
  const Kernels& kernels_;
  Arena weights_;
  PackedTable tokens_, static_tokens_;
  Matrix expand_, projection_, static_expand_;
  std::vector<float> positions_;
  Norm embedding_norm_;
  std::vector<Layer> layers_;
  size_t n_bytes_ = 0;  // of all but the matrices
  int n_sparse_ = 0;
  int part_tokens_;  // of sentences that go through the layers together; a longer one goes alone

  mutable ThreadPool thread_pool_;
  mutable std::mutex spaces_lock_;
  mutable std::vector<std::unique_ptr<Workspace>> spaces_;
};

}  // namespace understudy
