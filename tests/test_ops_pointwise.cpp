// Pointwise operations, geometry, and images in and out.
#include <limits>

#include "core/ops.h"
#include "tests/test_util.h"

using namespace minidl;
using namespace test;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

const Shape kShapes[] = {{1}, {7}, {3, 5}, {40001}, {2, 3, 7, 5}, {2, 16, 33, 31}, {1, 8, 1, 1}};

Reference elementwise(double (*f)(double)) {
  return [f](const std::vector<Values>& in) {
    Values y = in[0];
    for (double& value : y) value = f(value);
    return y;
  };
}

// Mirrors i into [0, size) by walking, however far outside it lies.
std::int64_t walk_mirrored(std::int64_t i, std::int64_t size) {
  std::int64_t at = 0, direction = 1;
  for (std::int64_t steps = std::abs(i); steps > 0; --steps) {
    if (at + direction < 0 || at + direction >= size) direction = -direction;
    at += direction;
  }
  return at;
}

}  // namespace

TEST_CASE("activations equal their definition", "[pointwise]") {
  for (const DeviceType device : test_devices())
    for (const Shape& shape : kShapes) {
      INFO(shape);
      const std::vector<Tensor> x{random_tensor(shape, device, 1, 0, 2)};
      using In = const std::vector<Tensor>&;
      check_operation(
          x, [](In in) { return relu(in[0]); }, elementwise([](double v) { return std::max(v, 0.0); }));
      check_operation(
          x, [](In in) { return leaky_relu(in[0], 0.2f); },
          elementwise([](double v) { return v > 0 ? v : static_cast<double>(0.2f) * v; }));
      check_operation(
          x, [](In in) { return leaky_relu(in[0]); },
          elementwise([](double v) { return v > 0 ? v : static_cast<double>(0.01f) * v; }));
      check_operation(
          x, [](In in) { return tanh(in[0]); }, elementwise([](double v) { return std::tanh(v); }));
      check_operation(
          x, [](In in) { return sigmoid(in[0]); }, elementwise([](double v) { return 1 / (1 + std::exp(-v)); }));
    }
}

TEST_CASE("activations at the edges", "[pointwise]") {
  for (const DeviceType device : test_devices()) {
    const auto apply = [&](auto f, std::vector<float> x) {
      return f(Tensor::from_host({static_cast<std::int64_t>(x.size())}, x, device)).to_host();
    };
    const std::vector<float> edges{-kInfinity, -200, 0, 200, kInfinity};
    CHECK(apply([](const Tensor& x) { return relu(x); }, edges) == std::vector<float>{0, 0, 0, 200, kInfinity});
    CHECK(apply([](const Tensor& x) { return tanh(x); }, edges) == std::vector<float>{-1, -1, 0, 1, 1});
    CHECK(apply([](const Tensor& x) { return sigmoid(x); }, edges) == std::vector<float>{0, 0, 0.5f, 1, 1});
    for (const auto& f : {relu, tanh, sigmoid}) CHECK(std::isnan(apply(f, {kNaN})[0]));
    CHECK(std::isnan(apply([](const Tensor& x) { return leaky_relu(x); }, {kNaN})[0]));

    // The derivative of the kinked ones at 0 is that of the negative side, as in torch.
    const auto slope_at_zero = [&](auto f) {
      const Tensor x = leaf(Tensor::full({1}, 0, device));
      f(x).backward();
      return x.grad().item();
    };
    CHECK(slope_at_zero([](const Tensor& x) { return relu(x); }) == 0.0f);
    CHECK(slope_at_zero([](const Tensor& x) { return leaky_relu(x, 0.2f); }) == 0.2f);
    // Saturation gives no gradient, not NaN.
    const Tensor x = leaf(Tensor::from_host({2}, std::vector<float>{-200, 200}, device));
    backward({{tanh(x) + sigmoid(x), Tensor::full({2}, 1, device)}});
    CHECK(x.grad().to_host() == std::vector<float>{0, 0});
  }
}

