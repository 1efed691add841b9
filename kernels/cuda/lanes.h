// Neighbouring floats that a thread loads and stores at once.
#pragma once

#include <cstdint>

#include "kernels/cuda/gpu.h"

namespace minidl::gpu {

template <int V>
struct Lanes {
  float v[V];
};

template <int V>
__device__ Lanes<V> load(const float* p) {
  static_assert(V == 1 || V == 4);
  if constexpr (V == 4) {
    const float4 f = *reinterpret_cast<const float4*>(p);
    return {{f.x, f.y, f.z, f.w}};
  } else {
    return {{*p}};
  }
}

template <int V>
__device__ void store(float* p, const Lanes<V>& lanes) {
  if constexpr (V == 4)
    *reinterpret_cast<float4*>(p) = make_float4(lanes.v[0], lanes.v[1], lanes.v[2], lanes.v[3]);
  else
    *p = lanes.v[0];
}

}  // namespace minidl::gpu
