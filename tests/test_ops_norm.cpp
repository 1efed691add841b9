// Instance norm, ILN and AdaILN against two-pass statistics in double precision.
#include <limits>

#include "core/ops.h"
#include "tests/test_util.h"

using namespace minidl;
using namespace test;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

namespace {

struct Moments {
  double mean, deviation;
};

// Mean and sqrt(variance + eps) of `count` values, in two passes.
Moments moments(const double* values, std::int64_t count, bool unbiased, double eps) {
  double sum = 0, square = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += values[i];
  const double mean = sum / static_cast<double>(count);
  for (std::int64_t i = 0; i < count; ++i) square += (values[i] - mean) * (values[i] - mean);
  return {mean, std::sqrt(square / static_cast<double>(unbiased ? count - 1 : count) + eps)};
}

Values relu_of(Values values) {
  for (double& value : values) value = std::max(value, 0.0);
  return values;
}

Values naive_instance_norm(const Nchw& d, const Values& x, double eps = 1e-5f) {
  Values y(x.size());
  const std::int64_t pixels = d.h * d.w;
  for (std::int64_t plane = 0; plane < d.n * d.c; ++plane) {
    const double* values = x.data() + plane * pixels;
    const Moments m = moments(values, pixels, false, eps);
    for (std::int64_t i = 0; i < pixels; ++i)
      y[static_cast<std::size_t>(plane * pixels + i)] = (values[i] - m.mean) / m.deviation;
  }
  return y;
}

// inputs: x, rho, gamma, beta.
Values naive_layer_instance_norm(const Nchw& d, const std::vector<Values>& inputs, double eps = 1e-5f) {
  const Values &x = inputs[0], &rho = inputs[1], &gamma = inputs[2], &beta = inputs[3];
  const bool per_sample = gamma.size() > rho.size();
  Values y(x.size());
  const std::int64_t pixels = d.h * d.w;
  for (std::int64_t n = 0; n < d.n; ++n) {
    const Moments layer = moments(x.data() + n * d.c * pixels, d.c * pixels, true, eps);
    for (std::int64_t c = 0; c < d.c; ++c) {
      const Moments instance = moments(x.data() + (n * d.c + c) * pixels, pixels, true, eps);
      const auto channel = static_cast<std::size_t>(c), style = static_cast<std::size_t>(per_sample ? n * d.c + c : c);
      for (std::int64_t i = 0; i < pixels; ++i) {
        const auto at = static_cast<std::size_t>((n * d.c + c) * pixels + i);
        const double in = (x[at] - instance.mean) / instance.deviation, ln = (x[at] - layer.mean) / layer.deviation;
        y[at] = gamma[style] * (rho[channel] * in + (1 - rho[channel]) * ln) + beta[style];
      }
    }
  }
  return y;
}

// rho within [0, 1], as the optimiser keeps it.
Tensor random_rho(std::int64_t channels, DeviceType device) {
  std::vector<float> values = normal_values(channels, 5);
  for (float& value : values) value = 1 / (1 + std::exp(-value));
  return Tensor::from_host({1, channels, 1, 1}, values, device);
}

std::vector<Tensor> iln_inputs(const Nchw& d, DeviceType device, bool per_sample, float mean = 0, float deviation = 1) {
  const Shape style = per_sample ? Shape{d.n, d.c} : Shape{1, d.c, 1, 1};
  return {random_tensor(d.shape(), device, 1, mean, deviation), random_rho(d.c, device),
          random_tensor(style, device, 2, 1, 0.5f), random_tensor(style, device, 3)};
}

Tensor iln(const std::vector<Tensor>& in, NormOptions options = {}) {
  return layer_instance_norm(in[0], in[1], in[2], in[3], options);
}

std::vector<Nchw> all_cases() {
  std::vector<Nchw> cases = image_cases();
  for (const Nchw& d : large_image_cases()) cases.push_back(d);
  return cases;
}

const Tolerance kTolerance{.value = 2e-6, .gradient = 2e-5};
// The gradient of rho is the difference of two norms, which are close to each other.
const Tolerance kIlnTolerance{.value = 2e-6, .gradient = 2e-5, .noise = 2e-7};

}  // namespace

