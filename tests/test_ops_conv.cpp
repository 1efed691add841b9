// Convolution and linear layers against plain loops in double precision.
#include <algorithm>

#include "core/ops.h"
#include "tests/test_util.h"

using namespace minidl;
using namespace test;
using Catch::Matchers::StartsWith;

namespace {

struct ConvCase {
  Nchw in;
  std::int64_t out_channels, kernel;
  ConvOptions options;
  bool bias;
};

std::ostream& operator<<(std::ostream& out, const ConvCase& c) {
  return out << c.in.shape() << " to " << c.out_channels << " channels, kernel " << c.kernel << ", stride "
             << c.options.stride << ", padding " << c.options.padding << (c.bias ? ", bias" : "");
}

// The definition of a cross-correlation; inputs are x, weight and, perhaps, bias.
Values naive_conv(const ConvCase& c, const std::vector<Values>& inputs) {
  const Values &x = inputs[0], &weight = inputs[1];
  const std::int64_t k = c.kernel, stride = c.options.stride, padding = c.options.padding;
  const Nchw w{c.out_channels, c.in.c, k, k};
  const Nchw out{c.in.n, c.out_channels, (c.in.h + 2 * padding - k) / stride + 1,
                 (c.in.w + 2 * padding - k) / stride + 1};
  Values y(static_cast<std::size_t>(out.size()));
  for_each(out, [&](auto n, auto o, auto oy, auto ox) {
    double sum = inputs.size() > 2 ? inputs[2][static_cast<std::size_t>(o)] : 0;
    for (std::int64_t i = 0; i < c.in.c; ++i)
      for (std::int64_t ky = 0; ky < k; ++ky)
        for (std::int64_t kx = 0; kx < k; ++kx) {
          const std::int64_t iy = oy * stride + ky - padding, ix = ox * stride + kx - padding;
          if (iy >= 0 && iy < c.in.h && ix >= 0 && ix < c.in.w)
            sum += x[c.in.at(n, i, iy, ix)] * weight[w.at(o, i, ky, kx)];
        }
    y[out.at(n, o, oy, ox)] = sum;
  });
  return y;
}

void check_conv(const ConvCase& c, DeviceType device) {
  INFO(c);
  std::vector<Tensor> inputs{random_tensor(c.in.shape(), device, 1),
                             random_plain({c.out_channels, c.in.c, c.kernel, c.kernel}, device, 2)};
  if (c.bias) inputs.push_back(random_tensor({c.out_channels}, device, 3));
  check_operation(
      inputs, [&](const std::vector<Tensor>& in) { return conv2d(in[0], in[1], c.bias ? in[2] : Tensor(), c.options); },
      [&](const std::vector<Values>& in) { return naive_conv(c, in); }, {.value = 2e-6, .gradient = 2e-5});
}

}  // namespace

TEST_CASE("conv2d equals its definition in every layout", "[conv]") {
  const ConvCase cases[] = {
      {{1, 3, 17, 9}, 64, 7, {}, false},      // RGB to blocks, as the first layer
      {{1, 64, 17, 9}, 3, 7, {}, false},      // blocks to RGB, as the last layer
      {{1, 3, 33, 31}, 64, 4, {2, 0}, true},  // the first layer of a discriminator
      {{2, 16, 7, 7}, 1, 4, {1, 0}, false},   // its last
      {{1, 16, 33, 31}, 32, 3, {2, 0}, false},
      {{2, 16, 17, 9}, 32, 3, {1, 0}, true},
      {{3, 16, 7, 7}, 32, 3, {1, 1}, true},
      {{3, 5, 3, 5}, 7, 3, {1, 1}, true},
      {{2, 5, 17, 9}, 7, 3, {2, 1}, false},
      {{2, 8, 17, 9}, 16, 4, {2, 0}, true},  // the last row is out of every window's reach
      {{1, 24, 17, 9}, 8, 4, {2, 1}, false},
      {{2, 24, 7, 7}, 24, 3, {1, 0}, false},
      {{1, 32, 7, 7}, 32, 3, {2, 1}, true},
      {{1, 1, 7, 7}, 1, 7, {}, true},  // one output pixel
      {{2, 8, 7, 7}, 8, 7, {1, 1}, false},
      {{2, 3, 9, 17}, 5, 7, {2, 0}, true},
  };
  for (const DeviceType device : test_devices())
    for (const ConvCase& c : cases) check_conv(c, device);
}

