// Instance norm, ILN and AdaILN. Every one of them is, per sample and channel, an affine map of x whose coefficients
// follow from two moments; so is the gradient to x. Forward reads x twice (moments, map), backward reads x and gy
// twice: two launches each, since the block that finishes last draws the conclusions from the sums.
#include <algorithm>

#include "kernels/cuda/channel_sums.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/lanes.h"
#include "kernels/cuda/padding.h"

namespace minidl {
namespace {

using namespace gpu;

// Pixels of a thread: in float within a piece when summing, double across them; at once when mapping.
constexpr int kPiece = 8, kMapped = 4;
// Slabs of a sample when summing. Enough to fill a device, few enough for one block to add up their sums.
constexpr std::int64_t kMostSlabs = 128;

__device__ Tickets tickets;

struct Problem {
  std::int64_t samples;
  Frame frame;
  bool relu, per_sample_style;
  float eps;
  const float *rho, *gamma, *beta;
  float *mean, *rstd;              // (n, c), over h, w
  float *layer_mean, *layer_rstd;  // (n), over c, h, w

  Problem(const NormSpec& spec, const float* rho, const float* gamma, const float* beta, float* stats)
      : samples(spec.dims.n),
        frame{spec.dims.c, spec.dims.h, spec.dims.w, spec.pad},
        relu(spec.relu),
        per_sample_style(spec.per_sample_style),
        eps(spec.eps),
        rho(rho),
        gamma(gamma),
        beta(beta),
        mean(stats),
        rstd(mean + samples * frame.channels),
        layer_mean(rstd + samples * frame.channels),
        layer_rstd(layer_mean + samples) {}

  std::int64_t channels() const { return samples * frame.channels; }

  // Where gamma and beta of a channel are; `at` is the channel counted through the batch.
  __device__ std::int64_t style_at(std::int64_t at, std::int64_t channel) const {
    return per_sample_style ? at : channel;
  }
};

// Mean and rstd of every sample from those of its channels. One block.
__device__ void finish_layers(const Problem& p, const double* squares) {
  const std::int64_t channels = p.frame.channels;
  const double pixels = static_cast<double>(p.frame.pixels());
  for (std::int64_t sample = 0; sample < p.samples; ++sample) {
    const float* means = p.mean + sample * channels;
    double sum = 0, square = 0;
    for (std::int64_t c = threadIdx.x; c < channels; c += kThreads) sum += means[c];
    const double mean = block_sum(sum) / static_cast<double>(channels);
    for (std::int64_t c = threadIdx.x; c < channels; c += kThreads) {
      const double d = means[c] - mean;
      square += squares[sample * channels + c] + pixels * d * d;
    }
    square = block_sum(square);
    if (threadIdx.x != 0) continue;
    p.layer_mean[sample] = static_cast<float>(mean);
    p.layer_rstd[sample] = static_cast<float>(1 / sqrt(square / (static_cast<double>(channels) * pixels - 1) + p.eps));
  }
}

// Deviations are taken from the first pixel of a piece and those from the channel's first pixel: exact for constant
// channels, accurate for means far from 0 and for a first pixel far from the mean. squares: (n, c), the sums of squared
// deviations from the mean.
template <int V>
__global__ void moments_kernel(Problem p, Tiling t, std::int64_t first_sample, const float* x, double* partial,
                               double* squares) {
  const Place at(t, first_sample);
  const float* data = x + at.sample * t.pixels * t.channels + at.channel;
  double sums[2 * V] = {};
  Lanes<V> base = {};
  if (at.active) {
    base = load<V>(data);
    for (std::int64_t piece = at.begin; piece < at.end; piece += kPiece * t.rows) {
      const Lanes<V> first = load<V>(data + piece * t.channels);
      float sum[V] = {}, square[V] = {};
      int count = 0;
#pragma unroll
      for (int k = 0; k < kPiece; ++k) {
        const std::int64_t pixel = piece + k * t.rows;
        if (pixel >= at.end) continue;
        ++count;
        const Lanes<V> value = load<V>(data + pixel * t.channels);
        for (int i = 0; i < V; ++i) {
          const float d = value.v[i] - first.v[i];
          sum[i] += d;
          square[i] += d * d;
        }
      }
      for (int i = 0; i < V; ++i) {
        const double e = static_cast<double>(first.v[i]) - base.v[i], s = sum[i];
        sums[i] += s + count * e;
        sums[V + i] += square[i] + e * (2 * s + count * e);
      }
    }
  }
  if (!sum_pixels<V, 2>(t, at, sums, partial, tickets.tile)) return;
  if (at.active && at.row == 0) {
    const double pixels = static_cast<double>(t.pixels);
    for (int i = 0; i < V; ++i) {
      const std::int64_t channel = at.sample * t.channels + at.channel + i;
      const double square = sums[V + i] - sums[i] * sums[i] / pixels, positive = square < 0 ? 0 : square;
      squares[channel] = positive;
      p.mean[channel] = static_cast<float>(base.v[i] + sums[i] / pixels);
      p.rstd[channel] = static_cast<float>(1 / sqrt(positive / (p.rho ? pixels - 1 : pixels) + p.eps));
    }
  }
  if (p.rho && is_last_block(&tickets.all, static_cast<unsigned>(p.samples * t.tiles))) finish_layers(p, squares);
}

// Coefficients of a tile's channels: z = scale * (x - center) + shift, before the ReLU. The rounding of every operation
// is laid down, so that backward finds the ReLU where forward did.
struct TileMap {
  alignas(16) float center[Tiling::kTileChannels];
  alignas(16) float scale[Tiling::kTileChannels];
  alignas(16) float shift[Tiling::kTileChannels];
};

template <int V>
struct ThreadMap {
  Lanes<V> center, scale, shift;

