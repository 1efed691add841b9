#include "kernels/cpu/winograd.h"

#include "kernels/cpu/loops.h"
#include "kernels/cpu/prepared.h"
#include "kernels/cpu/winograd_int16.h"
#include "kernels/cpu/winograd_kernels.h"
#include "kernels/cpu/winograd_tiles.h"

namespace minidl::cpu {
namespace {

constexpr std::int64_t kPoints = kWinogradPoints;
// Vectors of a panel, the columns of the transformed weight that are multiplied at a time.
constexpr std::int64_t kPanel = 2;
// Bytes of transformed tiles that stay in a core's second cache, beside the weights that stream through it.
constexpr std::int64_t kCached = 512 << 10;
// Tiles over which a gradient of the weight is summed at a time: few enough for float sums, or for integers that share
// a scale, and for the points of all their channels, tiles times channels, to fit into the third cache.
constexpr std::int64_t kPieceTiles = 512, kInt16PieceTiles = 256, kPiece = 1 << 16;
// Tiles whose points are rounded at a time.
constexpr std::int64_t kRounded = 4;

using enum WinogradProducts;

// Floats from one point to the next, when each has `floats`: whole cache lines, and an odd number of them, since lines
// that are a power of two apart evict each other.
std::int64_t point_step(std::int64_t floats) { return (divide_up(floats, 16) | 1) * 16; }

// Null where the processor has none.
const WinogradInt16* int16_kernels() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vnni")) return &kWinogradVnni;
#endif
  return nullptr;
}

// The transformed weight: a panel of the channels that products have as columns after the other; in a panel, points; at
// a point, a row for each of the other channels. An input channel counts once for each phase: as `groups` of columns,
// no panel having some of two, or as so many rows. For products of integers an element is a pair of rows, and after the
// panels come the scales of columns: by panels and points too.
struct Columns {
  WinogradProducts products;
  std::int64_t lanes, groups, columns, depth;  // the latter in blocks of `lanes` channels

