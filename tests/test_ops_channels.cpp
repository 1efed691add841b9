// Pooling, concatenation, channel scaling and sums, spectral norm.
#include <limits>
#include <numeric>

#include "core/ops.h"
#include "tests/test_util.h"

using namespace minidl;
using namespace test;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

namespace {

using In = const std::vector<Tensor>&;
using Numbers = const std::vector<Values>&;

std::vector<Nchw> cases_with_single_pixels() {
  std::vector<Nchw> cases = image_cases();
  for (const Nchw& d : large_image_cases()) cases.push_back(d);
  for (const std::int64_t channels : {1, 3, 8, 32}) cases.push_back({2, channels, 1, 1});
  return cases;
}

// The halves of what global_mean_max gives, [N, C] each.
Tensor half(const Tensor& pooled, std::int64_t which) {
  const Tensor part = slice_samples(pooled, which, 1);
  const Shape shape = pooled.shape();
  return record("half", part.viewed_as({shape[1], shape[2]}), {part}, [shape](const Tensor& gy, const Needs&) -> Grads {
    return {gy.viewed_as({1, shape[1], shape[2]})};
  });
}
Tensor mean_part(const Tensor& pooled) { return half(pooled, 0); }
Tensor max_part(const Tensor& pooled) { return half(pooled, 1); }

// The mean or maximum over the pixels of each channel.
Values naive_pool(const Nchw& d, const Values& x, bool max) {
  Values y;
  const std::int64_t pixels = d.h * d.w;
  for (std::int64_t plane = 0; plane < d.n * d.c; ++plane) {
    const auto first = x.begin() + plane * pixels;
    double sum = 0;
    for (auto value = first; value != first + pixels; ++value) sum += *value;
    y.push_back(max ? *std::max_element(first, first + pixels) : sum / static_cast<double>(pixels));
  }
  return y;
}

Values naive_concat(const Nchw& a, const Nchw& b, Numbers in) {
  const Nchw out{a.n, a.c + b.c, a.h, a.w};
  Values y(static_cast<std::size_t>(out.size()));
  for_each(out, [&](auto n, auto c, auto row, auto column) {
    y[out.at(n, c, row, column)] = c < a.c ? in[0][a.at(n, c, row, column)] : in[1][b.at(n, c - a.c, row, column)];
  });
  return y;
}

struct PowerIteration {
  Values u, v;
  double sigma;
};

// One power iteration on w (rows of v.size() values) from u.
PowerIteration naive_power_iteration(const Values& w, Values u, std::size_t cols) {
  const auto normalised = [](Values values) {
    const double length = std::sqrt(dot(values, values));
    for (double& value : values) value /= length;
    return values;
  };
  const std::size_t rows = u.size();
  Values v(cols), wv(rows);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < cols; ++c) v[c] += w[r * cols + c] * u[r];
  v = normalised(v);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < cols; ++c) wv[r] += w[r * cols + c] * v[c];
  u = normalised(wv);
  return {u, v, dot(u, wv)};
}

double bilinear(const Values& u, const Values& w, const Values& v) {
  double sum = 0;
  for (std::size_t r = 0; r < u.size(); ++r)
    for (std::size_t c = 0; c < v.size(); ++c) sum += u[r] * w[r * v.size() + c] * v[c];
  return sum;
}

Values doubles(const Tensor& x) {
  const std::vector<float> host = x.to_host();
  return {host.begin(), host.end()};
}

}  // namespace

TEST_CASE("global pooling equals its definition in every layout", "[channels]") {
  for (const DeviceType device : test_devices())
    for (const Nchw& d : cases_with_single_pixels()) {
      INFO(d.shape());
      const std::vector<Tensor> x{random_tensor(d.shape(), device, 1, 0.3f)};
      const auto mean_of = [&](Numbers in) { return naive_pool(d, in[0], false); };
      check_operation(
          x, [](In in) { return global_mean(in[0]); }, mean_of);
      check_operation(
          x, [](In in) { return mean_part(global_mean_max(in[0])); }, mean_of);
      check_operation(
          x, [](In in) { return max_part(global_mean_max(in[0])); },
          [&](Numbers in) { return naive_pool(d, in[0], true); });
      check_operation(
          x, [](In in) { return global_mean_max(in[0]); },
          [&](Numbers in) {
            Values both = naive_pool(d, in[0], false);
            const Values max = naive_pool(d, in[0], true);
            both.insert(both.end(), max.begin(), max.end());
            return both;
          });
      // Both kinds of pooling of one image, and the image itself: gradients that meet.
      check_operation(
          {x[0]},
          [](In in) {
            const Tensor twice = 2.0f * in[0];
            return concat(max_part(global_mean_max(twice)), global_mean(twice)) +
                   concat(global_mean(twice), mean_part(global_mean_max(twice)));
          },
          [&](Numbers in) {
            const Values mean = naive_pool(d, in[0], false), max = naive_pool(d, in[0], true);
            Values first(mean), second(mean);
            for (std::size_t i = 0; i < mean.size(); ++i) first[i] = 2 * (max[i] + mean[i]), second[i] = 4 * mean[i];
            return naive_concat({d.n, d.c, 1, 1}, {d.n, d.c, 1, 1}, {first, second});
          });
    }
}

