// SPDX-License-Identifier: Apache-2.0
// Memory aligned to cache lines: a student's packed weights in the order of their use, and the workspaces of calls.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace understudy {

constexpr size_t LINE = 64;

// AddressSanitizer sees a read beyond a piece of a buffer only if what follows is not another piece.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t GAP = LINE;
inline void close_gap(std::byte* p, size_t n_bytes) { ASAN_POISON_MEMORY_REGION(p, n_bytes); }
#else
constexpr size_t GAP = 0;
inline void close_gap(std::byte*, size_t) {}
#endif

constexpr size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

// A chunk of memory that is freed with it.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t n_bytes) : size_(n_bytes) {
    const size_t n_taken = round_up(n_bytes + 1, LINE);
    bytes_.reset(static_cast<std::byte*>(std::aligned_alloc(LINE, n_taken)));
    if (!bytes_) throw std::bad_alloc();
    close_gap(get() + n_bytes, n_taken - n_bytes);
  }

  static Buffer zeros(size_t n_bytes) {
    Buffer buffer(n_bytes);
    std::memset(buffer.get(), 0, n_bytes);
    return buffer;
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
    const size_t n_bytes = n * sizeof(T), n_used = round_up(n_bytes, LINE) + GAP;
    if (piece) close_gap(piece + n_bytes, n_used - n_bytes);
    used_ += n_used;
    return reinterpret_cast<T*>(piece);
  }
  size_t used() const { return used_; }

 private:
  std::byte* base_;
  size_t used_ = 0;
};

}  // namespace understudy
