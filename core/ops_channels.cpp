#include <algorithm>
#include <numeric>

#include "core/autograd.h"
#include "core/check.h"
#include "core/ops.h"
#include "core/ops_common.h"

namespace minidl {
namespace {

// The gradient of an image from those of its pooled values, of which each pointer may be null. Written into the
// gradient that has reached the image, if there is one.
Tensor pool_gradient(const ImageDims& dims, const Tensor& gy, const float* gmean, const float* gmax,
                     const Storage& argmax, const Needs& needs) {
  const Tensor reached = needs.take_reached(0);
  const Tensor gx = reached.defined() ? reached : Tensor::empty({dims.n, dims.c, dims.h, dims.w}, gy.device());
  backend(gy).global_pool_backward(dims, gmean, gmax, static_cast<const std::int32_t*>(argmax.data()),
                                   reached.defined(), gx.data());
  return gx;
}

}  // namespace

Tensor global_mean(const Tensor& x) {
  require_image("global_mean", x);
  const ImageDims dims = x.image_dims();
  const Tensor y = Tensor::empty({dims.n, dims.c}, x.device());
  backend(x).global_pool_forward(dims, x.data(), y.data(), nullptr, nullptr);
  return record("global_mean", y, {x}, [dims](const Tensor& gy, const Needs& needs) -> Grads {
    return {pool_gradient(dims, gy, gy.data(), nullptr, {}, needs)};
  });
}

Tensor global_mean_max(const Tensor& x) {
  require_image("global_mean_max", x);
  const ImageDims dims = x.image_dims();
  const std::int64_t half = dims.n * dims.c;
  const Tensor y = Tensor::empty({2, dims.n, dims.c}, x.device());
  const Storage argmax(x.device(), static_cast<std::size_t>(half) * sizeof(std::int32_t));
  backend(x).global_pool_forward(dims, x.data(), y.data(), y.data() + half, static_cast<std::int32_t*>(argmax.data()));
  return record("global_mean_max", y, {x}, [dims, half, argmax](const Tensor& gy, const Needs& needs) -> Grads {
    return {pool_gradient(dims, gy, gy.data(), gy.data() + half, argmax, needs)};
  });
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

Tensor scale_channels(const Tensor& x, const Tensor& s, const Tensor& second) {
  require_image("scale_channels", x);
  const Shape& shape = x.shape();
  for (const Tensor& factors : {s, second.defined() ? second : s})
    check(factors.defined() && factors.size() == shape[1], "scale_channels: input ", shape, " expects ", shape[1],
          " factors, got ", factors.shape());
  require_device("scale_channels", x, {s, second});
  const Tensor y = Tensor::empty({shape[0], (second.defined() ? 2 : 1) * shape[1], shape[2], shape[3]}, x.device());
  backend(x).scale_channels_forward(x.image_dims(), x.data(), s.data(), data_or_null(second), y.data());
  return record(
      "scale_channels", y, {x, s, second},
      [x = x.detach(), s = s.detach(), second = second.detach()](const Tensor& gy, const Needs& needs) -> Grads {
        const Tensor reached = needs.take_reached(0);
        const Tensor gx = reached.defined() ? reached
                          : needs[0]        ? empty_like(x)
                                            : Tensor(),
                     gs = needs[1] ? empty_like(s) : Tensor(), gsecond = needs[2] ? empty_like(second) : Tensor();
        backend(x).scale_channels_backward(x.image_dims(), x.data(), s.data(), data_or_null(second), gy.data(),
                                           reached.defined(), data_or_null(gx), data_or_null(gs),
                                           data_or_null(gsecond));
        return {gx, gs, gsecond};
      });
}

Tensor cam_logits(const Tensor& pooled, std::span<const CamWeight> weights) {
  constexpr const char* kOp = "cam_logits";
  require_defined(kOp, pooled);
  const Shape& shape = pooled.shape();
  check(!weights.empty() && pooled.rank() == 3 && pooled.size() > 0, kOp,
        ": expected weights and pooled values [parts, N, C], got ", shape);
  const auto parts = static_cast<std::int64_t>(weights.size()), n = shape[1], c = shape[2];
  check(shape[0] == parts, kOp, ": ", parts, " weights do not fit pooled values ", shape);
  const Spectrum* first = weights.front().spectrum;
  const Calls calls = first && !first->calls.empty() ? first->calls : Calls{n};
  check(std::accumulate(calls.begin(), calls.end(), std::int64_t{0}) == n &&
            std::all_of(calls.begin(), calls.end(), [](std::int64_t count) { return count > 0; }),
        kOp, ": the calls do not cut the batch of ", n, " into non-empty parts");
  std::vector<Tensor> inputs{pooled};
  std::vector<Spectrum> spectra;
  for (const auto& [weight, spectrum] : weights) {
    check(weight.defined() && weight.shape() == Shape{1, c}, kOp, ": pooled values ", shape, " expect weights [1, ", c,
          "], got ", weight.shape());
    check((spectrum != nullptr) == (first != nullptr) && (!spectrum || spectrum->calls == first->calls), kOp,
          ": the weights differ in whether, or for which calls, they are normalised");
    require_device(kOp, pooled, {weight});
    inputs.push_back(weight);
    if (spectrum) spectra.push_back(*spectrum);
  }
  // `gradients`: one for each weight, or undefined.
  const auto with_parts = [calls, spectra, parts](const std::vector<Tensor>& tensors, const Grads& gradients, auto f) {
    std::vector<std::vector<SingularVectors>> vectors(static_cast<std::size_t>(parts));
    std::vector<CamPart> list;
    for (std::size_t p = 0; p < vectors.size(); ++p) {
      if (!spectra.empty())
        for (std::size_t call = 0; call < calls.size(); ++call)
          vectors[p].push_back({spectra[p].u[call].data(), spectra[p].v[call].data()});
      list.push_back({tensors[p + 1].data(), gradients.empty() ? nullptr : data_or_null(gradients[p + 1]),
                      spectra.empty() ? nullptr : spectra[p].sigma.data(), vectors[p]});
    }
    f(list);
  };
  const Tensor y = Tensor::empty({n, parts}, pooled.device());
  with_parts(inputs, {}, [&](const std::vector<CamPart>& list) {
    backend(pooled).cam_logits_forward(n, c, calls, list, pooled.data(), y.data());
  });
  std::vector<Tensor> saved;
  for (const Tensor& input : inputs) saved.push_back(input.detach());
  return record(kOp, y, inputs, [=, y = y.detach()](const Tensor& gy, const Needs& needs) -> Grads {
    Grads gradients;
    for (std::size_t i = 0; i < saved.size(); ++i)
      gradients.push_back(needs[static_cast<int>(i)] ? empty_like(saved[i]) : Tensor());
    with_parts(saved, gradients, [&](const std::vector<CamPart>& list) {
      backend(y).cam_logits_backward(n, c, calls, list, saved[0].data(), y.data(), gy.data(),
                                     data_or_null(gradients[0]));
    });
    return gradients;
  });
}

Tensor conv1x1_of_scaled(const Tensor& x, const Tensor& a, const Tensor& b, const Tensor& weight, const Tensor& bias,
                         float slope) {
  require_image("conv1x1_of_scaled", x);
  const ConvOptions options{.slope = slope};
  const std::int64_t c = x.shape()[1];
  check(a.defined() && b.defined() && a.size() == c && b.size() == c, "conv1x1_of_scaled: input ", x.shape(),
        " expects twice ", c, " factors, got ", a.shape(), " and ", b.shape());
  check(weight.defined() && weight.rank() == 4 && weight.block() == 1 &&
            weight.shape() == Shape{weight.shape()[0], 2 * c, 1, 1},
        "conv1x1_of_scaled: input ", x.shape(), " expects a plain weight [O, ", 2 * c, ", 1, 1], got ", weight.shape());
  require_device("conv1x1_of_scaled", x, {a, b, weight, bias});
  if (any_requires_grad({x, a, b, weight, bias})) return conv2d(scale_channels(x, a, b), weight, bias, options);
  // A row of the weight is an image of one pixel, whose memory is the same in every layout.
  const std::int64_t out = weight.shape()[0];
  const auto pixels = [&](std::int64_t n, std::int64_t channels) {
    return ImageDims{n, channels, 1, 1, backend(x).channel_block(channels)};
  };
  const Tensor factors = Tensor::empty_plain({2 * c}, x.device()), scaled = empty_like(weight);
  const Tensor first = Tensor::empty_plain({out, c, 1, 1}, x.device()), second = empty_like(first);
  backend(x).concat_forward(pixels(1, c), pixels(1, c), a.data(), b.data(), factors.data());
  backend(x).scale_channels_forward(pixels(out, 2 * c), weight.data(), factors.data(), nullptr, scaled.data());
  backend(x).concat_backward(pixels(out, c), pixels(out, c), scaled.data(), first.data(), second.data());
  backend(x).add(first.size(), first.data(), second.data(), first.data());
  return conv2d(x, first, bias, options);
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
