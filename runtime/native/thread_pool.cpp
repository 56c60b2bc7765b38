// SPDX-License-Identifier: Apache-2.0
#include "thread_pool.h"

#include <unistd.h>

#include <algorithm>

namespace understudy {
namespace {

constexpr int SPINS = 4000;  // some tens of microseconds awake before a thread gives its core away

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

void Barrier::wait() {
  if (n_threads_ == 1) return;
  const unsigned generation = generation_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == n_threads_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.store(generation + 1, std::memory_order_release);
    return;
  }
  for (int spins = 0; spins < SPINS && generation_.load(std::memory_order_acquire) == generation; ++spins) pause();
  while (generation_.load(std::memory_order_acquire) == generation) std::this_thread::yield();
}

// A forked process has no thread behind these helpers, and their handles may by now name threads of its own.
void ThreadPool::forget_helpers() {
  for (auto& helper : helpers_) helper.release();
  helpers_.clear();
}

ThreadPool::~ThreadPool() {
  if (process_ != getpid()) forget_helpers();
  for (auto& helper : helpers_) {
    helper->leave.store(true);
    helper->order.fetch_add(1, std::memory_order_release);
    helper->order.notify_one();
    helper->thread.join();
  }
}

void ThreadPool::serve(Helper& helper) {
  for (unsigned seen = 0;;) {
    for (int spins = 0; spins < SPINS && helper.order.load(std::memory_order_acquire) == seen; ++spins) pause();
    helper.order.wait(seen, std::memory_order_acquire);
    seen = helper.order.load(std::memory_order_acquire);
    if (helper.leave.load()) return;
    (*helper.work)(helper.index, helper.n_threads, *helper.barrier);
    helper.done.store(seen, std::memory_order_release);
    helper.done.notify_one();
  }
}

void ThreadPool::run(int n_threads, const Work& work) {
  std::unique_lock<std::mutex> lock(taken_, std::defer_lock);
  if (n_threads <= 1 || !lock.try_lock()) {
    Barrier alone(1);
    return work(0, 1, alone);
  }
  if (process_ != getpid()) {
    forget_helpers();
    process_ = getpid();
  }
  while (int(helpers_.size()) < n_threads - 1) {
    helpers_.push_back(std::make_unique<Helper>());
    Helper& helper = *helpers_.back();
    try {
      helper.thread = std::thread([this, &helper] { serve(helper); });
    } catch (...) {  // no more threads to be had: go on with those that are
      helpers_.pop_back();
      break;
    }
  }
  const int n = std::min(n_threads, int(helpers_.size()) + 1);
  Barrier barrier(n);
  for (int i = 1; i < n; ++i) {
    Helper& helper = *helpers_[i - 1];
    helper.work = &work;
    helper.barrier = &barrier;
    helper.index = i;
    helper.n_threads = n;
    helper.order.fetch_add(1, std::memory_order_release);
    helper.order.notify_one();
  }
  work(0, n, barrier);
  for (int i = 1; i < n; ++i) {
    Helper& helper = *helpers_[i - 1];
    const unsigned order = helper.order.load(std::memory_order_relaxed);
    for (int spins = 0; spins < SPINS && helper.done.load(std::memory_order_acquire) != order; ++spins) pause();
    for (unsigned done; (done = helper.done.load(std::memory_order_acquire)) != order;) helper.done.wait(done);
  }
}

}  // namespace understudy