TEST_CASE("the gradient of the maximum goes to its first position", "[channels]") {
  for (const DeviceType device : test_devices())
    for (const std::int64_t channels : {1, 3, 8, 16}) {
      const Nchw d{2, channels, 3, 4};
      std::vector<float> values(static_cast<std::size_t>(d.size()), -5.0f), expected(values.size());
      for (std::int64_t n = 0; n < d.n; ++n)
        for (std::int64_t c = 0; c < d.c; ++c) {  // twice the maximum, first at pixel (c + n) % 11
          const std::int64_t first = (c + n) % 11;
          values[d.at(n, c, first / 4, first % 4)] = -1;
          values[d.at(n, c, 2, 3)] = -1;
          expected[d.at(n, c, first / 4, first % 4)] = static_cast<float>(n * d.c + c + 1);
        }
      const Tensor x = leaf(Tensor::from_host(d.shape(), values, device));
      const Tensor max = max_part(global_mean_max(x));
      std::vector<float> cotangent;
      for (std::int64_t i = 0; i < max.size(); ++i) cotangent.push_back(static_cast<float>(i + 1));
      backward({{max, Tensor::from_host(max.shape(), cotangent, device)}});
      CHECK(x.grad().to_host() == expected);
    }
}

TEST_CASE("a NaN survives pooling, wherever it is", "[channels]") {
  for (const DeviceType device : test_devices())
    for (const std::int64_t channels : {1, 8})
      for (const std::int64_t where : {0, 4, 8}) {
        const Nchw d{1, channels, 3, 3};
        std::vector<float> values = normal_values(d.size(), 1);
        values[d.at(0, channels - 1, where / 3, where % 3)] = std::numeric_limits<float>::quiet_NaN();
        const Tensor pooled = global_mean_max(Tensor::from_host(d.shape(), values, device));
        CHECK(std::isnan(mean_part(pooled).to_host().back()));
        CHECK(std::isnan(max_part(pooled).to_host().back()));
        if (channels > 1) CHECK_FALSE(std::isnan(max_part(pooled).to_host().front()));
      }
}

TEST_CASE("the maximum of very negative values is not zero", "[channels]") {
  for (const DeviceType device : test_devices()) {
    const float lowest = -std::numeric_limits<float>::infinity();
    const auto max_of = [](const Tensor& x) { return max_part(global_mean_max(x)).to_host(); };
    CHECK(max_of(Tensor::full({1, 8, 3, 3}, -7, device)) == std::vector<float>(8, -7.0f));
    CHECK(max_of(Tensor::full({1, 3, 3, 3}, lowest, device)) == std::vector<float>(3, lowest));
  }
}

TEST_CASE("concat equals its definition, blocks or not", "[channels]") {
  for (const DeviceType device : test_devices()) {
    for (const auto& [first, second] : std::vector<std::pair<std::int64_t, std::int64_t>>{
             {3, 5}, {8, 8}, {16, 3}, {3, 16}, {16, 16}, {1, 1}, {8, 16}, {5, 11}, {24, 8}})
      for (const std::int64_t batch : {1, 3}) {
        const Nchw a{batch, first, 5, 7}, b{batch, second, 5, 7};
        INFO(a.shape() << " and " << b.shape());
        check_operation(
            {random_tensor(a.shape(), device, 1), random_tensor(b.shape(), device, 2)},
            [](In in) { return concat(in[0], in[1]); }, [&](Numbers in) { return naive_concat(a, b, in); });
      }
    for (const std::int64_t columns : {1, 8, 13}) {
      const Nchw a{2, columns, 1, 1}, b{2, 8, 1, 1};
      check_operation(
          {random_tensor({2, columns}, device, 1), random_tensor({2, 8}, device, 2)},
          [](In in) { return concat(in[0], in[1]); }, [&](Numbers in) { return naive_concat(a, b, in); });
    }
  }
}

