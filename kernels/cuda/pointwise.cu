// Elementwise functions over flat buffers; see map() for the division of the work. None launches anything for size 0.
#include <algorithm>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/lanes.h"
#include "kernels/cuda/loops.h"

namespace minidl {

using namespace gpu;

namespace {

// A NaN passes the kinked ones: a broken run must not look healthy.
struct Relu {
  __device__ float operator()(float x) const { return x < 0 ? 0.0f : x; }
};
struct LeakyRelu {
  float slope;
  __device__ float operator()(float x) const { return x > 0 ? x : x * slope; }
};
struct Tanh {
  __device__ float operator()(float x) const { return tanhf(x); }
};
struct Sigmoid {
  __device__ float operator()(float x) const { return 1.0f / (1.0f + expf(-x)); }
};

struct ReluBackward {
  __device__ float operator()(float y, float gy) const { return y > 0 ? gy : 0.0f; }
};
struct LeakyReluBackward {
  float slope;
  __device__ float operator()(float y, float gy) const { return y > 0 ? gy : gy * slope; }
};
struct TanhBackward {
  __device__ float operator()(float y, float gy) const { return gy * (1.0f - y * y); }
};
struct SigmoidBackward {
  __device__ float operator()(float y, float gy) const { return gy * (1.0f - y) * y; }
};

struct Constant {
  float value;
  __device__ float operator()() const { return value; }
};
struct Multiply {
  __device__ float operator()(float a, float b) const { return a * b; }
};
struct Scale {
  float factor;
  __device__ float operator()(float x) const { return factor * x; }
};
struct ScaleBy {
  const float* s;
  float factor = 0;
  __device__ void load() { factor = s[0]; }
  __device__ float operator()(float x) const { return factor * x; }
};

// --- sums: a block takes a chunk of one -----------------------------------------------------------------------------

constexpr int kChunk = 4096;  // floats of a block

struct SumTable {
  static constexpr int kMostSums = 128, kMostTerms = 512;  // of a launch

  struct Entry {
    std::int64_t size;
    float* y;
    int first_term, terms;
  };
  int count = 0;
  int first_chunk[kMostSums];
  Entry sums[kMostSums];
  const float* terms[kMostTerms];
};

template <int V>
__device__ void add_terms(const float* const* terms, int count, float* y, std::int64_t at) {
  Lanes<V> total = load<V>(terms[0] + at);
  for (int t = 1; t < count; ++t) {
    const Lanes<V> term = load<V>(terms[t] + at);
    for (int i = 0; i < V; ++i) total.v[i] += term.v[i];
  }
  store<V>(y + at, total);
}

__global__ void __launch_bounds__(kThreads) sum_kernel(const __grid_constant__ SumTable table) {
  const int block = static_cast<int>(blockIdx.x), index = piece_of(table.first_chunk, table.count, block);
  const SumTable::Entry sum = table.sums[index];
  const float* const* terms = table.terms + sum.first_term;
  const std::int64_t begin = std::int64_t{block - table.first_chunk[index]} * kChunk;
  const std::int64_t end = min(sum.size, begin + kChunk);
  bool four = fit_vectors(sum.y);
  for (int t = 0; t < sum.terms; ++t) four = four && fit_vectors(terms[t]);
  const std::int64_t rest = four ? end - (end - begin) % 4 : begin;
  for (std::int64_t i = begin + 4 * threadIdx.x; i < rest; i += 4 * kThreads) add_terms<4>(terms, sum.terms, sum.y, i);
  for (std::int64_t i = rest + threadIdx.x; i < end; i += kThreads) add_terms<1>(terms, sum.terms, sum.y, i);
}

}  // namespace

void CudaBackend::activation_forward(Activation f, float slope, std::int64_t size, const float* x, float* y) {
  switch (f) {
    case Activation::relu:
      return map("relu", size, Relu{}, y, x);
    case Activation::leaky_relu:
      return map("leaky_relu", size, LeakyRelu{slope}, y, x);
    case Activation::tanh:
      return map("tanh", size, Tanh{}, y, x);
    case Activation::sigmoid:
      return map("sigmoid", size, Sigmoid{}, y, x);
  }
}

void CudaBackend::activation_backward(Activation f, float slope, std::int64_t size, const float* y, const float* gy,
                                      float* gx) {
  switch (f) {
    case Activation::relu:
      return map("relu backward", size, ReluBackward{}, gx, y, gy);
    case Activation::leaky_relu:
      return map("leaky_relu backward", size, LeakyReluBackward{slope}, gx, y, gy);
    case Activation::tanh:
      return map("tanh backward", size, TanhBackward{}, gx, y, gy);
    case Activation::sigmoid:
      return map("sigmoid backward", size, SigmoidBackward{}, gx, y, gy);
  }
}

void CudaBackend::fill(std::int64_t size, float value, float* y) { map("fill", size, Constant{value}, y); }

void CudaBackend::add(std::span<const Sum> sums) {
  SumTable table;
  std::int64_t chunks = 0;
  int terms = 0;
  const auto run = [&] {
    if (chunks > 0) launch("sums", sum_kernel, static_cast<unsigned>(chunks), kThreads, 0, table);
    table.count = terms = 0;
    chunks = 0;
  };
  for (const Sum& sum : sums) {
    const auto count = static_cast<int>(sum.terms.size());
    check(count <= SumTable::kMostTerms, "cuda: a sum of ", count, " terms; at most ", SumTable::kMostTerms,
          " are possible");
    if (table.count == SumTable::kMostSums || terms + count > SumTable::kMostTerms) run();
    std::copy(sum.terms.begin(), sum.terms.end(), table.terms + terms);
    table.first_chunk[table.count] = static_cast<int>(chunks);
    table.sums[table.count++] = {sum.size, sum.y, terms, count};
    terms += count;
    chunks += ceil_div(sum.size, kChunk);
  }
  run();
}

void CudaBackend::multiply(std::int64_t size, const float* a, const float* b, float* y) {
  map("multiply", size, Multiply{}, y, a, b);
}

void CudaBackend::scale(std::int64_t size, float factor, const float* x, float* y) {
  map("scale", size, Scale{factor}, y, x);
}

void CudaBackend::scale_by(std::int64_t size, const float* s, const float* x, float* y) {
  map("scale_by", size, ScaleBy{s}, y, x);
}

}  // namespace minidl