TEST_CASE("instance norm equals its definition in every layout", "[norm]") {
  for (const DeviceType device : test_devices())
    for (const Nchw& d : all_cases()) {
      INFO(d.shape());
      check_operation(
          {random_tensor(d.shape(), device, 1, 0.5f, 2)},
          [](const std::vector<Tensor>& in) { return instance_norm(in[0]); },
          [&](const std::vector<Values>& in) { return naive_instance_norm(d, in[0]); }, kTolerance);
    }
}

TEST_CASE("instance norm with ReLU and residual equals its definition", "[norm]") {
  for (const DeviceType device : test_devices())
    for (const Nchw& d : image_cases()) {
      INFO(d.shape());
      const std::vector<Tensor> inputs{random_tensor(d.shape(), device, 1), random_tensor(d.shape(), device, 2)};
      check_operation(
          {inputs[0]}, [](const std::vector<Tensor>& in) { return instance_norm(in[0], {.relu = true}); },
          [&](const std::vector<Values>& in) { return relu_of(naive_instance_norm(d, in[0])); }, kTolerance);
      for (const bool rectify : {false, true})
        check_operation(
            inputs, [&](const std::vector<Tensor>& in) { return instance_norm(in[0], {.relu = rectify}, in[1]); },
            [&](const std::vector<Values>& in) {
              Values y = naive_instance_norm(d, in[0]);
              if (rectify) y = relu_of(y);
              for (std::size_t i = 0; i < y.size(); ++i) y[i] += in[1][i];
              return y;
            },
            kTolerance);
    }
}

TEST_CASE("ILN and AdaILN equal their definition in every layout", "[norm]") {
  for (const DeviceType device : test_devices())
    for (const bool per_sample : {false, true})
      for (const Nchw& d : all_cases()) {
        INFO(d.shape() << (per_sample ? ", AdaILN" : ", ILN"));
        check_operation(
            iln_inputs(d, device, per_sample, 0.5f, 2), [](const std::vector<Tensor>& in) { return iln(in); },
            [&](const std::vector<Values>& in) { return naive_layer_instance_norm(d, in); }, kIlnTolerance);
      }
}

TEST_CASE("ILN and AdaILN with ReLU and residual equal their definition", "[norm]") {
  for (const DeviceType device : test_devices())
    for (const bool per_sample : {false, true})
      for (const Nchw& d : image_cases()) {
        INFO(d.shape() << (per_sample ? ", AdaILN" : ", ILN"));
        std::vector<Tensor> inputs = iln_inputs(d, device, per_sample);
        inputs.push_back(random_tensor(d.shape(), device, 4));
        check_operation(
            inputs,
            [](const std::vector<Tensor>& in) {
              return layer_instance_norm(in[0], in[1], in[2], in[3], {.relu = true}, in[4]);
            },
            [&](const std::vector<Values>& in) {
              Values y = relu_of(naive_layer_instance_norm(d, in));
              for (std::size_t i = 0; i < y.size(); ++i) y[i] += in[4][i];
              return y;
            },
            kIlnTolerance);
      }
}

TEST_CASE("the norms honour eps", "[norm]") {
  const Nchw d{2, 8, 7, 7};
  const double eps = 0.25f;
  for (const DeviceType device : test_devices()) {
    check_operation(
        {random_tensor(d.shape(), device, 1)},
        [&](const std::vector<Tensor>& in) { return instance_norm(in[0], {.eps = 0.25f}); },
        [&](const std::vector<Values>& in) { return naive_instance_norm(d, in[0], eps); }, kTolerance);
    check_operation(
        iln_inputs(d, device, true), [](const std::vector<Tensor>& in) { return iln(in, {.eps = 0.25f}); },
        [&](const std::vector<Values>& in) { return naive_layer_instance_norm(d, in, eps); }, kIlnTolerance);
  }
}

