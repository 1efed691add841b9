// Convolutions as execution plans of cuDNN.
//
// Images are channels-last, weights plain (O, C, K, K) as their owners keep them: cuDNN reorders them in its workspace
// where an engine wants another order. In bfloat16 all three tensors are: cuDNN has no convolution of bfloat16 operands
// with float32 results that is not compiled at run time. Its sums are float32 still.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/dnn.h"

namespace minidl::gpu {

// What plans are made for: the device of a handle or, where none is at hand, one that is described by its properties
// (cuDNN 9.8 and newer); such plans cannot be executed.
struct PlanTarget {
  cudnnHandle_t handle = nullptr;
  const Descriptor* description = nullptr;
};

class ConvPlan {
 public:
  ConvPlan(Descriptor plan, std::string algorithm);

  // Engine and settings; the same name gives the same bits on the same device.
  const std::string& algorithm() const { return algorithm_; }
  std::size_t workspace() const { return workspace_; }
  // On tensors of float or bfloat16, as the precision of the use says; its pass says which one is written. They and the
  // workspace are aligned to 16 bytes.
  cudnnStatus_t execute(cudnnHandle_t handle, const void* x, const void* w, const void* y, void* workspace) const;

 private:
  Descriptor plan_;
  std::string algorithm_;
  std::size_t workspace_;
};

// Up to `most` plans for a use, by cuDNN's guess the fastest first. Every one gives the same bits on each run, adds in
// float32, multiplies as precisely as the use asks for, and was compiled before the program started.
std::vector<ConvPlan> conv_plans(const PlanTarget& target, const ConvUse& use, std::size_t most);

// The plan by an algorithm's name; nullopt if this version of cuDNN or the device lacks it, or conv_plans would refuse
// it.
std::optional<ConvPlan> conv_plan(const PlanTarget& target, const ConvUse& use, const std::string& algorithm);

}  // namespace minidl::gpu
