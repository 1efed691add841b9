#include "core/autograd.h"

#include <algorithm>
#include <map>
#include <unordered_set>
#include <utility>

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

// Sums of gradients, made together. A sum goes where its first term is unless somebody else sees that.
class Sums {
 public:
  void add(Node& node, std::vector<Tensor> terms) {
    const Tensor& first = terms.front();
    const Tensor sum = first.storage().unique() ? first : empty_like(first);
    std::vector<const float*> data;
    for (const Tensor& term : terms) data.push_back(term.data());
    sums_.push_back({sum.size(), std::move(data), sum.data()});
    results_.emplace_back(&node, sum);
    terms_.push_back(std::move(terms));
  }

  void run() {
    if (sums_.empty()) return;
    backend_of(results_.front().second.device()).add(sums_);
    for (auto& [node, sum] : results_) {
      sum.storage().changed();
      node->grad = sum;
    }
    sums_.clear(), results_.clear(), terms_.clear();
  }

 private:
  std::vector<Sum> sums_;
  std::vector<std::pair<Node*, Tensor>> results_;
  std::vector<std::vector<Tensor>> terms_;  // kept until they have been read
};

// Gradients on their way into nodes. Those of results are added as they come, because backward will want them soon.
// Those of leaves wait, so that all of them are one call of the device, unless they take too much memory.
class Accumulation {
 public:
  void add(Node& node, const Tensor& gradient) {
    if (!node.grad.defined()) {
      node.grad = gradient.detach();
    } else if (node.is_leaf()) {
      waiting_[&node].push_back(gradient.detach());
      waiting_bytes_ += gradient.size() * std::int64_t{sizeof(float)};
      if (waiting_bytes_ > kMostWaiting) finish();
    } else {
      std::vector<Tensor> terms;  // whose first must have no copies
      terms.push_back(std::exchange(node.grad, Tensor()));
      terms.push_back(gradient);
      Sums sums;
      sums.add(node, std::move(terms));
      sums.run();
    }
  }

  // Adds what waits.
  void finish() {
    Sums sums;
    for (auto& [node, terms] : waiting_) {
      terms.insert(terms.begin(), std::exchange(node->grad, Tensor()));
      sums.add(*node, std::move(terms));
    }
    sums.run();
    waiting_.clear();
    waiting_bytes_ = 0;
  }

 private:
  static constexpr std::int64_t kMostWaiting = std::int64_t{64} << 20;

  std::map<Node*, std::vector<Tensor>> waiting_;
  std::int64_t waiting_bytes_ = 0;
};

}  // namespace

Tensor Needs::take_reached(int input) const {
  const auto& node = inputs_[static_cast<std::size_t>(input)];
  if (!node || node->is_leaf() || !node->grad.defined() || !node->grad.storage().unique()) return {};
  return std::exchange(node->grad, Tensor());
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

bool any_requires_grad(std::span<const Tensor> inputs) {
  return recording && std::any_of(inputs.begin(), inputs.end(), [](const Tensor& t) { return t.requires_grad(); });
}

Tensor record(const char* op, Tensor y, std::span<const Tensor> inputs, BackwardFunction backward) {
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
  Accumulation accumulation;
  for (const auto& [root, cotangent] : roots_and_cotangents) accumulation.add(*root.node(), cotangent);

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
    Grads grads = function(gy, Needs(inputs));
    check(grads.size() == inputs.size(), "backward: ", (*node)->op, " has ", inputs.size(), " inputs but returned ",
          grads.size(), " gradients");
    for (std::size_t i = 0; i < inputs.size(); ++i)
      if (inputs[i] && grads[i].defined()) {
        check_gradient(*inputs[i], grads[i], (*node)->op, i);
        accumulation.add(*inputs[i], std::exchange(grads[i], Tensor()));
      }
  }
  accumulation.finish();
}

}  // namespace minidl
