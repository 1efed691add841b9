#include "kernels/backend.h"

#include "core/check.h"
#include "kernels/cpu/cpu_backend.h"

namespace minidl {

Backend& backend_of(DeviceType device) {
  check(device == DeviceType::cpu, "device cuda: this build of libminidl has no CUDA backend; use --device cpu");
  return cpu_backend();
}

}  // namespace minidl
