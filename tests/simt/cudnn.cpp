// cuDNN's graph API, emulated: one convolution per graph.
#include <cudnn.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <set>

#include "tests/simt/cudnn_engines.h"
#include "tests/simt/simt.h"

struct cudnnContext {
  cudaStream_t stream = nullptr;
};

namespace {

using namespace simt::dnn;

struct Library {
  std::recursive_mutex mutex;
  std::set<const cudnnContext*> contexts;
  std::map<const void*, std::shared_ptr<Node>> nodes;  // by the pointer that the caller has
  std::string message;
};

Library& library() {
  static Library& instance = *new Library;  // outlives everything
  return instance;
}

// Runs a call; what it refuses becomes its status and message.
template <class F>
cudnnStatus_t guarded(F call) {
  const std::lock_guard lock(library().mutex);
  try {
    call();
    return CUDNN_STATUS_SUCCESS;
  } catch (const Refusal& refusal) {
    library().message = refusal.what();
    return refusal.status;
  }
}

std::shared_ptr<Node> node_of(const void* descriptor) {
  const auto found = library().nodes.find(descriptor);
  require(found != library().nodes.end(), CUDNN_STATUS_BAD_PARAM, "no live descriptor");
  return found->second;
}

void require_handle(const cudnnContext* handle) {
  require(library().contexts.contains(handle), CUDNN_STATUS_BAD_PARAM, "no live handle");
}

const Node& finalized(const NodePtr& node, cudnnBackendDescriptorType_t type) {
  require(node->type == type, CUDNN_STATUS_BAD_PARAM_DESCRIPTOR_TYPE, "a descriptor of another type is expected");
  require(node->finalized, CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "a descriptor is not finalized");
  return *node;
}

const Engine& engine_of(const Node& engine) {
  const Engine* found = engine_at(engine.number(CUDNN_ATTR_ENGINE_GLOBAL_INDEX));
  require(found != nullptr, CUDNN_STATUS_BAD_PARAM_OUT_OF_BOUND, "there is no such engine");
  return *found;
}

const Node& graph_of_plan(const Node& plan) {
  return plan.node(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG)
      .node(CUDNN_ATTR_ENGINECFG_ENGINE)
      .node(CUDNN_ATTR_ENGINE_OPERATION_GRAPH);
}
Operation operation_of_plan(const Node& plan) {
  return operation_of(graph_of_plan(plan).node(CUDNN_ATTR_OPERATIONGRAPH_OPS));
}
const Engine& engine_of_plan(const Node& plan) {
  return engine_of(plan.node(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG).node(CUDNN_ATTR_ENGINECFG_ENGINE));
}

std::shared_ptr<Node> made(cudnnBackendDescriptorType_t type, std::map<cudnnBackendAttributeName_t, Value> values) {
  auto node = std::make_shared<Node>();
  node->type = type;
  node->finalized = true;
  node->values = std::move(values);
  return node;
}

NodePtr configuration(const NodePtr& graph, const Proposal& proposal) {
  const NodePtr engine = made(CUDNN_BACKEND_ENGINE_DESCRIPTOR, {{CUDNN_ATTR_ENGINE_OPERATION_GRAPH, {.nodes = {graph}}},
                                                                {CUDNN_ATTR_ENGINE_GLOBAL_INDEX, {{proposal.engine}}}});
  auto config = made(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, {{CUDNN_ATTR_ENGINECFG_ENGINE, {.nodes = {engine}}}});
  if (proposal.setting >= 0)
    config->values[CUDNN_ATTR_ENGINECFG_KNOB_CHOICES].nodes = {
        made(CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, {{CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, {{CUDNN_KNOB_TYPE_TILE_SIZE}}},
                                                    {CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, {{proposal.setting}}}})};
  return config;
}

void finalize(Node& node) {
  require(!node.finalized, CUDNN_STATUS_BAD_PARAM, "a descriptor is finalized twice");
  require_complete(node);
  switch (node.type) {
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR:
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR:
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR:
      operation_of(node);
      break;
    case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR:
      require_handle(handle_of(node, CUDNN_ATTR_OPERATIONGRAPH_HANDLE));
      break;
    case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR:
      for (const Proposal& proposal :
           proposals(static_cast<cudnnBackendHeurMode_t>(node.number(CUDNN_ATTR_ENGINEHEUR_MODE))))
        node.results.push_back(configuration(node.values.at(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH).nodes[0], proposal));
      break;
    case CUDNN_BACKEND_ENGINE_DESCRIPTOR:
      engine_of(node);
      break;
    case CUDNN_BACKEND_ENGINECFG_DESCRIPTOR:
      if (!node.values.contains(CUDNN_ATTR_ENGINECFG_KNOB_CHOICES)) break;
      for (const NodePtr& knob : node.values.at(CUDNN_ATTR_ENGINECFG_KNOB_CHOICES).nodes) {
        const std::int64_t value = knob->number(CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE);
        require(knob->number(CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE) == CUDNN_KNOB_TYPE_TILE_SIZE && value >= 0 &&
                    value < engine_of(node.node(CUDNN_ATTR_ENGINECFG_ENGINE)).settings,
                CUDNN_STATUS_BAD_PARAM_OUT_OF_BOUND, "the engine has no such knob or setting");
      }
      break;
    case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR: {
      const cudnnContext* handle = handle_of(node, CUDNN_ATTR_EXECUTION_PLAN_HANDLE);
      require_handle(handle);
      require(handle == handle_of(graph_of_plan(node), CUDNN_ATTR_OPERATIONGRAPH_HANDLE), CUDNN_STATUS_BAD_PARAM,
              "plan and graph have different handles");
      const bool bf16 = operation_of_plan(node).type == CUDNN_DATA_BFLOAT16;
      require(simt::device_properties().major >= std::max(engine_of_plan(node).oldest_major, bf16 ? 8 : 0),
              CUDNN_STATUS_NOT_SUPPORTED_ARCH_MISMATCH, "the device is too old for this engine");
      break;
    }
    default:
      break;
  }
  node.finalized = true;
}

// Keeps elements of a type as an attribute's value.
Value value_of(cudnnBackendAttributeType_t type, std::int64_t count, const void* elements) {
  Value value;
  const auto each = [&](auto example, auto keep) {
    const auto* values = static_cast<const decltype(example)*>(elements);
    for (std::int64_t i = 0; i < count; ++i) keep(values[i]);
  };
  switch (type) {
    case CUDNN_TYPE_INT64:
      each(std::int64_t(), [&](auto v) { value.numbers.push_back(v); });
      break;
    case CUDNN_TYPE_DATA_TYPE:
    case CUDNN_TYPE_CONVOLUTION_MODE:
    case CUDNN_TYPE_HEUR_MODE:
    case CUDNN_TYPE_KNOB_TYPE:
      each(int(), [&](auto v) { value.numbers.push_back(v); });
      break;
    case CUDNN_TYPE_FLOAT:
      each(float(), [&](auto v) { value.floats.push_back(v); });
      break;
    case CUDNN_TYPE_BACKEND_DESCRIPTOR:
      each(cudnnBackendDescriptor_t(), [&](auto v) {
        value.nodes.push_back(node_of(v));
        require(value.nodes.back()->finalized, CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "a descriptor is not finalized");
      });
      break;
    default:
      each(static_cast<const void*>(nullptr), [&](auto v) { value.pointers.push_back(v); });
  }
  return value;
}

const Attribute& known_attribute(const Node& node, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type) {
  const Attribute* attribute = attribute_of(node.type, name);
  require(attribute != nullptr, CUDNN_STATUS_BAD_PARAM, "the descriptor has no attribute " + std::to_string(name));
  require(attribute->type == type, CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE,
          "attribute " + std::to_string(name) + " is of another type");
  return *attribute;
}

void set_attribute(Node& node, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::int64_t count,
                   const void* elements) {
  const Attribute& attribute = known_attribute(node, name, type);
  require(!node.finalized && attribute.settable, CUDNN_STATUS_BAD_PARAM, "an attribute cannot be set any more");
  require(elements != nullptr, CUDNN_STATUS_BAD_PARAM_NULL_POINTER, "an attribute is null");
  require(count >= std::max<std::int64_t>(attribute.least, 1) && count <= attribute.most,
          CUDNN_STATUS_BAD_PARAM_SIZE_INSUFFICIENT, "attribute " + std::to_string(name) + " has another length");
  node.values[name] = value_of(type, count, elements);
}

// What an attribute that can be asked for holds.
Value asked(const Node& node, cudnnBackendAttributeName_t name) {
  Value value;
  switch (name) {
    case CUDNN_ATTR_ENGINEHEUR_RESULTS:
      value.nodes = node.results;
      return value;
    case CUDNN_ATTR_ENGINE_NUMERICAL_NOTE:
      for (const auto note : engine_of(node).notes) value.numbers.push_back(note);
      return value;
    case CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE:
      if (engine_of(node).compiled_at_run_time) value.numbers.push_back(CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION);
      return value;
    case CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE:
      value.numbers.push_back(
          static_cast<std::int64_t>(workspace_bytes(engine_of_plan(node), operation_of_plan(node))));
      return value;
    default:
      return node.values.contains(name) ? node.values.at(name) : value;
  }
}

std::int64_t copy_out(const Value& value, cudnnBackendAttributeType_t type, std::int64_t most, void* elements) {
  const auto count =
      static_cast<std::int64_t>(type == CUDNN_TYPE_BACKEND_DESCRIPTOR ? value.nodes.size() : value.numbers.size());
  for (std::int64_t i = 0; i < std::min(most, count); ++i) {
    const auto at = static_cast<std::size_t>(i);
    if (type == CUDNN_TYPE_INT64)
      static_cast<std::int64_t*>(elements)[i] = value.numbers[at];
    else if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR) {  // into a descriptor that the caller has made
      Node& target = *node_of(static_cast<cudnnBackendDescriptor_t*>(elements)[i]);
      require(target.type == value.nodes[at]->type && !target.finalized, CUDNN_STATUS_BAD_PARAM_DESCRIPTOR_TYPE,
              "a fresh descriptor of another type is expected");
      target = *value.nodes[at];
    } else
      static_cast<int*>(elements)[i] = static_cast<int>(value.numbers[at]);
  }
  return most == 0 ? count : std::min(most, count);
}

