#include "kernels/cpu/winograd.h"

#include "kernels/cpu/loops.h"
#include "kernels/cpu/prepared.h"
#include "kernels/cpu/winograd_int16.h"
#include "kernels/cpu/winograd_kernels.h"

namespace minidl::cpu {
namespace {

constexpr std::int64_t kPoints = kWinogradPoints, kIn = kWinogradInput, kOut = kWinogradOutput;
constexpr std::int64_t kOverlap = kIn - kOut;  // pixels that neighbouring input windows share
// Vectors of a panel, the columns of the transformed weight that are multiplied at a time.
constexpr std::int64_t kPanel = 2;
// Bytes of transformed tiles that stay in a core's second cache, beside the weights that stream through it.
constexpr std::int64_t kCached = 512 << 10;
// Tiles over which a gradient of the weight is summed at a time: all their points fit into the third cache.
constexpr std::int64_t kPiece = 256;
// Tiles whose points are rounded at a time.
constexpr std::int64_t kRounded = 4;

using enum WinogradProducts;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Floats from one point to the next, when each has `floats`: whole cache lines, and an odd number of them, since lines
// that are a power of two apart evict each other.
std::int64_t point_step(std::int64_t floats) { return (divide_up(floats, 16) | 1) * 16; }

const WinogradKernels* kernels_of(std::int64_t block) {
#if defined(__x86_64__)
  if (block == kWinogradAvx512.lanes) return &kWinogradAvx512;
#endif
  return block == kWinogradAvx2.lanes ? &kWinogradAvx2 : nullptr;
}

// Null where the processor has none.
const WinogradInt16* int16_kernels() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vnni")) return &kWinogradVnni;
#endif
  return nullptr;
}

// The part [begin, end) of [0, count) that is the i-th of `parts` nearly equal ones.
struct Part {
  std::int64_t begin, end;

  Part(std::int64_t count, std::int64_t i, std::int64_t parts)
      : begin(count * i / parts), end(count * (i + 1) / parts) {}
  std::int64_t size() const { return end - begin; }
};

// The tiles of a batch, counted row by row.
struct Tiles {
  ConvDims d;
  std::int64_t rows, columns;

  explicit Tiles(const ConvDims& dims) : d(dims), rows(divide_up(d.out.h, kOut)), columns(divide_up(d.out.w, kOut)) {}
  std::int64_t per_sample() const { return rows * columns; }
  std::int64_t count() const { return d.in.n * per_sample(); }

  template <class Float>
  WinogradWindow<Float> input_window(Float* x, std::int64_t tile) const {
    return window(d.in, x, tile, kIn, d.padding);
  }
  template <class Float>
  WinogradWindow<Float> output_window(Float* y, std::int64_t tile) const {
    return window(d.out, y, tile, kOut, 0);
  }

 private:
  template <class Float>
  WinogradWindow<Float> window(const ImageDims& image, Float* data, std::int64_t tile, std::int64_t size,
                               std::int64_t padding) const {
    const std::int64_t n = tile / per_sample();
    const std::int64_t top = tile % per_sample() / columns * kOut - padding, first = tile % columns * kOut - padding;
    const std::int64_t left = std::max<std::int64_t>(0, -first), right = std::min(size, image.w - first);
    WinogradWindow<Float> result;
    result.left = static_cast<int>(left);
    result.right = static_cast<int>(right);
    for (std::int64_t row = 0; row < size; ++row)
      if (const std::int64_t y = top + row; y >= 0 && y < image.h && left < right)
        result.rows[row] = {data + image.index(n, 0, y, first + left), image.pixels() * image.block, false};
    return result;
  }
};

// The transformed weight: a panel of the channels that products have as columns after the other; in a panel, points; at
// a point, a row for each of the other channels. For products of integers an element is a pair of rows, and after the
// panels come the scales of columns: by panels and points too.
struct Columns {
  WinogradProducts products;
  std::int64_t lanes, columns, depth;  // blocks of `lanes` channels on either side

