#include "core/storage.h"

#include <algorithm>
#include <bit>
#include <map>
#include <mutex>
#include <vector>

#include "core/check.h"

namespace minidl {
namespace {

// Sizes are rounded up to eight classes per power of two: at most an eighth is wasted, and near sizes share buffers.
std::size_t size_class(std::size_t bytes) {
  constexpr std::size_t kSmallest = 256;
  if (bytes <= kSmallest) return kSmallest;
  const std::size_t step = std::bit_floor(bytes) / 8;
  return (bytes + step - 1) / step * step;
}

class Pool {
 public:
  explicit Pool(DeviceType device) : device_(device) {}

  void* take(std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    void* memory = nullptr;
    if (auto found = free_.find(bytes); found != free_.end() && !found->second.empty()) {
      memory = found->second.back();
      found->second.pop_back();
    } else {
      memory = allocate(bytes);
    }
    stats_.in_use += bytes;
    stats_.peak_in_use = std::max(stats_.peak_in_use, stats_.in_use);
    return memory;
  }

  void give(void* memory, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    free_[bytes].push_back(memory);
    stats_.in_use -= bytes;
  }

  void trim() {
    const std::lock_guard lock(mutex_);
    release_free();
  }

  PoolStats stats() {
    const std::lock_guard lock(mutex_);
    return stats_;
  }

 private:
  void* allocate(std::size_t bytes) {
    Backend& backend = backend_of(device_);
    void* memory = nullptr;
    try {
      memory = backend.allocate(bytes);
    } catch (const Error&) {
      release_free();  // buffers of other sizes may make room
      memory = backend.allocate(bytes);
    }
    stats_.held += bytes;
    ++stats_.device_allocations;
    return memory;
  }

  void release_free() {
    for (auto& [bytes, buffers] : free_) {
      for (void* memory : buffers) backend_of(device_).deallocate(memory);
      stats_.held -= bytes * buffers.size();
      buffers.clear();
    }
  }

  DeviceType device_;
  std::mutex mutex_;
  std::map<std::size_t, std::vector<void*>> free_;  // by size class
  PoolStats stats_;
};

// Never destroyed: tensors of static lifetime may outlive any other static object.
Pool& pool(DeviceType device) {
  static Pool* const pools[] = {new Pool(DeviceType::cpu), new Pool(DeviceType::cuda)};
  return *pools[static_cast<int>(device)];
}

}  // namespace

Storage::Buffer::Buffer(DeviceType device, std::size_t bytes)
    : device(device), bytes(size_class(bytes)), memory(pool(device).take(this->bytes)) {}

Storage::Buffer::~Buffer() { pool(device).give(memory, bytes); }

Storage::Storage(DeviceType device, std::size_t bytes) : buffer_(std::make_shared<Buffer>(device, bytes)) {}

PoolStats pool_stats(DeviceType device) { return pool(device).stats(); }

void trim_pool(DeviceType device) { pool(device).trim(); }

}  // namespace minidl
