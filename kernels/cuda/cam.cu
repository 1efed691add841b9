// The logits of the class activation map: a few short dot products, too small for a library's call each.
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/groups.h"
#include "kernels/cuda/loops.h"

namespace minidl {
namespace {

using namespace gpu;

struct Parts {
  static constexpr int kMost = 8, kMostVectors = 512;

  struct Part {
    const float *w, *sigma;
    float* gw;
    int first_vectors;  // -1: none
  };
  int count = 0;
  Part parts[kMost];
  SingularVectors vectors[kMostVectors];

  explicit Parts(std::span<const CamPart> list) {
    check(list.size() <= kMost, "cuda: a class activation map of ", list.size(), " parts; at most ", kMost,
          " are possible");
    int used = 0;
    for (const CamPart& part : list) {
      const auto size = static_cast<int>(part.vectors.size());
      check(used + size <= kMostVectors, "cuda: a class activation map of more than ", kMostVectors,
            " pairs of singular vectors");
      parts[count++] = {part.w, part.sigma, part.gw, size > 0 ? used : -1};
      for (const SingularVectors& pair : part.vectors) vectors[used++] = pair;
    }
  }
};

// A block computes one logit.
__global__ void __launch_bounds__(kThreads)
    logits_kernel(std::int64_t n, std::int64_t c, const __grid_constant__ Groups groups,
                  const __grid_constant__ Parts parts, const float* pooled, float* logits) {
  const int index = static_cast<int>(blockIdx.x) % parts.count;
  const std::int64_t sample = static_cast<int>(blockIdx.x) / parts.count;
  const Parts::Part part = parts.parts[index];
  const float* row = pooled + (index * n + sample) * c;
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < c; i += kThreads) sum += static_cast<double>(row[i]) * part.w[i];
  sum = block_sum(sum);
  if (threadIdx.x != 0) return;
  if (part.sigma) sum /= part.sigma[groups.of(sample)];
  logits[blockIdx.x] = static_cast<float>(sum);
}

// A thread computes the gradients of one channel of one part. With y = z / sigma: dL/dsigma = -gy y / sigma, and sigma
// = u w . v hands it on to w as u v.
__global__ void __launch_bounds__(kThreads)
    logits_backward_kernel(std::int64_t n, std::int64_t c, const __grid_constant__ Groups groups,
                           const __grid_constant__ Parts parts, const float* pooled, const float* logits,
                           const float* glogits, float* gpooled) {
  const int index = static_cast<int>(blockIdx.y);
  const Parts::Part part = parts.parts[index];
  for (std::int64_t channel = first_index(); channel < c; channel += index_stride()) {
    const float w = part.w[channel];
    double gw = 0;
    for (int g = 0; g < groups.count; ++g) {
      const double inverse = part.sigma ? 1.0 / part.sigma[g] : 1.0;
      double gsigma = 0;
      for (std::int64_t sample = groups.begins[g]; sample < groups.begins[g + 1]; ++sample) {
        const std::int64_t at = (index * n + sample) * c + channel, logit = sample * parts.count + index;
        const double gz = glogits[logit] * inverse;
        if (gpooled) gpooled[at] = static_cast<float>(gz * w);
        if (!part.gw) continue;
        gw += gz * pooled[at];
        gsigma -= gz * logits[logit];
      }
      if (!part.gw || part.first_vectors < 0) continue;
      const SingularVectors pair = parts.vectors[part.first_vectors + g];
      gw += gsigma * pair.u[0] * pair.v[channel];
    }
    if (part.gw) part.gw[channel] = static_cast<float>(gw);
  }
}

}  // namespace

void CudaBackend::cam_logits_forward(std::int64_t n, std::int64_t c, std::span<const std::int64_t> groups,
                                     std::span<const CamPart> parts, const float* pooled, float* logits) {
  const auto blocks = static_cast<unsigned>(n) * static_cast<unsigned>(parts.size());
  launch("CAM logits", logits_kernel, blocks, kThreads, 0, n, c, Groups(groups), Parts(parts), pooled, logits);
}

void CudaBackend::cam_logits_backward(std::int64_t n, std::int64_t c, std::span<const std::int64_t> groups,
                                      std::span<const CamPart> parts, const float* pooled, const float* logits,
                                      const float* glogits, float* gpooled) {
  const dim3 grid(blocks_for(c), static_cast<unsigned>(parts.size()));
  launch("the gradient of CAM logits", logits_backward_kernel, grid, kThreads, 0, n, c, Groups(groups), Parts(parts),
         pooled, logits, glogits, gpooled);
}

}  // namespace minidl