TEST_CASE("scale_channels and sum_channels equal their definition in every layout", "[channels]") {
  for (const DeviceType device : test_devices())
    for (const Nchw& d : cases_with_single_pixels()) {
      INFO(d.shape());
      const Tensor x = random_tensor(d.shape(), device, 1);
      for (const Shape& factors : {Shape{d.c}, Shape{1, d.c}, Shape{1, d.c, 1, 1}})
        check_operation(
            {x, random_tensor(factors, device, 2)}, [](In in) { return scale_channels(in[0], in[1]); },
            [&](Numbers in) {
              Values y(in[0].size());
              for_each(d, [&](auto n, auto c, auto row, auto column) {
                const std::size_t at = d.at(n, c, row, column);
                y[at] = in[0][at] * in[1][static_cast<std::size_t>(c)];
              });
              return y;
            });
      check_operation(
          {x}, [](In in) { return sum_channels(in[0]); },
          [&](Numbers in) {
            const Nchw out{d.n, 1, d.h, d.w};
            Values y(static_cast<std::size_t>(out.size()));
            for_each(d, [&](auto n, auto c, auto row, auto column) {
              y[out.at(n, 0, row, column)] += in[0][d.at(n, c, row, column)];
            });
            return y;
          });
    }
}

TEST_CASE("channels scaled by two vectors at once equal two scaled images side by side", "[channels]") {
  for (const DeviceType device : test_devices())
    for (const Nchw& d : cases_with_single_pixels()) {
      INFO(d.shape());
      check_operation(
          {random_tensor(d.shape(), device, 1), random_tensor({d.c}, device, 2), random_tensor({1, d.c}, device, 3)},
          [](In in) { return scale_channels(in[0], in[1], in[2]); },
          [&](Numbers in) {
            const Nchw out{d.n, 2 * d.c, d.h, d.w};
            Values y(static_cast<std::size_t>(out.size()));
            for_each(out, [&](auto n, auto c, auto row, auto column) {
              y[out.at(n, c, row, column)] =
                  in[0][d.at(n, c % d.c, row, column)] * in[c < d.c ? 1 : 2][static_cast<std::size_t>(c % d.c)];
            });
            return y;
          });
    }
}

TEST_CASE("gradients that meet in an image are added by whoever comes later", "[channels]") {
  for (const DeviceType device : test_devices())
    for (const Nchw& d : {Nchw{1, 5, 4, 6}, Nchw{2, 16, 7, 5}, Nchw{3, 24, 3, 3}}) {
      INFO(d.shape());
      check_operation(
          {random_tensor(d.shape(), device, 1), random_tensor({d.c}, device, 2), random_tensor({d.c}, device, 3)},
          [&](In in) {
            const Tensor x = 3.0f * in[0];  // a result, where gradients may be taken over
            const Tensor scaled = scale_channels(x, in[1], in[2]), padded = reflection_pad2d(x, 1);
            const Tensor pooled = global_mean_max(x);
            return concat(concat(global_mean(scaled), global_mean(padded)),
                          concat(global_mean(x), concat(mean_part(pooled), max_part(pooled))));
          },
          [&](Numbers in) {
            Values x = in[0], padded;
            for (double& value : x) value *= 3;
            const Nchw pad{d.n, d.c, d.h + 2, d.w + 2};
            padded.resize(static_cast<std::size_t>(pad.size()));
            const auto mirror = [](std::int64_t i, std::int64_t size) {
              return i < 0 ? -i : i >= size ? 2 * (size - 1) - i : i;
            };
            for_each(pad, [&](auto n, auto c, auto row, auto column) {
              padded[pad.at(n, c, row, column)] = x[d.at(n, c, mirror(row - 1, d.h), mirror(column - 1, d.w))];
            });
            const Values mean = naive_pool(d, x, false), max = naive_pool(d, x, true),
                         outer = naive_pool(pad, padded, false);
            Values y;
            for (std::int64_t n = 0; n < d.n; ++n) {
              const auto put = [&](const Values& values, const Values* factors) {
                for (std::int64_t c = 0; c < d.c; ++c)
                  y.push_back(values[static_cast<std::size_t>(n * d.c + c)] *
                              (factors ? (*factors)[static_cast<std::size_t>(c)] : 1));
              };
              put(mean, &in[1]), put(mean, &in[2]), put(outer, nullptr), put(mean, nullptr), put(mean, nullptr),
                  put(max, nullptr);
            }
            return y;
          });
    }
}

