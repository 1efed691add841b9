// The emulation can fail: each kernel that is wrong on purpose is caught by the mechanism meant for it, and the right
// ones pass whatever the order of threads and blocks.
#include <cmath>

#include "tests/simt/emulator_test.h"

using namespace emulator_test;
using namespace wrong_kernels;
using Catch::Matchers::Contains;

TEST_CASE("emulator: right kernels are right under every schedule") {
  const Device device;
  for (const auto& [schedule, seed] : kSchedules) {
    simt::set_schedule(schedule, seed);
    for (const int n : {1, 3, 31, 33, 257, 1000}) {
      const std::vector<float> values = count_up(n);
      const int blocks = (n + kBlock - 1) / kBlock;
      const Floats x(values), y(n), sums(blocks), sum(1), mirrored(blocks * kBlock), reversed(blocks * kBlock);
      float* done = nullptr;
      REQUIRE(cudaMalloc(&done, 4) == cudaSuccess);
      REQUIRE(cudaMemset(done, 0, 4) == cudaSuccess);
      REQUIRE(run(2, twice, x.data, y.data, n) == cudaSuccess);
      REQUIRE(run(blocks, block_sums, x.data, sums.data, n) == cudaSuccess);
      for (int repeat = 0; repeat < 2; ++repeat)
        REQUIRE(run(blocks, grid_sum, x.data, sums.data, reinterpret_cast<unsigned*>(done), sum.data, n) ==
                cudaSuccess);
      REQUIRE(run(blocks, mirror, mirrored.data) == cudaSuccess);
      REQUIRE(run(blocks, warp_reverse, reversed.data) == cudaSuccess);
      float total = 0;
      for (int i = 0; i < n; ++i) {
        CHECK(y.get()[static_cast<std::size_t>(i)] == 2 * values[static_cast<std::size_t>(i)]);
        total += values[static_cast<std::size_t>(i)];
      }
      CHECK(sum.get()[0] == total);
      for (int i = 0; i < blocks * kBlock; ++i) {
        const int lane = i % kBlock;
        if (mirrored.get()[static_cast<std::size_t>(i)] != static_cast<float>(kBlock - 1 - lane)) FAIL("mirror");
        if (reversed.get()[static_cast<std::size_t>(i)] != static_cast<float>(lane ^ 31)) FAIL("warp_reverse");
      }
      cudaFree(done);
    }
  }
}

TEST_CASE("emulator: a missing barrier is a data race, and its answer depends on the schedule") {
  const Device device;
  const Floats out(kBlock);
  if (kSeesAccesses) {
    for (const auto& [schedule, seed] : kSchedules) {
      simt::reset();
      simt::set_schedule(schedule, seed);
      CHECK(run(1, mirror_without_barrier, out.data) == cudaErrorLaunchFailure);
      // A thread that reads before the other has written sees nothing written; one that reads after it, a race.
      CHECK_THAT(simt::last_message(), Contains("race") || Contains("nothing has written"));
    }
    simt::reset();
    CHECK(run(1, reverse_without_syncwarp, out.data) == cudaErrorLaunchFailure);
    CHECK_THAT(simt::last_message(), Contains("reverse_without_syncwarp") && Contains("race"));
  } else {
    REQUIRE(run(1, mirror_without_barrier, out.data) == cudaSuccess);
    const std::vector<float> forward = out.get();
    CHECK(std::isnan(forward[0]));
    simt::set_schedule(simt::Schedule::reverse);
    REQUIRE(run(1, mirror_without_barrier, out.data) == cudaSuccess);
    CHECK(forward[0] != out.get()[0]);
  }
}

TEST_CASE("emulator: blocks that write to the same place race") {
  if (!kSeesAccesses) return;
  const Device device;
  const Floats y(1);
  CHECK(run(1, every_block_writes, y.data) == cudaSuccess);
  CHECK(run(2, every_block_writes, y.data) == cudaErrorLaunchFailure);
  CHECK_THAT(simt::last_message(), Contains("another block"));
}

