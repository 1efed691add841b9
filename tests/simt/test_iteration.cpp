// What a training iteration asks of a GPU, counted on the emulated device without computing anything.
#include <string>

#include "models/ugatit.h"
#include "tests/simt/simt.h"
#include "tests/test_util.h"

using namespace minidl;
using namespace test;

// Launches of own kernels, calls of libraries, copies and fills of an iteration of the light model, whatever its size.
TEST_CASE("a training iteration is less than 1,200 launches, and allocates nothing", "[cuda]") {
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
  std::string kernels;
  for (const auto& [name, kernel] : counters.kernels) kernels += std::to_string(kernel.launches) + " " + name + "\n";
  INFO(counters.launches << " kernels, " << counters.stand_in_calls << " calls of cuBLAS and cuDNN, " << counters.copies
                         << " copies, " << counters.sets << " fills\n"
                         << kernels);
  CHECK(counters.allocations == 0);
  CHECK(counters.launches + counters.stand_in_calls + counters.copies + counters.sets < 1200);
}
