#include "core/check.h"
#include "core/ops.h"
#include "core/ops_common.h"

namespace minidl {
namespace {

Tensor activation(const char* op, Activation f, const Tensor& x, float slope = 0) {
  require_values(op, x);
  const Tensor y = empty_like(x);
  backend(x).activation_forward(f, slope, x.size(), x.data(), y.data());
  return record(op, y, {x}, [f, slope, y](const Tensor& gy, const Needs&) -> Grads {
    const Tensor gx = empty_like(y);
    backend(y).activation_backward(f, slope, y.size(), y.data(), gy.data(), gx.data());
    return {gx};
  });
}

Tensor times(const Tensor& a, const Tensor& b) {
  const Tensor y = empty_like(a);
  backend(a).multiply(a.size(), a.data(), b.data(), y.data());
  return y;
}

}  // namespace

Tensor relu(const Tensor& x) { return activation("relu", Activation::relu, x); }
Tensor leaky_relu(const Tensor& x, float slope) {
  check(slope > 0, "leaky_relu: the slope must be positive, got ", slope);
  return activation("leaky_relu", Activation::leaky_relu, x, slope);
}
Tensor tanh(const Tensor& x) { return activation("tanh", Activation::tanh, x); }
Tensor sigmoid(const Tensor& x) { return activation("sigmoid", Activation::sigmoid, x); }

Tensor operator+(const Tensor& a, const Tensor& b) {
  require_same("add", a, b);
  const Tensor y = empty_like(a);
  backend(a).add(a.size(), a.data(), b.data(), y.data());
  return record("add", y, {a, b}, [](const Tensor& gy, const Needs&) -> Grads { return {gy, gy}; });
}

Tensor operator*(const Tensor& a, const Tensor& b) {
  require_same("multiply", a, b);
  return record("multiply", times(a, b), {a, b},
                [a = a.detach(), b = b.detach()](const Tensor& gy, const Needs& needs) -> Grads {
                  return {needs[0] ? times(gy, b) : Tensor(), needs[1] ? times(gy, a) : Tensor()};
                });
}

Tensor operator*(float factor, const Tensor& x) {
  require_values("scale", x);
  const Tensor y = empty_like(x);
  backend(x).scale(x.size(), factor, x.data(), y.data());
  return record("scale", y, {x}, [factor](const Tensor& gy, const Needs&) -> Grads { return {factor * gy}; });
}

}  // namespace minidl
