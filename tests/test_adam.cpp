// Adam to the bit of the reference: worked numbers, and a scalar reimplementation over many steps.
#include <algorithm>
#include <limits>

#include "core/adam.h"
#include "tests/test_util.h"

using namespace minidl;
using namespace test;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

namespace {

// The settings that U-GAT-IT trains with.
const AdamOptions kOptions{.lr = 1e-4, .beta1 = 0.5, .beta2 = 0.999, .weight_decay = 1e-4};

void set_gradient(Parameter& parameter, const std::vector<float>& values) {
  parameter.tensor().zero_grad();
  const Tensor gradient = empty_like(parameter.tensor());
  gradient.copy_from_host(values);
  backward({{parameter.tensor(), gradient}});
}

// One element, one step after the other.
struct ScalarAdam {
  float p = 0, m = 0, v = 0;

  void step(float g, int t, double lr, const AdamOptions& o, bool clamp01) {
    const double step = lr / (1 - std::pow(o.beta1, t)), r2 = std::sqrt(1 - std::pow(o.beta2, t));
    if (o.weight_decay != 0) g = std::fma(static_cast<float>(o.weight_decay), p, g);
    const float decayed_m = m * static_cast<float>(o.beta1), decayed_v = v * static_cast<float>(o.beta2);
    m = std::fma(static_cast<float>(1 - o.beta1), g, decayed_m);
    v = std::fma(static_cast<float>(1 - o.beta2) * g, g, decayed_v);
    const float d = std::sqrt(v) / static_cast<float>(r2) + static_cast<float>(o.eps);
    p = p + static_cast<float>(-step) * m / d;
    if (clamp01) p = std::min(std::max(p, 0.0f), 1.0f);
  }
};

// Gradients of every size from 1e-8 to 1e2 and of both signs; one in ten is zero.
std::vector<float> spread_gradients(std::size_t size, unsigned seed) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<double> exponent(-8, 2);
  std::vector<float> values(size);
  for (float& value : values) {
    const unsigned dice = engine();
    value = dice % 10 == 0 ? 0.0f : static_cast<float>((dice & 16 ? 1 : -1) * std::pow(10.0, exponent(engine)));
  }
  return values;
}

}  // namespace

TEST_CASE("Adam: worked numbers of the reference", "[adam]") {
  for (const DeviceType device : test_devices()) {
    Parameter p(Tensor::full({1}, 0.5f, device));
    Adam adam({&p}, kOptions);
    CHECK(adam.step_count() == 0);
    CHECK(adam.exp_avg()[0].item() == 0.0f);
    CHECK(adam.exp_avg_sq()[0].item() == 0.0f);
    set_gradient(p, {0.25f});
    adam.step();
    CHECK(p.tensor().item() == 0x1.ffe5cap-2f);
    CHECK(adam.exp_avg()[0].item() == 0x1.000d1cp-3f);
    CHECK(adam.exp_avg_sq()[0].item() == 0x1.063fb8p-14f);
    set_gradient(p, {-1});
    adam.step();
    CHECK(p.tensor().item() == 0x1.fffac4p-2f);
    CHECK(adam.exp_avg()[0].item() == -0x1.bff62cp-2f);
    CHECK(adam.exp_avg_sq()[0].item() == 0x1.167df0p-10f);
    CHECK(adam.step_count() == 2);
  }
}

TEST_CASE("Adam equals a scalar reimplementation to the bit over 60 steps", "[adam]") {
  for (const DeviceType device : test_devices())
    for (const AdamOptions& options : {kOptions, AdamOptions{.lr = 1e-4}}) {  // 0.9 makes the products of beta1 inexact
      const Shape shapes[] = {{1}, {7}, {1000}, {64, 64, 3, 3}, {1, 16, 1, 1}};
      std::vector<Parameter> parameters;
      std::vector<std::vector<ScalarAdam>> expected;
      unsigned seed = 1;
      for (const Shape& shape : shapes) {
        const std::vector<float> start = normal_values(shape.size(), seed++, 0.5f, 0.5f);
        const bool clamp01 = expected.size() == 2 || expected.size() == 4;
        parameters.emplace_back(Tensor::plain_from_host(shape, start, device), clamp01);
        expected.emplace_back();
        for (const float value : start) expected.back().push_back({value});
      }
      std::vector<Parameter*> pointers;
      for (Parameter& parameter : parameters) pointers.push_back(&parameter);
      Adam adam(pointers, options);
      double lr = options.lr;
      for (int t = 1; t <= 60; ++t) {
        if (t > 30) lr -= options.lr / 30;
        adam.set_lr(lr);
        for (std::size_t i = 0; i < parameters.size(); ++i) {
          const std::vector<float> gradient = spread_gradients(expected[i].size(), seed++);
          set_gradient(parameters[i], gradient);
          for (std::size_t k = 0; k < gradient.size(); ++k)
            expected[i][k].step(gradient[k], t, lr, options, parameters[i].clamp01());
        }
        adam.step();
        if (t % 20 != 0 && t > 2) continue;
        for (std::size_t i = 0; i < parameters.size(); ++i) {
          INFO("step " << t << ", tensor " << i);
          std::vector<float> p, m, v;
          for (const ScalarAdam& element : expected[i]) {
            p.push_back(element.p);
            m.push_back(element.m);
            v.push_back(element.v);
          }
          CHECK(same_bits(parameters[i].tensor().to_host(), p));
          CHECK(same_bits(adam.exp_avg()[i].to_host(), m));
          CHECK(same_bits(adam.exp_avg_sq()[i].to_host(), v));
        }
      }
    }
}

