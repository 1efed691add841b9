// Checkpoints of models: what is saved comes back, and what does not fit is named.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <random>

#include <nlohmann/json.hpp>

#include "models/checkpoint.h"
#include "tests/test_util.h"
#include "tests/train_runs.h"

using namespace minidl;
using Catch::Contains;

namespace {

constexpr UgatitOptions kTiny{.channels = 2, .residual_blocks = 1, .image_size = 96, .light = true};

// Every array of a file, with its metadata, as it will be written again.
struct Copy {
  SafetensorsFile source;
  std::vector<ArrayEntry> entries;
  ArrayMetadata metadata;

  explicit Copy(const std::filesystem::path& file) : source(file), metadata(source.metadata()) {
    for (const std::string& name : source.names()) {
      const ArrayView& view = source.at(name);
      entries.push_back({name, view.dtype, view.shape, [bytes = view.bytes] { return bytes; }});
    }
  }
  ArrayEntry& entry(const std::string& name) {
    return *std::find_if(entries.begin(), entries.end(), [&](const ArrayEntry& e) { return e.name == name; });
  }
  void erase(const std::string& name) {
    std::erase_if(entries, [&](const ArrayEntry& e) { return e.name == name; });
  }
};

bool same_state(auto& a, auto& b) {
  const auto first = state_of(a), second = state_of(b);
  if (first.size() != second.size() || first.empty()) return false;
  for (std::size_t i = 0; i < first.size(); ++i)
    if (first[i].name != second[i].name || !test::same_bits(*first[i].tensor, *second[i].tensor)) return false;
  return true;
}

}  // namespace

TEST_CASE("a training checkpoint restores networks, moments, step and learning rate to the bit") {
  const test::TemporaryFolder folder;
  const auto file = folder.path() / "x.safetensors";
  const UgatitTrainingOptions training{.iterations = 4};
  Random random(1), other(2);
  Ugatit model(random, kTiny), restored(other, kTiny);
  UgatitTrainer trainer(model, training), restored_trainer(restored, training);
  const Tensor a = test::random_tensor({1, 3, 96, 96}, DeviceType::cpu, 1),
               b = test::random_tensor({1, 3, 96, 96}, DeviceType::cpu, 2);
  for (int i = 0; i < 3; ++i) trainer.step(a, b);
  save_training_checkpoint(file, model, trainer, "{\"a\":1}", {{"key", {1, 2, 3}}});

  const SafetensorsFile saved(file);
  const CheckpointInfo info = checkpoint_info(saved);
  CHECK(info.kind == CheckpointInfo::Kind::training);
  CHECK(info.step == 3);
  CHECK(info.configuration == "{\"a\":1}");
  CHECK(load_program_state(saved) == ProgramState{{"key", {1, 2, 3}}});
  load_training_state(saved, restored, restored_trainer);
  CHECK(restored_trainer.steps() == 3);
  CHECK(restored_trainer.lr() == trainer.lr());
  CHECK(trainer.lr() < 1e-4);
  // The next iteration depends on everything that was restored.
  const UgatitLosses next = trainer.step(a, b), again = restored_trainer.step(a, b);
  CHECK(next.parts == again.parts);
  CHECK(same_state(model, restored));
}

