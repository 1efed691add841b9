#include <algorithm>

#include "core/check.h"
#include "core/ops.h"
#include "core/ops_common.h"

namespace minidl {
namespace {

// A mean over the elements of x; targets are those of l1, else undefined.
Tensor loss_of(const char* op, Loss loss, const Tensor& x, const Tensor& targets, float target) {
  require_values(op, x);
  const Tensor y = Tensor::empty({1}, x.device());
  LossTerm term{loss, x.size(), x.data(), data_or_null(targets), target, 1, nullptr, y.data(), nullptr};
  backend(x).losses({&term, 1});
  return record(
      op, y, {x}, [loss, target, x = x.detach(), targets = targets.detach()](const Tensor& gy, const Needs&) -> Grads {
        const Tensor gx = empty_like(x);
        const LossTerm back{loss, x.size(), x.data(), data_or_null(targets), target, 1, gy.data(), nullptr, gx.data()};
        backend(x).losses({&back, 1});
        return {gx};
      });
}

// What costs say about one x, in the order of its samples.
struct Judged {
  Tensor x, cotangent;
  std::vector<std::pair<std::int64_t, std::int64_t>> samples;  // begin, end
};

}  // namespace

Tensor mean(const Tensor& x) { return loss_of("mean", Loss::mean, x, {}, 0); }
Tensor mse_loss(const Tensor& x, float target) { return loss_of("mse_loss", Loss::mse, x, {}, target); }
Tensor l1_loss(const Tensor& x, const Tensor& target) {
  require_same("l1_loss", x, target);
  return loss_of("l1_loss", Loss::l1, x, target, 0);
}
Tensor bce_with_logits_loss(const Tensor& logits, float target) {
  return loss_of("bce_with_logits_loss", Loss::bce, logits, {}, target);
}

Cotangents evaluate_costs(std::span<const Cost> costs, const Tensor& values, std::int64_t first) {
  constexpr const char* kOp = "evaluate_costs";
  require_defined(kOp, values);
  const auto count = static_cast<std::int64_t>(costs.size());
  check(first >= 0 && first + count <= values.size(), kOp, ": values ", values.shape(), " have no room for ", count,
        " losses from ", first, " on");
  std::vector<LossTerm> terms;
  std::vector<Judged> all;
  for (const Cost& cost : costs) {
    const Tensor& x = cost.x;
    require_defined(kOp, x);
    check(x.rank() >= 1 && x.size() > 0, kOp, ": expected a non-empty batch, got ", x.shape());
    require_device(kOp, values, {x, cost.targets});
    const std::int64_t n = x.shape()[0], sample = x.size() / n, samples = cost.count > 0 ? cost.count : n - cost.begin;
    check(cost.begin >= 0 && samples >= 1 && cost.begin + samples <= n, kOp, ": ", x.shape(), " has no samples ",
          cost.begin, " to ", cost.begin + samples - 1);
    check(cost.targets.defined() == (cost.loss == Loss::l1), kOp,
          ": l1, and nothing else, needs a target for each element");
    if (cost.targets.defined())
      check(cost.targets.size() == samples * sample && cost.targets.block() == x.block(), kOp, ": targets ",
            cost.targets.shape(), " do not fit ", samples, " samples of ", x.shape());
    auto judged = std::find_if(all.begin(), all.end(), [&](const Judged& j) { return j.x.data() == x.data(); });
    if (judged == all.end()) judged = all.insert(all.end(), {x, x.requires_grad() ? empty_like(x) : Tensor(), {}});
    for (const auto& [begin, end] : judged->samples)
      check(cost.begin >= end || cost.begin + samples <= begin, kOp, ": two costs are about the same samples of ",
            x.shape());
    judged->samples.emplace_back(cost.begin, cost.begin + samples);
    const std::int64_t offset = cost.begin * sample;
    const Tensor& gradient = judged->cotangent;
    terms.push_back({cost.loss, samples * sample, x.data() + offset, data_or_null(cost.targets), cost.target,
                     cost.weight, nullptr, values.data() + first + static_cast<std::int64_t>(terms.size()),
                     gradient.defined() ? gradient.data() + offset : nullptr});
  }
  Cotangents cotangents;
  for (Judged& judged : all) {
    if (!judged.cotangent.defined()) continue;
    const std::int64_t n = judged.x.shape()[0], sample = judged.x.size() / n;
    std::sort(judged.samples.begin(), judged.samples.end());
    std::int64_t done = 0;
    const auto leave_out = [&](std::int64_t end) {
      if (end > done)
        terms.push_back({Loss::none, (end - done) * sample, nullptr, nullptr, 0, 0, nullptr, nullptr,
                         judged.cotangent.data() + done * sample});
    };
    for (const auto& [begin, end] : judged.samples) {
      leave_out(begin);
      done = end;
    }
    leave_out(n);
    cotangents.emplace_back(judged.x, judged.cotangent);
  }
  if (!terms.empty()) backend(values).losses(terms);
  values.storage().changed();
  return cotangents;
}

}  // namespace minidl
