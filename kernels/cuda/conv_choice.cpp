#include "kernels/cuda/conv_choice.h"

namespace minidl::gpu {
namespace {

constexpr std::size_t kMostCandidates = 16;

std::vector<ConvPlanPointer> plans(const ConvUse& use, std::size_t most) {
  std::vector<ConvPlanPointer> result;
  for (ConvPlan& plan : conv_plans({.handle = dnn()}, use, most))
    result.push_back(std::make_shared<const ConvPlan>(std::move(plan)));
  const ConvDims& d = use.dims;
  check(!result.empty(), "cudnn: this device has no algorithm for a convolution of ", d.in.n, "x", d.in.c, "x", d.in.h,
        "x", d.in.w, " to ", d.out.c, " channels with kernel ", d.kernel, ", stride ", d.stride, " and padding ",
        d.padding);
  return result;
}

}  // namespace

ConvPlanPointer ruled_plan(const ConvUse& use) { return plans(use, 1).front(); }

std::vector<ConvPlanPointer> candidates(const ConvUse& use) { return plans(use, kMostCandidates); }

ConvPlanPointer chosen_plan(const ConvChoice& choice) {
  auto named = conv_plan({.handle = dnn()}, choice.use, choice.algorithm);
  return named ? std::make_shared<const ConvPlan>(std::move(*named)) : ruled_plan(choice.use);
}

}  // namespace minidl::gpu
