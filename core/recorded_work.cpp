#include "core/recorded_work.h"

#include "core/check.h"

namespace minidl {

RecordedWork::RecordedWork(DeviceType device, std::function<void()> work)
    : backend_(backend_of(device)), work_(std::move(work)), memory_(device) {
  check(backend_.can_record(), "device ", backend_.name(), " cannot record operations; leave --cuda_graph out");
}

void RecordedWork::run() {
  if (!rehearsed_) {
    const PrivateMemory::Scope scope(memory_);
    work_();
    rehearsed_ = true;
    return;
  }
  if (!recording_) record();
  recording_->replay();
}

void RecordedWork::record() {
  const PrivateMemory::Scope scope(memory_);
  backend_.begin_recording();
  try {
    work_();
  } catch (...) {
    try {
      backend_.end_recording();  // so that the device can be used again
    } catch (const Error&) {
      // The recording is void either way; what the work threw says why.
    }
    throw;
  }
  recording_ = backend_.end_recording();
}

}  // namespace minidl
