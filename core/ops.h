// The differentiable operations. Each checks its arguments, calls the backend and records its gradient.
//
// Invariants
//  - Arguments named x are images [N, C, H, W] unless said otherwise; weights are plain. All tensors of one call live
//  on
//    one device.
//  - A shape that does not fit throws Error naming the operation, the shapes and what was expected.
//  - Results are new tensors.
#pragma once

#include "core/autograd.h"
#include "core/image.h"
#include "core/tensor.h"

namespace minidl {

// --- convolution and linear -----------------------------------------------------------------------------------------
struct ConvOptions {
  std::int64_t stride = 1;
  std::int64_t padding = 0;  // zeros on all four sides; for reflection see reflection_pad2d
  float slope = 1;           // of a leaky ReLU behind the bias, fused; 1 for none, 0 for a ReLU
};
// Cross-correlation, torch.nn.functional.conv2d: weight [O, C, K, K], bias [O] or undefined;
// result [N, O, (H + 2 padding - K) / stride + 1, likewise].
Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, ConvOptions options = {});
// conv2d of upsample_nearest(x, 2, 1) with a weight [O, C, 3, 3], which never makes the large image: [N, O, 2 H, 2 W].
Tensor upsample_conv2d(const Tensor& x, const Tensor& weight);
struct LinearOptions {
  bool relu = false;  // fuse a ReLU behind the bias
};
// x [N, I] times weight [O, I] transposed, plus bias [O] or undefined: [N, O].
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, LinearOptions options = {});

// --- geometry -------------------------------------------------------------------------------------------------------
// Mirrors `pad` pixels on all sides without repeating the edge (torch.nn.ReflectionPad2d); pad < H and pad < W.
Tensor reflection_pad2d(const Tensor& x, std::int64_t pad);
// Repeats each pixel `scale` times along both axes (torch.nn.Upsample, mode nearest), then pads by reflection.
Tensor upsample_nearest(const Tensor& x, std::int64_t scale = 2, std::int64_t pad = 0);
// [N, C, H, W] to a matrix [N, C H W] in logical order.
Tensor flatten(const Tensor& x);

// --- normalisation --------------------------------------------------------------------------------------------------
struct NormOptions {
  float eps = 1e-5f;     // inside the root
  bool relu = false;     // fuse a ReLU behind the norm
  std::int64_t pad = 0;  // reflection_pad2d of the result, residual included
};
// Instance norm without affine part: over H, W with the biased variance (torch.nn.InstanceNorm2d). A residual, if
// given, is added last.
Tensor instance_norm(const Tensor& x, NormOptions options = {}, const Tensor& residual = {});
// ILN and AdaILN (U-GAT-IT, eq. 3): gamma * (rho * IN(x) + (1 - rho) * LN(x)) + beta, both variances unbiased. rho
// [1, C, 1, 1]; gamma and beta [1, C, 1, 1] (ILN) or [N, C], one style per sample (AdaILN). Needs more than one pixel.
Tensor layer_instance_norm(const Tensor& x, const Tensor& rho, const Tensor& gamma, const Tensor& beta,
                           NormOptions options = {}, const Tensor& residual = {});

// --- pointwise, any shape and layout --------------------------------------------------------------------------------
Tensor relu(const Tensor& x);
Tensor leaky_relu(const Tensor& x, float slope = 0.01f);
Tensor tanh(const Tensor& x);
Tensor sigmoid(const Tensor& x);
Tensor operator+(const Tensor& a, const Tensor& b);  // equal shapes
Tensor operator*(const Tensor& a, const Tensor& b);  // equal shapes
Tensor operator*(float factor, const Tensor& x);

// --- channels -------------------------------------------------------------------------------------------------------
// Mean over H, W: [N, C].
Tensor global_mean(const Tensor& x);
// Mean, then maximum over H, W: [2, N, C]. The maximum's gradient goes to its first position.
Tensor global_mean_max(const Tensor& x);
// Along channels: images [N, A, H, W] and [N, B, H, W], or matrices [N, A] and [N, B].
Tensor concat(const Tensor& a, const Tensor& b);
// Channel c of x times s[c]; s has C elements (the [1, C] weight of a linear layer, say). With second, 2 C channels:
// those of x times s, then those of x times second.
Tensor scale_channels(const Tensor& x, const Tensor& s, const Tensor& second = {});
// conv2d of scale_channels(x, a, b) with a plain weight [O, 2 C, 1, 1], then a leaky ReLU (ConvOptions). Where nothing
// is recorded the factors go into the weight: half the multiplications, and no other image.
Tensor conv1x1_of_scaled(const Tensor& x, const Tensor& a, const Tensor& b, const Tensor& weight, const Tensor& bias,
                         float slope = 1);
