// Adam over all tensors of an optimiser, rounding exactly as torch.optim.Adam does on the CPU. One pass: each float of
// the four arrays is read and written once.
#include <algorithm>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/lanes.h"
#include "kernels/cuda/loops.h"

namespace minidl {
namespace {

using namespace gpu;

constexpr int kChunk = 4096;       // floats of a block
constexpr int kMostTensors = 256;  // of a launch

struct Table {
  int count = 0;
  int first_chunk[kMostTensors];  // of each tensor
  AdamTensor tensors[kMostTensors];
};

// In float, as the arithmetic is.
struct Constants {
  float beta1, rest1, beta2, rest2, eps, decay;

  explicit Constants(const AdamSettings& s)
      : beta1(static_cast<float>(s.beta1)),
        rest1(static_cast<float>(1 - s.beta1)),
        beta2(static_cast<float>(s.beta2)),
        rest2(static_cast<float>(1 - s.beta2)),
        eps(static_cast<float>(s.eps)),
        decay(static_cast<float>(s.weight_decay)) {}
};

template <int V>
__device__ void update(const Constants& c, const AdamRates& rates, const AdamTensor& t, std::int64_t at) {
  Lanes<V> p = load<V>(t.value + at), grad = load<V>(t.grad + at);
  Lanes<V> m = load<V>(t.exp_avg + at), v = load<V>(t.exp_avg_sq + at);
  for (int i = 0; i < V; ++i) {
    const float g = c.decay != 0 ? __fmaf_rn(c.decay, p.v[i], grad.v[i]) : grad.v[i];
    m.v[i] = __fmaf_rn(c.rest1, g, __fmul_rn(m.v[i], c.beta1));
    v.v[i] = __fmaf_rn(__fmul_rn(c.rest2, g), g, __fmul_rn(v.v[i], c.beta2));
    const float root = __fadd_rn(__fdiv_rn(__fsqrt_rn(v.v[i]), rates.root_of_bias_correction), c.eps);
    float value = __fadd_rn(p.v[i], __fdiv_rn(__fmul_rn(rates.step_size, m.v[i]), root));
    if (t.clamp01) value = value < 0 ? 0 : value > 1 ? 1 : value;  // a NaN passes
    p.v[i] = value;
  }
  store<V>(t.value + at, p);
  store<V>(t.exp_avg + at, m);
  store<V>(t.exp_avg_sq + at, v);
}

// A block takes a chunk of one tensor, four floats to a thread at a time where that is possible.
__global__ void adam_kernel(const __grid_constant__ Table table, Constants constants, const AdamRates* rates) {
  const int block = static_cast<int>(blockIdx.x), tensor = piece_of(table.first_chunk, table.count, block);
  const AdamTensor t = table.tensors[tensor];
  const AdamRates r = *rates;
  const std::int64_t begin = std::int64_t{block - table.first_chunk[tensor]} * kChunk;
  const std::int64_t end = min(t.size, begin + kChunk);
  const bool four = fit_vectors(t.value, t.grad, t.exp_avg, t.exp_avg_sq);
  const std::int64_t rest = four ? end - (end - begin) % 4 : begin;
  for (std::int64_t i = begin + 4 * threadIdx.x; i < rest; i += 4 * kThreads) update<4>(constants, r, t, i);
  for (std::int64_t i = rest + threadIdx.x; i < end; i += kThreads) update<1>(constants, r, t, i);
}

}  // namespace

void CudaBackend::adam(const AdamSettings& settings, const AdamRates* rates, std::span<const AdamTensor> tensors) {
  for (std::size_t begin = 0; begin < tensors.size(); begin += kMostTensors) {
    Table table;
    std::int64_t chunks = 0;
    for (const AdamTensor& t : tensors.subspan(begin, std::min<std::size_t>(kMostTensors, tensors.size() - begin))) {
      table.first_chunk[table.count] = static_cast<int>(chunks);
      table.tensors[table.count++] = t;
      chunks += ceil_div(t.size, kChunk);
    }
    if (chunks > 0)
      launch("Adam", adam_kernel, static_cast<unsigned>(chunks), kThreads, 0, table, Constants(settings), rates);
  }
}

}  // namespace minidl
