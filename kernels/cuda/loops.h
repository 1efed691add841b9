// Loops of kernels over flat buffers, four elements at a time where the pointers allow it, and the sums of many blocks.
#pragma once

#include <cstdint>

#include "kernels/cuda/gpu.h"

namespace minidl::gpu {

// Whether four neighbouring elements may be accessed as one, from the first on.
template <class... T>
__host__ __device__ bool fit_vectors(const T*... pointers) {
  return ((reinterpret_cast<std::uintptr_t>(pointers) % (4 * sizeof(T)) == 0) && ...);
}

// The i-th four elements.
__device__ inline float4 load4(const float* p, std::int64_t i) { return reinterpret_cast<const float4*>(p)[i]; }
__device__ inline uchar4 load4(const std::uint8_t* p, std::int64_t i) { return reinterpret_cast<const uchar4*>(p)[i]; }

// f of four elements each.
template <class F, class... V>
__device__ float4 apply4(F f, V... v) {
  return make_float4(f(v.x...), f(v.y...), f(v.z...), f(v.w...));
}

// Grid-stride over vectors, then over the at most three (or, unaligned, all) elements that are left. f.load(), where it
// has one, fetches from device memory what is the same for all elements.
template <class F, class... T>
__global__ void __launch_bounds__(kThreads)
    map_kernel(std::int64_t size, std::int64_t vectors, F f, float* y, const T*... x) {
  if constexpr (requires { f.load(); }) f.load();
  for (std::int64_t i = first_index(); i < vectors; i += index_stride())
    reinterpret_cast<float4*>(y)[i] = apply4(f, load4(x, i)...);
  for (std::int64_t i = 4 * vectors + first_index(); i < size; i += index_stride()) y[i] = f(x[i]...);
}

// y[i] = f(x[i]...) for i in [0, size); y may be an x. Launches nothing for size 0.
template <class F, class... T>
void map(const char* what, std::int64_t size, F f, float* y, const T*... x) {
  if (size == 0) return;
  const std::int64_t vectors = fit_vectors(y, x...) ? size / 4 : 0;
  launch(what, map_kernel<F, T...>, blocks_for(vectors > 0 ? vectors : size), kThreads, 0, size, vectors, f, y, x...);
}

__device__ inline float4 operator+(float4 a, float4 b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

// Floats of a vector type.
template <class V>
inline constexpr std::int64_t kWidth = sizeof(V) / sizeof(float);

// f.template operator()<V>() for the type to access memory by: float4 where that fits, else float.
template <class F>
void with_vectors(bool fits, F f) {
  if (fits)
    f.template operator()<float4>();
  else
    f.template operator()<float>();
}

// Called by all threads of `count` blocks. True in the one that comes last, which then sees what the others wrote to
// global memory before. The counter is 0 before the first and after the last.
__device__ inline bool is_last_block(unsigned* counter, unsigned count) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicInc(counter, count - 1) == count - 1;
    __threadfence();
  }
  __syncthreads();
  return last;
}

}  // namespace minidl::gpu