  __device__ ThreadMap(const TileMap& map, int offset)
      : center(load<V>(map.center + offset)), scale(load<V>(map.scale + offset)), shift(load<V>(map.shift + offset)) {}

  __device__ float value(int i, float deviation) const { return __fmaf_rn(scale.v[i], deviation, shift.v[i]); }
};

// Fills `map`; the block has to meet before it is read.
__device__ void load_map(const Problem& p, const Tiling& t, const Place& at, TileMap& map) {
  const int offset = static_cast<int>(threadIdx.x);
  const std::int64_t channel = at.first_channel(t) + offset;
  if (offset >= t.columns * t.lanes || channel >= t.channels) return;
  const std::int64_t i = at.sample * t.channels + channel;
  map.center[offset] = p.mean[i];
  if (!p.rho) {
    map.scale[offset] = p.rstd[i];
    map.shift[offset] = 0;
    return;
  }
  const std::int64_t style = p.style_at(i, channel);
  const float rho = p.rho[channel], gamma = p.gamma[style];
  const float layer = __fmul_rn(__fsub_rn(1, rho), p.layer_rstd[at.sample]);
  map.scale[offset] = __fmul_rn(gamma, __fmaf_rn(rho, p.rstd[i], layer));
  map.shift[offset] = __fmaf_rn(__fmul_rn(gamma, layer), __fsub_rn(p.mean[i], p.layer_mean[at.sample]), p.beta[style]);
}

// t counts the pixels of y, each of which takes its value from the inner pixel that it mirrors.
template <int V>
__global__ void norm_kernel(Problem p, Tiling t, const float* x, const float* residual, float* y) {
  __shared__ TileMap shared_map;
  const Place at(t, 0);
  load_map(p, t, at, shared_map);
  __syncthreads();
  if (!at.active) return;
  const ThreadMap<V> map(shared_map, at.offset(t));
  const std::int64_t in = at.sample * p.frame.pixels() * t.channels + at.channel;
  float* out = y + at.sample * t.pixels * t.channels + at.channel;
  Lanes<V> values[kMapped], residuals[kMapped] = {};
#pragma unroll
  for (int k = 0; k < kMapped; ++k) {
    const std::int64_t pixel = at.begin + k * t.rows;
    if (pixel >= at.end) continue;
    const std::int64_t from = in + p.frame.mirrored(pixel) * t.channels;
    values[k] = load<V>(x + from);
    if (residual) residuals[k] = load<V>(residual + from);
  }
#pragma unroll
  for (int k = 0; k < kMapped; ++k) {
    const std::int64_t pixel = at.begin + k * t.rows;
    if (pixel >= at.end) continue;
    Lanes<V> result;
    for (int i = 0; i < V; ++i) {
      const float z = map.value(i, values[k].v[i] - map.center.v[i]);
      const float rectified = p.relu && z < 0 ? 0 : z;  // a NaN passes: a broken run must not look healthy
      result.v[i] = residual ? rectified + residuals[k].v[i] : rectified;
    }
    store<V>(out + pixel * t.channels, result);
  }
}

// Coefficients of gx = gain * g + slope * (x - mean) + offset, where g is gy with its padding folded back where the
// ReLU let the value pass; (n, c) each.
struct GradientMap {
  float *gain, *slope, *offset;
};

struct StyleGradients {
  float *rho, *gamma, *beta;  // each or null
  bool add_to_gamma, add_to_beta;

