// What every .cu file of the CUDA backend shares: launches and the arithmetic of a block. Host files take context.h
// alone.
//
// The files compile with nvcc against the CUDA toolkit and with a C++ compiler against the emulation of tests/simt,
// which has headers of the same names. Nothing here or in any kernel knows which.
//
// Invariants of every kernel
//  - No atomics on floats: sums have a fixed order, so results are the same bits on every run.
//  - Sizes need not be multiples of anything; vector accesses happen only where pointer and size allow them.
//  - Images are channels-last: element (n, c, y, x) is at ((n h + y) w + x) C + c.
#pragma once

#include <cstdint>

#include "kernels/cuda/context.h"

namespace minidl::gpu {

inline constexpr int kWarp = 32;
// Blocks that pointwise kernels use at most; they stride over the rest.
inline constexpr std::int64_t kMostBlocks = 1 << 16;
inline constexpr int kThreads = 256;

__host__ __device__ constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Blocks of kThreads for a grid-stride loop over `count`.
inline unsigned blocks_for(std::int64_t count) {
  const std::int64_t blocks = ceil_div(count, kThreads);
  return static_cast<unsigned>(blocks < 1 ? 1 : blocks < kMostBlocks ? blocks : kMostBlocks);
}

// kernel<<<grid, block, shared_bytes, stream()>>>(arguments...), checked. Throws Error when the launch is refused.
template <class... Parameters, class... Arguments>
void launch(const char* what, void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes,
            Arguments&&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream();
  check_status(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), what);
}

// --- inside kernels -------------------------------------------------------------------------------------------------

// This thread's first index and the distance to its next one in a grid-stride loop.
__device__ inline std::int64_t first_index() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ inline std::int64_t index_stride() { return static_cast<std::int64_t>(gridDim.x) * blockDim.x; }

// The position that position i of an axis padded by reflection mirrors, i counted from the first inner one.
__host__ __device__ inline std::int64_t reflect(std::int64_t i, std::int64_t size) {
  return i < 0 ? -i : i >= size ? 2 * (size - 1) - i : i;
}

// Sum over the lanes of a warp, in lane 0 (every lane takes part).
template <class T>
__device__ T warp_sum(T value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_down_sync(0xffffffffu, value, offset);
  return value;
}

// Sum over the threads of a one-dimensional block of a multiple of 32 threads, in every thread. All threads call it.
template <class T>
__device__ T block_sum(T value) {
  __shared__ T partial[kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  value = warp_sum(value);
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  T total = T();
  for (int w = 0; w < static_cast<int>(blockDim.x) / kWarp; ++w) total += partial[w];
  __syncthreads();  // so that the next call may overwrite the partial sums
  return total;
}

// The piece that holds `index`, where piece i begins at first[i], ascending. Empty pieces hold nothing.
template <class T>
__device__ int piece_of(const T* first, int count, T index) {
  int low = 0, high = count;  // first[low] <= index < first[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (first[middle] <= index ? low : high) = middle;
  }
  return low;
}

}  // namespace minidl::gpu
