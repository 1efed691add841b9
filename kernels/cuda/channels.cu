// Operations that treat channels apart: global pooling, concatenation, scaling by a vector, sum over channels. Each is
// one launch and one pass over memory, and none at all for an image without elements.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cuda/channel_sums.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/lanes.h"
#include "kernels/cuda/loops.h"

namespace minidl {
namespace {

using namespace gpu;

// --- pooling and sums: a block takes a slab of a tile, see Tiling, and the last block of a tile finishes it ---------

constexpr std::int64_t kMostBlocksOfSums = 512;  // where tiles are cut into slabs: enough to fill a device
constexpr int kPiece = 4;                        // pixels that a thread loads at once and adds up in float

// Of tiles that are cut into slabs; there are no more of them than blocks.
__device__ unsigned tickets[kMostBlocksOfSums];

Tiling tiling_of_sums(std::int64_t samples, std::int64_t channels, std::int64_t pixels) {
  const std::int64_t tiles = samples * ceil_div(channels, Tiling::kTileChannels);
  return Tiling(1, channels, pixels, kPiece, std::max(kMostBlocksOfSums / tiles, std::int64_t{1}));
}

// Pixels of the thread.
__device__ int pixels_of(const Tiling& t, const Place& place) {
  return place.active ? static_cast<int>((place.end - place.begin + t.rows - 1) / t.rows) : 0;
}

constexpr std::int32_t kNoPixel = std::numeric_limits<std::int32_t>::max();

// What pooling finds out about some pixels of a channel.
struct Pooled {
  double sum;
  float max;
  std::int32_t argmax;  // the first

  __device__ static Pooled none() { return {0, -INFINITY, kNoPixel}; }

