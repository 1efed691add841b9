// Elementwise functions over flat buffers. The compiler vectorises the plain loops, but not those that choose.
#include <cmath>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/loops.h"

namespace minidl {

using namespace cpu;

namespace {

// y[i] = f(at) over [0, size), a vector at a time, in parallel; at(p) gives the vector of p[i].
template <class F>
void map_vectors(std::int64_t size, float* y, F f) {
  parallel_chunks(size, [&](std::int64_t begin, std::int64_t end) {
    map_lanes<0>(begin, end, y, [&](auto at, int) { return f(at); });
  });
}

}  // namespace

void CpuBackend::activation_forward(Activation f, float slope, std::int64_t size, const float* x, float* y) {
  switch (f) {
    // A NaN passes: a broken run must not look healthy.
    case Activation::relu:
      return map_vectors(size, y, [=](auto at) {
        const Vec v = at(x);
        return v < 0.0f ? Vec{} : v;
      });
    case Activation::leaky_relu:
      return map_vectors(size, y, [=](auto at) {
        const Vec v = at(x);
        return v > 0.0f ? v : v * slope;
      });
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
      return map_vectors(size, gx, [=](auto at) { return at(y) > 0.0f ? at(gy) : Vec{}; });
    case Activation::leaky_relu:
      return map_vectors(size, gx, [=](auto at) { return at(y) > 0.0f ? at(gy) : at(gy) * slope; });
    case Activation::tanh:
      return map_floats(size, gx, [=](auto i) { return gy[i] * (1.0f - y[i] * y[i]); });
    case Activation::sigmoid:
      return map_floats(size, gx, [=](auto i) { return gy[i] * (1.0f - y[i]) * y[i]; });
  }
}

void CpuBackend::fill(std::int64_t size, float value, float* y) {
  map_floats(size, y, [=](auto) { return value; });
}

void CpuBackend::add(std::span<const Sum> sums) {
  for (const Sum& sum : sums) {
    const float* const* terms = sum.terms.data();
    const std::size_t count = sum.terms.size();
    if (count == 2)
      map_floats(sum.size, sum.y, [a = terms[0], b = terms[1]](auto i) { return a[i] + b[i]; });
    else
      map_floats(sum.size, sum.y, [=](auto i) {
        float total = terms[0][i];
        for (std::size_t t = 1; t < count; ++t) total += terms[t][i];
        return total;
      });
  }
}

void CpuBackend::multiply(std::int64_t size, const float* a, const float* b, float* y) {
  map_floats(size, y, [=](auto i) { return a[i] * b[i]; });
}

void CpuBackend::scale(std::int64_t size, float factor, const float* x, float* y) {
  map_floats(size, y, [=](auto i) { return factor * x[i]; });
}

void CpuBackend::scale_by(std::int64_t size, const float* s, const float* x, float* y) { scale(size, s[0], x, y); }

}  // namespace minidl
