// Operations that are fused where nothing is recorded, against the operations that they stand for.
#include "core/ops.h"
#include "layers/layers.h"
#include "tests/test_util.h"

using namespace minidl;
using namespace test;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

TEST_CASE("norms that pad their result equal norm and reflection_pad2d to the bit", "[fused]") {
  std::vector<Nchw> cases = image_cases();
  for (const Nchw& large : large_image_cases())
    if (large.h > 1) cases.push_back(large);
  for (const DeviceType device : test_devices())
    for (std::size_t i = 0; i < cases.size(); ++i)
      for (const std::int64_t pad : {1, 3}) {
        const Nchw& d = cases[i];
        const bool relu = (pad == 1) == (i % 2 == 0);
        if (pad >= d.h || pad >= d.w) continue;
        INFO(d.shape() << ", pad " << pad << (relu ? ", relu" : ""));
        const Tensor x = random_tensor(d.shape(), device, 1), residual = random_tensor(d.shape(), device, 2);
        const Tensor rho = random_tensor({1, d.c, 1, 1}, device, 3, 0.5f, 0.2f);
        const Tensor gamma = random_tensor({d.n, d.c}, device, 4), beta = random_tensor({d.n, d.c}, device, 5);
        const NormOptions plain{.relu = relu}, padded{.relu = relu, .pad = pad};
        const auto instance = instance_norm(x, padded);
        CHECK(same_bits(instance, reflection_pad2d(instance_norm(x, plain), pad)));
        CHECK(same_bits(instance, instance_norm(leaf(x), padded)));
        CHECK(same_bits(instance_norm(x, padded, residual), reflection_pad2d(instance_norm(x, plain, residual), pad)));
        const auto adaptive = layer_instance_norm(x, rho, gamma, beta, padded, residual);
        CHECK(same_bits(adaptive, reflection_pad2d(layer_instance_norm(x, rho, gamma, beta, plain, residual), pad)));
        CHECK(same_bits(adaptive, layer_instance_norm(x, leaf(rho), gamma, beta, padded, residual)));
      }
}

TEST_CASE("the gradient passes through a norm that pads", "[fused]") {
  for (const DeviceType device : test_devices())
    for (const std::int64_t pad : {1, 2, 4}) {  // at 4 pixels are mirrored at both ends
      const Tensor x = random_tensor({2, 16, 6, 9}, device, 1), fused = leaf(x), apart = leaf(x);
      const Tensor y = instance_norm(fused, {.relu = true, .pad = pad});
      const Tensor cotangent = random_like(y, 2);
      backward({{y, cotangent}});
      backward({{reflection_pad2d(instance_norm(apart, {.relu = true}), pad), cotangent}});
      CHECK(same_bits(fused.grad(), apart.grad()));
    }
}

TEST_CASE("upsample_nearest that pads equals upsample_nearest and reflection_pad2d to the bit", "[fused]") {
  const std::vector<Nchw> cases = image_cases();
  for (const DeviceType device : test_devices())
    for (std::size_t i = 0; i < cases.size(); ++i)
      for (const std::int64_t scale : {1, 2, 3}) {
        const Nchw& d = cases[i];
        const std::int64_t pad = 1 + (static_cast<std::int64_t>(i) + scale) % 2;
        if (pad >= d.h * scale || pad >= d.w * scale) continue;
        INFO(d.shape() << ", scale " << scale << ", pad " << pad);
        const Tensor x = random_tensor(d.shape(), device, 1), recorded = leaf(x), apart = leaf(x);
        const Tensor expected = reflection_pad2d(upsample_nearest(apart, scale), pad);
        CHECK(same_bits(upsample_nearest(x, scale, pad), expected));
        const Tensor y = upsample_nearest(recorded, scale, pad);
        CHECK(same_bits(y, expected));
        const Tensor cotangent = random_like(y, 2);
        backward({{y, cotangent}});
        backward({{expected, cotangent}});
        CHECK(same_bits(recorded.grad(), apart.grad()));
      }
}

TEST_CASE("upsample_conv2d equals upsample_nearest that pads and conv2d", "[fused]") {
  std::vector<Nchw> cases = image_cases();
  cases.push_back({2, 64, 31, 33});  // Winograd's, where there is one
  for (const DeviceType device : test_devices())
    for (const Nchw& d : cases) {
      INFO(d.shape());
      const std::int64_t out = d.c % 16 == 0 ? d.c : d.c + 3;
      const Tensor x = random_tensor(d.shape(), device, 1), weight = random_plain({out, d.c, 3, 3}, device, 2);
      const Tensor fused_x = leaf(x), fused_weight = leaf(weight), apart_x = leaf(x), apart_weight = leaf(weight);
      const Tensor y = upsample_conv2d(fused_x, fused_weight);
      const Tensor expected = conv2d(upsample_nearest(apart_x, 2, 1), apart_weight);
      REQUIRE(y.shape() == expected.shape());
      CHECK(relative_error(y.to_host(), expected.to_host()) <= 2e-6);
      const Tensor cotangent = random_like(y, 3);
      backward({{y, cotangent}});
      backward({{expected, cotangent}});
      CHECK(relative_error(fused_x.grad().to_host(), apart_x.grad().to_host()) <= 2e-6);
      // Either is a sum of thousands of products in float32.
      CHECK(relative_error(fused_weight.grad().to_host(), apart_weight.grad().to_host()) <= 5e-6);
    }
}

