// Operations that treat channels apart: global pooling, concatenation, scaling by a vector, sum over channels.
#include <limits>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/loops.h"

namespace minidl {
namespace {

using namespace cpu;

// f(run, first float) for every run, in parallel.
template <class F>
void for_runs(const Runs& runs, F f) {
  parallel_for(runs.count, runs.length, [&](std::int64_t run) { f(run, run * runs.length); });
}

template <int K>
void mean_of_runs(const Runs& runs, const float* x, float* mean) {
  for_runs(runs, [&](std::int64_t run, std::int64_t offset) {
    double sums[16] = {};
    const float* data = x + offset;
    sum_lanes<K, 1>(0, runs.length, sums, [&](auto at, int) { return Terms<1>{{at(data)}}; });
    for (std::int64_t lane = 0; lane < runs.block; ++lane)
      mean[run * runs.block + lane] = static_cast<float>(sums[lane] / static_cast<double>(runs.length / runs.block));
  });
}

void max_of_runs(const Runs& runs, const float* x, float* max, std::int32_t* argmax) {
  for_runs(runs, [&](std::int64_t run, std::int64_t offset) {
    float best[16];
    std::int32_t where[16] = {};
    const float* data = x + offset;
    std::copy_n(data, runs.block, best);
    for (std::int64_t i = runs.block; i < runs.length; i += runs.block)
      for (std::int64_t lane = 0; lane < runs.block; ++lane) {
        const float value = data[i + lane];
        // A NaN wins, as in torch: a broken run must not look healthy.
        if (value > best[lane] || (value != value && best[lane] == best[lane])) {
          best[lane] = value;
          where[lane] = static_cast<std::int32_t>(i / runs.block);
        }
      }
    std::copy_n(best, runs.block, max + run * runs.block);
    std::copy_n(where, runs.block, argmax + run * runs.block);
  });
}

ImageDims concatenated(const ImageDims& a, const ImageDims& b, std::int64_t block) {
  return {a.n, a.c + b.c, a.h, a.w, block};
}

// f(position in the concatenation, which source, position there, floats) for pieces that are contiguous in both. The
// block of the concatenation is the sources' when they share one, else every channel of a pixel stands alone.
template <class F>
void for_pieces(const ImageDims& a, const ImageDims& b, const ImageDims& y, F f) {
  if (a.block == b.block && a.block == y.block) {
    const std::int64_t a_size = a.size() / a.n, b_size = b.size() / b.n;
    for (std::int64_t n = 0; n < a.n; ++n) {
      f(n * (a_size + b_size), 0, n * a_size, a_size);
      f(n * (a_size + b_size) + a_size, 1, n * b_size, b_size);
    }
    return;
  }
  parallel_for(y.n * y.c, y.pixels(), [&](std::int64_t i) {
    const std::int64_t n = i / y.c, c = i % y.c;
    const bool second = c >= a.c;
    const ImageDims& from = second ? b : a;
    for (std::int64_t p = 0; p < y.pixels(); ++p)
      f(y.index(n, c, 0, p), second, from.index(n, second ? c - a.c : c, 0, p), 1);
  });
}

}  // namespace

void CpuBackend::global_pool_forward(const ImageDims& dims, const float* x, float* mean, float* max,
                                     std::int32_t* argmax) {
  const Runs runs(dims);
  if (mean) dispatch_block(dims.block, [&]<int K>() { mean_of_runs<K>(runs, x, mean); });
  if (max) max_of_runs(runs, x, max, argmax);
}

void CpuBackend::global_pool_backward(const ImageDims& dims, const float* gmean, const float* gmax,
                                      const std::int32_t* argmax, bool add, float* gx) {
  const float factor = 1.0f / static_cast<float>(dims.pixels());
  const Runs runs(dims);
  if (gmean)
    dispatch_block(dims.block, [&]<int K>() {
      runs.for_segments([&](std::int64_t run, std::int64_t, std::int64_t begin, std::int64_t end) {
        const Lanes<K> g(gmean + run * runs.block);
        float* out = gx + run * runs.length;
        map_lanes<K>(begin, end, out, [&](auto at, int k) {
          const Vec share = g.v[k] * factor;
          return add ? at(out) + share : share;
        });
      });
    });
  else if (!add)
    fill(dims.size(), 0.0f, gx);
  if (!gmax) return;
  for (std::int64_t i = 0; i < dims.n * dims.c; ++i)
    gx[i / runs.block * runs.length + argmax[i] * runs.block + i % runs.block] += gmax[i];
}

void CpuBackend::concat_forward(const ImageDims& a_dims, const ImageDims& b_dims, const float* a, const float* b,
                                float* y) {
  const float* sources[2] = {a, b};
  const ImageDims y_dims = concatenated(a_dims, b_dims, channel_block(a_dims.c + b_dims.c));
  for_pieces(a_dims, b_dims, y_dims, [&](std::int64_t to, int source, std::int64_t from, std::int64_t count) {
    std::copy_n(sources[source] + from, count, y + to);
  });
}

void CpuBackend::concat_backward(const ImageDims& a_dims, const ImageDims& b_dims, const float* gy, float* ga,
                                 float* gb) {
  float* targets[2] = {ga, gb};
  const ImageDims y_dims = concatenated(a_dims, b_dims, channel_block(a_dims.c + b_dims.c));
  for_pieces(a_dims, b_dims, y_dims, [&](std::int64_t from, int target, std::int64_t to, std::int64_t count) {
    if (targets[target]) std::copy_n(gy + from, count, targets[target] + to);
  });
}

// Where an image of 2 c channels has other blocks than x, the halves are computed apart.
void CpuBackend::scale_channels_forward(const ImageDims& dims, const float* x, const float* s, const float* second,
                                        float* y) {
  if (second && channel_block(2 * dims.c) != dims.block) {
    struct Tag;
    float* halves = scratch<float, Tag>(2 * dims.size());
    scale_channels_forward(dims, x, s, nullptr, halves);
    scale_channels_forward(dims, x, second, nullptr, halves + dims.size());
    return concat_forward(dims, dims, halves, halves + dims.size(), y);
  }
  const Runs runs(dims);
  const std::int64_t sample_runs = runs.count / dims.n, copies = second ? 2 : 1;
  dispatch_block(dims.block, [&]<int K>() {
    runs.for_segments([&](std::int64_t run, std::int64_t, std::int64_t begin, std::int64_t end) {
      const std::int64_t sample = run / sample_runs, of_sample = run % sample_runs;
      const float* in = x + run * runs.length;
      for (std::int64_t copy = 0; copy < copies; ++copy) {
        const Lanes<K> factor((copy == 0 ? s : second) + of_sample * runs.block);
        float* out = y + ((sample * copies + copy) * sample_runs + of_sample) * runs.length;
        map_lanes<K>(begin, end, out, [&](auto at, int k) { return at(in) * factor.v[k]; });
      }
    });
  });
}

void CpuBackend::scale_channels_backward(const ImageDims& dims, const float* x, const float* s, const float* second,
                                         const float* gy, bool add, float* gx, float* gs, float* gsecond) {
  const Runs runs(dims);
  if (second && channel_block(2 * dims.c) != dims.block) {
    struct Tag;
    float* halves = scratch<float, Tag>(2 * dims.size());
    concat_backward(dims, dims, gy, halves, halves + dims.size());
    scale_channels_backward(dims, x, s, nullptr, halves, add, gx, gs, nullptr);
    return scale_channels_backward(dims, x, second, nullptr, halves + dims.size(), true, gx, gsecond, nullptr);
  }
  const std::int64_t sample_runs = runs.count / dims.n, copies = second ? 2 : 1;
  const auto half = [&](std::int64_t run, std::int64_t copy) {
    return gy + ((run / sample_runs * copies + copy) * sample_runs + run % sample_runs) * runs.length;
  };
  if (gx)
    dispatch_block(dims.block, [&]<int K>() {
      runs.for_segments([&](std::int64_t run, std::int64_t, std::int64_t begin, std::int64_t end) {
        const std::int64_t channel = run % sample_runs * runs.block;
        const Lanes<K> factor(s + channel), other((second ? second : s) + channel);
        const float *g = half(run, 0), *h = half(run, copies - 1);
        float* out = gx + run * runs.length;
        map_lanes<K>(begin, end, out, [&](auto at, int k) {
          Vec sum = at(g) * factor.v[k];
          if (second) sum += at(h) * other.v[k];
          return add ? at(out) + sum : sum;
        });
      });
    });
  struct Sums;
  double* sums = scratch<double, Sums>(dims.n * dims.c);
  for (std::int64_t copy = 0; copy < copies; ++copy) {
    float* result = copy == 0 ? gs : gsecond;
    if (!result) continue;
    dispatch_block(dims.block, [&]<int K>() {
      for_runs(runs, [&](std::int64_t run, std::int64_t offset) {
        const float *in = x + offset, *g = half(run, copy);
        sum_lanes<K, 1>(0, runs.length, sums + run * runs.block,
                        [&](auto at, int) { return Terms<1>{{at(in) * at(g)}}; });
      });
    });
    for (std::int64_t c = 0; c < dims.c; ++c) {
      double sum = 0;
      for (std::int64_t n = 0; n < dims.n; ++n) sum += sums[n * dims.c + c];
      result[c] = static_cast<float>(sum);
    }
  }
}

void CpuBackend::sum_channels_forward(const ImageDims& dims, const float* x, float* y) {
  const std::int64_t blocks = dims.c / dims.block, row = dims.w * dims.block;
  parallel_for(dims.n * dims.h, dims.c * dims.w, [&](std::int64_t i) {
    const std::int64_t n = i / dims.h, h = i % dims.h;
    float* out = y + i * dims.w;
    std::fill(out, out + dims.w, 0.0f);
    for (std::int64_t b = 0; b < blocks; ++b) {
      const float* in = x + ((n * blocks + b) * dims.h + h) * row;
      for (std::int64_t p = 0; p < dims.w; ++p) {
        float sum = 0;
        for (std::int64_t lane = 0; lane < dims.block; ++lane) sum += in[p * dims.block + lane];
        out[p] += sum;
      }
    }
  });
}

void CpuBackend::sum_channels_backward(const ImageDims& dims, const float* gy, float* gx) {
  const std::int64_t blocks = dims.c / dims.block, row = dims.w * dims.block;
  parallel_for(dims.n * blocks * dims.h, row, [&](std::int64_t i) {
    const std::int64_t n = i / (blocks * dims.h), h = i % dims.h;
    const float* in = gy + (n * dims.h + h) * dims.w;
    for (std::int64_t p = 0; p < dims.w; ++p) std::fill_n(gx + i * row + p * dims.block, dims.block, in[p]);
  });
}

}  // namespace minidl
