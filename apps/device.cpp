#include "apps/device.h"

#include <omp.h>

#include "core/check.h"

namespace minidl {

DeviceType choose_device(const std::string& name) {
  const DeviceType device = name == "cuda" ? DeviceType::cuda : DeviceType::cpu;
  backend_of(device);  // throws where there is none
  return device;
}

int use_threads(std::int64_t threads) {
  if (threads > 0) omp_set_num_threads(static_cast<int>(threads));
  return omp_get_max_threads();
}

void use_precision(DeviceType device, const std::string& name) {
  check(name == "fp32" || name == "bf16", "--precision must be fp32 or bf16, not '", name, "'");
  backend_of(device).set_precision(name == "bf16" ? Precision::bf16 : Precision::fp32);
}

}  // namespace minidl
