#include <algorithm>
#include <numeric>

#include "core/check.h"
#include "core/ops.h"
#include "core/ops_common.h"

namespace minidl {
namespace {

ConvDims conv_dims(const char* op, const Tensor& x, const Tensor& weight, const Tensor& bias, ConvOptions options) {
  require_image(op, x);
  require_defined(op, weight, "weight");
  const Shape& w = weight.shape();
  check(weight.rank() == 4 && weight.block() == 1 && weight.size() > 0 && w[2] == w[3], op,
        ": expected a plain, non-empty weight [O, C, K, K], got ", w);
  check(x.shape()[1] == w[1], op, ": input ", x.shape(), " has ", x.shape()[1], " channels, weight ", w, " expects ",
        w[1]);
  check(!bias.defined() || bias.shape() == Shape{w[0]}, op, ": weight ", w, " expects a bias [", w[0], "], got ",
        bias.shape());
  check(options.stride >= 1 && options.padding >= 0, op, ": stride ", options.stride, " and padding ", options.padding,
        " must be at least 1 and 0");
  require_device(op, x, {weight, bias});
  const std::int64_t k = w[2], h = x.shape()[2] + 2 * options.padding, width = x.shape()[3] + 2 * options.padding;
  check(h >= k && width >= k, op, ": input ", x.shape(), " with padding ", options.padding,
        " is smaller than the kernel of ", w);
  ImageDims out{x.shape()[0], w[0], (h - k) / options.stride + 1, (width - k) / options.stride + 1, 1};
  out.block = backend(x).channel_block(out.c);
  return {x.image_dims(), out, k, options.stride, options.padding};
}

// Which gradients of x, the weight and the bias are wanted.
struct Wanted {
  bool x, weight, bias;
};

Wanted wanted(const Needs& needs) { return {needs[0], needs[1], needs[2]}; }

Grads conv_gradients(const ConvDims& dims, const Tensor& x, const Tensor& weight, const Tensor& gy, Wanted want) {
  Tensor gx, gw, gbias;
  if (want.x) {
    gx = empty_like(x);
    backend(x).conv_backward_data(dims, gy.data(), weight.data(), gx.data());
  }
  if (want.weight || want.bias) {
    gw = empty_like(weight);
    if (want.bias) gbias = Tensor::empty({dims.out.c}, x.device());
    backend(x).conv_backward_weights(dims, x.data(), gy.data(), gw.data(), data_or_null(gbias));
  }
  return {gx, gw, gbias};
}

LinearDims linear_dims(const char* op, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  require_defined(op, x);
  require_defined(op, weight, "weight");
  const Shape& w = weight.shape();
  check(x.rank() == 2 && weight.rank() == 2 && x.shape()[1] == w[1], op, ": input ", x.shape(), " does not fit weight ",
        w, ", which expects [N, ", weight.rank() == 2 ? w[1] : 0, "]");
  check(x.size() > 0 && weight.size() > 0, op, ": input ", x.shape(), " or weight ", w, " is empty");
  check(!bias.defined() || bias.shape() == Shape{w[0]}, op, ": weight ", w, " expects a bias [", w[0], "], got ",
        bias.shape());
  require_device(op, x, {weight, bias});
  return {x.shape()[0], w[1], w[0]};
}

// y is read for ReLU only. The gradient of x is added to `reached`, if that is defined.
Grads linear_gradients(const LinearDims& dims, const Tensor& x, const Tensor& weight, const Tensor& y, const Tensor& gy,
                       Wanted want, const Tensor& reached = {}) {
  const Tensor gx = reached.defined() ? reached
                    : want.x          ? empty_like(x)
                                      : Tensor(),
               gw = want.weight ? empty_like(weight) : Tensor(),
               gbias = want.bias ? Tensor::empty({dims.out}, x.device()) : Tensor();
  backend(x).linear_backward(dims, x.data(), weight.data(), data_or_null(y), gy.data(), reached.defined(),
                             data_or_null(gx), data_or_null(gw), data_or_null(gbias));
  return {gx, gw, gbias};
}

// Divides y = x W by sigma, adds the bias, applies the leaky ReLU and pads, and records it. `gradients` are those of
// the plain product.
//
// With z = y / sigma + bias: dL/dsigma = -gz . (z - bias) / sigma, and sigma = u^T W v hands it on to W as the matrix
// of rank one u v^T.
template <class Gradients>
Tensor divided(const char* op, const Spectrum& spectrum, const ImageDims& dims, SpectralOptions options,
               const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& y, Gradients gradients) {
  const Calls calls = spectrum.calls.empty() ? Calls{dims.n} : spectrum.calls;
  check(std::accumulate(calls.begin(), calls.end(), std::int64_t{0}) == dims.n &&
            std::all_of(calls.begin(), calls.end(), [](std::int64_t count) { return count > 0; }),
        op, ": the calls do not cut the batch of ", dims.n, " into non-empty parts");
  const std::int64_t rows = weight.shape()[0], cols = weight.size() / rows, count = std::ssize(calls);
  const auto all_of_size = [&](const std::vector<Tensor>& vectors, std::int64_t size) {
    return std::ssize(vectors) == count && std::all_of(vectors.begin(), vectors.end(), [&](const Tensor& vector) {
             return vector.defined() && vector.shape() == Shape{size};
           });
  };
  check(spectrum.sigma.defined() && spectrum.sigma.shape() == Shape{count} && all_of_size(spectrum.u, rows) &&
            all_of_size(spectrum.v, cols),
        op, ": weight ", weight.shape(), " and ", count, " calls expect a spectrum of as many sigmas, u [", rows,
        "] and v [", cols, "], got one of another weight or other calls; see spectra");
  check(options.slope > 0, op, ": the slope of the leaky ReLU must be positive, got ", options.slope);
  const std::int64_t pad = options.pad;
  check(pad >= 0 && pad < dims.h && pad < dims.w, op, ": a pad of ", pad,
        " needs a result of more than that many pixels a side, got ", dims.h, " x ", dims.w);
  require_device(op, x, {spectrum.sigma});
  const Tensor z = pad == 0 ? y : Tensor::empty({dims.n, dims.c, dims.h + 2 * pad, dims.w + 2 * pad}, x.device());
  const auto spec = [dims, options](const Calls& groups) {
    return DivisionSpec{dims, groups, options.slope, options.pad};
  };
  backend(x).divide_samples_forward(spec(calls), spectrum.sigma.data(), data_or_null(bias), y.data(), z.data());
  return record(op, z, {x, weight, bias},
                [spectrum, calls, spec, rows, cols, x = x.detach(), weight = weight.detach(), bias = bias.detach(),
                 y_shape = y.shape(), z = z.detach(), gradients](const Tensor& gz, const Needs& needs) -> Grads {
                  Backend& device = backend(x);
                  const Tensor gy = Tensor::empty(y_shape, x.device()),
                               gsigma = needs[1] ? empty_like(spectrum.sigma) : Tensor(),
                               gbias = needs[2] ? empty_like(bias) : Tensor();
                  device.divide_samples_backward(spec(calls), spectrum.sigma.data(), data_or_null(bias), z.data(),
                                                 gz.data(), gy.data(), data_or_null(gsigma), data_or_null(gbias));
                  Grads grads = gradients(x, weight, gy, Wanted{needs[0], needs[1], false});
                  grads[2] = gbias;
                  if (needs[1]) {
                    std::vector<OuterProduct> products;
                    for (std::size_t call = 0; call < calls.size(); ++call)
                      products.push_back({gsigma.data() + call, spectrum.u[call].data(), spectrum.v[call].data()});
                    device.add_outer_products(rows, cols, products, grads[1].data());
                  }
                  return grads;
                });
}

// y = leaky(y + bias) in place, recorded as a convolution.
Tensor activated(const ConvDims& dims, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& y,
                 float slope) {
  const auto spec = [dims, slope](const Calls& whole) { return DivisionSpec{dims.out, whole, slope, 0}; };
  const Calls whole{dims.out.n};
  backend(x).divide_samples_forward(spec(whole), nullptr, data_or_null(bias), y.data(), y.data());
  return record("conv2d", y, {x, weight, bias},
                [dims, spec, whole, x = x.detach(), weight = weight.detach(), bias = bias.detach(), y = y.detach()](
                    const Tensor& gy, const Needs& needs) -> Grads {
                  const Tensor gz = empty_like(y), gbias = needs[2] ? empty_like(bias) : Tensor();
                  backend(x).divide_samples_backward(spec(whole), nullptr, data_or_null(bias), y.data(), gy.data(),
                                                     gz.data(), nullptr, data_or_null(gbias));
                  Grads grads = conv_gradients(dims, x, weight, gz, {needs[0], needs[1], false});
                  grads[2] = gbias;
                  return grads;
                });
}

}  // namespace

Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias, ConvOptions options) {
  const ConvDims dims = conv_dims("conv2d", x, weight, bias, options);
  check(options.slope >= 0, "conv2d: the slope of the leaky ReLU must not be negative, got ", options.slope);
  const Tensor y = Tensor::empty({dims.out.n, dims.out.c, dims.out.h, dims.out.w}, x.device());
  // A weight that is not being trained will be used again as it is.
  PreparedWeights* prepared = any_requires_grad({x, weight, bias}) ? nullptr : &weight.storage().prepared();
  // The pass that applies an activation adds the bias, too.
  backend(x).conv_forward(dims, x.data(), weight.data(), options.slope == 1 ? data_or_null(bias) : nullptr, y.data(),
                          prepared);
  if (options.slope != 1) return activated(dims, x, weight, bias, y, options.slope);
  return record("conv2d", y, {x, weight, bias},
                [dims, x = x.detach(), weight = weight.detach()](const Tensor& gy, const Needs& needs) -> Grads {
                  return conv_gradients(dims, x, weight, gy, wanted(needs));
                });
}

