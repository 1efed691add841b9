// Convolutions in lower precisions, and by measured algorithms, against those by the fixed rule in float32.
#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>

#include "core/ops.h"
#include "kernels/cpu/conv_choice.h"
#include "models/conv_choices_text.h"
#include "models/ugatit.h"
#include "tests/bf16.h"
#include "tests/program.h"
#include "tests/test_util.h"

using namespace minidl;
using namespace test;
using Catch::Matchers::Contains;

namespace {

constexpr DeviceType kCpu = DeviceType::cpu;

Backend& backend() { return backend_of(kCpu); }

struct ConvCase {
  Nchw in;
  std::int64_t out_channels, kernel;
  ConvOptions options;
  bool bias;
};

// The output, the gradients of input and weight and, perhaps, bias.
using Results = std::vector<std::vector<float>>;

Results computed(const ConvCase& c, DeviceType device = kCpu) {
  const Tensor x = leaf(random_tensor(c.in.shape(), device, 1));
  const Tensor w = leaf(random_plain({c.out_channels, c.in.c, c.kernel, c.kernel}, device, 2));
  const Tensor b = c.bias ? leaf(random_tensor({c.out_channels}, device, 3)) : Tensor();
  const Tensor y = conv2d(x, w, b, c.options);
  backward({{y, random_like(y, 4)}});
  Results results{y.to_host(), x.grad().to_host(), w.grad().to_host()};
  if (c.bias) results.push_back(b.grad().to_host());
  return results;
}

void check_close(const Results& a, const Results& b, double tolerance) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    INFO("result " << i);
    CHECK(relative_error(a[i], b[i]) <= tolerance);
  }
}

void check_same_bits(const Results& a, const Results& b) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) CHECK(same_bits(a[i], b[i]));
}

const ConvCase kCases[] = {
    {{1, 3, 22, 22}, 32, 7, {}, false},       // RGB to blocks
    {{1, 32, 22, 22}, 3, 7, {}, false},       // blocks to RGB: our own kernels
    {{1, 3, 34, 30}, 64, 4, {2, 0}, true},    // the first layer of a discriminator
    {{1, 64, 33, 31}, 64, 3, {2, 0}, false},  //
    {{2, 64, 18, 18}, 64, 4, {2, 0}, true},   //
    {{1, 64, 18, 18}, 64, 3, {}, false},      // Winograd
    {{2, 16, 9, 17}, 32, 3, {1, 1}, true},    //
    {{1, 64, 16, 16}, 64, 1, {}, true},       //
    {{1, 64, 5, 5}, 1, 4, {}, false},         //
    {{3, 5, 9, 11}, 7, 3, {1, 1}, true},      // planar both
};

// The algorithms that `choices` name.
std::set<std::string> names(const std::vector<ConvChoice>& choices) {
  std::set<std::string> set;
  for (const ConvChoice& choice : choices) set.insert(choice.algorithm);
  return set;
}

}  // namespace

TEST_CASE("bf16, tf32: convolutions stay within rounding of float32, and are the same bits each time", "[modes]") {
  const DefaultModes modes;
  for (const DeviceType device : test_devices())
    for (const Precision precision : {Precision::bf16, Precision::tf32}) {
      CHECK(backend_of(device).precision() == Precision::fp32);
      if ((device == kCpu && precision == Precision::tf32) || !precision_or_skip(device, precision)) continue;
      const double most = precision == Precision::bf16 ? 1e-2 : 2e-3, least = most / 100;
      int rounded = 0;
      for (const ConvCase& c : kCases) {
        INFO(c.in.shape() << " to " << c.out_channels << ", kernel " << c.kernel << ", stride " << c.options.stride);
        backend_of(device).set_precision(Precision::fp32);
        const Results exact = computed(c, device);
        backend_of(device).set_precision(precision);
        const Results results = computed(c, device);
        check_close(results, exact, most);
        check_same_bits(results, computed(c, device));
        for (std::size_t i = 0; i < 3; ++i) rounded += relative_error(results[i], exact[i]) > least;
      }
      // Of 30: the others are what the device computes faster in float32, as with few channels.
      CHECK(rounded >= (precision != Precision::bf16 ? 9 : device == kCpu && cpu::has_tiles() ? 12 : 18));
      backend_of(device).set_precision(Precision::fp32);
    }
}

