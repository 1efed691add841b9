// The generator of U-GAT-IT (Kim et al., ICLR 2020; the official ResnetGenerator).
#pragma once

#include <vector>

#include "layers/layers.h"

namespace minidl {

struct GeneratorOptions {
  std::int64_t image_channels = 3;
  std::int64_t channels = 64;  // after the first convolution
  std::int64_t residual_blocks = 4;
  std::int64_t image_size = 256;  // of a full model, fixed by its first linear layer
  bool light = false;             // pool before the style's linear layers instead of flattening
};

class Generator {
 public:
  // Draws the initial weights in the order of the official constructor. Throws Error for options that make no network.
  Generator(Random& random, const GeneratorOptions& options);

  struct Output {
    Tensor image;      // [N, 3, S, S] in [-1, 1]
    Tensor cam_logit;  // [N, 2]: is the input of the source domain?
    Tensor attended;   // [N, 4 channels, S/4, S/4], the features that the map has chosen

    // [N, 1, S/4, S/4]: where it looks.
    Tensor heatmap() const { return sum_channels(attended); }
  };
  // image [N, C, H, W] in [-1, 1]; H and W multiples of 4, and equal to image_size for a full model.
  Output operator()(const Tensor& image);

  void visit(Visitor& f);
  const GeneratorOptions& options() const { return options_; }

 private:
  struct ResidualBlock {
    Conv2d conv1, conv2;

    ResidualBlock(Random& random, std::int64_t channels);
    Tensor operator()(const Tensor& x) const;
    void visit(Visitor& f) { f("conv_block.1", conv1), f("conv_block.5", conv2); }
  };
  struct AdaptiveResidualBlock {
    Conv2d conv1;
    AdaILN norm1;
    Conv2d conv2;
    AdaILN norm2;

    AdaptiveResidualBlock(Random& random, std::int64_t channels);
    Tensor operator()(const Tensor& x, const Tensor& gamma, const Tensor& beta) const;
    void visit(Visitor& f) { f("conv1", conv1), f("norm1", norm1), f("conv2", conv2), f("norm2", norm2); }
  };

  // Declared, and so initialised, in the order in which the official constructor draws.
  GeneratorOptions options_;
  Sequential encoder_;
  Linear gap_fc_, gmp_fc_;
  Conv2d conv1x1_;
  Linear fc0_, fc2_, gamma_, beta_;
  std::vector<AdaptiveResidualBlock> decoder_;
  Sequential upsampler_;
};

}  // namespace minidl
