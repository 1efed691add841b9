// What a training iteration asks of a GPU, counted on the emulated device without computing anything.
#include "models/ugatit.h"
#include "tests/simt/simt.h"
#include "tests/test_util.h"

using namespace minidl;
using namespace test;

TEST_CASE("a training iteration is at most 1,800 launches, and allocates nothing", "[cuda]") {
  const DeviceType device = DeviceType::cuda;
  Random random = Random::blank();
  Ugatit model(random, {.channels = 16, .image_size = 96, .light = true});
  move_to(model, device);
  UgatitTrainer trainer(model, {});
  const Tensor image = Tensor::full({1, 3, 96, 96}, 0.5f, device);
  simt::set_dry_run(true);
  trainer.step(image, image);
  trainer.step(image, image);
  simt::reset_counters();
  trainer.step(image, image);
  simt::set_dry_run(false);
  const simt::Counters counters = simt::counters();
  INFO(counters.launches << " kernels, " << counters.stand_in_calls << " calls of cuBLAS and cuDNN, " << counters.copies
                         << " copies");
  CHECK(counters.allocations == 0);
  CHECK(counters.launches + counters.stand_in_calls <= 1800);
}
