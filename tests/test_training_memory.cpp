// What a training run asks of the device's memory.
#include "apps/sheet.h"
#include "models/checkpoint.h"
#include "tests/temporary_folder.h"
#include "tests/test_util.h"

using namespace minidl;
using namespace test;

TEST_CASE("training takes no new memory after the second iteration, sheets and checkpoints after their first",
          "[pool]") {
  for (const DeviceType device : test_devices()) {
    Random random(1);
    Ugatit model(random, {.channels = 4, .residual_blocks = 2, .image_size = 96, .light = true});
    move_to(model, device);
    UgatitTrainer trainer(model, {});
    const Tensor real_A = random_tensor({1, 3, 96, 96}, device, 1), real_B = random_tensor({1, 3, 96, 96}, device, 2);
    const std::vector<ImageBatch> pictures(
        5, {.n = 1, .height = 96, .width = 96, .channels = 3, .pixels = std::vector<std::uint8_t>(3 * 96 * 96, 128)});
    const TrainingStep::Sheet images{pictures, pictures, pictures, pictures};
    const TemporaryFolder folder;
    const auto sample_and_save = [&] {
      draw_sheets(model, images, device);
      save_training_checkpoint(folder / "checkpoint", model, trainer, "{}", {});
    };

    trainer.step(real_A, real_B);
    trainer.step(real_A, real_B);
    const std::size_t after_second = pool_stats(device).device_allocations;
    for (int i = 0; i < 3; ++i) {
      trainer.step(real_A, real_B);
      CHECK(pool_stats(device).device_allocations == after_second);
    }

    sample_and_save();
    const std::size_t after_sample = pool_stats(device).device_allocations;
    for (int i = 0; i < 2; ++i) {
      trainer.step(real_A, real_B);
      sample_and_save();
      CHECK(pool_stats(device).device_allocations == after_sample);
    }
  }
}
