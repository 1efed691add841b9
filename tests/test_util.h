// Helpers of the tests of tensors and operations: random tensors, error measures, and a checker that holds an operation
// and its gradients against a double-precision reference.
#pragma once

#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "core/autograd.h"
#include "core/check.h"
#include "core/tensor.h"

namespace test {

// The devices that this build and machine can run operations on. With MINIDL_REQUIRE_CUDA in the environment it is an
// error that the GPU cannot be used, so that a check of a GPU cannot pass without one.
inline const std::vector<minidl::DeviceType>& test_devices() {
  static const std::vector<minidl::DeviceType> devices = [] {
    std::vector<minidl::DeviceType> usable{minidl::DeviceType::cpu};
    try {
      minidl::backend_of(minidl::DeviceType::cuda);
      usable.push_back(minidl::DeviceType::cuda);
    } catch (const minidl::Error&) {
      if (std::getenv("MINIDL_REQUIRE_CUDA")) throw;  // else there is no GPU here
    }
    return usable;
  }();
  return devices;
}

// Normally distributed values, the same for the same seed.
inline std::vector<float> normal_values(std::int64_t count, unsigned seed, float mean = 0, float deviation = 1) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(mean, deviation);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(engine);
  return values;
}

inline minidl::Tensor random_tensor(const minidl::Shape& shape, minidl::DeviceType device, unsigned seed,
                                    float mean = 0, float deviation = 1) {
  return minidl::Tensor::from_host(shape, normal_values(shape.size(), seed, mean, deviation), device);
}

inline minidl::Tensor random_plain(const minidl::Shape& shape, minidl::DeviceType device, unsigned seed, float mean = 0,
                                   float deviation = 1) {
  return minidl::Tensor::plain_from_host(shape, normal_values(shape.size(), seed, mean, deviation), device);
}

// Random values in the shape and layout of `like`: a cotangent.
// A random vector of length 1, as spectral norm keeps them.
inline minidl::Buffer unit_vector(std::int64_t size, minidl::DeviceType device, unsigned seed) {
  std::vector<float> values = normal_values(size, seed);
  double square = 0;
  for (const float value : values) square += static_cast<double>(value) * value;
  for (float& value : values) value = static_cast<float>(value / std::sqrt(square));
  return minidl::Buffer(minidl::Tensor::from_host({size}, values, device));
}
inline minidl::Tensor random_like(const minidl::Tensor& like, unsigned seed) {
  const minidl::Tensor tensor = minidl::empty_like(like);
  tensor.copy_from_host(normal_values(like.size(), seed));
  return tensor;
}

inline minidl::Tensor leaf(const minidl::Tensor& values) {
  minidl::Tensor tensor = values.detach();
  tensor.set_requires_grad(true);
  return tensor;
}

// ||a - b|| / ||b||, infinite for different sizes; NaN never compares as small.
template <class A, class B>
double relative_error(const A& a, const B& b) {
  if (a.size() != b.size()) return INFINITY;
  double difference = 0, square = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const double expected = b[i], d = a[i] - expected;
    difference += d * d;
    square += expected * expected;
  }
  return std::sqrt(difference) / std::max(std::sqrt(square), 1e-30);
}

// Equality of every bit, so that -0 differs from 0 and NaN equals itself.
inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}
inline bool same_bits(const minidl::Tensor& a, const minidl::Tensor& b) { return same_bits(a.to_host(), b.to_host()); }

// The message of the Error that f throws; empty if it throws none.
template <class F>
std::string error_of(F f) {
  try {
    f();
  } catch (const minidl::Error& error) {
    return error.what();
  }
  return "";
}

// Logical positions in an image.
struct Nchw {
  std::int64_t n, c, h, w;

  std::int64_t size() const { return n * c * h * w; }
  std::size_t at(std::int64_t in, std::int64_t ic, std::int64_t y, std::int64_t x) const {
    return static_cast<std::size_t>(((in * c + ic) * h + y) * w + x);
  }
  minidl::Shape shape() const { return {n, c, h, w}; }
};

// Calls f(n, c, y, x) for every position.
template <class F>
void for_each(const Nchw& d, F f) {
  for (std::int64_t n = 0; n < d.n; ++n)
    for (std::int64_t c = 0; c < d.c; ++c)
      for (std::int64_t y = 0; y < d.h; ++y)
        for (std::int64_t x = 0; x < d.w; ++x) f(n, c, y, x);
}

