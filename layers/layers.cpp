#include "layers/layers.h"

#include <cmath>

#include "core/check.h"

namespace minidl {
namespace {

Parameter uniform(Random& random, const Shape& shape, double bound) {
  if (random.is_blank()) return Parameter(Tensor::empty_plain(shape));
  std::vector<float> values(static_cast<std::size_t>(shape.size()));
  random.fill_uniform(values, -bound, bound);
  return Parameter(Tensor::plain_from_host(shape, values));
}

// Kaiming-uniform with a = sqrt 5, in the order of operations that PyTorch evaluates it.
double weight_bound(std::int64_t fan_in) {
  const double gain = std::sqrt(2.0 / (1.0 + std::sqrt(5.0) * std::sqrt(5.0)));
  return std::sqrt(3.0) * (gain / std::sqrt(static_cast<double>(fan_in)));
}

double bias_bound(std::int64_t fan_in) { return 1.0 / std::sqrt(static_cast<double>(fan_in)); }

Parameter per_channel(const char* layer, std::int64_t channels, float value, bool clamp01 = false) {
  check(channels > 0, layer, ": expected at least one channel, got ", channels);
  return Parameter(Tensor::full({1, channels, 1, 1}, value), clamp01);
}

}  // namespace

Conv2d::Conv2d(Random& random, std::int64_t in_channels, std::int64_t out_channels, ConvLayerOptions layer_options)
    : options{layer_options.stride, layer_options.padding, layer_options.slope} {
  const std::int64_t k = layer_options.kernel, fan_in = in_channels * k * k;
  check(in_channels > 0 && out_channels > 0 && k > 0, "Conv2d: ", in_channels, " input channels, ", out_channels,
        " output channels and kernel ", k, " must all be positive");
  weight = uniform(random, {out_channels, in_channels, k, k}, weight_bound(fan_in));
  if (layer_options.bias) bias = uniform(random, {out_channels}, bias_bound(fan_in));
}

Linear::Linear(Random& random, std::int64_t in_features, std::int64_t out_features, bool with_bias,
               LinearOptions linear_options)
    : options(linear_options) {
  check(in_features > 0 && out_features > 0, "Linear: ", in_features, " input and ", out_features,
        " output features must be positive");
  weight = uniform(random, {out_features, in_features}, weight_bound(in_features));
  if (with_bias) bias = uniform(random, {out_features}, bias_bound(in_features));
}

ILN::ILN(std::int64_t channels, NormOptions norm_options)
    : rho(per_channel("ILN", channels, 0.0f, true)),
      gamma(per_channel("ILN", channels, 1.0f)),
      beta(per_channel("ILN", channels, 0.0f)),
      options(norm_options) {}

AdaILN::AdaILN(std::int64_t channels, NormOptions norm_options)
    : rho(per_channel("AdaILN", channels, 0.9f, true)), options(norm_options) {}

}  // namespace minidl
