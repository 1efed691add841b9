#include "kernels/cpu/conv_narrow.h"

#include "kernels/cpu/conv_narrow_kernels.h"
#include "kernels/cpu/loops.h"

namespace minidl::cpu {
namespace {

// The widest vectors that this processor has and that divide a block.
const NarrowKernels& kernels_for(const ImageDims& wide, std::int64_t narrow_channels) {
#if defined(__x86_64__)
  const NarrowKernels& widest = kNarrowAvx512[narrow_channels - 1];
  if (wide.block % widest.lanes == 0 && __builtin_cpu_supports("avx512f")) return widest;
#endif
  return kNarrowAvx2[narrow_channels - 1];
}

bool narrow(const ConvDims& d, const ImageDims& wide, const ImageDims& planar) {
  return d.stride == 1 && d.padding == 0 && d.kernel > 1 && wide.block > 1 && planar.block == 1 &&
         planar.c <= kMostNarrow && d.out.w >= kLeastWidth;
}

WideImage wide_image(const ImageDims& d) { return {d.block, d.w * d.block, d.pixels() * d.block}; }

// The kernel of `slices` slices as NarrowRow has it; weight(o, c, ky, kx) gives the plain weight of a narrow channel o and a
// wide one c.
template <class Weight>
const float* pack(std::int64_t narrow_channels, std::int64_t slices, std::int64_t lanes, std::int64_t k,
                  Weight weight) {
  struct Tag;
  float* packed = scratch<float, Tag>(narrow_channels * slices * lanes * k * k);
  float* to = packed;
  for (std::int64_t q = 0; q < slices; ++q)
    for (std::int64_t ky = 0; ky < k; ++ky)
      for (std::int64_t kx = 0; kx < k; ++kx)
        for (std::int64_t o = 0; o < narrow_channels; ++o)
          for (std::int64_t lane = 0; lane < lanes; ++lane) *to++ = weight(o, q * lanes + lane, ky, kx);
  return packed;
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

// Every row of `narrow`, the narrow side of a convolution of `wide`.
void correlate(const ImageDims& wide, const ImageDims& narrow, const NarrowKernels& kernels, std::int64_t k,
               const float* x, const float* taps, const float* bias, float* y) {
  const NarrowRow row{k, narrow.w, wide.c / kernels.lanes, wide_image(wide), narrow.w, narrow.pixels(), taps};
  parallel_for(narrow.n * narrow.h, wide.w * wide.c, [&](std::int64_t i) {
    const std::int64_t n = i / narrow.h, oy = i % narrow.h;
    kernels.forward(row, x + wide.index(n, 0, oy, 0), bias, y + narrow.index(n, 0, oy, 0));
  });
}

}  // namespace

bool narrow_output(const ConvDims& d) { return narrow(d, d.in, d.out); }

bool narrow_input(const ConvDims& d) { return narrow(d, d.out, d.in); }

void narrow_forward(const ConvDims& d, const float* x, const float* w, const float* bias, float* y) {
  const std::int64_t k = d.kernel;
  const NarrowKernels& kernels = kernels_for(d.in, d.out.c);
  const float* taps = pack(d.out.c, d.in.c / kernels.lanes, kernels.lanes, k,
                           [&](auto o, auto c, auto ky, auto kx) { return w[((o * d.in.c + c) * k + ky) * k + kx]; });
  correlate(d.in, d.out, kernels, k, x, taps, bias, y);
}

// The gradient is a correlation of gy, with a margin of zeros, with the mirrored kernel.
void narrow_input_backward_data(const ConvDims& d, const float* gy, const float* w, float* gx) {
  struct Tag;
  const std::int64_t k = d.kernel, margin = k - 1;
  const NarrowKernels& kernels = kernels_for(d.out, d.in.c);
  const float* taps = pack(d.in.c, d.out.c / kernels.lanes, kernels.lanes, k, [&](auto i, auto o, auto ky, auto kx) {
    return w[((o * d.in.c + i) * k + (k - 1 - ky)) * k + (k - 1 - kx)];
  });
  const float* wide = with_margin<Tag>(d.out, margin, gy);
  ImageDims from = d.out;
  from.h += 2 * margin, from.w += 2 * margin;
  correlate(from, d.in, kernels, k, wide, taps, nullptr, gx);
}

void narrow_backward_data(const ConvDims& d, const float* gy, const float* w, float* gx) {
  struct Tag;
  const std::int64_t k = d.kernel, margin = k - 1;
  const NarrowKernels& kernels = kernels_for(d.in, d.out.c);
  const std::int64_t slices = d.in.c / kernels.lanes;
  const float* taps = pack(d.out.c, slices, kernels.lanes, k, [&](auto o, auto c, auto ky, auto kx) {
    return w[((o * d.in.c + c) * k + (k - 1 - ky)) * k + (k - 1 - kx)];
  });
  const float* narrow = with_margin<Tag>(d.out, margin, gy);
  const std::int64_t width = d.out.w + 2 * margin, plane = (d.out.h + 2 * margin) * width;
  const NarrowRow row{k, d.in.w, slices, wide_image(d.in), width, plane, taps};
  parallel_for(d.in.n * d.in.h, d.in.w * d.in.c, [&](std::int64_t i) {
    const std::int64_t n = i / d.in.h, iy = i % d.in.h;
    kernels.backward_data(row, narrow + n * d.out.c * plane + iy * width, gx + d.in.index(n, 0, iy, 0));
  });
}

void narrow_backward_weights(const ConvDims& d, const float* x, const float* gy, float* gw, float* gbias) {
  struct Tag;
  const NarrowKernels& kernels = kernels_for(d.in, d.out.c);
  const std::int64_t k = d.kernel, lanes = kernels.lanes, slices = d.in.c / lanes, kernel_row = k * d.out.c * lanes;
  float* sums = scratch<float, Tag>(slices * k * kernel_row);
  const NarrowRow row{k, d.out.w, 1, wide_image(d.in), d.out.w, d.out.pixels(), nullptr};
  parallel_for(slices, d.in.n * d.in.pixels() * lanes, [&](std::int64_t q) {
    float* taps = sums + q * k * kernel_row;
    std::fill_n(taps, k * kernel_row, 0.0f);
    for (std::int64_t n = 0; n < d.in.n; ++n)
      for (std::int64_t oy = 0; oy < d.out.h; ++oy)
        for (std::int64_t ky = 0; ky < k; ++ky)
          kernels.backward_weights(row, x + d.in.index(n, q * lanes, oy + ky, 0), gy + d.out.index(n, 0, oy, 0),
                                   taps + ky * kernel_row);
  });
  for (std::int64_t o = 0; o < d.out.c; ++o)
    for (std::int64_t c = 0; c < d.in.c; ++c)
      for (std::int64_t tap = 0; tap < k * k; ++tap)
        gw[(o * d.in.c + c) * k * k + tap] = sums[c / lanes * k * kernel_row + (tap * d.out.c + o) * lanes + c % lanes];
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
