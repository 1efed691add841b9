// A piece of work that a device repeats by itself, without the host asking for each operation (a CUDA graph).
//
// Invariants
//  - Whatever changes between repetitions is in device memory that exists before: inputs, the rates of Adam.
//  - Tensors that the work makes, gradients among them, live in memory of its own: a repetition overwrites them, and
//    nothing else uses that memory.
#pragma once

#include <functional>
#include <memory>

#include "core/storage.h"

namespace minidl {

class RecordedWork {
 public:
  RecordedWork(DeviceType device, std::function<void()> work);

  // Does the work. The first time the host asks for every operation, so that all memory is at hand; the second time it
  // does so to record them; from then on the device repeats what was recorded. Throws Error on a device that cannot
  // record, and where the work waits for the device.
  void run();

 private:
  void record();

  Backend& backend_;
  std::function<void()> work_;
  PrivateMemory memory_;
  std::unique_ptr<Recording> recording_;
  bool rehearsed_ = false;
};

}  // namespace minidl
