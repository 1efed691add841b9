// Bytes between host and device, through page-locked memory: the host waits for neither direction until it wants to.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "kernels/backend.h"

namespace minidl::gpu {

// An event without a time, never recorded at first.
class Event {
 public:
  Event();
  ~Event();
  Event(Event&& other) noexcept;
  Event& operator=(Event&&) = delete;

  void record(cudaStream_t stream);
  void hold(cudaStream_t stream) const;  // what the stream is asked for from now on comes after the event
  void wait() const;                     // the host
  bool has_happened() const;

 private:
  cudaEvent_t event_ = nullptr;
};

// Uploads in one stream. They pass through a ring of slots, of which each is free again when its event has happened.
class Staging {
 public:
  explicit Staging(cudaStream_t stream);  // never destroyed

  // Has read `host` when it returns.
  void upload(void* device, const void* host, std::size_t bytes);
  cudaStream_t stream() const { return stream_; }

 private:
  struct Slot {
    std::byte* memory;
    Event read;
  };
  cudaStream_t stream_;
  std::mutex mutex_;
  std::vector<Slot> slots_;
  std::size_t next_ = 0;
};

// Filled through `staging` and read in `stream`, another one.
class StagedBuffer final : public UploadBuffer {
 public:
  StagedBuffer(cudaStream_t stream, Staging& staging, void* memory);
  ~StagedBuffer() override;

  void fill(const void* host, std::size_t bytes) override;
  void read(const std::function<void(const void*)>& use) override;

 private:
  cudaStream_t stream_;
  Staging& staging_;
  void* memory_;
  Event filled_, used_;
};

// Where downloads land until somebody waits for them.
class Landings {
 public:
  std::unique_ptr<PendingDownload> begin(cudaStream_t stream, std::span<const Download> pieces);

 private:
  class Landed;
  struct Place {
    std::byte* memory;
    Event arrived;
  };
  Place take();
  void give(Place place);

  std::mutex mutex_;
  std::vector<Place> free_;
};

}  // namespace minidl::gpu
