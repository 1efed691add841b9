// The device contract called directly, where tensors do not reach: sizes that are multiples of nothing, one channel and
// 2048, single pixels, buffers at any multiple of a float, outputs left out. Every result is held against a naive loop,
// and the memory around it must stay as it was.
#include <algorithm>
#include <chrono>
#include <limits>
#include <numeric>
#include <thread>

#include "core/storage.h"
#include "tests/test_util.h"

using namespace minidl;
using namespace test;

namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
const std::int64_t kOffsets[] = {0, 1};  // of buffers, in floats

// Values on a device, `offset` values behind an aligned address.
template <class T>
class DeviceArray {
 public:
  DeviceArray(DeviceType device, const std::vector<T>& values, std::int64_t offset)
      : device_(device),
        size_(values.size()),
        offset_(static_cast<std::size_t>(offset)),
        storage_(device, (size_ + 2 * kMargin) * sizeof(T)) {
    std::vector<T> all(size_ + 2 * kMargin, kCanary);
    std::copy(values.begin(), values.end(), all.begin() + first());
    backend_of(device_).upload(storage_.data(), all.data(), all.size() * sizeof(T));
  }
  // To be written.
  DeviceArray(DeviceType device, std::int64_t size, std::int64_t offset)
      : DeviceArray(device, std::vector<T>(static_cast<std::size_t>(size), kCanary), offset) {}

  T* data() { return static_cast<T*>(storage_.data()) + first(); }

  // Checks the memory around them.
  std::vector<T> values() const {
    std::vector<T> all(size_ + 2 * kMargin);
    const Download piece{all.data(), storage_.data(), all.size() * sizeof(T)};
    backend_of(device_).download({&piece, 1});
    const auto begin = all.begin() + first(), end = begin + static_cast<std::ptrdiff_t>(size_);
    const auto untouched = [](T value) { return value == kCanary; };
    CHECK(std::all_of(all.begin(), begin, untouched));
    CHECK(std::all_of(end, all.end(), untouched));
    return {begin, end};
  }

 private:
  static constexpr T kCanary = static_cast<T>(93);
  static constexpr std::size_t kMargin = 64;  // a multiple of every alignment

  std::ptrdiff_t first() const { return static_cast<std::ptrdiff_t>(kMargin / 2 + offset_); }

  DeviceType device_;
  std::size_t size_, offset_;
  Storage storage_;
};

using Floats = DeviceArray<float>;
using Ints = DeviceArray<std::int32_t>;

std::vector<float> random_floats(std::int64_t size, unsigned seed) { return normal_values(size, seed); }

ImageDims dims_on(DeviceType device, const Nchw& d) {
  return {d.n, d.c, d.h, d.w, backend_of(device).channel_block(d.c)};
}

// From logical order to that of an image buffer, and back.
std::vector<float> to_image(const ImageDims& dims, const std::vector<float>& logical) {
  std::vector<float> image(logical.size());
  const Nchw d{dims.n, dims.c, dims.h, dims.w};
  for_each(d, [&](auto n, auto c, auto y, auto x) {
    image[static_cast<std::size_t>(dims.index(n, c, y, x))] = logical[d.at(n, c, y, x)];
  });
  return image;
}
std::vector<float> from_image(const ImageDims& dims, const std::vector<float>& image) {
  std::vector<float> logical(image.size());
  const Nchw d{dims.n, dims.c, dims.h, dims.w};
  for_each(d, [&](auto n, auto c, auto y, auto x) {
    logical[d.at(n, c, y, x)] = image[static_cast<std::size_t>(dims.index(n, c, y, x))];
  });
  return logical;
}

std::vector<Nchw> odd_images() {
  return {{1, 1, 1, 1},   {3, 1, 31, 33},  {1, 1, 1, 257},  {3, 2, 5, 3},    {1, 3, 33, 31}, {3, 3, 1, 1},
          {1, 4, 7, 9},   {3, 5, 3, 257},  {1, 31, 3, 3},   {3, 33, 9, 1},   {1, 36, 17, 5}, {3, 257, 1, 3},
          {1, 257, 3, 3}, {1, 2048, 3, 3}, {3, 2048, 1, 1}, {1, 64, 65, 63}, {3, 8, 2, 2},   {1, 3, 131, 67}};
}

