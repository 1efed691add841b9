#include "core/adam.h"

#include "core/check.h"

namespace minidl {

Adam::Adam(std::vector<Parameter*> parameters, AdamOptions options)
    : parameters_(std::move(parameters)), options_(options) {
  check(!parameters_.empty(), "Adam: there are no parameters to optimise");
  for (const Parameter* p : parameters_) {
    const Tensor& value = p->tensor();
    for (auto* moments : {&exp_avg_, &exp_avg_sq_}) {
      moments->push_back(empty_like(value));
      backend_of(value.device()).fill(value.size(), 0.0f, moments->back().data());
    }
  }
}

void Adam::step() {
  list_.clear();
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const Tensor& value = parameters_[i]->tensor();
    const Tensor grad = value.grad();
    check(grad.defined(), "Adam: parameter ", i, " of shape ", value.shape(),
          " has no gradient; call backward on a loss that depends on it first");
    list_.push_back({value.data(), grad.data(), exp_avg_[i].data(), exp_avg_sq_[i].data(), value.size(),
                     parameters_[i]->clamp01()});
  }
  ++step_count_;
  const AdamStep step{options_.lr, options_.beta1, options_.beta2, options_.eps, options_.weight_decay, step_count_};
  backend_of(parameters_.front()->tensor().device()).adam(step, list_);
  for (const Parameter* p : parameters_) p->tensor().storage().changed();
}

void Adam::zero_grad() {
  for (const Parameter* p : parameters_) p->tensor().zero_grad();
}

}  // namespace minidl
