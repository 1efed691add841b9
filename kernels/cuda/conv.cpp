// Convolution by cuDNN. A plan is made once per use and kept (conv_choice.h); nothing else outlives a call: cuDNN reads
// weights as their owners keep them, so that there is nothing to prepare.
#include <algorithm>
#include <array>
#include <limits>
#include <mutex>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/operands.h"
#include "kernels/cuda/timing_event.h"

namespace minidl {
namespace {

using namespace gpu;

enum Operand { kX, kW, kY };

// What the operands x, w and y of a use are, one of which is the result.
struct Operands {
  std::array<std::int64_t, 3> sizes;
  std::array<const float*, 3> data;
  Operand result;
  const float* bias;  // or null: added to the result
};

Operand result_of(ConvPass pass) { return pass == ConvPass::forward ? kY : pass == ConvPass::backward_data ? kX : kW; }

Operands operands_of(const ConvUse& use, const float* x, const float* w, const float* y, const float* bias) {
  const ConvDims& d = use.dims;
  return {{d.in.size(), d.out.c * d.in.c * d.kernel * d.kernel, d.out.size()}, {x, w, y}, result_of(use.pass), bias};
}

// Rows of the result as a matrix whose columns are biased.
std::int64_t rows_of(const ConvUse& use) { return use.dims.out.n * use.dims.out.pixels(); }

// Writes to the operand that is the result, which its caller handed over as writable.
float* written(const Operands& operands) { return const_cast<float*>(operands.data[operands.result]); }

cudnnStatus_t execute_float(const ConvUse& use, const ConvPlan& plan, const Operands& operands) {
  const auto& [x, w, y] = operands.data;
  const cudnnStatus_t status = plan.execute(dnn(), x, w, y, workspace(plan.workspace()));
  if (status == CUDNN_STATUS_SUCCESS && operands.bias)
    add_bias(rows_of(use), use.dims.out.c, operands.bias, written(operands));
  return status;
}

// The workspace holds the three tensors in bfloat16, and the plan's own behind them.
cudnnStatus_t execute_bf16(const ConvUse& use, const ConvPlan& plan, const Operands& operands) {
  constexpr std::size_t kAlignment = 256;
  std::array<std::size_t, 4> offsets = {};
  for (std::size_t i = 0; i < 3; ++i)
    offsets[i + 1] = offsets[i] + (static_cast<std::size_t>(operands.sizes[i]) * sizeof(Bf16) + kAlignment - 1) /
                                      kAlignment * kAlignment;
  auto* memory = static_cast<std::byte*>(workspace(offsets[3] + plan.workspace()));
  const auto tensor = [&](int i) { return reinterpret_cast<Bf16*>(memory + offsets[static_cast<std::size_t>(i)]); };

  const int result = operands.result, a = result == kX ? kW : kX, b = result == kY ? kW : kY;
  round_to_bf16(operands.sizes[a], operands.data[a], tensor(a), operands.sizes[b], operands.data[b], tensor(b));
  const cudnnStatus_t status = plan.execute(dnn(), tensor(kX), tensor(kW), tensor(kY), memory + offsets[3]);
  const std::int64_t cols = operands.bias ? use.dims.out.c : 1;
  if (status == CUDNN_STATUS_SUCCESS)
    widen_from_bf16(operands.sizes[result] / cols, cols, tensor(result), operands.bias, written(operands));
  return status;
}

cudnnStatus_t execute(const ConvUse& use, const ConvPlan& plan, const Operands& operands) {
  return use.precision == Precision::bf16 ? execute_bf16(use, plan, operands) : execute_float(use, plan, operands);
}

// The shortest of a few runs on the very operands, each of which overwrites the result; infinite if the plan fails, or
// wants a larger workspace than there is memory for.
float shortest(const ConvUse& use, const ConvPlan& plan, const Operands& operands) {
  constexpr float kNever = std::numeric_limits<float>::infinity();
  float best = kNever;
  TimingEvent start, end;
  for (int i = 0; i < 4; ++i) {  // the first warms up
    start.record();
    try {
      if (execute(use, plan, operands) != CUDNN_STATUS_SUCCESS) return kNever;
    } catch (const Error&) {
      return kNever;
    }
    end.record();
    const float time = end.milliseconds_since(start);
    if (i > 0) best = std::min(best, time);
  }
  return best;
}

void convolve(const char* what, ConvChoices<ConvPlanPointer>& choices, const ConvUse& use, const Operands& operands) {
  for (const float* operand : operands.data)
    check(reinterpret_cast<std::uintptr_t>(operand) % 16 == 0, what,
          ": an operand is not aligned to 16 bytes, as cuDNN wants it; expected the beginning of an allocation");
  const auto fastest = [&] {
    const std::vector<ConvPlanPointer> all = candidates(use);
    if (all.size() == 1) return all[0];
    std::pair<float, ConvPlanPointer> best;
    for (const ConvPlanPointer& plan : all) {
      const float time = shortest(use, *plan, operands);
      if (!best.second || time < best.first) best = {time, plan};
    }
    return best.second;
  };
  static std::mutex one_at_a_time;  // threads share cuDNN's handle and plans
  const std::lock_guard lock(one_at_a_time);
  const ConvPlanPointer plan = choices.algorithm(
      use, [&] { return ruled_plan(use); }, fastest);
  check_status(execute(use, *plan, operands), what);
}

ImageDims small_image(const ConvDims& d) { return {d.in.n, d.in.c, d.out.h / 2, d.out.w / 2, d.in.block}; }

}  // namespace

void CudaBackend::set_precision(Precision precision) {
  int major = 0, minor = 0;
  check_status(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "asking for the device's age");
  check_status(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0), "asking for the device's age");
  check(precision == Precision::fp32 || major >= 8, "--precision ", precision == Precision::tf32 ? "tf32" : "bf16",
        " needs an NVIDIA GPU of compute capability 8.0 or newer (Ampere); this one has ", major, ".", minor,
        ": use --precision fp32");
  precision_ = precision;
}

