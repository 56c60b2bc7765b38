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

// A forked process has no thread behind these workers, and their handles may by now name threads of its own.
void ThreadPool::forget_workers() {
  for (auto& worker : workers_) worker.release();
  workers_.clear();
}

ThreadPool::~ThreadPool() {
  if (process_ != getpid()) forget_workers();
  for (auto& worker : workers_) {
    worker->stop.store(true);
    worker->order.fetch_add(1, std::memory_order_release);
    worker->order.notify_one();
    worker->thread.join();
  }
}

void ThreadPool::work_until_stopped(Worker& worker) {
  for (unsigned seen = 0;;) {
    for (int spins = 0; spins < SPINS && worker.order.load(std::memory_order_acquire) == seen; ++spins) pause();
    worker.order.wait(seen, std::memory_order_acquire);
    seen = worker.order.load(std::memory_order_acquire);
    if (worker.stop.load()) return;
    (*worker.work)(worker.index, worker.n_threads, *worker.barrier);
    worker.done.store(seen, std::memory_order_release);
    worker.done.notify_one();
  }
}

void ThreadPool::run(int n_threads, const Work& work) {
  std::unique_lock<std::mutex> lock(taken_, std::defer_lock);
  if (n_threads <= 1 || !lock.try_lock()) {
    Barrier alone(1);
    return work(0, 1, alone);
  }
  if (process_ != getpid()) {
    forget_workers();
    process_ = getpid();
  }
  while (int(workers_.size()) < n_threads - 1) {
    workers_.push_back(std::make_unique<Worker>());
    Worker& worker = *workers_.back();
    try {
      worker.thread = std::thread([this, &worker] { work_until_stopped(worker); });
    } catch (...) {  // no more threads to be had: go on with those that are
      workers_.pop_back();
      break;
    }
  }
  const int n = std::min(n_threads, int(workers_.size()) + 1);
  Barrier barrier(n);
  for (int i = 1; i < n; ++i) {
    Worker& worker = *workers_[i - 1];
    worker.work = &work;
    worker.barrier = &barrier;
    worker.index = i;
    worker.n_threads = n;
    worker.order.fetch_add(1, std::memory_order_release);
    worker.order.notify_one();
  }
  work(0, n, barrier);
  for (int i = 1; i < n; ++i) {
    Worker& worker = *workers_[i - 1];
    const unsigned order = worker.order.load(std::memory_order_relaxed);
    for (int spins = 0; spins < SPINS && worker.done.load(std::memory_order_acquire) != order; ++spins) pause();
    for (unsigned done; (done = worker.done.load(std::memory_order_acquire)) != order;) worker.done.wait(done);
  }
}

}  // namespace understudy
