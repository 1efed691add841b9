// What docs/design.md, "Threads", promises to programs with several threads; to be run under ThreadSanitizer too.
#include <thread>

#include "models/ugatit.h"
#include "tests/test_util.h"

using namespace minidl;
using namespace test;

namespace {

constexpr unsigned kThreads = 3;
const UgatitOptions kSmall{
    .channels = 4, .residual_blocks = 1, .discriminator_depth = 4, .image_size = 32, .light = true};

// The results of `work` for 0, 1, ..., from a thread each, all at once.
template <class Work>
auto on_threads(Work work) {
  std::vector<std::invoke_result_t<Work, unsigned>> results(kThreads);
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < kThreads; ++i) threads.emplace_back([&, i] { results[i] = work(i); });
  for (std::thread& thread : threads) thread.join();
  return results;
}

// The losses and weights of a model after three steps on images of its own.
std::vector<std::vector<float>> trained(DeviceType device, unsigned seed) {
  Random random(seed);
  Ugatit model(random, kSmall);
  move_to(model, device);
  UgatitTrainer trainer(model, {.iterations = 3});
  std::vector<std::vector<float>> values;
  for (unsigned step = 0; step < 3; ++step) {
    const UgatitLosses losses = trainer.step(random_tensor({1, 3, 32, 32}, device, 10 * seed + 2 * step),
                                             random_tensor({1, 3, 32, 32}, device, 10 * seed + 2 * step + 1));
    for (const auto& [name, value] : losses.parts) values.push_back({value});
  }
  for (const StateEntry& entry : state_of(model)) values.push_back(entry.tensor->to_host());
  return values;
}

}  // namespace

TEST_CASE("threads may train models of their own at once", "[threads]") {
  for (const DeviceType device : test_devices()) {
    const auto results = on_threads([&](unsigned i) { return trained(device, i); });
    for (unsigned i = 0; i < kThreads; ++i) CHECK(results[i] == trained(device, i));
  }
}

TEST_CASE("threads may run one network at once where nothing is recorded", "[threads]") {
  for (const DeviceType device : test_devices()) {
    Random random(1);
    Generator generator(random, {.channels = 16, .residual_blocks = 1, .light = true});
    SpectralNorm judge(random, Conv2d(random, 3, 8, {}));
    move_to(generator, device), move_to(judge, device);
    set_training(judge, false);
    const auto judged = [&](unsigned i) {
      const NoGrad no_grad;
      return judge(generator(random_tensor({1, 3, 32, 32}, device, i)).image).to_host();
    };
    for (int round = 0; round < 3; ++round) {
      // All threads come upon weights that nobody has prepared for the kernels yet.
      for (const StateEntry& entry : state_of(generator)) entry.tensor->copy_from_host(entry.tensor->to_host());
      const auto results = on_threads(judged);
      for (unsigned i = 0; i < kThreads; ++i) CHECK(results[i] == judged(i));
    }
  }
}

TEST_CASE("a thread's NoGrad and graph are its own", "[threads]") {
  for (const DeviceType device : test_devices()) {
    const Tensor constant = random_tensor({2, 8, 9, 9}, device, 1);
    const auto results = on_threads([&](unsigned i) {
      const Tensor x = leaf(random_tensor({2, 8, 9, 9}, device, 2));
      if (i == 0) {
        const NoGrad no_grad;
        return std::vector{static_cast<float>((x * constant).requires_grad())};
      }
      mean(x * constant).backward();
      return x.grad().to_host();
    });
    CHECK(results[0] == std::vector{0.0f});
    for (unsigned i = 1; i < kThreads; ++i)
      CHECK(relative_error(results[i], ((1.0f / 1296) * constant).to_host()) < 1e-6);
  }
}
