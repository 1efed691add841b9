// The inner loops of Winograd's algorithm (winograd.h), once per instruction set. Each function works on one thread.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace minidl::cpu {

// F(m x m, r x r) with m + r = 7: an input window of 6x6 becomes 36 points, and so do a kernel of r x r and an output
// window of m x m.
inline constexpr int kWinogradInput = 6, kWinogradPoints = 36;

// A square window into one sample of a blocked image, for every block of channels at once. Of an input image, it takes
// every stride-th pixel of a row.
template <class Float>
struct WinogradWindow {
  struct Row {
    Float* at = nullptr;     // column `left` of the window in the first block of channels; null: outside of the image
    std::int64_t plane = 0;  // floats from a block of channels to the next
    bool add = false;        // scatter_input adds to the whole row
  };
  Row rows[kWinogradInput];
  int left = 0, right = 0;   // columns [left, right) of the window lie inside of the image
  bool add_overlap = false;  // scatter_input adds to the columns that the window shares with the one to its left
};

// Where points lie: those of block b of channels at data + point * step + b * block, a vector for each tile.
struct WinogradPoints {
  float* data;
  std::int64_t step, block;
};

// Where the kernels between the lanes of a vector and other channels lie, in floats: plain, and at points by phases. With
// stride s, phase i * s + j has the taps in rows i, i + s, ... and columns j, j + s, ...
struct WinogradWeights {
  std::int64_t kernel;         // size of the plain ones
  std::int64_t lane, channel;  // from a plain kernel to that of the next lane, and of the next other channel
  std::int64_t step;           // from a point to the next
  std::int64_t row, phase;     // to the next other channel, and to the next phase
};

struct WinogradKernels {
  std::int64_t lanes;         // L, channels of a vector: the block of the images
  std::int64_t output, taps;  // m and r of F(m x m, r x r)
  std::int64_t stride;        // of the convolution: pixels from one column of an input window to the next

  // Transforms of tiles, given by their windows, with `blocks` blocks of channels. The points of tile t lie t * L
  // floats after those of the first. What lies outside of the image counts as zero and is not written.
  void (*gather_input)(std::span<const WinogradWindow<const float>> windows, std::int64_t blocks, WinogradPoints to);
  void (*gather_output)(std::span<const WinogradWindow<const float>> windows, std::int64_t blocks, WinogradPoints to);
  void (*scatter_output)(WinogradPoints from, std::int64_t blocks, const float* bias,
                         std::span<const WinogradWindow<float>> windows);
  void (*scatter_input)(WinogradPoints from, std::int64_t blocks, std::span<const WinogradWindow<float>> windows);

  // Transforms of the kernels between the lanes of a vector and `count` other channels.
  void (*weights_to_points)(const float* w, const WinogradWeights& layout, std::int64_t count, float* to);
  void (*points_to_weights)(const float* from, const WinogradWeights& layout, std::int64_t count, float* w);
};

// F(4x4, 3x3) and F(3x3, 4x4) with stride 1, F(5x5, 2x2) with stride 2.
using WinogradSet = std::array<WinogradKernels, 3>;

extern const WinogradSet kWinogradAvx2;
#if defined(__x86_64__)
extern const WinogradSet kWinogradAvx512;
#endif

}  // namespace minidl::cpu