TEST_CASE("conv1x1_of_scaled equals the convolution of the two scaled images", "[fused]") {
  for (const DeviceType device : test_devices())
    for (const Nchw& d : image_cases())
      for (const bool with_bias : {false, true}) {
        const std::int64_t out = d.c + 3;
        INFO(d.shape() << " to " << out);
        const Tensor x = random_tensor(d.shape(), device, 1), weight = random_plain({out, 2 * d.c, 1, 1}, device, 2);
        const Tensor a = random_tensor({1, d.c}, device, 3), b = random_tensor({1, d.c}, device, 4);
        const Tensor bias = with_bias ? random_tensor({out}, device, 5) : Tensor();
        const Tensor expected = conv2d(concat(scale_channels(x, a), scale_channels(x, b)), weight, bias);
        CHECK(relative_error(conv1x1_of_scaled(x, a, b, weight, bias).to_host(), expected.to_host()) <= 2e-6);
        const Tensor recorded = conv1x1_of_scaled(x, leaf(a), b, weight, bias);
        CHECK(recorded.requires_grad());
        CHECK(relative_error(recorded.to_host(), expected.to_host()) <= 1e-6);
        CHECK(relative_error(conv1x1_of_scaled(x, leaf(a), b, weight, bias, 0.2f).to_host(),
                             leaky_relu(expected, 0.2f).to_host()) <= 1e-6);
        // Factors that change in place are seen.
        a.copy_from_host(normal_values(d.c, 6));
        const Tensor changed = conv2d(concat(scale_channels(x, a), scale_channels(x, b)), weight, bias);
        CHECK(relative_error(conv1x1_of_scaled(x, a, b, weight, bias).to_host(), changed.to_host()) <= 2e-6);
      }
}

TEST_CASE("fused operations refuse what does not fit, by name", "[fused]") {
  const Tensor x = random_tensor({1, 16, 4, 5}, DeviceType::cpu, 1),
               w = random_plain({8, 32, 1, 1}, DeviceType::cpu, 2);
  const Tensor a = random_tensor({1, 16}, DeviceType::cpu, 3);
  CHECK_THAT(error_of([&] { instance_norm(x, {.pad = 4}); }), StartsWith("instance_norm: "));
  CHECK_THAT(error_of([&] { instance_norm(leaf(x), {.pad = -1}); }), StartsWith("instance_norm: "));
  CHECK_THAT(error_of([&] { upsample_nearest(x, 2, 8); }), StartsWith("upsample_nearest: "));
  CHECK_THAT(error_of([&] { upsample_nearest(x, 2, -1); }), StartsWith("upsample_nearest: "));
  CHECK_THAT(error_of([&] {
               upsample_conv2d(x, random_plain({8, 16, 5, 5}, DeviceType::cpu, 1));
             }),
             StartsWith("upsample_conv2d: ") && Contains("[O, C, 3, 3]"));
  CHECK_THAT(error_of([&] {
               upsample_conv2d(x, random_plain({8, 32, 3, 3}, DeviceType::cpu, 1));
             }),
             StartsWith("upsample_conv2d: input [1, 16, 4, 5] has 16 channels"));
  const auto error = [&](const Tensor& image, const Tensor& first, const Tensor& second, const Tensor& weight) {
    return error_of([&] { conv1x1_of_scaled(image, first, second, weight, {}); });
  };
  CHECK(error(x, a, a, w) == "");
  CHECK_THAT(error(Tensor(), a, a, w), StartsWith("conv1x1_of_scaled: "));
  CHECK_THAT(error(x, Tensor(), a, w), StartsWith("conv1x1_of_scaled: "));
  CHECK_THAT(error(x, a, random_tensor({8}, DeviceType::cpu, 3), w), StartsWith("conv1x1_of_scaled: "));
  CHECK_THAT(error(x, a, a, Tensor()), StartsWith("conv1x1_of_scaled: "));
  CHECK_THAT(error(x, a, a, random_plain({8, 16, 1, 1}, DeviceType::cpu, 2)), StartsWith("conv1x1_of_scaled: "));
  CHECK_THAT(error(x, a, a, random_plain({2, 32, 2, 2}, DeviceType::cpu, 2)), StartsWith("conv1x1_of_scaled: "));
}

TEST_CASE("layers made with a blank generator have the shapes of any others and draw nothing", "[fused]") {
  Random drawing(1), blank = Random::blank();
  const auto before = blank.state();
  SpectralNorm<Conv2d> drawn(drawing, Conv2d(drawing, 3, 8, {.kernel = 4, .bias = true}));
  SpectralNorm<Conv2d> empty(blank, Conv2d(blank, 3, 8, {.kernel = 4, .bias = true}));
  CHECK(blank.state() == before);
  const auto expected = state_of(drawn), state = state_of(empty);
  REQUIRE(state.size() == expected.size());
  for (std::size_t i = 0; i < state.size(); ++i) {
    CHECK(state[i].name == expected[i].name);
    CHECK(state[i].tensor->shape() == expected[i].tensor->shape());
    CHECK(state[i].tensor->block() == expected[i].tensor->block());
  }
}
