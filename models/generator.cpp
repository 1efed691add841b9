#include "models/generator.h"

#include "core/check.h"

namespace minidl {
namespace {

constexpr NormOptions kWithRelu{.relu = true};
// With the padding that the next convolution needs.
constexpr NormOptions kWithReluAndPad{.relu = true, .pad = 1};

constexpr LinearOptions kReluBehind{.relu = true};

GeneratorOptions checked(const GeneratorOptions& o) {
  check(o.image_channels >= 1 && o.channels >= 1 && o.residual_blocks >= 1, "generator: image channels ",
        o.image_channels, ", channels ", o.channels, " and residual blocks ", o.residual_blocks, " must be at least 1");
  check(o.image_size >= 16 && o.image_size % 4 == 0,
        "generator: the image size must be a multiple of 4, at least 16, not ", o.image_size);
  return o;
}

}  // namespace

Generator::ResidualBlock::ResidualBlock(Random& random, std::int64_t channels)
    : conv1(random, channels, channels, {.kernel = 3}), conv2(random, channels, channels, {.kernel = 3}) {}

Tensor Generator::ResidualBlock::operator()(const Tensor& x) const {
  const Tensor hidden = instance_norm(conv1(reflection_pad2d(x, 1)), kWithReluAndPad);
  return instance_norm(conv2(hidden), {}, x);
}

Generator::AdaptiveResidualBlock::AdaptiveResidualBlock(Random& random, std::int64_t channels)
    : conv1(random, channels, channels, {.kernel = 3}),
      norm1(channels, kWithReluAndPad),
      conv2(random, channels, channels, {.kernel = 3}),
      norm2(channels) {}

Tensor Generator::AdaptiveResidualBlock::operator()(const Tensor& x, const Tensor& gamma, const Tensor& beta) const {
  const Tensor hidden = norm1(conv1(reflection_pad2d(x, 1)), gamma, beta);
  return norm2(conv2(hidden), gamma, beta, x);
}

// Names are the positions in the official nn.Sequential, whose norms and activations are entries of their own.
Generator::Generator(Random& random, const GeneratorOptions& options)
    : options_(checked(options)),
      encoder_([&] {
        const std::int64_t ch = options.channels;
        Sequential s;
        s.add(ReflectionPad2d{3}).add("1", Conv2d(random, options.image_channels, ch, {.kernel = 7}));
        s.add(InstanceNorm2d{kWithReluAndPad}).add("5", Conv2d(random, ch, 2 * ch, {.kernel = 3, .stride = 2}));
        s.add(InstanceNorm2d{kWithReluAndPad}).add("9", Conv2d(random, 2 * ch, 4 * ch, {.kernel = 3, .stride = 2}));
        s.add(InstanceNorm2d{kWithRelu});
        for (std::int64_t i = 0; i < options.residual_blocks; ++i)
          s.add(std::to_string(12 + i), ResidualBlock(random, 4 * ch));
        return s;
      }()),
      gap_fc_(random, 4 * options.channels, 1, false),
      gmp_fc_(random, 4 * options.channels, 1, false),
      conv1x1_(random, 8 * options.channels, 4 * options.channels, {.kernel = 1, .bias = true, .slope = 0}),
      fc0_(random,
           options.light ? 4 * options.channels
                         : (options.image_size / 4) * (options.image_size / 4) * 4 * options.channels,
           4 * options.channels, false, kReluBehind),
      fc2_(random, 4 * options.channels, 4 * options.channels, false, kReluBehind),
      gamma_(random, 4 * options.channels, 4 * options.channels, false),
      beta_(random, 4 * options.channels, 4 * options.channels, false) {
  const std::int64_t ch = options.channels;
  for (std::int64_t i = 0; i < options.residual_blocks; ++i) decoder_.emplace_back(random, 4 * ch);
  upsampler_.add("2", UpsampleConv2d(random, 4 * ch, 2 * ch));
  upsampler_.add("3", ILN(2 * ch, kWithRelu));
  upsampler_.add("7", UpsampleConv2d(random, 2 * ch, ch));
  upsampler_.add("8", ILN(ch, {.relu = true, .pad = 3}))
      .add("11", Conv2d(random, ch, options.image_channels, {.kernel = 7}))
      .add(Tanh{});
}

Generator::Output Generator::operator()(const Tensor& image) {
  const Shape& s = image.shape();
  check(image.rank() == 4 && s[1] == options_.image_channels && s[2] % 4 == 0 && s[3] % 4 == 0,
        "generator: expected an image [N, ", options_.image_channels, ", H, W] with H and W multiples of 4, got ", s);
  check(options_.light || (s[2] == options_.image_size && s[3] == options_.image_size),
        "generator: this full model only takes images of ", options_.image_size, " x ", options_.image_size, ", got ",
        s);
  const Tensor encoded = encoder_(image);

  // Class activation map: both pooled vectors are judged, and the same weights say which channels matter.
  const CamWeight cam_weights[] = {{gap_fc_.weight}, {gmp_fc_.weight}};
  const Tensor cam_logit = cam_logits(global_mean_max(encoded), cam_weights);
  const Tensor attended = conv1x1_of_scaled(encoded, gap_fc_.weight, gmp_fc_.weight, conv1x1_.weight, conv1x1_.bias,
                                            conv1x1_.options.slope);

  const Tensor style = fc2_(fc0_(options_.light ? global_mean(attended) : flatten(attended)));
  const Tensor gamma = gamma_(style), beta = beta_(style);
  Tensor x = attended;
  for (const AdaptiveResidualBlock& block : decoder_) x = block(x, gamma, beta);
  return {upsampler_(x), cam_logit, attended};
}

void Generator::visit(Visitor& f) {
  f("DownBlock", encoder_);
  f("gap_fc", gap_fc_), f("gmp_fc", gmp_fc_), f("conv1x1", conv1x1_);
  f("FC.0", fc0_), f("FC.2", fc2_), f("gamma", gamma_), f("beta", beta_);
  for (std::size_t i = 0; i < decoder_.size(); ++i) f("UpBlock1_" + std::to_string(i + 1), decoder_[i]);
  f("UpBlock2", upsampler_);
}

}  // namespace minidl