void execute(cudnnHandle_t handle, const Node& plan, const Node& pack) {
  require_handle(handle);
  require(handle == handle_of(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE), CUDNN_STATUS_BAD_PARAM,
          "a plan is executed with another handle");
  const Operation operation = operation_of_plan(plan);
  const Engine& engine = engine_of_plan(plan);
  require(!engine.compiled_at_run_time, CUDNN_STATUS_EXECUTION_FAILED, "there is no compiler to make this engine");

  const auto& ids = pack.numbers(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
  const auto& pointers = pack.values.at(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS).pointers;
  const auto require_aligned = [&](const void* pointer, std::int64_t alignment) {
    require(pointer != nullptr, CUDNN_STATUS_BAD_PARAM_NULL_POINTER, "an operand is null");
    require(reinterpret_cast<std::intptr_t>(pointer) % alignment == 0, CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER,
            "an operand is not aligned to " + std::to_string(alignment) + " bytes");
  };
  const auto tensor = [&](std::int64_t id) {
    const auto found = std::find(ids.begin(), ids.end(), id);
    require(found != ids.end(), CUDNN_STATUS_BAD_PARAM, "the variant pack lacks a tensor of the plan");
    const void* pointer = pointers[static_cast<std::size_t>(found - ids.begin())];
    require_aligned(pointer, operation.alignment);
    return const_cast<void*>(pointer);
  };
  void* const workspace = const_cast<void*>(pack.values.at(CUDNN_ATTR_VARIANT_PACK_WORKSPACE).pointers.at(0));
  if (workspace_bytes(engine, operation) > 0) require_aligned(workspace, 16);
  void *const x = tensor(operation.x), *const w = tensor(operation.w), *const y = tensor(operation.y);
  const cudaError_t status = simt::enqueue(handle->stream, "cudnnBackendExecute",
                                           [=, &engine] { compute(engine, operation, x, w, y, workspace); });
  require(status == cudaSuccess, CUDNN_STATUS_EXECUTION_FAILED, "the device has failed: " + simt::last_message());
}

}  // namespace

