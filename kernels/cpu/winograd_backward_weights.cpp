#include <algorithm>

#include "kernels/cpu/channel_sums.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/products.h"
#include "kernels/cpu/winograd.h"
#include "kernels/cpu/winograd_int16.h"
#include "kernels/cpu/winograd_tiles.h"

namespace minidl::cpu {
namespace {

constexpr std::int64_t kPoints = kWinogradPoints;
// Tiles over which a gradient is summed at a time: few enough for float sums, or for integers that share a scale, and
// for a point of the right side's channels, tiles times channels, to stay in the second cache.
constexpr std::int64_t kPieceTiles = 512, kInt16PieceTiles = 256, kPiece = 1 << 16;
// Floats of all points of some blocks that stay in the second cache.
constexpr std::int64_t kFewPoints = 3 << 16;
// Floats of the sums of all points, which stay in the third cache.
constexpr std::int64_t kSums = 5 << 20;
// Tiles that a thread transforms at a time, and blocks of the right side that it multiplies.
constexpr std::int64_t kSomeTiles = 16, kSomeBlocks = 8;

// One side of the products: blocks of channels at all points of a piece's tiles, as they are or as pairs of integers with
// a scale for each channel. Its buffers are the thread's.
template <class Name>
struct Side {
  struct Points;
  struct Scales;

  bool integers;
  std::int64_t lanes, blocks;
  std::int64_t block, step;  // elements from a block of channels to the next, and from a point
  float *data, *scales;

  Side(WinogradProducts products, std::int64_t lanes, std::int64_t blocks, std::int64_t most_tiles)
      : integers(products == WinogradProducts::int16),
        lanes(lanes),
        blocks(blocks),
        block((integers ? divide_up(most_tiles, 2) : most_tiles) * lanes),
        step(point_step(blocks * block)),
        data(scratch<float, Points>(kPoints * step)),
        scales(integers ? scratch<float, Scales>(kPoints * blocks * lanes) : nullptr) {}

  std::int32_t* pairs(std::int64_t point) const { return reinterpret_cast<std::int32_t*>(data) + point * step; }
  float* scales_at(std::int64_t point) const { return scales + point * blocks * lanes; }

