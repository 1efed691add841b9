#include "kernels/cpu/winograd.h"

#include <omp.h>
#include <unistd.h>

#include "kernels/cpu/loops.h"
#include "kernels/cpu/products.h"
#include "kernels/cpu/winograd_int16.h"
#include "kernels/cpu/winograd_kernels.h"
#include "kernels/cpu/winograd_tiles.h"
#include "kernels/cpu/winograd_weights.h"

namespace minidl::cpu {
namespace {

constexpr std::int64_t kPoints = kWinogradPoints;
// Tiles that are multiplied at a time are up to so many times those of a product.
constexpr std::int64_t kMostTurns = 4;
// Tiles that a strip has at least: of fewer than the first, products waste registers or read weights too often; of fewer
// than the second they do so all the more.
constexpr std::int64_t kGoodStrip = 56, kLeastStrip = 28;
// Tiles that are gathered or scattered at a time where a thread has them all, or not all channels.
constexpr std::int64_t kSomeTiles = 16;
// Tiles whose points are rounded at a time.
constexpr std::int64_t kRounded = 4;

// Buffers of a thread, by what they hold.
struct Weight;
struct Points;
struct Rounded;
struct Scales;
struct Result;

// Bytes of points that stay in a core's second cache, beside the weights that stream through it.
std::int64_t cached_bytes() {
  static const std::int64_t bytes = [] {
    const long second = sysconf(_SC_LEVEL2_CACHE_SIZE);
    return (second > 0 ? std::int64_t{second} : 1 << 20) / 4 * 3;
  }();
  return bytes;
}

// The source of a group of tiles, rounded. Buffers are of the thread.
struct RoundedSource {
  std::int64_t step, tiles;
  std::int16_t* data;
  float* scales;

  // gather as below
  template <class Gather>
  RoundedSource(const Columns& c, std::int64_t first, std::int64_t count, Gather gather)
      : step(2 * point_step(c.depth * count * c.lanes / 2)),
        tiles(count),
        data(scratch<std::int16_t, Rounded>(kPoints * step)),
        scales(scratch<float, Scales>(kPoints * tiles)) {
    struct Staged;
    const std::int64_t staged_step = point_step(c.depth * kRounded * c.lanes);
    float* staged = scratch<float, Staged>(kPoints * staged_step);
    for (std::int64_t t = 0; t < tiles; t += kRounded) {
      const std::int64_t some = std::min(kRounded, tiles - t);
      gather(first + t, some, 0, c.others(), WinogradPoints{staged, staged_step, some * c.lanes});
      for (std::int64_t point = 0; point < kPoints; ++point)
        int16_kernels()->round_rows(staged + point * staged_step, some * c.lanes, some, c.depth,
                                    data + point * step + t * c.lanes, tiles * c.lanes, scales + point * tiles + t);
    }
  }
};

// Whole rows of tiles of a sample, the unit of parallel work.
struct Strip {
  std::int64_t index;  // in its sample
  Part rows;

  // Up to eight.
  static std::int64_t per_sample(const Tiles& tiles, std::int64_t least) {
    return divide_up(tiles.rows, std::max(divide_up(tiles.rows, 8), divide_up(least, tiles.columns)));
  }
};

// What the passes have in common: tiles are transformed, multiplied by weights and transformed back.
//   gather(first, tiles, block, blocks, points)       tiles of the source and some of its blocks of channels, to the rows
//                                                     of products that are theirs
//   scatter(strip, first, tiles, points, block, blocks, group)
//                                                     tiles of the result from points, some blocks of a group of columns
template <class Gather, class Scatter>
struct Pass {
  const Tiles& tiles;
  const Columns& c;
  const WinogradKernels& kernels;
  Gather gather;
  Scatter scatter;
  const ProductKernels& products = *product_kernels(c.lanes);

