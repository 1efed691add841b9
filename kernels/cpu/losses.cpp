// Means and losses with their gradients, evaluated as the reference does: elementwise in float, summed more precisely.
#include <cmath>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/loops.h"

namespace minidl {
namespace {

using namespace cpu;

template <class F>
float mean_of(std::int64_t size, F f) {
  return static_cast<float>(sum_of(size, f) / static_cast<double>(size));
}

}  // namespace

void CpuBackend::mean_forward(std::int64_t size, const float* x, float* y) {
  *y = mean_of(size, [=](auto i) { return x[i]; });
}

void CpuBackend::mean_backward(std::int64_t size, const float* gy, float* gx) {
  fill(size, *gy / static_cast<float>(size), gx);
}

void CpuBackend::mse_forward(std::int64_t size, const float* x, float target, float* loss) {
  *loss = mean_of(size, [=](auto i) { return (x[i] - target) * (x[i] - target); });
}

void CpuBackend::mse_backward(std::int64_t size, const float* x, float target, const float* gy, float* gx) {
  const float factor = static_cast<float>(2.0 / static_cast<double>(size)), g = *gy;
  map_floats(size, gx, [=](auto i) { return factor * (x[i] - target) * g; });
}

void CpuBackend::l1_forward(std::int64_t size, const float* x, const float* target, float* loss) {
  *loss = mean_of(size, [=](auto i) { return std::fabs(x[i] - target[i]); });
}

void CpuBackend::l1_backward(std::int64_t size, const float* x, const float* target, const float* gy, float* gx) {
  const float g = *gy / static_cast<float>(size);
  map_floats(size, gx, [=](auto i) {
    const float d = x[i] - target[i];
    return d > 0 ? g : d < 0 ? -g : d * g;  // 0 at 0, NaN at NaN
  });
}

void CpuBackend::bce_forward(std::int64_t size, const float* logits, float target, float* loss) {
  *loss = mean_of(size, [=](auto i) {
    const float x = logits[i], m = std::fmax(-x, 0.0f);
    return (1.0f - target) * x + m + std::log(std::exp(-m) + std::exp(-x - m));
  });
}

void CpuBackend::bce_backward(std::int64_t size, const float* logits, float target, const float* gy, float* gx) {
  const float g = *gy, n = static_cast<float>(size);
  map_floats(size, gx, [=](auto i) { return (1.0f / (1.0f + std::exp(-logits[i])) - target) * g / n; });
}

}  // namespace minidl