TEST_CASE("bf16: what is rounded is a function of the shape", "[modes]") {
  const DefaultModes modes;
  if (!precision_or_skip(kCpu, Precision::bf16)) return;
  const auto rule = [](ConvPass pass, const ConvDims& dims) {
    return std::string(cpu::name_of(cpu::ruled_algorithm({pass, dims, false, Precision::bf16})));
  };
  const auto image = [](std::int64_t c, std::int64_t side) {
    return ImageDims{1, c, side, side, backend().channel_block(c)};
  };
  const bool tiles = cpu::has_tiles();
  for (const ConvPass pass : {ConvPass::forward, ConvPass::backward_data, ConvPass::backward_weights}) {
    CHECK(rule(pass, {image(64, 66), image(128, 32), 4, 2, 0}) == (tiles ? "bf16_any" : "bf16"));
    CHECK(rule(pass, {image(64, 66), image(64, 64), 3, 1, 0}) == "winograd_int16");
    CHECK(rule(pass, {image(64, 34), image(128, 31), 4, 1, 0}) == (tiles ? "bf16_any" : "winograd"));
    CHECK(rule(pass, {image(64, 70), image(3, 64), 7, 1, 0}) == "narrow");
    const bool weights = pass == ConvPass::backward_weights;
    CHECK(rule(pass, {image(512, 3), image(256, 3), 1, 1, 0}) == (tiles && !weights ? "bf16_any" : "direct"));
    CHECK(rule(pass, {image(1024, 10), image(2048, 7), 4, 1, 0}) == "winograd");
  }
  CHECK(rule(ConvPass::backward_data, {image(3, 70), image(64, 64), 7, 1, 0}) == "narrow");
  // A run in float32 rounds nothing, whatever the choices that it reads.
  const ConvUse use{ConvPass::forward, {image(64, 66), image(64, 64), 3, 1, 0}, false, Precision::fp32};
  CHECK(cpu::ruled_algorithm(use) == cpu::ConvAlgorithm::winograd);
  const auto candidates = cpu::candidates(use);
  CHECK(std::count(candidates.begin(), candidates.end(), cpu::ConvAlgorithm::winograd_int16) == 0);
}

TEST_CASE("bf16: the losses of a network that rounds stay within 2 % of float32's", "[modes]") {
  const DefaultModes modes;
  const auto losses = [](Precision precision) {
    backend().set_precision(precision);
    Random random(3);
    Ugatit model(random, {.channels = 32, .residual_blocks = 1, .image_size = 96, .light = true});
    UgatitTrainer trainer(model, {});
    std::vector<float> values;
    for (unsigned i = 0; i < 4; ++i) {
      const UgatitLosses step = trainer.step(random_tensor({1, 3, 96, 96}, DeviceType::cpu, 2 * i, 0, 0.5f),
                                             random_tensor({1, 3, 96, 96}, DeviceType::cpu, 2 * i + 1, 0, 0.5f));
      values.push_back(step.discriminator);
      values.push_back(step.generator);
    }
    return values;
  };
  if (!precision_or_skip(kCpu, Precision::bf16)) return;
  const std::vector<float> exact = losses(Precision::fp32), rounded = losses(Precision::bf16);
  CHECK_FALSE(same_bits(exact, rounded));
  for (std::size_t i = 0; i < exact.size(); ++i) {
    INFO("loss " << i);
    CHECK(rounded[i] == Approx(exact[i]).epsilon(0.02));
  }
}

TEST_CASE("bf16: a processor without it is told so in one sentence", "[modes]") {
  const TemporaryFolder folder;
  for (const char* set : {"trainA", "trainB", "testA", "testB"})
    std::filesystem::create_directories(folder.path() / "data" / set);
  ProgramOptions options{.folder = folder.path(), .environment = {{"ONEDNN_MAX_CPU_ISA", "AVX2"}}};
  const auto refused = [&](const std::string& program, const std::string& arguments) {
    const Outcome outcome = run(program, words(arguments), options);
    INFO(outcome);
    CHECK(outcome.exit_code == 1);
    CHECK(outcome.out.empty());
    CHECK_THAT(outcome.err, Contains("--precision bf16 needs a processor with AVX512-BF16") &&
                                Contains("this one has none: use --precision fp32"));
    CHECK(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1);
  };
  const std::filesystem::path golden = std::filesystem::path(MINIDL_GOLDEN_DIR) / "replay_light_ch4_96";
  refused("train_ugatit", "--light --ch 2 --img_size 96 --device cpu --precision bf16 --dataset " +
                              (golden / "dataset" / "shapes_png").string());
}