TEST_CASE("the logits of a class activation map equal their definition", "[channels]") {
  for (const DeviceType device : test_devices())
    for (const auto& [n, c] : std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 1}, {2, 3}, {3, 257}, {4, 2048}}) {
      INFO(n << " samples, " << c << " channels");
      check_operation(
          {random_tensor({2, n, c}, device, 1), random_tensor({1, c}, device, 2), random_tensor({1, c}, device, 3)},
          [](In in) {
            const CamWeight weights[] = {{in[1]}, {in[2]}};
            return cam_logits(in[0], weights);
          },
          [&](Numbers in) {
            Values y;
            for (std::int64_t sample = 0; sample < n; ++sample)
              for (std::int64_t part = 0; part < 2; ++part) {
                const auto row = in[0].begin() + (part * n + sample) * c;
                y.push_back(std::inner_product(row, row + c, in[static_cast<std::size_t>(part + 1)].begin(), 0.0));
              }
            return y;
          });
    }
}

TEST_CASE("channel operations refuse what does not fit, by name", "[channels]") {
  for (const DeviceType device : test_devices()) {
    const Tensor x = random_tensor({2, 16, 3, 5}, device, 1);
    for (const Tensor& wrong : {random_plain({2, 16, 3, 5}, device, 1), random_tensor({2, 16}, device, 1),
                                Tensor::empty({0, 16, 3, 5}, device), Tensor()}) {
      CHECK_THAT(error_of([&] { global_mean(wrong); }), StartsWith("global_mean: "));
      CHECK_THAT(error_of([&] { global_mean_max(wrong); }), StartsWith("global_mean_max: "));
      CHECK_THAT(error_of([&] { scale_channels(wrong, Tensor::full({16}, 1, device)); }),
                 StartsWith("scale_channels: "));
      CHECK_THAT(error_of([&] { sum_channels(wrong); }), StartsWith("sum_channels: "));
      CHECK_THAT(error_of([&] { concat(wrong, x); }), StartsWith("concat: "));
      CHECK_THAT(error_of([&] { concat(x, wrong); }), StartsWith("concat: "));
    }
    CHECK_THAT(error_of([&] { scale_channels(x, Tensor::full({7}, 1, device)); }), StartsWith("scale_channels: "));
    CHECK_THAT(error_of([&] { scale_channels(x, {}); }), StartsWith("scale_channels: "));
    for (const Shape& shape : {Shape{1, 16, 3, 5}, Shape{2, 16, 4, 5}, Shape{2, 16, 3, 4}})
      CHECK_THAT(error_of([&] { concat(x, random_tensor(shape, device, 2)); }),
                 StartsWith("concat: ") && Contains("[2, 16, 3, 5]"));
    CHECK_THAT(error_of([&] {
                 concat(Tensor::full({2, 3}, 1, device), Tensor::full({1, 3}, 1, device));
               }),
               StartsWith("concat: "));
  }
}

TEST_CASE("spectral norm does one power iteration", "[spectral]") {
  for (const DeviceType device : test_devices())
    for (const Shape& shape : {Shape{1, 1}, Shape{5, 3}, Shape{1, 40}, Shape{64, 3, 4, 4}, Shape{16, 130, 3, 3}}) {
      INFO(shape);
      const Tensor w = random_plain(shape, device, 1);
      const std::int64_t rows = shape[0], cols = shape.size() / rows;
      Buffer u = unit_vector(rows, device, 2), v = unit_vector(cols, device, 3);
      PowerIteration expected{doubles(u.tensor()), {}, 0};
      for (int iteration = 0; iteration < 3; ++iteration) {
        const Tensor normalised = spectral_norm(w, u, v, true);
        expected = naive_power_iteration(doubles(w), expected.u, static_cast<std::size_t>(cols));
        Values divided = doubles(w);
        for (double& value : divided) value /= expected.sigma;
        CHECK(relative_error(u.tensor().to_host(), expected.u) <= 2e-6);
        CHECK(relative_error(v.tensor().to_host(), expected.v) <= 2e-6);
        CHECK(normalised.shape() == shape);
        CHECK(relative_error(normalised.to_host(), divided) <= 2e-6);
      }
    }
}

TEST_CASE("spectral norm without iteration leaves u and v alone", "[spectral]") {
  for (const DeviceType device : test_devices()) {
    const Tensor w = random_plain({6, 4, 3, 3}, device, 1);
    Buffer u = unit_vector(6, device, 2), v = unit_vector(36, device, 3);
    const std::vector<float> u_before = u.tensor().to_host(), v_before = v.tensor().to_host();
    const Tensor normalised = spectral_norm(w, u, v, false);
    CHECK(same_bits(u.tensor().to_host(), u_before));
    CHECK(same_bits(v.tensor().to_host(), v_before));
    Values expected = doubles(w);
    const double sigma = bilinear(doubles(u.tensor()), expected, doubles(v.tensor()));
    for (double& value : expected) value /= sigma;
    CHECK(relative_error(normalised.to_host(), expected) <= 1e-5);  // u, v are random here: sigma's terms cancel
  }
}