  __device__ void put_style(std::int64_t at, double ggamma, double gbeta) const {
    if (gamma) gamma[at] = static_cast<float>(ggamma) + (add_to_gamma ? gamma[at] : 0.0f);
    if (beta) beta[at] = static_cast<float>(gbeta) + (add_to_beta ? beta[at] : 0.0f);
  }
};

// The gradient map of one sample and, if every sample has its own style, the style's gradients. One block. sums:
// (n, 2, c), of g and of g * (x - mean).
__device__ void finish_sample(const Problem& p, const GradientMap& map, const StyleGradients& gradients,
                              std::int64_t sample, const double* sums) {
  const std::int64_t channels = p.frame.channels;
  const double pixels = static_cast<double>(p.frame.pixels()), all = pixels * static_cast<double>(channels);
  const double *s1 = sums + 2 * sample * channels, *s2 = s1 + channels;
  const double layer_mean = p.rho ? p.layer_mean[sample] : 0, lr = p.rho ? p.layer_rstd[sample] : 0;
  double layer1 = 0, layer2 = 0;  // sums of the layer part's gradient, plain and times its normalised value
  if (p.rho) {
    for (std::int64_t c = threadIdx.x; c < channels; c += kThreads) {
      const std::int64_t i = sample * channels + c;
      const double share = p.gamma[p.style_at(i, c)] * (1.0 - p.rho[c]);
      layer1 += share * s1[c];
      layer2 += share * lr * (s2[c] + (p.mean[i] - layer_mean) * s1[c]);
    }
    layer1 = block_sum(layer1);
    layer2 = block_sum(layer2);
  }
  for (std::int64_t c = threadIdx.x; c < channels; c += kThreads) {
    const std::int64_t i = sample * channels + c;
    const double r = p.rstd[i];
    if (!p.rho) {
      map.gain[i] = static_cast<float>(r);
      map.slope[i] = static_cast<float>(-r * r * r * s2[c] / pixels);
      map.offset[i] = static_cast<float>(-r * s1[c] / pixels);
      continue;
    }
    const double rho = p.rho[c], gamma = p.gamma[p.style_at(i, c)], distance = p.mean[i] - layer_mean;
    const double by_instance = r * s2[c], by_layer = lr * (s2[c] + distance * s1[c]);
    const double a = r * gamma * rho, layer_slope = -lr * lr * layer2 / (all - 1);
    map.gain[i] = static_cast<float>(a + lr * gamma * (1 - rho));
    map.slope[i] = static_cast<float>(-a * r * by_instance / (pixels - 1) + layer_slope);
    map.offset[i] = static_cast<float>(-a * s1[c] / pixels - lr * layer1 / all + layer_slope * distance);
    if (!p.per_sample_style) continue;
    gradients.put_style(i, rho * by_instance + (1 - rho) * by_layer, s1[c]);
  }
}

// The gradients of what all samples share. One block.
__device__ void finish_shared(const Problem& p, const StyleGradients& gradients, const double* sums) {
  const std::int64_t channels = p.frame.channels;
  for (std::int64_t c = threadIdx.x; c < channels; c += kThreads) {
    const double rho = p.rho[c];
    double grho = 0, ggamma = 0, gbeta = 0;
    for (std::int64_t sample = 0; sample < p.samples; ++sample) {
      const std::int64_t i = sample * channels + c;
      const double s1 = sums[2 * sample * channels + c], s2 = sums[(2 * sample + 1) * channels + c];
      const double by_instance = p.rstd[i] * s2;
      const double distance = static_cast<double>(p.mean[i]) - p.layer_mean[sample];
      const double by_layer = p.layer_rstd[sample] * (s2 + distance * s1);
      grho += p.gamma[p.style_at(i, c)] * (by_instance - by_layer);
      ggamma += rho * by_instance + (1 - rho) * by_layer;
      gbeta += s1;
    }
    if (gradients.rho) gradients.rho[c] = static_cast<float>(grho);
    if (p.per_sample_style) continue;
    gradients.put_style(c, ggamma, gbeta);
  }
}

// The deviation of x from its mean, and g, recomputed from x as forward computed it, so that y need not be read.
template <int V>
struct MaskedGradient {
  Lanes<V> deviation, gradient;

