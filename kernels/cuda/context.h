// What host code of the CUDA backend shares: the stream, working memory and status checks.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <map>
#include <mutex>
#include <thread>

#include "core/check.h"

namespace minidl::gpu {

// One T for each host thread, never destroyed: the driver may be gone when static objects are. A thread that takes over
// the id of one that has ended takes over its T.
template <class T>
class PerThread {
 public:
  // This thread's, made by make() on first use.
  template <class Make>
  T& mine(Make make) {
    const std::lock_guard lock(mutex_);
    const auto found = values_.find(std::this_thread::get_id());
    return found != values_.end() ? found->second : values_.emplace(std::this_thread::get_id(), make()).first->second;
  }

 private:
  std::mutex mutex_;
  std::map<std::thread::id, T> values_;
};

// The stream of all computation.
cudaStream_t stream();
// Memory of this thread for partial results of the operation under way; it holds nothing between operations. Grows in
// the first iteration of a loop only.
void* workspace(std::size_t bytes);

// Throws Error, naming `what` was tried, unless the status is success. Overloads for cuBLAS and cuDNN stand beside
// their users.
void check_status(cudaError_t status, const char* what);

}  // namespace minidl::gpu
