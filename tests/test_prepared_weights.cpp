// Weights that inference keeps in its kernels' own format: results, and that a change of the values is never missed.

#include "core/adam.h"
#include "core/ops.h"
#include "kernels/cpu/conv_choice.h"
#include "models/checkpoint.h"
#include "tests/bf16.h"
#include "tests/golden.h"
#include "tests/program.h"
#include "tests/test_util.h"

using namespace minidl;
using namespace test;

namespace {

struct Number final : PreparedWeights::Form {
  int value;
  explicit Number(int v) : value(v) {}
};
struct Other final : PreparedWeights::Form {};

std::shared_ptr<const Number> number(PreparedWeights& kept, int wanted, int& made) {
  return kept.find_or_make<Number>([&](const Number& n) { return n.value == wanted; },
                                   [&] { return ++made, std::make_shared<const Number>(wanted); });
}

struct Geometry {
  Nchw in;
  std::int64_t out_channels, kernel;
  ConvOptions options;
  bool bias;
};

// Winograd's algorithm, direct ones, RGB on either side, strides, planar memory.
constexpr Geometry kGeometries[] = {
    {{1, 32, 19, 23}, 32, 3, {}, false},     {{2, 64, 18, 18}, 32, 3, {}, true},
    {{1, 32, 16, 18}, 48, 3, {1, 1}, false}, {{1, 16, 33, 31}, 32, 3, {2, 0}, false},
    {{1, 48, 17, 9}, 32, 1, {}, true},       {{1, 3, 17, 19}, 64, 7, {}, false},
    {{1, 64, 13, 23}, 3, 7, {}, true},       {{1, 5, 9, 7}, 7, 3, {1, 1}, true},
};

Tensor weight_of(const Geometry& g, DeviceType device, unsigned seed) {
  return random_plain({g.out_channels, g.in.c, g.kernel, g.kernel}, device, seed);
}
Tensor bias_of(const Geometry& g, DeviceType device) {
  return g.bias ? random_tensor({g.out_channels}, device, 3) : Tensor();
}

namespace fs = std::filesystem;

constexpr GeneratorOptions kGenerator{.channels = 16, .residual_blocks = 1, .image_size = 96, .light = true};

std::vector<float> translated(Generator& generator, const Tensor& image) {
  const NoGrad no_grad;
  return generator(image).image.to_host();
}

}  // namespace

TEST_CASE("prepared weights: a form is made once, found by kind and key, and bounded in number", "[prepared]") {
  PreparedWeights kept;
  int made = 0;
  const auto first = number(kept, 1, made);
  CHECK(number(kept, 1, made) == first);
  CHECK(made == 1);
  kept.find_or_make<Other>([](const Other&) { return true; }, [] { return std::make_shared<const Other>(); });
  CHECK(number(kept, 1, made) == first);
  CHECK(number(kept, 2, made)->value == 2);
  CHECK(number(kept, 3, made)->value == 3);
  CHECK(made == 3);
  number(kept, 4, made);  // the fifth: the first goes
  CHECK(first.use_count() == 1);
  CHECK(first->value == 1);
  CHECK(number(kept, 3, made)->value == 3);
  CHECK(made == 4);
  kept.clear();
  CHECK(number(kept, 3, made)->value == 3);
  CHECK(made == 5);
}

TEST_CASE("conv2d without gradients equals the recorded one", "[prepared]") {
  for (const DeviceType device : test_devices())
    for (const Geometry& g : kGeometries) {
      INFO(g.in.shape() << " to " << g.out_channels << ", kernel " << g.kernel << ", stride " << g.options.stride);
      const Tensor w = weight_of(g, device, 2), bias = bias_of(g, device);
      // The weight serves several sizes in turn.
      for (const std::int64_t more : {0, 4, 0}) {
        const Tensor x = random_tensor({g.in.n, g.in.c, g.in.h + more, g.in.w}, device, 1);
        const Tensor recorded = conv2d(x, leaf(w.clone()), bias, g.options), y = conv2d(x, w, bias, g.options);
        REQUIRE(recorded.requires_grad());
        REQUIRE_FALSE(y.requires_grad());
        CHECK(relative_error(y.to_host(), recorded.to_host()) <= 2e-6);
        CHECK(same_bits(conv2d(x, w, bias, g.options), y));
      }
    }
}