TEST_CASE("a checkpoint keeps every bit: moments, program state, weights that are not finite") {
  const test::TemporaryFolder folder;
  const auto file = folder.path() / "x.safetensors";
  Random random(1), other(2);
  Ugatit model(random, kTiny), restored(other, kTiny);
  UgatitTrainer trainer(model, {}), restored_trainer(restored, {});
  const auto moments_of = [](UgatitTrainer& t) {
    std::vector<Tensor> moments;
    for (Adam* adam : {&t.generator_adam(), &t.discriminator_adam()})
      for (const auto* list : {&adam->exp_avg(), &adam->exp_avg_sq()})
        moments.insert(moments.end(), list->begin(), list->end());
    return moments;
  };
  unsigned seed = 0;
  for (const Tensor& moment : moments_of(trainer)) moment.copy_from_host(test::normal_values(moment.size(), ++seed));
  trainer.restore(1'234'567, 1'234'000);
  const Tensor& weight = *state_of(model.disGB)[1].tensor;
  std::vector<float> odd = weight.to_host();
  const float unusual[] = {NAN, -NAN, INFINITY, -INFINITY, -0.0f, 1e-45f, 3.4e38f};
  REQUIRE(odd.size() > std::size(unusual));
  std::copy(std::begin(unusual), std::end(unusual), odd.begin());
  weight.copy_from_host(odd);
  ProgramState state{{"empty", {}}, {"ümlaut key", {}}, {"zeros", std::vector<std::uint8_t>(1000)}};
  for (int i = 0; i < 256; ++i) state["ümlaut key"].push_back(static_cast<std::uint8_t>(i));
  const std::string configuration = "\"quotes\" and\nlines, ü";
  save_training_checkpoint(file, model, trainer, configuration, state);

  const SafetensorsFile saved(file);
  load_training_state(saved, restored, restored_trainer);
  CHECK(same_state(model, restored));
  CHECK(restored_trainer.steps() == 1'234'567);
  CHECK(restored_trainer.adam_steps() == 1'234'000);
  const std::vector<Tensor> before = moments_of(trainer), after = moments_of(restored_trainer);
  REQUIRE(before.size() == after.size());
  CHECK(std::equal(before.begin(), before.end(), after.begin(),
                   [](const Tensor& a, const Tensor& b) { return test::same_bits(a, b); }));
  CHECK(load_program_state(saved) == state);
  CHECK(checkpoint_info(saved).configuration == configuration);

  std::int64_t bytes = 0;
  for (const std::string& name : saved.names())
    if (!name.starts_with("state.")) bytes += static_cast<std::int64_t>(saved.at(name).bytes.size());
  CHECK(training_checkpoint_bytes(model) == bytes);
}

TEST_CASE("a generator comes from its own file or from a training checkpoint") {
  const test::TemporaryFolder folder;
  Random random(1);
  UgatitOptions full = kTiny;
  full.light = false;
  for (const UgatitOptions& options : {kTiny, full}) {
    Ugatit model(random, options);
    UgatitTrainer trainer(model, {});
    save_training_checkpoint(folder.path() / "all", model, trainer, "", {});
    save_generator(folder.path() / "one", model.genB2A, options, "B2A", 77);
    const SafetensorsFile all(folder.path() / "all"), one(folder.path() / "one");
    const CheckpointInfo info = checkpoint_info(one);
    CHECK(info.kind == CheckpointInfo::Kind::generator);
    CHECK(info.direction == "B2A");
    CHECK(info.step == 77);
    CHECK(info.options.light == options.light);

    std::optional<Generator> A2B = load_generator(all, "A2B"), B2A = load_generator(all, "B2A"),
                             single = load_generator(one, "B2A");
    REQUIRE((A2B && B2A && single));
    CHECK(same_state(*A2B, model.genA2B));
    CHECK(same_state(*B2A, model.genB2A));
    CHECK(same_state(*single, model.genB2A));
    CHECK_FALSE(same_state(*A2B, model.genB2A));
    CHECK_FALSE(load_generator(one, "A2B").has_value());
  }
}