TEST_CASE("Adam clamps the parameters that ask for it, and only those", "[adam]") {
  for (const DeviceType device : test_devices()) {
    const std::vector<float> start{0.0005f, 0.9995f, 0.5f, 0, 1};
    Parameter rho(Tensor::from_host({5}, start, device), true), weight(Tensor::from_host({5}, start, device));
    Adam adam({&rho, &weight}, {.lr = 0.1});
    const std::vector<float> gradient{1, -1, 1, 1, -1};
    set_gradient(rho, gradient);
    set_gradient(weight, gradient);
    adam.step();
    const std::vector<float> clamped = rho.tensor().to_host(), free = weight.tensor().to_host();
    CHECK(clamped[0] == 0.0f);
    CHECK(clamped[1] == 1.0f);
    CHECK(clamped[2] == Approx(0.4f));
    CHECK(clamped[3] == 0.0f);
    CHECK(clamped[4] == 1.0f);
    CHECK(free[0] == Approx(-0.0995f));
    CHECK(free[1] == Approx(1.0995f));
    CHECK(clamped[2] == free[2]);
  }
}

TEST_CASE("Adam does not hide a NaN by clamping", "[adam]") {
  for (const DeviceType device : test_devices()) {
    Parameter rho(Tensor::full({1}, 0.5f, device), true);
    Adam adam({&rho}, kOptions);
    set_gradient(rho, {std::numeric_limits<float>::quiet_NaN()});
    adam.step();
    CHECK(std::isnan(rho.tensor().item()));
  }
}

TEST_CASE("Adam's state restored equals never having stopped", "[adam]") {
  for (const DeviceType device : test_devices()) {
    const std::vector<float> start = normal_values(40, 1);
    const auto train = [](Parameter& p, Adam& adam, int from, int to) {
      for (int t = from; t <= to; ++t) {
        set_gradient(p, spread_gradients(40, static_cast<unsigned>(t)));
        adam.step();
      }
    };
    Parameter straight(Tensor::from_host({1, 40, 1, 1}, start, device));
    Adam one(std::vector<Parameter*>{&straight}, kOptions);
    train(straight, one, 1, 10);

    Parameter stopped(Tensor::from_host({1, 40, 1, 1}, start, device));
    Adam before(std::vector<Parameter*>{&stopped}, kOptions);
    train(stopped, before, 1, 4);
    Parameter resumed(Tensor::from_host({1, 40, 1, 1}, stopped.tensor().to_host(), device));
    Adam after(std::vector<Parameter*>{&resumed}, kOptions);
    after.exp_avg()[0].copy_from_host(before.exp_avg()[0].to_host());
    after.exp_avg_sq()[0].copy_from_host(before.exp_avg_sq()[0].to_host());
    after.set_step_count(before.step_count());
    train(resumed, after, 5, 10);

    CHECK(after.step_count() == 10);
    CHECK(same_bits(resumed.tensor(), straight.tensor()));
    CHECK(same_bits(after.exp_avg()[0], one.exp_avg()[0]));
    CHECK(same_bits(after.exp_avg_sq()[0], one.exp_avg_sq()[0]));
  }
}

TEST_CASE("Adam refuses parameters without a gradient, before it changes anything", "[adam]") {
  for (const DeviceType device : test_devices()) {
    Parameter a(Tensor::full({3}, 1, device)), b(Tensor::full({2, 5}, 1, device));
    Adam adam({&a, &b}, kOptions);
    set_gradient(a, {1, 1, 1});
    CHECK_THAT(error_of([&] { adam.step(); }), StartsWith("Adam: ") && Contains("parameter 1") && Contains("[2, 5]"));
    CHECK(adam.step_count() == 0);
    CHECK(a.tensor().to_host() == std::vector<float>(3, 1.0f));
    set_gradient(b, std::vector<float>(10, 1.0f));
    CHECK(error_of([&] { adam.step(); }) == "");
    adam.zero_grad();
    CHECK_FALSE(a.tensor().grad().defined());
    CHECK_FALSE(b.tensor().grad().defined());
    CHECK_THAT(error_of([] { Adam({}, kOptions); }), StartsWith("Adam: "));
  }
}

TEST_CASE("Adam updates in place, so that every holder of the parameter sees it", "[adam]") {
  for (const DeviceType device : test_devices()) {
    Parameter p(Tensor::full({3}, 1, device));
    const Tensor same = p.tensor();
    Adam adam({&p}, kOptions);
    set_gradient(p, {1, 2, 3});
    adam.step();
    CHECK(same_bits(same, p.tensor()));
    CHECK_FALSE(same.to_host() == std::vector<float>(3, 1.0f));
  }
}