  std::int64_t rows() const { return depth * lanes / (products == int16 ? 2 : 1); }
  std::int64_t group_panels() const { return divide_up(columns, kPanel); }
  std::int64_t panels() const { return groups * group_panels(); }
  std::int64_t group(std::int64_t panel) const { return panel / group_panels(); }
  std::int64_t first_column(std::int64_t panel) const { return panel % group_panels() * kPanel; }
  std::int64_t vectors(std::int64_t panel) const { return std::min(kPanel, columns - first_column(panel)); }
  std::int64_t step(std::int64_t panel) const { return point_step(rows() * vectors(panel) * lanes); }
  std::int64_t offset(std::int64_t panel, std::int64_t point) const {
    return kPoints * panel * step(0) + point * step(panel);
  }
  std::int64_t scales_offset(std::int64_t panel, std::int64_t point) const {
    return offset(panels() - 1, kPoints) + (panel * kPoints + point) * kPanel * lanes;
  }
  std::int64_t size() const { return products == int16 ? scales_offset(panels(), 0) : offset(panels() - 1, kPoints); }
};

Columns output_columns(const ConvDims& d, WinogradProducts products) {
  return {products, d.in.block, 1, d.out.c / d.in.block, Phases(d).count() * d.in.c / d.in.block};
}
Columns input_columns(const ConvDims& d, WinogradProducts products) {
  return {products, d.in.block, Phases(d).count(), d.in.c / d.in.block, d.out.c / d.in.block};
}

// Transforms plain weights (out.c, in.c, kernel, kernel); columns are the output channels, or the input channels.
void transform_weight(const ConvDims& d, bool of_outputs, const float* w, const Columns& c, float* to) {
  struct Staged;
  const WinogradKernels& kernels = *kernels_of(d);
  const Phases phases(d);
  const std::int64_t in_stride = d.kernel * d.kernel, out_stride = d.in.c * in_stride;
  const std::int64_t lane = of_outputs ? out_stride : in_stride, channel = of_outputs ? in_stride : out_stride;
  const std::int64_t others = (of_outputs ? d.in.c : d.out.c) / c.lanes;
  const auto transform = [&](std::int64_t column, std::int64_t other, std::int64_t phase, float* first,
                             std::int64_t step, std::int64_t row) {
    kernels.weights_to_points(w + c.lanes * (column * lane + other * channel), phases[phase], lane, channel, c.lanes,
                              first, step, row);
  };
  if (c.products == float32)
    return parallel_for(c.columns * others, phases.count() * kPoints * c.lanes * c.lanes, [&](std::int64_t i) {
      const std::int64_t column = i / others, other = i % others;
      for (std::int64_t phase = 0; phase < phases.count(); ++phase) {
        const std::int64_t row = of_outputs ? phase * others + other : other;
        const std::int64_t panel = (of_outputs ? 0 : phase * c.group_panels()) + column / kPanel;
        const std::int64_t width = c.vectors(panel) * c.lanes;
        transform(column, other, phase, to + c.offset(panel, 0) + (row * width + column % kPanel) * c.lanes,
                  c.step(panel), width);
      }
    });
  // Products of integers have a single phase.
  parallel_for(c.columns, kPoints * c.depth * c.lanes * c.lanes, [&](std::int64_t column) {
    const std::int64_t panel = column / kPanel, lanes = column % kPanel * c.lanes, rows = c.depth * c.lanes;
    const std::int64_t step = point_step(rows * c.lanes);
    float* staged = scratch<float, Staged>(kPoints * step);
    for (std::int64_t row = 0; row < c.depth; ++row)
      transform(column, row, 0, staged + row * c.lanes * c.lanes, step, c.lanes);
    for (std::int64_t point = 0; point < kPoints; ++point)
      int16_kernels()->round_columns(staged + point * step, c.lanes, rows,
                                     reinterpret_cast<std::int32_t*>(to) + c.offset(panel, point) + lanes,
                                     c.vectors(panel) * c.lanes, to + c.scales_offset(panel, point) + lanes);
  });
}

// A weight's transform that is kept for inference.
class TransformedWeight final : public PreparedWeights::Form {
 public:
  TransformedWeight(const ConvDims& d, const Columns& c, const float* w)
      : stride_(d.stride), products_(c.products), data_(allocate_floats(c.size())) {
    transform_weight(d, true, w, c, data_.get());
  }
  bool serves(const ConvDims& d, WinogradProducts products) const {
    return stride_ == d.stride && products_ == products;
  }
  const float* data() const { return data_.get(); }

 private:
  std::int64_t stride_;
  WinogradProducts products_;
  OwnedFloats data_;
};

// Buffers of a thread, by what they hold.
struct Weight;
struct Source;
struct Rounded;
struct Scales;
struct Result;

constexpr std::int64_t kMostTurns = 4;
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
    const std::int64_t staged_step = point_step(c.depth * kRounded * c.lanes);
    float* staged = scratch<float, Source>(kPoints * staged_step);
    for (std::int64_t t = 0; t < tiles; t += kRounded) {
      const std::int64_t some = std::min(kRounded, tiles - t);
      gather(first + t, some, WinogradPoints{staged, staged_step, some * c.lanes});
      for (std::int64_t point = 0; point < kPoints; ++point)
        int16_kernels()->round_rows(staged + point * staged_step, some * c.lanes, some, c.depth,
                                    data + point * step + t * c.lanes, tiles * c.lanes, scales + point * tiles + t);
    }
  }
};