TEST_CASE("instance norm uses the biased variance, ILN the unbiased: worked numbers", "[norm]") {
  for (const DeviceType device : test_devices()) {
    const Tensor x = Tensor::from_host({1, 1, 1, 4}, std::vector<float>{1, 2, 3, 6}, device);  // squares sum to 14
    const Tensor one = Tensor::full({1, 1, 1, 1}, 1, device), zero = Tensor::full({1, 1, 1, 1}, 0, device);
    const double biased = std::sqrt(14.0 / 4 + 1e-5), unbiased = std::sqrt(14.0 / 3 + 1e-5);
    CHECK(relative_error(instance_norm(x).to_host(), Values{-2 / biased, -1 / biased, 0, 3 / biased}) <= 1e-6);
    CHECK(relative_error(iln({x, one, one, zero}).to_host(), Values{-2 / unbiased, -1 / unbiased, 0, 3 / unbiased}) <=
          1e-6);
    // rho 0 is layer norm alone: over both channels the mean is 4, the squares sum to 14 + 14 + 8 * 1.
    const Tensor two = Tensor::from_host({1, 2, 1, 4}, std::vector<float>{1, 2, 3, 6, 3, 4, 5, 8}, device);
    const Tensor ones = Tensor::full({1, 2, 1, 1}, 1, device), zeros = Tensor::full({1, 2, 1, 1}, 0, device);
    const double layer = std::sqrt(36.0 / 7 + 1e-5);
    Values expected;
    for (const double value : {-3, -2, -1, 2, -1, 0, 1, 4}) expected.push_back(value / layer);
    CHECK(relative_error(iln({two, zeros, ones, zeros}).to_host(), expected) <= 1e-6);
  }
}

TEST_CASE("the norms stay accurate far from zero", "[norm]") {
  // The mean itself is rounded to a float, 3e-5 of a standard deviation here; a variance by E[x^2] - E[x]^2 in float
  // would be off by more than 0.1.
  const Tolerance tolerance{.value = 5e-5, .gradient = 1e-4, .noise = 3e-5};
  for (const DeviceType device : test_devices())
    for (const Nchw& d : {Nchw{2, 3, 33, 31}, Nchw{1, 16, 33, 31}, Nchw{2, 8, 65, 48}}) {
      INFO(d.shape());
      check_operation(
          {random_tensor(d.shape(), device, 1, 1000)},
          [](const std::vector<Tensor>& in) { return instance_norm(in[0]); },
          [&](const std::vector<Values>& in) { return naive_instance_norm(d, in[0]); }, tolerance);
      check_operation(
          iln_inputs(d, device, true, 1000), [](const std::vector<Tensor>& in) { return iln(in); },
          [&](const std::vector<Values>& in) { return naive_layer_instance_norm(d, in); }, tolerance);
    }
}

TEST_CASE("ILN with channels of very different means", "[norm]") {
  for (const DeviceType device : test_devices())
    for (const std::int64_t channels : {3, 16}) {
      const Nchw d{2, channels, 17, 9};
      std::vector<Tensor> inputs = iln_inputs(d, device, true);
      std::vector<float> x = inputs[0].to_host();
      for_each(d, [&](auto n, auto c, auto row, auto column) {
        x[d.at(n, c, row, column)] += 10.0f * static_cast<float>(c * (n + 1));
      });
      inputs[0].copy_from_host(x);
      check_operation(
          inputs, [](const std::vector<Tensor>& in) { return iln(in); },
          [&](const std::vector<Values>& in) { return naive_layer_instance_norm(d, in); }, kIlnTolerance);
    }
}

