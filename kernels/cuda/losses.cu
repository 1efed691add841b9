// Means and losses with their gradients, evaluated as the reference does: elementwise in float, summed more precisely.
// All terms of a list are one launch.
#include <algorithm>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/loops.h"

namespace minidl {
namespace {

using namespace gpu;

constexpr int kPiece = 4;                     // vectors that a thread adds up in float
constexpr std::int64_t kMostPartials = 1024;  // blocks of a term, few enough for the last to add up
constexpr int kMostTerms = 16;                // of a launch

__device__ unsigned finished_blocks[kMostTerms];

struct Terms {
  int count = 0;
  int first_block[kMostTerms + 1];
  LossTerm terms[kMostTerms];
};

// What an element costs, and its share of the gradient.
struct None {
  __device__ float value(float, float) const { return 0; }
  __device__ float gradient(float, float) const { return 0; }
};
struct Mean {
  float each;
  __device__ float value(float x, float) const { return x; }
  __device__ float gradient(float, float) const { return each; }
};
struct SquaredError {
  float target, factor, g;
  __device__ float value(float x, float) const { return (x - target) * (x - target); }
  __device__ float gradient(float x, float) const { return factor * (x - target) * g; }
};
struct AbsoluteError {
  float each;
  __device__ float value(float x, float target) const { return fabsf(x - target); }
  __device__ float gradient(float x, float target) const {
    const float d = x - target;
    return d > 0 ? each : d < 0 ? -each : d * each;  // 0 at 0, NaN at NaN
  }
};
struct CrossEntropy {
  float target, n, g;
  __device__ float value(float x, float) const {
    const float m = fmaxf(-x, 0.0f);
    return (1.0f - target) * x + m + logf(expf(-m) + expf(-x - m));
  }
  __device__ float gradient(float x, float) const { return (1.0f / (1.0f + expf(-x)) - target) * g / n; }
};

__device__ inline float4 load4_or_zero(const float* p, std::int64_t i) {
  return p ? load4(p, i) : make_float4(0, 0, 0, 0);
}

// One pass over a term's elements, of which this block, the block-th of `blocks`, takes vectors at a stride: float sums
// of kPiece vectors, double across them. The last block adds up what the blocks have left in partials.
template <class F>
__device__ void evaluate(const LossTerm& t, F f, int block, int blocks, double* partials, unsigned* finished) {
  const std::int64_t vectors = fit_vectors(t.x, t.targets, t.gx) ? t.size / 4 : 0;
  const std::int64_t first = std::int64_t{block} * kThreads + threadIdx.x, stride = std::int64_t{blocks} * kThreads;
  double total = 0;
  for (std::int64_t begin = first; begin < vectors; begin += kPiece * stride) {
    float piece = 0;
    for (int k = 0; k < kPiece; ++k) {
      const std::int64_t i = begin + k * stride;
      if (i >= vectors) break;
      const float4 x = load4_or_zero(t.x, i), u = load4_or_zero(t.targets, i);
      if (t.value) {
        const float4 cost = apply4([&](float a, float b) { return f.value(a, b); }, x, u);
        piece += (cost.x + cost.y) + (cost.z + cost.w);
      }
      if (t.gx) reinterpret_cast<float4*>(t.gx)[i] = apply4([&](float a, float b) { return f.gradient(a, b); }, x, u);
    }
    total += piece;
  }
  for (std::int64_t i = 4 * vectors + first; i < t.size; i += stride) {
    const float x = t.x ? t.x[i] : 0.0f, u = t.targets ? t.targets[i] : 0.0f;
    if (t.value) total += f.value(x, u);
    if (t.gx) t.gx[i] = f.gradient(x, u);
  }
  if (!t.value) return;
  total = block_sum(total);
  if (blocks > 1) {
    if (threadIdx.x == 0) partials[block] = total;
    if (!is_last_block(finished, static_cast<unsigned>(blocks))) return;
    total = 0;
    for (int other = static_cast<int>(threadIdx.x); other < blocks; other += kThreads) total += partials[other];
    total = block_sum(total);
  }
  if (threadIdx.x == 0) *t.value = static_cast<float>(total / static_cast<double>(t.size));
}

// partials: one for each block. Left to itself the compiler chooses more blocks of a multiprocessor, and spills.
__global__ void __launch_bounds__(kThreads, 3) losses_kernel(const __grid_constant__ Terms list, double* partials) {
  const int index = piece_of(list.first_block, list.count, static_cast<int>(blockIdx.x));
  const int begin = list.first_block[index], blocks = list.first_block[index + 1] - begin;
  const int block = static_cast<int>(blockIdx.x) - begin;
  const LossTerm t = list.terms[index];
  const float n = static_cast<float>(t.size), g = t.gy && t.gx ? t.weight * t.gy[0] : t.weight;
  const auto run = [&](auto f) { evaluate(t, f, block, blocks, partials + begin, finished_blocks + index); };
  switch (t.loss) {
    case Loss::none:
      return run(None{});
    case Loss::mean:
      return run(Mean{g / n});
    case Loss::mse:
      return run(SquaredError{t.target, static_cast<float>(2.0 / static_cast<double>(t.size)), g});
    case Loss::l1:
      return run(AbsoluteError{g / n});
    case Loss::bce:
      return run(CrossEntropy{t.target, n, g});
  }
}

}  // namespace

void CudaBackend::losses(std::span<const LossTerm> terms) {
  for (std::size_t begin = 0; begin < terms.size(); begin += kMostTerms) {
    Terms list;
    std::int64_t blocks = 0;
    for (const LossTerm& t : terms.subspan(begin, std::min<std::size_t>(kMostTerms, terms.size() - begin))) {
      list.first_block[list.count] = static_cast<int>(blocks);
      list.terms[list.count++] = t;
      const std::int64_t steps = fit_vectors(t.x, t.targets, t.gx) ? ceil_div(t.size, 4) : t.size;
      blocks += std::min<std::int64_t>(kMostPartials, blocks_for(steps));
    }
    list.first_block[list.count] = static_cast<int>(blocks);
    auto* partials = static_cast<double*>(workspace(static_cast<std::size_t>(blocks) * sizeof(double)));
    launch("losses", losses_kernel, static_cast<unsigned>(blocks), kThreads, 0, list, partials);
  }
}

}  // namespace minidl
