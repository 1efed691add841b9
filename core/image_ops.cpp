#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

#include "core/image.h"

namespace minidl {

namespace {

void check_size(const char* what, const Image& image, int width, int height) {
  check(image.width > 0 && image.height > 0, what, ": the image is empty");
  check(width > 0 && height > 0, what, ": expected a size of at least 1 x 1, got ", width, " x ", height);
}

// Which samples make up each output sample of a resized axis, and with what weights (22 bits behind the point).
struct Filter {
  struct Tap {
    int first;                        // input sample
    const std::int32_t *begin, *end;  // weights of the samples from there on
  };
  int outputs;
  std::vector<int> first;           // of each output
  std::vector<std::size_t> offset;  // of each output's weights; one more for the end
  std::vector<std::int32_t> weights;

  Tap operator[](int i) const {
    const std::size_t at = static_cast<std::size_t>(i);
    return {first[at], weights.data() + offset[at], weights.data() + offset[at + 1]};
  }
};

constexpr int kWeightBits = 22;
constexpr std::int32_t kHalf = 1 << (kWeightBits - 1);

Filter triangle_filter(int inputs, int outputs) {
  Filter filter{outputs, {}, {0}, {}};
  const double scale = static_cast<double>(inputs) / outputs;
  const double radius = std::max(scale, 1.0), step = 1.0 / radius;
  std::vector<double> raw;
  for (int i = 0; i < outputs; ++i) {
    const double centre = (i + 0.5) * scale;
    const int begin = std::max(static_cast<int>(centre - radius + 0.5), 0);
    const int end = std::min(static_cast<int>(centre + radius + 0.5), inputs);
    double sum = 0;
    raw.clear();
    for (int k = begin; k < end; ++k) {
      raw.push_back(std::max(0.0, 1.0 - std::abs((k - centre + 0.5) * step)));
      sum += raw.back();
    }
    for (const double weight : raw)
      filter.weights.push_back(static_cast<std::int32_t>(0.5 + weight / sum * (1 << kWeightBits)));
    filter.first.push_back(begin);
    filter.offset.push_back(filter.weights.size());
  }
  return filter;
}

std::uint8_t to_level(std::int32_t sum) { return static_cast<std::uint8_t>(std::clamp(sum >> kWeightBits, 0, 255)); }

template <int kChannels>
void filter_row(const std::uint8_t* in, std::uint8_t* out, const Filter& filter) {
  for (int x = 0; x < filter.outputs; ++x, out += kChannels) {
    const Filter::Tap tap = filter[x];
    std::array<std::int32_t, kChannels> sum;
    sum.fill(kHalf);
    const std::uint8_t* pixel = in + static_cast<std::ptrdiff_t>(tap.first) * kChannels;
    for (const std::int32_t* weight = tap.begin; weight != tap.end; ++weight, pixel += kChannels)
      for (int c = 0; c < kChannels; ++c) sum[static_cast<std::size_t>(c)] += *weight * pixel[c];
    for (int c = 0; c < kChannels; ++c) out[c] = to_level(sum[static_cast<std::size_t>(c)]);
  }
}

Image resize_width(const Image& image, int width) {
  Image out(width, image.height, image.channels);
  const Filter filter = triangle_filter(image.width, width);
  const auto filter_one = image.channels == 1 ? filter_row<1> : filter_row<3>;
  for (int y = 0; y < image.height; ++y) filter_one(image.row(y), out.row(y), filter);
  return out;
}

Image resize_height(const Image& image, int height) {
  Image out(image.width, height, image.channels);
  const Filter filter = triangle_filter(image.height, height);
  const int length = image.width * image.channels;
  std::vector<std::int32_t> sums(static_cast<std::size_t>(length));
  std::int32_t* sum = sums.data();
  for (int y = 0; y < height; ++y) {
    const Filter::Tap tap = filter[y];
    std::fill(sums.begin(), sums.end(), kHalf);
    const std::uint8_t* in = image.row(tap.first);
    for (const std::int32_t* weight = tap.begin; weight != tap.end; ++weight, in += length)
      for (int i = 0; i < length; ++i) sum[i] += *weight * in[i];
    std::uint8_t* row = out.row(y);
    for (int i = 0; i < length; ++i) row[i] = to_level(sum[i]);
  }
  return out;
}

// The two neighbours of each output sample of an enlarged axis, and their weights (11 bits behind the point).
struct Blend {
  int a, b, weight_a, weight_b;
};

enum class Edge { kSnap, kClamp };

// OpenCV treats the ends of the axes differently: columns outside take the last pixel alone, while rows keep both
// weights and only have their numbers clamped, which rounds differently.
std::vector<Blend> linear_blends(int inputs, int outputs, Edge edge) {
  std::vector<Blend> blends;
  const double scale = 1.0 / (static_cast<double>(outputs) / inputs);
  for (int i = 0; i < outputs; ++i) {
    float fraction = static_cast<float>((i + 0.5) * scale - 0.5);
    int index = static_cast<int>(std::floor(fraction));
    fraction -= static_cast<float>(index);
    if (edge == Edge::kSnap && (index < 0 || index >= inputs - 1)) {
      index = std::clamp(index, 0, inputs - 1);
      fraction = 0;
    }
    blends.push_back({std::clamp(index, 0, inputs - 1), std::clamp(index + 1, 0, inputs - 1),
                      static_cast<int>(std::lrint((1.0f - fraction) * 2048.0f)),
                      static_cast<int>(std::lrint(fraction * 2048.0f))});
  }
  return blends;
}

}  // namespace

Image flip_horizontal(const Image& image) {
  Image out(image.width, image.height, image.channels);
  for (int y = 0; y < image.height; ++y) {
    const std::uint8_t* in = image.row(y);
    std::uint8_t* end = out.row(y) + static_cast<std::ptrdiff_t>(image.width) * image.channels;
    for (int x = 0; x < image.width; ++x, in += image.channels) {
      end -= image.channels;
      std::copy_n(in, image.channels, end);
    }
  }
  return out;
}

Image crop(const Image& image, int top, int left, int height, int width) {
  check(top >= 0 && left >= 0 && height > 0 && width > 0 && height <= image.height - top && width <= image.width - left,
        "crop: a rectangle of ", width, " x ", height, " at column ", left, ", row ", top,
        " does not lie inside an image of ", image.width, " x ", image.height);
  Image out(width, height, image.channels);
  for (int y = 0; y < height; ++y)
    std::copy_n(image.row(top + y) + static_cast<std::ptrdiff_t>(left) * image.channels, width * image.channels,
                out.row(y));
  return out;
}

Image to_grey(const Image& image) {
  if (image.channels == 1) return image;
  Image grey(image.width, image.height, 1);
  const std::uint8_t* rgb = image.pixels.data();
  for (std::uint8_t& level : grey.pixels) {
    level = static_cast<std::uint8_t>((19595 * rgb[0] + 38470 * rgb[1] + 7471 * rgb[2] + 32768) >> 16);
    rgb += 3;
  }
  return grey;
}

Image resize_bilinear(const Image& image, int width, int height) {
  check_size("resize_bilinear", image, width, height);
  // A pass that would change nothing is skipped.
  if (width == image.width) return height == image.height ? image : resize_height(image, height);
  const Image wide = resize_width(image, width);
  return height == image.height ? wide : resize_height(wide, height);
}

Image enlarge_linear(const Image& grey, int width, int height) {
  check_size("enlarge_linear", grey, width, height);
  check(grey.channels == 1, "enlarge_linear: expected a grey image, got one of ", grey.channels, " channels");
  const std::vector<Blend> columns = linear_blends(grey.width, width, Edge::kSnap);
  const std::vector<Blend> rows = linear_blends(grey.height, height, Edge::kClamp);
  std::vector<int> wide;
  wide.reserve(static_cast<std::size_t>(width) * grey.height);
  for (int y = 0; y < grey.height; ++y)
    for (const Blend& x : columns) wide.push_back(grey.row(y)[x.a] * x.weight_a + grey.row(y)[x.b] * x.weight_b);

  Image out(width, height, 1);
  for (int y = 0; y < height; ++y) {
    const Blend& blend = rows[static_cast<std::size_t>(y)];
    const int* a = wide.data() + static_cast<std::ptrdiff_t>(blend.a) * width;
    const int* b = wide.data() + static_cast<std::ptrdiff_t>(blend.b) * width;
    for (int x = 0; x < width; ++x) {
      const int sum = (blend.weight_a * (a[x] >> 4) >> 16) + (blend.weight_b * (b[x] >> 4) >> 16);
      out.row(y)[x] = static_cast<std::uint8_t>((sum + 2) >> 2);
    }
  }
  return out;
}

Rgb jet(std::uint8_t level) {
  // Each channel is a trapezium of slope 4, cut off at 0 and 255. At level 159 OpenCV's table has a blue of 1.
  const int i = level;
  const auto clip = [](int value) { return static_cast<std::uint8_t>(std::clamp(value, 0, 255)); };
  const int red = i < 160 ? 4 * (i - 96) + 2 : 252 - 4 * (i - 224);
  const int green = i < 160 ? 4 * (i - 32) : 252 - 4 * (i - 160);
  const int blue = i < 96 ? 128 + 4 * i : i == 159 ? 1 : 254 - 4 * (i - 96);
  return {clip(red), clip(green), clip(blue)};
}

Image heat_map_image(std::span<const float> map, int h, int w, int width, int height) {
  check(h > 0 && w > 0 && map.size() == static_cast<std::size_t>(h) * static_cast<std::size_t>(w),
        "heat_map_image: ", map.size(), " values do not make a map of ", w, " x ", h);
  const auto [lowest, highest] = std::minmax_element(map.begin(), map.end());
  const float low = *lowest, range = *highest - low;
  Image grey(w, h, 1);
  for (std::size_t i = 0; i < map.size(); ++i) {
    const float level = 255 * ((map[i] - low) / range);
    // False for NaN, whose conversion to an integer is undefined.
    grey.pixels[i] = level > 0 ? static_cast<std::uint8_t>(std::min(level, 255.0f)) : std::uint8_t{0};
  }
  const Image enlarged = enlarge_linear(grey, width, height);
  Image coloured(width, height, 3);
  std::uint8_t* out = coloured.pixels.data();
  for (const std::uint8_t level : enlarged.pixels) {
    const Rgb colour = jet(level);
    *out++ = colour.r, *out++ = colour.g, *out++ = colour.b;
  }
  return coloured;
}

}  // namespace minidl