// Large enough for Winograd's algorithm; sizes that are not whole tiles of 4x4.
TEST_CASE("conv2d with a 3x3 kernel of many channels and pixels", "[conv]") {
  const ConvCase cases[] = {
      {{1, 32, 19, 23}, 32, 3, {}, false},
      {{1, 64, 18, 18}, 32, 3, {}, true},
      {{2, 32, 16, 18}, 48, 3, {1, 1}, false},
  };
  for (const DeviceType device : test_devices())
    for (const ConvCase& c : cases) check_conv(c, device);
}

// From blocks of channels to one to four planar channels and back, on images wide enough for kernels of their own.
TEST_CASE("conv2d between many channels and few", "[conv]") {
  const ConvCase cases[] = {
      {{1, 64, 9, 23}, 3, 7, {}, true}, {{2, 16, 8, 18}, 1, 4, {}, false}, {{1, 48, 7, 19}, 2, 3, {}, true},
      {{2, 32, 5, 16}, 4, 3, {}, true}, {{1, 24, 6, 15}, 3, 4, {}, false}, {{1, 3, 10, 19}, 64, 7, {}, true},
      {{2, 1, 6, 20}, 16, 4, {}, true}, {{1, 4, 5, 15}, 24, 3, {}, false},
  };
  for (const DeviceType device : test_devices())
    for (const ConvCase& c : cases) check_conv(c, device);
}

TEST_CASE("conv2d with a 1x1 kernel", "[conv]") {
  const ConvCase cases[] = {
      {{1, 1, 1, 1}, 1, 1, {}, true},        {{2, 3, 3, 5}, 5, 1, {}, false},
      {{1, 8, 1, 1}, 8, 1, {}, true},        {{3, 32, 7, 7}, 16, 1, {}, true},
      {{1, 48, 17, 9}, 24, 1, {}, true},     {{2, 16, 7, 7}, 1, 1, {}, false},
      {{1, 8, 3, 5}, 24, 1, {2, 0}, true},   {{1, 3, 7, 7}, 8, 1, {1, 1}, true},
      {{2, 528, 3, 2}, 512, 1, {}, true},  // sides of many blocks, and more pixels than are summed at a time
      {{1, 512, 19, 17}, 512, 1, {}, false},
  };
  for (const DeviceType device : test_devices())
    for (const ConvCase& c : cases) check_conv(c, device);
}

TEST_CASE("conv2d of odd and very many channels", "[conv]") {
  const ConvCase cases[] = {
      {{3, 31, 1, 1}, 33, 1, {}, true},  {{3, 257, 1, 1}, 3, 1, {}, false},    {{1, 2048, 1, 1}, 3, 1, {}, true},
      {{3, 3, 1, 1}, 2048, 1, {}, true}, {{1, 33, 3, 3}, 31, 3, {1, 1}, true}, {{3, 1, 31, 33}, 1, 3, {1, 1}, false},
      {{1, 1, 3, 3}, 257, 3, {}, true},  {{1, 2048, 3, 3}, 1, 3, {}, true},    {{1, 3, 3, 257}, 5, 3, {1, 1}, true},
  };
  for (const DeviceType device : test_devices())
    for (const ConvCase& c : cases) check_conv(c, device);
}

TEST_CASE("conv2d of tall and wide images", "[conv]") {
  const ConvCase cases[] = {
      {{1, 1, 40, 3}, 8, 3, {1, 1}, true},
      {{1, 8, 3, 40}, 3, 3, {1, 1}, false},
      {{1, 16, 70, 4}, 16, 4, {2, 1}, true},
      {{1, 16, 1, 70}, 16, 3, {1, 1}, false},
  };
  for (const DeviceType device : test_devices())
    for (const ConvCase& c : cases) check_conv(c, device);
}

TEST_CASE("conv2d: worked numbers", "[conv]") {
  for (const DeviceType device : test_devices()) {
    const Tensor x = leaf(Tensor::from_host({1, 1, 3, 3}, std::vector<float>{1, 2, 3, 4, 5, 6, 7, 8, 9}, device));
    const Tensor w = leaf(Tensor::plain_from_host({1, 1, 2, 2}, std::vector<float>{1, 10, 100, 1000}, device));
    const Tensor bias = leaf(Tensor::from_host({1}, std::vector<float>{0.5f}, device));
    const Tensor y = conv2d(x, w, bias);
    CHECK(y.shape() == Shape{1, 1, 2, 2});
    CHECK(y.to_host() == std::vector<float>{5421.5f, 6532.5f, 8754.5f, 9865.5f});
    backward({{y, Tensor::from_host({1, 1, 2, 2}, std::vector<float>{1, 0, 0, 2}, device)}});
    CHECK(x.grad().to_host() == std::vector<float>{1, 10, 0, 100, 1002, 20, 0, 200, 2000});
    CHECK(w.grad().to_host() == std::vector<float>{11, 14, 20, 23});
    CHECK(bias.grad().to_host() == std::vector<float>{3});
  }
}

