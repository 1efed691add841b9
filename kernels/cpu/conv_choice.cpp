#include "kernels/cpu/conv_choice.h"

#include <algorithm>
#include <iterator>

#include "kernels/cpu/conv_1x1.h"
#include "kernels/cpu/conv_narrow.h"
#include "kernels/cpu/conv_primitives.h"
#include "kernels/cpu/winograd.h"

namespace minidl::cpu {
namespace {

constexpr struct {
  ConvAlgorithm algorithm;
  const char* name;
} kAlgorithms[] = {{ConvAlgorithm::direct, "direct"},
                   {ConvAlgorithm::direct_any, "direct_any"},
                   {ConvAlgorithm::direct_planar, "direct_planar"},
                   {ConvAlgorithm::winograd, "winograd"},
                   {ConvAlgorithm::winograd_int16, "winograd_int16"},
                   {ConvAlgorithm::narrow, "narrow"},
                   {ConvAlgorithm::products, "products"},
                   {ConvAlgorithm::bf16, "bf16"},
                   {ConvAlgorithm::bf16_any, "bf16_any"}};

// Whether an algorithm rounds its operands.
bool rounds(ConvAlgorithm algorithm) {
  using enum ConvAlgorithm;
  return algorithm == bf16 || algorithm == bf16_any || algorithm == winograd_int16;
}

// Whether our kernels for RGB sides serve a use.
bool narrow_serves(const ConvUse& use) {
  return narrow_output(use.dims) || (use.pass == ConvPass::backward_data && narrow_input(use.dims));
}

// How good the implementation of an algorithm is; nullopt if this processor, or the precision, has none.
std::optional<int> available_speed(const ConvUse& use, ConvAlgorithm algorithm) {
  if (rounds(algorithm) && use.precision != Precision::bf16) return std::nullopt;
  if (is_own(algorithm)) {
    const auto products = winograd_products(algorithm);
    const bool serves = products                               ? winograd_serves(use.dims, *products)
                        : algorithm == ConvAlgorithm::products ? products_serve(use)
                                                               : narrow_serves(use);
    return serves ? std::optional(kVectorised) : std::nullopt;
  }
  return implementation_speed(use, algorithm);
}

// With fewer channels or pixels than this Winograd's transforms cost what it saves: those of the weight, four of which
// a stride has for one, and which a gradient of the weight keeps in the cache (docs/benchmarks.md).
bool winograd_wins(const ConvUse& use) {
  const ConvDims& d = use.dims;
  const std::int64_t channels = std::min(d.in.c, d.out.c), pixels = d.out.pixels();
  if (!winograd_serves(d, WinogradProducts::float32)) return false;
  if (d.stride == 2) {
    // Pixels that repay the transforms; with AVX2 the products repay less.
    const std::int64_t least = d.in.block == 8 ? 2048 : use.pass == ConvPass::forward ? 512 : 128;
    return (use.precision != Precision::bf16 || has_tiles()) && channels >= 64 && d.in.n * pixels >= least;
  }
  return pixels >= 256 ? channels >= 32 : pixels >= 49 && channels >= 256;
}

// With fewer channels oneDNN's kernels are as fast, though they reorder the result, which is as large as the weight.
bool products_win(const ConvUse& use) { return products_serve(use) && std::min(use.dims.in.c, use.dims.out.c) >= 512; }

// Without tile registers bfloat16 multiplies and adds twice as much as float32 in a time. Reordering included, that is more
// than direct float32 algorithms have to offer, and Winograd's with a stride, but less than Winograd's without one and our
// narrow kernels (docs/benchmarks.md). On a handful of pixels a 1x1 convolution takes less time than reordering its weights.
bool bf16_wins(const ConvDims& d) { return !has_tiles() && (d.kernel > 1 || d.out.pixels() >= 32); }

// Tile registers multiply many times as much, which leaves to others what consists of reordering. Of what Winograd's
// algorithm serves in 16-bit integers, they take less time for many channels, and more for the gradient of the weight.
bool tiles_win(const ConvUse& use) {
  const ConvDims& d = use.dims;
  const bool mostly_weights = d.stride == 1 && d.out.pixels() < 256;
  const bool integers_serve = winograd_wins(use) && available_speed(use, ConvAlgorithm::winograd_int16);
  const std::int64_t channels = std::min(d.in.c, d.out.c);
  if (integers_serve && (use.pass == ConvPass::backward_weights || channels < 256)) return false;
  return available_speed(use, ConvAlgorithm::bf16_any) == kByTiles && channels >= 32 &&
         !(mostly_weights && (d.kernel > 1 || use.pass == ConvPass::backward_weights));
}

}  // namespace

bool has_tiles() {
  static const bool has = [] {
    const ImageDims image{1, 64, 16, 16, 16};
    const ConvUse use{ConvPass::forward, {image, image, 1, 1, 0}, false, Precision::bf16};
    return available_speed(use, ConvAlgorithm::bf16_any) == kByTiles;
  }();
  return has;
}

bool is_own(ConvAlgorithm algorithm) {
  return winograd_products(algorithm) || algorithm == ConvAlgorithm::narrow || algorithm == ConvAlgorithm::products;
}

std::optional<WinogradProducts> winograd_products(ConvAlgorithm algorithm) {
  if (algorithm == ConvAlgorithm::winograd) return WinogradProducts::float32;
  if (algorithm == ConvAlgorithm::winograd_int16) return WinogradProducts::int16;
  return std::nullopt;
}

const char* name_of(ConvAlgorithm algorithm) {
  for (const auto& entry : kAlgorithms)
    if (entry.algorithm == algorithm) return entry.name;
  return "";
}

std::optional<ConvAlgorithm> algorithm_named(std::string_view name) {
  for (const auto& entry : kAlgorithms)
    if (entry.name == name) return entry.algorithm;
  return std::nullopt;
}

ConvAlgorithm ruled_algorithm(const ConvUse& use) {
  using enum ConvAlgorithm;
  if (narrow_serves(use)) return narrow;
  if (tiles_win(use)) return bf16_any;
  if (winograd_wins(use)) return available_speed(use, winograd_int16) ? winograd_int16 : winograd;
  if (products_win(use) && use.dims.out.pixels() < 64) return products;
  if (bf16_wins(use.dims))
    for (const ConvAlgorithm rounding : {bf16, bf16_any})
      if (available_speed(use, rounding) == kVectorised) return rounding;
  if (products_win(use)) return products;
  // Our layout, unless another has a better implementation.
  ConvAlgorithm best = direct;
  int speed = available_speed(use, direct).value_or(-1);
  const auto consider = [&](ConvAlgorithm other) {
    const int other_speed = available_speed(use, other).value_or(-1);
    if (other_speed > speed) best = other, speed = other_speed;
  };
  if (speed < kVectorised) consider(direct_any);
  if (speed < kByProducts) consider(direct_planar);
  return best;
}

std::vector<ConvAlgorithm> candidates(const ConvUse& use) {
  std::vector<ConvAlgorithm> scalar, fast;
  for (const auto& [algorithm, name] : kAlgorithms)
    if (const auto speed = available_speed(use, algorithm))
      (*speed >= kByProducts ? fast : scalar).push_back(algorithm);
  if (fast.empty() && scalar.empty()) return {ConvAlgorithm::direct};  // whose failure will say why
  return fast.empty() ? scalar : fast;
}

ConvAlgorithm chosen_algorithm(const ConvChoice& choice) {
  const auto named = algorithm_named(choice.algorithm);
  return named && available_speed(choice.use, *named) ? *named : ruled_algorithm(choice.use);
}

}  // namespace minidl::cpu
