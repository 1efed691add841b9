// Instance norm, ILN and AdaILN. Every one of them is, per sample and channel, an affine map of x whose coefficients
// follow from two moments; so is the gradient to x. Forward reads x twice (moments, map), backward reads x and gy
// twice.
#include <cmath>
#include <cstring>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/padding.h"

namespace minidl {
namespace {

using namespace cpu;

// Statistics kept for backward, in this order.
struct Stats {
  float *mean, *rstd;              // (n, c), over h, w
  float *layer_mean, *layer_rstd;  // (n), over c, h, w

  Stats(const NormSpec& spec, float* memory)
      : mean(memory),
        rstd(mean + spec.dims.n * spec.dims.c),
        layer_mean(rstd + spec.dims.n * spec.dims.c),
        layer_rstd(layer_mean + spec.dims.n) {}
};

struct Style {
  const float *rho, *gamma, *beta;
};

// z = scale * (x - center) + shift, per sample and channel, before the ReLU.
struct Affine {
  float *center, *scale, *shift;  // (n, c)
};

Affine affine_of(const NormSpec& spec, const Style& style, const Stats& stats) {
  const std::int64_t n = spec.dims.n, c = spec.dims.c;
  struct Tag;
  float* memory = scratch<float, Tag>(2 * n * c);
  Affine affine{stats.mean, memory, memory + n * c};
  for (std::int64_t i = 0; i < n * c; ++i) {
    if (!style.rho) {
      affine.scale[i] = stats.rstd[i];
      affine.shift[i] = 0;
      continue;
    }
    const std::int64_t sample = i / c, channel = i % c, s = spec.per_sample_style ? i : channel;
    const float rho = style.rho[channel], layer = (1 - rho) * stats.layer_rstd[sample];
    affine.scale[i] = style.gamma[s] * (rho * stats.rstd[i] + layer);
    affine.shift[i] = style.beta[s] + style.gamma[s] * layer * (stats.mean[i] - stats.layer_mean[sample]);
  }
  return affine;
}

// Sums S quantities over each channel's pixels: result[(run * S + s) * block + lane].
template <int S, class SegmentSums>
const double* channel_sums(const Runs& runs, SegmentSums segment_sums) {
  struct Tag;
  const std::int64_t width = S * runs.block;
  double* partial = scratch<double, Tag>(runs.count * runs.segments * width);
  runs.for_segments([&](std::int64_t run, std::int64_t segment, std::int64_t begin, std::int64_t end) {
    segment_sums(run, begin, end, partial + (run * runs.segments + segment) * width);
  });
  for (std::int64_t run = 0; run < runs.count; ++run) {
    double* total = partial + run * width;
    for (std::int64_t i = 0; i < width; ++i) {
      double sum = 0;
      for (std::int64_t segment = 0; segment < runs.segments; ++segment)
        sum += partial[(run * runs.segments + segment) * width + i];
      total[i] = sum;  // run <= run * segments: never ahead of what is still to be read
    }
  }
  return partial;
}

// Sums over the floats [begin, end) of a run, as sum_lanes makes them: deviations from `base`, and their squares. Each
// piece is read twice, the second time from the cache: once for its sum, in double, then for squared deviations from
// its own mean, so that float sums of squares lose nothing to a mean far from 0, nor to a pixel far from all others.
template <int K>
void sum_moments(const float* data, std::int64_t begin, std::int64_t end, const Lanes<K>& base, double* sums) {
  using Half [[gnu::vector_size(16)]] = float;
  using Wide [[gnu::vector_size(32)]] = double;
  constexpr int kVectors = Lanes<K>::kVectors;
  constexpr std::int64_t kHalf = kLanes / 2, kBlock = K == 0 ? 1 : K * kLanes, kPiece = 128 * kVectors * kLanes;
  std::fill(sums, sums + 2 * kBlock, 0.0);
  for (std::int64_t piece = begin; piece < end; piece += kPiece) {
    const std::int64_t stop = std::min(end, piece + kPiece), step = kVectors * kLanes;
    const std::int64_t pixels = (stop - piece) / step, whole = piece + pixels * step;
    const auto count = static_cast<double>(pixels);
    Wide sum[2 * kVectors] = {};
    Vec mean[kVectors] = {}, square[kVectors] = {};
    for (std::int64_t i = piece; i < whole; i += step)
      for (int h = 0; h < 2 * kVectors; ++h) {
        Half x;
        std::memcpy(&x, data + i + h * kHalf, sizeof x);
        sum[h] += __builtin_convertvector(x, Wide);
      }
    const auto total_of = [&](std::int64_t channel) { return sum[channel / kHalf][channel % kHalf]; };
    for (std::int64_t c = 0; pixels > 0 && c < step; ++c)
      mean[c / kLanes][c % kLanes] = static_cast<float>(total_of(c) / count);
    for (std::int64_t i = piece; i < whole; i += step)
      for (int k = 0; k < kVectors; ++k) {
        const Vec d = load(data + i + k * kLanes) - mean[k];
        square[k] += d * d;
      }
    // `n` values about `center`: their deviations from it sum up to s, the squares of these to q.
    const auto add = [&](std::int64_t channel, double n, double center, double s, double q) {
      const double e = center - base.v[channel / kLanes][channel % kLanes];
      sums[channel] += s + n * e;
      sums[kBlock + channel] += q + e * (2 * s + n * e);
    };
    for (std::int64_t c = 0; c < step; ++c) {
      const double center = mean[c / kLanes][c % kLanes];
      add(K == 0 ? 0 : c, count, center, total_of(c) - count * center, square[c / kLanes][c % kLanes]);
    }
    for (std::int64_t i = whole; i < stop; ++i) add(0, 1, data[i], 0, 0);  // of a planar run
  }
}

template <int K>
void compute_stats(const NormSpec& spec, bool unbiased, const float* x, const Stats& stats) {
  const Runs runs(spec.dims);
  const std::int64_t n = spec.dims.n, c = spec.dims.c;
  const double pixels = static_cast<double>(spec.dims.pixels());
  const double* sums = channel_sums<2>(runs, [&](std::int64_t run, std::int64_t begin, std::int64_t end, double* out) {
    const float* data = x + run * runs.length;
    sum_moments<K>(data, begin, end, Lanes<K>(data), out);
  });
  struct Tag;
  double* squares = scratch<double, Tag>(n * c);
  for (std::int64_t i = 0; i < n * c; ++i) {
    const std::int64_t run = i / runs.block, lane = i % runs.block;
    const double s1 = sums[2 * run * runs.block + lane], s2 = sums[(2 * run + 1) * runs.block + lane];
    squares[i] = std::max(0.0, s2 - s1 * s1 / pixels);
    stats.mean[i] = static_cast<float>(x[run * runs.length + lane] + s1 / pixels);
    stats.rstd[i] = static_cast<float>(1 / std::sqrt(squares[i] / (unbiased ? pixels - 1 : pixels) + spec.eps));
  }
  for (std::int64_t sample = 0; sample < n; ++sample) {
    double mean = 0, square = 0;
    for (std::int64_t i = sample * c; i < (sample + 1) * c; ++i) mean += stats.mean[i];
    mean /= static_cast<double>(c);
    for (std::int64_t i = sample * c; i < (sample + 1) * c; ++i) {
      const double d = stats.mean[i] - mean;
      square += squares[i] + pixels * d * d;
    }
    stats.layer_mean[sample] = static_cast<float>(mean);
    stats.layer_rstd[sample] =
        static_cast<float>(1 / std::sqrt(square / (static_cast<double>(c) * pixels - 1) + spec.eps));
  }
}

template <int K>
void apply(const NormSpec& spec, const Affine& affine, const float* x, const float* residual, float* y) {
  const Runs runs(spec.dims);
  // The floats [begin, end) of a run go to the same positions from `to` on.
  const auto map = [&](std::int64_t run, std::int64_t begin, std::int64_t end, float* to) {
    const std::int64_t channel = run * runs.block, offset = run * runs.length;
    const Lanes<K> center(affine.center + channel), scale(affine.scale + channel), shift(affine.shift + channel);
    const float* in = x + offset;
    const auto z = [&](auto at, int k) { return scale.v[k] * (at(in) - center.v[k]) + shift.v[k]; };
    const auto rectified = [&](auto at, int k) {
      const Vec value = z(at, k);
      return value < 0.0f ? Vec{} : value;  // a NaN passes: a broken run must not look healthy
    };
    if (residual) {
      const float* add = residual + offset;
      if (spec.relu)
        map_lanes<K>(begin, end, to, [&](auto at, int k) { return rectified(at, k) + at(add); });
      else
        map_lanes<K>(begin, end, to, [&](auto at, int k) { return z(at, k) + at(add); });
    } else if (spec.relu) {
      map_lanes<K>(begin, end, to, rectified);
    } else {
      map_lanes<K>(begin, end, to, z);
    }
  };
  write_padded(spec.dims, spec.pad, y, map);
}

// gy where the ReLU let the value pass, recomputed from x as forward computed it, so that y need not be read.
template <int K>
struct MaskedGradient {
  Lanes<K> center, scale, shift;
  const float *x, *gy;
  bool relu;

