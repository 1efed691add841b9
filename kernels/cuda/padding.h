// Reflection padding folded into kernels that read or write a padded image.
#pragma once

#include <cstdint>

#include "kernels/cuda/lanes.h"

namespace minidl::gpu {

struct Position {
  std::int64_t y, x;
};

// Of a pixel counted row by row; a sample has fewer than 2^32.
__device__ inline Position position(std::int64_t pixel, std::int64_t width) {
  const auto at = static_cast<std::uint32_t>(pixel), row = static_cast<std::uint32_t>(width);
  return {at / row, at % row};
}

// One sample of an image and the padding around it.
struct Frame {
  std::int64_t channels, height, width, pad;

  __host__ __device__ std::int64_t pixels() const { return height * width; }
  __host__ __device__ std::int64_t padded_width() const { return width + 2 * pad; }
  __host__ __device__ std::int64_t padded_pixels() const { return (height + 2 * pad) * padded_width(); }

  // Where an inner pixel stands in the padded image.
  __device__ std::int64_t padded(std::int64_t pixel) const {
    if (pad == 0) return pixel;
    const Position at = position(pixel, width);
    return (at.y + pad) * padded_width() + at.x + pad;
  }

  // The inner pixel that a pixel of the padded image mirrors.
  __device__ std::int64_t mirrored(std::int64_t padded_pixel) const {
    if (pad == 0) return padded_pixel;
    const Position at = position(padded_pixel, padded_width());
    return reflect(at.y - pad, height) * width + reflect(at.x - pad, width);
  }
};

// The k-th of the at most three padded positions that mirror position i of an axis, itself first; -1 is none.
template <class T>
__device__ T mirror(int k, T i, T size, T pad) {
  if (k == 0) return i + pad;
  if (k == 1) return i >= 1 && i <= pad ? pad - i : -1;
  return i <= size - 2 && i >= size - 1 - pad ? pad + 2 * (size - 1) - i : -1;
}

// Sum of the gradients of all positions that mirror an inner pixel. gy: the padded sample, from the thread's channel
// on.
template <int V>
__device__ Lanes<V> folded(const Frame& frame, const float* gy, std::int64_t pixel) {
  if (frame.pad == 0) return load<V>(gy + pixel * frame.channels);
  const auto [y, x] = position(pixel, frame.width);
  Lanes<V> sum = load<V>(gy + ((y + frame.pad) * frame.padded_width() + x + frame.pad) * frame.channels);
  const bool inside =
      y > frame.pad && y < frame.height - 1 - frame.pad && x > frame.pad && x < frame.width - 1 - frame.pad;
  if (inside) return sum;
#pragma unroll 1
  for (int k = 1; k < 9; ++k) {
    const std::int64_t row = mirror(k / 3, y, frame.height, frame.pad),
                       column = mirror(k % 3, x, frame.width, frame.pad);
    if (row < 0 || column < 0) continue;
    const Lanes<V> other = load<V>(gy + (row * frame.padded_width() + column) * frame.channels);
    for (int i = 0; i < V; ++i) sum.v[i] += other.v[i];
  }
  return sum;
}

}  // namespace minidl::gpu
