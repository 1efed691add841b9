// Adam over all tensors of an optimiser, rounding exactly as torch.optim.Adam does on the CPU. One pass: each float of
// the four arrays is read and written once.
#include <cmath>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/loops.h"

namespace minidl {

using namespace cpu;

void CpuBackend::adam(const AdamSettings& s, const AdamRates* rates, std::span<const AdamTensor> tensors) {
  const float step_size = rates->step_size, root = rates->root_of_bias_correction;
  const float beta1 = static_cast<float>(s.beta1), rest1 = static_cast<float>(1 - s.beta1);
  const float beta2 = static_cast<float>(s.beta2), rest2 = static_cast<float>(1 - s.beta2);
  const float eps = static_cast<float>(s.eps), decay = static_cast<float>(s.weight_decay);

  const auto update = [&](const AdamTensor& t, std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const float g = decay != 0 ? std::fma(decay, t.value[i], t.grad[i]) : t.grad[i];
      const float m = std::fma(rest1, g, t.exp_avg[i] * beta1);
      const float v = std::fma(rest2 * g, g, t.exp_avg_sq[i] * beta2);
      const float p = t.value[i] + step_size * m / (std::sqrt(v) / root + eps);
      t.exp_avg[i] = m;
      t.exp_avg_sq[i] = v;
      t.value[i] = t.clamp01 ? std::min(std::max(p, 0.0f), 1.0f) : p;  // in this order a NaN passes
    }
  };
  for (const AdamTensor& t : tensors)
    parallel_chunks(t.size, [&](std::int64_t begin, std::int64_t end) { update(t, begin, end); });
}

}  // namespace minidl