// Consecutive tiles from images to images: gather(first, tiles, points) transforms those of the source, and
// scatter(first, tiles, points, panel) a panel's channels into the result. In groups whose points stay in the cache.
template <class Gather, class Scatter>
void multiply_tiles(const WinogradKernels& kernels, const Columns& c, const float* weights, std::int64_t begin,
                    std::int64_t count, Gather gather, Scatter scatter) {
  const std::int64_t tile_bytes = kPoints * c.rows() * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t turns = std::clamp<std::int64_t>(kCached / tile_bytes / kernels.product_tiles, 1, kMostTurns);
  const std::int64_t groups = divide_up(count, turns * kernels.product_tiles);
  for (std::int64_t g = 0; g < groups; ++g) {
    const Part group(count, g, groups);
    const std::int64_t tiles = group.size(), block = tiles * c.lanes, first = begin + group.begin;
    const std::int64_t result_step = point_step(kPanel * block);
    float* result = scratch<float, Result>(kPoints * result_step);
    // multiply(panel, point, where the result goes)
    const auto for_panels = [&](auto multiply) {
      for (std::int64_t panel = 0; panel < c.panels(); ++panel) {
        for (std::int64_t point = 0; point < kPoints; ++point) multiply(panel, point, result + point * result_step);
        scatter(first, tiles, WinogradPoints{result, result_step, block}, panel);
      }
    };
    if (c.products == int16) {
      const RoundedSource source(c, first, tiles, gather);
      for_panels([&](std::int64_t panel, std::int64_t point, float* to) {
        int16_kernels()->multiply({tiles, source.data + point * source.step, block, source.scales + point * tiles,
                                   reinterpret_cast<const std::int32_t*>(weights) + c.offset(panel, point),
                                   weights + c.scales_offset(panel, point), c.depth, c.vectors(panel), to, block});
      });
    } else {
      const std::int64_t source_step = point_step(c.depth * block);
      float* source = scratch<float, Source>(kPoints * source_step);
      gather(first, tiles, WinogradPoints{source, source_step, block});
      for_panels([&](std::int64_t panel, std::int64_t point, float* to) {
        kernels.multiply({tiles, source + point * source_step, block, weights + c.offset(panel, point), c.depth,
                          c.vectors(panel), to, block});
      });
    }
  }
}

// Whole rows of tiles, the unit of parallel work: a sample's in up to eight strips of at least two rows.
struct Strips {
  const Tiles& tiles;
  std::int64_t per_sample;

  explicit Strips(const Tiles& t)
      : tiles(t), per_sample(divide_up(t.rows, std::max<std::int64_t>(2, divide_up(t.rows, 8)))) {}

  Part rows(std::int64_t strip) const { return Part(tiles.rows, strip, per_sample); }

  // f(n, strip, first tile, number of tiles) for every strip, in parallel.
  template <class F>
  void for_each(F f) const {
    const std::int64_t floats = tiles.per_sample() / per_sample * kPoints * tiles.d.in.c;
    parallel_for(tiles.d.in.n * per_sample, floats, [&](std::int64_t i) {
      const std::int64_t n = i / per_sample, strip = i % per_sample;
      f(n, strip, (n * tiles.rows + rows(strip).begin) * tiles.columns, rows(strip).size() * tiles.columns);
    });
  }
};

// gbias[k] = sum of gy over samples and pixels.
void sum_channels(const ImageDims& d, const float* gy, float* gbias) {
  dispatch_block(d.block, [&]<int K>() {
    parallel_for(d.c / d.block, d.n * d.pixels() * d.block, [&](std::int64_t block) {
      double sums[kLanes * std::max(K, 1)], total[kLanes * std::max(K, 1)] = {};
      for (std::int64_t n = 0; n < d.n; ++n) {
        const float* run = gy + d.index(n, block * d.block, 0, 0);
        sum_lanes<K, 1>(0, d.pixels() * d.block, sums, [run](auto at, int) { return Terms<1>{{at(run)}}; });
        for (std::int64_t lane = 0; lane < d.block; ++lane) total[lane] += sums[lane];
      }
      for (std::int64_t lane = 0; lane < d.block; ++lane)
        gbias[block * d.block + lane] = static_cast<float>(total[lane]);
    });
  });
}

}  // namespace

