#include "kernels/cuda/conv_choice.h"

namespace minidl::gpu {
namespace {

constexpr std::size_t kMostCandidates = 16;

std::vector<ConvPlan> candidates(const ConvUse& use, std::size_t most) {
  std::vector<ConvPlan> plans = conv_plans({.handle = dnn()}, use, most);
  const ConvDims& d = use.dims;
  check(!plans.empty(), "cudnn: this device has no algorithm for a convolution of ", d.in.n, "x", d.in.c, "x", d.in.h,
        "x", d.in.w, " to ", d.out.c, " channels with kernel ", d.kernel, ", stride ", d.stride, " and padding ",
        d.padding);
  return plans;
}

ConvChoices::Plan ruled_plan(const ConvUse& use) {
  return std::make_shared<const ConvPlan>(std::move(candidates(use, 1)[0]));
}

}  // namespace

ConvChoices::Plan ConvChoices::plan(const ConvUse& use, const Measure& measure) {
  std::unique_lock lock(mutex_);
  auto& choices = benchmark_ ? measured_ : ruled_;
  if (const auto found = choices.find(use); found != choices.end()) return found->second;
  if (!benchmark_) return ruled_.emplace(use, ruled_plan(use)).first->second;
  lock.unlock();  // another thread may measure the same use meanwhile; the first to be done decides
  std::vector<ConvPlan> plans = candidates(use, kMostCandidates);
  const std::size_t fastest = plans.size() == 1 ? 0 : measure(plans);
  lock.lock();
  return measured_.emplace(use, std::make_shared<const ConvPlan>(std::move(plans[fastest]))).first->second;
}

void ConvChoices::set_benchmark(bool on) {
  const std::lock_guard lock(mutex_);
  benchmark_ = on;
  if (!on) measured_.clear();
}

std::vector<ConvChoice> ConvChoices::measured() const {
  const std::lock_guard lock(mutex_);
  std::vector<ConvChoice> choices;
  for (const auto& [use, plan] : measured_) choices.push_back({use, plan->algorithm()});
  return choices;
}

void ConvChoices::replace(std::span<const ConvChoice> choices) {
  const std::lock_guard lock(mutex_);
  if (!benchmark_) return;
  measured_.clear();
  for (const auto& [use, algorithm] : choices) {
    auto named = conv_plan({.handle = dnn()}, use, algorithm);
    measured_.emplace(use, named ? std::make_shared<const ConvPlan>(std::move(*named)) : ruled_plan(use));
  }
}

}  // namespace minidl::gpu
