#include "kernels/cpu/winograd_weights.h"

#include "kernels/cpu/loops.h"
#include "kernels/cpu/winograd_int16.h"

namespace minidl::cpu {
namespace {

constexpr std::int64_t kPoints = kWinogradPoints;

}  // namespace

Columns Columns::of_output_channels(const ConvDims& d, WinogradProducts products) {
  const std::int64_t lanes = d.in.block, phases = phases_of(d), size = d.kernel * d.kernel;
  return {products, true, lanes, phases, 1, d.out.c / lanes, phases * d.in.c / lanes, d.kernel, d.in.c * size, size};
}

Columns Columns::of_input_channels(const ConvDims& d, WinogradProducts products) {
  const std::int64_t lanes = d.in.block, phases = phases_of(d), size = d.kernel * d.kernel;
  return {products, false, lanes, phases, phases, d.in.c / lanes, d.out.c / lanes, d.kernel, size, d.in.c * size};
}

void transform_weights(const WinogradKernels& kernels, const Columns& c, const float* w, float* to) {
  if (c.products == WinogradProducts::float32)
    return parallel_for(c.columns * c.others(), c.phases * kPoints * c.lanes * c.lanes, [&](std::int64_t i) {
      const std::int64_t column = i / c.others(), other = i % c.others(), panel = column / kPanel;
      const std::int64_t width = c.vectors(panel) * c.lanes;
      const std::int64_t phase = c.of_outputs ? c.others() * c.lanes * width : c.columns * c.rows() * c.lanes;
      float* first = to + c.offset(panel, 0) + other * c.lanes * width + column % kPanel * c.lanes;
      kernels.weights_to_points(c.plain(w, column, other), {c.kernel, c.lane, c.channel, c.step(), width, phase},
                                c.lanes, first);
    });
  // Products of integers have a single phase.
  struct Staged;
  parallel_for(c.columns, kPoints * c.depth * c.lanes * c.lanes, [&](std::int64_t column) {
    const std::int64_t panel = column / kPanel, lanes = column % kPanel * c.lanes, rows = c.depth * c.lanes;
    const std::int64_t step = point_step(rows * c.lanes);
    float* staged = scratch<float, Staged>(kPoints * step);
    for (std::int64_t other = 0; other < c.depth; ++other)
      kernels.weights_to_points(c.plain(w, column, other), {c.kernel, c.lane, c.channel, step, c.lanes, 0}, c.lanes,
                                staged + other * c.lanes * c.lanes);
    for (std::int64_t point = 0; point < kPoints; ++point)
      int16_kernels()->round_columns(staged + point * step, c.lanes, rows,
                                     reinterpret_cast<std::int32_t*>(to) + c.offset(panel, point) + lanes,
                                     c.vectors(panel) * c.lanes, to + c.scales_offset(panel, point) + lanes);
  });
}

}  // namespace minidl::cpu
