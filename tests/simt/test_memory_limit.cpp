// What happens when a GPU's memory is exhausted.
#include <thread>

#include "core/ops.h"
#include "core/storage.h"
#include "kernels/cuda/context.h"
#include "kernels/memory_holder.h"
#include "models/ugatit.h"
#include "tests/simt/simt.h"
#include "tests/test_util.h"

using namespace minidl;
using namespace test;
using Catch::Matchers::Contains;

namespace {

constexpr DeviceType kDevice = DeviceType::cuda;
constexpr std::int64_t kMebi = (1 << 20) / sizeof(float);  // floats in a MiB

// So much more than is in use may be taken.
class MemoryLimit {
 public:
  explicit MemoryLimit(std::size_t more_mebibytes) {
    backend_of(kDevice).synchronize();
    trim_pool(kDevice);
    cudaMemGetInfo(&free_, &total_);
    simt::set_device_memory(total_ - free_ + (more_mebibytes << 20));
  }
  ~MemoryLimit() { simt::set_device_memory(total_); }

 private:
  std::size_t free_ = 0, total_ = 0;
};

}  // namespace

TEST_CASE("a tensor ends where its allocation ends, lest an element behind it be touched unseen", "[memory]") {
  for (const std::int64_t size : {1, 3, 1000}) {
    const Tensor tensor = Tensor::empty({size}, kDevice);
    const auto bytes = static_cast<std::size_t>(size) * 4;
    CHECK(simt::is_device(tensor.data(), bytes));
    CHECK_FALSE(simt::is_device(tensor.data(), bytes + 1));
  }
}

TEST_CASE("memory that the pool holds for other sizes is given back before an allocation fails", "[memory]") {
  const MemoryLimit limit(10);
  for (int i = 0; i < 2; ++i) {
    Tensor::empty({6 * kMebi}, kDevice);  // back in the pool at once
    const Tensor other = Tensor::empty({8 * kMebi}, kDevice);
    CHECK(pool_stats(kDevice).in_use >= (8u << 20));
    CHECK(pool_stats(kDevice).held < (9u << 20));
    trim_pool(kDevice);
  }
}

TEST_CASE("out of memory says what was asked for, free and held, and what to lower; then all goes on", "[memory]") {
  const MemoryLimit limit(10);
  const Tensor kept = Tensor::full({kMebi / 8}, 1, kDevice);
  const std::string message = error_of([&] { Tensor::empty({30 * kMebi}, kDevice); });
  INFO(message);
  for (const char* part :
       {"cuda: out of memory", "30 MiB asked for", "MiB free", "held by libminidl's pool", "--batch_size", "--ch"})
    CHECK_THAT(message, Contains(part));
  CHECK_THAT(message, Contains(mebibytes_text(pool_stats(kDevice).held) + " held"));
  CHECK(std::count(message.begin(), message.end(), '\n') == 0);
  CHECK_THROWS_AS(Tensor::empty({30 * kMebi}, kDevice), OutOfMemory);
  CHECK((kept + kept).to_host()[0] == 2);
}

TEST_CASE("working memory is found in the pool's unused buffers, and fails as the pool does", "[memory]") {
  const MemoryLimit limit(10);
  Tensor::empty({7 * kMebi}, kDevice);
  bool found = false;
  std::size_t held = 0;
  std::string message;
  std::thread([&] {  // which has no working memory yet
    found = gpu::workspace(8u << 20) != nullptr;
    held = pool_stats(kDevice).held;
    message = error_of([] { gpu::workspace(20u << 20); });
  })
      .join();
  CHECK(found);
  CHECK(held < (7u << 20));
  INFO(message);
  CHECK_THAT(message, Contains("20 MiB asked for") && Contains("held by libminidl's pool") && Contains("--batch_size"));
  CHECK(Tensor::full({3}, 1, kDevice).to_host() == std::vector<float>{1, 1, 1});
}

TEST_CASE("an iteration that runs out of memory changes no step count, and a smaller one follows", "[memory]") {
  Random random(1);
  Ugatit model(random,
               {.channels = 4, .residual_blocks = 1, .discriminator_depth = 4, .image_size = 32, .light = true});
  move_to(model, kDevice);
  UgatitTrainer trainer(model, {});
  {
    const MemoryLimit limit(2);
    const Tensor many = Tensor::full({4, 3, 32, 32}, 0.5f, kDevice);
    CHECK_THAT(error_of([&] { trainer.step(many, many); }), Contains("out of memory"));
    CHECK(trainer.steps() == 0);
  }
  const Tensor one = Tensor::full({1, 3, 32, 32}, 0.5f, kDevice);
  CHECK(trainer.step(one, one).first_not_finite() == "");
  CHECK(trainer.steps() == 1);
}