  // The first maximum of both. A NaN wins, as in torch: a broken run must not look healthy.
  __device__ void offer(float value, std::int32_t pixel) {
    const bool broken = max != max, breaks = value != value;
    const bool same = value == max || (broken && breaks);
    if (same ? pixel < argmax : broken != breaks ? breaks : value > max) {
      max = value;
      argmax = pixel;
    }
  }
  __device__ void join(const Pooled& other) {
    sum += other.sum;
    offer(other.max, other.argmax);
  }
};

// Joins the values of a block's rows in row 0. A barrier must come before the next call.
__device__ void join_rows(const Tiling& t, const Place& at, Pooled& pooled) {
  __shared__ Pooled shared[kThreads];
  const int thread = static_cast<int>(threadIdx.x);
  shared[thread] = pooled;
  for (int rows = t.rows, half; rows > 1; rows = half) {
    half = (rows + 1) / 2;
    __syncthreads();
    if (at.row + half < rows) {
      pooled.join(shared[thread + half * t.columns]);
      shared[thread] = pooled;
    }
  }
}

// mean, max and argmax (samples, channels), each or null. partial (samples, slabs, channels).
__global__ void __launch_bounds__(kThreads)
    pool(Tiling t, const float* x, Pooled* partial, float* mean, float* max, std::int32_t* argmax) {
  const Place place(t, 0);
  const std::int64_t step = t.rows * t.channels;
  std::int64_t at = (place.sample * t.pixels + place.begin) * t.channels + place.channel;
  auto pixel = static_cast<std::int32_t>(place.begin);
  Pooled pooled = Pooled::none();
  for (int left = pixels_of(t, place); left > 0; left -= kPiece, at += kPiece * step) {
    float values[kPiece], sum = 0;
    for (int k = 0; k < kPiece; ++k) values[k] = k < left ? x[at + k * step] : 0.0f;
    for (int k = 0; k < kPiece; ++k, pixel += t.rows) {
      sum += values[k];
      if (k < left) pooled.offer(values[k], pixel);
    }
    pooled.sum += sum;
  }
  join_rows(t, place, pooled);
  const bool leads = place.active && place.row == 0;
  if (t.slabs > 1) {
    Pooled* of_channel = partial + place.sample * t.slabs * t.channels + place.channel;
    if (leads) of_channel[place.slab * t.channels] = pooled;
    const std::int64_t tile = place.sample * t.tiles + place.tile;
    if (!is_last_block(tickets + tile, static_cast<unsigned>(t.slabs))) return;
    pooled = Pooled::none();
    if (place.active)
      for (int slab = place.row; slab < t.slabs; slab += t.rows) pooled.join(of_channel[slab * t.channels]);
    join_rows(t, place, pooled);
  }
  if (!leads) return;
  const std::int64_t result = place.sample * t.channels + place.channel;
  if (mean) mean[result] = static_cast<float>(pooled.sum / static_cast<double>(t.pixels));
  if (max) max[result] = pooled.max;
  if (argmax) argmax[result] = pooled.argmax;
}

// S copies of the channels, each with factors of its own. gy has S times the channels of x.
template <int S>
struct Factors {
  const float* s[S];
  float* gradients[S];  // each or null
};

// gx (or null) = the sum over copies of gy s, or is added to, and every copy's gs the sum over all pixels of x gy.
template <int S>
__global__ void __launch_bounds__(kThreads) scale_backward(Tiling t, Factors<S> factors, const float* x,
                                                           const float* gy, double* partial, bool add, float* gx) {
  const Place place(t, 0);
  float factor[S];
  for (int s = 0; s < S; ++s) factor[s] = place.active ? factors.s[s][place.channel] : 0.0f;
  const std::int64_t step = t.rows * t.channels;
  std::int64_t at = place.begin * t.channels + place.channel;
  const float* g = gy + place.begin * S * t.channels + place.channel;
  double totals[S] = {};
  for (int left = pixels_of(t, place); left > 0; left -= kPiece, at += kPiece * step, g += kPiece * S * step) {
    float values[kPiece], gradients[S][kPiece], sums[S] = {};
    for (int k = 0; k < kPiece; ++k) {
      values[k] = k < left ? x[at + k * step] : 0.0f;
      for (int s = 0; s < S; ++s) gradients[s][k] = k < left ? g[k * S * step + s * t.channels] : 0.0f;
    }
    for (int k = 0; k < kPiece; ++k) {
      float scaled = 0;
      for (int s = 0; s < S; ++s) {
        sums[s] += values[k] * gradients[s][k];
        scaled = s == 0 ? gradients[s][k] * factor[s] : scaled + gradients[s][k] * factor[s];
      }
      if (!gx || k >= left) continue;
      float& result = gx[at + k * step];
      result = add ? result + scaled : scaled;
    }
    for (int s = 0; s < S; ++s) totals[s] += sums[s];
  }
  if (!sum_pixels<1, S>(t, place, totals, partial, tickets)) return;
  if (!place.active || place.row != 0) return;
  for (int s = 0; s < S; ++s)
    if (factors.gradients[s]) factors.gradients[s][place.channel] = static_cast<float>(totals[s]);
}

// y = sum of x over channels. `lanes` neighbouring threads, a power of two, share a pixel.
__global__ void __launch_bounds__(kThreads)
    sum_channels(std::int64_t pixels, std::int64_t channels, int lanes, const float* x, float* y) {
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  // Of the warp's first pixel: its threads leave together, since all take part in the shuffles.
  for (std::int64_t first = (first_index() - threadIdx.x % kWarp) / lanes; first < pixels;
       first += index_stride() / lanes) {
    const std::int64_t pixel = first + static_cast<int>(threadIdx.x) % kWarp / lanes;
    float sum = 0;
    if (pixel < pixels)
      for (std::int64_t c = lane; c < channels; c += lanes) sum += x[pixel * channels + c];
    for (int offset = lanes / 2; offset > 0; offset /= 2) sum += __shfl_down_sync(0xffffffffu, sum, offset);
    if (lane == 0 && pixel < pixels) y[pixel] = sum;
  }
}

// --- element by element ---------------------------------------------------------------------------------------------

// f(sample, pixel, channel, position in the image) for the first of each t.lanes neighbouring channels. A thread stays
// with its channels: f.load(sample, channel), where it has one, fetches what belongs to them.
template <class F>
__global__ void __launch_bounds__(kThreads) for_elements(Tiling t, F f) {
  const Place place(t, 0);
  if (!place.active) return;
  if constexpr (requires { f.load(place.sample, place.channel); }) f.load(place.sample, place.channel);
  std::int64_t at = (place.sample * t.pixels + place.begin) * t.channels + place.channel;
  for (std::int64_t pixel = place.begin; pixel < place.end; pixel += t.rows, at += t.rows * t.channels)
    f(place.sample, pixel, place.channel, at);
}

template <class F>
void run_elements(const char* what, int lanes, std::int64_t samples, std::int64_t pixels, std::int64_t channels, F f) {
  constexpr std::int64_t kPixelsPerThread = 8;
  if (samples * pixels * channels == 0) return;
  const Tiling tiling(lanes, channels, pixels, kPixelsPerThread);
  launch(what, for_elements<F>, tiling.blocks(samples), kThreads, 0, tiling, f);
}

template <int V>
struct PoolBackward {
  const float *gmean, *gmax;  // each or null
  const std::int32_t* argmax;
  float factor;
  std::int64_t channels;
  bool add;
  float* gx;
  Lanes<V> share = {}, peak = {};
  std::int32_t where[V] = {};

