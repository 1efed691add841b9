// A batch cut into consecutive groups of samples, as a parameter of kernels.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cuda/gpu.h"

namespace minidl::gpu {

// Group g holds the samples from begins[g] on, up to begins[g + 1].
struct Groups {
  static constexpr int kMost = 500;

  int count;
  int begins[kMost + 1];

  explicit Groups(std::span<const std::int64_t> sizes) : count(static_cast<int>(sizes.size())) {
    check(sizes.size() <= kMost, "cuda: a batch of ", sizes.size(), " groups; at most ", kMost, " are possible");
    begins[0] = 0;
    for (int g = 0; g < count; ++g) begins[g + 1] = begins[g] + static_cast<int>(sizes[static_cast<std::size_t>(g)]);
  }

  __device__ int of(std::int64_t sample) const { return piece_of(begins, count, static_cast<int>(sample)); }
};

}  // namespace minidl::gpu