  // A thread has a strip and every column. Points of as many tiles as its cache holds are multiplied in place: the result
  // at a point is written where the source of the point before was.
  void by_strips(const float* weights, std::int64_t per_sample) const {
    const std::int64_t results = c.groups * c.columns;
    const std::int64_t tile_bytes = kPoints * std::max(c.depth, results) * c.lanes * std::int64_t{sizeof(float)};
    const std::int64_t most_turns =
        std::clamp<std::int64_t>(cached_bytes() / (tile_bytes * products.rows), 1, kMostTurns);
    parallel_for(
        tiles.d.in.n * per_sample, tiles.per_sample() / per_sample * kPoints * tiles.d.in.c, [&](std::int64_t i) {
          const Strip strip{i % per_sample, Part(tiles.rows, i % per_sample, per_sample)};
          const std::int64_t begin = (i / per_sample * tiles.rows + strip.rows.begin) * tiles.columns;
          const std::int64_t count = strip.rows.size() * tiles.columns, turns = divide_up(count, products.rows);
          const std::int64_t groups = divide_up(turns, most_turns);
          for (std::int64_t g = 0; g < groups; ++g) {
            const Part group(turns, g, groups);
            const std::int64_t first = Part(count, group.begin, turns).begin, end = Part(count, group.end, turns).begin;
            multiply_group(weights, strip, begin + first, end - first);
          }
        });
  }

  // A thread has a panel of columns and every tile. Pays where there are fewer tiles than columns: the weights, more than
  // all else, are transformed where they are multiplied and never leave the cache.
  void by_columns(const float* w) const {
    const std::int64_t count = tiles.count(), block = count * c.lanes, parts = divide_up(count, kSomeTiles);
    const std::int64_t step = point_step(c.depth * block), others = c.others();
    float* source = scratch<float, Points>(kPoints * step);
    parallel_for(others * parts, c.row_groups() * kPoints * kSomeTiles * c.lanes, [&](std::int64_t i) {
      const Part part(count, i % parts, parts);
      gather(part.begin, part.size(), i / parts, 1, WinogradPoints{source + part.begin * c.lanes, step, block});
    });
    parallel_for(c.group_panels(), c.phases * others * kPoints * c.lanes * kPanel * c.lanes, [&](std::int64_t panel) {
      const std::int64_t column = c.first_column(panel), vectors = c.vectors(panel), width = vectors * c.lanes;
      const std::int64_t block_bytes = c.phases * kPoints * c.lanes * width * std::int64_t{sizeof(float)};
      const std::int64_t chunks = divide_up(others, std::max<std::int64_t>(1, cached_bytes() / 2 / block_bytes));
      const std::int64_t weights_step = point_step(divide_up(others, chunks) * c.lanes * width);
      const std::int64_t result_step = point_step(vectors * block);
      float* weights = scratch<float, Weight>(c.phases * kPoints * weights_step);
      float* result = scratch<float, Result>(c.groups * kPoints * result_step);
      for (std::int64_t k = 0; k < chunks; ++k) {
        const Part chunk(others, k, chunks);
        for (std::int64_t v = 0; v < vectors; ++v)
          for (std::int64_t other = chunk.begin; other < chunk.end; ++other)
            kernels.weights_to_points(c.plain(w, column + v, other),
                                      {c.kernel, c.lane, c.channel, weights_step, width, kPoints * weights_step},
                                      c.lanes, weights + (other - chunk.begin) * c.lanes * width + v * c.lanes);
        for (std::int64_t i = 0; i < c.phases * kPoints; ++i) {
          const std::int64_t phase = i / kPoints, point = i % kPoints, group = c.groups > 1 ? phase : 0;
          const std::int64_t row = (c.groups > 1 ? 0 : phase * others) + chunk.begin;
          const float* right = weights + i * weights_step;
          products.multiply({count, source + point * step + row * block, block, right, width, right + weights_step,
                             chunk.size(), vectors, result + (group * kPoints + point) * result_step, block,
                             chunk.begin > 0 || (c.groups == 1 && phase > 0)});
        }
      }
      for (std::int64_t group = 0; group < c.groups; ++group)
        for (std::int64_t p = 0; p < parts; ++p) {
          const Part part(count, p, parts);
          scatter(Strip{0, Part(tiles.rows, 0, 1)}, part.begin, part.size(),
                  WinogradPoints{result + group * kPoints * result_step + part.begin * c.lanes, result_step, block},
                  column, vectors, group);
        }
    });
  }