// Sum over channels: [N, 1, H, W].
Tensor sum_channels(const Tensor& x);

// --- samples of a batch, any rank and layout ------------------------------------------------------------------------
// The samples of a, then those of b: [A, ...] and [B, ...] to [A + B, ...].
Tensor concat_samples(const Tensor& a, const Tensor& b);
// Samples [begin, begin + count) of x.
Tensor slice_samples(const Tensor& x, std::int64_t begin, std::int64_t count);

// --- reductions and losses: tensors of one element, means over all elements -----------------------------------------
Tensor mean(const Tensor& x);
Tensor mse_loss(const Tensor& x, float target);
Tensor l1_loss(const Tensor& x, const Tensor& target);  // target gets no gradient
Tensor bce_with_logits_loss(const Tensor& logits, float target);

// One term of a weighted sum of losses, on some samples of x.
struct Cost {
  Loss loss;
  Tensor x;
  std::int64_t begin = 0, count = 0;  // samples [begin, begin + count) of x; count 0: all from begin on
  float target = 0;                   // of mse and bce
  Tensor targets = {};                // of l1: as many samples, like those of x
  float weight = 1;
};
using Cotangents = std::vector<std::pair<Tensor, Tensor>>;
// Computes many losses and their gradients in one pass. Writes the unweighted losses to elements first, first + 1, ...
// of `values` (not recorded), and returns what backward takes to differentiate the weighted sum: every x that requires
// a gradient, with its cotangent, which is 0 at samples that no cost is about. Throws Error where costs of one x
// overlap.
Cotangents evaluate_costs(std::span<const Cost> costs, const Tensor& values, std::int64_t first = 0);

// --- spectral norm (torch.nn.utils.spectral_norm): the weight divided by its largest singular value -----------------
// weight / sigma, where sigma = u^T W v for the weight as a matrix W [O, rest]; u [O], v [rest]. If iterate, one power
// iteration renews u and v first, in place; an earlier result keeps copies of those that it was made with.
Tensor spectral_norm(const Tensor& weight, Buffer& u, Buffer& v, bool iterate);

// The batch of one call, cut into consecutive calls of so many samples each; empty stands for the whole batch.
using Calls = std::vector<std::int64_t>;
// A weight and the singular vectors that are kept for it.
struct SpectralWeight {
  const Tensor& weight;
  Buffer &u, &v;
};
// The sigmas of one weight, one for each call, and the singular vectors that each was computed with.
struct Spectrum {
  Calls calls;
  Tensor sigma;  // [calls], or [1]
  std::vector<Tensor> u, v;
};
// The spectra of several weights, all of one device, computed together. If iterate, each of `calls` has a power
// iteration of its own before it, as if they had come one after the other.
std::vector<Spectrum> spectra(std::span<const SpectralWeight> weights, bool iterate, const Calls& calls = {});

// What follows the bias, fused.
struct SpectralOptions {
  float slope = 1;       // of a leaky_relu; 1 for none
  std::int64_t pad = 0;  // reflection_pad2d
};
// conv2d and linear by the weight / sigma, without forming that weight: sigma divides the result. The calls of the
// spectrum share one convolution.
Tensor spectral_conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias, const Spectrum& spectrum,
                       ConvOptions options = {}, SpectralOptions spectral_options = {});
Tensor spectral_linear(const Tensor& x, const Tensor& weight, const Tensor& bias, const Spectrum& spectrum);

// A weight [1, C] of a class activation map, divided by its sigma if there is a spectrum.
struct CamWeight {
  const Tensor& weight;
  const Spectrum* spectrum = nullptr;
};
// Every part of pooled values [parts, N, C], as global_mean_max gives them, times a weight of its own: [N, parts]. All
// weights have a spectrum of the same calls, or none has.
Tensor cam_logits(const Tensor& pooled, std::span<const CamWeight> weights);

// --- images in and out ----------------------------------------------------------------------------------------------
// Bytes [N, H, W, C] of equally sized images to values in [-1, 1].
Tensor images_to_tensor(std::span<const std::uint8_t> bytes, std::int64_t n, std::int64_t height, std::int64_t width,
                        std::int64_t channels, DeviceType device = DeviceType::cpu);
// Image n of a batch in [-1, 1], rounded to bytes as the reference saves pictures; C is 1 or 3.
Image tensor_to_image(const Tensor& x, std::int64_t n = 0);
// Every image of a batch, likewise, row by row in so many columns; places that are left over stay black.
Image tensor_to_grid(const Tensor& x, std::int64_t columns);

}  // namespace minidl