bool winograd_serves(const ConvDims& d, WinogradProducts products) {
  if (products == int16 && (d.kernel != 3 || d.stride != 1 || d.in.block != kInt16Lanes || !int16_kernels()))
    return false;
  const WinogradKernels* kernels = d.in.block == d.out.block ? kernels_of(d) : nullptr;
  if (!kernels || d.padding > 2) return false;
  // Input windows reach every pixel, also those at the end that the stride leaves over.
  const auto reached = [&](std::int64_t in, std::int64_t out) {
    return in + 2 * d.padding <= (out - 1 + kernels->taps) * d.stride;
  };
  return reached(d.in.h, d.out.h) && reached(d.in.w, d.out.w);
}

void winograd_forward(const ConvDims& d, const float* x, const float* w, const float* bias, float* y,
                      PreparedWeights* prepared, WinogradProducts products) {
  const Tiles tiles(d);
  const Phases phases(d);
  const Columns c = output_columns(d, products);
  const WinogradKernels& kernels = *kernels_of(d);
  std::shared_ptr<const TransformedWeight> kept;
  const float* weights = nullptr;
  if (prepared) {
    kept = prepared->find_or_make<TransformedWeight>(
        [&](const TransformedWeight& form) { return form.serves(d, products); },
        [&] { return std::make_shared<const TransformedWeight>(d, c, w); });
    weights = kept->data();
  } else {
    float* transformed = scratch<float, Weight>(c.size());
    transform_weight(d, true, w, c, transformed);
    weights = transformed;
  }
  Strips(tiles).for_each([&](std::int64_t, std::int64_t, std::int64_t begin, std::int64_t count) {
    multiply_tiles(
        kernels, c, weights, begin, count,
        [&](std::int64_t first, std::int64_t group, const WinogradPoints& to) {
          const std::int64_t blocks = c.depth / phases.count();
          for (std::int64_t p = 0; p < phases.count(); ++p) {
            const Windows<const float> windows(first, group,
                                               [&](std::int64_t t) { return tiles.input_window(x, t, p); });
            kernels.gather_input(windows, blocks, {to.data + p * blocks * to.block, to.step, to.block});
          }
        },
        [&](std::int64_t first, std::int64_t group, const WinogradPoints& from, std::int64_t panel) {
          const std::int64_t channel = c.first_column(panel) * c.lanes;
          float* plane = y + channel * d.out.pixels();
          const Windows<float> windows(first, group, [&](std::int64_t t) { return tiles.output_window(plane, t); });
          kernels.scatter_output(from, c.vectors(panel), bias ? bias + channel : nullptr, windows);
        });
  });
}

