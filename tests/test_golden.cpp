// The networks and the training iteration against the numbers of the reference.
#include <catch2/catch.hpp>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "models/ugatit.h"
#include "tests/golden.h"
#include "tests/test_util.h"

using namespace minidl;
using test::test_devices;

namespace {

struct Case {
  std::string folder;
  nlohmann::json losses;
  UgatitOptions options;
  std::uint64_t seed;
  int iterations;

  explicit Case(const std::string& name) : folder(name) {
    std::ifstream(golden::path(name + "/losses.json")) >> losses;
    const auto& config = losses["config"];
    options = {.channels = config["ch"],
               .residual_blocks = config["n_res"],
               .image_size = config["size"],
               .light = config["light"] == 1};
    seed = config["seed"];
    iterations = config["iters"];
  }
};

// Checks that what the observer reports is what the reference computed, and that all of it was reported.
class Comparison {
 public:
  explicit Comparison(std::map<std::string, golden::Array> expected) : expected_(std::move(expected)) {}

  void operator()(const std::string& name, const Tensor& value) {
    const auto found = expected_.find(name);
    if (found == expected_.end()) return;
    // Errors of the first pass grow in the second pass through a generator.
    const double tolerance = name == "fake_A2B2A" || name == "fake_B2A2B" ? 5e-5 : 2e-5;
    INFO(name);
    CHECK(value.shape() == Shape(found->second.shape));
    CHECK(golden::relative_error(value.to_host(), found->second.values) <= tolerance);
    seen_.insert(name);
  }

  void require_complete() const {
    for (const auto& [name, array] : expected_)
      if (name != "real_A" && name != "real_B") {
        INFO(name << " was never computed");
        CHECK(seen_.count(name) == 1);
      }
  }

