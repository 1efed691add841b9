// The --device, --threads and --precision flags.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/backend.h"

namespace minidl {

// "auto" (a GPU if one can be used, else the CPU), "cpu" or "cuda". Throws Error if the device is not to be had.
DeviceType choose_device(const std::string& name);
// Computes with this many threads from now on, or with OMP_THREAD_LIMIT if that is less; 0 takes every core that the
// process may use. Returns the number.
int use_threads(std::int64_t threads);
// "fp32", "tf32" or "bf16". Throws Error if the device lacks it.
void use_precision(DeviceType device, const std::string& name);

}  // namespace minidl