void CudaBackend::set_benchmark(bool on) { conv_choices_.set_benchmark(on); }
std::vector<ConvChoice> CudaBackend::conv_choices() const {
  return conv_choices_.measured([](const ConvPlanPointer& plan) { return plan->algorithm(); });
}
void CudaBackend::set_conv_choices(std::span<const ConvChoice> choices) { conv_choices_.replace(choices, chosen_plan); }

void CudaBackend::conv_forward(const ConvDims& d, const float* x, const float* w, const float* bias, float* y,
                               PreparedWeights*) {
  const ConvUse use{ConvPass::forward, d, bias != nullptr, precision_};
  convolve("conv2d", conv_choices_, use, operands_of(use, x, w, y, bias));
}

void CudaBackend::conv_backward_data(const ConvDims& d, const float* gy, const float* w, float* gx) {
  const ConvUse use{ConvPass::backward_data, d, false, precision_};
  convolve("conv2d, gradient of the input", conv_choices_, use, operands_of(use, gx, w, gy, nullptr));
}

void CudaBackend::conv_backward_weights(const ConvDims& d, const float* x, const float* gy, float* gw, float* gbias) {
  const ConvUse use{ConvPass::backward_weights, d, gbias != nullptr, precision_};
  convolve("conv2d, gradient of the weight", conv_choices_, use, operands_of(use, x, gw, gy, nullptr));
  if (gbias) sum_rows(rows_of(use), d.out.c, gy, gbias);
}

std::int64_t CudaBackend::upsampled_conv_memory(const ConvDims& d) const { return d.in.size(); }

void CudaBackend::upsampled_conv_forward(const ConvDims& d, const float* x, const float* w, float* memory, float* y) {
  upsample_nearest_forward(small_image(d), 2, 1, x, memory);
  conv_forward(d, memory, w, nullptr, y, nullptr);
}

void CudaBackend::upsampled_conv_backward_data(const ConvDims& d, const float* gy, const float* w, float* memory,
                                               float* gx) {
  conv_backward_data(d, gy, w, memory);
  upsample_nearest_backward(small_image(d), 2, 1, memory, gx);
}

void CudaBackend::upsampled_conv_backward_weights(const ConvDims& d, const float* x, const float* gy, float* memory,
                                                  float* gw) {
  upsample_nearest_forward(small_image(d), 2, 1, x, memory);
  conv_backward_weights(d, memory, gy, gw, nullptr);
}

}  // namespace minidl
