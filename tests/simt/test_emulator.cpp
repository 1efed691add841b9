// The emulation can fail: each kernel that is wrong on purpose is caught by the mechanism meant for it, and the right
// ones pass whatever the order of threads and blocks.
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <csignal>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "tests/simt/simt.h"
#include "tests/simt/wrong_kernels.h"

using namespace wrong_kernels;
using Catch::Matchers::Contains;

namespace {

#ifdef MINIDL_SIMT_ACCESS
constexpr bool kSeesAccesses = true;
#else
constexpr bool kSeesAccesses = false;
#endif
#ifdef __SANITIZE_ADDRESS__
constexpr bool kAddressSanitizer = true;
#else
constexpr bool kAddressSanitizer = false;
#endif

// A device without an error, whose messages stay off the screen, for the length of a test.
struct Device {
  Device() {
    simt::reset();
    simt::set_messages_to_stderr(false);
    simt::set_schedule(simt::Schedule::forward);
    simt::set_execution(simt::Execution::lazy);
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  }
  ~Device() {
    simt::reset();
    simt::set_messages_to_stderr(true);
    simt::set_schedule(simt::Schedule::forward);
    simt::set_execution(simt::Execution::lazy);
    cudaStreamDestroy(stream);
  }
  cudaStream_t stream = nullptr;
};

struct Floats {
  explicit Floats(int n) : size(n) { cudaMalloc(&data, static_cast<std::size_t>(n) * 4); }
  explicit Floats(const std::vector<float>& values) : Floats(static_cast<int>(values.size())) {
    cudaMemcpy(data, values.data(), values.size() * 4, cudaMemcpyHostToDevice);
  }
  ~Floats() { cudaFree(data); }
  Floats(const Floats&) = delete;
  Floats& operator=(const Floats&) = delete;
  std::vector<float> get() const {
    std::vector<float> values(static_cast<std::size_t>(size));
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    REQUIRE(cudaMemcpy(values.data(), data, values.size() * 4, cudaMemcpyDeviceToHost) == cudaSuccess);
    return values;
  }
  float* data = nullptr;
  int size;
};

std::vector<float> count_up(int n) {
  std::vector<float> values(static_cast<std::size_t>(n));
  for (int i = 0; i < n; ++i) values[static_cast<std::size_t>(i)] = static_cast<float>(i % 97);
  return values;
}

template <class... P, class... A>
cudaError_t start(cudaStream_t stream, int blocks, void (*kernel)(P...), A... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = static_cast<unsigned>(blocks);
  config.blockDim = kBlock;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// Launches and waits.
template <class... P, class... A>
cudaError_t run(int blocks, void (*kernel)(P...), A... arguments) {
  if (const cudaError_t refused = start(nullptr, blocks, kernel, arguments...)) return refused;
  return cudaDeviceSynchronize();
}

// What a process that does this writes to stderr, mostly before it dies of it.
std::string last_words(const std::function<void()>& action) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    std::signal(SIGSEGV, SIG_DFL);
    simt::set_messages_to_stderr(true);
    action();
    _exit(0);
  }
  close(ends[1]);
  std::string words;
  char buffer[4096];
  for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;) words.append(buffer, static_cast<std::size_t>(n));
  close(ends[0]);
  waitpid(child, nullptr, 0);
  return words;
}

const std::vector<std::pair<simt::Schedule, std::uint64_t>> kSchedules = {{simt::Schedule::forward, 0},
                                                                          {simt::Schedule::reverse, 0},
                                                                          {simt::Schedule::shuffled, 1},
                                                                          {simt::Schedule::shuffled, 2}};

}  // namespace

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
  if (kAddressSanitizer) CHECK_THAT(last_words(action), Contains("AddressSanitizer"));
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
  if (!kSeesAccesses) return;
  const Device device;
  const Floats x(count_up(16)), y(1);
  CHECK(run(1, misaligned_vector, x.data, y.data) == cudaErrorMisalignedAddress);
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

TEST_CASE("emulator: launches beyond the device's limits are refused") {
  const Device device;
  const Floats y(1);
  const auto refused = [&](dim3 grid, dim3 block, std::size_t shared) {
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    const cudaError_t error = cudaLaunchKernelEx(&config, every_block_writes, y.data);
    CHECK(cudaGetLastError() == error);
    return error == cudaErrorInvalidConfiguration;
  };
  CHECK(refused({1, 1, 1}, {1025, 1, 1}, 0));
  CHECK(refused({1, 1, 1}, {32, 33, 1}, 0));
  CHECK(refused({1, 1, 1}, {1, 1, 65}, 0));
  CHECK(refused({0, 1, 1}, {32, 1, 1}, 0));
  CHECK(refused({1, 1, 1}, {0, 1, 1}, 0));
  CHECK(refused({1, 65536, 1}, {32, 1, 1}, 0));
  CHECK(refused({1, 1, 65536}, {32, 1, 1}, 0));
  CHECK(refused({1, 1, 1}, {32, 1, 1}, 1024));
  CHECK_THAT(simt::last_message(), Contains("dynamic shared memory"));
  CHECK_FALSE(refused({1, 1, 1}, {1024, 1, 1}, 0));
}