TEST_CASE("a constant channel becomes zero, whatever its value", "[norm]") {
  for (const DeviceType device : test_devices())
    for (const std::int64_t channels : {3, 8, 16}) {
      const Nchw d{2, channels, 7, 7};
      const Tensor x = random_tensor(d.shape(), device, 1);
      std::vector<float> values = x.to_host();
      for_each(d, [&](auto n, auto c, auto row, auto column) {
        if (c % 2 == 1) values[d.at(n, c, row, column)] = 1000.1f * static_cast<float>(c + n);
      });
      x.copy_from_host(values);
      const std::vector<float> y = instance_norm(x).to_host();
      for_each(d, [&](auto n, auto c, auto row, auto column) {
        if (c % 2 == 1) REQUIRE(y[d.at(n, c, row, column)] == 0.0f);
      });
      check_operation(
          {x}, [](const std::vector<Tensor>& in) { return instance_norm(in[0]); },
          [&](const std::vector<Values>& in) { return naive_instance_norm(d, in[0]); }, kTolerance);
    }
  for (const DeviceType device : test_devices()) {  // an image of one colour: only beta is left
    std::vector<Tensor> inputs = iln_inputs({1, 8, 5, 5}, device, false);
    inputs[0] = Tensor::full({1, 8, 5, 5}, -3.3f, device);
    const std::vector<float> y = iln(inputs).to_host(), beta = inputs[3].to_host();
    for (std::size_t i = 0; i < y.size(); ++i) REQUIRE(y[i] == beta[i / 25]);
  }
}

TEST_CASE("instance norm of one pixel is zero and passes no gradient", "[norm]") {
  for (const DeviceType device : test_devices())
    for (const std::int64_t channels : {1, 8}) {
      const Tensor x = leaf(random_tensor({2, channels, 1, 1}, device, 1));
      const Tensor y = instance_norm(x);
      for (const float value : y.to_host()) CHECK(value == 0.0f);
      backward({{y, Tensor::full(y.shape(), 1, device)}});
      // The terms that cancel are of the size of 1 / sqrt(eps) = 316.
      for (const float value : x.grad().to_host()) CHECK(std::abs(value) <= 1e-4f);
    }
}

TEST_CASE("fused ReLU and residual equal the composed operations", "[norm]") {
  for (const DeviceType device : test_devices())
    for (const Nchw& d : image_cases()) {
      INFO(d.shape());
      const std::vector<Tensor> inputs = iln_inputs(d, device, true);
      const Tensor residual = random_tensor(d.shape(), device, 4), cotangent = random_tensor(d.shape(), device, 6);
      const auto run = [&](auto f) {
        std::vector<Tensor> leaves;
        for (const Tensor& input : inputs) leaves.push_back(leaf(input));
        leaves.push_back(leaf(residual));
        const Tensor y = f(leaves);
        backward({{y, cotangent}});
        std::vector<std::vector<float>> results{y.to_host()};
        for (const Tensor& tensor : leaves)
          if (tensor.grad().defined()) results.push_back(tensor.grad().to_host());
        return results;
      };
      using In = const std::vector<Tensor>&;
      const auto compare = [](const auto& fused, const auto& composed) {
        REQUIRE(fused.size() == composed.size());
        for (std::size_t i = 0; i < fused.size(); ++i) CHECK(relative_error(fused[i], composed[i]) <= 1e-6);
      };
      compare(run([](In in) { return iln(in, {.relu = true}); }), run([](In in) { return relu(iln(in)); }));
      compare(run([](In in) { return layer_instance_norm(in[0], in[1], in[2], in[3], {.relu = true}, in[4]); }),
              run([](In in) { return relu(iln(in)) + in[4]; }));
      compare(run([](In in) { return layer_instance_norm(in[0], in[1], in[2], in[3], {}, in[4]); }),
              run([](In in) { return iln(in) + in[4]; }));
      compare(run([](In in) { return instance_norm(in[0], {.relu = true}); }),
              run([](In in) { return relu(instance_norm(in[0])); }));
      compare(run([](In in) { return instance_norm(in[0], {}, in[4]); }),
              run([](In in) { return instance_norm(in[0]) + in[4]; }));
      // The usual residual block adds its own input.
      compare(run([](In in) { return instance_norm(in[0], {}, in[0]); }),
              run([](In in) { return instance_norm(in[0]) + in[0]; }));
    }
}

