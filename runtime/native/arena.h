// SPDX-License-Identifier: Apache-2.0
// Memory aligned to cache lines: a student's packed weights in the order of their use, and the workspaces of calls.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

namespace understudy {

constexpr size_t LINE = 64;

constexpr size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

// A chunk of memory that is freed with it; `slack` bytes may be read, not written, beyond its end.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t n_bytes)
      : bytes_(static_cast<std::byte*>(std::aligned_alloc(LINE, round_up(n_bytes, LINE) + LINE))), size_(n_bytes) {
    if (!bytes_) throw std::bad_alloc();
  }

  std::byte* get() const { return bytes_.get(); }
  size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> bytes_;
  size_t size_ = 0;
};

// Hands out pieces of a buffer whose size is found by handing out the same pieces of none.
class Layout {
 public:
  explicit Layout(std::byte* base = nullptr) : base_(base) {}

  template <typename T>
  T* take(size_t n) {
    std::byte* piece = base_ ? base_ + used_ : nullptr;
    used_ += round_up(n * sizeof(T), LINE);
    return reinterpret_cast<T*>(piece);
  }
  size_t used() const { return used_; }

 private:
  std::byte* base_;
  size_t used_ = 0;
};

}  // namespace understudy