  std::int64_t rows() const { return depth * lanes / (products == int16 ? 2 : 1); }
  std::int64_t panels() const { return divide_up(columns, kPanel); }
  std::int64_t vectors(std::int64_t panel) const { return std::min(kPanel, columns - panel * kPanel); }
  std::int64_t step(std::int64_t panel) const { return point_step(rows() * vectors(panel) * lanes); }
  std::int64_t offset(std::int64_t panel, std::int64_t point) const {
    return kPoints * panel * step(0) + point * step(panel);
  }
  std::int64_t scales_offset(std::int64_t panel, std::int64_t point) const {
    return offset(panels() - 1, kPoints) + (panel * kPoints + point) * kPanel * lanes;
  }
  std::int64_t size() const { return products == int16 ? scales_offset(panels(), 0) : offset(panels() - 1, kPoints); }
};

// Transforms plain weights (out.c, in.c, 3, 3); columns are the output channels, or the input channels.
void transform_weight(const ConvDims& d, bool output_columns, const float* w, const Columns& c, float* to) {
  struct Staged;
  const WinogradKernels& kernels = *kernels_of(c.lanes);
  const std::int64_t in_stride = 9, out_stride = d.in.c * 9;
  const std::int64_t lane = output_columns ? out_stride : in_stride, channel = output_columns ? in_stride : out_stride;
  const auto transform = [&](std::int64_t column, std::int64_t row, float* first, std::int64_t step,
                             std::int64_t width) {
    kernels.weights_to_points(w + column * c.lanes * lane + row * c.lanes * channel, lane, channel, c.lanes,
                              first + row * c.lanes * width, step, width);
  };
  if (c.products == float32)
    return parallel_for(c.columns * c.depth, kPoints * c.lanes * c.lanes, [&](std::int64_t i) {
      const std::int64_t column = i / c.depth, panel = column / kPanel;
      transform(column, i % c.depth, to + c.offset(panel, 0) + column % kPanel * c.lanes, c.step(panel),
                c.vectors(panel) * c.lanes);
    });
  parallel_for(c.columns, kPoints * c.depth * c.lanes * c.lanes, [&](std::int64_t column) {
    const std::int64_t panel = column / kPanel, lanes = column % kPanel * c.lanes, rows = c.depth * c.lanes;
    const std::int64_t step = point_step(rows * c.lanes);
    float* staged = scratch<float, Staged>(kPoints * step);
    for (std::int64_t row = 0; row < c.depth; ++row) transform(column, row, staged, step, c.lanes);
    for (std::int64_t point = 0; point < kPoints; ++point)
      int16_kernels()->round_columns(staged + point * step, c.lanes, rows,
                                     reinterpret_cast<std::int32_t*>(to) + c.offset(panel, point) + lanes,
                                     c.vectors(panel) * c.lanes, to + c.scales_offset(panel, point) + lanes);
  });
}

Columns output_columns(const ConvDims& d, WinogradProducts products) {
  return {products, d.in.block, d.out.c / d.in.block, d.in.c / d.in.block};
}
Columns input_columns(const ConvDims& d, WinogradProducts products) {
  return {products, d.in.block, d.in.c / d.in.block, d.out.c / d.in.block};
}

// A weight's transform that is kept for inference.
class TransformedWeight final : public PreparedWeights::Form {
 public:
  TransformedWeight(const ConvDims& d, const Columns& c, const float* w)
      : products_(c.products), data_(allocate_floats(c.size())) {
    transform_weight(d, true, w, c, data_.get());
  }
  WinogradProducts products() const { return products_; }
  const float* data() const { return data_.get(); }

 private:
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
constexpr std::size_t kMostTiles = 64;

// The windows of tiles one after the other.
template <class Float>
class Windows {
 public:
  template <class F>
  Windows(std::int64_t first, std::int64_t count, F window_of) : count_(static_cast<std::size_t>(count)) {
    for (std::size_t i = 0; i < count_; ++i) windows_[i] = window_of(first + static_cast<std::int64_t>(i));
  }
  operator std::span<const WinogradWindow<Float>>() const { return {windows_, count_}; }

