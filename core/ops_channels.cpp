#include "core/autograd.h"
#include "core/check.h"
#include "core/ops.h"
#include "core/ops_common.h"

namespace minidl {
namespace {

Tensor record_mean(const Tensor& mean, const Tensor& x) {
  return record("global_mean", mean, {x}, [dims = x.image_dims()](const Tensor& gy, const Needs&) -> Grads {
    const Tensor gx = Tensor::empty({dims.n, dims.c, dims.h, dims.w}, gy.device());
    backend(gy).global_mean_backward(dims, gy.data(), gx.data());
    return {gx};
  });
}

}  // namespace

Tensor global_mean(const Tensor& x) {
  require_image("global_mean", x);
  const Tensor y = Tensor::empty({x.shape()[0], x.shape()[1]}, x.device());
  backend(x).global_pool_forward(x.image_dims(), x.data(), y.data(), nullptr, nullptr);
  return record_mean(y, x);
}

MeanMax global_mean_max(const Tensor& x) {
  require_image("global_mean_max", x);
  const ImageDims dims = x.image_dims();
  const Tensor mean = Tensor::empty({dims.n, dims.c}, x.device()), max = empty_like(mean);
  const Storage argmax(x.device(), static_cast<std::size_t>(dims.n * dims.c) * sizeof(std::int32_t));
  auto* positions = static_cast<std::int32_t*>(argmax.data());
  backend(x).global_pool_forward(dims, x.data(), mean.data(), max.data(), positions);
  return {record_mean(mean, x), record("global_max", max, {x}, [dims, argmax](const Tensor& gy, const Needs&) -> Grads {
            const Tensor gx = Tensor::empty({dims.n, dims.c, dims.h, dims.w}, gy.device());
            backend(gy).global_max_backward(dims, gy.data(), static_cast<const std::int32_t*>(argmax.data()),
                                            gx.data());
            return {gx};
          })};
}

Tensor concat(const Tensor& a, const Tensor& b) {
  require_values("concat", a);
  require_values("concat", b);
  const Shape &s = a.shape(), &t = b.shape();
  const bool images = s.rank() == 4 && t.rank() == 4 && s[0] == t[0] && s[2] == t[2] && s[3] == t[3];
  const bool matrices = s.rank() == 2 && t.rank() == 2 && s[0] == t[0];
  check(images || matrices, "concat: shapes ", s, " and ", t,
        " do not agree outside of the channels; expected images [N, A, H, W] and [N, B, H, W], or matrices [N, A] and "
        "[N, B]");
  require_device("concat", a, {b});
  if (images) {
    require_image("concat", a);
    require_image("concat", b);
  }
  const auto dims_of = [&](const Tensor& x) {
    return images ? x.image_dims() : ImageDims{x.shape()[0], x.shape()[1], 1, 1, 1};
  };
  const ImageDims a_dims = dims_of(a), b_dims = dims_of(b);
  const Tensor y = images ? Tensor::empty({s[0], s[1] + t[1], s[2], s[3]}, a.device())
                          : Tensor::empty({s[0], s[1] + t[1]}, a.device());
  backend(a).concat_forward(a_dims, b_dims, a.data(), b.data(), y.data());
  return record("concat", y, {a, b},
                [a_dims, b_dims, a_shape = s, b_shape = t](const Tensor& gy, const Needs& needs) -> Grads {
                  const Tensor ga = needs[0] ? Tensor::empty(a_shape, gy.device()) : Tensor();
                  const Tensor gb = needs[1] ? Tensor::empty(b_shape, gy.device()) : Tensor();
                  backend(gy).concat_backward(a_dims, b_dims, gy.data(), data_or_null(ga), data_or_null(gb));
                  return {ga, gb};
                });
}

Tensor scale_channels(const Tensor& x, const Tensor& s) {
  require_image("scale_channels", x);
  check(s.defined() && s.size() == x.shape()[1], "scale_channels: input ", x.shape(), " expects ", x.shape()[1],
        " factors, got ", s.shape());
  require_device("scale_channels", x, {s});
  const Tensor y = empty_like(x);
  backend(x).scale_channels_forward(x.image_dims(), x.data(), s.data(), y.data());
  return record("scale_channels", y, {x, s},
                [x = x.detach(), s = s.detach()](const Tensor& gy, const Needs& needs) -> Grads {
                  const Tensor gx = needs[0] ? empty_like(x) : Tensor(), gs = needs[1] ? empty_like(s) : Tensor();
                  backend(x).scale_channels_backward(x.image_dims(), x.data(), s.data(), gy.data(), data_or_null(gx),
                                                     data_or_null(gs));
                  return {gx, gs};
                });
}

Tensor conv1x1_of_scaled(const Tensor& x, const Tensor& a, const Tensor& b, const Tensor& weight, const Tensor& bias) {
  require_image("conv1x1_of_scaled", x);
  const std::int64_t c = x.shape()[1];
  check(a.defined() && b.defined() && a.size() == c && b.size() == c, "conv1x1_of_scaled: input ", x.shape(),
        " expects twice ", c, " factors, got ", a.shape(), " and ", b.shape());
  check(weight.defined() && weight.rank() == 4 && weight.block() == 1 &&
            weight.shape() == Shape{weight.shape()[0], 2 * c, 1, 1},
        "conv1x1_of_scaled: input ", x.shape(), " expects a plain weight [O, ", 2 * c, ", 1, 1], got ", weight.shape());
  require_device("conv1x1_of_scaled", x, {a, b, weight, bias});
  if (any_requires_grad({x, a, b, weight, bias}))
    return conv2d(concat(scale_channels(x, a), scale_channels(x, b)), weight, bias);
  // A row of the weight is an image of one pixel, whose memory is the same in every layout.
  const std::int64_t out = weight.shape()[0];
  const auto pixels = [&](std::int64_t n, std::int64_t channels) {
    return ImageDims{n, channels, 1, 1, backend(x).channel_block(channels)};
  };
  const Tensor factors = Tensor::empty_plain({2 * c}, x.device()), scaled = empty_like(weight);
  const Tensor first = Tensor::empty_plain({out, c, 1, 1}, x.device()), second = empty_like(first);
  backend(x).concat_forward(pixels(1, c), pixels(1, c), a.data(), b.data(), factors.data());
  backend(x).scale_channels_forward(pixels(out, 2 * c), weight.data(), factors.data(), scaled.data());
  backend(x).concat_backward(pixels(out, c), pixels(out, c), scaled.data(), first.data(), second.data());
  backend(x).add(first.size(), first.data(), second.data(), first.data());
  return conv2d(x, first, bias);
}

Tensor sum_channels(const Tensor& x) {
  require_image("sum_channels", x);
  const ImageDims dims = x.image_dims();
  const Tensor y = Tensor::empty({dims.n, 1, dims.h, dims.w}, x.device());
  backend(x).sum_channels_forward(dims, x.data(), y.data());
  return record("sum_channels", y, {x}, [dims](const Tensor& gy, const Needs&) -> Grads {
    const Tensor gx = Tensor::empty({dims.n, dims.c, dims.h, dims.w}, gy.device());
    backend(gy).sum_channels_backward(dims, gy.data(), gx.data());
    return {gx};
  });
}

}  // namespace minidl
