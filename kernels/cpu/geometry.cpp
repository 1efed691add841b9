// Reflection pad and nearest upsampling. A row of a run is `w * block` contiguous floats in every layout, so both work
// on whole rows. The backward passes gather (each output is written once) rather than scatter.
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/padding.h"

namespace minidl {
namespace {

using namespace cpu;

// The padded positions that mirror the inner position i (0-based in the padded axis), itself included: at most three.
struct Mirrors {
  std::int64_t at[3];
  int count = 0;

  Mirrors(std::int64_t i, std::int64_t size, std::int64_t pad) {
    at[count++] = i + pad;
    if (i >= 1 && i <= pad) at[count++] = pad - i;
    if (i <= size - 2 && size - 1 - i <= pad) at[count++] = pad + 2 * (size - 1) - i;
  }
};

void add_floats(std::int64_t count, const float* from, float* to) {
  for (std::int64_t i = 0; i < count; ++i) to[i] += from[i];
}

}  // namespace

void CpuBackend::reflection_pad_forward(const ImageDims& in, std::int64_t pad, const float* x, float* y) {
  const std::int64_t block = in.block, height = in.h + 2 * pad, row_in = in.w * block,
                     row_out = (in.w + 2 * pad) * block;
  parallel_for(in.n * in.c / block * height, row_out, [&](std::int64_t i) {
    const float* from = x + (i / height * in.h + reflect(i % height - pad, in.h)) * row_in;
    float* inner = y + i * row_out + pad * block;
    std::memcpy(inner, from, static_cast<std::size_t>(row_in) * sizeof(float));
    mirror_ends(inner, in.w, block, pad);
  });
}

void CpuBackend::reflection_pad_backward(const ImageDims& in, std::int64_t pad, const float* gy, float* gx) {
  const std::int64_t block = in.block, height = in.h + 2 * pad, row_in = in.w * block,
                     row_out = (in.w + 2 * pad) * block;
  parallel_for(in.n * in.c / block * in.h, row_out, [&](std::int64_t i) {
    const Mirrors rows(i % in.h, in.h, pad);
    float* to = gx + i * row_in;
    for (int r = 0; r < rows.count; ++r) {
      const float* from = gy + (i / in.h * height + rows.at[r]) * row_out;
      if (r == 0)
        std::memcpy(to, from + pad * block, static_cast<std::size_t>(row_in) * sizeof(float));
      else
        add_floats(row_in, from + pad * block, to);
      for (std::int64_t p = 0; p < pad; ++p) {
        add_floats(block, from + p * block, to + (pad - p) * block);
        add_floats(block, from + (pad + in.w + p) * block, to + (in.w - 2 - p) * block);
      }
    }
  });
}

void CpuBackend::upsample_nearest_forward(const ImageDims& in, std::int64_t scale, std::int64_t pad, const float* x,
                                          float* y) {
  const std::int64_t block = in.block, width = in.w * scale, height = in.h * scale, row_out = (width + 2 * pad) * block;
  const std::int64_t rows = height + 2 * pad;
  parallel_for(in.n * in.c / block * rows, row_out, [&](std::int64_t i) {
    const float* from = x + (i / rows * in.h + reflect(i % rows - pad, height) / scale) * in.w * block;
    float* inner = y + i * row_out + pad * block;
    for (std::int64_t p = 0; p < in.w; ++p)
      for (std::int64_t s = 0; s < scale; ++s) std::copy_n(from + p * block, block, inner + (p * scale + s) * block);
    mirror_ends(inner, width, block, pad);
  });
}

void CpuBackend::upsample_nearest_backward(const ImageDims& in, std::int64_t scale, const float* gy, float* gx) {
  const std::int64_t block = in.block, row_out = in.w * scale * block;
  parallel_for(in.n * in.c / block * in.h, scale * row_out, [&](std::int64_t i) {
    const float* from = gy + i * scale * row_out;
    float* to = gx + i * in.w * block;
    for (std::int64_t p = 0; p < in.w; ++p)
      for (std::int64_t b = 0; b < block; ++b) {
        float sum = 0;
        for (std::int64_t r = 0; r < scale; ++r)
          for (std::int64_t s = 0; s < scale; ++s) sum += from[r * row_out + (p * scale + s) * block + b];
        to[p * block + b] = sum;
      }
  });
}

}  // namespace minidl