 private:
  WinogradWindow<Float> windows_[kMostTiles];
  std::size_t count_;
};

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
void multiply_tiles(const Columns& c, const float* weights, std::int64_t begin, std::int64_t count, Gather gather,
                    Scatter scatter) {
  const WinogradKernels& kernels = *kernels_of(c.lanes);
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
  if (products == int16 && (d.in.block != kInt16Lanes || !int16_kernels())) return false;
  return d.kernel == 3 && d.stride == 1 && d.padding <= 2 && d.in.block == d.out.block && kernels_of(d.in.block);
}

void winograd_forward(const ConvDims& d, const float* x, const float* w, const float* bias, float* y,
                      PreparedWeights* prepared, WinogradProducts products) {
  const Tiles tiles(d);
  const Columns c = output_columns(d, products);
  const WinogradKernels& kernels = *kernels_of(c.lanes);
  std::shared_ptr<const TransformedWeight> kept;
  const float* weights = nullptr;
  if (prepared) {
    kept = prepared->find_or_make<TransformedWeight>(
        [&](const TransformedWeight& form) { return form.products() == products; },
        [&] { return std::make_shared<const TransformedWeight>(d, c, w); });
    weights = kept->data();
  } else {
    float* transformed = scratch<float, Weight>(c.size());
    transform_weight(d, true, w, c, transformed);
    weights = transformed;
  }
  Strips(tiles).for_each([&](std::int64_t, std::int64_t, std::int64_t begin, std::int64_t count) {
    multiply_tiles(
        c, weights, begin, count,
        [&](std::int64_t first, std::int64_t group, const WinogradPoints& to) {
          const Windows<const float> windows(first, group, [&](std::int64_t t) { return tiles.input_window(x, t); });
          kernels.gather_input(windows, c.depth, to);
        },
        [&](std::int64_t first, std::int64_t group, const WinogradPoints& from, std::int64_t panel) {
          const std::int64_t channel = panel * kPanel * c.lanes;
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
  const WinogradKernels& kernels = *kernels_of(c.lanes);
  float* weights = scratch<float, Weight>(c.size());
  transform_weight(d, false, w, c, weights);
  // The input windows of a strip's last row reach into the next strip. Another thread may be there: what they add goes
  // to an image of its own, two rows for each strip, and is added afterwards.
  const Strips strips(tiles);
  const ImageDims edge_dims{d.in.n, d.in.c, strips.per_sample * kOverlap, d.in.w, d.in.block};
  float* edges = scratch<float, Edges>(edge_dims.size());
  strips.for_each([&](std::int64_t n, std::int64_t strip, std::int64_t begin, std::int64_t count) {
    const Part rows = strips.rows(strip);
    // Tiles come from left to right and from top to bottom; the first at a pixel sets it, the others add.
    const auto window_of = [&](std::int64_t tile, std::int64_t channel) {
      const std::int64_t row = tile / tiles.columns % tiles.rows, column = tile % tiles.columns;
      auto window = tiles.input_window(gx + channel * d.in.pixels(), tile);
      for (std::int64_t r = 0; r < kOverlap; ++r) window.rows[r].add = row > rows.begin;
      window.add_overlap = column > 0;
      if (row + 1 == rows.end && rows.end < tiles.rows)
        for (std::int64_t r = 0; r < kOverlap; ++r)
          window.rows[kOut + r] = {
              edges + edge_dims.index(n, channel, strip * kOverlap + r, column * kOut - d.padding + window.left),
              edge_dims.pixels() * c.lanes, false};
      return window;
    };
    multiply_tiles(
        c, weights, begin, count,
        [&](std::int64_t first, std::int64_t group, const WinogradPoints& to) {
          const Windows<const float> windows(first, group, [&](std::int64_t t) { return tiles.output_window(gy, t); });
          kernels.gather_output(windows, c.depth, to);
        },
        [&](std::int64_t first, std::int64_t group, const WinogradPoints& from, std::int64_t panel) {
          const std::int64_t channel = panel * kPanel * c.lanes;
          const Windows<float> windows(first, group, [&](std::int64_t t) { return window_of(t, channel); });
          kernels.scatter_input(from, c.vectors(panel), windows);
        });
  });
  const std::int64_t boundaries = strips.per_sample - 1, length = d.in.w * d.in.block;
  parallel_for(d.in.n * c.columns * boundaries, kOverlap * length, [&](std::int64_t i) {
    const std::int64_t plane = i / boundaries, strip = i % boundaries;
    const std::int64_t n = plane / c.columns, channel = plane % c.columns * c.lanes;
    const std::int64_t y = strips.rows(strip).end * kOut - d.padding;
    for (std::int64_t r = 0; r < kOverlap && y + r < d.in.h; ++r) {
      const float* edge = edges + edge_dims.index(n, channel, strip * kOverlap + r, 0);
      float* row = gx + d.in.index(n, channel, y + r, 0);
      for (std::int64_t j = 0; j < length; ++j) row[j] += edge[j];
    }
  });
}

void winograd_backward_weights(const ConvDims& d, const float* x, const float* gy, float* gw, float* gbias,
                               WinogradProducts products) {
  struct Gradient;
  struct Sums;
  const Tiles tiles(d);
  const WinogradKernels& kernels = *kernels_of(d.in.block);
  const std::int64_t lanes = d.in.block, in_blocks = d.in.c / lanes, out_blocks = d.out.c / lanes;
  const std::int64_t pieces = divide_up(tiles.count(), kPiece), most = divide_up(tiles.count(), pieces);
  // Rows of a matrix of points: tiles, or pairs of them.
  const auto rows_of = [&](std::int64_t count) { return products == int16 ? divide_up(count, 2) : count; };
  const std::int64_t gradient_step = point_step(rows_of(most) * d.out.c), source_step = point_step(most * lanes);
  const std::int64_t sum_step = point_step(lanes * d.out.c), sums_size = kPoints * sum_step;
  float* gradient = scratch<float, Gradient>(kPoints * gradient_step);
  float* gradient_scales = scratch<float, Scales>(kPoints * d.out.c);
  float* all_sums = scratch<float, Sums>(in_blocks * sums_size);
  for (std::int64_t p = 0; p < pieces; ++p) {
    const Part piece(tiles.count(), p, pieces);
    const std::int64_t count = piece.size(), block = rows_of(count) * lanes;
    // The points of one block of channels: gather(first, tiles, points) as above.
    const auto gather_piece = [&](auto gather, float* to, std::int64_t step) {
      const std::int64_t groups = divide_up(count, 16);
      for (std::int64_t g = 0; g < groups; ++g) {
        const Part group(count, g, groups);
        gather(piece.begin + group.begin, group.size(), WinogradPoints{to + group.begin * lanes, step, 0});
      }
    };
    const auto gather_rounded = [&](auto gather, float* to, std::int64_t step, float* scales,
                                    std::int64_t scales_step) {
      float* source = scratch<float, Source>(kPoints * source_step);
      gather_piece(gather, source, source_step);
      for (std::int64_t point = 0; point < kPoints; ++point)
        int16_kernels()->round_columns(source + point * source_step, lanes, count,
                                       reinterpret_cast<std::int32_t*>(to + point * step), lanes,
                                       scales + point * scales_step);
    };
    parallel_for(out_blocks, kPoints * count * lanes, [&](std::int64_t k) {
      const float* plane = gy + k * lanes * d.out.pixels();
      const auto gather = [&](std::int64_t first, std::int64_t group, const WinogradPoints& to) {
        const Windows<const float> windows(first, group, [&](std::int64_t t) { return tiles.output_window(plane, t); });
        kernels.gather_output(windows, 1, to);
      };
      if (products == int16)
        gather_rounded(gather, gradient + k * block, gradient_step, gradient_scales + k * lanes, d.out.c);
      else
        gather_piece(gather, gradient + k * block, gradient_step);
    });
    parallel_for(in_blocks, kPoints * count * lanes, [&](std::int64_t c) {
      float* sums = all_sums + c * sums_size;
      const float* plane = x + c * lanes * d.in.pixels();
      const auto gather = [&](std::int64_t first, std::int64_t group, const WinogradPoints& to) {
        const Windows<const float> windows(first, group, [&](std::int64_t t) { return tiles.input_window(plane, t); });
        kernels.gather_input(windows, 1, to);
      };
      if (products == int16) {
        const std::int64_t step = point_step(block);
        float* source = scratch<float, Rounded>(kPoints * step);
        float scales[kPoints * kInt16Lanes];
        gather_rounded(gather, source, step, scales, lanes);
        for (std::int64_t point = 0; point < kPoints; ++point)
          int16_kernels()->correlate({rows_of(count), reinterpret_cast<const std::int32_t*>(source + point * step),
                                      scales + point * lanes,
                                      reinterpret_cast<const std::int32_t*>(gradient + point * gradient_step), block,
                                      gradient_scales + point * d.out.c, out_blocks, sums + point * sum_step, p > 0});
      } else {
        float* source = scratch<float, Source>(kPoints * source_step);
        gather_piece(gather, source, source_step);
        for (std::int64_t point = 0; point < kPoints; ++point)
          kernels.correlate({count, source + point * source_step, gradient + point * gradient_step, block, out_blocks,
                             sums + point * sum_step, p > 0});
      }
      if (p + 1 < pieces) return;
      for (std::int64_t k = 0; k < out_blocks; ++k)
        kernels.points_to_weights(sums + k * lanes, sum_step, d.out.c, gw + (k * lanes * d.in.c + c * lanes) * 9,
                                  d.in.c * 9, 9, lanes);
    });
  }
  if (gbias) sum_channels(d.out, gy, gbias);
}

}  // namespace minidl::cpu
