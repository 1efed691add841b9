#include "core/check.h"
#include "core/ops.h"
#include "core/ops_common.h"

namespace minidl {
namespace {

// A mean over the elements of x: forward(backend, loss), backward(backend, x, gy, gx).
template <class Forward, class Backward>
Tensor reduction(const char* op, const Tensor& x, Forward forward, Backward backward) {
  require_values(op, x);
  const Tensor loss = Tensor::empty({1}, x.device());
  forward(backend(x), loss.data());
  return record(op, loss, {x}, [x = x.detach(), backward](const Tensor& gy, const Needs&) -> Grads {
    const Tensor gx = empty_like(x);
    backward(backend(x), x, gy.data(), gx.data());
    return {gx};
  });
}

}  // namespace

Tensor mean(const Tensor& x) {
  return reduction(
      "mean", x, [&](Backend& b, float* y) { b.mean_forward(x.size(), x.data(), y); },
      [](Backend& b, const Tensor& saved, const float* gy, float* gx) { b.mean_backward(saved.size(), gy, gx); });
}

Tensor mse_loss(const Tensor& x, float target) {
  return reduction(
      "mse_loss", x, [&](Backend& b, float* y) { b.mse_forward(x.size(), x.data(), target, y); },
      [target](Backend& b, const Tensor& saved, const float* gy, float* gx) {
        b.mse_backward(saved.size(), saved.data(), target, gy, gx);
      });
}

Tensor l1_loss(const Tensor& x, const Tensor& target) {
  require_same("l1_loss", x, target);
  return reduction(
      "l1_loss", x, [&](Backend& b, float* y) { b.l1_forward(x.size(), x.data(), target.data(), y); },
      [target = target.detach()](Backend& b, const Tensor& saved, const float* gy, float* gx) {
        b.l1_backward(saved.size(), saved.data(), target.data(), gy, gx);
      });
}

Tensor bce_with_logits_loss(const Tensor& logits, float target) {
  return reduction(
      "bce_with_logits_loss", logits,
      [&](Backend& b, float* y) { b.bce_forward(logits.size(), logits.data(), target, y); },
      [target](Backend& b, const Tensor& saved, const float* gy, float* gx) {
        b.bce_backward(saved.size(), saved.data(), target, gy, gx);
      });
}

}  // namespace minidl
