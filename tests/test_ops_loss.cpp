// Losses and their gradients, each by itself and many at once.
#include <limits>

#include "core/ops.h"
#include "tests/test_util.h"

using namespace minidl;
using namespace test;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

namespace {

using In = const std::vector<Tensor>&;
using Numbers = const std::vector<Values>&;

// The mean over i of f(i), as the one value of a tensor. Extended precision, because the differences of many terms'
// sums are to be better than their gradients' tolerance.
template <class F>
Values mean_over(std::size_t size, F f) {
  long double sum = 0;
  for (std::size_t i = 0; i < size; ++i) sum += f(i);
  return {static_cast<double>(sum / static_cast<long double>(size))};
}

// Binary cross entropy of a logit in the usual stable form.
double naive_bce(double x, double t) { return std::max(x, 0.0) - t * x + std::log1p(std::exp(-std::abs(x))); }

Values doubles(const Tensor& x) {
  const std::vector<float> host = x.to_host();
  return {host.begin(), host.end()};
}

}  // namespace

TEST_CASE("losses equal their definition", "[loss]") {
  for (const DeviceType device : test_devices())
    for (const Shape& shape :
         {Shape{1}, Shape{7}, Shape{3, 5}, Shape{2, 3, 33, 31}, Shape{2, 16, 17, 9}, Shape{70001}}) {
      INFO(shape);
      const Tensor x = random_tensor(shape, device, 1, 0.2f, 2), target = random_tensor(shape, device, 2);
      const Values t = doubles(target);
      const Tolerance tolerance{.value = 3e-7, .gradient = 2e-6};
      check_operation(
          {x}, [](In in) { return mean(in[0]); },
          [](Numbers in) { return mean_over(in[0].size(), [&](auto i) { return in[0][i]; }); },
          {.value = 3e-6, .gradient = 2e-6});  // its terms cancel
      check_operation(
          {x}, [](In in) { return l1_loss(in[0], random_tensor(in[0].shape(), in[0].device(), 2)); },
          [&](Numbers in) { return mean_over(in[0].size(), [&](auto i) { return std::abs(in[0][i] - t[i]); }); },
          tolerance);
      for (const float goal : {0.0f, 1.0f}) {
        check_operation(
            {x}, [&](In in) { return mse_loss(in[0], goal); },
            [&](Numbers in) {
              return mean_over(in[0].size(), [&](auto i) { return (in[0][i] - goal) * (in[0][i] - goal); });
            },
            tolerance);
        check_operation(
            {x}, [&](In in) { return bce_with_logits_loss(in[0], goal); },
            [&](Numbers in) { return mean_over(in[0].size(), [&](auto i) { return naive_bce(in[0][i], goal); }); },
            tolerance);
      }
    }
}

TEST_CASE("losses: worked numbers", "[loss]") {
  for (const DeviceType device : test_devices()) {
    const auto vector = [&](std::vector<float> values) {
      return Tensor::from_host({static_cast<std::int64_t>(values.size())}, values, device);
    };
    CHECK(mean(vector({1, 2, 6})).item() == 3.0f);
    CHECK(mse_loss(vector({1, -1, 3}), 1).item() == Approx(8.0 / 3).epsilon(2e-7));
    CHECK(l1_loss(vector({1, -1, 3}), vector({1, 1, 0.5f})).item() == 1.5f);
    const auto bce = [&](float logit, float target) { return bce_with_logits_loss(vector({logit}), target).item(); };
    CHECK(bce(0.5f, 1) == Approx(0.474076986).epsilon(2.5e-7));
    CHECK(bce(0.5f, 0) == Approx(0.974076986).epsilon(2.5e-7));
    CHECK(bce(-2, 1) == Approx(2.12692809).epsilon(2.5e-7));
    // Quantised for large logits, and exactly zero in the end: log(1 + exp(-x)) with 1 + exp(-x) rounded.
    CHECK(bce(10, 1) == std::log(1.0f + std::exp(-10.0f)));
    CHECK(bce(17.5f, 1) == 0.0f);
    CHECK(bce(100, 1) == 0.0f);
    CHECK(bce(-100, 1) == 100.0f);
    CHECK(bce(100, 0) == 100.0f);
    CHECK(bce(-100, 0) == 0.0f);
    CHECK(bce(1e30f, 0) == 1e30f);
    CHECK(std::isnan(bce(std::numeric_limits<float>::quiet_NaN(), 1)));
  }
}

TEST_CASE("the gradients of the losses are the reference's to the bit", "[loss]") {
  for (const DeviceType device : test_devices())
    for (const std::int64_t size : {1, 3, 1000, 40001}) {
      const float n = static_cast<float>(size), gy = 10;
      std::vector<float> x = normal_values(size, 1, 0, 3), target = normal_values(size, 2);
      for (std::size_t i = 0; i < x.size(); i += 5) target[i] = x[i];  // l1 at its kink
      const auto gradient = [&](auto loss) {
        const Tensor input = leaf(Tensor::from_host({size}, x, device));
        (gy * loss(input)).backward();
        return input.grad().to_host();
      };
      std::vector<float> mse(x.size()), l1(x.size()), bce(x.size());
      for (std::size_t i = 0; i < x.size(); ++i) {
        mse[i] = static_cast<float>(2.0 / static_cast<double>(size)) * (x[i] - 0.9f) * gy;
        l1[i] = gy / n * (x[i] > target[i] ? 1.0f : x[i] < target[i] ? -1.0f : 0.0f);
        bce[i] = (1.0f / (1.0f + std::exp(-x[i])) - 0.9f) * gy / n;
      }
      CHECK(same_bits(gradient([](const Tensor& t) { return mse_loss(t, 0.9f); }), mse));
      const Tensor goal = Tensor::from_host({size}, target, device);
      CHECK(gradient([&](const Tensor& t) { return l1_loss(t, goal); }) == l1);
      const std::vector<float> logit_gradient = gradient([](const Tensor& t) { return bce_with_logits_loss(t, 0.9f); });
      if (device == DeviceType::cpu) CHECK(same_bits(logit_gradient, bce));  // given the same exp
      CHECK(relative_error(logit_gradient, bce) <= 1e-6);
      CHECK(gradient([](const Tensor& t) { return mean(t); }) == std::vector<float>(x.size(), gy / n));
    }
}