// f(device, backend, image, offset) for all of them.
template <class F>
void for_images(F f) {
  for (const DeviceType device : test_devices())
    for (const Nchw& d : odd_images())
      for (const std::int64_t offset : kOffsets) {
        INFO(d.shape() << ", offset " << offset);
        f(device, backend_of(device), d, offset);
      }
}

// Where position i of a padded and upsampled axis of size `size` comes from.
std::int64_t source_of(std::int64_t i, std::int64_t size, std::int64_t scale, std::int64_t pad) {
  const std::int64_t last = size * scale - 1, inner = std::abs(i - pad);
  return (inner > last ? 2 * last - inner : inner) / scale;
}

void check_close(const std::vector<float>& actual, const Values& expected, double tolerance = 1e-6) {
  CHECK(relative_error(actual, expected) <= tolerance);
}

}  // namespace

TEST_CASE("layouts convert at every size and alignment", "[backend]") {
  for_images([](DeviceType device, Backend& backend, const Nchw& d, std::int64_t offset) {
    const ImageDims dims = dims_on(device, d);
    const std::vector<float> logical = random_floats(d.size(), 1), image = to_image(dims, logical);
    Floats plain(device, logical, offset), made(device, d.size(), 0), back(device, d.size(), offset);
    backend.plain_to_image(dims, plain.data(), made.data());
    CHECK(same_bits(made.values(), image));
    backend.image_to_plain(dims, made.data(), back.data());
    CHECK(same_bits(back.values(), logical));

    std::vector<std::uint8_t> bytes(logical.size());
    std::vector<float> expected(logical.size());
    std::size_t next = 0;
    for (std::int64_t n = 0; n < d.n; ++n)
      for (std::int64_t p = 0; p < d.h * d.w; ++p)
        for (std::int64_t c = 0; c < d.c; ++c) {
          bytes[next] = static_cast<std::uint8_t>(37 * next + 11);
          const float unit = static_cast<float>(bytes[next++]) / 255.0f;
          expected[d.at(n, c, p / d.w, p % d.w)] = (unit - 0.5f) / 0.5f;
        }
    DeviceArray<std::uint8_t> levels(device, bytes, offset);
    backend.bytes_to_image(dims, levels.data(), made.data());
    CHECK(same_bits(made.values(), to_image(dims, expected)));
  });
}

TEST_CASE("padding and upsampling are right at every size and alignment", "[backend]") {
  for_images([](DeviceType device, Backend& backend, const Nchw& d, std::int64_t offset) {
    const ImageDims in = dims_on(device, d);
    const std::vector<float> x = random_floats(d.size(), 1);
    Floats small(device, to_image(in, x), offset), gradient(device, d.size(), offset);
    for (const auto& [scale, pad] : {std::pair{1, 0}, {1, 1}, {1, 3}, {2, 0}, {2, 1}, {3, 2}}) {
      if (pad >= scale * std::min(d.h, d.w)) continue;
      INFO("scale " << scale << ", pad " << pad);
      const Nchw out{d.n, d.c, d.h * scale + 2 * pad, d.w * scale + 2 * pad};
      const ImageDims out_dims = dims_on(device, out);
      const std::vector<float> g = random_floats(out.size(), 2);
      std::vector<float> y(g.size());
      Values gx(x.size());
      for_each(out, [&](auto n, auto c, auto row, auto column) {
        const std::size_t from = d.at(n, c, source_of(row, d.h, scale, pad), source_of(column, d.w, scale, pad));
        y[out.at(n, c, row, column)] = x[from];
        gx[from] += g[out.at(n, c, row, column)];
      });
      Floats large(device, out.size(), offset), cotangent(device, to_image(out_dims, g), offset);
      backend.upsample_nearest_forward(in, scale, pad, small.data(), large.data());
      CHECK(same_bits(from_image(out_dims, large.values()), y));
      backend.upsample_nearest_backward(in, scale, pad, cotangent.data(), gradient.data());
      check_close(from_image(in, gradient.values()), gx);
      if (scale > 1) continue;
      backend.reflection_pad_forward(in, pad, small.data(), large.data());
      CHECK(same_bits(from_image(out_dims, large.values()), y));
      backend.reflection_pad_backward(in, pad, cotangent.data(), false, gradient.data());
      check_close(from_image(in, gradient.values()), gx);
      backend.reflection_pad_backward(in, pad, cotangent.data(), true, gradient.data());
      for (double& value : gx) value *= 2;
      check_close(from_image(in, gradient.values()), gx);
    }
  });
}

