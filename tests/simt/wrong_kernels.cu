#include "tests/simt/wrong_kernels.h"

namespace wrong_kernels {
namespace {

__device__ int global_index() { return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); }

__device__ float warp_sum(float value) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(0xffffffffu, value, offset);
  return value;
}

// In thread 0.
__device__ float block_sum(float value) {
  __shared__ float partial[kBlock / 32];
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  float total = 0;
  for (const float p : partial) total += p;
  __syncthreads();
  return total;
}

__device__ float deeper(int depth, const float* above) {
  volatile float frame[64];
  frame[depth % 64] = above[0] + 1;
  const float here = frame[depth % 64];
  return depth == 0 ? here : deeper(depth - 1, &here) + frame[depth % 64];
}

}  // namespace

__global__ void twice(const float* x, float* y, int n) {
  for (int i = global_index(); i < n; i += static_cast<int>(gridDim.x * blockDim.x)) y[i] = 2 * x[i];
}

__global__ void block_sums(const float* x, float* sums, int n) {
  const int i = global_index();
  const float total = block_sum(i < n ? x[i] : 0.0f);
  if (threadIdx.x == 0) sums[blockIdx.x] = total;
}

__global__ void mirror(float* out) {
  __shared__ float values[kBlock];
  values[threadIdx.x] = static_cast<float>(threadIdx.x);
  __syncthreads();
  out[global_index()] = values[kBlock - 1 - threadIdx.x];
}

__global__ void grid_sum(const float* x, float* partial, unsigned* done, float* sum, int n) {
  __shared__ bool last;
  const int i = global_index();
  const float total = block_sum(i < n ? x[i] : 0.0f);
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = total;
    __threadfence();
    last = atomicInc(done, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (last && threadIdx.x == 0) {
    float result = 0;
    for (unsigned b = 0; b < gridDim.x; ++b) result += partial[b];
    sum[0] = result;
  }
}

__global__ void warp_reverse(float* out) {
  __shared__ float values[kBlock];
  values[threadIdx.x] = static_cast<float>(threadIdx.x);
  __syncwarp();
  out[global_index()] = values[threadIdx.x ^ 31];
}

__global__ void mirror_without_barrier(float* out) {
  __shared__ float values[kBlock];
  values[threadIdx.x] = static_cast<float>(threadIdx.x);
  out[global_index()] = values[kBlock - 1 - threadIdx.x];
}

__global__ void reverse_without_syncwarp(float* out) {
  __shared__ float values[kBlock];
  values[threadIdx.x] = static_cast<float>(threadIdx.x);
  const float sum = warp_sum(1.0f);  // a shuffle orders no memory
  out[global_index()] = values[threadIdx.x ^ 31] + sum;
}

__global__ void read_past(const float* x, float* y, int n) { y[0] = x[n]; }

__global__ void write_past(float* y, int n) { y[n] = 1; }

__global__ void shared_past(float* out) {
  __shared__ float values[kBlock];
  values[threadIdx.x + 1] = 1;
  __syncthreads();
  out[global_index()] = values[threadIdx.x];
}

__global__ void barrier_in_branch(float* out) {
  if (threadIdx.x < kBlock / 2) __syncthreads();
  out[global_index()] = 1;
}

__global__ void barrier_after_return(float* out) {
  out[global_index()] = 1;
  if (threadIdx.x == 7) return;
  __syncthreads();
}

__global__ void two_barriers(float* out) {
  if (threadIdx.x < kBlock / 2) {
    __syncthreads();
    out[global_index()] = 1;
  } else {
    __syncthreads();
    out[global_index()] = 2;
  }
}

__global__ void unwritten_shared(float* out) {
  __shared__ float values[kBlock];
  if (threadIdx.x != 5) values[threadIdx.x] = 1;
  __syncthreads();
  out[global_index()] = values[threadIdx.x];
}

__global__ void leftover_shared(float* out) {
  __shared__ float value;
  if (blockIdx.x == 0 && threadIdx.x == 0) value = 1;
  __syncthreads();
  out[global_index()] = value;
}

__global__ void twice_without_tail(const float* x, float* y, int n) {
  const int i = 4 * global_index();
  if (i + 4 <= n)
    for (int k = 0; k < 4; ++k) y[i + k] = 2 * x[i + k];
}

__global__ void shuffle_without_lane(float* out) {
  float value = 1;
  if (threadIdx.x % 32 != 31) value = __shfl_down_sync(0xffffffffu, value, 1);
  out[global_index()] = value;
}

__global__ void shuffle_outside_mask(float* out) {
  float value = 1;
  if (threadIdx.x % 32 < 16) value = __shfl_xor_sync(0x0000ffffu, value, 16);
  out[global_index()] = value;
}

__global__ void misaligned_vector(const float* x, float* y) {
  const float4 v = *reinterpret_cast<const float4*>(x + 1);
  y[0] = v.x + v.y + v.z + v.w;
}

__global__ void every_block_writes(float* y) {
  if (threadIdx.x == 0) y[0] = static_cast<float>(blockIdx.x);
}

__global__ void overflow_stack(float* out, int depth) {
  const float start = 0;
  out[global_index()] = deeper(depth, &start);
}

}  // namespace wrong_kernels