  __device__ void load(std::int64_t sample, std::int64_t channel) {
    const std::int64_t at = sample * channels + channel;
    if (gmean) share = gpu::load<V>(gmean + at);
    for (float& value : share.v) value *= factor;
    if (!gmax) return;
    peak = gpu::load<V>(gmax + at);
    for (int k = 0; k < V; ++k) where[k] = argmax[at + k];
  }
  __device__ void operator()(std::int64_t, std::int64_t pixel, std::int64_t, std::int64_t at) const {
    Lanes<V> g = share;
    if (add) g = gpu::load<V>(gx + at);
    for (int k = 0; k < V; ++k) {
      if (add) g.v[k] += share.v[k];
      if (gmax && where[k] == pixel) g.v[k] += peak.v[k];
    }
    store<V>(gx + at, g);
  }
};

template <int V, int S>
struct ScaleChannels {
  const float* x;
  const float* s[S];
  std::int64_t channels;
  float* y;
  Lanes<V> factors[S] = {};

  __device__ void load(std::int64_t, std::int64_t channel) {
    for (int k = 0; k < S; ++k) factors[k] = gpu::load<V>(s[k] + channel);
  }
  __device__ void operator()(std::int64_t, std::int64_t pixel, std::int64_t channel, std::int64_t at) const {
    const Lanes<V> values = gpu::load<V>(x + at);
    for (int k = 0; k < S; ++k) {
      Lanes<V> scaled;
      for (int i = 0; i < V; ++i) scaled.v[i] = values.v[i] * factors[k].v[i];
      store<V>(y + (pixel * S + k) * channels + channel, scaled);
    }
  }
};

// The gradient of the image alone.
template <int V, int S>
struct ScaleBackward {
  const float* gy;
  const float* s[S];
  std::int64_t channels;
  bool add;
  float* gx;
  Lanes<V> factors[S] = {};

