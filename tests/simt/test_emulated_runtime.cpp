// The emulated runtime refuses what CUDA refuses, and does things as late as CUDA may.
#include <cmath>
#include <thread>

#include "tests/simt/emulator_test.h"

using namespace emulator_test;
using namespace wrong_kernels;
using Catch::Matchers::Contains;

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