TEST_CASE("emulator: accesses out of bounds by one are illegal") {
  const Device device;
  for (const int n : {1, 33, 64, 1000, 1024}) {
    const auto reads = [&] {
      const Floats x(count_up(n)), y(1);
      return run(1, read_past, x.data, y.data, n);
    };
    const auto writes = [&] {
      const Floats y(n);
      return run(1, write_past, y.data, n);
    };
    if (kAddressSanitizer) {
      CHECK_THAT(last_words([&] { reads(); }), Contains("AddressSanitizer") || Contains("cudaErrorIllegalAddress"));
      CHECK_THAT(last_words([&] { writes(); }), Contains("AddressSanitizer") || Contains("cudaErrorIllegalAddress"));
      continue;
    }
    // Without the checks of accesses the guard page catches what is flush against it, and canaries what is written.
    if (kSeesAccesses || n * 4 % 256 == 0) {
      CHECK(reads() == cudaErrorIllegalAddress);
      CHECK_THAT(simt::last_message(), Contains("read_past, block (0,0,0), thread (0,0,0)") &&
                                           Contains("byte " + std::to_string(4 * n) + " of allocation"));
      simt::reset();
    }
    CHECK(writes() == cudaErrorIllegalAddress);
    if (kSeesAccesses) CHECK_THAT(simt::last_message(), Contains("write_past") && Contains("out of bounds"));
    simt::reset();
  }
}

TEST_CASE("emulator: memory that has been freed is illegal") {
  const Device device;
  float* freed = nullptr;
  REQUIRE(cudaMalloc(&freed, 4096) == cudaSuccess);
  REQUIRE(cudaFree(freed) == cudaSuccess);
  CHECK(cudaFree(freed) == cudaErrorInvalidValue);
  if (kAddressSanitizer) return;
  CHECK(run(1, write_past, freed, 0) == cudaErrorIllegalAddress);
  CHECK_THAT(simt::last_message(), Contains("which has been freed"));
}

TEST_CASE("emulator: a shared array has bounds") {
  const Device device;
  const Floats out(kBlock);
  const auto action = [&] { return run(1, shared_past, out.data); };
  if (kAddressSanitizer) CHECK_THAT(last_words(action), Contains("index 128 out of bounds"));
  if (!kSeesAccesses) return;
  CHECK(action() == cudaErrorIllegalAddress);
  CHECK_THAT(simt::last_message(), Contains("thread (127,0,0): uses index 128 of an array"));
}

TEST_CASE("emulator: divergent barriers are errors") {
  const Device device;
  const Floats out(kBlock);
  for (const auto& [schedule, seed] : kSchedules) {
    simt::reset();
    simt::set_schedule(schedule, seed);
    CHECK(run(1, barrier_in_branch, out.data) == cudaErrorLaunchFailure);
    CHECK_THAT(simt::last_message(), Contains("__syncthreads") && Contains("has returned without it"));
    simt::reset();
    CHECK(run(1, barrier_after_return, out.data) == cudaErrorLaunchFailure);
    CHECK_THAT(simt::last_message(), Contains("thread (7,0,0) has returned without it"));
    simt::reset();
    CHECK(run(1, two_barriers, out.data) == cudaErrorLaunchFailure);
    CHECK_THAT(simt::last_message(), Contains("a barrier needs all threads"));
  }
}

TEST_CASE("emulator: shared memory that nothing has written in this block is NaN, or an error") {
  const Device device;
  const Floats out(2 * kBlock);
  if (kSeesAccesses) {
    CHECK(run(1, unwritten_shared, out.data) == cudaErrorLaunchFailure);
    CHECK_THAT(simt::last_message(), Contains("thread (5,0,0)") && Contains("nothing has written"));
    simt::reset();
    CHECK(run(2, leftover_shared, out.data) == cudaErrorLaunchFailure);
    CHECK_THAT(simt::last_message(), Contains("block (1,0,0)") && Contains("nothing has written"));
  } else {
    REQUIRE(run(1, unwritten_shared, out.data) == cudaSuccess);
    CHECK(std::isnan(out.get()[5]));
    REQUIRE(run(2, leftover_shared, out.data) == cudaSuccess);
    CHECK(out.get()[0] == 1);
    CHECK(std::isnan(out.get()[kBlock]));
  }
}