TEST_CASE("pooling finds mean, maximum and its first pixel at every size and alignment", "[backend]") {
  for_images([](DeviceType device, Backend& backend, const Nchw& d, std::int64_t offset) {
    const ImageDims dims = dims_on(device, d);
    const std::int64_t planes = d.n * d.c, pixels = d.h * d.w;
    std::vector<float> x = normal_values(d.size(), 1, 100, 1);
    for (float& value : x) value = std::round(value * 4) / 4;  // so that maxima occur several times
    std::vector<float> max, g = random_floats(planes, 2), mean_gradient(x.size()), max_gradient(x.size());
    std::vector<std::int32_t> argmax;
    Values mean;
    for (std::int64_t plane = 0; plane < planes; ++plane) {
      const auto begin = x.begin() + plane * pixels, best = std::max_element(begin, begin + pixels);
      max.push_back(*best);
      argmax.push_back(static_cast<std::int32_t>(best - begin));
      mean.push_back(std::accumulate(begin, begin + pixels, 0.0) / static_cast<double>(pixels));
      const auto at = static_cast<std::size_t>(plane), first = static_cast<std::size_t>(plane * pixels);
      std::fill_n(mean_gradient.begin() + plane * pixels, pixels, g[at] * (1.0f / static_cast<float>(pixels)));
      max_gradient[first + static_cast<std::size_t>(argmax[at])] = g[at];
    }
    Floats image(device, to_image(dims, x), offset), gx(device, d.size(), offset), cotangent(device, g, offset);
    Floats mean_out(device, planes, offset), max_out(device, planes, offset);
    Ints argmax_out(device, planes, offset);
    backend.global_pool_forward(dims, image.data(), mean_out.data(), max_out.data(), argmax_out.data());
    check_close(mean_out.values(), mean, 1e-7);
    CHECK(same_bits(max_out.values(), max));
    CHECK(argmax_out.values() == argmax);

    backend.global_pool_backward(dims, cotangent.data(), nullptr, nullptr, false, gx.data());
    CHECK(same_bits(from_image(dims, gx.values()), mean_gradient));
    backend.global_pool_backward(dims, nullptr, cotangent.data(), argmax_out.data(), false, gx.data());
    CHECK(same_bits(from_image(dims, gx.values()), max_gradient));
    std::vector<float> sum = max_gradient;
    const auto add = [&](const std::vector<float>& gradient) {
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += gradient[i];
    };
    backend.global_pool_backward(dims, cotangent.data(), nullptr, nullptr, true, gx.data());
    add(mean_gradient);
    CHECK(same_bits(from_image(dims, gx.values()), sum));
    backend.global_pool_backward(dims, nullptr, cotangent.data(), argmax_out.data(), true, gx.data());
    add(max_gradient);
    CHECK(same_bits(from_image(dims, gx.values()), sum));
    backend.global_pool_backward(dims, cotangent.data(), cotangent.data(), argmax_out.data(), false, gx.data());
    sum = mean_gradient;
    add(max_gradient);
    CHECK(same_bits(from_image(dims, gx.values()), sum));

    Floats alone(device, planes, offset);
    backend.global_pool_forward(dims, image.data(), alone.data(), nullptr, nullptr);
    CHECK(same_bits(alone.values(), mean_out.values()));
    backend.global_pool_forward(dims, image.data(), nullptr, alone.data(), argmax_out.data());
    CHECK(same_bits(alone.values(), max));
    CHECK(argmax_out.values() == argmax);
  });
}

