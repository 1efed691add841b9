// How layers and models name the tensors they own.
//
// A layer is anything callable Tensor -> Tensor. If it owns tensors it has one function,
//     void visit(Visitor& f) { f("weight", weight), f("bias", bias); }
// which names its parameters, buffers, training flag and sub-layers. Everything else follows from it: lists of
// parameters, state dicts with the names of the official checkpoints, counts. There is no base class.
#pragma once

#include <concepts>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include "core/check.h"
#include "core/tensor.h"

namespace minidl {

// Walks a module tree; names of nested modules are joined with dots.
class Visitor {
 public:
  virtual ~Visitor() = default;

  template <class T>
  void operator()(const std::string& name, T& child) {
    if constexpr (std::same_as<T, Parameter>) {
      if (child.defined()) parameter(prefix_ + name, child);  // an undefined one is an option not taken (no bias)
    } else if constexpr (std::same_as<T, Buffer>) {
      buffer(prefix_ + name, child);
    } else if constexpr (std::same_as<T, bool>) {
      training_flag(child);
    } else {
      const std::size_t length = prefix_.size();
      prefix_ += name + '.';
      child.visit(*this);
      prefix_.resize(length);
    }
  }

 protected:
  virtual void parameter(const std::string&, Parameter&) {}
  virtual void buffer(const std::string&, Buffer&) {}
  virtual void training_flag(bool&) {}

 private:
  std::string prefix_;
};

template <class T>
concept Module = requires(T& module, Visitor& visitor) {
  module.visit(visitor);
};

// A named tensor of a module's state: parameters and buffers.
struct StateEntry {
  std::string name;
  Tensor* tensor;
};

namespace detail {

class StateCollector : public Visitor {
 public:
  std::vector<StateEntry> entries;
  std::vector<Parameter*> parameters;

 protected:
  void parameter(const std::string& name, Parameter& p) override {
    add(name, p.tensor());
    parameters.push_back(&p);
  }
  void buffer(const std::string& name, Buffer& b) override { add(name, b.tensor()); }

 private:
  void add(const std::string& name, Tensor& tensor) {
    check(tensor.defined(), "module: ", name, " is undefined");
    check(names_.insert(name).second, "module: two tensors are called ", name, "; expected a name for each");
    const auto [other, is_new] = owners_.emplace(tensor.data(), name);
    check(is_new, "module: ", other->second, " and ", name, " of shape ", tensor.shape(),
          " share their values; expected every tensor to belong to one layer");
    entries.push_back({name, &tensor});
  }

  std::set<std::string> names_;
  std::map<const float*, std::string> owners_;
};

class ModeSetter : public Visitor {
 public:
  explicit ModeSetter(bool training) : training_(training) {}

 protected:
  void training_flag(bool& flag) override { flag = training_; }

 private:
  bool training_;
};

}  // namespace detail

// Every tensor of a module's state with its full name, in visiting order. Throws Error, as all functions below do, if
// two share a name or their values.
std::vector<StateEntry> state_of(Module auto& module) {
  detail::StateCollector collector;
  module.visit(collector);
  return std::move(collector.entries);
}

// Every parameter, in visiting order.
std::vector<Parameter*> parameters_of(Module auto& module) {
  detail::StateCollector collector;
  module.visit(collector);
  return std::move(collector.parameters);
}

// Moves every tensor of a module's state to a device. Before optimisers are made: their moments stay where they are.
void move_to(Module auto& module, DeviceType device) {
  for (const StateEntry& entry : state_of(module)) {
    Tensor& tensor = *entry.tensor;
    if (tensor.device() == device) continue;
    const bool learns = tensor.requires_grad();
    tensor = Tensor::plain_from_host(tensor.shape(), tensor.to_host(), device);
    if (learns) tensor.set_requires_grad(true);
  }
}

// Number of learnt values.
std::int64_t parameter_count(Module auto& module) {
  std::int64_t count = 0;
  for (const Parameter* p : parameters_of(module)) count += p->tensor().size();
  return count;
}

// Training mode (the default) or evaluation mode, in which spectral norm does not iterate.
void set_training(Module auto& module, bool training) {
  detail::ModeSetter setter(training);
  module.visit(setter);
}

}  // namespace minidl
