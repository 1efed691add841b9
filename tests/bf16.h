// Tests in bfloat16, which not every processor has.
#pragma once

#include <catch2/catch.hpp>

#include "core/check.h"
#include "kernels/backend.h"

namespace test {

// The default modes of the CPU, again when a test ends in whichever way.
struct DefaultModes {
  DefaultModes() { reset(); }
  ~DefaultModes() { reset(); }
  static void reset() {
    minidl::Backend& backend = minidl::backend_of(minidl::DeviceType::cpu);
    backend.set_precision(minidl::Precision::fp32);
    backend.set_benchmark(false);
  }
};

// Sets bf16; false, saying why, where there is none.
inline bool bf16_or_skip() {
  try {
    minidl::backend_of(minidl::DeviceType::cpu).set_precision(minidl::Precision::bf16);
    return true;
  } catch (const minidl::Error& error) {
    WARN("skipped: " << error.what());
    return false;
  }
}

// Whether programs that a test starts can be given bf16; this process stays in float32.
inline bool programs_have_bf16() {
  const DefaultModes afterwards;
  return bf16_or_skip();
}

}  // namespace test
