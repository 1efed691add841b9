// Bytes that travel while the device computes, on the emulated device: that what must come first does, that the
// emulation would show it if it did not, and that the host waits for nothing else.
#include "core/image_uploads.h"
#include "core/ops.h"
#include "kernels/cuda/context.h"
#include "kernels/cuda/transfers.h"
#include "models/ugatit.h"
#include "tests/simt/simt.h"
#include "tests/test_util.h"

using namespace minidl;
using namespace test;
using Catch::Matchers::Contains;

namespace {

constexpr DeviceType kDevice = DeviceType::cuda;
constexpr std::int64_t kSide = 16, kBytes = kSide * kSide;
constexpr simt::Execution kLate[] = {simt::Execution::lazy, simt::Execution::others_first};

struct ExecutionScope {
  explicit ExecutionScope(simt::Execution execution) { simt::set_execution(execution); }
  ~ExecutionScope() { simt::set_execution(simt::Execution::lazy); }
};

struct Stream {
  Stream() { REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess); }
  ~Stream() { cudaStreamDestroy(stream); }
  operator cudaStream_t() const { return stream; }
  cudaStream_t stream = nullptr;
};

std::vector<std::uint8_t> picture(int number) {
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(kBytes));
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(40 * number + 3 * i);
  return bytes;
}

// One pinned buffer, one device buffer and two streams, as StagedBuffer has them, with the waits between the streams
// left out on request. Returns what a second stream reads of six pictures, the next of which is sent before that.
std::vector<std::vector<std::uint8_t>> relayed(bool reads_wait, bool fillings_wait) {
  const Stream copies, work;
  cudaEvent_t filled = nullptr, used = nullptr;
  REQUIRE(cudaEventCreateWithFlags(&filled, cudaEventDisableTiming) == cudaSuccess);
  REQUIRE(cudaEventCreateWithFlags(&used, cudaEventDisableTiming) == cudaSuccess);
  constexpr int kPictures = 6;
  std::byte *pinned = nullptr, *out = nullptr;
  void *buffer = nullptr, *copied = nullptr;
  const auto all = static_cast<std::size_t>(kPictures * kBytes);
  REQUIRE(cudaMallocHost(reinterpret_cast<void**>(&pinned), all) == cudaSuccess);
  REQUIRE(cudaMallocHost(reinterpret_cast<void**>(&out), all) == cudaSuccess);
  REQUIRE(cudaMalloc(&buffer, static_cast<std::size_t>(kBytes)) == cudaSuccess);
  REQUIRE(cudaMalloc(&copied, static_cast<std::size_t>(kBytes)) == cudaSuccess);
  for (int i = 0; i < kPictures; ++i) {
    const auto offset = static_cast<std::size_t>(i * kBytes);
    const std::vector<std::uint8_t> bytes = picture(i);
    std::memcpy(pinned + offset, bytes.data(), bytes.size());
    if (fillings_wait) cudaStreamWaitEvent(copies, used, 0);
    cudaMemcpyAsync(buffer, pinned + offset, bytes.size(), cudaMemcpyHostToDevice, copies);
    cudaEventRecord(filled, copies);
    if (reads_wait) cudaStreamWaitEvent(work, filled, 0);
    cudaMemcpyAsync(copied, buffer, bytes.size(), cudaMemcpyDeviceToDevice, work);
    cudaEventRecord(used, work);
    cudaMemcpyAsync(out + offset, copied, bytes.size(), cudaMemcpyDeviceToHost, work);
  }
  REQUIRE(cudaStreamSynchronize(work) == cudaSuccess);
  std::vector<std::vector<std::uint8_t>> seen;
  for (int i = 0; i < kPictures; ++i) {
    const auto* from = reinterpret_cast<const std::uint8_t*>(out) + i * kBytes;
    seen.emplace_back(from, from + kBytes);
  }
  cudaEventDestroy(filled), cudaEventDestroy(used);
  cudaFree(buffer), cudaFree(copied), cudaFreeHost(pinned), cudaFreeHost(out);
  return seen;
}

bool all_right(const std::vector<std::vector<std::uint8_t>>& seen) {
  for (std::size_t i = 0; i < seen.size(); ++i)
    if (seen[i] != picture(static_cast<int>(i))) return false;
  return true;
}

