// Reflection pad and nearest upsampling, which are one: upsampling pads its result, and padding is upsampling by 1.
// Forward scatters, so each value is read once; backward gathers, so each gradient is written once and its sum has a
// fixed order. Nothing is launched for an image without elements.
#include <algorithm>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/loops.h"
#include "kernels/cuda/padding.h"

namespace minidl {
namespace {

using namespace gpu;

// From x (n, h, w, c) to y (n, scale h + 2 pad, scale w + 2 pad, c), c counting vectors. A row has fewer than 2^31.
struct Upsampling {
  std::int64_t n;
  int h, w, c, scale, pad;

  __host__ __device__ int height() const { return h * scale + 2 * pad; }
  __host__ __device__ int width() const { return w * scale + 2 * pad; }
};

// Blocks of one x take the same piece of some rows: y-th of the pieces that kThreads make of gridDim.y.
__device__ int first_in_row() { return static_cast<int>(blockIdx.y * kThreads + threadIdx.x); }
__device__ int stride_in_row() { return static_cast<int>(gridDim.y * kThreads); }

// One for the rows of x. A thread has four vectors of y or more.
dim3 grid_of_rows(const Upsampling& u) {
  constexpr std::int64_t kMostPieces = 1024;
  const std::int64_t per_thread = u.scale == 1 ? 4 : 1, length = std::int64_t{u.w} * u.c;
  return dim3(static_cast<unsigned>(std::min(u.n * u.h, kMostBlocks)),
              static_cast<unsigned>(std::min(ceil_div(length, per_thread * kThreads), kMostPieces)));
}

// y; a block reads a piece of a row of x, then of the next, and writes every position that shows an element.
template <class V>
__global__ void __launch_bounds__(kThreads) upsample(Upsampling u, const V* x, V* y) {
  const int tall = u.h * u.scale, wide = u.w * u.scale, length = u.w * u.c;
  for (std::int64_t row = blockIdx.x; row < u.n * u.h; row += gridDim.x) {
    const int top = static_cast<int>(row % u.h) * u.scale;
    V* sample = y + row / u.h * u.height() * u.width() * u.c;
    for (int i = first_in_row(); i < length; i += stride_in_row()) {
      const int pixel = i / u.c, left = pixel * u.scale;
      V* channel = sample + (i - pixel * u.c);
      const V value = x[row * length + i];
      for (int r = 0; r < u.scale; ++r)
        for (int a = 0; a < 3; ++a) {
          const int to_y = mirror(a, top + r, tall, u.pad);
          if (to_y < 0) continue;
          for (int s = 0; s < u.scale; ++s)
            for (int b = 0; b < 3; ++b) {
              const int to_x = mirror(b, left + s, wide, u.pad);
              if (to_x >= 0) channel[(std::int64_t{to_y} * u.width() + to_x) * u.c] = value;
            }
        }
    }
  }
}

// gx; a block writes a piece of a row, then of the next. Of each of the scale x scale positions the mirrors are added
// up first, so that the sums are those of padding and upsampling apart.
template <class V>
__global__ void __launch_bounds__(kThreads) upsample_backward(Upsampling u, const V* gy, bool add, V* gx) {
  const int tall = u.h * u.scale, wide = u.w * u.scale, length = u.w * u.c;
  for (std::int64_t row = blockIdx.x; row < u.n * u.h; row += gridDim.x) {
    const int y = static_cast<int>(row % u.h) * u.scale;
    const V* sample = gy + row / u.h * u.height() * u.width() * u.c;
    for (int i = first_in_row(); i < length; i += stride_in_row()) {
      const int pixel = i / u.c, x = pixel * u.scale;
      const V* channel = sample + (i - pixel * u.c);
      V sum = {};
      for (int r = 0; r < u.scale; ++r)
        for (int s = 0; s < u.scale; ++s) {
          V folded = {};
          for (int a = 0; a < 3; ++a) {
            const int from_y = mirror(a, y + r, tall, u.pad);
            if (from_y < 0) continue;
            for (int b = 0; b < 3; ++b) {
              const int from_x = mirror(b, x + s, wide, u.pad);
              if (from_x >= 0) folded = folded + channel[(std::int64_t{from_y} * u.width() + from_x) * u.c];
            }
          }
          sum = sum + folded;
        }
      V& result = gx[row * length + i];
      result = add ? result + sum : sum;
    }
  }
}

Upsampling upsampling_of(const ImageDims& in, std::int64_t channels, std::int64_t scale, std::int64_t pad) {
  return {in.n,
          static_cast<int>(in.h),
          static_cast<int>(in.w),
          static_cast<int>(channels),
          static_cast<int>(scale),
          static_cast<int>(pad)};
}

void run_backward(const ImageDims& in, std::int64_t scale, std::int64_t pad, const float* gy, bool add, float* gx) {
  if (in.size() == 0) return;
  const auto run = [&]<class V>() {
    const std::int64_t channels = in.c / kWidth<V>;
    const Upsampling u = upsampling_of(in, channels, scale, pad);
    launch("upsample backward", upsample_backward<V>, grid_of_rows(u), kThreads, 0, u, reinterpret_cast<const V*>(gy),
           add, reinterpret_cast<V*>(gx));
  };
  with_vectors(in.c % 4 == 0 && fit_vectors(gy, gx), run);
}

}  // namespace

void CudaBackend::upsample_nearest_forward(const ImageDims& in, std::int64_t scale, std::int64_t pad, const float* x,
                                           float* y) {
  if (in.size() == 0) return;
  const auto run = [&]<class V>() {
    const std::int64_t channels = in.c / kWidth<V>;
    const Upsampling u = upsampling_of(in, channels, scale, pad);
    launch("upsample", upsample<V>, grid_of_rows(u), kThreads, 0, u, reinterpret_cast<const V*>(x),
           reinterpret_cast<V*>(y));
  };
  with_vectors(in.c % 4 == 0 && fit_vectors(x, y), run);
}

void CudaBackend::reflection_pad_forward(const ImageDims& in, std::int64_t pad, const float* x, float* y) {
  upsample_nearest_forward(in, 1, pad, x, y);
}

void CudaBackend::upsample_nearest_backward(const ImageDims& in, std::int64_t scale, std::int64_t pad, const float* gy,
                                            float* gx) {
  run_backward(in, scale, pad, gy, false, gx);
}

void CudaBackend::reflection_pad_backward(const ImageDims& in, std::int64_t pad, const float* gy, bool add, float* gx) {
  run_backward(in, 1, pad, gy, add, gx);
}

}  // namespace minidl
