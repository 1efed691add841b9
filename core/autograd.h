// Reverse-mode differentiation over a graph that the operations record while they run.
//
// Invariants
//  - A node is a leaf (a parameter: no closure, keeps its gradient) or the result of an operation (closure, gradient
//  only
//    while backward passes through it).
//  - Gradients accumulate in leaves until zero_grad, at the end of a backward pass and together. A gradient has the
//    shape and layout of its tensor.
//  - backward frees closures, and the memory they hold, as it goes. A second backward through a freed node throws.
//  - Whether an input needs its gradient is decided when the operation is recorded.
#pragma once

#include <functional>
#include <initializer_list>
#include <span>
#include <utility>
#include <vector>

#include "core/tensor.h"

namespace minidl {

// One gradient per input of an operation, in order; an undefined one stands for zero or not needed.
using Grads = std::vector<Tensor>;

// Which inputs of an operation want a gradient.
class Needs {
 public:
  explicit Needs(const std::vector<std::shared_ptr<Node>>& inputs) : inputs_(inputs) {}
  bool operator[](int input) const { return inputs_[static_cast<std::size_t>(input)] != nullptr; }
  // The gradient that has reached an input already, if the operation may add its own to it and return the sum: nobody
  // else sees that memory. It is the operation's then. Undefined otherwise.
  Tensor take_reached(int input) const;

 private:
  const std::vector<std::shared_ptr<Node>>& inputs_;  // null where no gradient is needed
};

// From the gradient of the result to those of the inputs.
using BackwardFunction = std::function<Grads(const Tensor& gy, const Needs& needs)>;

class Node {
 public:
  explicit Node(const Tensor& value) : shape(value.shape()), block(value.block()), device(value.device()) {}

  const char* op = "leaf";
  Shape shape;  // this and the following of the value, and so of its gradient
  std::int64_t block;
  DeviceType device;
  bool requires_grad = true;
  Tensor grad;
  std::vector<std::shared_ptr<Node>> inputs;  // null where the input needs no gradient
  BackwardFunction backward;
  bool freed = false;

  bool is_leaf() const { return !backward && !freed; }
};

// While one lives, operations on this thread record nothing.
class NoGrad {
 public:
  NoGrad();
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  bool previous_;
};
bool grad_enabled();

// While one lives, these parameters count as constants: operations recorded meanwhile compute no gradient for them. May
// be nested.
class Frozen {
 public:
  explicit Frozen(std::vector<Parameter*> parameters);
  ~Frozen();
  Frozen(const Frozen&) = delete;
  Frozen& operator=(const Frozen&) = delete;

 private:
  std::vector<Parameter*> parameters_;  // those that this one has frozen
};

// True if an operation on these inputs has to be recorded. Lets an operation skip what only backward needs.
bool any_requires_grad(std::span<const Tensor> inputs);
inline bool any_requires_grad(std::initializer_list<Tensor> inputs) {
  return any_requires_grad(std::span(inputs.begin(), inputs.size()));
}

// Attaches to y, the result of `op` on `inputs`, the closure that turns its gradient into theirs, if any input wants
// one. An undefined tensor may stand for an optional input. Returns y. This is how an operation of one's own joins the
// graph; backward throws Error where the closure returns another number of gradients, or one of another shape, layout
// or device than its input.
Tensor record(const char* op, Tensor y, std::span<const Tensor> inputs, BackwardFunction backward);
inline Tensor record(const char* op, Tensor y, std::initializer_list<Tensor> inputs, BackwardFunction backward) {
  return record(op, std::move(y), std::span(inputs.begin(), inputs.size()), std::move(backward));
}

// Accumulates into every leaf the gradient of sum over roots of <root, cotangent>, and frees the graph. Throws Error if
// a root is not recorded, a cotangent differs in shape, layout or device from its root, or the graph was freed before.
void backward(const std::vector<std::pair<Tensor, Tensor>>& roots_and_cotangents);

}  // namespace minidl
