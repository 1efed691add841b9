#include "kernels/cuda/linear_few_rows.h"

#include <algorithm>

#include "kernels/cuda/lanes.h"
#include "kernels/cuda/loops.h"

namespace minidl::gpu {
namespace {

constexpr int kMostRows = 8;
constexpr std::int64_t kTickets = 1 << 12;
__device__ unsigned tickets[kTickets];

// --- forward: a block computes kBlockOutputs columns of y, or their share of a slice of the inputs ------------------

constexpr int kTile = 1024;                             // inputs in shared memory
constexpr int kWarps = kThreads / kWarp, kOutputs = 2;  // columns of a warp
constexpr int kBlockOutputs = kWarps * kOutputs;
constexpr std::int64_t kMostSlices = 64;

template <int R>
struct Tile {
  alignas(16) float rows[R][kTile];
};

// partial (slices, R, out)
template <int R, int V>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(LinearDims d, std::int64_t slice, const float* x, const float* w, const float* bias, double* partial,
                   float* y) {
  __shared__ Tile<R> tile;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  const std::int64_t first = std::int64_t{blockIdx.x} * kBlockOutputs + warp * kOutputs;
  const std::int64_t begin = blockIdx.y * slice, end = min(d.in, begin + slice);
  double sums[kOutputs][R] = {};
  for (std::int64_t at = begin; at < end; at += kTile) {
    const int count = static_cast<int>(min(std::int64_t{kTile}, end - at));
    __syncthreads();
    for (int r = 0; r < R; ++r)
      for (int i = thread; i < count; i += kThreads) tile.rows[r][i] = r < d.rows ? x[r * d.in + at + i] : 0.0f;
    __syncthreads();
    float pieces[kOutputs][R] = {};
    for (int i = lane * V; i < count; i += kWarp * V)
#pragma unroll
      for (int o = 0; o < kOutputs; ++o) {
        if (first + o >= d.out) continue;
        const Lanes<V> weights = load<V>(w + (first + o) * d.in + at + i);
#pragma unroll
        for (int r = 0; r < R; ++r) {
          const Lanes<V> values = load<V>(tile.rows[r] + i);
          for (int k = 0; k < V; ++k) pieces[o][r] += weights.v[k] * values.v[k];
        }
      }
#pragma unroll
    for (int o = 0; o < kOutputs; ++o)
#pragma unroll
      for (int r = 0; r < R; ++r) sums[o][r] += pieces[o][r];
  }
  const auto finish = [&](std::int64_t r, std::int64_t o, double sum) {
    const float value = static_cast<float>(sum) + (bias ? bias[o] : 0.0f);
    y[r * d.out + o] = d.relu && value < 0 ? 0.0f : value;  // a NaN passes
  };
  const bool whole = gridDim.y == 1;
#pragma unroll
  for (int o = 0; o < kOutputs; ++o)
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const double sum = warp_sum(sums[o][r]);
      if (lane != 0 || first + o >= d.out || r >= d.rows) continue;
      if (whole)
        finish(r, first + o, sum);
      else
        partial[(blockIdx.y * R + r) * d.out + first + o] = sum;
    }
  if (whole || !is_last_block(tickets + blockIdx.x, gridDim.y)) return;
  const std::int64_t r = thread / kBlockOutputs, o = std::int64_t{blockIdx.x} * kBlockOutputs + thread % kBlockOutputs;
  if (r >= d.rows || o >= d.out) return;
  double sum = 0;
  for (std::int64_t s = 0; s < gridDim.y; ++s) sum += partial[(s * R + r) * d.out + o];
  finish(r, o, sum);
}
static_assert(kMostRows * kBlockOutputs <= kThreads);

// --- backward: a block takes a strip of kThreads V inputs and a split of the outputs --------------------------------

constexpr int kStaged = 64;  // gradients of outputs in shared memory

struct LinearGradients {
  float *x, *w, *bias;  // each or null
  bool add_to_x;
};

// partial (splits, R, in)
template <int R, int V>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(LinearDims d, std::int64_t split, const float* x, const float* w, const float* y, const float* gy,
                    float* partial, LinearGradients gradients) {
  __shared__ float staged[R][kStaged];
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t input = (std::int64_t{blockIdx.x} * kThreads + thread) * V;
  const std::int64_t begin = blockIdx.y * split, end = min(d.out, begin + split);
  const bool active = input < d.in;
  Lanes<V> values[R] = {}, sums[R] = {};
  if (active && gradients.w)
#pragma unroll
    for (int r = 0; r < R; ++r)
      if (r < d.rows) values[r] = load<V>(x + r * d.in + input);
  for (std::int64_t at = begin; at < end; at += kStaged) {
    const int count = static_cast<int>(min(std::int64_t{kStaged}, end - at));
    __syncthreads();
    for (int i = thread; i < R * count; i += kThreads) {
      const int r = i / count, o = i % count;
      const std::int64_t from = r * d.out + at + o;
      staged[r][o] = r < d.rows && (!d.relu || y[from] > 0) ? gy[from] : 0.0f;
    }
    __syncthreads();
    if (gradients.bias && blockIdx.x == 0 && thread < count) {
      float sum = 0;
      for (int r = 0; r < R; ++r) sum += staged[r][thread];
      gradients.bias[at + thread] = sum;
    }
    if (!active) continue;
    for (int o = 0; o < count; ++o) {
      const std::int64_t weight = (at + o) * d.in + input;
      if (gradients.x) {
        const Lanes<V> weights = load<V>(w + weight);
#pragma unroll
        for (int r = 0; r < R; ++r)
          for (int k = 0; k < V; ++k) sums[r].v[k] += staged[r][o] * weights.v[k];
      }
      if (gradients.w) {
        Lanes<V> product = {};
#pragma unroll
        for (int r = 0; r < R; ++r)
          for (int k = 0; k < V; ++k) product.v[k] += staged[r][o] * values[r].v[k];
        store<V>(gradients.w + weight, product);
      }
    }
  }
  if (!gradients.x) return;
  if (gridDim.y > 1) {
    if (active)
#pragma unroll
      for (int r = 0; r < R; ++r) store<V>(partial + (std::int64_t{blockIdx.y} * R + r) * d.in + input, sums[r]);
    if (!is_last_block(tickets + blockIdx.x, gridDim.y)) return;
    if (active)
#pragma unroll
      for (int r = 0; r < R; ++r) {
        sums[r] = {};
        for (std::int64_t s = 0; s < gridDim.y; ++s) {
          const Lanes<V> part = load<V>(partial + (s * R + r) * d.in + input);
          for (int k = 0; k < V; ++k) sums[r].v[k] += part.v[k];
        }
      }
  }
  if (!active) return;
#pragma unroll
  for (int r = 0; r < R; ++r) {
    if (r >= d.rows) continue;
    float* to = gradients.x + r * d.in + input;
    if (gradients.add_to_x) {
      const Lanes<V> before = load<V>(to);
      for (int k = 0; k < V; ++k) sums[r].v[k] += before.v[k];
    }
    store<V>(to, sums[r]);
  }
}

// f.template operator()<R>() for the least R that holds the rows.
template <class F>
void with_rows(std::int64_t rows, F f) {
  if (rows == 1)
    f.template operator()<1>();
  else if (rows == 2)
    f.template operator()<2>();
  else if (rows <= 4)
    f.template operator()<4>();
  else
    f.template operator()<kMostRows>();
}

}  // namespace

