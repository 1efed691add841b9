// What the stand-ins of cuBLAS and cuDNN compute, by oneDNN on host-readable memory.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace simt {

// How an operand is rounded before it is multiplied.
enum class Rounding { none, tf32, bf16 };
float rounded(float value, Rounding rounding);

std::uint16_t to_bf16(float value);
float from_bf16(std::uint16_t value);

enum class ConvPass { forward, backward_data, backward_weights };

using Extents = std::array<std::int64_t, 4>;

struct Tensor {
  Extents sizes, strides;
  std::int64_t extent() const;  // elements from the first to the last, both included
};

// x (n, c, h, w), w (o, c, kh, kw), y (n, o, h, w).
struct Convolution {
  ConvPass pass;
  Tensor x, w, y;
  std::array<std::int64_t, 2> strides, padding;
};

// Overwrites the operand that the pass computes.
void convolve(const Convolution& convolution, float* x, float* w, float* y);

// Row-major c (m, n) = op(a) op(b).
void multiply(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, const float* a,
              std::int64_t lda, const float* b, std::int64_t ldb, float* c, std::int64_t ldc);

}  // namespace simt
