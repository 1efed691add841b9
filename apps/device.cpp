#include "apps/device.h"

#include <omp.h>

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

}  // namespace minidl