TEST_CASE("pooling keeps the first NaN and the first infinity", "[backend]") {
  for (const DeviceType device : test_devices())
    for (const Nchw& d : {Nchw{1, 3, 40, 40}, Nchw{2, 8, 1, 5}, Nchw{1, 257, 7, 7}}) {
      const std::int64_t planes = d.n * d.c, pixels = d.h * d.w;
      const ImageDims dims = dims_on(device, d);
      for (const float special : {kNaN, -INFINITY, INFINITY}) {
        std::vector<float> x(static_cast<std::size_t>(d.size()), special < 0 ? special : 1.0f);
        std::vector<std::int32_t> expected;
        for (std::int64_t plane = 0; plane < planes; ++plane) {
          const std::int64_t first = 3 * plane % pixels;
          for (std::int64_t p = first; p < pixels; p += 2) x[static_cast<std::size_t>(plane * pixels + p)] = special;
          expected.push_back(special < 0 ? 0 : static_cast<std::int32_t>(first));
        }
        Floats image(device, to_image(dims, x), 0), mean(device, planes, 0), max(device, planes, 0);
        Ints argmax(device, planes, 0);
        backend_of(device).global_pool_forward(dims, image.data(), mean.data(), max.data(), argmax.data());
        CHECK(argmax.values() == expected);
        for (const float value : max.values()) CHECK((std::isnan(special) ? std::isnan(value) : value == special));
      }
    }
}

TEST_CASE("channels are put together and taken apart at every size and alignment", "[backend]") {
  for (const DeviceType device : test_devices())
    for (const auto& [a_channels, b_channels] : std::vector<std::pair<std::int64_t, std::int64_t>>{
             {1, 1}, {3, 1}, {4, 8}, {5, 3}, {31, 33}, {32, 5}, {257, 3}, {2048, 4}, {1, 2048}})
      for (const auto& [n, h, w] : {std::tuple{1, 1, 1}, {3, 1, 1}, {3, 5, 3}, {1, 31, 9}})
        for (const std::int64_t offset : kOffsets) {
          INFO(a_channels << " and " << b_channels << " channels, " << n << " x " << h << " x " << w << ", offset "
                          << offset);
          Backend& backend = backend_of(device);
          const Nchw a{n, a_channels, h, w}, b{n, b_channels, h, w}, y{n, a_channels + b_channels, h, w};
          const ImageDims a_dims = dims_on(device, a), b_dims = dims_on(device, b), y_dims = dims_on(device, y);
          const std::vector<float> first = random_floats(a.size(), 1), second = random_floats(b.size(), 2);
          std::vector<float> both(static_cast<std::size_t>(y.size()));
          for_each(y, [&](auto in, auto c, auto row, auto column) {
            both[y.at(in, c, row, column)] =
                c < a.c ? first[a.at(in, c, row, column)] : second[b.at(in, c - a.c, row, column)];
          });
          Floats x1(device, to_image(a_dims, first), offset), x2(device, to_image(b_dims, second), offset);
          Floats joined(device, y.size(), offset), g1(device, a.size(), offset), g2(device, b.size(), offset);
          backend.concat_forward(a_dims, b_dims, x1.data(), x2.data(), joined.data());
          CHECK(same_bits(joined.values(), to_image(y_dims, both)));
          backend.concat_backward(a_dims, b_dims, joined.data(), g1.data(), nullptr);
          CHECK(same_bits(g1.values(), x1.values()));
          backend.concat_backward(a_dims, b_dims, joined.data(), nullptr, g2.data());
          CHECK(same_bits(g2.values(), x2.values()));
          Floats h1(device, a.size(), offset), h2(device, b.size(), offset);
          backend.concat_backward(a_dims, b_dims, joined.data(), h1.data(), h2.data());
          CHECK(same_bits(h1.values(), x1.values()));
          CHECK(same_bits(h2.values(), x2.values()));
        }
}