UgatitOptions small() {
  return {.channels = 4, .residual_blocks = 1, .discriminator_depth = 4, .image_size = 32, .light = true};
}

}  // namespace

TEST_CASE("the emulation shows an upload that does not wait, or that nothing waits for", "[transfers]") {
  {
    const ExecutionScope scope(simt::Execution::lazy);
    CHECK(all_right(relayed(true, true)));
    CHECK_FALSE(all_right(relayed(false, true)));
  }
  {
    const ExecutionScope scope(simt::Execution::others_first);
    CHECK(all_right(relayed(true, true)));
    CHECK_FALSE(all_right(relayed(true, false)));
  }
}

TEST_CASE("images sent ahead arrive in order, however late or early the device copies them", "[transfers]") {
  for (const simt::Execution execution : kLate) {
    const ExecutionScope scope(execution);
    ImageUploads uploads(kDevice);
    std::vector<Tensor> received;
    int sent = 0;
    const auto send = [&] { uploads.send(picture(sent++), 1, kSide, kSide, 1); };
    send();
    for (int i = 0; i < 6; ++i) {
      send();
      received.push_back(uploads.receive());
      received.back() = received.back() + received.back();  // work in between
    }
    uploads.receive();
    CHECK_THAT(error_of([&] { uploads.receive(); }), Contains("send one first"));
    for (int i = 0; i < 6; ++i) {
      const Tensor expected = images_to_tensor(picture(i), 1, kSide, kSide, 1, kDevice);
      CHECK(same_bits(received[static_cast<std::size_t>(i)], expected + expected));
    }
  }
}

TEST_CASE("memory that an upload was on its way to is written by its next owner last", "[transfers]") {
  for (const simt::Execution execution : kLate) {
    const ExecutionScope scope(execution);
    for (int i = 0; i < 4; ++i) {
      const Tensor before = Tensor::full({kBytes}, 1, kDevice);
      const Tensor twice = before + before;  // may be asked for, and not done, when the buffer is made
      {
        ImageUploads uploads(kDevice);
        uploads.send(std::vector<std::uint8_t>(4 * kBytes, 7), 1, 2 * kSide, 2 * kSide, 1);
      }
      const Tensor after = Tensor::full({kBytes}, 3, kDevice);  // likely in the memory that the buffer had
      CHECK(after.to_host() == std::vector<float>(kBytes, 3));
      CHECK(twice.to_host() == std::vector<float>(kBytes, 2));
    }
  }
}

TEST_CASE("an upload buffer is filled while earlier work is still to be done", "[transfers]") {
  const ExecutionScope scope(simt::Execution::lazy);
  const Stream copies;
  gpu::Staging staging(copies);
  Backend& backend = backend_of(kDevice);
  const Storage memory(kDevice, static_cast<std::size_t>(kBytes));
  const auto buffer = std::make_unique<gpu::StagedBuffer>(gpu::stream(), staging, memory.data());
  backend.synchronize();  // what the memory was used for before
  const Tensor x = Tensor::full({1000}, 1, kDevice), y = x + x;
  const std::uint64_t launches = simt::counters().launches;
  const std::vector<std::uint8_t> bytes = picture(3);
  buffer->fill(bytes.data(), bytes.size());
  REQUIRE(cudaStreamSynchronize(copies) == cudaSuccess);
  CHECK(simt::counters().launches == launches);
  std::vector<std::uint8_t> seen(bytes.size());
  REQUIRE(cudaMemcpy(seen.data(), memory.data(), seen.size(), cudaMemcpyDeviceToHost) == cudaSuccess);
  CHECK(seen == bytes);
  CHECK(y.to_host() == std::vector<float>(1000, 2));
}