Tensor upsample_conv2d(const Tensor& x, const Tensor& weight) {
  constexpr const char* kOp = "upsample_conv2d";
  ConvDims dims = conv_dims(kOp, x, weight, {}, {.padding = 1});
  check(dims.kernel == 3, kOp, ": expected a weight [O, C, 3, 3], got ", weight.shape());
  dims.padding = 0;
  dims.out.h *= 2, dims.out.w *= 2;
  dims.in.h = dims.out.h + 2, dims.in.w = dims.out.w + 2;
  const auto memory = [dims, device = x.device()] {
    return Tensor::empty_plain({backend_of(device).upsampled_conv_memory(dims)}, device);
  };
  const Tensor y = Tensor::empty({dims.out.n, dims.out.c, dims.out.h, dims.out.w}, x.device());
  backend(x).upsampled_conv_forward(dims, x.data(), weight.data(), memory().data(), y.data());
  return record(
      kOp, y, {x, weight},
      [dims, memory, x = x.detach(), weight = weight.detach()](const Tensor& gy, const Needs& needs) -> Grads {
        Backend& device = backend(x);
        const Tensor gx = needs[0] ? empty_like(x) : Tensor(), gw = needs[1] ? empty_like(weight) : Tensor();
        if (needs[0]) device.upsampled_conv_backward_data(dims, gy.data(), weight.data(), memory().data(), gx.data());
        if (needs[1]) device.upsampled_conv_backward_weights(dims, x.data(), gy.data(), memory().data(), gw.data());
        return {gx, gw};
      });
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, LinearOptions options) {
  LinearDims dims = linear_dims("linear", x, weight, bias);
  dims.relu = options.relu;
  const Tensor y = Tensor::empty({dims.rows, dims.out}, x.device());
  backend(x).linear_forward(dims, x.data(), weight.data(), data_or_null(bias), y.data());
  return record("linear", y, {x, weight, bias},
                [dims, x = x.detach(), weight = weight.detach(), kept = dims.relu ? y.detach() : Tensor()](
                    const Tensor& gy, const Needs& needs) -> Grads {
                  return linear_gradients(dims, x, weight, kept, gy, wanted(needs), needs.take_reached(0));
                });
}

