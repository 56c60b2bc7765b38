// SPDX-License-Identifier: Apache-2.0
// What Python sees: `runtime._native`.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <tuple>

#include "build_id.h"
#include "instruction_set.h"
#include "product.h"
#include "student.h"

namespace nb = nanobind;
using namespace understudy;

namespace {

using Weights = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using TokenIds = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Offsets = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Vectors = nb::ndarray<nb::numpy, float, nb::ndim<2>>;

Vectors new_vectors(size_t rows, size_t columns) {
  auto* data = new float[std::max<size_t>(rows * columns, 1)];
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  return Vectors(data, {rows, columns}, owner);
}

Student* build(const nb::dict& shape, const nb::dict& tensors, const std::string& instruction_set) {
  Shape s;
  const auto integer = [&](const char* name) { return nb::cast<int>(shape[name]); };
  const auto truth = [&](const char* name) { return nb::cast<bool>(shape[name]); };
  s.vocabulary_size = integer("vocabulary_size");
  s.output_dim = integer("output_dim");
  s.normalise = truth("normalise");
  s.n_layers = integer("n_layers");
  s.width = integer("width");
  s.n_heads = integer("n_heads");
  s.head_width = integer("head_width");
  s.units = integer("units");
  s.n_experts = integer("n_experts");
  s.max_tokens = integer("max_tokens");
  s.embedding_dim = integer("embedding_dim");
  s.first_token_pooling = truth("first_token_pooling");
  s.projection = truth("projection");
  s.tanh = truth("tanh");
  s.activation = integer("activation");
  s.layer_norm_epsilon = nb::cast<float>(shape["layer_norm_epsilon"]);
  s.static_path = truth("static_path");
  s.static_dim = integer("static_dim");

  std::map<std::string, Tensor> borrowed;
  std::vector<Weights> arrays;  // keeps them while others may change the dict
  for (const auto& [name, value] : tensors) {
    const Weights& array = arrays.emplace_back(nb::cast<Weights>(value));
    Tensor tensor{array.data(), {}};
    for (size_t i = 0; i < array.ndim(); ++i) tensor.shape.push_back(array.shape(i));
    borrowed.emplace(nb::cast<std::string>(name), std::move(tensor));
  }
  const Kernels& kernels = choose_kernels(instruction_set);
  const nb::gil_scoped_release release;
  return new Student(s, borrowed, kernels);
}

Vectors embed(const Student& student, const TokenIds& token_ids, const Offsets& offsets, int n_threads) {
  if (offsets.shape(0) == 0) throw std::invalid_argument("offsets must hold at least one number, 0");
  const size_t n = offsets.shape(0) - 1;
  Vectors vectors = new_vectors(n, size_t(student.shape().output_dim));
  {
    const nb::gil_scoped_release release;
    student.embed(token_ids.data(), token_ids.shape(0), offsets.data(), n, n_threads, vectors.data());
  }
  return vectors;
}

using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

int count(size_t n, const char* name) {
  if (n > 1 << 24) throw std::invalid_argument(std::string(name) + " may be at most 2^24, got " + std::to_string(n));
  return int(n);
}

Product* build_product(const Rows& weight, const std::string& storage, const std::string& instruction_set,
                       int n_copies) {
  const std::map<std::string, Storage> kinds{
      {"faster", Storage::FASTER}, {"dense", Storage::DENSE}, {"sparse", Storage::SPARSE}};
  const auto kind = kinds.find(storage);
  if (kind == kinds.end()) throw std::invalid_argument("storage must be faster, dense or sparse, got " + storage);
  return new Product(weight.data(), count(weight.shape(0), "outputs"), count(weight.shape(1), "inputs"),
                     choose_kernels(instruction_set), kind->second, n_copies);
}

void prepare(Product& product, const Rows& x) {
  if (x.shape(1) != size_t(product.matrix().n_inputs))
    throw std::invalid_argument("x must have as many columns as the weight");
  product.prepare(x.data(), count(x.shape(0), "tokens"));
}

void run(Product& product, int n_times) {  // keeps Python's lock: another thread must not prepare meanwhile
  for (int i = 0; i < n_times; ++i) product.run();
}

Vectors result(const Product& product) {
  Vectors y = new_vectors(size_t(product.n_tokens()), size_t(product.matrix().n_outputs));
  product.result(y.data());
  return y;
}

std::vector<std::tuple<std::string, bool, std::string>> sets() {
  std::vector<std::tuple<std::string, bool, std::string>> all;
  for (const InstructionSet& set : instruction_sets()) all.emplace_back(set.kernels->name, set.usable, set.reason);
  return all;
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "The engine: eight-bit, block-sparse and mixture-of-experts students on a CPU.";
  m.def("instruction_sets", &sets, "(name, usable, reason) of every instruction set that was built, the fastest first.");
  m.def("choose_instruction_set", [](const std::string& name) { return choose_kernels(name).name; }, nb::arg("name") = "",
        "The name, if it can be used here; the fastest usable one for ''.");
  m.def("build_id", &build_id, "16 hexadecimal digits: a hash of the engine's sources, its compiler and flags.");
  nb::class_<Product>(m, "Product", "One eight-bit product by itself, for tests and benchmarks.")
      .def(nb::new_(&build_product), nb::arg("weight"), nb::arg("storage") = "faster", nb::arg("instruction_set") = "",
           nb::arg("n_copies") = 1)
      .def("prepare", &prepare, nb::arg("x"), "Take x [n_tokens, n_inputs] in eight bits.")
      .def("run", &run, nb::arg("n_times") = 1)
      .def("result", &result, "[n_tokens, n_outputs] of the last run.")
      .def_prop_ro("sparse", [](const Product& p) { return p.matrix().groups != nullptr; });
  nb::class_<Student>(m, "Student", "A student that embeds token ids; safe to use from several threads.")
      .def(nb::new_(&build), nb::arg("shape"), nb::arg("tensors"), nb::arg("instruction_set") = "")
      .def("embed", &embed, nb::arg("token_ids"), nb::arg("offsets"), nb::arg("n_threads") = 1,
           "Vectors [n_sentences, output_dim] of sentences whose token ids stand end to end.")
      .def_prop_ro("instruction_set", [](const Student& s) { return s.kernels().name; })
      .def_prop_ro("n_bytes", &Student::n_bytes)
      .def_prop_ro("n_sparse", &Student::n_sparse);
}
