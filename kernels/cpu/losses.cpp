// Means and losses with their gradients, evaluated as the reference does: elementwise in float, summed more precisely.
#include <cmath>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/loops.h"

namespace minidl {
namespace {

using namespace cpu;

template <class F>
float mean_of(std::int64_t size, F f) {
  return static_cast<float>(sum_of(size, f) / static_cast<double>(size));
}

}  // namespace

void CpuBackend::losses(std::span<const LossTerm> terms) {
  for (const LossTerm& term : terms) {
    const std::int64_t size = term.size;
    const float *x = term.x, *targets = term.targets;
    float* gx = term.gx;
    const float target = term.target, n = static_cast<float>(size), g = term.gy ? term.weight * *term.gy : term.weight;
    // value(i) is what element i costs, gradient(i) that of the weighted mean.
    const auto evaluate = [&](auto value, auto gradient) {
      if (term.value) *term.value = mean_of(size, value);
      if (gx) map_floats(size, gx, gradient);
    };
    switch (term.loss) {
      case Loss::none:
        evaluate([](auto) { return 0.0f; }, [](auto) { return 0.0f; });
        break;
      case Loss::mean:
        evaluate([=](auto i) { return x[i]; }, [each = g / n](auto) { return each; });
        break;
      case Loss::mse: {
        const auto factor = static_cast<float>(2.0 / static_cast<double>(size));
        evaluate([=](auto i) { return (x[i] - target) * (x[i] - target); },
                 [=](auto i) { return factor * (x[i] - target) * g; });
        break;
      }
      case Loss::l1:
        evaluate([=](auto i) { return std::fabs(x[i] - targets[i]); },
                 [=, each = g / n](auto i) {
                   const float d = x[i] - targets[i];
                   return d > 0 ? each : d < 0 ? -each : d * each;  // 0 at 0, NaN at NaN
                 });
        break;
      case Loss::bce:
        evaluate(
            [=](auto i) {
              const float m = std::fmax(-x[i], 0.0f);
              return (1.0f - target) * x[i] + m + std::log(std::exp(-m) + std::exp(-x[i] - m));
            },
            [=](auto i) { return (1.0f / (1.0f + std::exp(-x[i])) - target) * g / n; });
        break;
    }
  }
}

}  // namespace minidl
