// SPDX-License-Identifier: Apache-2.0
// Memory aligned to cache lines: a student's packed weights in the order of their use, and the workspaces of calls.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace understudy {

constexpr size_t LINE = 64;
constexpr size_t HUGE_PAGE = 2 << 20;

// AddressSanitizer sees a read beyond a piece of a buffer only if what follows is not another piece.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t GAP = LINE;
inline void close_gap(std::byte* p, size_t n_bytes) { ASAN_POISON_MEMORY_REGION(p, n_bytes); }
#else
constexpr size_t GAP = 0;
inline void close_gap(std::byte*, size_t) {}
#endif

constexpr size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

// A chunk of memory that is freed with it; a large one lies in huge pages, if the system has some, so that less time goes
// into finding where they are.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t n_bytes) : size_(n_bytes) {
    const size_t unit = n_bytes > HUGE_PAGE / 2 ? HUGE_PAGE : LINE;
    const size_t n_taken = round_up(n_bytes + 1, unit);
    bytes_.reset(static_cast<std::byte*>(std::aligned_alloc(unit, n_taken)));
    if (!bytes_) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    if (unit == HUGE_PAGE) madvise(get(), n_taken, MADV_HUGEPAGE);  // advice that need not be taken
#endif
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

// Pieces of zeros that are freed together, in the order in which they are taken: small ones share huge pages.
class Arena {
 public:
  std::byte* take(size_t n_bytes) {
    const size_t n_used = round_up(n_bytes, LINE) + GAP;
    if (buffers_.empty() || used_ + n_used > buffers_.back().size()) {
      buffers_.emplace_back(std::max(n_used, CHUNK));  // what is never touched takes no memory
      used_ = 0;
    }
    std::byte* piece = buffers_.back().get() + used_;
    std::memset(piece, 0, n_bytes);
    close_gap(piece + n_bytes, n_used - n_bytes);
    used_ += n_used;
    n_bytes_ += n_bytes;
    return piece;
  }

  size_t n_bytes() const { return n_bytes_; }

 private:
  static constexpr size_t CHUNK = 16 * HUGE_PAGE;

  std::vector<Buffer> buffers_;
  size_t used_ = 0;  // of the last buffer
  size_t n_bytes_ = 0;
};

}  // namespace understudy