TEST_CASE("sums, products and multiples equal their definition", "[pointwise]") {
  for (const DeviceType device : test_devices())
    for (const Shape& shape : kShapes) {
      INFO(shape);
      const std::vector<Tensor> ab{random_tensor(shape, device, 1), random_tensor(shape, device, 2)};
      using In = const std::vector<Tensor>&;
      check_operation(
          ab, [](In in) { return in[0] + in[1]; },
          [](const std::vector<Values>& in) {
            Values y = in[0];
            for (std::size_t i = 0; i < y.size(); ++i) y[i] += in[1][i];
            return y;
          });
      check_operation(
          ab, [](In in) { return in[0] * in[1]; },
          [](const std::vector<Values>& in) {
            Values y = in[0];
            for (std::size_t i = 0; i < y.size(); ++i) y[i] *= in[1][i];
            return y;
          });
      check_operation(
          {ab[0]}, [](In in) { return -2.5f * in[0]; }, elementwise([](double v) { return -2.5 * v; }));
      check_operation(
          {ab[0]}, [](In in) { return in[0] * in[0]; }, elementwise([](double v) { return v * v; }));
    }
}

TEST_CASE("pointwise operations refuse what does not fit, by name", "[pointwise]") {
  for (const DeviceType device : test_devices()) {
    const Tensor a = random_tensor({2, 16, 3, 3}, device, 1), other = random_tensor({2, 16, 3, 4}, device, 2);
    const Tensor plain = random_plain({2, 16, 3, 3}, device, 3);
    CHECK_THAT(error_of([&] { a + other; }),
               StartsWith("add: ") && Contains("[2, 16, 3, 3]") && Contains("[2, 16, 3, 4]"));
    CHECK_THAT(error_of([&] { a* other; }), StartsWith("multiply: "));
    CHECK_THAT(error_of([&] { a + plain; }), StartsWith("add: ") && Contains("memory"));
    CHECK_THAT(error_of([&] { a + Tensor(); }), StartsWith("add: "));
    CHECK_THAT(error_of([&] { Tensor() * a; }), StartsWith("multiply: "));
    CHECK_THAT(error_of([&] { 2.0f * Tensor(); }), StartsWith("scale: "));
    CHECK_THAT(error_of([&] { relu({}); }), StartsWith("relu: "));
    CHECK_THAT(error_of([&] { leaky_relu({}); }), StartsWith("leaky_relu: "));
    CHECK_THAT(error_of([&] { leaky_relu(a, 0); }), StartsWith("leaky_relu: "));  // the output hides the input's sign
    CHECK_THAT(error_of([&] { tanh(Tensor()); }), StartsWith("tanh: "));
    CHECK_THAT(error_of([&] { sigmoid({}); }), StartsWith("sigmoid: "));
  }
}

TEST_CASE("reflection_pad2d equals its definition, also where the mirrors overlap", "[geometry]") {
  const auto check_pad = [](const Nchw& d, std::int64_t pad, DeviceType device) {
    INFO(d.shape() << ", pad " << pad);
    check_operation(
        {random_tensor(d.shape(), device, 1)},
        [&](const std::vector<Tensor>& in) { return reflection_pad2d(in[0], pad); },
        [&](const std::vector<Values>& in) {
          const Nchw out{d.n, d.c, d.h + 2 * pad, d.w + 2 * pad};
          Values y(static_cast<std::size_t>(out.size()));
          for_each(out, [&](auto n, auto c, auto row, auto column) {
            y[out.at(n, c, row, column)] =
                in[0][d.at(n, c, walk_mirrored(row - pad, d.h), walk_mirrored(column - pad, d.w))];
          });
          return y;
        });
  };
  for (const DeviceType device : test_devices()) {
    for (const Nchw& d : image_cases())
      for (std::int64_t pad = 0; pad <= 3 && pad < std::min(d.h, d.w); ++pad) check_pad(d, pad, device);
    for (const std::int64_t channels : {1, 3, 8, 16}) {
      check_pad({2, channels, 1, 1}, 0, device);
      check_pad({2, channels, 2, 2}, 1, device);
      check_pad({1, channels, 4, 4}, 3, device);
      check_pad({1, channels, 4, 9}, 3, device);
    }
  }
}