TEST_CASE("benchmark: measured convolutions are right, kept, and restored", "[modes]") {
  const DefaultModes modes;
  const DeviceType device = GENERATE(from_range(test_devices()));
  Backend& backend = backend_of(device);
  std::map<const ConvCase*, Results> exact;
  for (const ConvCase& c : kCases) exact[&c] = computed(c, device);
  CHECK(backend.conv_choices().empty());

  backend.set_benchmark(true);
  std::map<const ConvCase*, Results> measured;
  for (const ConvCase& c : kCases) {
    measured[&c] = computed(c, device);
    check_close(measured[&c], exact[&c], 1e-5);
  }
  const std::vector<ConvChoice> choices = backend.conv_choices();
  CHECK(choices.size() == 3 * std::size(kCases));
  for (const ConvCase& c : kCases) check_same_bits(computed(c, device), measured[&c]);
  CHECK(backend.conv_choices() == choices);

  SECTION("as text") {
    const auto read = conv_choices_from_text(conv_choices_text(choices), backend);
    REQUIRE(read.has_value());
    CHECK(*read == choices);
  }
  SECTION("through a restart") {
    backend.set_benchmark(false);
    CHECK(backend.conv_choices().empty());
    for (const ConvCase& c : kCases) check_same_bits(computed(c, device), exact[&c]);
    backend.set_conv_choices(choices);  // nothing without benchmark
    CHECK(backend.conv_choices().empty());
    backend.set_benchmark(true);
    backend.set_conv_choices(choices);
    CHECK(backend.conv_choices() == choices);
    for (const ConvCase& c : kCases) check_same_bits(computed(c, device), measured[&c]);
    CHECK(backend.conv_choices() == choices);
  }
  SECTION("an unknown use is measured and added") {
    backend.set_conv_choices(std::span(choices).first(choices.size() - 2));
    for (const ConvCase& c : kCases) computed(c, device);
    CHECK(backend.conv_choices().size() == choices.size());
  }
}

TEST_CASE("benchmark: every candidate computes the convolution", "[modes]") {
  const DefaultModes modes;
  std::set<std::string> seen;
  for (const Precision precision : {Precision::fp32, Precision::bf16}) {
    if (precision == Precision::bf16 && !precision_or_skip(kCpu, precision)) return;
    for (const ConvCase& c : kCases) {
      backend().set_benchmark(false);
      backend().set_precision(Precision::fp32);
      const Results exact = computed(c);
      backend().set_precision(precision);
      backend().set_benchmark(true);
      computed(c);
      const std::vector<ConvChoice> choices = backend().conv_choices();
      REQUIRE(choices.size() == 3);
      for (std::size_t pass = 0; pass < 3; ++pass)
        for (const cpu::ConvAlgorithm algorithm : cpu::candidates(choices[pass].use)) {
          std::vector<ConvChoice> forced = choices;
          forced[pass].algorithm = cpu::name_of(algorithm);
          INFO(conv_choices_text(forced));
          seen.insert(forced[pass].algorithm);
          backend().set_conv_choices(forced);
          CHECK(backend().conv_choices() == forced);
          check_close(computed(c), exact, precision == Precision::bf16 ? 1e-2 : 1e-5);
        }
    }
  }
  CHECK(seen.contains("narrow"));
  CHECK(seen.contains("direct"));
}

TEST_CASE("benchmark: a choice that the device lacks falls back to the fixed rule", "[modes]") {
  const DefaultModes modes;
  const DeviceType device = GENERATE(from_range(test_devices()));
  Backend& backend = backend_of(device);
  const ConvCase c = kCases[3];
  const Results ruled = computed(c, device);
  backend.set_benchmark(true);
  computed(c, device);
  std::vector<ConvChoice> choices = backend.conv_choices();
  for (const char* unknown :
       {"fpga", "", "narrow", "cudnn 1 engine 0"}) {  // the CPU's narrow kernels do not serve this shape
    INFO(unknown);
    for (ConvChoice& choice : choices) choice.algorithm = unknown;
    backend.set_conv_choices(choices);
    CHECK_FALSE(names(backend.conv_choices()).contains(unknown));
    check_same_bits(computed(c, device), ruled);
  }
}

TEST_CASE("benchmark: choices in a damaged text are refused", "[modes]") {
  const std::string good =
      R"([{"pass":"forward","in":[1,16,9,9],"out":[1,32,7,7],"kernel":3,"stride":1,"padding":0,"bias":true,)"
      R"("precision":"fp32","algorithm":"direct"}])";
  REQUIRE(conv_choices_from_text(good, backend()).has_value());
  CHECK(conv_choices_from_text(good, backend())->at(0).use.dims.in.block == backend().channel_block(16));
  const auto changed = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    return text.replace(text.find(from), from.size(), to);
  };
  for (const std::string& text :
       {std::string(), std::string("{}"), std::string("[1]"), changed("forward", "sideways"), changed("fp32", "fp8"),
        changed("[1,32,7,7]", "[1,32,7]"), changed("[1,32,7,7]", "[1,32,8,7]"), changed("\"kernel\":3", "\"kernel\":0"),
        changed("[1,16,9,9]", "[2,16,9,9]"), changed("\"stride\":1", "\"stride\":-1"), changed("true", "7"),
        changed("\"padding\":0,", ""), changed("[1,16,9,9]", "[1,160000000000,9,9]")}) {
    INFO(text);
    CHECK_FALSE(conv_choices_from_text(text, backend()).has_value());
  }
}
