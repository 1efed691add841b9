// The inner loops of conv_narrow.h, once per instruction set. Each function works on one thread.
#pragma once

#include <cstdint>

namespace minidl::cpu {

inline constexpr std::int64_t kMostNarrow = 4;   // channels of the narrow side
inline constexpr std::int64_t kLeastWidth = 12;  // pixels of a row that is computed

// A blocked image: floats of a pixel, of a row, and of a block of channels. A slice of it is the channels of a vector.
struct WideImage {
  std::int64_t block, row, plane;
};

// A row of a convolution. `wide` and `narrow` are where its first window begins, or its first pixel where it is the
// result. Taps are vectors over a slice's channels: by slice, row and column of the kernel, and narrow channel.
struct NarrowRow {
  std::int64_t kernel, width;  // the latter of the result
  std::int64_t slices;
  WideImage image;
  std::int64_t narrow_row, narrow_plane;  // floats of a row of one channel, and of a channel
  const float* taps;
};

struct NarrowKernels {
  std::int64_t lanes;

  // narrow = sum over slices and taps of wide * tap, plus bias where it is not null.
  void (*forward)(const NarrowRow& row, const float* wide, const float* bias, float* narrow);
  // wide = sum over taps and narrow channels of narrow * tap.
  void (*backward_data)(const NarrowRow& row, const float* narrow, float* wide);
  // taps += narrow * wide, of one slice and one row of the kernel; width is that of `narrow`.
  void (*backward_weights)(const NarrowRow& row, const float* wide, const float* narrow, float* taps);
};

// For 1 to kMostNarrow narrow channels.
extern const NarrowKernels kNarrowAvx2[kMostNarrow];
#if defined(__x86_64__)
extern const NarrowKernels kNarrowAvx512[kMostNarrow];
#endif

}  // namespace minidl::cpu
