#include "core/adam.h"

#include <cmath>
#include <map>

#include "core/check.h"

namespace minidl {

Adam::Adam(std::vector<Parameter*> parameters, AdamOptions options)
    : parameters_(std::move(parameters)), options_(options) {
  check(!parameters_.empty(), "Adam: there are no parameters to optimise");
  std::map<const float*, std::size_t> seen;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    check(parameters_[i] && parameters_[i]->defined(), "Adam: parameter ", i, " is undefined");
    const Tensor& value = parameters_[i]->tensor();
    check(value.device() == parameters_.front()->tensor().device(), "Adam: parameter ", i, " of shape ", value.shape(),
          " is on another device than parameter 0; expected all on one");
    const auto [other, is_new] = seen.emplace(value.data(), i);
    check(is_new, "Adam: parameters ", other->second, " and ", i, " of shape ", value.shape(),
          " share their values, which would be updated twice; expected every parameter once");
  }
  rates_ = Storage(parameters_.front()->tensor().device(), sizeof(AdamRates));
  for (const Parameter* p : parameters_) {
    const Tensor& value = p->tensor();
    for (auto* moments : {&exp_avg_, &exp_avg_sq_}) {
      moments->push_back(empty_like(value));
      backend_of(value.device()).fill(value.size(), 0.0f, moments->back().data());
    }
  }
}

void Adam::step() {
  collect_gradients();  // before anything changes
  advance();
  update_collected();
}

void Adam::update() {
  collect_gradients();
  update_collected();
}

void Adam::advance() {
  ++step_count_;
  const double step = static_cast<double>(step_count_);
  const double correction1 = 1 - std::pow(options_.beta1, step), correction2 = 1 - std::pow(options_.beta2, step);
  const AdamRates rates{static_cast<float>(-(options_.lr / correction1)), static_cast<float>(std::sqrt(correction2))};
  backend().upload(rates_.data(), &rates, sizeof rates);
}

void Adam::collect_gradients() {
  list_.clear();
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const Tensor& value = parameters_[i]->tensor();
    check(value.device() == rates_.device() && value.shape() == exp_avg_[i].shape(), "Adam: parameter ", i,
          " of shape ", value.shape(), " was replaced, or moved to another device, after the optimiser was made for ",
          exp_avg_[i].shape(), "; make a new one");
    const Tensor grad = value.grad();
    check(grad.defined(), "Adam: parameter ", i, " of shape ", value.shape(),
          " has no gradient; call backward on a loss that depends on it first");
    list_.push_back({value.data(), grad.data(), exp_avg_[i].data(), exp_avg_sq_[i].data(), value.size(),
                     parameters_[i]->clamp01()});
  }
}

void Adam::update_collected() {
  backend().adam({options_.beta1, options_.beta2, options_.eps, options_.weight_decay},
                 static_cast<const AdamRates*>(rates_.data()), list_);
  changed();
}

void Adam::changed() {
  for (const Parameter* p : parameters_) p->tensor().storage().changed();
}

Backend& Adam::backend() const { return backend_of(rates_.device()); }

void Adam::zero_grad() {
  for (const Parameter* p : parameters_) p->tensor().zero_grad();
}

}  // namespace minidl
