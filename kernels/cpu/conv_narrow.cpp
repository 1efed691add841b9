#include "kernels/cpu/conv_narrow.h"

#include "kernels/cpu/loops.h"

namespace minidl::cpu {
namespace {

// Accumulators of a tile: with two operands they fill the sixteen vector registers of AVX2.
constexpr int kAccumulators = 12;

// A blocked image as slices of kLanes channels: slice q holds channels [q * kLanes, (q + 1) * kLanes).
struct Slices {
  std::int64_t count;  // of one sample
  std::int64_t block, pixels, width;

  explicit Slices(const ImageDims& d) : count(d.c / kLanes), block(d.block), pixels(d.pixels()), width(d.w) {}

  // Offset of the vector of slice q (counted through the batch) at a pixel; the next pixel is `block` floats on.
  std::int64_t at(std::int64_t q, std::int64_t y, std::int64_t x) const {
    const std::int64_t channel = q * kLanes;
    return (channel / block * pixels + y * width + x) * block + channel % block;
  }
};

// f.template operator()<O>() for O narrow channels.
template <class F>
void dispatch_narrow(std::int64_t channels, F f) {
  switch (channels) {
    case 1:
      return f.template operator()<1>();
    case 2:
      return f.template operator()<2>();
    case 3:
      return f.template operator()<3>();
    default:
      return f.template operator()<4>();
  }
}

bool narrow(const ConvDims& d, const ImageDims& wide, const ImageDims& planar) {
  return d.stride == 1 && d.padding == 0 && d.kernel > 1 && wide.block > 1 && planar.block == 1 && planar.c <= 4 &&
         d.out.w >= kAccumulators;
}

float sum_of_lanes(Vec v) {
  float sum = 0;
  for (std::int64_t lane = 0; lane < kLanes; ++lane) sum += v[lane];
  return sum;
}

// Weights of the wide slices: to[((q * k + ky) * k + kx) * O + o] is a vector over the slice's channels.
// weight(o, c, ky, kx) gives the plain weight.
template <class Weight>
const float* pack(std::int64_t narrow_channels, std::int64_t wide_channels, std::int64_t k, Weight weight) {
  struct Tag;
  float* packed = scratch<float, Tag>(narrow_channels * wide_channels * k * k);
  float* to = packed;
  for (std::int64_t q = 0; q < wide_channels; q += kLanes)
    for (std::int64_t ky = 0; ky < k; ++ky)
      for (std::int64_t kx = 0; kx < k; ++kx)
        for (std::int64_t o = 0; o < narrow_channels; ++o)
          for (std::int64_t lane = 0; lane < kLanes; ++lane) *to++ = weight(o, q + lane, ky, kx);
  return packed;
}

// First pixels of the tiles of P pixels that cover a row; the last one is moved back to end with the row.
template <int P, class F>
void for_tiles(std::int64_t width, F f) {
  for (std::int64_t x = 0; x < width; x += P) f(std::min(x, width - P));
}

// y[o] at P pixels in a row: the vectors hold partial sums over channels, added up at the very end.
template <int O>
void correlate(const ImageDims& in, const ImageDims& out, std::int64_t k, const float* x, const float* packed,
               const float* bias, float* y) {
  constexpr int P = kAccumulators / O;
  const Slices slices(in);
  parallel_for(out.n * out.h, in.w * in.c, [&](std::int64_t row) {
    const std::int64_t n = row / out.h, oy = row % out.h;
    for_tiles<P>(out.w, [&](std::int64_t ox) {
      Vec sum[O][P] = {};
      const float* w = packed;
      for (std::int64_t q = 0; q < slices.count; ++q)
        for (std::int64_t ky = 0; ky < k; ++ky) {
          const float* from = x + slices.at(n * slices.count + q, oy + ky, ox);
          for (std::int64_t kx = 0; kx < k; ++kx, from += in.block, w += O * kLanes) {
            Vec weights[O];
            for (int o = 0; o < O; ++o) weights[o] = load(w + o * kLanes);
            for (int p = 0; p < P; ++p) {
              const Vec value = load(from + p * in.block);
              for (int o = 0; o < O; ++o) sum[o][p] += value * weights[o];
            }
          }
        }
      for (int o = 0; o < O; ++o)
        for (int p = 0; p < P; ++p) y[out.index(n, o, oy, ox + p)] = sum_of_lanes(sum[o][p]) + (bias ? bias[o] : 0.0f);
    });
  });
}

// A copy with `margin` zeros around every plane of w * block by h floats.
template <class Tag>
const float* with_margin(const ImageDims& d, std::int64_t margin, const float* from) {
  const std::int64_t height = d.h + 2 * margin, row = d.w * d.block, side = margin * d.block, wide_row = row + 2 * side;
  float* to = scratch<float, Tag>(d.n * d.c / d.block * height * wide_row);
  parallel_for(d.n * d.c / d.block * height, wide_row, [&](std::int64_t i) {
    float* line = to + i * wide_row;
    const std::int64_t y = i % height - margin;
    if (y < 0 || y >= d.h) {
      std::fill_n(line, wide_row, 0.0f);
      return;
    }
    std::fill_n(line, side, 0.0f);
    std::copy_n(from + (i / height * d.h + y) * row, row, line + side);
    std::fill_n(line + side + row, side, 0.0f);
  });
  return to;
}

}  // namespace

bool narrow_output(const ConvDims& d) { return narrow(d, d.in, d.out); }

bool narrow_input(const ConvDims& d) { return narrow(d, d.out, d.in); }

void narrow_forward(const ConvDims& d, const float* x, const float* w, const float* bias, float* y) {
  const std::int64_t k = d.kernel;
  const float* packed = pack(d.out.c, d.in.c, k,
                             [&](auto o, auto c, auto ky, auto kx) { return w[((o * d.in.c + c) * k + ky) * k + kx]; });
  dispatch_narrow(d.out.c, [&]<int O>() { correlate<O>(d.in, d.out, k, x, packed, bias, y); });
}

// The gradient is a correlation of gy, with a margin of zeros, with the mirrored kernel.
void narrow_input_backward_data(const ConvDims& d, const float* gy, const float* w, float* gx) {
  struct Tag;
  const std::int64_t k = d.kernel, margin = k - 1;
  const float* packed = pack(d.in.c, d.out.c, k, [&](auto i, auto o, auto ky, auto kx) {
    return w[((o * d.in.c + i) * k + (k - 1 - ky)) * k + (k - 1 - kx)];
  });
  const float* wide = with_margin<Tag>(d.out, margin, gy);
  ImageDims from = d.out;
  from.h += 2 * margin, from.w += 2 * margin;
  dispatch_narrow(d.in.c, [&]<int O>() { correlate<O>(from, d.in, k, wide, packed, nullptr, gx); });
}

// gx at P pixels of Q slices: every value of gy meets a vector of weights.
void narrow_backward_data(const ConvDims& d, const float* gy, const float* w, float* gx) {
  struct Tag;
  constexpr int Q = 2, P = kAccumulators / Q;  // a block has at least eight channels, an image two slices or one
  const std::int64_t k = d.kernel, margin = k - 1, channels = d.out.c;
  const float* packed = pack(channels, d.in.c, k, [&](auto o, auto c, auto ky, auto kx) {
    return w[((o * d.in.c + c) * k + (k - 1 - ky)) * k + (k - 1 - kx)];
  });
  const float* wide = with_margin<Tag>(d.out, margin, gy);
  const std::int64_t plane_w = d.out.w + 2 * margin, plane = (d.out.h + 2 * margin) * plane_w;
  const Slices slices(d.in);
  const std::int64_t slice_weights = channels * k * k * kLanes;
  const auto row_of = [&]<int Count>(std::int64_t n, std::int64_t q, std::int64_t iy) {
    for_tiles<P>(d.in.w, [&](std::int64_t ix) {
      Vec sum[Count][P] = {};
      const float* taps = packed + q * slice_weights;
      for (std::int64_t ky = 0; ky < k; ++ky) {
        const float* line = wide + n * channels * plane + (iy + ky) * plane_w + ix;
        for (std::int64_t kx = 0; kx < k; ++kx)
          for (std::int64_t o = 0; o < channels; ++o, taps += kLanes) {
            const float* values = line + o * plane + kx;
            Vec weights[Count];
            for (int s = 0; s < Count; ++s) weights[s] = load(taps + s * slice_weights);
            for (int p = 0; p < P; ++p) {
              const Vec value = broadcast(values[p]);
              for (int s = 0; s < Count; ++s) sum[s][p] += value * weights[s];
            }
          }
      }
      for (int s = 0; s < Count; ++s)
        for (int p = 0; p < P; ++p) store(gx + slices.at(n * slices.count + q + s, iy, ix) + p * d.in.block, sum[s][p]);
    });
  };
  parallel_for(d.in.n * d.in.h, d.in.w * d.in.c, [&](std::int64_t row) {
    const std::int64_t n = row / d.in.h, iy = row % d.in.h;
    std::int64_t q = 0;
    for (; q + Q <= slices.count; q += Q) row_of.template operator()<Q>(n, q, iy);
    for (; q < slices.count; ++q) row_of.template operator()<1>(n, q, iy);
  });
}

// gw of one slice: row by row, the products of O channels of gy with the input at up to X columns of the kernel.
template <int O>
void slice_gradient(const ConvDims& d, std::int64_t q, const float* x, const float* gy, float* sums) {
  constexpr int X = kAccumulators / O;
  const Slices slices(d.in);
  const std::int64_t k = d.kernel;
  std::fill_n(sums, k * k * O * kLanes, 0.0f);
  const auto columns = [&]<int Count>(const float* from, const float* gradient, float* to) {
    Vec sum[Count][O] = {};
    for (std::int64_t ox = 0; ox < d.out.w; ++ox, from += d.in.block) {
      Vec g[O];
      for (int o = 0; o < O; ++o) g[o] = broadcast(gradient[o * d.out.pixels() + ox]);
      for (int c = 0; c < Count; ++c) {
        const Vec value = load(from + c * d.in.block);
        for (int o = 0; o < O; ++o) sum[c][o] += value * g[o];
      }
    }
    for (int c = 0; c < Count; ++c)
      for (int o = 0; o < O; ++o) {
        float* at = to + (c * O + o) * kLanes;
        store(at, load(at) + sum[c][o]);
      }
  };
  for (std::int64_t n = 0; n < d.in.n; ++n)
    for (std::int64_t oy = 0; oy < d.out.h; ++oy)
      for (std::int64_t ky = 0; ky < k; ++ky) {
        const float* from = x + slices.at(n * slices.count + q, oy + ky, 0);
        const float* gradient = gy + d.out.index(n, 0, oy, 0);
        std::int64_t kx = 0;
        for (; kx + X <= k; kx += X)
          columns.template operator()<X>(from + kx * d.in.block, gradient, sums + (ky * k + kx) * O * kLanes);
        for (; kx < k; ++kx)
          columns.template operator()<1>(from + kx * d.in.block, gradient, sums + (ky * k + kx) * O * kLanes);
      }
}

void narrow_backward_weights(const ConvDims& d, const float* x, const float* gy, float* gw, float* gbias) {
  struct Tag;
  const std::int64_t k = d.kernel, slices = d.in.c / kLanes, slice_size = d.out.c * k * k * kLanes;
  float* sums = scratch<float, Tag>(slices * slice_size);
  dispatch_narrow(d.out.c, [&]<int O>() {
    parallel_for(slices, d.in.n * d.in.pixels() * kLanes,
                 [&](std::int64_t q) { slice_gradient<O>(d, q, x, gy, sums + q * slice_size); });
  });
  for (std::int64_t o = 0; o < d.out.c; ++o)
    for (std::int64_t c = 0; c < d.in.c; ++c)
      for (std::int64_t tap = 0; tap < k * k; ++tap)
        gw[(o * d.in.c + c) * k * k + tap] = sums[c / kLanes * slice_size + (tap * d.out.c + o) * kLanes + c % kLanes];
  if (!gbias) return;
  for (std::int64_t o = 0; o < d.out.c; ++o) {
    double sum = 0;
    for (std::int64_t n = 0; n < d.out.n; ++n) {
      const float* plane = gy + d.out.index(n, o, 0, 0);
      sum += sum_of(d.out.pixels(), [&](std::int64_t i) { return plane[i]; });
    }
    gbias[o] = static_cast<float>(sum);
  }
}

}  // namespace minidl::cpu
