// Work done ahead in background threads, handed out in order.
//
// 1. The source is called by one thread at a time, so it may draw random numbers; the jobs it returns run in parallel.
// 2. Results come out in the order of the source's calls, whatever the number of threads or a job's duration.
// 3. At most `capacity` results are drawn and not yet taken: memory stays bounded.
// 4. What a job or the source throws is thrown by next() in that result's place. An exception or nullopt from the
//    source is its last word; an exception of a job is not.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "core/check.h"

namespace minidl {

struct OrderedPipelineOptions {
  int threads = 1;
  int capacity = 4;
};

template <class Result>
class OrderedPipeline {
 public:
  using Job = std::function<Result()>;
  using Source = std::function<std::optional<Job>()>;

  // Starts drawing at once. Throws Error unless threads and capacity are positive.
  OrderedPipeline(OrderedPipelineOptions options, Source source)
      : capacity_(static_cast<std::size_t>(options.capacity)), source_(std::move(source)) {
    check(options.threads > 0 && options.capacity > 0, "OrderedPipeline: threads (", options.threads,
          ") and capacity (", options.capacity, ") must be positive");
    for (int i = 0; i < options.threads; ++i) threads_.emplace_back([this](std::stop_token stop) { work(stop); });
  }

  // Waits for the jobs that are running, starts no others. No thread may be inside next().
  ~OrderedPipeline() {
    for (std::jthread& thread : threads_) thread.request_stop();
  }

  OrderedPipeline(const OrderedPipeline&) = delete;
  OrderedPipeline& operator=(const OrderedPipeline&) = delete;

  // Waits for the next result; nullopt after the last. Rethrows what its job threw.
  std::optional<Result> next() {
    std::unique_lock lock(mutex_);
    ready_.wait(lock, [&] { return slots_.empty() ? ended_ : slots_.front().done; });
    if (slots_.empty()) return std::nullopt;
    Slot slot = std::move(slots_.front());
    slots_.pop_front();
    room_.notify_one();
    lock.unlock();
    if (slot.error) std::rethrow_exception(slot.error);
    return std::move(slot.result);
  }

 private:
  struct Slot {
    bool done = false;
    std::optional<Result> result;
    std::exception_ptr error;
  };

  void work(std::stop_token stop) {
    std::unique_lock lock(mutex_);
    while (room_.wait(lock, stop, [&] { return ended_ || slots_.size() < capacity_; }) && !ended_ &&
           !stop.stop_requested()) {
      // A deque keeps references to its elements while others are added and removed at the ends.
      Slot& slot = slots_.emplace_back();
      std::optional<Job> job = draw(slot);
      if (!job) continue;
      lock.unlock();
      std::optional<Result> result;
      std::exception_ptr error;
      try {
        result = (*job)();
      } catch (...) {
        error = std::current_exception();
      }
      job.reset();
      lock.lock();
      slot.result = std::move(result);
      slot.error = std::move(error);
      slot.done = true;
      ready_.notify_one();
    }
  }

  // Under the lock: asks the source for the job of the newest slot; without a job, ends the pipeline.
  std::optional<Job> draw(Slot& slot) {
    std::optional<Job> job;
    try {
      job = source_();
      if (!job) slots_.pop_back();
    } catch (...) {
      slot.error = std::current_exception();
      slot.done = true;
    }
    if (!job) {
      ended_ = true;
      ready_.notify_one();
      room_.notify_all();
    }
    return job;
  }

  const std::size_t capacity_;
  Source source_;
  std::mutex mutex_;
  std::condition_variable ready_;     // the front slot is done, or the source has ended
  std::condition_variable_any room_;  // a slot is free, or the source has ended
  std::deque<Slot> slots_;            // drawn and not yet taken, oldest first
  bool ended_ = false;
  std::vector<std::jthread> threads_;  // last: joined before the rest goes
};

}  // namespace minidl
