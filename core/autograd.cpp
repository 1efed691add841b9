#include "core/autograd.h"

#include <algorithm>
#include <unordered_set>

#include "core/check.h"

namespace minidl {
namespace {

thread_local bool recording = true;

// Every node that the roots depend on, inputs before results.
std::vector<Node*> topological_order(const std::vector<Node*>& roots) {
  std::vector<Node*> order;
  std::unordered_set<Node*> seen;
  std::vector<std::pair<Node*, std::size_t>> stack;  // node, next input to visit
  for (Node* root : roots) {
    if (seen.insert(root).second) stack.emplace_back(root, 0);
    while (!stack.empty()) {
      auto& [node, next] = stack.back();
      if (next == node->inputs.size()) {
        order.push_back(node);
        stack.pop_back();
        continue;
      }
      Node* input = node->inputs[next++].get();
      if (input && seen.insert(input).second) stack.emplace_back(input, 0);
    }
  }
  return order;
}

// The gradient of input `index` of `op`, or the cotangent of a root, is like its tensor.
void check_gradient(const Node& node, const Tensor& gradient, const char* op, std::size_t index) {
  check(gradient.defined(), "backward: gradient ", index, " of ", op, " is undefined; expected one of shape ",
        node.shape);
  check(gradient.shape() == node.shape, "backward: gradient ", index, " of ", op, " has shape ", gradient.shape(),
        "; expected that of its tensor, ", node.shape);
  check(gradient.device() == node.device, "backward: gradient ", index, " of ", op, ", of shape ", node.shape,
        ", is on another device than its tensor");
  check(gradient.block() == node.block, "backward: gradient ", index, " of ", op, ", of shape ", node.shape,
        ", and its tensor differ in layout, one an image, the other plain memory; make it with empty_like");
}

}  // namespace

void Node::accumulate(const Tensor& gradient) {
  if (!grad.defined()) {
    grad = gradient.detach();
    return;
  }
  // A buffer that nobody else sees may take the sum; one that is shared (the gradient of an addition) may not.
  const Tensor sum = grad.storage().unique() ? grad : empty_like(grad);
  backend_of(grad.device()).add(grad.size(), grad.data(), gradient.data(), sum.data());
  sum.storage().changed();
  grad = sum;
}

NoGrad::NoGrad() : previous_(std::exchange(recording, false)) {}
NoGrad::~NoGrad() { recording = previous_; }
bool grad_enabled() { return recording; }

Frozen::Frozen(std::vector<Parameter*> parameters) : parameters_(std::move(parameters)) {
  std::erase_if(parameters_, [](const Parameter* p) { return !p->tensor().requires_grad(); });
  for (Parameter* p : parameters_) p->tensor().set_requires_grad(false);
}
Frozen::~Frozen() {
  for (Parameter* p : parameters_) p->tensor().node()->requires_grad = true;
}

bool any_requires_grad(std::initializer_list<Tensor> inputs) {
  return recording && std::any_of(inputs.begin(), inputs.end(), [](const Tensor& t) { return t.requires_grad(); });
}

Tensor record(const char* op, Tensor y, std::initializer_list<Tensor> inputs, BackwardFunction backward) {
  if (!any_requires_grad(inputs)) return y;
  check(y.defined(), op, ": there is no result to record");
  auto node = std::make_shared<Node>(y);
  node->op = op;
  for (const Tensor& input : inputs) node->inputs.push_back(input.requires_grad() ? input.node() : nullptr);
  node->backward = std::move(backward);
  y.set_node(std::move(node));
  return y;
}

void backward(const std::vector<std::pair<Tensor, Tensor>>& roots_and_cotangents) {
  const NoGrad no_grad;
  std::vector<Node*> roots;
  std::size_t index = 0;
  for (const auto& [root, cotangent] : roots_and_cotangents) {
    check(root.requires_grad(), "backward: the tensor of shape ", root.shape(),
          " depends on nothing that requires a gradient");
    check_gradient(*root.node(), cotangent, "the root", index++);
    roots.push_back(root.node().get());
  }
  const std::vector<Node*> order = topological_order(roots);
  for (Node* node : order)
    check(!node->freed, "backward: the graph through the result ", node->shape, " of ", node->op,
          " was freed by an earlier backward; run the forward pass again, or give both roots to one backward");
  for (const auto& [root, cotangent] : roots_and_cotangents) root.node()->accumulate(cotangent);

  // Results before inputs. Dropping a node's inputs can destroy nodes that come later only if nothing else refers to
  // them, so they are kept alive here.
  std::vector<std::shared_ptr<Node>> alive;
  for (auto node = order.rbegin(); node != order.rend(); ++node) {
    if ((*node)->is_leaf()) continue;
    const auto inputs = std::exchange((*node)->inputs, {});
    const auto function = std::exchange((*node)->backward, nullptr);
    (*node)->freed = true;
    const Tensor gy = std::exchange((*node)->grad, Tensor());
    alive.insert(alive.end(), inputs.begin(), inputs.end());
    if (!gy.defined()) continue;
    std::vector<bool> needs;
    for (const auto& input : inputs) needs.push_back(input != nullptr);
    const Grads grads = function(gy, Needs(std::move(needs)));
    check(grads.size() == inputs.size(), "backward: ", (*node)->op, " has ", inputs.size(), " inputs but returned ",
          grads.size(), " gradients");
    for (std::size_t i = 0; i < inputs.size(); ++i)
      if (inputs[i] && grads[i].defined()) {
        check_gradient(*inputs[i], grads[i], (*node)->op, i);
        inputs[i]->accumulate(grads[i]);
      }
  }
}

}  // namespace minidl
