#include "apps/device.h"

#include <omp.h>

#include <algorithm>

#include "core/check.h"

namespace minidl {

DeviceType choose_device(const std::string& name) {
  if (name == "cpu") return DeviceType::cpu;
  try {
    backend_of(DeviceType::cuda);  // throws where there is none
    return DeviceType::cuda;
  } catch (const Error&) {
    if (name == "cuda") throw;
    return DeviceType::cpu;
  }
}

int use_threads(std::int64_t threads) {
  // Kernels of oneDNN wait for each other on every thread that was asked for, so OpenMP must not grant fewer.
  omp_set_dynamic(0);
  const std::int64_t wanted = threads > 0 ? threads : omp_get_max_threads();
  omp_set_num_threads(static_cast<int>(std::min<std::int64_t>(wanted, omp_get_thread_limit())));
  return omp_get_max_threads();
}

void use_precision(DeviceType device, const std::string& name) {
  check(name == "fp32" || name == "tf32" || name == "bf16", "--precision must be fp32, tf32 or bf16, not '", name, "'");
  backend_of(device).set_precision(name == "bf16"   ? Precision::bf16
                                   : name == "tf32" ? Precision::tf32
                                                    : Precision::fp32);
}

}  // namespace minidl