TEST_CASE("the target of l1_loss gets no gradient", "[loss]") {
  for (const DeviceType device : test_devices()) {
    const Tensor x = leaf(random_tensor({2, 3}, device, 1)), target = leaf(random_tensor({2, 3}, device, 2));
    l1_loss(x, target).backward();
    CHECK(x.grad().defined());
    CHECK_FALSE(target.grad().defined());
  }
}

TEST_CASE("costs evaluated together have the values and gradients of the losses, to the bit", "[loss]") {
  for (const DeviceType device : test_devices()) {
    const Tensor image = leaf(random_tensor({3, 5, 7, 9}, device, 1)), logits = leaf(random_tensor({4, 2}, device, 2)),
                 constant = random_tensor({2, 3}, device, 3), goal = random_tensor({2, 5, 7, 9}, device, 4);
    const Tensor values = Tensor::full({6}, -1, device);
    const std::vector<Cost> costs{{.loss = Loss::l1, .x = image, .begin = 1, .count = 2, .targets = goal, .weight = 10},
                                  {.loss = Loss::bce, .x = logits, .begin = 3, .target = 1, .weight = 1000},
                                  {.loss = Loss::mse, .x = logits, .begin = 0, .count = 2, .target = 0.5f, .weight = 3},
                                  {.loss = Loss::mean, .x = constant}};
    backward(evaluate_costs(costs, values, 1));
    const std::vector<float> image_gradient = image.grad().to_host(), logit_gradient = logits.grad().to_host();
    image.zero_grad(), logits.zero_grad();

    const Tensor l1 = l1_loss(slice_samples(image, 1, 2), goal),
                 bce = bce_with_logits_loss(slice_samples(logits, 3, 1), 1),
                 mse = mse_loss(slice_samples(logits, 0, 2), 0.5f);
    (10.0f * l1).backward();
    (1000.0f * bce + 3.0f * mse).backward();
    CHECK(values.to_host() == std::vector<float>{-1, l1.item(), bce.item(), mse.item(), mean(constant).item(), -1});
    CHECK(image_gradient == image.grad().to_host());
    CHECK(logit_gradient == logits.grad().to_host());
  }
}

TEST_CASE("costs refuse what does not fit, by name", "[loss]") {
  for (const DeviceType device : test_devices()) {
    const Tensor x = random_tensor({3, 2}, device, 1), values = Tensor::full({2}, 0, device);
    const auto error = [&](std::vector<Cost> costs, std::int64_t first = 0) {
      return error_of([&] { evaluate_costs(costs, values, first); });
    };
    const Cost good{.loss = Loss::mse, .x = x};
    CHECK(error({good}, 1).empty());
    CHECK_THAT(error({good}, 2), StartsWith("evaluate_costs: ") && Contains("no room"));
    CHECK_THAT(error({good, good}), Contains("same samples"));
    CHECK_THAT(error({{.loss = Loss::mse, .x = x, .begin = 2, .count = 2}}), Contains("no samples 2 to 3"));
    CHECK_THAT(error({{.loss = Loss::mse, .x = {}}}), StartsWith("evaluate_costs: "));
    CHECK_THAT(error({{.loss = Loss::l1, .x = x}}), Contains("target"));
    CHECK_THAT(error({{.loss = Loss::l1, .x = x, .count = 2, .targets = x}}), Contains("do not fit"));
  }
}

TEST_CASE("losses refuse what does not fit, by name", "[loss]") {
  for (const DeviceType device : test_devices()) {
    const Tensor x = random_tensor({2, 16, 3, 3}, device, 1);
    for (const Tensor& wrong : {Tensor(), Tensor::empty({0, 3}, device)}) {
      CHECK_THAT(error_of([&] { mean(wrong); }), StartsWith("mean: "));
      CHECK_THAT(error_of([&] { mse_loss(wrong, 0); }), StartsWith("mse_loss: "));
      CHECK_THAT(error_of([&] { l1_loss(wrong, wrong); }), StartsWith("l1_loss: "));
      CHECK_THAT(error_of([&] { bce_with_logits_loss(wrong, 0); }), StartsWith("bce_with_logits_loss: "));
    }
    CHECK_THAT(error_of([&] { l1_loss(x, random_tensor({2, 16, 3, 4}, device, 1)); }), StartsWith("l1_loss: "));
    CHECK_THAT(error_of([&] { l1_loss(x, random_plain({2, 16, 3, 3}, device, 1)); }), StartsWith("l1_loss: "));
  }
}