Tensor spectral_conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias, const Spectrum& spectrum,
                       ConvOptions options, SpectralOptions spectral_options) {
  constexpr const char* kOp = "spectral_conv2d";
  const ConvDims dims = conv_dims(kOp, x, weight, bias, options);
  const Tensor y = Tensor::empty({dims.out.n, dims.out.c, dims.out.h, dims.out.w}, x.device());
  backend(x).conv_forward(dims, x.data(), weight.data(), nullptr, y.data(), nullptr);
  return divided(kOp, spectrum, dims.out, spectral_options, x, weight, bias, y,
                 [dims](const auto&... arguments) { return conv_gradients(dims, arguments...); });
}

Tensor spectral_linear(const Tensor& x, const Tensor& weight, const Tensor& bias, const Spectrum& spectrum) {
  constexpr const char* kOp = "spectral_linear";
  const LinearDims dims = linear_dims(kOp, x, weight, bias);
  const Tensor y = Tensor::empty({dims.rows, dims.out}, x.device());
  backend(x).linear_forward(dims, x.data(), weight.data(), nullptr, y.data());
  return divided(kOp, spectrum, ImageDims{dims.rows, dims.out, 1, 1, 1}, {}, x, weight, bias, y,
                 [dims](const Tensor& x_in, const Tensor& w, const Tensor& gy, Wanted want) {
                   return linear_gradients(dims, x_in, w, {}, gy, want);
                 });
}

}  // namespace minidl