TEST_CASE("the gradient of spectral norm holds u and v constant", "[spectral]") {
  for (const DeviceType device : test_devices())
    for (const Shape& shape : {Shape{5, 3}, Shape{8, 70, 3, 3}, Shape{1, 16, 4, 4}}) {
      INFO(shape);
      const Tensor w = random_plain(shape, device, 1);
      Buffer u = unit_vector(shape[0], device, 2), v = unit_vector(shape.size() / shape[0], device, 3);
      for (int i = 0; i < 3; ++i) spectral_norm(w, u, v, true);
      const Values uu = doubles(u.tensor()), vv = doubles(v.tensor());
      check_operation(
          {w}, [&](In in) { return spectral_norm(in[0], u, v, false); },
          [&](Numbers in) {
            Values y = in[0];
            const double sigma = bilinear(uu, in[0], vv);
            for (double& value : y) value /= sigma;
            return y;
          });
    }
}

TEST_CASE("two forward passes through spectral norm each keep their own u and v for backward", "[spectral]") {
  for (const DeviceType device : test_devices()) {
    const Tensor values = random_plain({5, 4, 3, 3}, device, 1), c1 = random_plain({5, 4, 3, 3}, device, 4),
                 c2 = random_plain({5, 4, 3, 3}, device, 5);
    // Apart: backward directly after each forward.
    Buffer u = unit_vector(5, device, 2), v = unit_vector(36, device, 3);
    const Tensor first = leaf(values), second = leaf(values);
    backward({{spectral_norm(first, u, v, true), c1}});
    const Tensor u_after_one = u.tensor();
    const std::vector<float> u1 = u_after_one.to_host();
    backward({{spectral_norm(second, u, v, true), c2}});
    CHECK(u.tensor().data() == u_after_one.data());  // renewed in place
    CHECK_FALSE((u.tensor().to_host() == u1));
    // Together: both forwards, then one backward.
    Buffer u2 = unit_vector(5, device, 2), v2 = unit_vector(36, device, 3);
    const Tensor both = leaf(values);
    const Tensor y1 = spectral_norm(both, u2, v2, true), y2 = spectral_norm(both, u2, v2, true);
    backward({{y1, c1}, {y2, c2}});
    CHECK(relative_error(both.grad().to_host(), doubles(first.grad() + second.grad())) <= 1e-6);
  }
}

TEST_CASE("spectral norm divides a rank-one matrix by its only singular value", "[spectral]") {
  for (const DeviceType device : test_devices()) {
    const Values a = doubles(unit_vector(7, device, 1).tensor()), b = doubles(unit_vector(20, device, 2).tensor());
    std::vector<float> w;
    Values expected;
    for (const double left : a)
      for (const double right : b) {
        expected.push_back(left * right);
        w.push_back(static_cast<float>(12.5 * left * right));
      }
    Buffer u = unit_vector(7, device, 3), v = unit_vector(20, device, 4);
    const Tensor normalised = spectral_norm(Tensor::plain_from_host({7, 20}, w, device), u, v, true);
    CHECK(relative_error(normalised.to_host(), expected) <= 1e-6);
  }
}

TEST_CASE("spectral norm refuses what does not fit, by name", "[spectral]") {
  for (const DeviceType device : test_devices()) {
    Buffer u = unit_vector(16, device, 1), v = unit_vector(144, device, 2), none;
    const auto message = [](const Tensor& w, Buffer& left, Buffer& right) {
      return error_of([&] { spectral_norm(w, left, right, true); });
    };
    const Tensor w = random_plain({16, 16, 3, 3}, device, 3);
    CHECK(message(w, u, v) == "");
    CHECK_THAT(message(w, v, u), StartsWith("spectral_norm: "));
    CHECK_THAT(message(w, none, v), StartsWith("spectral_norm: "));
    CHECK_THAT(message(Tensor(), u, v), StartsWith("spectral_norm: "));
    CHECK_THAT(message(Tensor::full({16}, 1, device), u, v), StartsWith("spectral_norm: "));
    CHECK_THAT(message(Tensor::empty_plain({0, 3}, device), u, v), StartsWith("spectral_norm: "));
    CHECK_THAT(message(random_tensor({16, 16, 3, 3}, device, 3), u, v), StartsWith("spectral_norm: "));
  }
}