TEST_CASE("reflection_pad2d: worked numbers", "[geometry]") {
  for (const DeviceType device : test_devices()) {
    const Tensor x = leaf(Tensor::from_host({1, 1, 2, 3}, std::vector<float>{1, 2, 3, 4, 5, 6}, device));
    const Tensor y = reflection_pad2d(x, 1);
    CHECK(y.to_host() == std::vector<float>{5, 4, 5, 6, 5, 2, 1, 2, 3, 2, 5, 4, 5, 6, 5, 2, 1, 2, 3, 2});
    backward({{y, Tensor::full(y.shape(), 1, device)}});
    CHECK(x.grad().to_host() == std::vector<float>{2, 6, 2, 2, 6, 2});
  }
}

TEST_CASE("upsample_nearest equals its definition", "[geometry]") {
  for (const DeviceType device : test_devices())
    for (const Nchw& d : image_cases())
      for (const std::int64_t scale : {1, 2, 3}) {
        INFO(d.shape() << ", scale " << scale);
        check_operation(
            {random_tensor(d.shape(), device, 1)},
            [&](const std::vector<Tensor>& in) { return upsample_nearest(in[0], scale); },
            [&](const std::vector<Values>& in) {
              const Nchw out{d.n, d.c, scale * d.h, scale * d.w};
              Values y(static_cast<std::size_t>(out.size()));
              for_each(d, [&](auto n, auto c, auto row, auto column) {
                for (std::int64_t i = 0; i < scale * scale; ++i)
                  y[out.at(n, c, scale * row + i / scale, scale * column + i % scale)] = in[0][d.at(n, c, row, column)];
              });
              return y;
            });
      }
}

TEST_CASE("flatten keeps the logical order", "[geometry]") {
  for (const DeviceType device : test_devices())
    for (const Nchw& d : image_cases()) {
      INFO(d.shape());
      const Tensor x = random_tensor(d.shape(), device, 1);
      CHECK(flatten(x).shape() == Shape{d.n, d.c * d.h * d.w});
      CHECK(same_bits(flatten(x), x));
      check_operation(
          {x}, [](const std::vector<Tensor>& in) { return flatten(in[0]); },
          [](const std::vector<Values>& in) { return in[0]; });
    }
}

TEST_CASE("geometry refuses what does not fit, by name", "[geometry]") {
  for (const DeviceType device : test_devices()) {
    const Tensor x = random_tensor({1, 16, 3, 5}, device, 1), plain = random_plain({1, 16, 3, 5}, device, 1);
    const Tensor cube = random_tensor({16, 3, 5}, device, 1), none = Tensor::empty({1, 16, 0, 5}, device);
    CHECK_THAT(error_of([&] { reflection_pad2d(x, 3); }),
               StartsWith("reflection_pad2d: ") && Contains("[1, 16, 3, 5]"));
    CHECK_THAT(error_of([&] { reflection_pad2d(x, -1); }), StartsWith("reflection_pad2d: "));
    CHECK_THAT(error_of([&] { upsample_nearest(x, 0); }), StartsWith("upsample_nearest: "));
    for (const Tensor& wrong : {plain, cube, none, Tensor()}) {
      CHECK_THAT(error_of([&] { reflection_pad2d(wrong, 1); }), StartsWith("reflection_pad2d: "));
      CHECK_THAT(error_of([&] { upsample_nearest(wrong); }), StartsWith("upsample_nearest: "));
      CHECK_THAT(error_of([&] { flatten(wrong); }), StartsWith("flatten: "));
      CHECK_THAT(error_of([&] { tensor_to_image(wrong); }), StartsWith("tensor_to_image: "));
    }
    CHECK(error_of([&] { reflection_pad2d(x, 2); }) == "");
  }
}

