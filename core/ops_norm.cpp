#include <algorithm>

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
  // The residual's gradient would need its padding folded back, which reflection_pad2d does.
  if (options.pad > 0 && any_requires_grad({residual})) {
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
                  const Tensor gx = like(0, x), grho = like(1, rho);
                  // One style serves many norms: its gradient grows from one to the next.
                  Tensor ggamma = needs.take_reached(2), gbeta = needs.take_reached(3);
                  NormSpec adding = spec;
                  adding.add_to_gamma = ggamma.defined();
                  adding.add_to_beta = gbeta.defined();
                  if (!adding.add_to_gamma) ggamma = like(2, gamma);
                  if (!adding.add_to_beta) gbeta = like(3, beta);
                  if (gx.defined() || grho.defined() || ggamma.defined() || gbeta.defined())
                    backend(x).norm_backward(adding, x.data(), data_or_null(rho), data_or_null(gamma),
                                             data_or_null(beta), stats.data(), gy.data(), data_or_null(gx),
                                             data_or_null(grho), data_or_null(ggamma), data_or_null(gbeta));
                  return {gx, grho, ggamma, gbeta, gy};
                });
}

void require_spectral(const char* op, const SpectralWeight& one) {
  const auto& [weight, u, v] = one;
  require_defined(op, weight, "weight");
  check(weight.rank() >= 2 && weight.block() == 1 && weight.size() > 0, op,
        ": expected a plain, non-empty weight [O, ...], got ", weight.shape());
  const std::int64_t rows = weight.shape()[0], cols = weight.size() / rows;
  check(u.tensor().defined() && v.tensor().defined() && u.tensor().shape() == Shape{rows} &&
            v.tensor().shape() == Shape{cols},
        op, ": weight ", weight.shape(), " expects u [", rows, "] and v [", cols, "], got ", u.tensor().shape(),
        " and ", v.tensor().shape());
  require_device(op, weight, {u.tensor(), v.tensor()});
}

// What the next call asks for: its sigma and vectors are the next of `spectrum`. A call keeps what it was computed
// with, whatever later ones do; without iterations nothing changes.
SpectralMatrix next_call(const SpectralWeight& one, bool iterate, Spectrum& spectrum) {
  const auto& [weight, u, v] = one;
  const std::int64_t rows = weight.shape()[0];
  float* const sigma = spectrum.sigma.data() + spectrum.u.size();
  spectrum.u.push_back(iterate ? empty_like(u.tensor()) : u.tensor());
  spectrum.v.push_back(iterate ? empty_like(v.tensor()) : v.tensor());
  return {rows,
          weight.size() / rows,
          weight.data(),
          u.tensor().data(),
          v.tensor().data(),
          spectrum.u.back().data(),
          spectrum.v.back().data(),
          sigma,
          nullptr};
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
  const SpectralWeight one{weight, u, v};
  require_spectral("spectral_norm", one);
  const Tensor normalised = empty_like(weight);
  Spectrum spectrum{{}, Tensor::empty({1}, weight.device()), {}, {}};
  SpectralMatrix matrix = next_call(one, iterate, spectrum);
  matrix.wn = normalised.data();
  backend(weight).spectral_norm_forward(iterate, {&matrix, 1});
  return record("spectral_norm", normalised, {weight},
                [weight = weight.detach(), spectrum](const Tensor& gy, const Needs&) -> Grads {
                  const std::int64_t rows = weight.shape()[0];
                  const Tensor gw = empty_like(weight);
                  backend(weight).spectral_norm_backward(rows, weight.size() / rows, weight.data(),
                                                         spectrum.u.front().data(), spectrum.v.front().data(),
                                                         spectrum.sigma.data(), gy.data(), gw.data());
                  return {gw};
                });
}

std::vector<Spectrum> spectra(std::span<const SpectralWeight> weights, bool iterate, const Calls& calls) {
  const std::size_t count = std::max<std::size_t>(1, calls.size());
  std::vector<Spectrum> result;
  for (const SpectralWeight& one : weights) {
    require_spectral("spectra", one);
    require_device("spectra", weights.front().weight, {one.weight});
    result.push_back({calls, Tensor::empty({static_cast<std::int64_t>(count)}, one.weight.device()), {}, {}});
  }
  std::vector<SpectralMatrix> matrices(weights.size());
  for (std::size_t call = 0; call < count && !weights.empty(); ++call) {
    for (std::size_t i = 0; i < weights.size(); ++i) matrices[i] = next_call(weights[i], iterate, result[i]);
    backend(weights.front().weight).spectral_norm_forward(iterate, matrices);
  }
  return result;
}

}  // namespace minidl
