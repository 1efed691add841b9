// What a convolution's bias gets.
#pragma once

#include "kernels/cpu/loops.h"

namespace minidl::cpu {

// gbias[k] = sum of gy over samples and pixels.
inline void sum_channels(const ImageDims& d, const float* gy, float* gbias) {
  dispatch_block(d.block, [&]<int K>() {
    parallel_for(d.c / d.block, d.n * d.pixels() * d.block, [&](std::int64_t block) {
      double sums[kLanes * std::max(K, 1)], total[kLanes * std::max(K, 1)] = {};
      for (std::int64_t n = 0; n < d.n; ++n) {
        const float* run = gy + d.index(n, block * d.block, 0, 0);
        sum_lanes<K, 1>(0, d.pixels() * d.block, sums, [run](auto at, int) { return Terms<1>{{at(run)}}; });
        for (std::int64_t lane = 0; lane < d.block; ++lane) total[lane] += sums[lane];
      }
      for (std::int64_t lane = 0; lane < d.block; ++lane)
        gbias[block * d.block + lane] = static_cast<float>(total[lane]);
    });
  });
}

}  // namespace minidl::cpu
