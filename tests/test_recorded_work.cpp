// Work that a device repeats by itself, and memory set apart for it.
#include <set>

#include "core/ops.h"
#include "core/recorded_work.h"
#include "models/ugatit.h"
#include "tests/test_util.h"

using namespace minidl;
using namespace test;
using Catch::Matchers::Contains;

namespace {

const UgatitOptions kSmall{
    .channels = 4, .residual_blocks = 1, .discriminator_depth = 4, .image_size = 32, .light = true};

// All losses and, at the end, all values of a model that is trained on new images in every step.
std::vector<std::vector<float>> trained(DeviceType device, bool recorded) {
  Random random(3);
  Ugatit model(random, kSmall);
  move_to(model, device);
  UgatitTrainer trainer(model, {.iterations = 6});  // the learning rate falls from the fourth step on
  if (recorded) trainer.record_iterations();
  std::vector<std::vector<float>> values;
  std::vector<Tensor> held;  // memory that is taken between repetitions
  for (unsigned step = 0; step < 6; ++step) {
    const UgatitLosses losses = trainer.step(random_tensor({1, 3, 32, 32}, device, 2 * step),
                                             random_tensor({1, 3, 32, 32}, device, 2 * step + 1));
    for (const auto& [name, value] : losses.parts) values.push_back({value});
    for (int i = 0; i < 20; ++i) held.push_back(Tensor::full({1, 16, 8, 8}, static_cast<float>(step), device));
  }
  for (const StateEntry& entry : state_of(model)) values.push_back(entry.tensor->to_host());
  for (const Tensor& tensor : held) values.push_back(tensor.to_host());
  return values;
}

}  // namespace

TEST_CASE("recorded iterations give the bits of iterations that are not recorded", "[recorded]") {
  for (const DeviceType device : test_devices()) {
    if (!backend_of(device).can_record()) continue;
    const auto expected = trained(device, false), values = trained(device, true);
    REQUIRE(values.size() == expected.size());
    for (std::size_t i = 0; i < values.size(); ++i) CHECK(same_bits(values[i], expected[i]));
  }
}

TEST_CASE("recorded work waits for nothing, and a device can be used after work that does", "[recorded]") {
  for (const DeviceType device : test_devices()) {
    if (!backend_of(device).can_record()) {
      CHECK_THAT(error_of([&] { RecordedWork(device, [] {}); }), Contains("cannot record"));
      continue;
    }
    const Tensor x = Tensor::full({3}, 2, device);
    float seen = 0;
    RecordedWork waiting(device, [&] { seen = mean(x).item(); });
    waiting.run();
    CHECK(seen == 2);
    CHECK_THAT(error_of([&] { waiting.run(); }), Contains("recorded"));
    CHECK((x + x).to_host() == std::vector<float>{4, 4, 4});
  }
}

TEST_CASE("memory set apart is handed to nobody else until it is gone", "[pool]") {
  for (const DeviceType device : test_devices()) {
    std::set<const float*> apart;
    {
      const PrivateMemory memory(device);
      {
        const PrivateMemory::Scope scope(memory);
        for (int i = 0; i < 3; ++i) apart.insert(Tensor::empty({12345}, device).data());
      }
      std::vector<Tensor> others;
      for (int i = 0; i < 5; ++i) {
        others.push_back(Tensor::empty({12345}, device));
        CHECK(apart.count(others.back().data()) == 0);
      }
      const PrivateMemory::Scope again(memory);
      CHECK(apart.count(Tensor::empty({12345}, device).data()) == 1);
    }
    std::vector<Tensor> all;  // the pool has the memory back
    for (int i = 0; i < 20; ++i) all.push_back(Tensor::empty({12345}, device));
    std::size_t returned = 0;
    for (const Tensor& tensor : all) returned += apart.count(tensor.data());
    CHECK(returned == apart.size());
  }
}
