#include "core/autograd.h"
#include "core/check.h"
#include "core/ops.h"
#include "core/ops_common.h"

namespace minidl {
namespace {

ConvDims conv_dims(const Tensor& x, const Tensor& weight, const Tensor& bias, ConvOptions options) {
  require_image("conv2d", x);
  const Shape& w = weight.shape();
  check(weight.rank() == 4 && weight.block() == 1 && weight.size() > 0 && w[2] == w[3],
        "conv2d: expected a plain, non-empty weight [O, C, K, K], got ", w);
  check(x.shape()[1] == w[1], "conv2d: input ", x.shape(), " has ", x.shape()[1], " channels, weight ", w, " expects ",
        w[1]);
  check(!bias.defined() || bias.shape() == Shape{w[0]}, "conv2d: weight ", w, " expects a bias [", w[0], "], got ",
        bias.shape());
  check(options.stride >= 1 && options.padding >= 0, "conv2d: stride ", options.stride, " and padding ",
        options.padding, " must be at least 1 and 0");
  require_device("conv2d", x, {weight, bias});
  const std::int64_t k = w[2], h = x.shape()[2] + 2 * options.padding, width = x.shape()[3] + 2 * options.padding;
  check(h >= k && width >= k, "conv2d: input ", x.shape(), " with padding ", options.padding,
        " is smaller than the kernel of ", w);
  ImageDims out{x.shape()[0], w[0], (h - k) / options.stride + 1, (width - k) / options.stride + 1, 1};
  out.block = backend(x).channel_block(out.c);
  return {x.image_dims(), out, k, options.stride, options.padding};
}

}  // namespace

Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias, ConvOptions options) {
  const ConvDims dims = conv_dims(x, weight, bias, options);
  const Tensor y = Tensor::empty({dims.out.n, dims.out.c, dims.out.h, dims.out.w}, x.device());
  // A weight that is not being trained will be used again as it is.
  PreparedWeights* prepared = any_requires_grad({x, weight, bias}) ? nullptr : &weight.storage().prepared();
  backend(x).conv_forward(dims, x.data(), weight.data(), data_or_null(bias), y.data(), prepared);
  return record("conv2d", y, {x, weight, bias},
                [dims, x = x.detach(), weight = weight.detach()](const Tensor& gy, const Needs& needs) -> Grads {
                  Tensor gx, gw, gbias;
                  if (needs[0]) {
                    gx = empty_like(x);
                    backend(x).conv_backward_data(dims, gy.data(), weight.data(), gx.data());
                  }
                  if (needs[1] || needs[2]) {
                    gw = empty_like(weight);
                    if (needs[2]) gbias = Tensor::empty({dims.out.c}, x.device());
                    backend(x).conv_backward_weights(dims, x.data(), gy.data(), gw.data(), data_or_null(gbias));
                  }
                  return {gx, gw, gbias};
                });
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  require_defined("linear", x);
  const Shape& w = weight.shape();
  check(x.rank() == 2 && weight.rank() == 2 && x.shape()[1] == w[1], "linear: input ", x.shape(),
        " does not fit weight ", w, ", which expects [N, ", weight.rank() == 2 ? w[1] : 0, "]");
  check(x.size() > 0 && weight.size() > 0, "linear: input ", x.shape(), " or weight ", w, " is empty");
  check(!bias.defined() || bias.shape() == Shape{w[0]}, "linear: weight ", w, " expects a bias [", w[0], "], got ",
        bias.shape());
  require_device("linear", x, {weight, bias});
  const LinearDims dims{x.shape()[0], w[1], w[0]};
  const Tensor y = Tensor::empty({dims.rows, dims.out}, x.device());
  backend(x).linear_forward(dims, x.data(), weight.data(), data_or_null(bias), y.data());
  return record("linear", y, {x, weight, bias},
                [dims, x = x.detach(), weight = weight.detach()](const Tensor& gy, const Needs& needs) -> Grads {
                  Tensor gx, gw, gbias;
                  if (needs[0]) {
                    gx = empty_like(x);
                    backend(x).linear_backward_data(dims, gy.data(), weight.data(), gx.data());
                  }
                  if (needs[1] || needs[2]) {
                    gw = empty_like(weight);
                    if (needs[2]) gbias = Tensor::empty({dims.out}, x.device());
                    backend(x).linear_backward_weights(dims, x.data(), gy.data(), gw.data(), data_or_null(gbias));
                  }
                  return {gx, gw, gbias};
                });
}

}  // namespace minidl