TEST_CASE("AdaILN styles every sample of a batch for itself", "[norm]") {
  for (const DeviceType device : test_devices())
    for (const std::int64_t channels : {5, 16}) {
      const Nchw d{3, channels, 7, 7};
      const std::vector<Tensor> inputs = iln_inputs(d, device, true);
      const std::vector<float> x = inputs[0].to_host(), gamma = inputs[2].to_host(), beta = inputs[3].to_host();
      const std::vector<float> batch = iln(inputs).to_host();
      for (std::int64_t n = 0; n < d.n; ++n) {
        const auto part = [n](const std::vector<float>& values, const Shape& shape) {
          return std::vector<float>(values.begin() + n * shape.size(), values.begin() + (n + 1) * shape.size());
        };
        const Shape image{1, channels, 7, 7}, style{1, channels};
        const Tensor alone = iln({Tensor::from_host(image, part(x, image), device), inputs[1],
                                  Tensor::from_host(style, part(gamma, style), device),
                                  Tensor::from_host(style, part(beta, style), device)});
        CHECK((alone.to_host() == part(batch, image)));
      }
    }
}

TEST_CASE("the gradients of a style that several norms share add up", "[norm]") {
  for (const DeviceType device : test_devices())
    for (const bool per_sample : {false, true}) {
      const Nchw d{3, 16, 7, 5};
      const std::vector<Tensor> inputs = iln_inputs(d, device, per_sample);
      const Tensor cotangent = random_tensor(d.shape(), device, 9);
      // `apart`: every norm has a style of its own. Results take over gradients, leaves do not.
      const auto style_gradients = [&](bool apart) {
        const Tensor x = inputs[0];
        std::vector<Tensor> leaves;
        const auto style = [&](int i) {
          leaves.push_back(leaf(inputs[static_cast<std::size_t>(i)]));
          return 1.0f * leaves.back();
        };
        Tensor gamma = style(2), beta = style(3), y = iln({x, inputs[1], gamma, beta});
        for (int i = 0; i < 2; ++i) {
          if (apart) gamma = style(2), beta = style(3);
          y = iln({y, inputs[1], gamma, beta});
        }
        backward({{y, cotangent}});
        std::vector<Values> sums(2, Values(static_cast<std::size_t>(inputs[2].size())));
        for (std::size_t i = 0; i < leaves.size(); ++i) {
          const std::vector<float> gradient = leaves[i].grad().to_host();
          for (std::size_t k = 0; k < gradient.size(); ++k) sums[i % 2][k] += gradient[k];
        }
        return sums;
      };
      const auto together = style_gradients(false), apart = style_gradients(true);
      for (std::size_t i = 0; i < 2; ++i) CHECK(relative_error(together[i], apart[i]) <= 1e-6);
    }
}

TEST_CASE("the norms show a NaN, also behind a fused ReLU", "[norm]") {
  for (const DeviceType device : test_devices())
    for (const std::int64_t channels : {1, 8}) {
      std::vector<Tensor> inputs = iln_inputs({1, channels, 4, 4}, device, false);
      std::vector<float> x = inputs[0].to_host();
      x[5] = std::numeric_limits<float>::quiet_NaN();
      inputs[0].copy_from_host(x);
      const NormOptions options{.relu = true};
      for (const Tensor& y :
           {instance_norm(inputs[0]), instance_norm(inputs[0], options), iln(inputs), iln(inputs, options)})
        CHECK(std::isnan(y.to_host()[0]));
    }
}

