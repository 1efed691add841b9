// Products of matrices, once per instruction set: rows are pixels or tiles, columns are channels in blocks of a vector's
// lanes, as images have them. Each function works on one thread.
#pragma once

#include <cstdint>

namespace minidl::cpu {

// result (rows x 1 or 2 blocks) = left (rows x depth) times right (depth x 1 or 2 blocks).
struct Product {
  std::int64_t rows;
  const float* left;        // element (t, c) at c / L * left_block + t * L + c % L
  std::int64_t left_block;  //
  const float* right;       // row-major, right_row floats from a row to the next
  std::int64_t right_row;   //
  const float* next;        // the right of the product to come, as if its rows followed each other: is read ahead
  std::int64_t depth_blocks;
  std::int64_t vectors;       // blocks of the result: 1 or 2
  float* result;              // as left, result_block floats apart
  std::int64_t result_block;  //
  bool add;                   // to what the result holds
};

// result (channels of the left by those of the right) = the sum over rows t of left(t, c) right(t, k).
struct Correlation {
  std::int64_t rows;
  const float* left;  // rows x L for each block of c, left_block apart
  std::int64_t left_block, left_blocks;
  const float* right;  // rows x L for each block of k, right_block apart
  std::int64_t right_block, right_blocks;
  float* result;  // left_blocks * L rows of right_blocks * L
  std::int64_t result_row;
  bool add;  // to what the result holds
};

struct ProductKernels {
  std::int64_t lanes;  // L
  std::int64_t rows;   // that are multiplied at a time
  void (*multiply)(const Product& product);
  void (*correlate)(const Correlation& correlation);
};

extern const ProductKernels kProductsAvx2;
#if defined(__x86_64__)
extern const ProductKernels kProductsAvx512;
#endif

// Those for images in blocks of so many channels; null if there are none.
inline const ProductKernels* product_kernels(std::int64_t block) {
#if defined(__x86_64__)
  if (block == kProductsAvx512.lanes) return &kProductsAvx512;
#endif
  return block == kProductsAvx2.lanes ? &kProductsAvx2 : nullptr;
}

}  // namespace minidl::cpu