TEST_CASE("a checkpoint that lacks a tensor, or has it in another shape or type, is refused by its name") {
  const test::TemporaryFolder folder;
  const auto file = folder.path() / "x.safetensors", changed = folder.path() / "changed.safetensors";
  Random random(1);
  Ugatit model(random, kTiny);
  UgatitTrainer trainer(model, {});
  save_training_checkpoint(file, model, trainer, "", {});
  const auto refusal = [&](auto change) {
    Copy copy(file);
    change(copy);
    write_safetensors(changed, copy.entries, copy.metadata);
    return test::error_of([&] { load_training_state(SafetensorsFile(changed), model, trainer); });
  };
  CHECK(refusal([](Copy&) {}).empty());
  CHECK_THAT(refusal([](Copy& c) { c.erase("disLB.conv1x1.bias"); }),
             Contains("changed.safetensors lacks disLB.conv1x1.bias"));
  CHECK_THAT(refusal([](Copy& c) { c.erase("adam.genB2A.gamma.weight.exp_avg_sq"); }),
             Contains("lacks adam.genB2A.gamma.weight.exp_avg_sq"));
  CHECK_THAT(refusal([](Copy& c) {
               c.entry("genA2B.DownBlock.1.weight").shape = {2, 147};
             }),
             Contains("genA2B.DownBlock.1.weight has shape [2, 147], expected [2, 3, 7, 7]"));
  CHECK_THAT(refusal([](Copy& c) { c.entry("genA2B.conv1x1.bias").dtype = Dtype::i32; }),
             Contains("genA2B.conv1x1.bias") && Contains("F32"));
  CHECK_THAT(refusal([](Copy& c) { c.metadata.erase("step"); }), Contains("its metadata lacks 'step'"));
}

TEST_CASE("a checkpoint of another architecture is refused by the first tensor that differs") {
  const test::TemporaryFolder folder;
  const auto file = folder.path() / "x.safetensors";
  Random random(1);
  Ugatit model(random, kTiny);
  UgatitTrainer trainer(model, {});
  save_training_checkpoint(file, model, trainer, "", {});
  UgatitOptions wider = kTiny, deeper = kTiny;
  wider.channels = 3;
  deeper.residual_blocks = 2;
  Ugatit wide(random, wider), deep(random, deeper);
  const SafetensorsFile saved(file);
  CHECK_THROWS_WITH(load_networks(saved, wide),
                    Contains("genA2B.DownBlock.1.weight") && Contains("[2, 3, 7, 7]") && Contains("[3, 3, 7, 7]"));
  CHECK_THROWS_WITH(load_networks(saved, deep), Contains("lacks genA2B.DownBlock.13"));
}

TEST_CASE("safetensors files that are no checkpoint of ours are refused") {
  const test::TemporaryFolder folder;
  const auto file = folder.path() / "x.safetensors";
  const auto info_of = [&](const ArrayMetadata& metadata) {
    write_safetensors(file, {}, metadata);
    return checkpoint_info(SafetensorsFile(file));
  };
  CHECK_THROWS_WITH(info_of({}), Contains("is no checkpoint of U-GAT-IT"));
  CHECK_THROWS_WITH(info_of({{"format", "minidl-ugatit-training-99"}}), Contains("does not know"));
  CHECK_THROWS_WITH(info_of({{"format", "minidl-ugatit-training-1"}, {"model", "{"}, {"step", "1"}}),
                    Contains("metadata is malformed"));
  const std::string model =
      R"({"image_channels":3,"channels":4,"residual_blocks":1,"discriminator_depth":6,"image_size":96,"light":true})";
  const auto training = [&](const std::string& key, const std::string& value) {
    ArrayMetadata metadata{
        {"format", "minidl-ugatit-training-1"}, {"model", model}, {"step", "1"}, {"configuration", ""}};
    metadata[key] = value;
    return info_of(metadata);
  };
  CHECK(training("step", "41").step == 41);
  for (const char* step : {"", "x", "\"1\"", "[1]", "1 2"}) {
    INFO(step);
    CHECK_THROWS_WITH(training("step", step), Contains("x.safetensors is damaged: its metadata is malformed"));
  }
  for (const char* text : {"", "null", "{}", "[]", "{\"channels\":4}"}) {
    INFO(text);
    CHECK_THROWS_WITH(training("model", text), Contains("x.safetensors is damaged: its metadata is malformed"));
  }
  CHECK_THROWS_WITH(info_of({{"format", "minidl-ugatit-generator-1"}, {"model", model}, {"step", "1"}}),
                    Contains("its metadata lacks 'direction'"));
}