TEST_CASE("the norm kernels agree on all channel blocks", "[norm]") {
  // Operations only meet the block of the machine that runs them; the kernels know them all.
  Backend& backend = backend_of(DeviceType::cpu);
  const std::int64_t n = 2, c = 32, h = 17, w = 9, size = n * c * h * w;
  const std::vector<float> plain_x = normal_values(size, 1), plain_gy = normal_values(size, 2);
  const std::vector<float> rho(32, 0.3f), gamma = normal_values(n * c, 3), beta = normal_values(n * c, 4);
  std::vector<std::vector<float>> expected;
  for (const std::int64_t block : {1, 8, 16}) {
    const NormSpec spec{{n, c, h, w, block}, 1e-5f, true, true};
    const auto to_image = [&](const std::vector<float>& plain) {
      std::vector<float> image(plain.size());
      backend.plain_to_image(spec.dims, plain.data(), image.data());
      return image;
    };
    const auto to_plain = [&](const std::vector<float>& image) {
      std::vector<float> plain(image.size());
      backend.image_to_plain(spec.dims, image.data(), plain.data());
      return plain;
    };
    const std::vector<float> x = to_image(plain_x), gy = to_image(plain_gy);
    std::vector<float> y(x.size()), gx(x.size()), stats(static_cast<std::size_t>(spec.stats_size()));
    std::vector<float> grho(rho.size()), ggamma(gamma.size()), gbeta(beta.size());
    backend.norm_forward(spec, x.data(), rho.data(), gamma.data(), beta.data(), gy.data(), y.data(), stats.data());
    backend.norm_backward(spec, x.data(), rho.data(), gamma.data(), beta.data(), stats.data(), gy.data(), gx.data(),
                          grho.data(), ggamma.data(), gbeta.data());
    const std::vector<std::vector<float>> results{to_plain(y), to_plain(gx), grho, ggamma, gbeta};
    if (expected.empty()) expected = results;
    // The sums are cut differently, and the gradient of rho is a small difference of large ones.
    for (std::size_t i = 0; i < results.size(); ++i) CHECK(relative_error(results[i], expected[i]) <= 1e-5);
  }
}

TEST_CASE("the norms refuse what does not fit, by name", "[norm]") {
  for (const DeviceType device : test_devices()) {
    const Nchw d{2, 16, 5, 5};
    const auto in = iln_inputs(d, device, true);
    const auto norm_error = [](const Tensor& x, const Tensor& residual = {}) {
      return error_of([&] { instance_norm(x, {}, residual); });
    };
    CHECK_THAT(norm_error(Tensor()), StartsWith("instance_norm: "));
    CHECK_THAT(norm_error(random_tensor({16, 5, 5}, device, 1)), StartsWith("instance_norm: "));
    CHECK_THAT(norm_error(random_plain(d.shape(), device, 1)), StartsWith("instance_norm: "));
    CHECK_THAT(norm_error(Tensor::empty({2, 16, 0, 5}, device)), StartsWith("instance_norm: "));
    CHECK_THAT(norm_error(in[0], random_tensor({1, 16, 5, 5}, device, 1)), StartsWith("instance_norm: "));
    CHECK_THAT(norm_error(in[0], random_plain(d.shape(), device, 1)), StartsWith("instance_norm: "));

    const auto iln_error = [&](std::size_t which, const Tensor& wrong) {
      std::vector<Tensor> inputs = in;
      inputs[which] = wrong;
      return error_of([&] { iln(inputs); });
    };
    const std::string name = "layer_instance_norm: ";
    CHECK_THAT(iln_error(0, Tensor()), StartsWith(name));
    CHECK_THAT(iln_error(0, random_plain(d.shape(), device, 1)), StartsWith(name));
    CHECK_THAT(iln_error(0, random_tensor({2, 16, 1, 1}, device, 1)), StartsWith(name) && Contains("pixel"));
    CHECK_THAT(iln_error(1, random_tensor({1, 7, 1, 1}, device, 1)), StartsWith(name) && Contains("rho"));
    CHECK_THAT(iln_error(2, random_tensor({1, 16}, device, 1)), StartsWith(name) && Contains("differ"));
    CHECK_THAT(iln_error(3, random_tensor({2, 7}, device, 1)), StartsWith(name) && Contains("differ"));
    const Tensor three = random_tensor({3, 16}, device, 1);  // styles for another batch
    CHECK_THAT(error_of([&] { iln({in[0], in[1], three, three}); }), StartsWith(name) && Contains("gamma"));
    CHECK_THAT(error_of([&] { layer_instance_norm(in[0], in[1], in[2], in[3], {}, three); }), StartsWith(name));
    // With one channel an undefined parameter has the right number of elements.
    const Tensor grey = random_tensor({1, 1, 5, 5}, device, 1), one = Tensor::full({1}, 1, device);
    CHECK_THAT(error_of([&] { layer_instance_norm(grey, {}, one, one); }), StartsWith(name));
    CHECK_THAT(error_of([&] { layer_instance_norm(grey, one, {}, {}); }), StartsWith(name));
  }
}
