// Points in the device's stream, to measure the time between them by the device's own clock.
#pragma once

#include "kernels/cuda/context.h"

namespace minidl::gpu {

class TimingEvent {
 public:
  TimingEvent() { check_status(cudaEventCreate(&event_), "making an event"); }
  ~TimingEvent() { cudaEventDestroy(event_); }
  TimingEvent(const TimingEvent&) = delete;
  TimingEvent& operator=(const TimingEvent&) = delete;

  void record() { check_status(cudaEventRecord(event_, stream()), "recording an event"); }
  // Waits for this event. Both have been recorded.
  float milliseconds_since(const TimingEvent& start) const {
    check_status(cudaEventSynchronize(event_), "waiting for an event");
    float milliseconds = 0;
    check_status(cudaEventElapsedTime(&milliseconds, start.event_, event_), "measuring time");
    return milliseconds;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace minidl::gpu