TEST_CASE("no damage to the header of a checkpoint does anything but an error of ours") {
  const test::TemporaryFolder folder;
  const auto file = folder.path() / "x.safetensors", damaged = folder.path() / "damaged.safetensors";
  Random random(1);
  Generator generator(random, kTiny.generator());
  save_generator(file, generator, kTiny, "A2B", 1);
  const std::vector<std::uint8_t> bytes = read_file(file);
  const std::size_t header = 8 + bytes[0] + 256u * bytes[1];
  std::mt19937 engine(5);
  std::size_t refused = 0, unnamed = 0;
  constexpr std::size_t kTries = 1500;
  for (std::size_t i = 0; i < kTries; ++i) {
    std::vector<std::uint8_t> mutant = bytes;
    if (i % 10 == 0)
      mutant.resize(engine() % bytes.size());
    else
      for (unsigned flips = 1 + engine() % 2; flips > 0; --flips)
        mutant[8 + engine() % (header - 8)] ^= static_cast<std::uint8_t>(1u << engine() % 7);
    test::write_text(damaged, {mutant.begin(), mutant.end()});
    try {
      load_generator(SafetensorsFile(damaged), "A2B");
    } catch (const Error& error) {
      ++refused;
      unnamed += std::string(error.what()).find("damaged.safetensors") == std::string::npos;
    }
  }
  CHECK(refused > kTries / 2);
  CHECK(unnamed == 0);
}

TEST_CASE("the learning rate falls as the reference's, and never below 0") {
  Random random(1);
  Ugatit model(random, kTiny);
  const auto lr_after = [&](std::int64_t iterations, std::int64_t steps) {
    UgatitTrainer trainer(model, {.iterations = iterations});
    trainer.restore(steps, steps);
    return trainer.lr();
  };
  CHECK(lr_after(20, 10) == 1e-4);
  CHECK(lr_after(20, 11) == 9e-05);
  CHECK(lr_after(20, 12) == 8e-05);
  CHECK(lr_after(20, 15) == 5.000000000000001e-05);
  CHECK(lr_after(20, 19) == 1.0000000000000011e-05);
  CHECK(lr_after(20, 20) == 1.0164395367051604e-20);
  CHECK(lr_after(1000, 1000) == 0);  // -7.467e-19 in the reference
  CHECK(lr_after(21, 21) == 0);      // -1e-5 in the reference
  CHECK(lr_after(1, 1) == 1e-4);     // divides by zero in the reference
}

TEST_CASE("metadata that describes an impossible model or step is refused by the file's name, and at once") {
  const test::TemporaryFolder folder;
  const auto file = folder.path() / "x.safetensors";
  const auto info_of = [&](const std::string& key, std::int64_t value) {
    nlohmann::json model{{"image_channels", 3},      {"channels", 4},    {"residual_blocks", 1},
                         {"discriminator_depth", 6}, {"image_size", 96}, {"light", true}};
    std::int64_t step = 1;
    (key == "step" ? step : model.at(key).get_ref<std::int64_t&>()) = value;
    write_safetensors(file, {},
                      {{"format", "minidl-ugatit-generator-1"},
                       {"direction", "A2B"},
                       {"model", model.dump()},
                       {"step", std::to_string(step)}});
    return checkpoint_info(SafetensorsFile(file));
  };
  CHECK(info_of("step", 5).step == 5);
  const std::int64_t huge = std::int64_t{1} << 62;
  for (const auto& [key, value] :
       {std::pair("channels", std::int64_t{0}), std::pair("channels", std::int64_t{-1}), std::pair("channels", huge),
        std::pair("residual_blocks", std::int64_t{1'000'000'000}), std::pair("image_size", std::int64_t{1} << 40),
        std::pair("image_channels", huge), std::pair("discriminator_depth", huge), std::pair("step", huge),
        std::pair("step", std::int64_t{-1})}) {
    INFO(key << " " << value);
    CHECK_THROWS_WITH(info_of(key, value), Contains(file.string()) && Contains("impossible model"));
  }
}