// Images whose channels are planar, one block or several blocks, with odd sizes and batches of 1 to 3.
inline std::vector<Nchw> image_cases() {
  std::vector<Nchw> cases;
  const std::int64_t sizes[][2] = {{3, 5}, {7, 7}, {17, 9}, {33, 31}};
  std::int64_t batch = 0;
  for (const std::int64_t channels : {1, 3, 5, 8, 16, 24, 32})
    for (const auto& size : sizes) cases.push_back({batch++ % 3 + 1, channels, size[0], size[1]});
  return cases;
}

// So large that the kernels cut a channel into several pieces.
inline std::vector<Nchw> large_image_cases() { return {{1, 3, 131, 160}, {2, 16, 65, 48}, {1, 1, 1, 40001}}; }

using Values = std::vector<double>;  // in logical order
using Operation = std::function<minidl::Tensor(const std::vector<minidl::Tensor>& inputs)>;
using Reference = std::function<Values(const std::vector<Values>& inputs)>;

struct Tolerance {
  double value = 1e-6;     // relative L2 error of the result
  double gradient = 1e-5;  // error of a directional derivative, relative to the length of the gradient
  double noise = 1e-9;     // plus this times the length of the cotangent, for gradients that are small differences
};

inline double dot(const Values& a, const Values& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// Checks the result of `operation` against `reference` and the gradient of every input, under a random cotangent,
// against central differences of `reference` along random directions. In double precision the differences are good to
// 1e-8 or so, and a wrong gradient at a single element shows in any random direction. Then asks for each gradient
// alone: which other inputs need one must not matter.
inline void check_operation(const std::vector<minidl::Tensor>& inputs, const Operation& operation,
                            const Reference& reference, Tolerance tolerance = {}) {
  using minidl::Tensor;
  std::vector<Tensor> leaves;
  std::vector<Values> values;
  for (const Tensor& input : inputs) {
    leaves.push_back(leaf(input));
    const std::vector<float> host = input.to_host();
    values.emplace_back(host.begin(), host.end());
  }
  const Tensor y = operation(leaves);
  CHECK(relative_error(y.to_host(), reference(values)) <= tolerance.value);
  REQUIRE(y.requires_grad());

  const Tensor cotangent = random_like(y, 1001);
  const std::vector<float> host_cotangent = cotangent.to_host();
  const Values cotangent_values(host_cotangent.begin(), host_cotangent.end());
  minidl::backward({{y, cotangent}});

  for (std::size_t i = 0; i < inputs.size(); ++i) {
    INFO("input " << i << " of shape " << inputs[i].shape());
    REQUIRE(leaves[i].grad().defined());
    CHECK(leaves[i].grad().shape() == inputs[i].shape());
    const std::vector<float> host_gradient = leaves[i].grad().to_host();
    const Values gradient(host_gradient.begin(), host_gradient.end());
    const double allowed = tolerance.gradient * std::sqrt(dot(gradient, gradient)) +
                           tolerance.noise * std::sqrt(dot(cotangent_values, cotangent_values));
    for (unsigned seed : {2001u, 2002u}) {
      const std::vector<float> host_direction = normal_values(inputs[i].size(), seed + static_cast<unsigned>(i));
      const Values direction(host_direction.begin(), host_direction.end());
      const auto along = [&](double step) {
        std::vector<Values> moved = values;
        for (std::size_t k = 0; k < direction.size(); ++k) moved[i][k] += step * direction[k];
        return dot(cotangent_values, reference(moved));
      };
      constexpr double kStep = 1e-6;
      const double expected = (along(kStep) - along(-kStep)) / (2 * kStep);
      CHECK(std::abs(dot(gradient, direction) - expected) <= allowed);
    }

    std::vector<Tensor> alone;
    for (const Tensor& input : inputs) alone.push_back(input.detach());
    alone[i] = leaf(inputs[i]);
    minidl::backward({{operation(alone), cotangent}});
    REQUIRE(alone[i].grad().defined());
    CHECK(relative_error(alone[i].grad().to_host(), host_gradient) <= 1e-6);
  }
}

}  // namespace test
