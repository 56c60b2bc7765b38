// SPDX-License-Identifier: Apache-2.0
// A student: loaded and quantised once, then embedding from any number of threads.
//
// Quantisation is W8A8, dynamic, without a calibration corpus:
//
//   weights       int8, symmetric: one scale per output row of a matrix (and per row of an embedding table), the row's
//                 largest magnitude / 127. See pack.cpp.
//   activations   uint8, asymmetric: one scale and one zero point per token, from the token's own minimum and maximum, with
//                 0 always one of the values. Hidden units take the activation's minimum (0 for ReLU, -0.17 for GELU)
//                 instead of their own. See generic_quantise.h.
//   products      exact int32 sums, then scale, zero point and bias in float32. See generic_product.h.
//   smoothing     SmoothQuant with alpha 0.5 for the two matrices of a layer that follow a norm (QKV and the feed-forward's
//                 input), from activations of random tokens. See student_load.cpp.
//   sparsity      block-sparse, 16 outputs x 4 inputs: blocks of zeros are neither stored nor multiplied in a matrix that
//                 keeps few enough of them (`Kernels::sparse_below`); the result is the dense one, bit for bit.
//   not in 8 bit  residual stream, layer norms, attention, router, position embeddings and pooling are float32; but on AMX
//                 attention multiplies bfloat16 (sums in float32), and hidden units are float16 before they become uint8.
//
// Layers are post-norm (BERT's). Sentences stand end to end, without padding.
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

// What `spaces.student.StudentSpec` says, as numbers. 0 means absent.
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
    std::vector<float> router;          // [n_experts][width]; empty: dense
    std::vector<Matrix> input, output;  // one for each expert, or one
  };
  class Workspace;
  struct Part;  // sentences that go through the layers together

  Matrix matrix(const std::map<std::string, Tensor>& tensors, const std::string& name, int n_outputs, int n_inputs,
                const float* smoothing = nullptr, int expert = -1);
  void add_feed_forward(Layer& layer, const std::map<std::string, Tensor>& tensors, const std::string& name, Workspace& workspace);
  void smooth(Norm& norm, const Tensor& weight, Workspace& workspace) const;
  Norm norm(const std::map<std::string, Tensor>& tensors, const std::string& name);
  const Tensor& tensor(const std::map<std::string, Tensor>& tensors, const std::string& name,
                       const std::vector<size_t>& shape) const;

  void encode(const Part& part, Workspace& workspace, int thread, int n_threads, Barrier& barrier) const;
  void look_up(const Part& part, Workspace& workspace, int thread, int n_threads, Barrier& barrier) const;
  void attend(const Layer& layer, Workspace& workspace, int thread, int n_threads, Barrier& barrier) const;
  void feed_forward(const Layer& layer, Workspace& workspace, int thread, int n_threads, Barrier& barrier) const;
  void feed_forward_dense(const Layer& layer, Workspace& workspace, int thread, int n_threads, Barrier& barrier) const;
  void feed_forward_experts(const Layer& layer, Workspace& workspace, int thread, int n_threads, Barrier& barrier) const;
  void finish(const Part& part, Workspace& workspace) const;
  void multiply_rows(const Matrix& matrix, const float* rows, int n_rows, Workspace& workspace, float* results) const;

  std::unique_ptr<Workspace> acquire_workspace(int n_tokens, int n_sentences, int n_threads) const;
  void release_workspace(std::unique_ptr<Workspace> workspace) const;

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
  int part_tokens_;  // at most so many tokens go through the layers together; a longer sentence goes alone

  mutable ThreadPool thread_pool_;
  mutable std::mutex workspaces_lock_;
  mutable std::vector<std::unique_ptr<Workspace>> workspaces_;
};

}  // namespace understudy
