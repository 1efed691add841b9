#include "kernels/cuda/conv_plan.h"

#include <algorithm>
#include <array>
#include <set>
#include <sstream>

namespace minidl::gpu {
namespace {

constexpr std::int64_t kX = 1, kW = 2, kY = 3;  // names of the tensors
constexpr std::int64_t kAlignment = 16;
constexpr std::size_t kMostProposals = 128;  // of one mode of its heuristics; there are about forty
constexpr std::size_t kMostWorkspace = std::size_t{1} << 30;

using Extents = std::array<std::int64_t, 4>;

Descriptor tensor(std::int64_t name, cudnnDataType_t type, const Extents& sizes, const Extents& strides) {
  Descriptor d(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  d.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, name)
      .set(CUDNN_ATTR_TENSOR_DATA_TYPE, type)
      .set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, kAlignment)
      .set(CUDNN_ATTR_TENSOR_DIMENSIONS, std::span<const std::int64_t>(sizes))
      .set(CUDNN_ATTR_TENSOR_STRIDES, std::span<const std::int64_t>(strides))
      .finalize("describing a tensor");
  return d;
}

Descriptor image(std::int64_t name, cudnnDataType_t type, const ImageDims& d) {
  return tensor(name, type, {d.n, d.c, d.h, d.w}, {d.pixels() * d.c, 1, d.w * d.c, d.c});
}

Descriptor weight(std::int64_t name, cudnnDataType_t type, const ConvDims& d) {
  const std::int64_t k = d.kernel;
  return tensor(name, type, {d.out.c, d.in.c, k, k}, {d.in.c * k * k, k * k, k, 1});
}

Descriptor convolution(const ConvDims& d) {
  const auto twice = [](const std::int64_t& value) { return std::array{value, value}; };
  const auto dilations = twice(1), strides = twice(d.stride), paddings = twice(d.padding);
  Descriptor c(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  c.set(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, std::int64_t{2})
      .set(CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_DATA_FLOAT)
      .set(CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_CROSS_CORRELATION)
      .set(CUDNN_ATTR_CONVOLUTION_DILATIONS, std::span<const std::int64_t>(dilations))
      .set(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, std::span<const std::int64_t>(strides))
      .set(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, std::span<const std::int64_t>(paddings))
      .set(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, std::span<const std::int64_t>(paddings))
      .finalize("describing a convolution");
  return c;
}

// What an operation on x, w and y is called in each pass.
struct Operation {
  cudnnBackendDescriptorType_t type;
  cudnnBackendAttributeName_t alpha, beta, convolution, x, w, y;
};

Operation operation_of(ConvPass pass) {
  switch (pass) {
    case ConvPass::forward:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y};
    case ConvPass::backward_data:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY};
    case ConvPass::backward_weights:
      break;
  }
  return {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY};
}

// The graph of the one operation.
Descriptor graph_of(const PlanTarget& target, const ConvUse& use) {
  const cudnnDataType_t type = use.precision == Precision::bf16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT;
  const Operation names = operation_of(use.pass);
  Descriptor operation(names.type);
  operation.set(names.alpha, 1.0f)
      .set(names.beta, 0.0f)
      .set(names.convolution, convolution(use.dims))
      .set(names.x, image(kX, type, use.dims.in))
      .set(names.w, weight(kW, type, use.dims))
      .set(names.y, image(kY, type, use.dims.out))
      .finalize("describing the pass of a convolution");
  Descriptor graph(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  if (target.handle) graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, target.handle);
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, operation).finalize("making a graph of a convolution");
  return graph;
}

// Configurations of engines that cuDNN proposes.
std::vector<Descriptor> proposals(const PlanTarget& target, const Descriptor& graph, cudnnBackendHeurMode_t mode) {
  Descriptor heuristics(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph).set(CUDNN_ATTR_ENGINEHEUR_MODE, mode);
  if (target.description) heuristics.set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, *target.description);
  if (heuristics.try_finalize() != CUDNN_STATUS_SUCCESS) return {};
  return heuristics.get(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, kMostProposals);
}

// Whether what cuDNN notes about an engine is what conv_plans promises.
bool serves(const Descriptor& engine, Precision precision) {
  for (const auto note :
       engine.get<cudnnBackendNumericalNote_t>(CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_NUMERICAL_NOTE_TYPE_COUNT))
    switch (note) {
      case CUDNN_NUMERICAL_NOTE_TENSOR_CORE:  // in float32: TF32
        if (precision == Precision::fp32) return false;
        break;
      case CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS:
      case CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION:
      case CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC:
      case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13:  // loses digits
        return false;
      default:
        break;
    }
  const auto notes =
      engine.get<cudnnBackendBehaviorNote_t>(CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, CUDNN_BEHAVIOR_NOTE_TYPE_COUNT);
  return std::find(notes.begin(), notes.end(), CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION) == notes.end();
}

