// Weights at the points of Winograd's algorithm (winograd.h), as the products of tiles and weights read them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/prepared.h"
#include "kernels/cpu/winograd.h"
#include "kernels/cpu/winograd_tiles.h"

namespace minidl::cpu {

// Vectors of a panel, the columns of the transformed weight that are multiplied at a time.
inline constexpr std::int64_t kPanel = 2;

// The transformed weight: at each point, a panel of the channels that products have as columns after the other; in a
// panel, a row for each of the other channels. An input channel counts once for each phase: as `groups` of columns, no
// panel having some of two, or as so many rows. For products of integers an element is a pair of rows, and after the
// last point come the scales of columns: by points and panels too.
struct Columns {
  WinogradProducts products;
  bool of_outputs;                      // columns are output channels and rows input channels, or the reverse
  std::int64_t lanes, phases;           //
  std::int64_t groups, columns, depth;  // the latter in blocks of `lanes` channels
  std::int64_t kernel, lane, channel;   // of the plain weight: size; floats to the next column, and to the next row

  static Columns of_output_channels(const ConvDims& d, WinogradProducts products);
  static Columns of_input_channels(const ConvDims& d, WinogradProducts products);

  std::int64_t rows() const { return depth * lanes / (products == WinogradProducts::int16 ? 2 : 1); }
  std::int64_t row_groups() const { return phases / groups; }   // rows of the phases follow each other, too
  std::int64_t others() const { return depth / row_groups(); }  // blocks of rows of a phase
  std::int64_t group_panels() const { return divide_up(columns, kPanel); }
  std::int64_t panels() const { return groups * group_panels(); }
  std::int64_t group(std::int64_t panel) const { return panel / group_panels(); }
  std::int64_t first_column(std::int64_t panel) const { return panel % group_panels() * kPanel; }
  std::int64_t vectors(std::int64_t panel) const { return std::min(kPanel, columns - first_column(panel)); }
  // Blocks of columns before a panel.
  std::int64_t before(std::int64_t panel) const { return group(panel) * columns + first_column(panel); }

  std::int64_t step() const { return point_step(rows() * groups * columns * lanes); }
  std::int64_t offset(std::int64_t panel, std::int64_t point) const {
    return point * step() + before(panel) * rows() * lanes;
  }
  std::int64_t scales_offset(std::int64_t panel, std::int64_t point) const {
    return kWinogradPoints * step() + (point * groups * columns + before(panel)) * lanes;
  }
  std::int64_t size() const {
    return kWinogradPoints * (step() + (products == WinogradProducts::int16 ? groups * columns * lanes : 0));
  }
  const float* plain(const float* w, std::int64_t column, std::int64_t other) const {
    return w + lanes * (column * lane + other * channel);
  }
};

// Transforms plain weights (out.c, in.c, kernel, kernel).
void transform_weights(const WinogradKernels& kernels, const Columns& columns, const float* w, float* to);

// A weight's transform that is kept for inference.
class TransformedWeight final : public PreparedWeights::Form {
 public:
  TransformedWeight(const WinogradKernels& kernels, const Columns& c, const float* w)
      : kernels_(&kernels), products_(c.products), data_(allocate_floats(c.size())) {
    transform_weights(kernels, c, w, data_.get());
  }
  bool serves(const WinogradKernels& kernels, WinogradProducts products) const {
    return kernels_ == &kernels && products_ == products;
  }
  const float* data() const { return data_.get(); }

 private:
  const WinogradKernels* kernels_;
  WinogradProducts products_;
  OwnedFloats data_;
};

}  // namespace minidl::cpu
