// What the tests of the emulation share.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "tests/simt/simt.h"
#include "tests/simt/wrong_kernels.h"

namespace emulator_test {

#ifdef MINIDL_SIMT_ACCESS
inline constexpr bool kSeesAccesses = true;
#else
inline constexpr bool kSeesAccesses = false;
#endif
#ifdef __SANITIZE_ADDRESS__
inline constexpr bool kAddressSanitizer = true;
#else
inline constexpr bool kAddressSanitizer = false;
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

inline std::vector<float> count_up(int n) {
  std::vector<float> values(static_cast<std::size_t>(n));
  for (int i = 0; i < n; ++i) values[static_cast<std::size_t>(i)] = static_cast<float>(i % 97);
  return values;
}

template <class... P, class... A>
cudaError_t start(cudaStream_t stream, int blocks, void (*kernel)(P...), A... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = static_cast<unsigned>(blocks);
  config.blockDim = wrong_kernels::kBlock;
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
inline std::string last_words(const std::function<void()>& action) {
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

inline const std::vector<std::pair<simt::Schedule, std::uint64_t>> kSchedules = {{simt::Schedule::forward, 0},
                                                                                 {simt::Schedule::reverse, 0},
                                                                                 {simt::Schedule::shuffled, 1},
                                                                                 {simt::Schedule::shuffled, 2}};

}  // namespace emulator_test
