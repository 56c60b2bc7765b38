// SPDX-License-Identifier: Apache-2.0
// A call: its arguments are checked, its sentences divided into parts, and each part is given a workspace.
#include "student.h"

#include <algorithm>
#include <atomic>
#include <limits>

#include "require.h"
#include "student_workspace.h"

namespace understudy {
namespace {

constexpr size_t MOST_SPACES = 16;       // workspaces kept for later calls
constexpr int MOST_THREADS = 1024;
constexpr int LOCK_TRIES = 1000;         // some hundred microseconds

int rounded(int n, int unit) { return (n + unit - 1) / unit * unit; }

// The lock, unless it cannot be had: a fork copies it locked if another thread holds it, which the child does not have.
std::unique_lock<std::mutex> lock_soon(std::mutex& mutex) {
  std::unique_lock<std::mutex> lock(mutex, std::defer_lock);
  for (int tries = 0; tries < LOCK_TRIES && !lock.try_lock(); ++tries) std::this_thread::yield();
  return lock;
}

}  // namespace

Student::~Student() = default;

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
      thread_pool_.run(n_threads, [&](int thread, int n, Barrier& barrier) {
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
  thread_pool_.run(n_threads, [&](int thread, int, Barrier&) {
    Barrier alone(1);
    for (size_t i; (i = next.fetch_add(1)) < parts.size();) {
      if (shape_.n_layers) encode(parts[i], *spaces[thread], 0, 1, alone);
      finish(parts[i], *spaces[thread]);
    }
  });
  for (auto& space : spaces) give_back(std::move(space));
}

}  // namespace understudy
