// Means and losses with their gradients, evaluated as the reference does: elementwise in float, summed more precisely.
// A forward pass is one launch, a backward pass one more; the latter launches nothing for size 0.
#include <algorithm>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/loops.h"

namespace minidl {
namespace {

using namespace gpu;

constexpr int kPiece = 4;                 // vectors that a thread adds up in float
constexpr unsigned kMostPartials = 1024;  // blocks, few enough for the last to add up

__device__ unsigned finished_blocks;

// y = the mean of f(x[i]...). A thread takes vectors at a stride of the grid: float sums of kPiece vectors, double
// across them. The last block adds up what the blocks have left in partials.
template <class F, class... T>
__global__ void __launch_bounds__(kThreads)
    mean_kernel(std::int64_t size, std::int64_t vectors, F f, double* partials, float* y, const T*... x) {
  double total = 0;
  for (std::int64_t begin = first_index(); begin < vectors; begin += kPiece * index_stride()) {
    float piece = 0;
    for (int k = 0; k < kPiece; ++k) {
      const std::int64_t i = begin + k * index_stride();
      if (i >= vectors) break;
      const float4 term = apply4(f, load4(x, i)...);
      piece += (term.x + term.y) + (term.z + term.w);
    }
    total += piece;
  }
  for (std::int64_t i = 4 * vectors + first_index(); i < size; i += index_stride()) total += f(x[i]...);
  total = block_sum(total);
  if (gridDim.x > 1) {
    if (threadIdx.x == 0) partials[blockIdx.x] = total;
    if (!is_last_block(&finished_blocks, gridDim.x)) return;
    total = 0;
    for (unsigned block = threadIdx.x; block < gridDim.x; block += blockDim.x) total += partials[block];
    total = block_sum(total);
  }
  if (threadIdx.x == 0) *y = static_cast<float>(total / static_cast<double>(size));
}

template <class F, class... T>
void mean_of(const char* what, std::int64_t size, F f, float* y, const T*... x) {
  const std::int64_t vectors = fit_vectors(x...) ? size / 4 : 0;
  const unsigned blocks = std::min(kMostPartials, blocks_for(vectors > 0 ? vectors : size));
  auto* partials = blocks > 1 ? static_cast<double*>(workspace(blocks * sizeof(double))) : nullptr;
  launch(what, mean_kernel<F, T...>, blocks, kThreads, 0, size, vectors, f, partials, y, x...);
}

struct Value {
  __device__ float operator()(float x) const { return x; }
};
struct SquaredError {
  float target;
  __device__ float operator()(float x) const { return (x - target) * (x - target); }
};
struct AbsoluteError {
  __device__ float operator()(float x, float target) const { return fabsf(x - target); }
};
struct CrossEntropy {
  float target;
  __device__ float operator()(float x) const {
    const float m = fmaxf(-x, 0.0f);
    return (1.0f - target) * x + m + logf(expf(-m) + expf(-x - m));
  }
};

// Factors of all elements, from the gradient gy of the loss.
struct MeanBackward {
  const float* gy;
  float size, g = 0;
  __device__ void load() { g = gy[0] / size; }
  __device__ float operator()() const { return g; }
};
struct SquaredErrorBackward {
  const float* gy;
  float factor, target, g = 0;
  __device__ void load() { g = gy[0]; }
  __device__ float operator()(float x) const { return factor * (x - target) * g; }
};
struct AbsoluteErrorBackward {
  const float* gy;
  float size, g = 0;
  __device__ void load() { g = gy[0] / size; }
  __device__ float operator()(float x, float target) const {
    const float d = x - target;
    return d > 0 ? g : d < 0 ? -g : d * g;  // 0 at 0, NaN at NaN
  }
};
struct CrossEntropyBackward {
  const float* gy;
  float size, target, g = 0;
  __device__ void load() { g = gy[0]; }
  __device__ float operator()(float x) const { return (1.0f / (1.0f + expf(-x)) - target) * g / size; }
};

}  // namespace

void CudaBackend::mean_forward(std::int64_t size, const float* x, float* y) { mean_of("mean", size, Value{}, y, x); }

void CudaBackend::mean_backward(std::int64_t size, const float* gy, float* gx) {
  map("mean backward", size, MeanBackward{gy, static_cast<float>(size)}, gx);
}

void CudaBackend::mse_forward(std::int64_t size, const float* x, float target, float* loss) {
  mean_of("mse", size, SquaredError{target}, loss, x);
}

void CudaBackend::mse_backward(std::int64_t size, const float* x, float target, const float* gy, float* gx) {
  const auto factor = static_cast<float>(2.0 / static_cast<double>(size));
  map("mse backward", size, SquaredErrorBackward{gy, factor, target}, gx, x);
}

void CudaBackend::l1_forward(std::int64_t size, const float* x, const float* target, float* loss) {
  mean_of("l1", size, AbsoluteError{}, loss, x, target);
}

void CudaBackend::l1_backward(std::int64_t size, const float* x, const float* target, const float* gy, float* gx) {
  map("l1 backward", size, AbsoluteErrorBackward{gy, static_cast<float>(size)}, gx, x, target);
}

void CudaBackend::bce_forward(std::int64_t size, const float* logits, float target, float* loss) {
  mean_of("bce", size, CrossEntropy{target}, loss, logits);
}

void CudaBackend::bce_backward(std::int64_t size, const float* logits, float target, const float* gy, float* gx) {
  map("bce backward", size, CrossEntropyBackward{gy, static_cast<float>(size), target}, gx, logits);
}

}  // namespace minidl
