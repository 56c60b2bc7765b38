// SPDX-License-Identifier: Apache-2.0
// Threads that share one call's work.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace understudy {

// All threads of a stage have arrived before any goes on. Waits awake: a stage takes microseconds.
class Barrier {
 public:
  explicit Barrier(int n_threads) : n_threads_(n_threads) {}
  void wait();

 private:
  const int n_threads_;
  std::atomic<int> arrived_{0};
  std::atomic<unsigned> generation_{0};
};

// Workers that sleep between calls. One call at a time has them; a call that finds them taken works alone.
class ThreadPool {
 public:
  ThreadPool() = default;
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  using Work = std::function<void(int thread, int n_threads, Barrier& barrier)>;

  // The work on up to n_threads threads, the calling one being thread 0; returns when all are done. The work must not
  // throw: the others would wait for its thread at their barrier.
  void run(int n_threads, const Work& work);

 private:
  struct Worker {
    std::thread thread;
    std::atomic<unsigned> order{0}, done{0};
    const Work* work = nullptr;
    Barrier* barrier = nullptr;
    int index = 0, n_threads = 0;
    std::atomic<bool> stop{false};
  };
  void work_until_stopped(Worker& worker);
  void forget_workers();

  std::mutex taken_;
  std::vector<std::unique_ptr<Worker>> workers_;
  int process_ = 0;  // whose workers these are: a fork leaves them behind
};

}  // namespace understudy