void winograd_backward_data(const ConvDims& d, const float* gy, const float* w, float* gx, WinogradProducts products) {
  struct Edges;
  const Tiles tiles(d);
  const Columns c = input_columns(d, products);
  const WinogradKernels& kernels = *kernels_of(d);
  float* weights = scratch<float, Weight>(c.size());
  transform_weight(d, false, w, c, weights);
  // The input windows of a strip's last row reach into the next strip. Another thread may be there: what they add goes
  // to an image of its own, a few rows for each strip, and is added afterwards.
  const Strips strips(tiles);
  const std::int64_t edge_rows = tiles.overlap * d.stride;
  const ImageDims edge_dims{d.in.n, d.in.c, strips.per_sample * edge_rows, d.in.w, d.in.block};
  float* edges = scratch<float, Edges>(edge_dims.size());
  strips.for_each([&](std::int64_t n, std::int64_t strip, std::int64_t begin, std::int64_t count) {
    const Part rows = strips.rows(strip);
    // Tiles come from left to right and from top to bottom; the first at a pixel sets it, the others add.
    const auto window_of = [&](std::int64_t tile, std::int64_t panel) {
      const std::int64_t row = tile / tiles.columns % tiles.rows, column = tile % tiles.columns;
      const std::int64_t phase = c.group(panel), channel = c.first_column(panel) * c.lanes;
      auto window = tiles.input_window(gx + channel * d.in.pixels(), tile, phase);
      for (std::int64_t r = 0; r < tiles.overlap; ++r) window.rows[r].add = row > rows.begin;
      window.add_overlap = column > 0;
      if (row + 1 == rows.end && rows.end < tiles.rows)
        for (std::int64_t r = 0; r < tiles.overlap; ++r) {
          const std::int64_t y = strip * edge_rows + r * d.stride + phase / d.stride;
          const std::int64_t x = tiles.first_pixel(column) + phase % d.stride + d.stride * window.left;
          window.rows[tiles.size + r] = {edges + edge_dims.index(n, channel, y, x), edge_dims.pixels() * c.lanes,
                                         false};
        }
      return window;
    };
    multiply_tiles(
        kernels, c, weights, begin, count,
        [&](std::int64_t first, std::int64_t group, const WinogradPoints& to) {
          const Windows<const float> windows(first, group, [&](std::int64_t t) { return tiles.output_window(gy, t); });
          kernels.gather_output(windows, c.depth, to);
        },
        [&](std::int64_t first, std::int64_t group, const WinogradPoints& from, std::int64_t panel) {
          const Windows<float> windows(first, group, [&](std::int64_t t) { return window_of(t, panel); });
          kernels.scatter_input(from, c.vectors(panel), windows);
        });
  });
  const std::int64_t boundaries = strips.per_sample - 1, length = d.in.w * d.in.block;
  parallel_for(d.in.n * c.columns * boundaries, edge_rows * length, [&](std::int64_t i) {
    const std::int64_t plane = i / boundaries, strip = i % boundaries;
    const std::int64_t n = plane / c.columns, channel = plane % c.columns * c.lanes;
    const std::int64_t y = tiles.first_pixel(strips.rows(strip).end);
    for (std::int64_t r = 0; r < edge_rows && y + r < d.in.h; ++r) {
      const float* edge = edges + edge_dims.index(n, channel, strip * edge_rows + r, 0);
      float* row = gx + d.in.index(n, channel, y + r, 0);
      for (std::int64_t j = 0; j < length; ++j) row[j] += edge[j];
    }
  });
}