 private:
  std::map<std::string, golden::Array> expected_;
  std::set<std::string> seen_;
};

// Which gradients are missing or differ from the reference's, with the error.
std::vector<std::string> wrong_gradients(Ugatit& model, const std::map<std::string, golden::Array>& expected) {
  std::vector<std::string> wrong;
  std::size_t compared = 0;
  for (const auto& entry : state_of(model)) {
    const auto found = expected.find(entry.name);
    if (found == expected.end()) continue;
    ++compared;
    const Tensor grad = entry.tensor->grad();
    const double error = grad.defined() ? golden::relative_error(grad.to_host(), found->second.values) : INFINITY;
    if (!(error <= 1e-4)) wrong.push_back(entry.name + " by " + std::to_string(error));
  }
  if (compared != expected.size()) wrong.push_back("the model lacks some of the reference's parameters");
  return wrong;
}

// Moves every weight of the generators to one of its two neighbours among the floats, or leaves it; nudge 0 leaves all.
void nudge_generators(Ugatit& model, int nudge) {
  std::minstd_rand random(static_cast<unsigned>(nudge));
  for (auto* generator : {&model.genA2B, &model.genB2A})
    for (const Parameter* parameter : parameters_of(*generator)) {
      std::vector<float> values = parameter->tensor().to_host();
      for (float& value : values)
        if (const auto way = random() % 3; nudge != 0 && way != 0)
          value = std::nextafter(value, way == 1 ? INFINITY : -INFINITY);
      parameter->tensor().copy_from_host(values);
    }
}

std::vector<std::string> wrong_losses(const UgatitLosses& losses, const nlohmann::json& expected) {
  std::vector<std::string> wrong;
  const auto compare = [&](const std::string& name, double value) {
    const double reference = expected.value(name, std::nan(""));
    if (!(std::abs(value - reference) <= 1e-5 * std::max(1.0, std::abs(reference))))
      wrong.push_back(name + ": " + std::to_string(value) + ", reference " + std::to_string(reference));
  };
  if (losses.parts.size() + 2 != expected.size()) wrong.push_back("another number of losses");
  for (const auto& [name, value] : losses.parts) compare(name, value);
  compare("Discriminator_loss", losses.discriminator);
  compare("Generator_loss", losses.generator);
  return wrong;
}

// What differs from the reference in three iterations from its weights, moved by `nudge`. The first iteration's results
// and losses are checked at once: they are continuous in the weights.
std::vector<std::string> wrong_after_training(const std::string& folder, DeviceType device, int nudge) {
  const Case c(folder);
  Random random(c.seed);
  Ugatit model(random, c.options);
  const auto start = golden::load(folder + "/weights_0.safetensors");
  CHECK(golden::set_state(model, start) == start.size());
  nudge_generators(model, nudge);
  move_to(model, device);
  UgatitTrainer trainer(model, {.decay_lr = false});
  std::vector<std::string> wrong;

  for (int i = 1; i <= c.iterations; ++i) {
    INFO("iteration " << i);
    const std::string number = std::to_string(i);
    const auto tensors = golden::load(folder + "/tensors_" + number + ".safetensors");
    Comparison comparison(tensors);
    trainer.observer = [&](std::string_view name, const Tensor& value) {
      if (i > 1) return;  // later iterations start from weights that Adam's signs have moved apart
      if (name == "D_backward" || name == "G_backward")
        for (const auto& what : wrong_gradients(model, golden::load(folder + "/grads_" + name[0] + "_1.safetensors")))
          wrong.push_back("gradient of " + what);
      else
        comparison(std::string(name), value);
    };
    const UgatitLosses losses = trainer.step(tensors.at("real_A").image(device), tensors.at("real_B").image(device));
    const auto differing = wrong_losses(losses, c.losses["losses"][i - 1]);
    if (i == 1) {
      comparison.require_complete();
      CHECK(differing == std::vector<std::string>{});
    }
    for (const auto& what : differing) wrong.push_back("iteration " + number + ", " + what);
  }

  // Adam turns the sign of a near-zero gradient into a whole step, hence a tolerance relative to the way travelled.
  const auto end = golden::load(folder + "/weights_3.safetensors");
  for (const auto& entry : state_of(model)) {
    const auto &w3 = end.at(entry.name).values, &w0 = start.at(entry.name).values;
    const double error = golden::distance(entry.tensor->to_host(), w3),
                 tolerance = 5e-3 * golden::distance(w3, w0) + 5e-5 * golden::norm(w3);
    if (!(error <= tolerance))
      wrong.push_back(entry.name + " after training by " + std::to_string(error / tolerance) + " tolerances");
  }
  return wrong;
}

// Gradients jump where a ReLU's input changes sign, and the reference has inputs as near to 0 as 1.2e-6 (the full
// model's genA2B on fake_B2A, first residual block): within the rounding of float32, so that the order of a sum decides
// on which side of the jump one lands. PyTorch itself lands on either, by the processor; Adam does the same to the sign
// of a gradient near 0. So the reference's numbers must be reached, at full tolerance, from its own weights or from
// neighbours of them that differ by at most one unit in the last place.
void check_training(const std::string& folder) {
  constexpr int kNudges = 24;
  for (const DeviceType device : test_devices()) {
    INFO("on " << backend_of(device).name());
    std::vector<std::string> none, wrong = wrong_after_training(folder, device, 0);
    for (int nudge = 1; nudge < kNudges && wrong != none; ++nudge)
      if (wrong_after_training(folder, device, nudge) == none) wrong = none;
    CHECK(wrong == none);
  }
}

void check_evaluation(const std::string& folder, DeviceType device) {
  const Case c(folder);
  Random random(c.seed);
  Ugatit model(random, c.options);
  const auto weights = golden::load(folder + "/weights_3.safetensors");
  REQUIRE(golden::set_state(model, weights) == weights.size());
  move_to(model, device);
  set_training(model, false);
  const NoGrad no_grad;
  const auto expected = golden::load(folder + "/eval.safetensors");
  const Tensor real_A = expected.at("real_A").image(device);
  const Generator::Output out = model.genA2B(real_A);
  CHECK(golden::relative_error(out.image.to_host(), expected.at("fake_A2B").values) <= 2e-5);
  CHECK(golden::relative_error(out.heatmap().to_host(), expected.at("fake_A2B_heatmap").values) <= 2e-5);
  CHECK(golden::relative_error(model.disGA(real_A).logits.to_host(), expected.at("D_GA_logit").values) <= 2e-5);
  // Evaluation leaves u and v alone.
  for (const auto& entry : state_of(model)) CHECK((entry.tensor->to_host() == weights.at(entry.name).values));
}

void check_evaluation(const std::string& folder) {
  for (const DeviceType device : test_devices()) check_evaluation(folder, device);
}

void check_initial_weights(const std::string& folder) {
  const Case c(folder);
  Random random(c.seed);
  Ugatit model(random, c.options);
  const auto expected = golden::load(folder + "/weights_0.safetensors");
  const auto state = state_of(model);
  CHECK(state.size() == expected.size());
  for (const auto& entry : state) {
    INFO(entry.name);
    const golden::Array& array = expected.at(entry.name);
    CHECK(entry.tensor->shape() == Shape(array.shape));
    const std::vector<float> values = entry.tensor->to_host();
    if (entry.name.ends_with("weight_u") || entry.name.ends_with("weight_v"))
      CHECK(golden::relative_error(values, array.values) <= 1e-6);
    else
      CHECK((values == array.values));  // not expanded on failure: thousands of numbers
  }
}

}  // namespace