  // Transforms the first `count` blocks at the tiles of a piece: gather(block, first tile, number of tiles, points).
  template <class Gather>
  void fill(std::int64_t count, const Part& piece, Gather gather) const {
    const std::int64_t tiles = piece.size(), parts = divide_up(tiles, kSomeTiles);
    const auto gather_part = [&](std::int64_t b, std::int64_t p, float* to, std::int64_t point) {
      const Part part(tiles, p, parts);
      gather(b, piece.begin + part.begin, part.size(), WinogradPoints{to + part.begin * lanes, point, 0});
    };
    if (!integers)
      return parallel_for(count * parts, kPoints * kSomeTiles * lanes,
                          [&](std::int64_t i) { gather_part(i / parts, i % parts, data + i / parts * block, step); });
    struct Staged;
    parallel_for(count, kPoints * tiles * lanes, [&](std::int64_t b) {
      const std::int64_t staged_step = point_step(tiles * lanes);
      float* staged = scratch<float, Staged>(kPoints * staged_step);
      for (std::int64_t p = 0; p < parts; ++p) gather_part(b, p, staged, staged_step);
      for (std::int64_t point = 0; point < kPoints; ++point)
        int16_kernels()->round_columns(staged + point * staged_step, lanes, tiles, pairs(point) + b * block, lanes,
                                       scales_at(point) + b * lanes);
    });
  }
};

}  // namespace

void winograd_backward_weights(const ConvDims& d, const float* x, const float* gy, float* gw, float* gbias,
                               WinogradProducts products) {
  struct Sums;
  const Tiles tiles(d);
  const WinogradKernels& kernels = *kernels_of(d);
  const std::int64_t lanes = d.in.block, phases = phases_of(d), kernel = d.kernel * d.kernel;
  const std::int64_t in_blocks = phases * d.in.c / lanes, out_blocks = d.out.c / lanes;
  // The side with fewer blocks is on the right, where a thread keeps it in its cache. A block of the inputs' channels has
  // a block for each phase, which stay together.
  const bool inputs_right = in_blocks < out_blocks;
  const std::int64_t left_together = inputs_right ? 1 : phases, right_together = inputs_right ? phases : 1;
  const std::int64_t lefts = std::max(in_blocks, out_blocks) / left_together;
  const std::int64_t rights = std::min(in_blocks, out_blocks) / right_together;
  const std::int64_t right_parts = divide_up(rights * right_together, kSomeBlocks);
  const std::int64_t most_tiles =
      std::clamp<std::int64_t>(kPiece / (rights * right_together * lanes), 1,
                               products == WinogradProducts::int16 ? kInt16PieceTiles : kPieceTiles);
  const std::int64_t pieces = divide_up(tiles.count(), most_tiles), piece_tiles = divide_up(tiles.count(), pieces);
  // Of few tiles, all points of a part of the right side stay in the cache, and so do their sums, block by block on the
  // left. Of many tiles, one point does at a time; the left side comes in groups, the sums of which stay in the third.
  const bool few = pieces == 1 && kPoints * kSomeBlocks * lanes * tiles.count() <= kFewPoints;
  const std::int64_t sums_of_one = kPoints * left_together * lanes * rights * right_together * lanes;
  const std::int64_t groups = few ? 1 : divide_up(lefts, std::max<std::int64_t>(1, kSums / sums_of_one));
  const std::int64_t most_left = divide_up(lefts, groups) * left_together;
  const Side<struct Left> left(products, lanes, most_left, piece_tiles);
  const Side<struct Right> right(products, lanes, rights * right_together, piece_tiles);

  const auto gather = [&](bool input, std::int64_t block, std::int64_t first, std::int64_t count,
                          const WinogradPoints& to) {
    if (input) {
      const float* plane = x + block / phases * lanes * d.in.pixels();
      const Windows<const float> windows(first, count,
                                         [&](std::int64_t t) { return tiles.input_window(plane, t, block % phases); });
      kernels.gather_input(windows, 1, to);
    } else {
      const float* plane = gy + block * lanes * d.out.pixels();
      const Windows<const float> windows(first, count, [&](std::int64_t t) { return tiles.output_window(plane, t); });
      kernels.gather_output(windows, 1, to);
    }
  };

  // The sums over a piece at a point: of blocks on the left, counted from the first that is there, and on the right.
  const auto correlate = [&](const Part& piece, std::int64_t point, const Part& of_left, const Part& of_right,
                             float* result, std::int64_t row) {
    const Part l(of_left, left_together), r(of_right, right_together);
    if (products == WinogradProducts::int16)
      int16_kernels()->correlate({divide_up(piece.size(), 2), left.pairs(point) + l.begin * left.block, left.block,
                                  l.size(), left.scales_at(point) + l.begin * lanes,
                                  right.pairs(point) + r.begin * right.block, right.block, r.size(),
                                  right.scales_at(point) + r.begin * lanes, result, row, piece.begin > 0});
    else
      product_kernels(lanes)->correlate({piece.size(), left.data + point * left.step + l.begin * left.block, left.block,
                                         l.size(), right.data + point * right.step + r.begin * right.block, right.block,
                                         r.size(), result, row, piece.begin > 0});
  };
  // The lanes of a vector are channels of the right side, the other channels those of the left.
  const auto to_weights = [&](std::int64_t l, std::int64_t r, const float* sums, std::int64_t step, std::int64_t row) {
    const std::int64_t of_in = kernel, of_out = d.in.c * kernel;
    const std::int64_t of_left = inputs_right ? of_out : of_in, of_right = inputs_right ? of_in : of_out;
    kernels.points_to_weights(sums, {d.kernel, of_right, of_left, step, row, inputs_right ? lanes : lanes * row}, lanes,
                              gw + lanes * (l * of_left + r * of_right));
  };

  for (std::int64_t g = 0; g < groups; ++g) {
    const Part group(lefts, g, groups);
    const std::int64_t row = rights * right_together * lanes, step = point_step(most_left * lanes * row);
    float* sums = few ? nullptr : scratch<float, Sums>(kPoints * step);
    for (std::int64_t p = 0; p < pieces; ++p) {
      const Part piece(tiles.count(), p, pieces);
      if (g == 0 || pieces > 1)
        right.fill(right.blocks, piece,
                   [&](std::int64_t b, std::int64_t first, std::int64_t count, const WinogradPoints& to) {
                     gather(inputs_right, b, first, count, to);
                   });
      left.fill(group.size() * left_together, piece,
                [&](std::int64_t b, std::int64_t first, std::int64_t count, const WinogradPoints& to) {
                  gather(!inputs_right, group.begin * left_together + b, first, count, to);
                });
      if (few) continue;
      parallel_for(kPoints * right_parts, group.size() * left_together * lanes * row, [&](std::int64_t i) {
        const std::int64_t point = i / right_parts;
        const Part part(rights, i % right_parts, right_parts);
        correlate(piece, point, Part(group.size(), 0, 1), part,
                  sums + point * step + part.begin * right_together * lanes, row);
      });
    }
    if (few)
      parallel_for(right_parts * lefts, kPoints * left_together * lanes * kSomeBlocks * lanes, [&](std::int64_t i) {
        const Part part(rights, i / lefts, right_parts), one(lefts, i % lefts, lefts);
        const std::int64_t own_row = part.size() * right_together * lanes;
        const std::int64_t own_step = point_step(left_together * lanes * own_row);
        float* own = scratch<float, Sums>(kPoints * own_step);
        for (std::int64_t point = 0; point < kPoints; ++point)
          correlate(Part(tiles.count(), 0, 1), point, one, part, own + point * own_step, own_row);
        for (std::int64_t r = part.begin; r < part.end; ++r)
          to_weights(one.begin, r, own + (r - part.begin) * right_together * lanes, own_step, own_row);
      });
    else
      parallel_for(group.size() * rights, kPoints * phases * lanes * lanes, [&](std::int64_t i) {
        const std::int64_t l = i / rights, r = i % rights;
        to_weights(group.begin + l, r, sums + l * left_together * lanes * row + r * right_together * lanes, step, row);
      });
  }
  if (gbias) sum_channels(d.out, gy, gbias);
}

}  // namespace minidl::cpu
