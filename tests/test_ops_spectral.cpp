// Layers that divide their result by sigma, against the same layers with a normalised weight, call by call.
#include "core/ops.h"
#include "tests/test_util.h"

using namespace minidl;
using namespace test;
using Catch::Matchers::StartsWith;

namespace {

// The inputs of one layer, alike in every copy.
struct Layer {
  Tensor x, w, bias;
  Buffer u, v;

  Layer(const Shape& input, const Shape& weight, bool with_bias, DeviceType device)
      : x(leaf(random_tensor(input, device, 1))),
        w(leaf(random_plain(weight, device, 2))),
        bias(with_bias ? leaf(random_tensor({weight[0]}, device, 3)) : Tensor()),
        u(unit_vector(weight[0], device, 4)),
        v(unit_vector(weight.size() / weight[0], device, 5)) {}
};

struct SpectralCase {
  Shape input, weight;
  ConvOptions options;
  bool bias;
  Calls calls;
};

const SpectralCase kCases[] = {
    {{1, 3, 9, 9}, {16, 3, 4, 4}, {.stride = 2}, true, {}},
    {{3, 16, 9, 7}, {32, 16, 4, 4}, {.stride = 2}, true, {2, 1}},
    {{2, 32, 7, 7}, {32, 32, 3, 3}, {}, false, {1, 1}},
    {{4, 16, 6, 6}, {1, 16, 4, 4}, {}, false, {1, 2, 1}},
    {{3, 24}, {1, 24}, {}, false, {1, 2}},
    {{2, 10}, {7, 10}, {}, true, {1, 1}},
};

Spectrum spectrum_of(Layer& l, bool iterate, const Calls& calls = {}) {
  const SpectralWeight one{l.w, l.u, l.v};
  return spectra({&one, 1}, iterate, calls).front();
}

Tensor fused(Layer& l, const SpectralCase& c, bool iterate) {
  const Spectrum spectrum = spectrum_of(l, iterate, c.calls);
  return l.w.rank() == 4 ? spectral_conv2d(l.x, l.w, l.bias, spectrum, c.options)
                         : spectral_linear(l.x, l.w, l.bias, spectrum);
}

// Each call by itself with the weight that torch.nn.utils.spectral_norm would form.
std::vector<Tensor> composed(Layer& l, const SpectralCase& c, bool iterate) {
  std::vector<Tensor> results;
  std::int64_t begin = 0;
  for (const std::int64_t count : c.calls.empty() ? Calls{c.input[0]} : c.calls) {
    const Tensor w = spectral_norm(l.w, l.u, l.v, iterate), x = slice_samples(l.x, begin, count);
    results.push_back(l.w.rank() == 4 ? conv2d(x, w, l.bias, c.options) : linear(x, w, l.bias));
    begin += count;
  }
  return results;
}

void check_close(const Tensor& a, const Tensor& b) {
  REQUIRE(a.shape() == b.shape());
  const std::vector<float> expected = b.to_host();
  CHECK(relative_error(a.to_host(), Values(expected.begin(), expected.end())) <= 5e-6);
}

}  // namespace

TEST_CASE("a spectrally normalised layer equals the layer with a normalised weight", "[spectral]") {
  for (const DeviceType device : test_devices())
    for (const SpectralCase& c : kCases)
      for (const bool iterate : {true, false}) {
        INFO(c.input << ", weight " << c.weight << (iterate ? "" : ", evaluation"));
        Layer a(c.input, c.weight, c.bias, device), b(c.input, c.weight, c.bias, device);
        if (!iterate)  // u and v as training leaves them: sigma is no sum that cancels
          for (Layer* l : {&a, &b})
            for (int i = 0; i < 5; ++i) spectral_norm(l->w, l->u, l->v, true);
        const Tensor y = fused(a, c, iterate);
        std::vector<std::pair<Tensor, Tensor>> roots;
        const Tensor cotangent = random_like(y, 6);
        std::int64_t begin = 0;
        for (const Tensor& part : composed(b, c, iterate)) {
          const std::int64_t count = part.shape()[0];
          check_close(slice_samples(y, begin, count), part);
          roots.emplace_back(part, slice_samples(cotangent, begin, count));
          begin += count;
        }
        check_close(a.u.tensor(), b.u.tensor());
        check_close(a.v.tensor(), b.v.tensor());
        backward({{y, cotangent}});
        backward(roots);
        check_close(a.x.grad(), b.x.grad());
        check_close(a.w.grad(), b.w.grad());
        if (c.bias) check_close(a.bias.grad(), b.bias.grad());
      }
}

TEST_CASE("normalised logits of a class activation map equal those of spectrally normalised layers", "[spectral]") {
  for (const DeviceType device : test_devices())
    for (const Calls& calls : {Calls{}, Calls{1, 2}, Calls{1, 1, 1}})
      for (const std::int64_t c : {std::int64_t{5}, std::int64_t{64}, std::int64_t{300}}) {
        const std::int64_t n = 3;
        INFO(c << " channels, " << calls.size() << " calls");
        const Tensor pooled = leaf(random_tensor({2, n, c}, device, 7));
        const auto layer = [&] { return Layer({n, c}, {1, c}, false, device); };
        Layer a = layer(), b = layer(), mean = layer(), max = layer();
        for (Layer* l : {&b, &max}) l->w.copy_from_host(normal_values(c, 8));
        const Spectrum first = spectrum_of(a, true, calls), second = spectrum_of(b, true, calls);
        const CamWeight weights[] = {{a.w, &first}, {b.w, &second}};
        const Tensor y = cam_logits(pooled, weights);

        const std::vector<float> host = pooled.to_host();
        const auto part = [&](Layer& l, std::int64_t which) {
          const auto begin = host.begin() + which * n * c;
          l.x = leaf(Tensor::from_host({n, c}, std::vector<float>(begin, begin + n * c), device));
          return spectral_linear(l.x, l.w, {}, spectrum_of(l, true, calls));
        };
        const Tensor expected = concat(part(mean, 0), part(max, 1));
        check_close(y, expected);
        const Tensor cotangent = random_like(y, 9);
        backward({{y, cotangent}});
        backward({{expected, cotangent}});
        check_close(a.w.grad(), mean.w.grad());
        check_close(b.w.grad(), max.w.grad());
        std::vector<float> gradient = mean.x.grad().to_host();
        const std::vector<float> of_max = max.x.grad().to_host();
        gradient.insert(gradient.end(), of_max.begin(), of_max.end());
        CHECK(relative_error(pooled.grad().to_host(), gradient) <= 5e-6);
      }
}

