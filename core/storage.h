// Device memory with shared ownership, drawn from a caching pool.
//
// Invariants
//  - A buffer returns to its device's pool when its last owner goes, and is handed out again for the next request of
//  the
//    same size class: a training loop asks the system for memory in its first iteration only.
//  - The pool may be used from any thread.
#pragma once

#include <cstddef>
#include <memory>

#include "kernels/backend.h"

namespace minidl {

class Storage {
 public:
  Storage() = default;
  // Uninitialised memory of at least `bytes`. Throws OutOfMemory (an Error, kernels/memory_holder.h) when the device
  // has no more, even after the pool has given back every buffer that nobody uses.
  Storage(DeviceType device, std::size_t bytes);

  explicit operator bool() const { return buffer_ != nullptr; }
  void* data() const { return buffer_ ? buffer_->memory : nullptr; }
  DeviceType device() const { return buffer_->device; }
  // True if nobody else holds this buffer, so that it may be overwritten.
  bool unique() const { return buffer_.use_count() == 1; }
  // What kernels have made of this buffer's values. Whoever changes values that somebody may have used calls `changed`.
  PreparedWeights& prepared() const { return buffer_->prepared; }
  void changed() const { buffer_->prepared.clear(); }

 private:
  struct Buffer {
    DeviceType device;
    std::size_t bytes;
    std::shared_ptr<class FreeBuffers> home;  // where the memory returns to
    void* memory;
    PreparedWeights prepared;

    Buffer(DeviceType device, std::size_t bytes);
    ~Buffer();
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
  };
  std::shared_ptr<Buffer> buffer_;
};

struct PoolStats {
  std::size_t held = 0;    // bytes obtained from the device and not given back
  std::size_t in_use = 0;  // of these, bytes that live buffers own
  std::size_t peak_in_use = 0;
  std::size_t device_allocations = 0;  // calls that reached the device
};

// Memory set apart: while a scope of it lives on a thread, that thread's new buffers of the device come from it, and
// they return to it from anywhere. Nobody else gets them, so that work which a device has recorded may go on writing to
// them. It must outlive its scopes, and goes back to the pool with its last buffer.
class PrivateMemory {
 public:
  explicit PrivateMemory(DeviceType device);

  class Scope {
   public:
    explicit Scope(const PrivateMemory& memory);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
  };

 private:
  std::shared_ptr<class FreeBuffers> buffers_;
};

PoolStats pool_stats(DeviceType device);
// Gives every unused buffer back to the device.
void trim_pool(DeviceType device);

}  // namespace minidl
