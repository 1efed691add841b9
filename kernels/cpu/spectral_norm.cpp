// Spectral norm by power iteration. Both matrix-vector products stream the matrix row by row.
#include <cmath>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/loops.h"

namespace minidl {
namespace {

using namespace cpu;

void normalize(std::int64_t size, const double* x, float* y) {
  double square = 0;
  for (std::int64_t i = 0; i < size; ++i) square += x[i] * x[i];
  const double norm = std::max(std::sqrt(square), 1e-12);
  for (std::int64_t i = 0; i < size; ++i) y[i] = static_cast<float>(x[i] / norm);
}

double dot(std::int64_t size, const float* a, const float* b) {
  constexpr std::int64_t kPiece = 512;
  double total = 0;
  for (std::int64_t begin = 0; begin < size; begin += kPiece) {
    const std::int64_t end = std::min(size, begin + kPiece);
    Vec lanes = {};
    std::int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) lanes += load(a + i) * load(b + i);
    if (i < end) lanes += load_partial(a + i, end - i) * load_partial(b + i, end - i);
    for (std::int64_t k = 0; k < kLanes; ++k) total += lanes[k];
  }
  return total;
}

// out (rows) = W x
void times(std::int64_t rows, std::int64_t cols, const float* w, const float* x, double* out) {
  parallel_for(rows, cols, [&](std::int64_t r) { out[r] = dot(cols, w + r * cols, x); });
}

// out (cols) = W^T x, each thread a range of columns, float within a few rows and double across them.
void transposed_times(std::int64_t rows, std::int64_t cols, const float* w, const float* x, double* out) {
  constexpr std::int64_t kColumns = 512, kRows = 16;
  parallel_for((cols + kColumns - 1) / kColumns, rows * kColumns, [&](std::int64_t piece) {
    const std::int64_t begin = piece * kColumns, count = std::min(kColumns, cols - begin);
    std::fill(out + begin, out + begin + count, 0.0);
    for (std::int64_t top = 0; top < rows; top += kRows) {
      float sums[kColumns] = {};
      for (std::int64_t r = top; r < std::min(rows, top + kRows); ++r) {
        const float factor = x[r];
        const float* row = w + r * cols + begin;
        for (std::int64_t c = 0; c < count; ++c) sums[c] += factor * row[c];
      }
      for (std::int64_t c = 0; c < count; ++c) out[begin + c] += sums[c];
    }
  });
}

}  // namespace

void CpuBackend::spectral_norm_forward(std::int64_t rows, std::int64_t cols, bool iterate, const float* w, float* u,
                                       float* v, float* sigma, float* wn) {
  struct Tag;
  double* product = scratch<double, Tag>(std::max(rows, cols));
  if (iterate) {
    transposed_times(rows, cols, w, u, product);
    normalize(cols, product, v);
  }
  times(rows, cols, w, v, product);
  if (iterate) normalize(rows, product, u);
  double value = 0;
  for (std::int64_t r = 0; r < rows; ++r) value += u[r] * product[r];
  sigma[0] = static_cast<float>(value);
  const float divisor = sigma[0];
  map_floats(rows * cols, wn, [=](auto i) { return w[i] / divisor; });
}

void CpuBackend::spectral_norm_backward(std::int64_t rows, std::int64_t cols, const float* w, const float* u,
                                        const float* v, const float* sigma, const float* gwn, float* gw) {
  struct Tag;
  double* products = scratch<double, Tag>(rows);
  parallel_for(rows, cols, [&](std::int64_t r) { products[r] = dot(cols, gwn + r * cols, w + r * cols); });
  double total = 0;
  for (std::int64_t r = 0; r < rows; ++r) total += products[r];
  const double s = sigma[0];
  const float inverse = static_cast<float>(1 / s), factor = static_cast<float>(total / (s * s));
  parallel_for(rows, cols, [&](std::int64_t r) {
    const float row_factor = factor * u[r];
    for (std::int64_t c = 0; c < cols; ++c) gw[r * cols + c] = gwn[r * cols + c] * inverse - row_factor * v[c];
  });
}

}  // namespace minidl