TEST_CASE("spectra computed together are those of each weight alone", "[spectral]") {
  for (const DeviceType device : test_devices())
    for (const bool iterate : {true, false}) {
      std::vector<Layer> together, alone;
      for (auto* layers : {&together, &alone})
        for (const SpectralCase& c : kCases) layers->emplace_back(c.input, c.weight, false, device);
      std::vector<SpectralWeight> weights;
      for (Layer& l : together) weights.push_back({l.w, l.u, l.v});
      const std::vector<Spectrum> all = spectra(weights, iterate, {1, 1});
      REQUIRE(all.size() == alone.size());
      for (std::size_t i = 0; i < all.size(); ++i) {
        const Spectrum one = spectrum_of(alone[i], iterate, {1, 1});
        CHECK(same_bits(all[i].sigma.to_host(), one.sigma.to_host()));
        CHECK(same_bits(together[i].u.tensor().to_host(), alone[i].u.tensor().to_host()));
        CHECK(same_bits(together[i].v.tensor().to_host(), alone[i].v.tensor().to_host()));
      }
    }
}

TEST_CASE("a leaky ReLU and padding fused into a spectrally normalised layer equal those operations", "[spectral]") {
  for (const DeviceType device : test_devices())
    for (const SpectralCase& c : kCases) {
      if (c.weight.rank() != 4) continue;
      for (const std::int64_t pad : {0, 1, 2}) {
        Layer a(c.input, c.weight, c.bias, device), b(c.input, c.weight, c.bias, device);
        const Tensor apart = fused(b, c, true);
        if (pad >= apart.shape()[2] || pad >= apart.shape()[3]) continue;
        INFO(c.input << ", weight " << c.weight << ", pad " << pad);
        const Tensor together =
            spectral_conv2d(a.x, a.w, a.bias, spectrum_of(a, true, c.calls), c.options, {.slope = 0.2f, .pad = pad});
        const Tensor expected = reflection_pad2d(leaky_relu(apart, 0.2f), pad);
        check_close(together, expected);
        const Tensor cotangent = random_like(together, 6);
        backward({{together, cotangent}});
        backward({{expected, cotangent}});
        check_close(a.x.grad(), b.x.grad());
        check_close(a.w.grad(), b.w.grad());
        if (c.bias) check_close(a.bias.grad(), b.bias.grad());
      }
    }
}

TEST_CASE("a frozen spectrally normalised layer passes the gradient on", "[spectral]") {
  for (const DeviceType device : test_devices()) {
    const SpectralCase& c = kCases[1];
    Layer a(c.input, c.weight, c.bias, device), b(c.input, c.weight, c.bias, device);
    a.w.set_requires_grad(false);
    a.bias.set_requires_grad(false);
    const Tensor y = fused(a, c, true), all = fused(b, c, true), cotangent = random_like(y, 6);
    backward({{y, cotangent}});
    backward({{all, cotangent}});
    CHECK_FALSE(a.w.grad().defined());
    CHECK(same_bits(a.x.grad().to_host(), b.x.grad().to_host()));
  }
}

TEST_CASE("spectrally normalised layers refuse what does not fit, by name", "[spectral]") {
  for (const DeviceType device : test_devices()) {
    Layer l({2, 16, 7, 7}, {16, 16, 3, 3}, true, device);
    const auto message = [&](const Calls& calls) {
      return error_of([&] { spectral_conv2d(l.x, l.w, l.bias, spectrum_of(l, true, calls)); });
    };
    CHECK(message({1, 1}) == "");
    for (const Calls& calls : {Calls{1}, Calls{3}, Calls{2, 0}, Calls{3, -1}})
      CHECK_THAT(message(calls), StartsWith("spectral_conv2d: ") && Catch::Matchers::Contains("batch of 2"));
    const SpectralWeight swapped{l.w, l.v, l.u};
    CHECK_THAT(error_of([&] { spectra({&swapped, 1}, true); }), StartsWith("spectra: "));
    const Spectrum spectrum = spectrum_of(l, true);
    CHECK_THAT(error_of([&] {
                 spectral_conv2d(l.x, l.w, l.u.tensor().viewed_as({4, 4}), spectrum);
               }),
               StartsWith("spectral_conv2d: "));
    CHECK_THAT(error_of([&] { spectral_conv2d(l.x, l.w, l.bias, spectrum, {}, {.slope = 0}); }),
               StartsWith("spectral_conv2d: ") && Catch::Matchers::Contains("slope"));
    for (const std::int64_t pad : {-1, 5})  // the result has 5 x 5 pixels
      CHECK_THAT(error_of([&] { spectral_conv2d(l.x, l.w, l.bias, spectrum, {}, {.pad = pad}); }),
                 StartsWith("spectral_conv2d: ") && Catch::Matchers::Contains("pad"));
    CHECK_THAT(error_of([&] { spectral_linear(l.x, l.w, {}, spectrum); }), StartsWith("spectral_linear: "));
  }
}
