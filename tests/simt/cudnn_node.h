// The descriptors of the emulated cuDNN: attributes by name, checked when they are set and when they are complete.
#pragma once

#include <cudnn.h>

#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/simt/library_math.h"

namespace simt::dnn {

// A call that is refused, and why.
struct Refusal : std::runtime_error {
  Refusal(cudnnStatus_t s, const std::string& why) : std::runtime_error(why), status(s) {}
  cudnnStatus_t status;
};

[[noreturn]] inline void refuse(cudnnStatus_t status, const std::string& why) { throw Refusal(status, why); }
inline void require(bool ok, cudnnStatus_t status, const std::string& why) {
  if (!ok) refuse(status, why);
}

struct Node;
using NodePtr = std::shared_ptr<const Node>;

struct Value {
  std::vector<std::int64_t> numbers = {};  // integers and enumerators
  std::vector<float> floats = {};
  std::vector<const void*> pointers = {};  // handles too
  std::vector<NodePtr> nodes = {};
};

struct Node {
  cudnnBackendDescriptorType_t type;
  bool finalized = false;
  std::map<cudnnBackendAttributeName_t, Value> values;
  std::vector<NodePtr> results;  // of heuristics

  std::int64_t number(cudnnBackendAttributeName_t name) const { return values.at(name).numbers.at(0); }
  const std::vector<std::int64_t>& numbers(cudnnBackendAttributeName_t name) const { return values.at(name).numbers; }
  const Node& node(cudnnBackendAttributeName_t name) const { return *values.at(name).nodes.at(0); }
};

// What an attribute may hold.
struct Attribute {
  cudnnBackendAttributeName_t name;
  cudnnBackendDescriptorType_t owner;
  cudnnBackendAttributeType_t type;
  std::int64_t least, most;  // elements; least 0: may be missing
  bool settable = true;
};

// Null if the descriptors of a type have no such attribute.
const Attribute* attribute_of(cudnnBackendDescriptorType_t owner, cudnnBackendAttributeName_t name);
// Throws Refusal if an attribute that must be set is missing.
void require_complete(const Node& node);

// A convolution as an operation or its graph describes it. Throws Refusal where sizes, strides or types do not fit.
struct Operation {
  Convolution convolution;
  cudnnDataType_t type;
  std::int64_t alignment;
  std::int64_t x, w, y;  // names
};
Operation operation_of(const Node& operation);

// The handle as a descriptor was given it.
const cudnnContext* handle_of(const Node& node, cudnnBackendAttributeName_t name);

}  // namespace simt::dnn