// The name of a configuration: the version of cuDNN, whose numbers these are, the engine, and type and value of each
// setting.
std::string name_of(const Descriptor& engine, const Descriptor& configuration) {
  std::ostringstream name;
  name << "cudnn " << cudnnGetVersion() << " engine "
       << engine.get<std::int64_t>(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, 1).at(0);
  for (const Descriptor& knob : configuration.get(CUDNN_ATTR_ENGINECFG_KNOB_CHOICES,
                                                  CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, CUDNN_KNOB_TYPE_COUNTS))
    name << ' ' << knob.get<cudnnBackendKnobType_t>(CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, 1).at(0) << '='
         << knob.get<std::int64_t>(CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, 1).at(0);
  return name.str();
}

// The plan of a configuration; nullopt where the device, or we, cannot run it.
std::optional<ConvPlan> plan_of(const PlanTarget& target, const ConvUse& use, const Descriptor& engine,
                                const Descriptor& configuration, std::string name) {
  if (!serves(engine, use.precision)) return std::nullopt;
  Descriptor plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration);
  if (target.handle) plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, target.handle);
  if (target.description) plan.set(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, *target.description);
  if (plan.try_finalize() != CUDNN_STATUS_SUCCESS) return std::nullopt;
  ConvPlan made(std::move(plan), std::move(name));
  if (made.workspace() > kMostWorkspace) return std::nullopt;
  return made;
}

}  // namespace

ConvPlan::ConvPlan(Descriptor plan, std::string algorithm)
    : plan_(std::move(plan)),
      algorithm_(std::move(algorithm)),
      workspace_(static_cast<std::size_t>(plan_.get<std::int64_t>(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, 1).at(0))) {
}

cudnnStatus_t ConvPlan::execute(cudnnHandle_t handle, const void* x, const void* w, const void* y,
                                void* workspace) const {
  const std::array names{kX, kW, kY};
  const std::array tensors{x, w, y};
  Descriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, std::span<const std::int64_t>(names))
      .set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, std::span<const void* const>(tensors))
      .set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, static_cast<const void*>(workspace))
      .finalize("naming the operands of a convolution");
  return cudnnBackendExecute(handle, plan_.handle(), pack.handle());
}

std::vector<ConvPlan> conv_plans(const PlanTarget& target, const ConvUse& use, std::size_t most) {
  const Descriptor graph = graph_of(target, use);
  std::vector<ConvPlan> plans;
  std::set<std::string> seen;
  for (const auto mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK})
    for (const Descriptor& configuration : proposals(target, graph, mode)) {
      if (plans.size() == most) return plans;
      const auto engine = configuration.get(CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_BACKEND_ENGINE_DESCRIPTOR, 1);
      std::string name = name_of(engine.at(0), configuration);
      if (!seen.insert(name).second) continue;
      if (auto plan = plan_of(target, use, engine[0], configuration, std::move(name)))
        plans.push_back(std::move(*plan));
    }
  return plans;
}

std::optional<ConvPlan> conv_plan(const PlanTarget& target, const ConvUse& use, const std::string& algorithm) {
  std::istringstream text(algorithm);
  std::string library, word;
  std::size_t version = 0;
  std::int64_t index = -1;
  if (!(text >> library >> version >> word >> index) || library != "cudnn" || version != cudnnGetVersion() ||
      word != "engine")
    return std::nullopt;
  const Descriptor graph = graph_of(target, use);
  try {
    Descriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    engine.set(CUDNN_ATTR_ENGINE_OPERATION_GRAPH, graph).set(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, index);
    if (target.description) engine.set(CUDNN_ATTR_ENGINE_DEVICEPROP, *target.description);
    engine.finalize("choosing an engine");
    std::vector<Descriptor> knobs;
    for (std::string setting; text >> setting;) {
      int type = 0;
      std::int64_t value = 0;
      char equals = 0;
      std::istringstream parts(setting);
      check((parts >> type >> equals >> value) && equals == '=' && parts.peek() == EOF, "malformed");
      Descriptor& knob = knobs.emplace_back(CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
      knob.set(CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, static_cast<cudnnBackendKnobType_t>(type))
          .set(CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, value)
          .finalize("choosing a setting");
    }
    Descriptor configuration(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    configuration.set(CUDNN_ATTR_ENGINECFG_ENGINE, engine);
    if (!knobs.empty()) configuration.set(CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, std::span<const Descriptor>(knobs));
    configuration.finalize("configuring an engine");
    return plan_of(target, use, engine, configuration, algorithm);
  } catch (const Error&) {  // cuDNN knows no such engine or setting
    return std::nullopt;
  }
}

}  // namespace minidl::gpu