bool has_few_rows(const LinearDims& d) { return d.rows <= kMostRows && ceil_div(d.out, kBlockOutputs) <= kTickets; }

void linear_of_few_rows(const LinearDims& d, const float* x, const float* w, const float* bias, float* y) {
  const std::int64_t slices = std::clamp<std::int64_t>(d.in / (4 * kTile), 1, kMostSlices);
  const std::int64_t slice = ceil_div(ceil_div(d.in, slices), kTile) * kTile;
  const dim3 grid(static_cast<unsigned>(ceil_div(d.out, kBlockOutputs)), static_cast<unsigned>(ceil_div(d.in, slice)));
  with_vectors(d.in % 4 == 0 && fit_vectors(w), [&]<class Vector>() {
    with_rows(d.rows, [&]<int R>() {
      auto* partial = static_cast<double*>(workspace(static_cast<std::size_t>(grid.y * R * d.out) * sizeof(double)));
      launch("linear", forward_kernel<R, kWidth<Vector>>, grid, kThreads, 0, d, slice, x, w, bias, partial, y);
    });
  });
}

void linear_of_few_rows_backward(const LinearDims& d, const float* x, const float* w, const float* y, const float* gy,
                                 bool add_to_gx, float* gx, float* gw, float* gbias) {
  constexpr std::int64_t kVectorsFrom = 1 << 15, kBlocks = 256, kLeastSplit = 16;
  with_vectors(d.in >= kVectorsFrom && d.in % 4 == 0 && fit_vectors(x, w, gx, gw), [&]<class Vector>() {
    constexpr int V = kWidth<Vector>;
    const std::int64_t strips = ceil_div(d.in, kThreads * V);
    const std::int64_t splits = std::clamp<std::int64_t>(kBlocks / strips, 1, ceil_div(d.out, kLeastSplit)),
                       split = ceil_div(d.out, splits);
    const dim3 grid(static_cast<unsigned>(strips), static_cast<unsigned>(ceil_div(d.out, split)));
    with_rows(d.rows, [&]<int R>() {
      const std::int64_t partials = grid.y > 1 ? grid.y * R * d.in : 0;
      auto* partial = static_cast<float*>(workspace(static_cast<std::size_t>(partials) * sizeof(float)));
      launch("the gradient of linear", backward_kernel<R, V>, grid, kThreads, 0, d, split, x, w, y, gy, partial,
             LinearGradients{gx, gw, gbias, add_to_gx});
    });
  });
}

}  // namespace minidl::gpu