TEST_CASE("channels are scaled and summed at every size and alignment", "[backend]") {
  for_images([](DeviceType device, Backend& backend, const Nchw& d, std::int64_t offset) {
    const ImageDims dims = dims_on(device, d), one = dims_on(device, {d.n, 1, d.h, d.w});
    const std::vector<float> x = random_floats(d.size(), 1), s = random_floats(d.c, 2), g = random_floats(d.size(), 3);
    const std::vector<float> g1 = random_floats(one.size(), 4);
    std::vector<float> y(x.size()), gx(x.size()), spread(x.size());
    Values gs(s.size()), sums(g1.size());
    for_each(d, [&](auto n, auto c, auto row, auto column) {
      const std::size_t at = d.at(n, c, row, column), channel = static_cast<std::size_t>(c);
      const std::size_t pixel = Nchw{d.n, 1, d.h, d.w}.at(n, 0, row, column);
      y[at] = x[at] * s[channel];
      gx[at] = g[at] * s[channel];
      gs[channel] += static_cast<double>(x[at]) * g[at];
      sums[pixel] += x[at];
      spread[at] = g1[pixel];
    });
    Floats image(device, to_image(dims, x), offset), factors(device, s, offset);
    Floats cotangent(device, to_image(dims, g), offset), result(device, d.size(), offset);
    backend.scale_channels_forward(dims, image.data(), factors.data(), nullptr, result.data());
    CHECK(same_bits(from_image(dims, result.values()), y));

    Floats gx_out(device, d.size(), offset), gs_out(device, d.c, offset), gs_alone(device, d.c, offset);
    backend.scale_channels_backward(dims, image.data(), factors.data(), nullptr, cotangent.data(), false, gx_out.data(),
                                    gs_out.data(), nullptr);
    CHECK(same_bits(from_image(dims, gx_out.values()), gx));
    check_close(gs_out.values(), gs, 2e-6);
    backend.scale_channels_backward(dims, image.data(), factors.data(), nullptr, cotangent.data(), false, nullptr,
                                    gs_alone.data(), nullptr);
    CHECK(same_bits(gs_alone.values(), gs_out.values()));
    backend.scale_channels_backward(dims, image.data(), factors.data(), nullptr, cotangent.data(), false, result.data(),
                                    nullptr, nullptr);
    CHECK(same_bits(from_image(dims, result.values()), gx));

    // By two factors at once: the scaled images side by side, and the sum of their gradients.
    const std::vector<float> s2 = random_floats(d.c, 5);
    const Nchw wide{d.n, 2 * d.c, d.h, d.w};
    const ImageDims wide_dims = dims_on(device, wide);
    const std::vector<float> g2 = random_floats(wide.size(), 6);
    std::vector<float> y2(g2.size());
    Values gx2(x.size()), gs2(2 * s.size());
    for_each(wide, [&](auto n, auto c, auto row, auto column) {
      const std::size_t at = wide.at(n, c, row, column), from = d.at(n, c % d.c, row, column);
      const float factor = (c < d.c ? s : s2)[static_cast<std::size_t>(c % d.c)];
      y2[at] = x[from] * factor;
      gx2[from] += static_cast<double>(g2[at]) * factor;
      gs2[static_cast<std::size_t>(c)] += static_cast<double>(x[from]) * g2[at];
    });
    Floats second(device, s2, offset), doubled(device, wide.size(), offset),
        wide_cotangent(device, to_image(wide_dims, g2), offset);
    backend.scale_channels_forward(dims, image.data(), factors.data(), second.data(), doubled.data());
    CHECK(same_bits(from_image(wide_dims, doubled.values()), y2));
    const auto backward = [&](bool add, float* gs_first, float* gs_second) {
      backend.scale_channels_backward(dims, image.data(), factors.data(), second.data(), wide_cotangent.data(), add,
                                      gx_out.data(), gs_first, gs_second);
    };
    backward(false, gs_out.data(), gs_alone.data());
    check_close(from_image(dims, gx_out.values()), gx2);
    std::vector<float> both = gs_out.values();
    const std::vector<float> of_second = gs_alone.values();
    both.insert(both.end(), of_second.begin(), of_second.end());
    check_close(both, gs2, 2e-6);
    backward(true, nullptr, nullptr);
    for (double& value : gx2) value *= 2;
    check_close(from_image(dims, gx_out.values()), gx2);
    backward(true, gs_out.data(), nullptr);
    for (double& value : gx2) value *= 1.5;
    check_close(from_image(dims, gx_out.values()), gx2);

    Floats summed(device, one.size(), offset), gradient(device, g1, offset);
    backend.sum_channels_forward(dims, image.data(), summed.data());
    check_close(summed.values(), sums, 2e-6);
    backend.sum_channels_backward(dims, gradient.data(), result.data());
    CHECK(same_bits(from_image(dims, result.values()), spread));
  });
}

