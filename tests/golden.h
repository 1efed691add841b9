// Access to the numbers that the reference produced (tests/golden).
#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/safetensors.h"
#include "core/tensor.h"
#include "layers/module.h"

namespace golden {

struct Array {
  std::vector<std::int64_t> shape;
  std::vector<float> values;

  minidl::Tensor image(minidl::DeviceType device = minidl::DeviceType::cpu) const {
    return minidl::Tensor::from_host(minidl::Shape(shape), values, device);
  }
};

inline std::filesystem::path path(const std::string& name) { return std::filesystem::path(MINIDL_GOLDEN_DIR) / name; }

inline std::map<std::string, Array> load(const std::string& name) {
  const minidl::SafetensorsFile file(path(name));
  std::map<std::string, Array> arrays;
  for (const std::string& key : file.names()) {
    const auto view = file.floats(key);
    arrays[key] = {view.shape, {view.values.begin(), view.values.end()}};
  }
  return arrays;
}

inline double norm(const std::vector<float>& x) {
  double square = 0;
  for (float v : x) square += static_cast<double>(v) * v;
  return std::sqrt(square);
}

inline double distance(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return INFINITY;
  double square = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    square += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
  return std::sqrt(square);
}

// ||a - b|| / ||b||; NaN never compares as small.
inline double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  return distance(a, b) / std::max(norm(b), 1e-30);
}

// Overwrites the state of a module with arrays named prefix + name; returns how many it found.
template <class M>
std::size_t set_state(M& module, const std::map<std::string, Array>& arrays, const std::string& prefix = "") {
  std::size_t found = 0;
  for (const auto& entry : minidl::state_of(module))
    if (auto array = arrays.find(prefix + entry.name); array != arrays.end()) {
      entry.tensor->copy_from_host(array->second.values);
      ++found;
    }
  return found;
}

}  // namespace golden