TEST_CASE("a download waits when it is asked to, and not before", "[transfers]") {
  const ExecutionScope scope(simt::Execution::lazy);
  Backend& backend = backend_of(kDevice);
  const Tensor x = Tensor::full({3}, 2, kDevice), y = x + x, large = Tensor::full({2'000'000}, 5, kDevice);
  backend.synchronize();
  std::vector<float> first(3), second(3), third(2'000'000);
  const auto of = [](std::vector<float>& values, const Tensor& tensor) {
    return Download{values.data(), tensor.data(), values.size() * sizeof(float)};
  };
  const Download pieces[] = {of(first, x), of(second, y)};
  const std::uint64_t waits = simt::counters().waits;
  { const auto forgotten = backend.begin_download(pieces); }
  const auto pending = backend.begin_download(pieces), other = backend.begin_download(std::span(pieces, 1));
  const Tensor later = y + y;  // asked for after the download
  CHECK(simt::counters().waits == waits);
  CHECK(first == std::vector<float>(3));
  const std::uint64_t launches = simt::counters().launches;
  pending->wait();
  CHECK(pending->ready());
  CHECK(first == std::vector<float>{2, 2, 2});
  CHECK(second == std::vector<float>{4, 4, 4});
  CHECK(simt::counters().launches == launches);
  first.assign(3, 0);
  pending->wait();  // once is enough
  CHECK(first == std::vector<float>(3));
  while (!other->ready()) continue;
  other->wait();
  CHECK(first == std::vector<float>{2, 2, 2});
  const Download whole = of(third, large);
  CHECK(backend.begin_download({&whole, 1})->ready());
  CHECK(third == std::vector<float>(2'000'000, 5));
}

TEST_CASE("a steady iteration waits for nothing but the losses of the one before", "[transfers]") {
  const bool recorded = GENERATE(false, true);
  Random random = Random::blank();
  Ugatit model(random, small());
  move_to(model, kDevice);
  UgatitTrainer trainer(model, {});
  if (recorded) trainer.record_iterations();
  simt::set_dry_run(true);
  {
    ImageUploads uploads(kDevice);
    const std::vector<std::uint8_t> bytes(3 * 32 * 32, 100);
    const auto begin = [&] {
      const Tensor a = uploads.receive(), b = uploads.receive();
      return trainer.begin_step(a, b);
    };
    const auto send = [&] {
      for (int i = 0; i < 2; ++i) uploads.send(bytes, 1, 32, 32, 3);
    };
    send();
    PendingLosses before = begin();
    send();
    std::uint64_t iteration = 0;  // its launches
    for (int i = 0; i < 6; ++i) {
      const simt::Counters start = simt::counters();
      PendingLosses now = begin();
      CHECK_FALSE(before.ready());
      before.get();
      const simt::Counters end = simt::counters();
      send();
      if (i >= 3) {
        CHECK(end.launches - start.launches == iteration);  // those of the iteration before, and none of this one
        CHECK(end.waits - start.waits == 1);
        CHECK(simt::counters().waits == end.waits);
        CHECK(end.allocations == start.allocations);
      }
      iteration = end.launches - start.launches;
      before = std::move(now);
    }
    CHECK(iteration > 100);
    before.get();
    backend_of(kDevice).synchronize();
  }
  simt::set_dry_run(false);
}

TEST_CASE("losses fetched late are those of their iteration", "[transfers]") {
  constexpr unsigned kSteps = 3;
  const auto trained = [&](bool ahead, bool recorded) {
    Random random(3);
    Ugatit model(random, small());
    move_to(model, kDevice);
    UgatitTrainer trainer(model, {.iterations = kSteps});
    if (recorded) trainer.record_iterations();
    std::vector<std::vector<float>> losses;
    const auto keep = [&](const UgatitLosses& all) {
      std::vector<float> values{all.generator, all.discriminator};
      for (const auto& [name, value] : all.parts) values.push_back(value);
      losses.push_back(values);
    };
    std::unique_ptr<PendingLosses> before;
    for (unsigned step = 0; step < kSteps; ++step) {
      PendingLosses now = trainer.begin_step(random_tensor({1, 3, 32, 32}, kDevice, 2 * step),
                                             random_tensor({1, 3, 32, 32}, kDevice, 2 * step + 1));
      if (before) keep(before->get());
      before.reset();
      if (ahead)
        before = std::make_unique<PendingLosses>(std::move(now));
      else
        keep(now.get());
    }
    if (before) keep(before->get());
    return losses;
  };
  const auto expected = trained(false, false);
  REQUIRE(expected.size() == kSteps);
  for (const auto& [recorded, execution] :
       {std::pair(false, simt::Execution::others_first), std::pair(true, simt::Execution::lazy)}) {
    const ExecutionScope scope(execution);
    const auto late = trained(true, recorded);
    REQUIRE(late.size() == kSteps);
    for (std::size_t i = 0; i < kSteps; ++i) CHECK(same_bits(late[i], expected[i]));
  }
}