TEST_CASE("conv2d keeps separate plans for separate geometries", "[conv]") {
  // Equal channels and kernels, but every other property differs; interleaved so that a mixed-up plan shows.
  const ConvCase cases[] = {{{1, 8, 9, 7}, 8, 3, {1, 0}, true},  {{1, 8, 7, 9}, 8, 3, {1, 0}, true},
                            {{1, 8, 9, 7}, 8, 3, {1, 1}, true},  {{1, 8, 9, 7}, 8, 3, {2, 0}, true},
                            {{2, 8, 9, 7}, 8, 3, {1, 0}, false}, {{1, 8, 9, 7}, 8, 3, {1, 0}, false}};
  for (const DeviceType device : test_devices())
    for (int round = 0; round < 2; ++round)
      for (const ConvCase& c : cases) check_conv(c, device);
}

TEST_CASE("conv2d with a ReLU or a leaky one fused equals convolution and activation", "[conv]") {
  for (const DeviceType device : test_devices())
    for (const float slope : {0.0f, 0.2f})
      for (const bool biased : {true, false})
        for (const Nchw& d : {Nchw{2, 3, 9, 7}, Nchw{1, 16, 8, 8}, Nchw{3, 24, 5, 3}}) {
          INFO(d.shape() << ", slope " << slope);
          const std::vector<Tensor> inputs{random_tensor(d.shape(), device, 1), random_plain({8, d.c, 3, 3}, device, 2),
                                           random_tensor({8}, device, 3)};
          const auto run = [&](bool fused) {
            const Tensor x = leaf(inputs[0]), w = leaf(inputs[1]), b = leaf(inputs[2]);
            Tensor y = conv2d(x, w, biased ? b : Tensor(), {.padding = 1, .slope = fused ? slope : 1});
            if (!fused) y = slope > 0 ? leaky_relu(y, slope) : relu(y);
            backward({{y, random_like(y, 4)}});
            std::vector<Tensor> results{y, x.grad(), w.grad()};
            if (biased) results.push_back(b.grad());
            return results;
          };
          const std::vector<Tensor> fused = run(true), apart = run(false);
          for (std::size_t i = 0; i < fused.size(); ++i)
            CHECK(relative_error(fused[i].to_host(), apart[i].to_host()) <= 1e-6);
          const Tensor y = conv2d(inputs[0], inputs[1], inputs[2], {.padding = 1, .slope = slope});
          if (biased) CHECK(relative_error(y.to_host(), fused[0].to_host()) <= 1e-6);  // unrecorded
        }
}

TEST_CASE("linear equals its definition", "[conv]") {
  struct Case {
    std::int64_t rows, in, out;
    bool bias, relu;
  };
  // Also of many rows, and so many inputs or outputs that they are cut into pieces.
  const Case cases[] = {
      {1, 16, 32, true, false},   {3, 5, 7, true, false},     {2, 100, 1, false, false}, {1, 1, 1, true, false},
      {4, 1000, 8, true, true},   {2, 24, 24, false, true},   {8, 257, 65, true, true},  {1, 9001, 3, false, false},
      {2, 40004, 5, false, true}, {9, 31, 33, true, true},    {33, 64, 20, true, false}, {5, 36, 300, true, true},
      {3, 257, 31, true, false},  {3, 2048, 3, false, false}, {1, 33, 257, true, false}, {3, 1, 2048, true, false}};
  for (const DeviceType device : test_devices())
    for (const Case& c : cases) {
      INFO(c.rows << " rows, " << c.in << " to " << c.out);
      // A sum of 40,000 terms in float is that much less accurate.
      const Tolerance tolerance{.value = c.in > 10000 ? 1e-5 : 2e-6, .gradient = 2e-5};
      std::vector<Tensor> inputs{random_tensor({c.rows, c.in}, device, 1), random_tensor({c.out, c.in}, device, 2)};
      if (c.bias) inputs.push_back(random_tensor({c.out}, device, 3));
      check_operation(
          inputs,
          [&](const std::vector<Tensor>& in) {
            return linear(in[0], in[1], c.bias ? in[2] : Tensor(), {.relu = c.relu});
          },
          [&](const std::vector<Values>& in) {
            Values y;
            for (std::int64_t r = 0; r < c.rows; ++r)
              for (std::int64_t o = 0; o < c.out; ++o) {
                double sum = c.bias ? in[2][static_cast<std::size_t>(o)] : 0;
                for (std::int64_t i = 0; i < c.in; ++i)
                  sum += in[0][static_cast<std::size_t>(r * c.in + i)] * in[1][static_cast<std::size_t>(o * c.in + i)];
                y.push_back(c.relu && sum < 0 ? 0 : sum);
              }
            return y;
          },
          tolerance);
      if (c.bias) continue;
      // A gradient that another layer has sent is added to.
      check_operation(
          inputs,
          [&](const std::vector<Tensor>& in) {
            const Tensor x = 2.0f * in[0];
            return linear(x, in[1]) + linear(x, in[1]);
          },
          [&](const std::vector<Values>& in) {
            Values y(static_cast<std::size_t>(c.rows * c.out));
            for (std::int64_t r = 0; r < c.rows; ++r)
              for (std::int64_t o = 0; o < c.out; ++o)
                for (std::int64_t i = 0; i < c.in; ++i)
                  y[static_cast<std::size_t>(r * c.out + o)] +=
                      4 * in[0][static_cast<std::size_t>(r * c.in + i)] * in[1][static_cast<std::size_t>(o * c.in + i)];
            return y;
          },
          tolerance);
    }
}