void winograd_backward_weights(const ConvDims& d, const float* x, const float* gy, float* gw, float* gbias,
                               WinogradProducts products) {
  struct Shared;
  struct Sums;
  struct AllSums;
  const Tiles tiles(d);
  const Phases phases(d);
  const WinogradKernels& kernels = *kernels_of(d);
  const std::int64_t lanes = d.in.block, kernel = d.kernel * d.kernel;
  const std::int64_t in_blocks = phases.count() * d.in.c / lanes, out_blocks = d.out.c / lanes;
  // Blocks of the input's channels, of each phase in turn, meet blocks of the output's. Those of the smaller side are
  // transformed once, for all; each block of the larger side is transformed by the thread that multiplies it with them.
  const bool inputs_shared = in_blocks < out_blocks;
  const std::int64_t shared_blocks = std::min(in_blocks, out_blocks), blocks = std::max(in_blocks, out_blocks);
  const auto gather = [&](bool input, std::int64_t block, std::int64_t first, std::int64_t count,
                          const WinogradPoints& to) {
    if (input) {
      const float* plane = x + block / phases.count() * lanes * d.in.pixels();
      const Windows<const float> windows(
          first, count, [&](std::int64_t t) { return tiles.input_window(plane, t, block % phases.count()); });
      kernels.gather_input(windows, 1, to);
    } else {
      const float* plane = gy + block * lanes * d.out.pixels();
      const Windows<const float> windows(first, count, [&](std::int64_t t) { return tiles.output_window(plane, t); });
      kernels.gather_output(windows, 1, to);
    }
  };
  const std::int64_t most_tiles =
      std::clamp<std::int64_t>(kPiece / shared_blocks / lanes, 1, products == int16 ? kInt16PieceTiles : kPieceTiles);
  const std::int64_t pieces = divide_up(tiles.count(), most_tiles), most = divide_up(tiles.count(), pieces);
  // Rows of a matrix of points: tiles, or pairs of them.
  const auto rows_of = [&](std::int64_t count) { return products == int16 ? divide_up(count, 2) : count; };
  const std::int64_t shared_channels = shared_blocks * lanes;
  const std::int64_t shared_step = point_step(rows_of(most) * shared_channels), own_step = point_step(most * lanes);
  const std::int64_t sum_step = point_step(lanes * shared_channels), sums_size = kPoints * sum_step;
  float* shared = scratch<float, Shared>(kPoints * shared_step);
  float* shared_scales = scratch<float, Scales>(kPoints * shared_channels);
  float* all_sums = pieces > 1 ? scratch<float, AllSums>(blocks * sums_size) : nullptr;
  for (std::int64_t p = 0; p < pieces; ++p) {
    const Part piece(tiles.count(), p, pieces);
    const std::int64_t count = piece.size(), block_size = rows_of(count) * lanes;
    // The points of a block of channels: as they are, or as pairs of integers.
    const auto gather_piece = [&](bool input, std::int64_t block, float* to, std::int64_t step) {
      const std::int64_t groups = divide_up(count, 16);
      for (std::int64_t g = 0; g < groups; ++g) {
        const Part group(count, g, groups);
        gather(input, block, piece.begin + group.begin, group.size(), {to + group.begin * lanes, step, 0});
      }
    };
    const auto gather_rounded = [&](bool input, std::int64_t block, float* to, std::int64_t step, float* scales,
                                    std::int64_t scales_step) {
      float* source = scratch<float, Source>(kPoints * own_step);
      gather_piece(input, block, source, own_step);
      for (std::int64_t point = 0; point < kPoints; ++point)
        int16_kernels()->round_columns(source + point * own_step, lanes, count,
                                       reinterpret_cast<std::int32_t*>(to + point * step), lanes,
                                       scales + point * scales_step);
    };
    parallel_for(shared_blocks, kPoints * count * lanes, [&](std::int64_t b) {
      float* to = shared + b * block_size;
      if (products == int16)
        gather_rounded(inputs_shared, b, to, shared_step, shared_scales + b * lanes, shared_channels);
      else
        gather_piece(inputs_shared, b, to, shared_step);
    });
    parallel_for(blocks, kPoints * count * lanes, [&](std::int64_t b) {
      float* sums = all_sums ? all_sums + b * sums_size : scratch<float, Sums>(sums_size);
      if (products == int16) {
        const std::int64_t step = point_step(block_size);
        float* own = scratch<float, Rounded>(kPoints * step);
        float scales[kPoints * kInt16Lanes];
        gather_rounded(!inputs_shared, b, own, step, scales, lanes);
        for (std::int64_t point = 0; point < kPoints; ++point)
          int16_kernels()->correlate(
              {rows_of(count), reinterpret_cast<const std::int32_t*>(own + point * step), scales + point * lanes,
               reinterpret_cast<const std::int32_t*>(shared + point * shared_step), block_size,
               shared_scales + point * shared_channels, shared_blocks, sums + point * sum_step, p > 0});
      } else {
        float* own = scratch<float, Source>(kPoints * own_step);
        gather_piece(!inputs_shared, b, own, own_step);
        for (std::int64_t point = 0; point < kPoints; ++point)
          kernels.correlate({count, own + point * own_step, shared + point * shared_step, block_size, shared_blocks,
                             sums + point * sum_step, p > 0});
      }
      if (p + 1 < pieces) return;
      for (std::int64_t s = 0; s < shared_blocks; ++s) {
        const std::int64_t in = inputs_shared ? s : b, out = inputs_shared ? b : s;
        float* first = gw + lanes * (out * d.in.c + in / phases.count()) * kernel;
        const std::int64_t of_in = kernel, of_out = d.in.c * kernel;
        kernels.points_to_weights(sums + s * lanes, sum_step, shared_channels, first, phases[in % phases.count()],
                                  inputs_shared ? of_in : of_out, inputs_shared ? of_out : of_in, lanes);
      }
    });
  }
  if (gbias) sum_channels(d.out, gy, gbias);
}

}  // namespace minidl::cpu
