// The plans of convolutions: cuDNN's guess of the fastest, and what is worth measuring (kernels/conv_choices.h).
#pragma once

#include <memory>
#include <vector>

#include "kernels/cuda/conv_plan.h"

namespace minidl::gpu {

using ConvPlanPointer = std::shared_ptr<const ConvPlan>;

ConvPlanPointer ruled_plan(const ConvUse& use);

// Every plan worth measuring for a use; never empty.
std::vector<ConvPlanPointer> candidates(const ConvUse& use);

// The plan that a choice names; the ruled one if this device lacks that.
ConvPlanPointer chosen_plan(const ConvChoice& choice);

}  // namespace minidl::gpu