TEST_CASE("pointwise functions are right at every size and alignment, and in place", "[backend]") {
  for (const DeviceType device : test_devices())
    for (const std::int64_t size : {0, 1, 3, 4, 5, 31, 33, 257, 1027, 70001})
      for (const std::int64_t offset : kOffsets)
        for (const std::int64_t other : {std::int64_t{0}, offset}) {  // of the second operand
          INFO(size << " floats, offsets " << offset << " and " << other);
          Backend& backend = backend_of(device);
          const std::vector<float> a = random_floats(size, 1), b = random_floats(size, 2);
          Floats x(device, a, offset), z(device, b, other), y(device, size, offset),
              s(device, std::vector<float>{-2.5f}, other);
          const auto check_result = [&](auto expected) {
            std::vector<float> values;
            for (std::size_t i = 0; i < a.size(); ++i) values.push_back(expected(a[i], b[i]));
            CHECK(same_bits(y.values(), values));
          };
          backend.fill(size, 0.3f, y.data());
          check_result([](float, float) { return 0.3f; });
          backend.add(size, x.data(), z.data(), y.data());
          check_result([](float v, float u) { return v + u; });
          backend.multiply(size, x.data(), z.data(), y.data());
          check_result([](float v, float u) { return v * u; });
          backend.scale(size, 0.7f, x.data(), y.data());
          check_result([](float v, float) { return 0.7f * v; });
          backend.scale_by(size, s.data(), x.data(), y.data());
          check_result([](float v, float) { return -2.5f * v; });
          backend.activation_forward(Activation::relu, 0, size, x.data(), y.data());
          check_result([](float v, float) { return v < 0 ? 0 : v; });
          backend.activation_forward(Activation::leaky_relu, 0.2f, size, x.data(), y.data());
          check_result([](float v, float) { return v > 0 ? v : v * 0.2f; });
          backend.activation_backward(Activation::relu, 0, size, x.data(), z.data(), y.data());
          check_result([](float v, float u) { return v > 0 ? u : 0; });
          backend.activation_backward(Activation::leaky_relu, 0.2f, size, x.data(), z.data(), y.data());
          check_result([](float v, float u) { return v > 0 ? u : u * 0.2f; });

          const auto check_smooth = [&](Activation f, double (*value)(double), double (*slope)(double)) {
            Values expected, gradient;
            backend.activation_forward(f, 0, size, x.data(), y.data());
            for (const float v : a) expected.push_back(value(v));
            check_close(y.values(), expected, 2e-7);
            backend.activation_backward(f, 0, size, x.data(), z.data(), y.data());  // any x will do as an output
            for (std::size_t i = 0; i < a.size(); ++i) gradient.push_back(b[i] * slope(a[i]));
            check_close(y.values(), gradient, 2e-7);
          };
          check_smooth(
              Activation::tanh, [](double v) { return std::tanh(v); }, [](double v) { return 1 - v * v; });
          check_smooth(
              Activation::sigmoid, [](double v) { return 1 / (1 + std::exp(-v)); },
              [](double v) { return (1 - v) * v; });

          backend.add(size, x.data(), z.data(), z.data());
          backend.add(size, x.data(), z.data(), x.data());
          const std::vector<float> sum = x.values();
          for (std::size_t i = 0; i < a.size(); ++i) REQUIRE(sum[i] == a[i] + (a[i] + b[i]));
        }
}

