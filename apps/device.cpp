#include "apps/device.h"

#include <omp.h>

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
  if (threads > 0) omp_set_num_threads(static_cast<int>(threads));
  return omp_get_max_threads();
}

void use_precision(DeviceType device, const std::string& name) {
  check(name == "fp32" || name == "tf32" || name == "bf16", "--precision must be fp32, tf32 or bf16, not '", name, "'");
  backend_of(device).set_precision(name == "bf16"   ? Precision::bf16
                                   : name == "tf32" ? Precision::tf32
                                                    : Precision::fp32);
}

}  // namespace minidl