TEST_CASE("golden: three training iterations, light", "[golden]") { check_training("light_ch4_96"); }
TEST_CASE("golden: three training iterations, full", "[golden]") { check_training("full_ch4_96"); }
TEST_CASE("golden: three training iterations, light, batch 2", "[golden]") { check_training("light_ch4_96_batch2"); }

TEST_CASE("golden: evaluation mode, light", "[golden]") { check_evaluation("light_ch4_96"); }
TEST_CASE("golden: evaluation mode, full", "[golden]") { check_evaluation("full_ch4_96"); }
TEST_CASE("golden: evaluation mode, light, batch 2", "[golden]") { check_evaluation("light_ch4_96_batch2"); }

TEST_CASE("golden: initial weights from the seed, light", "[golden]") { check_initial_weights("light_ch4_96"); }
TEST_CASE("golden: initial weights from the seed, full", "[golden]") { check_initial_weights("full_ch4_96"); }
TEST_CASE("golden: initial weights from the seed, batch 2", "[golden]") {
  check_initial_weights("light_ch4_96_batch2");
}

TEST_CASE("golden: generator with several channel blocks", "[golden]") {
  const DeviceType device = GENERATE(from_range(test_devices()));
  const auto arrays = golden::load("generator_ch16_96.safetensors");
  Random random(1);
  Generator generator(random, {.channels = 16, .residual_blocks = 2, .image_size = 96, .light = true});
  CHECK(golden::set_state(generator, arrays, "weight.") == state_of(generator).size());

  move_to(generator, device);

  Tensor input = arrays.at("input").image(device);
  input.set_requires_grad(true);
  const Generator::Output out = generator(input);
  CHECK(golden::relative_error(out.image.to_host(), arrays.at("image").values) <= 2e-5);
  CHECK(golden::relative_error(out.cam_logit.to_host(), arrays.at("cam_logit").values) <= 2e-5);
  CHECK(golden::relative_error(out.heatmap().to_host(), arrays.at("heatmap").values) <= 2e-5);

  backward({{out.image, arrays.at("cotangent_image").image(device)},
            {out.cam_logit, arrays.at("cotangent_cam_logit").image(device)},
            {out.heatmap(), arrays.at("cotangent_heatmap").image(device)}});
  CHECK(golden::relative_error(input.grad().to_host(), arrays.at("grad.input").values) <= 1e-4);
  for (const auto& entry : state_of(generator)) {
    INFO(entry.name);
    CHECK(golden::relative_error(entry.tensor->grad().to_host(), arrays.at("grad." + entry.name).values) <= 1e-4);
  }
}

TEST_CASE("parameter counts are the paper's", "[golden]") {
  Random random(0);
  Generator light(random, {.light = true});
  CHECK(parameter_count(light) == 10'589'888);
  Discriminator global(random, {.layers = 7}), local(random, {.layers = 5});
  CHECK(parameter_count(global) == 53'130'176);
  CHECK(parameter_count(local) == 3'290'560);
}
