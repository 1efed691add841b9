// Which plan computes a convolution: cuDNN's guess of the fastest, or the one that was measured to be
// (Backend::set_benchmark).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "kernels/cuda/conv_plan.h"

namespace minidl::gpu {

// The choices of one backend, with the plans that they name. Safe to use from several threads, all of which see the
// same choice for a use.
class ConvChoices {
 public:
  using Plan = std::shared_ptr<const ConvPlan>;

  // The plan for a use; `measure` gives the index of the fastest of some plans where that is still to be found out.
  using Measure = std::function<std::size_t(const std::vector<ConvPlan>& candidates)>;
  Plan plan(const ConvUse& use, const Measure& measure);

  void set_benchmark(bool on);
  std::vector<ConvChoice> measured() const;
  void replace(std::span<const ConvChoice> choices);

 private:
  mutable std::mutex mutex_;
  bool benchmark_ = false;
  std::map<ConvUse, Plan> ruled_, measured_;
};

}  // namespace minidl::gpu
