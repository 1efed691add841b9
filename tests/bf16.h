// Tests in lower precisions, which not every device has.
#pragma once

#include "kernels/backend.h"
#include "tests/test_util.h"

namespace test {

// The default modes of every device, again when a test ends in whichever way.
struct DefaultModes {
  DefaultModes() { reset(); }
  ~DefaultModes() { reset(); }
  static void reset() {
    for (const minidl::DeviceType device : test_devices()) {
      minidl::Backend& backend = minidl::backend_of(device);
      backend.set_precision(minidl::Precision::fp32);
      backend.set_benchmark(false);
    }
  }
};

// Sets the precision; false, saying why, where a device lacks it.
inline bool precision_or_skip(minidl::DeviceType device, minidl::Precision precision) {
  try {
    minidl::backend_of(device).set_precision(precision);
    return true;
  } catch (const minidl::Error& error) {
    WARN("skipped: " << error.what());
    return false;
  }
}

// Whether programs that a test starts can be given bf16; this process stays in float32.
inline bool programs_have_bf16() {
  const DefaultModes afterwards;
  return precision_or_skip(minidl::DeviceType::cpu, minidl::Precision::bf16);
}

}  // namespace test