std::size_t cudnnGetVersion() { return 91900; }

const char* cudnnGetErrorString(cudnnStatus_t status) {
  switch (status) {
    case CUDNN_STATUS_SUCCESS:
      return "CUDNN_STATUS_SUCCESS";
    case CUDNN_STATUS_EXECUTION_FAILED:
      return "CUDNN_STATUS_EXECUTION_FAILED";
    default:
      return status >= CUDNN_STATUS_NOT_SUPPORTED ? "CUDNN_STATUS_NOT_SUPPORTED" : "CUDNN_STATUS_BAD_PARAM";
  }
}

void cudnnGetLastErrorString(char* message, std::size_t bytes) {
  if (bytes == 0) return;
  const std::lock_guard lock(library().mutex);
  std::strncpy(message, library().message.c_str(), bytes - 1);
  message[bytes - 1] = 0;
  library().message.clear();
}

cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) {
  return guarded([&] { library().contexts.insert(*handle = new cudnnContext); });
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) {
  return guarded([&] {
    require_handle(handle);
    library().contexts.erase(handle);
    delete handle;
  });
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
  return guarded([&] {
    require_handle(handle);
    handle->stream = stream;
  });
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t* descriptor) {
  return guarded([&] {
    auto node = std::make_shared<Node>();
    node->type = type;
    *descriptor = node.get();
    library().nodes.emplace(*descriptor, std::move(node));
  });
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
  return guarded([&] {
    node_of(descriptor);
    library().nodes.erase(descriptor);
  });
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
  return guarded([&] { finalize(*node_of(descriptor)); });
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, std::int64_t count, const void* elements) {
  return guarded([&] { set_attribute(*node_of(descriptor), name, type, count, elements); });
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, std::int64_t most, std::int64_t* count,
                                       void* elements) {
  return guarded([&] {
    const auto node = node_of(descriptor);
    known_attribute(*node, name, type);
    require(node->finalized, CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "a descriptor is asked before it is finalized");
    *count = copy_out(asked(*node, name), type, most, elements);
  });
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack) {
  return guarded([&] {
    execute(handle, finalized(node_of(plan), CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR),
            finalized(node_of(pack), CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR));
  });
}