TEST_CASE("losses and their gradients are right at every size and alignment", "[backend]") {
  for (const DeviceType device : test_devices())
    for (const std::int64_t size : {1, 3, 31, 33, 257, 1027, 70001, 1100003})
      for (const std::int64_t offset : kOffsets) {
        if (size > 100000 && offset > 0) continue;
        INFO(size << " floats, offset " << offset);
        Backend& backend = backend_of(device);
        const std::vector<float> x = normal_values(size, 1, 3, 1), t = random_floats(size, 2);
        Floats input(device, x, offset), target(device, t, offset), loss(device, 1, offset), gx(device, size, offset);
        const float gy = 7, weight = 3, n = static_cast<float>(size);
        Floats cotangent(device, std::vector<float>{gy}, offset);
        const auto run = [&](LossTerm term) { backend.losses({&term, 1}); };
        const auto check_loss = [&](Loss kind, float goal, auto value, auto gradient) {
          LossTerm term{kind,     size,   input.data(),     kind == Loss::l1 ? target.data() : nullptr,
                        goal,     weight, cotangent.data(), loss.data(),
                        gx.data()};
          run(term);
          long double sum = 0;
          Values expected;
          for (std::size_t i = 0; i < x.size(); ++i) {
            sum += value(static_cast<double>(x[i]), static_cast<double>(t[i]));
            expected.push_back(gradient(static_cast<double>(x[i]), static_cast<double>(t[i])) * weight * gy / n);
          }
          check_close(loss.values(), {static_cast<double>(sum / static_cast<long double>(size))}, 2e-7);
          check_close(gx.values(), expected);
          // The value alone, and the gradient alone, for a gradient of 1.
          const std::vector<float> mean_value = loss.values();
          term.gy = nullptr, term.gx = nullptr;
          run(term);
          CHECK(same_bits(loss.values(), mean_value));
          term.gx = gx.data(), term.value = nullptr;
          run(term);
          for (double& e : expected) e /= gy;
          check_close(gx.values(), expected);
        };
        check_loss(
            Loss::mean, 0, [](double v, double) { return v; }, [](double, double) { return 1.0; });
        check_loss(
            Loss::mse, 0.9f, [](double v, double) { return (v - 0.9f) * (v - 0.9f); },
            [](double v, double) { return 2 * (v - 0.9f); });
        check_loss(
            Loss::l1, 0, [](double v, double u) { return std::abs(v - u); },
            [](double v, double u) { return v > u   ? 1.0
                                            : v < u ? -1.0
                                                    : 0.0; });
        check_loss(
            Loss::bce, 0.25f,
            [](double v, double) { return std::max(v, 0.0) - 0.25 * v + std::log1p(std::exp(-std::abs(v))); },
            [](double v, double) { return 1 / (1 + std::exp(-v)) - 0.25; });
        check_loss(
            Loss::none, 0, [](double, double) { return 0.0; }, [](double, double) { return 0.0; });
      }
}

TEST_CASE("a device measures the time of what is asked for", "[backend]") {
  for (const DeviceType device : test_devices()) {
    Backend& backend = backend_of(device);
    const Tensor x = Tensor::full({1000}, 3, device), y = Tensor::empty({1000}, device);
    const auto start = std::chrono::steady_clock::now();
    const double seconds = backend.measure([&] { backend.scale(x.size(), 2, x.data(), y.data()); });
    const std::chrono::duration<double> around = std::chrono::steady_clock::now() - start;
    CHECK(seconds > 0);
    CHECK(seconds <= around.count() + 1e-5);  // the clock of a GPU ticks every half microsecond
    CHECK(y.to_host() == std::vector<float>(1000, 6));
    if (device == DeviceType::cpu)
      CHECK(backend.measure([] { std::this_thread::sleep_for(std::chrono::milliseconds(20)); }) >= 0.02);
    // What fails inside is passed on, and the device measures again.
    CHECK_THROWS_AS(backend.measure([] { fail("on purpose"); }), Error);
    CHECK(backend.measure([&] { backend.fill(y.size(), 1, y.data()); }) > 0);
  }
}