TEST_CASE("bytes become tensor values to the bit, and come back", "[geometry]") {
  for (const DeviceType device : test_devices()) {
    const std::vector<std::uint8_t> levels{0, 1, 127, 128, 255, 7};
    const Tensor row = images_to_tensor(levels, 1, 2, 3, 1, device);
    CHECK(row.shape() == Shape{1, 1, 2, 3});
    const std::vector<float> values = row.to_host();
    CHECK(same_bits({values.begin(), values.begin() + 5}, {-1.0f, -0x1.fbfbfcp-1f, -0x1.0101p-8f, 0x1.0102p-8f, 1.0f}));

    for (const std::int64_t channels : {1, 3, 8}) {
      const Nchw d{2, channels, 7, 5};
      std::vector<std::uint8_t> bytes(static_cast<std::size_t>(d.size()));
      for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(37 * i + 11);
      const Tensor x = images_to_tensor(bytes, d.n, d.h, d.w, d.c, device);
      const std::vector<float> logical = x.to_host();
      std::size_t next = 0;  // bytes are N, H, W, C
      for (std::int64_t n = 0; n < d.n; ++n)
        for (std::int64_t row_index = 0; row_index < d.h; ++row_index)
          for (std::int64_t column = 0; column < d.w; ++column)
            for (std::int64_t c = 0; c < d.c; ++c)
              REQUIRE(logical[d.at(n, c, row_index, column)] ==
                      (static_cast<float>(bytes[next++]) / 255.0f - 0.5f) / 0.5f);
      if (channels > 3) continue;
      for (std::int64_t n = 0; n < d.n; ++n) {
        const Image image = tensor_to_image(x, n);
        CHECK(image.width == 5);
        CHECK(image.height == 7);
        CHECK(image.channels == channels);
        CHECK(std::equal(image.pixels.begin(), image.pixels.end(), bytes.begin() + n * d.c * d.h * d.w));
      }
    }
  }
}

TEST_CASE("tensor_to_grid puts the images of a batch row by row", "[geometry]") {
  for (const DeviceType device : test_devices())
    for (const std::int64_t channels : {1, 3}) {
      const Tensor x = random_tensor({5, channels, 4, 6}, device, 1);
      const Image grid = tensor_to_grid(x, 3);
      REQUIRE((grid.width == 18 && grid.height == 8 && grid.channels == channels));
      for (int i = 0; i < 6; ++i) {  // the last place is left over
        const Image image = i < 5 ? tensor_to_image(x, i) : Image(6, 4, static_cast<int>(channels));
        for (int row = 0; row < 4; ++row) {
          const std::uint8_t* place = grid.row(i / 3 * 4 + row) + i % 3 * 6 * channels;
          CHECK(std::equal(place, place + 6 * channels, image.row(row)));
        }
      }
      CHECK(tensor_to_grid(x, 9).width == 54);
      CHECK_THAT(error_of([&] { tensor_to_grid(x, 0); }), StartsWith("tensor_to_grid: ") && Contains("0"));
    }
}

TEST_CASE("tensor_to_image rounds ties to even and clamps", "[geometry]") {
  for (const DeviceType device : test_devices()) {
    const std::vector<float> values{0, -0.5f, 0.3f, -1.5f, 1.5f, 1};
    CHECK(tensor_to_image(Tensor::from_host({1, 1, 1, 6}, values, device)).pixels ==
          std::vector<std::uint8_t>{128, 64, 166, 0, 255, 255});
    const Tensor x = random_tensor({2, 3, 4, 4}, device, 1);
    CHECK_THAT(error_of([&] { tensor_to_image(x, 2); }), StartsWith("tensor_to_image: "));
    CHECK_THAT(error_of([&] { tensor_to_image(x, -1); }), StartsWith("tensor_to_image: "));
    CHECK_THAT(error_of([&] {
                 tensor_to_image(random_tensor({1, 2, 4, 4}, device, 1));
               }),
               StartsWith("tensor_to_image: "));
    CHECK_THAT(error_of([&] { images_to_tensor(std::vector<std::uint8_t>(11), 1, 2, 2, 3, device); }),
               StartsWith("images_to_tensor: ") && Contains("11"));
  }
}