 private:
  void multiply_group(const float* weights, const Strip& strip, std::int64_t first, std::int64_t count) const {
    const std::int64_t block = count * c.lanes, results = c.groups * c.columns;
    const std::int64_t step = point_step(std::max(c.depth, results) * block);
    float* points = scratch<float, Points>((kPoints + 1) * step);
    // multiply(panel, point, offset of the panel to come, where the result goes)
    const auto for_panels = [&](auto multiply) {
      for (std::int64_t point = 0; point < kPoints; ++point)
        for (std::int64_t panel = 0; panel < c.panels(); ++panel) {
          const bool last = panel + 1 == c.panels();
          const std::int64_t next = last ? c.offset(0, (point + 1) % kPoints) : c.offset(panel + 1, point);
          multiply(panel, point, next, points + point * step + c.before(panel) * block);
        }
    };
    if (c.products == WinogradProducts::int16) {
      const RoundedSource source(c, first, count, gather);
      const auto* pairs = reinterpret_cast<const std::int32_t*>(weights);
      for_panels([&](std::int64_t panel, std::int64_t point, std::int64_t next, float* to) {
        int16_kernels()->multiply({count, source.data + point * source.step, block, source.scales + point * count,
                                   pairs + c.offset(panel, point), pairs + next,
                                   weights + c.scales_offset(panel, point), c.depth, c.vectors(panel), to, block});
      });
    } else {
      const WinogradPoints source{points + step, step, block};
      gather(first, count, 0, c.others(), source);
      for_panels([&](std::int64_t panel, std::int64_t point, std::int64_t next, float* to) {
        products.multiply({count, source.data + point * step, block, weights + c.offset(panel, point),
                           c.vectors(panel) * c.lanes, weights + next, c.depth, c.vectors(panel), to, block, false});
      });
    }
    for (std::int64_t group = 0; group < c.groups; ++group)
      scatter(strip, first, count, WinogradPoints{points + group * c.columns * block, step, block}, 0, c.columns,
              group);
  }
};

// With fewer tiles than columns, transformed weights are more than transformed images.
bool by_columns(const Tiles& tiles, const Columns& c) {
  return c.products == WinogradProducts::float32 && tiles.count() < c.groups * c.columns * c.lanes;
}

}  // namespace

bool winograd_serves(const ConvDims& d, WinogradProducts products) {
  if (products == WinogradProducts::int16 &&
      (d.kernel != 3 || d.stride != 1 || d.in.block != kInt16Lanes || !int16_kernels()))
    return false;
  const WinogradKernels* kernels = d.in.block == d.out.block ? kernels_of(d) : nullptr;
  if (!kernels || d.padding >= d.kernel) return false;
  // Input windows reach every pixel, also those at the end that the stride leaves over.
  const auto reached = [&](std::int64_t in, std::int64_t out) {
    return in + 2 * d.padding <= (out - 1 + kernels->taps) * d.stride;
  };
  return reached(d.in.h, d.out.h) && reached(d.in.w, d.out.w);
}

void winograd_forward(const ConvDims& d, const float* x, const float* w, const float* bias, float* y,
                      PreparedWeights* prepared, WinogradProducts products) {
  const Tiles tiles(d);
  const Columns c = Columns::of_output_channels(d, products);
  const WinogradKernels& kernels = *kernels_of(d);
  const Pass pass{
      tiles, c, kernels,
      [&](std::int64_t first, std::int64_t count, std::int64_t block, std::int64_t blocks, const WinogradPoints& to) {
        const float* planes = x + block * c.lanes * d.in.pixels();
        for (std::int64_t phase = 0; phase < c.phases; ++phase) {
          const Windows<const float> windows(first, count,
                                             [&](std::int64_t t) { return tiles.input_window(planes, t, phase); });
          kernels.gather_input(windows, blocks, {to.data + (phase * c.others() + block) * to.block, to.step, to.block});
        }
      },
      [&](const Strip&, std::int64_t first, std::int64_t count, const WinogradPoints& from, std::int64_t block,
          std::int64_t blocks, std::int64_t) {
        float* planes = y + block * c.lanes * d.out.pixels();
        const Windows<float> windows(first, count, [&](std::int64_t t) { return tiles.output_window(planes, t); });
        kernels.scatter_output(from, blocks, bias ? bias + block * c.lanes : nullptr, windows);
      }};
  // How rows are cut does not change their results: strips are as large as leaves one to every thread.
  const std::int64_t good = Strip::per_sample(tiles, kGoodStrip);
  const std::int64_t strips = d.in.n * good >= omp_get_max_threads() ? good : Strip::per_sample(tiles, kLeastStrip);
  if (prepared) {
    const auto kept = prepared->find_or_make<TransformedWeight>(
        [&](const TransformedWeight& form) { return form.serves(kernels, products); },
        [&] { return std::make_shared<const TransformedWeight>(kernels, c, w); });
    pass.by_strips(kept->data(), strips);
  } else if (by_columns(tiles, c)) {
    pass.by_columns(w);
  } else {
    float* weights = scratch<float, Weight>(c.size());
    transform_weights(kernels, c, w, weights);
    pass.by_strips(weights, strips);
  }
}

void winograd_backward_data(const ConvDims& d, const float* gy, const float* w, float* gx, WinogradProducts products) {
  struct Edges;
  const Tiles tiles(d);
  const Columns c = Columns::of_input_channels(d, products);
  const WinogradKernels& kernels = *kernels_of(d);
  // The input windows of a strip's last row reach into the next strip. Another thread may be there: what they add goes
  // to an image of its own, a few rows for each strip, and is added afterwards.
  const bool in_columns = by_columns(tiles, c);
  const std::int64_t strips = in_columns ? 1 : Strip::per_sample(tiles, kLeastStrip),
                     edge_rows = tiles.overlap * d.stride;
  const ImageDims edge_dims{d.in.n, d.in.c, strips * edge_rows, d.in.w, d.in.block};
  float* edges = scratch<float, Edges>(edge_dims.size());
  // Tiles come from left to right and from top to bottom; the first at a pixel sets it, the others add.
  const auto window_of = [&](const Strip& strip, std::int64_t tile, std::int64_t channel, std::int64_t phase) {
    const std::int64_t row = tile / tiles.columns % tiles.rows, column = tile % tiles.columns;
    auto window = tiles.input_window(gx + channel * d.in.pixels(), tile, phase);
    for (std::int64_t r = 0; r < tiles.overlap; ++r) window.rows[r].add = row > strip.rows.begin;
    window.add_overlap = column > 0;
    if (row + 1 == strip.rows.end && strip.rows.end < tiles.rows)
      for (std::int64_t r = 0; r < tiles.overlap; ++r) {
        const std::int64_t y = strip.index * edge_rows + r * d.stride + phase / d.stride;
        const std::int64_t x = tiles.first_pixel(column) + phase % d.stride + d.stride * window.left;
        window.rows[tiles.size + r] = {edges + edge_dims.index(tile / tiles.per_sample(), channel, y, x),
                                       edge_dims.pixels() * c.lanes, false};
      }
    return window;
  };
  const Pass pass{
      tiles, c, kernels,
      [&](std::int64_t first, std::int64_t count, std::int64_t block, std::int64_t blocks, const WinogradPoints& to) {
        const float* planes = gy + block * c.lanes * d.out.pixels();
        const Windows<const float> windows(first, count,
                                           [&](std::int64_t t) { return tiles.output_window(planes, t); });
        kernels.gather_output(windows, blocks, {to.data + block * to.block, to.step, to.block});
      },
      [&](const Strip& strip, std::int64_t first, std::int64_t count, const WinogradPoints& from, std::int64_t block,
          std::int64_t blocks, std::int64_t phase) {
        const Windows<float> windows(first, count,
                                     [&](std::int64_t t) { return window_of(strip, t, block * c.lanes, phase); });
        kernels.scatter_input(from, blocks, windows);
      }};
  if (in_columns) return pass.by_columns(w);
  float* weights = scratch<float, Weight>(c.size());
  transform_weights(kernels, c, w, weights);
  pass.by_strips(weights, strips);

  const std::int64_t boundaries = strips - 1, length = d.in.w * d.in.block;
  parallel_for(d.in.n * c.columns * boundaries, edge_rows * length, [&](std::int64_t i) {
    const std::int64_t plane = i / boundaries, strip = i % boundaries;
    const std::int64_t n = plane / c.columns, channel = plane % c.columns * c.lanes;
    const std::int64_t y = tiles.first_pixel(Part(tiles.rows, strip, strips).end);
    for (std::int64_t r = 0; r < edge_rows && y + r < d.in.h; ++r) {
      const float* edge = edges + edge_dims.index(n, channel, strip * edge_rows + r, 0);
      float* row = gx + d.in.index(n, channel, y + r, 0);
      for (std::int64_t j = 0; j < length; ++j) row[j] += edge[j];
    }
  });
}

}  // namespace minidl::cpu