  __device__ void load(std::int64_t, std::int64_t channel) {
    for (int k = 0; k < S; ++k) factors[k] = gpu::load<V>(s[k] + channel);
  }
  __device__ void operator()(std::int64_t, std::int64_t pixel, std::int64_t channel, std::int64_t at) const {
    Lanes<V> sum = {};
    for (int k = 0; k < S; ++k) {
      const Lanes<V> g = gpu::load<V>(gy + (pixel * S + k) * channels + channel);
      for (int i = 0; i < V; ++i) sum.v[i] = k == 0 ? g.v[i] * factors[k].v[i] : sum.v[i] + g.v[i] * factors[k].v[i];
    }
    if (add) {
      const Lanes<V> before = gpu::load<V>(gx + at);
      for (int i = 0; i < V; ++i) sum.v[i] += before.v[i];
    }
    store<V>(gx + at, sum);
  }
};

template <int V>
struct SumBackward {
  const float* gy;
  float* gx;
  __device__ void operator()(std::int64_t, std::int64_t pixel, std::int64_t, std::int64_t at) const {
    Lanes<V> g;
    for (float& value : g.v) value = gy[pixel];
    store<V>(gx + at, g);
  }
};

template <int V>
struct Concat {
  const float *a, *b;
  std::int64_t a_channels, b_channels;
  float* y;
  __device__ void operator()(std::int64_t, std::int64_t pixel, std::int64_t channel, std::int64_t at) const {
    const float* from =
        channel < a_channels ? a + pixel * a_channels + channel : b + pixel * b_channels + (channel - a_channels);
    store<V>(y + at, load<V>(from));
  }
};

template <int V>
struct Split {
  const float* y;
  std::int64_t a_channels, b_channels;
  float *a, *b;  // each or null
  __device__ void operator()(std::int64_t, std::int64_t pixel, std::int64_t channel, std::int64_t at) const {
    if (channel < a_channels) {
      if (a) store<V>(a + pixel * a_channels + channel, load<V>(y + at));
    } else if (b) {
      store<V>(b + pixel * b_channels + (channel - a_channels), load<V>(y + at));
    }
  }
};

template <class T>
T* partials(const Tiling& t, std::int64_t samples) {
  const std::int64_t count = t.slabs > 1 ? samples * t.slabs * t.channels : 0;
  return static_cast<T*>(workspace(static_cast<std::size_t>(count) * sizeof(T)));
}

}  // namespace

void CudaBackend::global_pool_forward(const ImageDims& dims, const float* x, float* mean, float* max,
                                      std::int32_t* argmax) {
  if (dims.size() == 0) return;
  const Tiling tiling = tiling_of_sums(dims.n, dims.c, dims.pixels());
  launch("global_pool", pool, tiling.blocks(dims.n), kThreads, 0, tiling, x, partials<Pooled>(tiling, dims.n), mean,
         max, argmax);
}

void CudaBackend::global_pool_backward(const ImageDims& dims, const float* gmean, const float* gmax,
                                       const std::int32_t* argmax, bool add, float* gx) {
  const float factor = 1.0f / static_cast<float>(dims.pixels());
  with_vectors(dims.c % 4 == 0 && fit_vectors(gmean, gmax, gx), [&]<class Vector>() {
    constexpr int V = kWidth<Vector>;
    run_elements("global_pool backward", V, dims.n, dims.pixels(), dims.c,
                 PoolBackward<V>{gmean, gmax, argmax, factor, dims.c, add, gx});
  });
}

// What follows treats all samples alike, so that their pixels count as those of one.

void CudaBackend::concat_forward(const ImageDims& a_dims, const ImageDims& b_dims, const float* a, const float* b,
                                 float* y) {
  with_vectors(a_dims.c % 4 == 0 && b_dims.c % 4 == 0 && fit_vectors(a, b, y), [&]<class Vector>() {
    constexpr int V = kWidth<Vector>;
    run_elements("concat", V, 1, a_dims.n * a_dims.pixels(), a_dims.c + b_dims.c,
                 Concat<V>{a, b, a_dims.c, b_dims.c, y});
  });
}

void CudaBackend::concat_backward(const ImageDims& a_dims, const ImageDims& b_dims, const float* gy, float* ga,
                                  float* gb) {
  with_vectors(a_dims.c % 4 == 0 && b_dims.c % 4 == 0 && fit_vectors(gy, ga, gb), [&]<class Vector>() {
    constexpr int V = kWidth<Vector>;
    run_elements("concat backward", V, 1, a_dims.n * a_dims.pixels(), a_dims.c + b_dims.c,
                 Split<V>{gy, a_dims.c, b_dims.c, ga, gb});
  });
}

void CudaBackend::scale_channels_forward(const ImageDims& dims, const float* x, const float* s, const float* second,
                                         float* y) {
  with_vectors(dims.c % 4 == 0 && fit_vectors(x, s, second, y), [&]<class Vector>() {
    constexpr int V = kWidth<Vector>;
    const auto run = [&](auto scale) { run_elements("scale_channels", V, 1, dims.n * dims.pixels(), dims.c, scale); };
    if (second)
      run(ScaleChannels<V, 2>{x, {s, second}, dims.c, y});
    else
      run(ScaleChannels<V, 1>{x, {s}, dims.c, y});
  });
}

void CudaBackend::scale_channels_backward(const ImageDims& dims, const float* x, const float* s, const float* second,
                                          const float* gy, bool add, float* gx, float* gs, float* gsecond) {
  if (dims.size() == 0) return;
  if (gs || gsecond) {
    const Tiling tiling = tiling_of_sums(1, dims.c, dims.n * dims.pixels());
    auto* partial = partials<double>(tiling, second ? 2 : 1);
    if (second)
      launch("scale_channels backward", scale_backward<2>, tiling.blocks(1), kThreads, 0, tiling,
             Factors<2>{{s, second}, {gs, gsecond}}, x, gy, partial, add, gx);
    else
      launch("scale_channels backward", scale_backward<1>, tiling.blocks(1), kThreads, 0, tiling, Factors<1>{{s}, {gs}},
             x, gy, partial, add, gx);
  } else if (gx) {
    with_vectors(dims.c % 4 == 0 && fit_vectors(gy, s, second, gx), [&]<class Vector>() {
      constexpr int V = kWidth<Vector>;
      const auto run = [&](auto scale) {
        run_elements("scale_channels backward", V, 1, dims.n * dims.pixels(), dims.c, scale);
      };
      if (second)
        run(ScaleBackward<V, 2>{gy, {s, second}, dims.c, add, gx});
      else
        run(ScaleBackward<V, 1>{gy, {s}, dims.c, add, gx});
    });
  }
}

void CudaBackend::sum_channels_forward(const ImageDims& dims, const float* x, float* y) {
  if (dims.size() == 0) return;
  int lanes = 1;
  while (lanes < kWarp && 4 * lanes < dims.c) lanes *= 2;
  const std::int64_t pixels = dims.n * dims.pixels();
  launch("sum_channels", sum_channels, blocks_for(pixels * lanes), kThreads, 0, pixels, dims.c, lanes, x, y);
}

void CudaBackend::sum_channels_backward(const ImageDims& dims, const float* gy, float* gx) {
  with_vectors(dims.c % 4 == 0 && fit_vectors(gx), [&]<class Vector>() {
    constexpr int V = kWidth<Vector>;
    run_elements("sum_channels backward", V, 1, dims.n * dims.pixels(), dims.c, SumBackward<V>{gy, gx});
  });
}

}  // namespace minidl
