// Spectral norm by power iteration. Both matrix-vector products stream the matrix row by row. Beside it what a layer
// needs that divides its result, rather than its weight, by sigma.
#include <cmath>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/padding.h"

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

void CpuBackend::spectral_norm_forward(bool iterate, std::span<const SpectralMatrix> matrices) {
  struct Tag;
  for (const SpectralMatrix& m : matrices) {
    double* product = scratch<double, Tag>(std::max(m.rows, m.cols));
    if (iterate) {
      transposed_times(m.rows, m.cols, m.w, m.kept_u, product);
      normalize(m.cols, product, m.kept_v);
      std::copy_n(m.kept_v, m.cols, m.v);
    }
    times(m.rows, m.cols, m.w, m.kept_v, product);
    if (iterate) {
      normalize(m.rows, product, m.kept_u);
      std::copy_n(m.kept_u, m.rows, m.u);
    }
    double value = 0;
    for (std::int64_t r = 0; r < m.rows; ++r) value += m.kept_u[r] * product[r];
    m.sigma[0] = static_cast<float>(value);
    if (!m.wn) continue;
    const float divisor = m.sigma[0];
    map_floats(m.rows * m.cols, m.wn, [&](auto i) { return m.w[i] / divisor; });
  }
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

void CpuBackend::add_outer_products(std::int64_t rows, std::int64_t cols, std::span<const OuterProduct> products,
                                    float* gw) {
  parallel_for(rows, cols, [&](std::int64_t r) {
    float* row = gw + r * cols;
    for (const OuterProduct& product : products) {
      const float factor = product.factor[0] * product.u[r];
      const float* v = product.v;
      for (std::int64_t c = 0; c < cols; ++c) row[c] += factor * v[c];
    }
  });
}

namespace {

// Group of each sample.
const std::int64_t* groups_of_samples(std::span<const std::int64_t> groups) {
  struct Tag;
  std::int64_t samples = 0;
  for (const std::int64_t count : groups) samples += count;
  std::int64_t* group = scratch<std::int64_t, Tag>(samples);
  for (std::size_t g = 0, n = 0; g < groups.size(); ++g)
    for (std::int64_t i = 0; i < groups[g]; ++i) group[n++] = static_cast<std::int64_t>(g);
  return group;
}

template <int K>
Lanes<K> bias_of_run(const Runs& runs, std::int64_t channels, std::int64_t run, const float* bias) {
  constexpr float kNone[16] = {};
  return Lanes<K>(bias ? bias + run * runs.block % channels : kNone);
}

}  // namespace

void CpuBackend::divide_samples_forward(const DivisionSpec& spec, const float* divisor, const float* bias,
                                        const float* x, float* y) {
  const ImageDims& dims = spec.dims;
  const std::int64_t* group = groups_of_samples(spec.groups);
  dispatch_block(dims.block, [&]<int K>() {
    const Runs runs(dims);
    const Vec slope = broadcast(spec.slope);
    write_padded(dims, spec.pad, y, [&](std::int64_t run, std::int64_t begin, std::int64_t end, float* to) {
      const Lanes<K> shift = bias_of_run<K>(runs, dims.c, run, bias);
      const Vec inverse = broadcast(divisor ? 1.0f / divisor[group[run * runs.block / dims.c]] : 1.0f);
      const float* in = x + run * runs.length;
      map_lanes<K>(begin, end, to, [&](auto at, int k) {
        const Vec z = at(in) * inverse + shift.v[k];
        return z > 0.0f ? z : slope * z;
      });
    });
  });
}

void CpuBackend::divide_samples_backward(const DivisionSpec& spec, const float* divisor, const float* bias,
                                         const float* y, const float* gy, float* gx, float* gdivisor, float* gbias) {
  struct Tag;
  const ImageDims& dims = spec.dims;
  const std::int64_t* group = groups_of_samples(spec.groups);
  const Runs runs(dims);
  // Of every channel of every sample: the sum of g (z - bias), z being the value before the leaky ReLU, then that of g.
  double* sums = scratch<double, Tag>(2 * dims.n * dims.c);
  const std::int64_t row = dims.w * dims.block, row_y = row + 2 * spec.pad * dims.block,
                     run_y = (dims.h + 2 * spec.pad) * row_y;
  const float inverse_slope = spec.slope > 0 ? 1.0f / spec.slope : 0.0f;  // without a slope nobody asks for z
  dispatch_block(dims.block, [&]<int K>() {
    const Vec slope = broadcast(spec.slope), unslope = broadcast(inverse_slope);
    parallel_for(runs.count, runs.length, [&](std::int64_t run) {
      const Lanes<K> shift = bias_of_run<K>(runs, dims.c, run, bias);
      const Vec inverse = broadcast(divisor ? 1.0f / divisor[group[run * runs.block / dims.c]] : 1.0f);
      float* out = gx + run * runs.length;
      double* run_sums = sums + 2 * run * runs.block;
      std::fill_n(run_sums, 2 * runs.block, 0.0);
      // Without padding a run is one row; with it, rows lie apart in y, and gx takes their folded gradient first.
      const std::int64_t rows = spec.pad > 0 ? dims.h : 1, length = runs.length / rows;
      for (std::int64_t r = 0; r < rows; ++r) {
        const float *result = y + run * run_y + spec.pad * (row_y + dims.block) + r * row_y,
                    *gradient = gy + run * run_y;
        float* to = out + r * length;
        if (spec.pad > 0) {
          fold_row(dims, spec.pad, gradient, r, to);
          gradient = to;
        }
        if (gdivisor || gbias) {
          double row_sums[2 * 16] = {};
          sum_lanes<K, 2>(0, length, row_sums, [&](auto at, int k) {
            const Vec v = at(result), g = v > 0.0f ? at(gradient) : slope * at(gradient);
            return Terms<2>{{g * ((v > 0.0f ? v : unslope * v) - shift.v[k]), g}};
          });
          for (std::int64_t i = 0; i < 2 * runs.block; ++i) run_sums[i] += row_sums[i];
        }
        map_lanes<K>(0, length, to, [&](auto at, int) {
          const Vec g = at(gradient);
          return (at(result) > 0.0f ? g : slope * g) * inverse;
        });
      }
    });
  });
  const auto sum_at = [&](std::int64_t n, std::int64_t c, std::int64_t which) {
    const std::int64_t channel = n * dims.c + c;
    return sums[(2 * (channel / runs.block) + which) * runs.block + channel % runs.block];
  };
  if (gdivisor) {
    std::int64_t n = 0;
    for (std::size_t g = 0; g < spec.groups.size(); ++g) {
      double total = 0;
      for (const std::int64_t end = n + spec.groups[g]; n < end; ++n)
        for (std::int64_t c = 0; c < dims.c; ++c) total += sum_at(n, c, 0);
      gdivisor[g] = static_cast<float>(-total / divisor[g]);
    }
  }
  if (gbias) {
    for (std::int64_t c = 0; c < dims.c; ++c) {
      double total = 0;
      for (std::int64_t n = 0; n < dims.n; ++n) total += sum_at(n, c, 1);
      gbias[c] = static_cast<float>(total);
    }
  }
}

}  // namespace minidl
