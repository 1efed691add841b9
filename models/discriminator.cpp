#include "models/discriminator.h"

#include "core/check.h"

namespace minidl {
namespace {

// Channels at the end of the convolutions: doubled by all but the first and last of them.
std::int64_t final_channels(const DiscriminatorOptions& o) {
  check(o.image_channels >= 1 && o.channels >= 1 && o.layers >= 3, "discriminator: image channels ", o.image_channels,
        " and channels ", o.channels, " must be at least 1, layers ", o.layers, " at least 3");
  return o.channels << (o.layers - 2);
}

SpectralNorm<Conv2d> spectral_conv(Random& random, std::int64_t in, std::int64_t out, ConvLayerOptions options) {
  return SpectralNorm<Conv2d>(random, Conv2d(random, in, out, options));
}

SpectralNorm<Linear> spectral_linear(Random& random, std::int64_t in, std::int64_t out) {
  return SpectralNorm<Linear>(random, Linear(random, in, out, false));
}

}  // namespace

Discriminator::Discriminator(Random& random, const DiscriminatorOptions& options)
    : model_([&] {
        std::vector<SpectralNorm<Conv2d>> convs;
        std::int64_t in = options.image_channels, out = options.channels;
        for (std::int64_t i = 0; i < options.layers - 1; ++i) {
          const std::int64_t stride = i < options.layers - 2 ? 2 : 1;
          convs.push_back(spectral_conv(random, in, out, {.kernel = 4, .stride = stride, .bias = true}));
          in = out;
          out *= 2;
        }
        return convs;
      }()),
      gap_fc_(spectral_linear(random, final_channels(options), 1)),
      gmp_fc_(spectral_linear(random, final_channels(options), 1)),
      conv1x1_(random, 2 * final_channels(options), final_channels(options), {.kernel = 1, .bias = true}),
      conv_(spectral_conv(random, final_channels(options), 1, {.kernel = 4})) {}

std::vector<SpectralWeight> Discriminator::spectral_weights() {
  std::vector<SpectralWeight> weights;
  for (auto& conv : model_) weights.push_back(conv.spectral_weight());
  weights.push_back(gap_fc_.spectral_weight());
  weights.push_back(gmp_fc_.spectral_weight());
  weights.push_back(conv_.spectral_weight());
  return weights;
}

Discriminator::Output Discriminator::operator()(const Tensor& image, const Calls& calls) {
  return (*this)(image, spectra(spectral_weights(), training(), calls));
}

Discriminator::Output Discriminator::operator()(const Tensor& image, std::span<const Spectrum> spectra) const {
  check(spectra.size() == model_.size() + 3, "discriminator: got ", spectra.size(), " spectra, needs ",
        model_.size() + 3);
  auto spectrum = spectra.begin();
  Tensor features = reflection_pad2d(image, 1);
  for (auto& conv : model_)
    features = conv.layer.normalised(features, *spectrum++, {.slope = kSlope, .pad = &conv != &model_.back()});
  // The logits use the normalised weights, the map the raw ones, as the official code does.
  const CamWeight cam_weights[] = {{gap_fc_.layer.weight, &spectrum[0]}, {gmp_fc_.layer.weight, &spectrum[1]}};
  const Tensor cam_logit = cam_logits(global_mean_max(features), cam_weights);
  const Tensor attended =
      conv1x1_of_scaled(features, gap_fc_.layer.weight, gmp_fc_.layer.weight, conv1x1_.weight, conv1x1_.bias, kSlope);
  const Tensor logits = conv_.layer.normalised(reflection_pad2d(attended, 1), spectrum[2]);
  return {logits, cam_logit, attended};
}

void Discriminator::visit(Visitor& f) {
  // Named by the positions in the official nn.Sequential, where pad, convolution and activation are three entries.
  for (std::size_t i = 0; i < model_.size(); ++i) f("model." + std::to_string(3 * i + 1), model_[i]);
  f("gap_fc", gap_fc_), f("gmp_fc", gmp_fc_), f("conv1x1", conv1x1_), f("conv", conv_);
}

}  // namespace minidl
