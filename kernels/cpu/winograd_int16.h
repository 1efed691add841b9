// The products of Winograd's algorithm (winograd.h) in 16-bit integers: for Precision::bf16, and finer than bfloat16.
//
// Its transforms enlarge what the points were rounded by, to 1.1e-2 of the result if they were rounded to bfloat16. As
// fast are products of 16-bit integers (AVX512-VNNI), summed exactly in 32 bits. Each sum is a product of two vectors,
// and each vector is scaled so that its norm is 2^15 - 1: then its elements fit into 16 bits, and by Cauchy's
// inequality no sum, nor a part of it, reaches 2^31. An element is off by at most half of 1 / (2^15 - 1) of its
// vector's norm.
#pragma once

#include <cstdint>

namespace minidl::cpu {

inline constexpr std::int64_t kInt16Lanes = 16;  // channels of a vector: the only block of images that is served

// The result of one point, `tiles` by 16 * vectors channels.
struct Int16Product {
  std::int64_t tiles;
  const std::int16_t* left;   // tiles x depth; element (t, c) at c / 16 * left_block + t * 16 + c % 16
  std::int64_t left_block;    //
  const float* left_scales;   // of the tiles
  const std::int32_t* right;  // depth / 2 x 16 * vectors; an element is a pair of rows: the first in the lower half
  const std::int32_t* next;   // the right of the product to come: is read ahead
  const float* right_scales;  // of the columns
  std::int64_t depth_blocks;  // depth / 16
  std::int64_t vectors;       // 1 or 2
  float* result;              // as Product has it (products.h)
  std::int64_t result_block;
};

// The sum over tiles of left(t, c) right(t, k) for every c and k.
struct Int16Correlation {
  std::int64_t pairs;        // of tiles
  const std::int32_t* left;  // pairs x 16 for each block of c, left_block apart
  std::int64_t left_block, left_blocks;
  const float* left_scales;   // 16 for each block of c
  const std::int32_t* right;  // pairs x 16 for each block of k, right_block apart
  std::int64_t right_block, right_blocks;
  const float* right_scales;  // 16 for each block of k
  float* result;              // left_blocks * 16 rows of right_blocks * 16
  std::int64_t result_row;
  bool add;  // to what the result holds
};

struct WinogradInt16 {
  // Scales and rounds vectors along the channels of a tile, one for each tile at one point: from as WinogradPoints has
  // them, `from_block` floats from a block of 16 channels to the next; to as Int16Product's left.
  void (*round_rows)(const float* from, std::int64_t from_block, std::int64_t tiles, std::int64_t blocks,
                     std::int16_t* to, std::int64_t to_block, float* scales);
  // Scales and rounds the 16 columns of a row-major matrix; pairs of rows go `to_row` elements apart. An odd last row
  // is paired with zeros.
  void (*round_columns)(const float* from, std::int64_t from_row, std::int64_t rows, std::int32_t* to,
                        std::int64_t to_row, float* scales);
  void (*multiply)(const Int16Product& product);
  void (*correlate)(const Int16Correlation& correlation);
};

#if defined(__x86_64__)
extern const WinogradInt16 kWinogradVnni;
#endif

// Null where the processor has none.
inline const WinogradInt16* int16_kernels() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vnni")) return &kWinogradVnni;
#endif
  return nullptr;
}

}  // namespace minidl::cpu
