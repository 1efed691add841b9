// The discriminator of U-GAT-IT: a spectrally normalised PatchGAN with a class activation map.
#pragma once

#include "layers/layers.h"

namespace minidl {

struct DiscriminatorOptions {
  std::int64_t image_channels = 3;
  std::int64_t channels = 64;
  std::int64_t layers = 7;  // 7 sees the whole image ("global"), 5 a part of it ("local")
};

class Discriminator {
 public:
  // Draws the initial weights in the order of the official constructor. Throws Error for options that make no network.
  Discriminator(Random& random, const DiscriminatorOptions& options);

  struct Output {
    Tensor logits;     // [N, 1, h, w], one per patch
    Tensor cam_logit;  // [N, 2]
    Tensor attended;   // [N, channels, h + 1, w + 1], the features that the map has chosen

    // [N, 1, h + 1, w + 1]: where it looks.
    Tensor heatmap() const { return sum_channels(attended); }
  };
  // image [N, C, S, S]. In training mode every spectral norm makes one power iteration, or one for each of `calls`:
  // the outputs are those of so many calls one after the other.
  Output operator()(const Tensor& image, const Calls& calls = {});

  // The same in two steps, for several networks whose spectra are computed together: the spectra of the spectral
  // weights, in order, then the rest.
  std::vector<SpectralWeight> spectral_weights();
  Output operator()(const Tensor& image, std::span<const Spectrum> spectra) const;
  bool training() const { return conv_.training; }

  void visit(Visitor& f);

  // Side of the smallest square image that this many layers can judge.
  static std::int64_t smallest_image(std::int64_t layers) { return std::int64_t{3} << (layers - 2); }

 private:
  static constexpr float kSlope = 0.2f;

  std::vector<SpectralNorm<Conv2d>> model_;
  SpectralNorm<Linear> gap_fc_, gmp_fc_;
  Conv2d conv1x1_;
  SpectralNorm<Conv2d> conv_;
};

}  // namespace minidl