TEST_CASE("emulator: copies must be what they say") {
  const Device device;
  const Floats x(16), y(16);
  std::vector<float> host(32);
  CHECK(cudaMemcpy(host.data(), x.data, 64, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK(cudaMemcpy(x.data, host.data(), 64, cudaMemcpyDeviceToDevice) == cudaErrorInvalidValue);
  CHECK(cudaMemcpy(x.data, host.data(), 68, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK_THAT(simt::last_message(), Contains("a copy of 68 bytes"));
  CHECK(cudaMemcpy(y.data, x.data, 64, cudaMemcpyDeviceToDevice) == cudaSuccess);
  CHECK(cudaMemset(x.data, 0, 68) == cudaErrorInvalidValue);
}

TEST_CASE("emulator: memory has an end") {
  const Device device;
  std::size_t available = 0, total = 0;
  REQUIRE(cudaMemGetInfo(&available, &total) == cudaSuccess);
  void* memory = nullptr;
  CHECK(cudaMalloc(&memory, available + 1) == cudaErrorMemoryAllocation);
  CHECK(memory == nullptr);
  CHECK(cudaMalloc(&memory, 1000) == cudaSuccess);
  CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
  CHECK(cudaFree(memory) == cudaSuccess);
}

TEST_CASE("emulator: a library call checks its workspace") {
  const Device device;
  const Floats workspace(100);
  const auto call = [&](std::size_t bytes) {
    simt::enqueue(device.stream, "library", [=, data = workspace.data] {
      simt::require_device(data, bytes, "workspace");
      data[bytes / 4 - 1] = 1;
    });
    return cudaStreamSynchronize(device.stream);
  };
  CHECK(call(400) == cudaSuccess);
  CHECK(call(404) == cudaErrorIllegalAddress);
  CHECK_THAT(simt::last_message(), Contains("workspace: needs 404 bytes"));
}

TEST_CASE("emulator: a host that does not wait sees the old values") {
  const Device device;
  const Floats x(count_up(16)), y(16);
  float* pinned = nullptr;
  REQUIRE(cudaMallocHost(&pinned, 64) == cudaSuccess);
  pinned[3] = -1;
  REQUIRE(start(device.stream, 1, twice, x.data, y.data, 16) == cudaSuccess);
  REQUIRE(cudaMemcpyAsync(pinned, y.data, 64, cudaMemcpyDeviceToHost, device.stream) == cudaSuccess);
  CHECK(pinned[3] == -1);
  CHECK(cudaStreamQuery(device.stream) == cudaErrorNotReady);
  REQUIRE(cudaStreamSynchronize(device.stream) == cudaSuccess);
  CHECK(cudaStreamQuery(device.stream) == cudaSuccess);
  CHECK(pinned[3] == 6);
  // The same with an upload whose buffer is filled anew too early: the device reads the new values.
  pinned[3] = 10;
  REQUIRE(cudaMemcpyAsync(x.data, pinned, 64, cudaMemcpyHostToDevice, device.stream) == cudaSuccess);
  pinned[3] = 20;
  REQUIRE(cudaStreamSynchronize(device.stream) == cudaSuccess);
  CHECK(x.get()[3] == 20);
  CHECK(cudaFreeHost(pinned) == cudaSuccess);
}

TEST_CASE("emulator: streams are ordered by events only") {
  const Device device;
  cudaStream_t other = nullptr;
  cudaEvent_t event = nullptr;
  REQUIRE(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking) == cudaSuccess);
  REQUIRE(cudaEventCreate(&event) == cudaSuccess);
  const Floats x(count_up(16)), y(16), z(16);
  REQUIRE(start(device.stream, 1, twice, x.data, y.data, 16) == cudaSuccess);
  REQUIRE(cudaEventRecord(event, device.stream) == cudaSuccess);
  CHECK(cudaEventQuery(event) == cudaErrorNotReady);
  REQUIRE(cudaStreamWaitEvent(other, event) == cudaSuccess);
  REQUIRE(start(other, 1, twice, y.data, z.data, 16) == cudaSuccess);
  REQUIRE(cudaStreamSynchronize(other) == cudaSuccess);
  CHECK(cudaEventQuery(event) == cudaSuccess);
  CHECK(z.get()[3] == 12);
  float milliseconds = -1;
  CHECK(cudaEventElapsedTime(&milliseconds, event, event) == cudaSuccess);
  CHECK(milliseconds == 0);
  if (kSeesAccesses) {  // without the event the second kernel may come first
    const Floats fresh(16);
    REQUIRE(start(device.stream, 1, twice, x.data, fresh.data, 16) == cudaSuccess);
    REQUIRE(start(other, 1, twice, fresh.data, z.data, 16) == cudaSuccess);
    CHECK(cudaStreamSynchronize(other) == cudaErrorLaunchFailure);
    CHECK_THAT(simt::last_message(), Contains("nothing has written"));
    simt::reset();
  }
  cudaEventDestroy(event);
  cudaStreamDestroy(other);
}

TEST_CASE("emulator: a graph repeats what was recorded, with the values of then") {
  const Device device;
  const Floats x(count_up(16)), y(16);
  int n = 8;
  REQUIRE(cudaStreamBeginCapture(device.stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
  CHECK(simt::is_capturing(device.stream));
  REQUIRE(start(device.stream, 1, twice, x.data, y.data, n) == cudaSuccess);
  n = 16;  // too late: the argument is part of the recording
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  REQUIRE(cudaStreamEndCapture(device.stream, &graph) == cudaSuccess);
  REQUIRE(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
  CHECK(std::isnan(y.get()[0]));  // recorded, not done
  REQUIRE(cudaGraphDestroy(graph) == cudaSuccess);
  REQUIRE(cudaGraphLaunch(executable, device.stream) == cudaSuccess);
  CHECK(y.get()[7] == 14);
  CHECK(std::isnan(y.get()[8]));
  // Device memory is read anew.
  REQUIRE(cudaMemset(x.data, 0, 64) == cudaSuccess);
  REQUIRE(cudaGraphLaunch(executable, device.stream) == cudaSuccess);
  CHECK(y.get()[7] == 0);
  CHECK(cudaGraphExecDestroy(executable) == cudaSuccess);
}

TEST_CASE("emulator: what a capture does not allow invalidates it") {
  const Device device;
  const Floats x(16), y(16);
  void* memory = nullptr;
  float host[16] = {};
  cudaEvent_t event = nullptr;
  REQUIRE(cudaEventCreate(&event) == cudaSuccess);
  cudaStream_t blocking = nullptr;
  REQUIRE(cudaStreamCreate(&blocking) == cudaSuccess);
  const std::vector<std::function<cudaError_t()>> forbidden = {
      [&] { return cudaMalloc(&memory, 64); },
      [&] { return cudaFree(x.data); },
      [&] { return cudaMallocHost(&memory, 64); },
      [&] { return cudaStreamSynchronize(blocking); },
      [&] { return cudaStreamQuery(blocking); },
      [&] { return cudaDeviceSynchronize(); },
      [&] { return cudaEventSynchronize(event); },
      [&] { return cudaMemcpyAsync(x.data, host, 64, cudaMemcpyHostToDevice, blocking); },
      [&] { return cudaMemcpy(host, x.data, 64, cudaMemcpyDeviceToHost); },
      [&] { return cudaMemsetAsync(x.data, 0, 64, nullptr); },
  };
  for (std::size_t i = 0; i < forbidden.size(); ++i) {
    INFO("call " << i);
    REQUIRE(cudaStreamBeginCapture(blocking, cudaStreamCaptureModeGlobal) == cudaSuccess);
    CHECK(forbidden[i]() != cudaSuccess);
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    CHECK(cudaStreamIsCapturing(blocking, &status) == cudaSuccess);
    CHECK(status == cudaStreamCaptureStatusInvalidated);
    cudaGraph_t graph = nullptr;
    CHECK(cudaStreamEndCapture(blocking, &graph) == cudaErrorStreamCaptureInvalidated);
    CHECK(graph == nullptr);
    simt::reset();
  }
  cudaEventDestroy(event);
  cudaStreamDestroy(blocking);
}

TEST_CASE("emulator: counters tell launches and bytes") {
  const Device device;
  const Floats x(count_up(1000)), y(1000);
  simt::reset_counters();
  for (int i = 0; i < 3; ++i) REQUIRE(run(4, twice, x.data, y.data, 1000) == cudaSuccess);
  simt::Counters counters = simt::counters();
  CHECK(counters.launches == 3);
  REQUIRE(counters.kernels.size() == 1);
  const auto& [name, kernel] = *counters.kernels.begin();
  CHECK(name == "wrong_kernels::twice");
  CHECK(kernel.launches == 3);
  CHECK(kernel.threads == 3 * 4 * kBlock);
  if (kSeesAccesses) {
    CHECK(kernel.bytes_read == 3 * 4000);
    CHECK(kernel.bytes_written == 3 * 4000);
    CHECK(kernel.unique_read == 3 * 4000);
  }
  simt::reset_counters();
  simt::set_dry_run(true);
  CHECK(run(4, write_past, y.data, 1000) == cudaSuccess);
  simt::set_dry_run(false);
  CHECK(simt::counters().launches == 1);
}

TEST_CASE("emulator: several host threads use it") {
  const Device device;
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (std::size_t t = 0; t < wrong.size(); ++t)
    threads.emplace_back([&, t] {
      for (int repeat = 0; repeat < 20; ++repeat) {
        float* out = nullptr;
        std::vector<float> values(kBlock);
        wrong[t] += cudaMalloc(&out, kBlock * 4) != cudaSuccess;
        wrong[t] += run(1, mirror, out) != cudaSuccess;
        wrong[t] += cudaMemcpy(values.data(), out, kBlock * 4, cudaMemcpyDeviceToHost) != cudaSuccess;
        wrong[t] += values[3] != kBlock - 4;
        wrong[t] += cudaFree(out) != cudaSuccess;
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(4));
}
