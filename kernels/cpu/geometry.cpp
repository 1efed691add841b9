// Reflection pad and nearest upsampling, on whole rows. The backward passes gather (each output is written once) rather
// than scatter.
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/padding.h"

namespace minidl {

using namespace cpu;

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

void CpuBackend::reflection_pad_backward(const ImageDims& in, std::int64_t pad, const float* gy, bool add, float* gx) {
  struct Tag;
  const std::int64_t run = (in.h + 2 * pad) * (in.w + 2 * pad) * in.block, row = in.w * in.block;
  parallel_for(in.n * in.c / in.block * in.h, row, [&](std::int64_t i) {
    const float* gradient = gy + i / in.h * run;
    float* to = gx + i * row;
    if (!add) return fold_row(in, pad, gradient, i % in.h, to);
    float* folded = scratch<float, Tag>(row);
    fold_row(in, pad, gradient, i % in.h, folded);
    add_floats(row, folded, to);
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

void CpuBackend::upsample_nearest_backward(const ImageDims& in, std::int64_t scale, std::int64_t pad, const float* gy,
                                           float* gx) {
  struct Tag;
  ImageDims big = in;
  big.h *= scale, big.w *= scale;
  const std::int64_t block = in.block, row_out = big.w * block;
  const std::int64_t run = (big.h + 2 * pad) * (big.w + 2 * pad) * block;
  parallel_for(in.n * in.c / block * in.h, scale * row_out, [&](std::int64_t i) {
    const float* from = gy + i / in.h * run;
    if (pad == 0) {
      from += i % in.h * scale * row_out;
    } else {
      float* folded = scratch<float, Tag>(scale * row_out);
      for (std::int64_t r = 0; r < scale; ++r) fold_row(big, pad, from, i % in.h * scale + r, folded + r * row_out);
      from = folded;
    }
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
