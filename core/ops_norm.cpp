#include "core/autograd.h"
#include "core/check.h"
#include "core/ops.h"
#include "core/ops_common.h"

namespace minidl {
namespace {

Tensor norm(const char* op, const Tensor& x, const Tensor& rho, const Tensor& gamma, const Tensor& beta,
            bool per_sample_style, NormOptions options, const Tensor& residual) {
  if (residual.defined()) require_same(op, x, residual);
  require_device(op, x, {rho, gamma, beta});
  const ImageDims d = x.image_dims();
  check(options.pad >= 0 && options.pad < d.h && options.pad < d.w, op, ": a pad of ", options.pad,
        " needs an image of more than that many pixels a side, got ", x.shape());
  if (options.pad > 0 && any_requires_grad({x, rho, gamma, beta, residual})) {
    const std::int64_t pad = std::exchange(options.pad, 0);
    return reflection_pad2d(norm(op, x, rho, gamma, beta, per_sample_style, options, residual), pad);
  }
  const NormSpec spec{d, options.eps, options.relu, per_sample_style, options.pad};
  const Tensor y = Tensor::empty({d.n, d.c, d.h + 2 * options.pad, d.w + 2 * options.pad}, x.device());
  const Tensor stats = Tensor::empty_plain({spec.stats_size()}, x.device());
  backend(x).norm_forward(spec, x.data(), data_or_null(rho), data_or_null(gamma), data_or_null(beta),
                          data_or_null(residual), y.data(), stats.data());
  return record(op, y, {x, rho, gamma, beta, residual},
                [spec, x = x.detach(), rho = rho.detach(), gamma = gamma.detach(), beta = beta.detach(), stats](
                    const Tensor& gy, const Needs& needs) -> Grads {
                  const auto like = [&](int input, const Tensor& t) { return needs[input] ? empty_like(t) : Tensor(); };
                  const Tensor gx = like(0, x), grho = like(1, rho), ggamma = like(2, gamma), gbeta = like(3, beta);
                  if (gx.defined() || grho.defined() || ggamma.defined() || gbeta.defined())
                    backend(x).norm_backward(spec, x.data(), data_or_null(rho), data_or_null(gamma), data_or_null(beta),
                                             stats.data(), gy.data(), data_or_null(gx), data_or_null(grho),
                                             data_or_null(ggamma), data_or_null(gbeta));
                  return {gx, grho, ggamma, gbeta, gy};
                });
}

}  // namespace

Tensor instance_norm(const Tensor& x, NormOptions options, const Tensor& residual) {
  require_image("instance_norm", x);
  return norm("instance_norm", x, {}, {}, {}, false, options, residual);
}

Tensor layer_instance_norm(const Tensor& x, const Tensor& rho, const Tensor& gamma, const Tensor& beta,
                           NormOptions options, const Tensor& residual) {
  require_image("layer_instance_norm", x);
  for (const Tensor& parameter : {rho, gamma, beta}) require_defined("layer_instance_norm", parameter);
  const std::int64_t n = x.shape()[0], c = x.shape()[1];
  check(rho.size() == c, "layer_instance_norm: input ", x.shape(), " expects rho [1, ", c, ", 1, 1], got ",
        rho.shape());
  check(gamma.shape() == beta.shape(), "layer_instance_norm: gamma ", gamma.shape(), " and beta ", beta.shape(),
        " differ in shape");
  const bool per_sample = gamma.shape() == Shape{n, c};
  check(per_sample || gamma.size() == c, "layer_instance_norm: input ", x.shape(), " expects gamma [", n, ", ", c,
        "] or [1, ", c, ", 1, 1], got ", gamma.shape());
  check(x.image_dims().pixels() > 1, "layer_instance_norm: the unbiased variance of input ", x.shape(),
        " needs more than one pixel");
  return norm("layer_instance_norm", x, rho, gamma, beta, per_sample, options, residual);
}

Tensor spectral_norm(const Tensor& weight, Buffer& u, Buffer& v, bool iterate) {
  require_defined("spectral_norm", weight);
  check(weight.rank() >= 2 && weight.block() == 1 && weight.size() > 0,
        "spectral_norm: expected a plain, non-empty weight [O, ...], got ", weight.shape());
  const std::int64_t rows = weight.shape()[0], cols = weight.size() / rows;
  check(u.tensor().shape() == Shape{rows} && v.tensor().shape() == Shape{cols}, "spectral_norm: weight ",
        weight.shape(), " expects u [", rows, "] and v [", cols, "], got ", u.tensor().shape(), " and ",
        v.tensor().shape());
  require_device("spectral_norm", weight, {u.tensor(), v.tensor()});
  if (iterate) {
    u.tensor() = u.tensor().clone();
    v.tensor() = v.tensor().clone();
  }
  const Tensor sigma = Tensor::empty({1}, weight.device()), normalised = empty_like(weight);
  backend(weight).spectral_norm_forward(rows, cols, iterate, weight.data(), u.tensor().data(), v.tensor().data(),
                                        sigma.data(), normalised.data());
  return record("spectral_norm", normalised, {weight},
                [rows, cols, weight = weight.detach(), u = u.tensor(), v = v.tensor(), sigma](const Tensor& gy,
                                                                                              const Needs&) -> Grads {
                  const Tensor gw = empty_like(weight);
                  backend(weight).spectral_norm_backward(rows, cols, weight.data(), u.data(), v.data(), sigma.data(),
                                                         gy.data(), gw.data());
                  return {gw};
                });
}

}  // namespace minidl