TEST_CASE("conv2d and linear refuse what does not fit, by name", "[conv]") {
  for (const DeviceType device : test_devices()) {
    const Tensor x = random_tensor({1, 16, 5, 5}, device, 1), w = random_plain({4, 16, 3, 3}, device, 2);
    const auto conv_error = [&](const Tensor& image, const Tensor& weight, const Tensor& bias = {},
                                ConvOptions options = {}) {
      return error_of([&] { conv2d(image, weight, bias, options); });
    };
    CHECK_THAT(conv_error(random_tensor({1, 32, 5, 5}, device, 1), w), StartsWith("conv2d: "));  // wrong channel count
    CHECK_THAT(conv_error(random_tensor({16, 5, 5}, device, 1), w), StartsWith("conv2d: "));     // rank
    CHECK_THAT(conv_error(random_plain({1, 16, 5, 5}, device, 1), w), StartsWith("conv2d: "));   // plain memory
    CHECK_THAT(conv_error(Tensor(), w), StartsWith("conv2d: "));
    CHECK_THAT(conv_error(Tensor::empty({0, 16, 5, 5}, device), w), StartsWith("conv2d: "));  // empty
    CHECK_THAT(conv_error(x, random_tensor({4, 144}, device, 2)), StartsWith("conv2d: "));
    CHECK_THAT(conv_error(x, random_tensor({4, 16, 3, 3}, device, 2)), StartsWith("conv2d: "));  // image as weight
    CHECK_THAT(conv_error(x, random_plain({4, 16, 3, 2}, device, 2)), StartsWith("conv2d: "));   // not square
    CHECK_THAT(conv_error(x, Tensor::empty_plain({4, 16, 0, 0}, device)), StartsWith("conv2d: "));
    CHECK_THAT(conv_error(x, Tensor::empty_plain({0, 16, 3, 3}, device)), StartsWith("conv2d: "));
    CHECK_THAT(conv_error(x, Tensor()), StartsWith("conv2d: "));
    CHECK_THAT(conv_error(x, w, random_tensor({16}, device, 3)), StartsWith("conv2d: "));  // bias size
    CHECK_THAT(conv_error(x, w, {}, {.stride = 0}), StartsWith("conv2d: "));
    CHECK_THAT(conv_error(x, w, {}, {.padding = -1}), StartsWith("conv2d: "));
    CHECK_THAT(conv_error(x, w, {}, {.slope = -0.1f}), StartsWith("conv2d: "));
    CHECK_THAT(conv_error(random_tensor({1, 16, 2, 5}, device, 1), w), StartsWith("conv2d: "));  // smaller than kernel
    CHECK(conv_error(x, w) == "");

    const auto linear_error = [&](const Tensor& rows, const Tensor& weight, const Tensor& bias = {}) {
      return error_of([&] { linear(rows, weight, bias); });
    };
    const Tensor rows = random_tensor({2, 16}, device, 1), matrix = random_tensor({4, 16}, device, 2);
    CHECK_THAT(linear_error(random_tensor({2, 7}, device, 1), matrix), StartsWith("linear: "));
    CHECK_THAT(linear_error(x, matrix), StartsWith("linear: "));
    CHECK_THAT(linear_error(rows, w), StartsWith("linear: "));
    CHECK_THAT(linear_error(Tensor(), matrix), StartsWith("linear: "));
    CHECK_THAT(linear_error(rows, Tensor()), StartsWith("linear: "));
    CHECK_THAT(linear_error(Tensor::empty({0, 16}, device), matrix), StartsWith("linear: "));
    CHECK_THAT(linear_error(rows, matrix, random_tensor({16}, device, 3)), StartsWith("linear: "));
    CHECK(linear_error(rows, matrix) == "");
  }
}