  MaskedGradient(const NormSpec& spec, const Affine& affine, const Runs& runs, std::int64_t run, const float* x,
                 const float* gy)
      : center(affine.center + run * runs.block),
        scale(affine.scale + run * runs.block),
        shift(affine.shift + run * runs.block),
        x(x + run * runs.length),
        gy(gy + run * runs.length),
        relu(spec.relu) {}

  struct Values {
    Vec deviation, gradient;
  };
  template <class At>
  Values operator()(At at, int k) const {
    const Vec deviation = at(x) - center.v[k];
    Vec gradient = at(gy);
    if (relu) {
      const Vec z = scale.v[k] * deviation + shift.v[k];
      gradient = z > 0.0f ? gradient : Vec{};
    }
    return {deviation, gradient};
  }
};

// Coefficients of gx = g * gradient + d * (x - mean) + e and the gradients of the style, from the two sums per channel.
struct GradientMap {
  float *g, *d, *e;  // (n, c)
};

GradientMap gradient_map(const NormSpec& spec, const Style& style, const Stats& stats, const Runs& runs,
                         const double* sums, float* grho, float* ggamma, float* gbeta) {
  const std::int64_t n = spec.dims.n, c = spec.dims.c;
  const double pixels = static_cast<double>(spec.dims.pixels()), all = pixels * static_cast<double>(c);
  struct Tag;
  float* memory = scratch<float, Tag>(3 * n * c);
  const GradientMap map{memory, memory + n * c, memory + 2 * n * c};
  if (grho) std::fill(grho, grho + c, 0.0f);
  const std::int64_t style_size = spec.per_sample_style ? n * c : c;
  if (ggamma && !spec.add_to_gamma) std::fill(ggamma, ggamma + style_size, 0.0f);
  if (gbeta && !spec.add_to_beta) std::fill(gbeta, gbeta + style_size, 0.0f);

  for (std::int64_t sample = 0; sample < n; ++sample) {
    double layer1 = 0, layer2 = 0;  // sums of the layer part's gradient, plain and times its normalised value
    const double lr = stats.layer_rstd[sample];
    for (std::int64_t channel = 0; channel < c; ++channel) {
      const std::int64_t i = sample * c + channel, run = i / runs.block, lane = i % runs.block;
      const double s1 = sums[2 * run * runs.block + lane];        // sum of gradient
      const double s2 = sums[(2 * run + 1) * runs.block + lane];  // sum of gradient * (x - mean)
      const double r = stats.rstd[i];
      if (!style.rho) {
        map.g[i] = static_cast<float>(r);
        map.d[i] = static_cast<float>(-r * r * r * s2 / pixels);
        map.e[i] = static_cast<float>(-r * s1 / pixels);
        continue;
      }
      const std::int64_t s = spec.per_sample_style ? i : channel;
      const double rho = style.rho[channel], gamma = style.gamma[s];
      const double offset = static_cast<double>(stats.mean[i]) - stats.layer_mean[sample];
      const double by_instance = r * s2, by_layer = lr * (s2 + offset * s1);  // sums of gradient * normalised value
      const double a = r * gamma * rho;
      map.g[i] = static_cast<float>(a + lr * gamma * (1 - rho));
      map.d[i] = static_cast<float>(-a * r * by_instance / (pixels - 1));
      map.e[i] = static_cast<float>(-a * s1 / pixels);
      layer1 += gamma * (1 - rho) * s1;
      layer2 += gamma * (1 - rho) * by_layer;
      if (grho) grho[channel] += static_cast<float>(gamma * (by_instance - by_layer));
      if (ggamma) ggamma[s] += static_cast<float>(rho * by_instance + (1 - rho) * by_layer);
      if (gbeta) gbeta[s] += static_cast<float>(s1);
    }
    if (!style.rho) continue;
    for (std::int64_t i = sample * c; i < (sample + 1) * c; ++i) {
      const double offset = static_cast<double>(stats.mean[i]) - stats.layer_mean[sample];
      const double d = -lr * lr * layer2 / (all - 1);
      map.d[i] = static_cast<float>(map.d[i] + d);
      map.e[i] = static_cast<float>(map.e[i] - lr * layer1 / all + d * offset);
    }
  }
  return map;
}

template <int K>
void backward(const NormSpec& spec, const Style& style, const Stats& stats, const float* x, const float* gy, float* gx,
              float* grho, float* ggamma, float* gbeta) {
  const Runs runs(spec.dims);
  const Affine affine = affine_of(spec, style, stats);
  const double* sums = channel_sums<2>(runs, [&](std::int64_t run, std::int64_t begin, std::int64_t end, double* out) {
    const MaskedGradient<K> masked(spec, affine, runs, run, x, gy);
    sum_lanes<K, 2>(begin, end, out, [&](auto at, int k) {
      const auto v = masked(at, k);
      return Terms<2>{{v.gradient, v.gradient * v.deviation}};
    });
  });
  const GradientMap map = gradient_map(spec, style, stats, runs, sums, grho, ggamma, gbeta);
  if (!gx) return;
  runs.for_segments([&](std::int64_t run, std::int64_t, std::int64_t begin, std::int64_t end) {
    const MaskedGradient<K> masked(spec, affine, runs, run, x, gy);
    const std::int64_t channel = run * runs.block;
    const Lanes<K> g(map.g + channel), d(map.d + channel), e(map.e + channel);
    map_lanes<K>(begin, end, gx + run * runs.length, [&](auto at, int k) {
      const auto v = masked(at, k);
      return g.v[k] * v.gradient + (d.v[k] * v.deviation + e.v[k]);
    });
  });
}

}  // namespace

void CpuBackend::norm_forward(const NormSpec& spec, const float* x, const float* rho, const float* gamma,
                              const float* beta, const float* residual, float* y, float* stats_memory) {
  const Stats stats(spec, stats_memory);
  dispatch_block(spec.dims.block, [&]<int K>() {
    compute_stats<K>(spec, rho != nullptr, x, stats);
    apply<K>(spec, affine_of(spec, {rho, gamma, beta}, stats), x, residual, y);
  });
}

void CpuBackend::norm_backward(const NormSpec& spec, const float* x, const float* rho, const float* gamma,
                               const float* beta, const float* stats_memory, const float* gy, float* gx, float* grho,
                               float* ggamma, float* gbeta) {
  const Stats stats(spec, const_cast<float*>(stats_memory));  // only read below
  if (spec.pad > 0) {  // gx, read and written at the same places below, takes the folded gradient
    struct Folded;
    float* folded = gx ? gx : scratch<float, Folded>(spec.dims.size());
    reflection_pad_backward(spec.dims, spec.pad, gy, false, folded);
    gy = folded;
  }
  dispatch_block(spec.dims.block, [&]<int K>() {
    backward<K>(spec, {rho, gamma, beta}, stats, x, gy, gx, grho, ggamma, gbeta);
  });
}

}  // namespace minidl
