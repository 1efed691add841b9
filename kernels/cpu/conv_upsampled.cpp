// The 3x3 convolution of an image that is upsampled by two first, and padded by one pixel.
//
// A pixel of the result sees 2x2 pixels of the small image, with its edge repeated: rows 2i and 2i + 1 see rows i - 1 and i
// through (w0, w1 + w2), i and i + 1 through (w0 + w1, w2), and columns likewise. All of that is the gradient of another
// convolution, from the result to the small image: stride 2, padding 3, and a 4x4 kernel whose rows are w2, w1 + w2,
// w0 + w1, w0. It takes four multiplications where the large image takes nine, fewer by Winograd's algorithm, and the large
// image is never made.
#include <algorithm>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/loops.h"

namespace minidl {
namespace {

using namespace cpu;

// That convolution: its output is the small image with an edge of one pixel.
ConvDims transposed(const ConvDims& d) {
  return {d.out, {d.in.n, d.in.c, d.in.h / 2 + 1, d.in.w / 2 + 1, d.in.block}, 4, 2, 3};
}

std::int64_t weights_of(const ConvDims& d) { return d.in.c * d.out.c * 16; }

// Rows of its kernel as sums of rows of the plain one.
constexpr float kRows[4][3] = {{0, 0, 1}, {0, 1, 1}, {1, 1, 0}, {1, 0, 0}};

// f(kernel of w, kernel of the other convolution) for every pair of channels.
template <class F>
void for_kernels(const ConvDims& d, F f) {
  parallel_for(d.in.c, d.out.c * 16, [&](std::int64_t in) {
    for (std::int64_t out = 0; out < d.out.c; ++out) f((out * d.in.c + in) * 9, (in * d.out.c + out) * 16);
  });
}

void transpose_weights(const ConvDims& d, const float* w, float* result) {
  for_kernels(d, [&](std::int64_t from, std::int64_t to) {
    float half[4][3] = {};
    for (int i = 0; i < 4; ++i)
      for (int k = 0; k < 3; ++k)
        for (int x = 0; x < 3; ++x) half[i][x] += kRows[i][k] * w[from + 3 * k + x];
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 4; ++j) {
        float sum = 0;
        for (int k = 0; k < 3; ++k) sum += kRows[j][k] * half[i][k];
        result[to + 4 * i + j] = sum;
      }
  });
}

// The transpose of the above.
void add_up_weights(const ConvDims& d, const float* gw4, float* gw) {
  for_kernels(d, [&](std::int64_t to, std::int64_t from) {
    float half[3][4] = {};
    for (int k = 0; k < 3; ++k)
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) half[k][j] += kRows[i][k] * gw4[from + 4 * i + j];
    for (int k = 0; k < 3; ++k)
      for (int x = 0; x < 3; ++x) {
        float sum = 0;
        for (int j = 0; j < 4; ++j) sum += kRows[j][x] * half[k][j];
        gw[to + 3 * k + x] = sum;
      }
  });
}

// f(row of the padded image, row of the small one) in pixels, for every row with its edge; rows of one plane in order.
template <class F>
void for_rows(const ImageDims& padded, F f) {
  parallel_for(padded.n * padded.c / padded.block, padded.pixels() * padded.block, [&](std::int64_t plane) {
    for (std::int64_t y = 0; y < padded.h; ++y) {
      const std::int64_t inner = std::clamp<std::int64_t>(y - 1, 0, padded.h - 3);
      f((plane * padded.h + y) * padded.w, (plane * (padded.h - 2) + inner) * (padded.w - 2));
    }
  });
}

void add_edge(const ImageDims& padded, const float* x, float* result) {
  const std::int64_t block = padded.block, inner = padded.w - 2;
  for_rows(padded, [&](std::int64_t to, std::int64_t from) {
    const float* row = x + from * block;
    float* wide = result + to * block;
    std::copy_n(row, block, wide);
    std::copy_n(row, inner * block, wide + block);
    std::copy_n(row + (inner - 1) * block, block, wide + (inner + 1) * block);
  });
}

// The transpose of the above.
void fold_edge(const ImageDims& padded, const float* gpadded, float* gx) {
  const std::int64_t block = padded.block, inner = padded.w - 2, plane = (padded.h - 2) * inner;
  for_rows(padded, [&](std::int64_t from, std::int64_t to) {
    const float* wide = gpadded + from * block;
    float* row = gx + to * block;
    // The padded rows 0 and 1 are those of the first row, the one above sets it.
    const bool first = from / padded.w % padded.h == 0, adds = !first && to % plane == 0;
    const bool last = from / padded.w % padded.h == padded.h - 1;
    const auto add_row = [&](auto put) {
      for (std::int64_t i = 0; i < inner * block; ++i) put(row[i], wide[block + i]);
      for (std::int64_t b = 0; b < block; ++b) {
        row[b] += wide[b];
        row[(inner - 1) * block + b] += wide[(inner + 1) * block + b];
      }
    };
    if (adds || last)
      add_row([](float& to_value, float value) { to_value += value; });
    else
      add_row([](float& to_value, float value) { to_value = value; });
  });
}

}  // namespace

std::int64_t CpuBackend::upsampled_conv_memory(const ConvDims& d) const {
  return transposed(d).out.size() + weights_of(d);
}

void CpuBackend::upsampled_conv_forward(const ConvDims& d, const float* x, const float* w, float* memory, float* y) {
  const ConvDims t = transposed(d);
  float *padded = memory, *weights = memory + t.out.size();
  add_edge(t.out, x, padded);
  transpose_weights(d, w, weights);
  conv_backward_data(t, padded, weights, y);
}

void CpuBackend::upsampled_conv_backward_data(const ConvDims& d, const float* gy, const float* w, float* memory,
                                              float* gx) {
  const ConvDims t = transposed(d);
  float *padded = memory, *weights = memory + t.out.size();
  transpose_weights(d, w, weights);
  conv_forward(t, gy, weights, nullptr, padded, nullptr);
  fold_edge(t.out, padded, gx);
}

void CpuBackend::upsampled_conv_backward_weights(const ConvDims& d, const float* x, const float* gy, float* memory,
                                                 float* gw) {
  const ConvDims t = transposed(d);
  float *padded = memory, *weights = memory + t.out.size();
  add_edge(t.out, x, padded);
  conv_backward_weights(t, gy, padded, weights, nullptr);
  add_up_weights(d, weights, gw);
}

}  // namespace minidl