TEST_CASE("emulator: what a kernel forgets to write stays NaN, and must not be read") {
  const Device device;
  const Floats x(count_up(33)), y(33), z(33);
  REQUIRE(run(1, twice_without_tail, x.data, y.data, 33) == cudaSuccess);
  CHECK(y.get()[31] == 62);
  CHECK(std::isnan(y.get()[32]));
  if (!kSeesAccesses) return;
  CHECK(run(1, twice, y.data, z.data, 33) == cudaErrorLaunchFailure);
  CHECK_THAT(simt::last_message(), Contains("byte 128 of allocation") && Contains("nothing has written"));
}

TEST_CASE("emulator: warp operations need their lanes") {
  const Device device;
  const Floats out(kBlock);
  CHECK(run(1, shuffle_without_lane, out.data) == cudaErrorLaunchFailure);
  CHECK_THAT(simt::last_message(), Contains("__shfl_down_sync") && Contains("thread (31,0,0) has returned without it"));
  simt::reset();
  CHECK(run(1, shuffle_outside_mask, out.data) == cudaErrorLaunchFailure);
  CHECK_THAT(simt::last_message(), Contains("a lane that is not in its mask"));
}

TEST_CASE("emulator: vector accesses are aligned") {
  const Device device;
  const Floats x(count_up(16)), y(1);
  const auto action = [&] { return run(1, misaligned_vector, x.data, y.data); };
  if (kAddressSanitizer) CHECK_THAT(last_words(action), Contains("misaligned address"));
  if (!kSeesAccesses) return;
  CHECK(action() == cudaErrorMisalignedAddress);
  CHECK_THAT(simt::last_message(), Contains("needs an alignment of 16 bytes") && Contains("wrong_kernels.cu"));
}

TEST_CASE("emulator: kernels don't touch host memory") {
  if (kAddressSanitizer) return;
  const Device device;
  const Floats y(1);
  const float* nothing = nullptr;
  CHECK(run(1, read_past, nothing, y.data, 16) == cudaErrorIllegalAddress);
  simt::reset();
  if (!kSeesAccesses) return;
  const std::vector<float> host(4);
  CHECK(run(1, read_past, host.data(), y.data, 1) == cudaErrorIllegalAddress);
  CHECK_THAT(simt::last_message(), Contains("neither device memory nor the kernel's own"));
}

TEST_CASE("emulator: a stack that overflows is an error") {
  if (kAddressSanitizer) return;
  const Device device;
  const Floats out(kBlock);
  CHECK(run(1, overflow_stack, out.data, 3) == cudaSuccess);
  CHECK(run(1, overflow_stack, out.data, 100'000) == cudaErrorIllegalAddress);
  CHECK_THAT(simt::last_message(), Contains("overflows its stack"));
}

TEST_CASE("emulator: host code that touches device memory dies with a message") {
  const Device device;
  const Floats x(16);
  CHECK_THAT(last_words([&] {
               const Floats other(4);
               x.data[3] = 1;
             }),
             Contains("host code touches device memory: byte 12 of allocation") || Contains("use-after-poison"));
}

TEST_CASE("emulator: an error is kept") {
  const Device device;
  const Floats x(count_up(16)), y(kBlock);
  float* memory = nullptr;
  CHECK(run(1, barrier_in_branch, y.data) == cudaErrorLaunchFailure);
  CHECK(run(1, twice, x.data, y.data, 16) == cudaErrorLaunchFailure);
  CHECK(cudaMalloc(&memory, 4) == cudaErrorLaunchFailure);
  CHECK(cudaGetLastError() == cudaErrorLaunchFailure);
  simt::reset();
  CHECK(cudaGetLastError() == cudaSuccess);
  CHECK(run(1, twice, x.data, y.data, 16) == cudaSuccess);
}