  // x and gy: the sample's, from the thread's channel on.
  __device__ void load_from(const Problem& p, const ThreadMap<V>& map, const float* x, const float* gy,
                            std::int64_t pixel) {
    deviation = load<V>(x + pixel * p.frame.channels);
    gradient = folded<V>(p.frame, gy, pixel);
    for (int i = 0; i < V; ++i) {
      deviation.v[i] -= map.center.v[i];
      if (p.relu && !(map.value(i, deviation.v[i]) > 0)) gradient.v[i] = 0;
    }
  }
};

template <int V>
__global__ void gradient_sums_kernel(Problem p, Tiling t, std::int64_t first_sample, const float* x, const float* gy,
                                     double* partial, double* totals, GradientMap gradient_map,
                                     StyleGradients gradients) {
  __shared__ TileMap shared_map;
  const Place at(t, first_sample);
  load_map(p, t, at, shared_map);
  __syncthreads();
  double sums[2 * V] = {};
  if (at.active) {
    const ThreadMap<V> map(shared_map, at.offset(t));
    const float* values = x + at.sample * t.pixels * t.channels + at.channel;
    const float* cotangents = gy + at.sample * p.frame.padded_pixels() * t.channels + at.channel;
    for (std::int64_t piece = at.begin; piece < at.end; piece += kPiece * t.rows) {
      float sum[V] = {}, product[V] = {};
#pragma unroll
      for (int k = 0; k < kPiece; ++k) {
        const std::int64_t pixel = piece + k * t.rows;
        if (pixel >= at.end) continue;
        MaskedGradient<V> masked;
        masked.load_from(p, map, values, cotangents, pixel);
        for (int i = 0; i < V; ++i) {
          sum[i] += masked.gradient.v[i];
          product[i] += masked.gradient.v[i] * masked.deviation.v[i];
        }
      }
      for (int i = 0; i < V; ++i) {
        sums[i] += sum[i];
        sums[V + i] += product[i];
      }
    }
  }
  if (!sum_pixels<V, 2>(t, at, sums, partial, tickets.tile)) return;
  if (at.active && at.row == 0)
    for (int s = 0; s < 2; ++s)
      for (int i = 0; i < V; ++i) totals[(2 * at.sample + s) * t.channels + at.channel + i] = sums[s * V + i];
  if (!is_last_block(&tickets.all, static_cast<unsigned>(p.samples * t.tiles))) return;
  for (std::int64_t sample = 0; sample < p.samples; ++sample) finish_sample(p, gradient_map, gradients, sample, totals);
  if (p.rho) finish_shared(p, gradients, totals);
}

template <int V>
__global__ void gradient_kernel(Problem p, Tiling t, const float* x, const float* gy, GradientMap gradient_map,
                                float* gx) {
  __shared__ TileMap shared_map;
  const Place at(t, 0);
  load_map(p, t, at, shared_map);
  __syncthreads();
  if (!at.active) return;
  const ThreadMap<V> map(shared_map, at.offset(t));
  const std::int64_t channel = at.sample * t.channels + at.channel, sample = at.sample * t.pixels * t.channels;
  const Lanes<V> gain = load<V>(gradient_map.gain + channel), slope = load<V>(gradient_map.slope + channel),
                 offset = load<V>(gradient_map.offset + channel);
  const float* values = x + sample + at.channel;
  const float* cotangents = gy + at.sample * p.frame.padded_pixels() * t.channels + at.channel;
  float* out = gx + sample + at.channel;
  MaskedGradient<V> masked[kMapped];
#pragma unroll
  for (int k = 0; k < kMapped; ++k) {
    const std::int64_t pixel = at.begin + k * t.rows;
    if (pixel < at.end) masked[k].load_from(p, map, values, cotangents, pixel);
  }
#pragma unroll
  for (int k = 0; k < kMapped; ++k) {
    const std::int64_t pixel = at.begin + k * t.rows;
    if (pixel >= at.end) continue;
    Lanes<V> result;
    for (int i = 0; i < V; ++i)
      result.v[i] = gain.v[i] * masked[k].gradient.v[i] + (slope.v[i] * masked[k].deviation.v[i] + offset.v[i]);
    store<V>(out + pixel * t.channels, result);
  }
}

}  // namespace

void CudaBackend::norm_forward(const NormSpec& spec, const float* x, const float* rho, const float* gamma,
                               const float* beta, const float* residual, float* y, float* stats) {
  const Problem p(spec, rho, gamma, beta, stats);
  const bool four = spec.dims.c % 4 == 0 && fit_vectors(x, residual, y);
  with_vectors(four, [&]<class Vector>() {
    constexpr int V = kWidth<Vector>;
    const Tiling sums(V, spec.dims.c, p.frame.pixels(), kPiece, kMostSlabs);
    const std::int64_t partials = p.channels() * sums.slabs * 2;
    auto* memory = static_cast<double*>(workspace(static_cast<std::size_t>(partials + p.channels()) * sizeof(double)));
    for_ticketed_samples(sums, p.samples, [&](std::int64_t first, std::int64_t count) {
      launch("the moments of a norm", moments_kernel<V>, sums.blocks(count), kThreads, 0, p, sums, first, x, memory,
             memory + partials);
    });
    const Tiling all(V, spec.dims.c, p.frame.padded_pixels(), kMapped);
    launch("a norm", norm_kernel<V>, all.blocks(p.samples), kThreads, 0, p, all, x, residual, y);
  });
}

void CudaBackend::norm_backward(const NormSpec& spec, const float* x, const float* rho, const float* gamma,
                                const float* beta, const float* stats, const float* gy, float* gx, float* grho,
                                float* ggamma, float* gbeta) {
  const Problem p(spec, rho, gamma, beta, const_cast<float*>(stats));  // only read below
  const bool four = spec.dims.c % 4 == 0 && fit_vectors(x, gy, gx);
  with_vectors(four, [&]<class Vector>() {
    constexpr int V = kWidth<Vector>;
    const Tiling sums(V, spec.dims.c, p.frame.pixels(), kPiece, kMostSlabs);
    const std::int64_t partials = p.channels() * sums.slabs * 2, totals = p.channels() * 2, maps = p.channels() * 3;
    const std::int64_t bytes = (partials + totals) * std::int64_t{sizeof(double)} + maps * std::int64_t{sizeof(float)};
    auto* memory = static_cast<double*>(workspace(static_cast<std::size_t>(bytes)));
    auto* floats = reinterpret_cast<float*>(memory + partials + totals);
    const GradientMap map{floats, floats + p.channels(), floats + 2 * p.channels()};
    for_ticketed_samples(sums, p.samples, [&](std::int64_t first, std::int64_t count) {
      launch("the sums of a norm's gradient", gradient_sums_kernel<V>, sums.blocks(count), kThreads, 0, p, sums, first,
             x, gy, memory, memory + partials, map,
             StyleGradients{grho, ggamma, gbeta, spec.add_to_gamma, spec.add_to_beta});
    });
    if (!gx) return;
    const Tiling all(V, spec.dims.c, p.frame.pixels(), kMapped);
    launch("a norm's gradient", gradient_kernel<V>, all.blocks(p.samples), kThreads, 0, p, all, x, gy, map, gx);
  });
}

}  // namespace minidl
