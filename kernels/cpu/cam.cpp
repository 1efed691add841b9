// The logits of the class activation map: a few short dot products.
#include "kernels/cpu/cpu_backend.h"

namespace minidl {
namespace {

// f(group, first sample, sample after the last).
template <class F>
void for_groups(std::span<const std::int64_t> groups, F f) {
  std::int64_t begin = 0;
  for (std::size_t g = 0; g < groups.size(); begin += groups[g++]) f(g, begin, begin + groups[g]);
}

}  // namespace

void CpuBackend::cam_logits_forward(std::int64_t n, std::int64_t c, std::span<const std::int64_t> groups,
                                    std::span<const CamPart> parts, const float* pooled, float* logits) {
  const auto count = static_cast<std::int64_t>(parts.size());
  for_groups(groups, [&](std::size_t g, std::int64_t begin, std::int64_t end) {
    for (std::int64_t sample = begin; sample < end; ++sample)
      for (std::int64_t p = 0; p < count; ++p) {
        const CamPart& part = parts[static_cast<std::size_t>(p)];
        const float* row = pooled + (p * n + sample) * c;
        double sum = 0;
        for (std::int64_t i = 0; i < c; ++i) sum += static_cast<double>(row[i]) * part.w[i];
        if (part.sigma) sum /= part.sigma[g];
        logits[sample * count + p] = static_cast<float>(sum);
      }
  });
}

// With y = z / sigma: dL/dsigma = -gy y / sigma, and sigma = u w . v hands it on to w as u v.
void CpuBackend::cam_logits_backward(std::int64_t n, std::int64_t c, std::span<const std::int64_t> groups,
                                     std::span<const CamPart> parts, const float* pooled, const float* logits,
                                     const float* glogits, float* gpooled) {
  const auto count = static_cast<std::int64_t>(parts.size());
  for (std::int64_t p = 0; p < count; ++p) {
    const CamPart& part = parts[static_cast<std::size_t>(p)];
    for (std::int64_t i = 0; i < c; ++i) {
      double gw = 0;
      for_groups(groups, [&](std::size_t g, std::int64_t begin, std::int64_t end) {
        const double inverse = part.sigma ? 1.0 / part.sigma[g] : 1.0;
        double gsigma = 0;
        for (std::int64_t sample = begin; sample < end; ++sample) {
          const std::int64_t at = (p * n + sample) * c + i, logit = sample * count + p;
          const double gz = glogits[logit] * inverse;
          gw += gz * pooled[at];
          gsigma -= gz * logits[logit];
          if (gpooled) gpooled[at] = static_cast<float>(gz * part.w[i]);
        }
        if (!part.vectors.empty()) gw += gsigma * part.vectors[g].u[0] * part.vectors[g].v[i];
      });
      if (part.gw) part.gw[i] = static_cast<float>(gw);
    }
  }
}

}  // namespace minidl
