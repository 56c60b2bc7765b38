// SPDX-License-Identifier: Apache-2.0
// `embed`: checks a call's arguments, divides its sentences into parts and runs each part in a workspace.
#include "student.h"

#include <algorithm>
#include <atomic>
#include <limits>

#include "require.h"
#include "student_workspace.h"

namespace understudy {
namespace {

constexpr size_t MAX_WORKSPACES = 16;  // kept for later calls
constexpr int MAX_THREADS = 1024;
constexpr int LOCK_TRIES = 1000;  // some hundred microseconds

// The lock, or an unlocked one after LOCK_TRIES: a forked child inherits a mutex that a thread held which the child lacks.
std::unique_lock<std::mutex> lock_or_give_up(std::mutex& mutex) {
  std::unique_lock<std::mutex> lock(mutex, std::defer_lock);
  for (int tries = 0; tries < LOCK_TRIES && !lock.try_lock(); ++tries) std::this_thread::yield();
  return lock;
}

}  // namespace

Student::~Student() = default;

std::unique_ptr<Student::Workspace> Student::acquire_workspace(int n_tokens, int n_sentences, int n_threads) const {
  if (const auto lock = lock_or_give_up(workspaces_lock_))
    for (auto& workspace : workspaces_)
      if (workspace->fits(n_tokens, n_sentences, n_threads)) {
        std::swap(workspace, workspaces_.back());
        auto found = std::move(workspaces_.back());
        workspaces_.pop_back();
        return found;
      }
  const int tokens = int(round_up(size_t(std::max(n_tokens, 1)), PART_TOKENS)), sentences = int(round_up(size_t(n_sentences), 16));
  return std::make_unique<Workspace>(shape_, kernels_, tokens, sentences, n_threads);
}

void Student::release_workspace(std::unique_ptr<Workspace> workspace) const {
  const auto lock = lock_or_give_up(workspaces_lock_);
  if (!lock) return;
  if (workspaces_.size() == MAX_WORKSPACES) workspaces_.erase(workspaces_.begin());
  workspaces_.push_back(std::move(workspace));
}

void Student::embed(const int32_t* token_ids, size_t n_tokens, const int64_t* offsets, size_t n_sentences, int n_threads,
                    float* vectors) const {
  require_size(n_threads, 1, MAX_THREADS, "n_threads");
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
      auto workspace = acquire_workspace(part.n_tokens(), part.n_sentences(), n_threads);
      thread_pool_.run(n_threads, [&](int thread, int n, Barrier& barrier) {
        encode(part, *workspace, thread, n, barrier);
        if (thread == 0) finish(part, *workspace);
      });
      release_workspace(std::move(workspace));
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
  std::vector<std::unique_ptr<Workspace>> workspaces;
  for (int i = 0; i < n_threads; ++i) workspaces.push_back(acquire_workspace(widest, most_sentences, 1));
  thread_pool_.run(n_threads, [&](int thread, int, Barrier&) {
    Barrier alone(1);
    for (size_t i; (i = next.fetch_add(1)) < parts.size();) {
      if (shape_.n_layers) encode(parts[i], *workspaces[thread], 0, 1, alone);
      finish(parts[i], *workspaces[thread]);
    }
  });
  for (auto& workspace : workspaces) release_workspace(std::move(workspace));
}

}  // namespace understudy
