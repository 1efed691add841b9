// What follows a layer that divides its result, rather than its weight, by sigma: the division, the bias, a leaky ReLU
// and padding in one pass, and their gradients in another.
#include <numeric>

#include "kernels/cuda/channel_sums.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/groups.h"
#include "kernels/cuda/lanes.h"
#include "kernels/cuda/padding.h"

namespace minidl {
namespace {

using namespace gpu;

// Pixels of a thread at once; sums are in float within them, double across.
constexpr int kPixels = 4;
// Slabs of a sample when summing. Enough to fill a device, few enough for one block to add up their sums.
constexpr std::int64_t kMostSlabs = 128;

__device__ Tickets tickets;

struct Division {
  Frame frame;
  float slope;
  const float *divisor, *bias;  // each or null

  Division(const DivisionSpec& spec, const float* divisor, const float* bias)
      : frame{spec.dims.c, spec.dims.h, spec.dims.w, spec.pad}, slope(spec.slope), divisor(divisor), bias(bias) {}

  __device__ float inverse(const Groups& groups, std::int64_t sample) const {
    return divisor ? 1.0f / divisor[groups.of(sample)] : 1.0f;
  }

  template <int V>
  __device__ Lanes<V> bias_of(std::int64_t channel) const {
    Lanes<V> result = {};
    if (bias)
      for (int i = 0; i < V; ++i) result.v[i] = bias[channel + i];
    return result;
  }
};

// t counts the pixels of y, each of which takes its value from the inner pixel that it mirrors. A thread reads all that
// it needs before it writes: y may be x.
template <int V>
__global__ void divide_kernel(Division d, Groups groups, Tiling t, const float* x, float* y) {
  const Place at(t, 0);
  if (!at.active) return;
  const float inverse = d.inverse(groups, at.sample);
  const Lanes<V> bias = d.bias_of<V>(at.channel);
  const float* in = x + at.sample * d.frame.pixels() * t.channels + at.channel;
  float* out = y + at.sample * t.pixels * t.channels + at.channel;
  Lanes<V> values[kPixels];
#pragma unroll
  for (int k = 0; k < kPixels; ++k) {
    const std::int64_t pixel = at.begin + k * t.rows;
    if (pixel < at.end) values[k] = load<V>(in + d.frame.mirrored(pixel) * t.channels);
  }
#pragma unroll
  for (int k = 0; k < kPixels; ++k) {
    const std::int64_t pixel = at.begin + k * t.rows;
    if (pixel >= at.end) continue;
    for (int i = 0; i < V; ++i) {
      const float z = __fmaf_rn(values[k].v[i], inverse, bias.v[i]);
      values[k].v[i] = z > 0 ? z : z * d.slope;
    }
    store<V>(out + pixel * t.channels, values[k]);
  }
}

struct Gradients {
  float *x, *divisor, *bias;  // the last two each or null
};

// The gradients of divisor and bias from the sums of every channel. One block. sums: (n, 2, c), of g x / divisor and g.
__device__ void finish(const Division& d, const Groups& groups, const double* sums, const Gradients& gradients) {
  const std::int64_t channels = d.frame.channels;
  if (gradients.divisor) {
    for (int g = 0; g < groups.count; ++g) {
      double total = 0;
      for (std::int64_t sample = groups.begins[g]; sample < groups.begins[g + 1]; ++sample)
        for (std::int64_t c = threadIdx.x; c < channels; c += kThreads) total += sums[2 * sample * channels + c];
      total = block_sum(total);
      if (threadIdx.x == 0) gradients.divisor[g] = static_cast<float>(-total / d.divisor[g]);
    }
  }
  if (!gradients.bias) return;
  for (std::int64_t c = threadIdx.x; c < channels; c += kThreads) {
    double total = 0;
    for (std::int64_t sample = 0; sample < groups.begins[groups.count]; ++sample)
      total += sums[(2 * sample + 1) * channels + c];
    gradients.bias[c] = static_cast<float>(total);
  }
}

// One pass over y and gy; x / divisor is what the result was before the leaky ReLU and the bias.
template <int V>
__global__ void divide_gradient_kernel(Division d, Groups groups, Tiling t, std::int64_t first_sample, const float* y,
                                       const float* gy, double* partial, double* totals, Gradients gradients) {
  const Place at(t, first_sample);
  double sums[2 * V] = {};
  if (at.active) {
    const float inverse = d.inverse(groups, at.sample);
    const float inverse_slope = d.slope > 0 ? 1.0f / d.slope : 0.0f;  // without a slope nobody asks for what was before
    const Lanes<V> bias = d.bias_of<V>(at.channel);
    const std::int64_t sample = at.sample * t.pixels * t.channels + at.channel;
    const std::int64_t padded_sample = at.sample * d.frame.padded_pixels() * t.channels + at.channel;
    const float *results = y + padded_sample, *cotangents = gy + padded_sample;
    for (std::int64_t piece = at.begin; piece < at.end; piece += kPixels * t.rows) {
      Lanes<V> gradient[kPixels], result[kPixels];
#pragma unroll
      for (int k = 0; k < kPixels; ++k) {
        const std::int64_t pixel = piece + k * t.rows;
        if (pixel >= at.end) continue;
        gradient[k] = folded<V>(d.frame, cotangents, pixel);
        result[k] = load<V>(results + d.frame.padded(pixel) * t.channels);
      }
      float sum[V] = {}, product[V] = {};
#pragma unroll
      for (int k = 0; k < kPixels; ++k) {
        const std::int64_t pixel = piece + k * t.rows;
        if (pixel >= at.end) continue;
        Lanes<V> gx;
        for (int i = 0; i < V; ++i) {
          const bool passed = result[k].v[i] > 0;
          const float g = passed ? gradient[k].v[i] : gradient[k].v[i] * d.slope;
          const float before = passed ? result[k].v[i] : result[k].v[i] * inverse_slope;
          sum[i] += g;
          product[i] += g * (before - bias.v[i]);
          gx.v[i] = g * inverse;
        }
        store<V>(gradients.x + sample + pixel * t.channels, gx);
      }
      for (int i = 0; i < V; ++i) {
        sums[i] += product[i];
        sums[V + i] += sum[i];
      }
    }
  }
  if (!gradients.divisor && !gradients.bias) return;
  if (!sum_pixels<V, 2>(t, at, sums, partial, tickets.tile)) return;
  if (at.active && at.row == 0)
    for (int s = 0; s < 2; ++s)
      for (int i = 0; i < V; ++i) totals[(2 * at.sample + s) * t.channels + at.channel + i] = sums[s * V + i];
  const std::int64_t samples = groups.begins[groups.count];
  if (is_last_block(&tickets.all, static_cast<unsigned>(samples * t.tiles))) finish(d, groups, totals, gradients);
}

}  // namespace

void CudaBackend::divide_samples_forward(const DivisionSpec& spec, const float* divisor, const float* bias,
                                         const float* x, float* y) {
  const Division d(spec, divisor, bias);
  with_vectors(spec.dims.c % 4 == 0 && fit_vectors(x, y), [&]<class Vector>() {
    constexpr int V = kWidth<Vector>;
    const Tiling all(V, spec.dims.c, d.frame.padded_pixels(), kPixels);
    launch("a division by sigma", divide_kernel<V>, all.blocks(spec.dims.n), kThreads, 0, d, Groups(spec.groups), all,
           x, y);
  });
}

void CudaBackend::divide_samples_backward(const DivisionSpec& spec, const float* divisor, const float* bias,
                                          const float* y, const float* gy, float* gx, float* gdivisor, float* gbias) {
  const Division d(spec, divisor, bias);
  with_vectors(spec.dims.c % 4 == 0 && fit_vectors(y, gy, gx), [&]<class Vector>() {
    constexpr int V = kWidth<Vector>;
    const Tiling sums(V, spec.dims.c, d.frame.pixels(), kPixels, kMostSlabs);
    const std::int64_t channels = spec.dims.n * spec.dims.c, partials = channels * sums.slabs * 2;
    auto* memory = static_cast<double*>(workspace(static_cast<std::size_t>(partials + 2 * channels) * sizeof(double)));
    for_ticketed_samples(sums, spec.dims.n, [&](std::int64_t first, std::int64_t count) {
      launch("the gradient of a division by sigma", divide_gradient_kernel<V>, sums.blocks(count), kThreads, 0, d,
             Groups(spec.groups), sums, first, y, gy, memory, memory + partials, Gradients{gx, gdivisor, gbias});
    });
  });
}

}  // namespace minidl
