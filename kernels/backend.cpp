#include "kernels/backend.h"

#include <utility>

#include "kernels/cpu/cpu_backend.h"

namespace minidl {
namespace {

// What stands in for a device's own backend, or null.
Backend*& substitute_of(DeviceType device) {
  static Backend* substitutes[2] = {};
  return substitutes[static_cast<int>(device)];
}

}  // namespace

Backend& backend_of(DeviceType device) {
  if (Backend* substitute = substitute_of(device)) return *substitute;
  return device == DeviceType::cpu ? cpu_backend() : cuda_backend_of_this_build();
}

ReplacedBackend::ReplacedBackend(DeviceType device, Backend& substitute)
    : device_(device), previous_(std::exchange(substitute_of(device), &substitute)) {}

ReplacedBackend::~ReplacedBackend() { substitute_of(device_) = previous_; }

}  // namespace minidl
