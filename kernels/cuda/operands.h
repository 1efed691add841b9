// What convolution and linear do to their operands besides multiplying: biases, and bfloat16.
// A matrix (rows, cols) is row-major; an image is one of n h w rows and c columns.
#pragma once

#include <cstddef>
#include <cstdint>

namespace minidl::gpu {

using Bf16 = std::uint16_t;  // the upper half of a float

// a and b rounded to nearest, ties to even; NaN stays NaN. Tensors in bfloat16, and those they come from, are aligned
// to 16 bytes, as cuDNN wants them.
void round_to_bf16(std::int64_t a_size, const float* a, Bf16* rounded_a, std::int64_t b_size, const float* b,
                   Bf16* rounded_b);
// y = x + bias of the column; bias or null.
void widen_from_bf16(std::int64_t rows, std::int64_t cols, const Bf16* x, const float* bias, float* y);
// y += bias of the column, in place.
void add_bias(std::int64_t rows, std::int64_t cols, const float* bias, float* y);
// sums (cols) = sum of x over its rows. Uses so many bytes of the workspace.
std::size_t workspace_of_sum_rows(std::int64_t rows, std::int64_t cols);
void sum_rows(std::int64_t rows, std::int64_t cols, const float* x, float* sums);

}  // namespace minidl::gpu
