// How Winograd's algorithm (winograd.h) cuts a convolution: the phases of its kernel, the tiles of its output and their
// windows.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/backend.h"
#include "kernels/cpu/winograd_kernels.h"

namespace minidl::cpu {

inline std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Those of this convolution's form and blocks; null if there are none.
inline const WinogradKernels* kernels_of(const ConvDims& d) {
  const auto found = [&](const WinogradSet& set) {
    const auto kernels = std::find_if(set.begin(), set.end(), [&](const WinogradKernels& k) {
      return k.lanes == d.in.block && k.stride == d.stride && k.taps == divide_up(d.kernel, d.stride);
    });
    return kernels == set.end() ? nullptr : &*kernels;
  };
#if defined(__x86_64__)
  if (const WinogradKernels* kernels = found(kWinogradAvx512)) return kernels;
#endif
  return found(kWinogradAvx2);
}

// The part [begin, end) of [0, count) that is the i-th of `parts` nearly equal ones.
struct Part {
  std::int64_t begin, end;

  Part(std::int64_t count, std::int64_t i, std::int64_t parts)
      : begin(count * i / parts), end(count * (i + 1) / parts) {}
  // The same part where there are `times` for one.
  Part(const Part& part, std::int64_t times) : begin(part.begin * times), end(part.end * times) {}
  std::int64_t size() const { return end - begin; }
};

// Floats from one point to the next, when each has `floats`: whole cache lines, and an odd number of them, since lines
// that are a power of two apart evict each other.
inline std::int64_t point_step(std::int64_t floats) { return (divide_up(floats, 16) | 1) * 16; }

// With stride s, rows and columns of the kernel are of s phases: a convolution is the sum of s x s ones of stride 1, of
// every s-th pixel. Phases are counted row by row.
inline std::int64_t phases_of(const ConvDims& d) { return d.stride * d.stride; }

// The tiles of a batch, counted row by row.
struct Tiles {
  ConvDims d;
  std::int64_t size;     // pixels of an output window, either way
  std::int64_t overlap;  // that neighbouring input windows share
  std::int64_t rows, columns;

  explicit Tiles(const ConvDims& dims)
      : d(dims),
        size(kernels_of(d)->output),
        overlap(kWinogradInput - size),
        rows(divide_up(d.out.h, size)),
        columns(divide_up(d.out.w, size)) {}
  std::int64_t per_sample() const { return rows * columns; }
  std::int64_t count() const { return d.in.n * per_sample(); }

  // The row or column of the input where the windows of a row or column of tiles begin, inside of the image or not.
  std::int64_t first_pixel(std::int64_t tile) const { return tile * size * d.stride - d.padding; }

  template <class Float>
  WinogradWindow<Float> input_window(Float* x, std::int64_t tile, std::int64_t phase) const {
    return window(d.in, x, tile, kWinogradInput, d.stride, phase / d.stride - d.padding, phase % d.stride - d.padding);
  }
  template <class Float>
  WinogradWindow<Float> output_window(Float* y, std::int64_t tile) const {
    return window(d.out, y, tile, size, 1, 0, 0);
  }

 private:
  template <class Float>
  WinogradWindow<Float> window(const ImageDims& image, Float* data, std::int64_t tile, std::int64_t length,
                               std::int64_t stride, std::int64_t offset_y, std::int64_t offset_x) const {
    const std::int64_t n = tile / per_sample();
    const std::int64_t first_y = stride * (tile % per_sample() / columns * size) + offset_y;
    const std::int64_t first_x = stride * (tile % columns * size) + offset_x;
    const std::int64_t left = std::max<std::int64_t>(0, divide_up(-first_x, stride));
    const std::int64_t right = std::min(length, divide_up(image.w - first_x, stride));
    WinogradWindow<Float> result;
    result.left = static_cast<int>(left);
    result.right = static_cast<int>(right);
    for (std::int64_t row = 0; row < length; ++row)
      if (const std::int64_t y = first_y + row * stride; y >= 0 && y < image.h && left < right)
        result.rows[row] = {data + image.index(n, 0, y, first_x + left * stride), image.pixels() * image.block, false};
    return result;
  }
};

// The windows of tiles one after the other.
template <class Float>
class Windows {
 public:
  template <class F>
  Windows(std::int64_t first, std::int64_t count, F window_of) : count_(static_cast<std::size_t>(count)) {
    for (std::size_t i = 0; i < count_; ++i) windows_[i] = window_of(first + static_cast<std::int64_t>(i));
  }
  operator std::span<const WinogradWindow<Float>>() const { return {windows_, count_}; }

 private:
  static constexpr std::size_t kMostTiles = 64;

  WinogradWindow<Float> windows_[kMostTiles];
  std::size_t count_;
};

}  // namespace minidl::cpu
