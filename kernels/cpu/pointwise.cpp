// Elementwise functions over flat buffers; the compiler vectorises the loops.
#include <cmath>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/loops.h"

namespace minidl {

using namespace cpu;

void CpuBackend::activation_forward(Activation f, float slope, std::int64_t size, const float* x, float* y) {
  switch (f) {
    // A NaN passes: a broken run must not look healthy.
    case Activation::relu:
      return map_floats(size, y, [=](auto i) { return x[i] < 0 ? 0.0f : x[i]; });
    case Activation::leaky_relu:
      return map_floats(size, y, [=](auto i) { return x[i] > 0 ? x[i] : x[i] * slope; });
    case Activation::tanh:
      return map_floats(size, y, [=](auto i) { return std::tanh(x[i]); });
    case Activation::sigmoid:
      return map_floats(size, y, [=](auto i) { return 1.0f / (1.0f + std::exp(-x[i])); });
  }
}

void CpuBackend::activation_backward(Activation f, float slope, std::int64_t size, const float* y, const float* gy,
                                     float* gx) {
  switch (f) {
    case Activation::relu:
      return map_floats(size, gx, [=](auto i) { return y[i] > 0 ? gy[i] : 0.0f; });
    case Activation::leaky_relu:
      return map_floats(size, gx, [=](auto i) { return y[i] > 0 ? gy[i] : gy[i] * slope; });
    case Activation::tanh:
      return map_floats(size, gx, [=](auto i) { return gy[i] * (1.0f - y[i] * y[i]); });
    case Activation::sigmoid:
      return map_floats(size, gx, [=](auto i) { return gy[i] * (1.0f - y[i]) * y[i]; });
  }
}

void CpuBackend::fill(std::int64_t size, float value, float* y) {
  map_floats(size, y, [=](auto) { return value; });
}

void CpuBackend::add(std::int64_t size, const float* a, const float* b, float* y) {
  map_floats(size, y, [=](auto i) { return a[i] + b[i]; });
}

void CpuBackend::multiply(std::int64_t size, const float* a, const float* b, float* y) {
  map_floats(size, y, [=](auto i) { return a[i] * b[i]; });
}

void CpuBackend::scale(std::int64_t size, float factor, const float* x, float* y) {
  map_floats(size, y, [=](auto i) { return factor * x[i]; });
}

void CpuBackend::scale_by(std::int64_t size, const float* s, const float* x, float* y) { scale(size, s[0], x, y); }

}  // namespace minidl
