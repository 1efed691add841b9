// Kernels that are right, and kernels that are wrong on purpose, each in one way. out has one element per thread unless
// said otherwise.
#pragma once

#include <cuda_runtime.h>

namespace wrong_kernels {

inline constexpr int kBlock = 128;

// --- right: y = 2 x for any n; a sum per block of kBlock; out[i] = i of the mirrored thread of the block
__global__ void twice(const float* x, float* y, int n);
__global__ void block_sums(const float* x, float* sums, int n);
__global__ void mirror(float* out);
// The sum of all elements, by the block that finishes last; done must be 0 and is so again.
__global__ void grid_sum(const float* x, float* partial, unsigned* done, float* sum, int n);
__global__ void warp_reverse(float* out);  // through shared memory and __syncwarp

// --- wrong
__global__ void mirror_without_barrier(float* out);
__global__ void reverse_without_syncwarp(float* out);
__global__ void read_past(const float* x, float* y, int n);  // y[0] = x[n]
__global__ void write_past(float* y, int n);                 // y[n] = 1
__global__ void shared_past(float* out);                     // writes one past a shared array
__global__ void barrier_in_branch(float* out);               // half of the threads only
__global__ void barrier_after_return(float* out);            // one thread has returned
__global__ void two_barriers(float* out);                    // halves of the block at different ones
__global__ void unwritten_shared(float* out);
__global__ void leftover_shared(float* out);  // right only if a block before it has left its values
__global__ void twice_without_tail(const float* x, float* y, int n);  // the last n % 4 elements are forgotten
__global__ void shuffle_without_lane(float* out);                     // lane 31 does not take part
__global__ void shuffle_outside_mask(float* out);                     // reads a lane that does not take part
__global__ void misaligned_vector(const float* x, float* y);          // reads a float4 at x + 1
__global__ void every_block_writes(float* y);                         // y[0], without order
__global__ void overflow_stack(float* out, int depth);

}  // namespace wrong_kernels