TEST_CASE("conv2d sees a weight that was changed in place", "[prepared]") {
  for (const DeviceType device : test_devices())
    for (const Geometry& g : kGeometries) {
      INFO(g.in.shape() << " to " << g.out_channels << ", kernel " << g.kernel << ", stride " << g.options.stride);
      const Tensor x = random_tensor(g.in.shape(), device, 1), bias = bias_of(g, device);
      Parameter parameter(weight_of(g, device, 2));
      const auto infer = [&](const Tensor& w) {
        const NoGrad no_grad;
        return conv2d(x, w, bias, g.options).to_host();
      };
      const auto is_fresh = [&] { return same_bits(infer(parameter), infer(parameter.tensor().clone())); };
      const std::vector<float> before = infer(parameter);

      parameter.tensor().copy_from_host(weight_of(g, device, 4).to_host());
      CHECK_FALSE(same_bits(infer(parameter), before));
      CHECK(is_fresh());

      Adam adam({&parameter}, {.lr = 0.1});
      const Tensor y = conv2d(x, parameter, bias, g.options);
      backward({{y, random_like(y, 5)}});
      const std::vector<float> loaded = infer(parameter);
      adam.step();
      CHECK_FALSE(same_bits(infer(parameter), loaded));
      CHECK(is_fresh());
    }
}

TEST_CASE("a generator that has translated sees the weights that a checkpoint brings", "[prepared]") {
  test::TemporaryFolder folder;
  const UgatitOptions options{
      .channels = 16, .residual_blocks = 1, .discriminator_depth = 4, .image_size = 32, .light = true};
  const fs::path path = folder.path() / "model.safetensors";
  Random random(1);
  Ugatit saved(random, options), model(random, options);
  UgatitTrainer trainer(saved, {});
  save_training_checkpoint(path, saved, trainer, "{}", {});
  const Tensor image = random_tensor({1, 3, 32, 32}, DeviceType::cpu, 1);
  const std::vector<float> before = translated(model.genA2B, image), expected = translated(saved.genA2B, image);
  load_networks(SafetensorsFile(path), model);
  CHECK_FALSE(same_bits(before, expected));
  CHECK(same_bits(translated(model.genA2B, image), expected));
}

TEST_CASE("a translation equals one by direct convolutions", "[prepared]") {
  const DefaultModes modes;
  Backend& backend = backend_of(DeviceType::cpu);
  Random random(1);
  Generator generator(random, {.channels = 32, .residual_blocks = 4, .image_size = 128, .light = true});
  const Tensor images = random_tensor({2, 3, 128, 128}, DeviceType::cpu, 1, 0, 0.5f);
  const std::vector<float> ruled = translated(generator, images);
  const std::vector<float> recorded = generator(images).image.to_host();

  backend.set_benchmark(true);
  translated(generator, images);
  std::vector<ConvChoice> choices = backend.conv_choices();
  int winograd = 0;
  for (ConvChoice& choice : choices)
    if (cpu::ruled_algorithm(choice.use) == cpu::ConvAlgorithm::winograd) {
      choice.algorithm = "direct";
      ++winograd;
    }
  CHECK(winograd > 0);
  backend.set_conv_choices(choices);
  const std::vector<float> direct = translated(generator, images);
  CHECK_FALSE(same_bits(ruled, direct));
  CHECK(relative_error(ruled, direct) <= 5e-5);
  CHECK(relative_error(recorded, direct) <= 5e-5);
}
