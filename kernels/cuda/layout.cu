// Conversion of layouts. Nothing is launched for an image without elements.
#include <algorithm>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/loops.h"

namespace minidl {
namespace {

using namespace gpu;

// A sample seen as a matrix of pixels by channels: row-major in an image, column-major in plain memory. It is cut into
// tiles of `height` pixels by `width` channels, about kTile elements, which pass through shared memory: all channels
// if there are few, so that a tile is contiguous in the image, and as many pixels as the tile then has room for.
constexpr int kTile = 1024;
constexpr int kMostChannels = 32;

struct Tiling {
  std::int64_t pixels, channels;
  std::int64_t tall, wide;  // tiles of a sample along pixels and channels
  std::int64_t tiles;       // of all samples
  int height, width;

  explicit Tiling(const ImageDims& d) : pixels(d.pixels()), channels(d.c) {
    wide = ceil_div(channels, kMostChannels);
    width = static_cast<int>(ceil_div(channels, wide));
    height = kTile / width;
    tall = ceil_div(pixels, height);
    tiles = d.n * tall * wide;
  }
};

// A block takes tiles in turn. It reads and writes along the axis that is contiguous; the pitch of the tile in shared
// memory is odd, so that neighbouring threads meet different banks on either side.
template <bool kToPlain>
__global__ void __launch_bounds__(kThreads) transpose(Tiling t, const float* from, float* to) {
  __shared__ float tile[kTile * 3 / 2];  // at a width of 2 the pitch is 3
  const int pitch = t.width | 1, thread = static_cast<int>(threadIdx.x);
  for (std::int64_t i = blockIdx.x; i < t.tiles; i += gridDim.x) {
    const std::int64_t pixel = i % t.tall * t.height, channel = i / t.tall % t.wide * t.width;
    const std::int64_t sample = i / (t.tall * t.wide) * t.pixels * t.channels;
    const int height = static_cast<int>(min(t.pixels - pixel, std::int64_t{t.height}));
    const int width = static_cast<int>(min(t.channels - channel, std::int64_t{t.width}));
    const std::int64_t image = sample + pixel * t.channels + channel, plain = sample + channel * t.pixels + pixel;
    for (int k = thread; k < height * width; k += kThreads) {
      const int p = kToPlain ? k / width : k % height, c = kToPlain ? k % width : k / height;
      tile[p * pitch + c] = from[kToPlain ? image + p * t.channels + c : plain + c * t.pixels + p];
    }
    __syncthreads();
    for (int k = thread; k < height * width; k += kThreads) {
      const int p = kToPlain ? k % height : k / width, c = kToPlain ? k / height : k % width;
      to[kToPlain ? plain + c * t.pixels + p : image + p * t.channels + c] = tile[p * pitch + c];
    }
    __syncthreads();  // so that the next tile may overwrite this one
  }
}

template <bool kToPlain>
void convert(const char* what, const ImageDims& dims, const float* from, float* to) {
  const Tiling tiling(dims);
  const auto blocks = static_cast<unsigned>(std::min(tiling.tiles, kMostBlocks));
  launch(what, transpose<kToPlain>, blocks, kThreads, 0, tiling, from, to);
}

struct Normalise {
  __device__ float operator()(std::uint8_t level) const { return (static_cast<float>(level) / 255.0f - 0.5f) / 0.5f; }
};

}  // namespace

void CudaBackend::image_to_plain(const ImageDims& dims, const float* image, float* plain) {
  if (dims.size() > 0) convert<true>("image_to_plain", dims, image, plain);
}

void CudaBackend::plain_to_image(const ImageDims& dims, const float* plain, float* image) {
  if (dims.size() > 0) convert<false>("plain_to_image", dims, plain, image);
}

// The bytes are channels-last as the image is.
void CudaBackend::bytes_to_image(const ImageDims& dims, const std::uint8_t* bytes, float* image) {
  map("bytes_to_image", dims.size(), Normalise{}, image, bytes);
}

}  // namespace minidl
