// Checkpoints of models: what is saved comes back, and what does not fit is named.
#include <catch2/catch.hpp>

#include "models/checkpoint.h"
#include "tests/test_util.h"
#include "tests/train_runs.h"

using namespace minidl;
using Catch::Contains;

namespace {

constexpr UgatitOptions kTiny{.channels = 2, .residual_blocks = 1, .image_size = 96, .light = true};

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
  const auto first = state_of(model), second = state_of(restored);
  for (std::size_t i = 0; i < first.size(); ++i) CHECK((first[i].tensor->to_host() == second[i].tensor->to_host()));
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
  const auto info_of = [&](const SafetensorsMetadata& metadata) {
    write_safetensors(file, {}, metadata);
    return checkpoint_info(SafetensorsFile(file));
  };
  CHECK_THROWS_WITH(info_of({}), Contains("is no checkpoint of U-GAT-IT"));
  CHECK_THROWS_WITH(info_of({{"format", "minidl-ugatit-training-99"}}), Contains("does not know"));
  CHECK_THROWS_WITH(info_of({{"format", "minidl-ugatit-training-1"}, {"model", "{"}, {"step", "1"}}),
                    Contains("metadata is malformed"));
}

TEST_CASE("the learning rate falls as the reference's, and never below 0") {
  Random random(1);
  Ugatit model(random, kTiny);
  const auto lr_after = [&](std::int64_t iterations, std::int64_t steps) {
    UgatitTrainer trainer(model, {.iterations = iterations});
    trainer.restore(steps);
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
