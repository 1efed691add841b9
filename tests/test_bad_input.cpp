// What every public operation and layer says about arguments that do not fit: one exception that names the operation
// and the shapes, on every device, and a device that can be used afterwards.
#include "core/adam.h"
#include "core/image_uploads.h"
#include "core/ops.h"
#include "layers/layers.h"
#include "tests/test_util.h"

using namespace minidl;
using namespace test;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

namespace {

struct BadCall {
  const char* what;  // is wrong
  std::function<void()> call;
  std::vector<std::string> parts;  // of the message; the first is how it begins
};

void check_calls(const std::vector<BadCall>& calls) {
  for (const auto& [what, call, parts] : calls) {
    const std::string message = error_of(call);
    INFO(what << ": " << message);
    CHECK_THAT(message, StartsWith(parts.front()));
    for (const std::string& part : parts) CHECK_THAT(message, Contains(part));
    CHECK(message.size() < 400);
    CHECK(std::count(message.begin(), message.end(), '\n') == 0);
  }
}

// Well-shaped arguments of every operation, to be made wrong one at a time.
struct Arguments {
  DeviceType device;
  Tensor x = random_tensor({2, 16, 5, 6}, device, 1), same = random_like(x, 2);
  Tensor weight = random_plain({4, 16, 3, 3}, device, 3), bias = random_tensor({4}, device, 4);
  Tensor rows = random_tensor({2, 16}, device, 5), matrix = random_tensor({4, 16}, device, 6);
  Tensor rho = Tensor::full({1, 16, 1, 1}, 0.5f, device), gamma = rho, beta = rho;
  Tensor factors = random_tensor({1, 16}, device, 7), one_by_one = random_plain({4, 32, 1, 1}, device, 8);
  Buffer u = unit_vector(4, device, 9), v = unit_vector(144, device, 10), row_v = unit_vector(16, device, 11);
  Spectrum spectrum = spectrum_of(weight, u, v), row_spectrum = spectrum_of(matrix, u, row_v);

  static Spectrum spectrum_of(const Tensor& weight, Buffer& u, Buffer& v) {
    const SpectralWeight one{weight, u, v};
    return spectra({&one, 1}, false).front();
  }
};

struct OneInput {
  const char* name;
  std::function<void(const Arguments&, const Tensor& x)> on;  // with x for its first argument
  bool takes_any_rank = false, takes_plain = false;
};

// Operations of several tensors, with `other` for one argument.
struct Pairing {
  const char* name;
  Tensor Arguments::*argument;
  std::function<void(const Arguments&, const Tensor& other)> with;
};

std::vector<OneInput> operations() {
  const auto spectral = [](const Arguments& a, const Tensor& x) { spectral_conv2d(x, a.weight, a.bias, a.spectrum); };
  return {
      {"conv2d", [](auto& a, auto& x) { conv2d(x, a.weight, a.bias); }},
      {"spectral_conv2d", spectral},
      {"reflection_pad2d", [](auto&, auto& x) { reflection_pad2d(x, 1); }},
      {"upsample_nearest", [](auto&, auto& x) { upsample_nearest(x); }},
      {"flatten", [](auto&, auto& x) { flatten(x); }},
      {"instance_norm", [](auto&, auto& x) { instance_norm(x); }},
      {"layer_instance_norm", [](auto& a, auto& x) { layer_instance_norm(x, a.rho, a.gamma, a.beta); }},
      {"global_mean", [](auto&, auto& x) { global_mean(x); }},
      {"global_mean_max", [](auto&, auto& x) { global_mean_max(x); }},
      {"scale_channels", [](auto& a, auto& x) { scale_channels(x, a.factors); }},
      {"conv1x1_of_scaled", [](auto& a, auto& x) { conv1x1_of_scaled(x, a.factors, a.factors, a.one_by_one, a.bias); }},
      {"sum_channels", [](auto&, auto& x) { sum_channels(x); }},
      {"concat", [](auto& a, auto& x) { concat(x, a.same); }},
      {"tensor_to_image", [](auto&, auto& x) { tensor_to_image(x); }},
      {"tensor_to_grid", [](auto&, auto& x) { tensor_to_grid(x, 2); }},
      {"linear", [](auto& a, auto& x) { linear(x, a.matrix); }},
      {"spectral_linear", [](auto& a, auto& x) { spectral_linear(x, a.matrix, {}, a.row_spectrum); }},
      {"relu", [](auto&, auto& x) { relu(x); }, true, true},
      {"leaky_relu", [](auto&, auto& x) { leaky_relu(x); }, true, true},
      {"tanh", [](auto&, auto& x) { tanh(x); }, true, true},
      {"sigmoid", [](auto&, auto& x) { sigmoid(x); }, true, true},
      {"scale", [](auto&, auto& x) { 2.0f * x; }, true, true},
      {"add", [](auto& a, auto& x) { x + a.same; }},
      {"multiply", [](auto& a, auto& x) { x* a.same; }},
      {"concat_samples", [](auto& a, auto& x) { concat_samples(x, a.same); }},
      {"slice_samples", [](auto&, auto& x) { slice_samples(x, 0, 1); }, true},
      {"mean", [](auto&, auto& x) { mean(x); }, true, true},
      {"mse_loss", [](auto&, auto& x) { mse_loss(x, 1); }, true, true},
      {"l1_loss", [](auto& a, auto& x) { l1_loss(x, a.same); }},
      {"bce_with_logits_loss", [](auto&, auto& x) { bce_with_logits_loss(x, 1); }, true, true},
      {"spectral_norm",
       [](auto&, auto& x) {
         Buffer u, v;
         spectral_norm(x, u, v, true);
       }},
  };
}

std::vector<Pairing> pairings() {
  return {
      {"conv2d", &Arguments::weight, [](auto& a, auto& o) { conv2d(a.x, o); }},
      {"conv2d", &Arguments::bias, [](auto& a, auto& o) { conv2d(a.x, a.weight, o); }},
      {"linear", &Arguments::matrix, [](auto& a, auto& o) { linear(a.rows, o); }},
      {"linear", &Arguments::bias, [](auto& a, auto& o) { linear(a.rows, a.matrix, o); }},
      {"spectral_conv2d", &Arguments::weight, [](auto& a, auto& o) { spectral_conv2d(a.x, o, {}, a.spectrum); }},
      {"spectral_conv2d", &Arguments::bias, [](auto& a, auto& o) { spectral_conv2d(a.x, a.weight, o, a.spectrum); }},
      {"spectral_linear", &Arguments::matrix, [](auto& a, auto& o) { spectral_linear(a.rows, o, {}, a.row_spectrum); }},
      {"instance_norm", &Arguments::same, [](auto& a, auto& o) { instance_norm(a.x, {}, o); }},
      {"layer_instance_norm", &Arguments::rho, [](auto& a, auto& o) { layer_instance_norm(a.x, o, a.gamma, a.beta); }},
      {"layer_instance_norm", &Arguments::rho, [](auto& a, auto& o) { layer_instance_norm(a.x, a.rho, o, o); }},
      {"layer_instance_norm", &Arguments::rho, [](auto& a, auto& o) { layer_instance_norm(a.x, a.rho, a.gamma, o); }},
      {"add", &Arguments::same, [](auto& a, auto& o) { a.x + o; }},
      {"multiply", &Arguments::same, [](auto& a, auto& o) { o* a.x; }},
      {"concat", &Arguments::same, [](auto& a, auto& o) { concat(a.x, o); }},
      {"scale_channels", &Arguments::factors, [](auto& a, auto& o) { scale_channels(a.x, o); }},
      {"conv1x1_of_scaled", &Arguments::factors,
       [](auto& a, auto& o) { conv1x1_of_scaled(a.x, o, a.factors, a.one_by_one, {}); }},
      {"conv1x1_of_scaled", &Arguments::factors,
       [](auto& a, auto& o) { conv1x1_of_scaled(a.x, a.factors, o, a.one_by_one, {}); }},
      {"conv1x1_of_scaled", &Arguments::one_by_one,
       [](auto& a, auto& o) { conv1x1_of_scaled(a.x, a.factors, a.factors, o, {}); }},
      {"conv1x1_of_scaled", &Arguments::bias,
       [](auto& a, auto& o) { conv1x1_of_scaled(a.x, a.factors, a.factors, a.one_by_one, o); }},
      {"concat_samples", &Arguments::same, [](auto& a, auto& o) { concat_samples(a.x, o); }},
      {"l1_loss", &Arguments::same, [](auto& a, auto& o) { l1_loss(a.x, o); }},
  };
}

}  // namespace

TEST_CASE("every operation refuses undefined, empty and misshapen inputs by its name", "[bad_input]") {
  for (const DeviceType device : test_devices()) {
    const Arguments a{device};
    for (const OneInput& operation : operations()) {
      std::vector<std::pair<const char*, Tensor>> wrong = {
          {"undefined", Tensor()},
          {"no samples", Tensor::empty({0, 16, 5, 6}, device)},
          {"no pixels", Tensor::empty({2, 16, 0, 6}, device)},
          {"no channels", Tensor::empty({2, 0, 5, 6}, device)},
          {"an empty matrix", Tensor::empty({0, 16}, device)},
      };
      if (!operation.takes_any_rank)
        for (const Shape& shape : {Shape{}, Shape{16}, Shape{2, 16, 5}})
          wrong.emplace_back("rank", Tensor::full(shape, 1, device));
      if (!operation.takes_plain) wrong.emplace_back("plain memory", random_plain({2, 16, 5, 6}, device, 1));
      for (const auto& [what, x] : wrong) {
        const std::string message = error_of([&, &tensor = x] { operation.on(a, tensor); });
        INFO(operation.name << " on " << x.shape() << ", " << what << ": " << message);
        CHECK_THAT(message, StartsWith(std::string(operation.name) + ": "));
        if (x.defined()) CHECK_THAT(message, Contains("["));  // a shape
      }
    }
    CHECK(relu(a.x).to_host().size() == 960);
  }
}

TEST_CASE("every operation of several tensors refuses them on different devices, saying where they are",
          "[bad_input]") {
  if (test_devices().size() < 2) return;
  for (const auto& [here, there] :
       {std::pair(DeviceType::cpu, DeviceType::cuda), {DeviceType::cuda, DeviceType::cpu}}) {
    const Arguments a{here}, b{there};
    for (const Pairing& pairing : pairings()) {
      const std::string message = error_of([&] { pairing.with(a, b.*pairing.argument); });
      INFO(pairing.name << ": " << message);
      CHECK_THAT(message, StartsWith(std::string(pairing.name) + ": "));
      CHECK_THAT(message, Contains("one device") && Contains("cpu") && Contains("cuda") && Contains("["));
    }
    check_calls({
        {"a spectrum of elsewhere", [&] { spectral_conv2d(a.x, a.weight, {}, b.spectrum); }, {"spectral_conv2d: "}},
        {"a vector of elsewhere",
         [&] {
           Buffer u = unit_vector(4, there, 1), v = unit_vector(144, here, 2);
           spectral_norm(a.weight, u, v, true);
         },
         {"spectral_norm: ", "one device", "[4, 16, 3, 3]"}},
        {"weights of both devices",
         [&] {
           Buffer u = unit_vector(4, here, 1), v = unit_vector(144, here, 2), w = unit_vector(4, there, 1),
                  z = unit_vector(144, there, 2);
           const SpectralWeight both[] = {{a.weight, u, v}, {b.weight, w, z}};
           spectra(both, true);
         },
         {"spectra: ", "one device"}},
        {"a cotangent of elsewhere",
         [&] {
           backward({{relu(leaf(a.x)), b.x}});
         },
         {"backward: ", "another device", "[2, 16, 5, 6]"}},
        {"parameters of both devices",
         [&] {
           Parameter p(a.bias.clone()), q(b.bias.clone());
           Adam({&p, &q}, {});
         },
         {"Adam: ", "parameter 1", "[4]", "another device"}},
        {"a parameter that has moved since",
         [&] {
           Random random(1);
           Linear layer(random, 3, 2, true);
           move_to(layer, here);
           Adam adam(parameters_of(layer), {});
           move_to(layer, there);
           adam.step();
         },
         {"Adam: ", "parameter 0", "[2, 3]", "make a new one"}},
        {"a layer of elsewhere",
         [&] {
           Random random(1);
           Conv2d layer(random, 16, 4, {.kernel = 3, .bias = true});
           move_to(layer, there);
           layer(a.x);
         },
         {"conv2d: ", "one device"}},
    });
    CHECK((a.x + a.x).to_host().size() == 960);
    CHECK((b.x + b.x).to_host().size() == 960);
  }
}

TEST_CASE("arguments of one operation that do not fit each other are refused with their shapes", "[bad_input]") {
  for (const DeviceType device : test_devices()) {
    const Arguments a{device};
    const auto plain = [&](const Shape& shape) { return random_plain(shape, device, 1); };
    const auto spectrum_with = [&](auto change) {
      Spectrum spectrum = a.spectrum;
      change(spectrum);
      return [&a, spectrum] { spectral_conv2d(a.x, a.weight, {}, spectrum); };
    };
    check_calls({
        {"channels",
         [&] {
           conv2d(a.x, plain({4, 8, 3, 3}));
         },
         {"conv2d: ", "[2, 16, 5, 6]", "[4, 8, 3, 3]"}},
        {"no weight", [&] { conv2d(a.x, {}); }, {"conv2d: ", "weight is undefined"}},
        {"a huge padding", [&] { conv2d(a.x, a.weight, {}, {.padding = std::int64_t{1} << 40}); }, {"shape: "}},
        {"a kernel larger than the image",
         [&] {
           conv2d(a.x, plain({4, 16, 7, 7}));
         },
         {"conv2d: ", "[4, 16, 7, 7]"}},
        {"features",
         [&] {
           linear(a.rows, plain({4, 8}));
         },
         {"linear: ", "[2, 16]", "[4, 8]"}},
        {"an image and a matrix", [&] { linear(a.x, a.matrix); }, {"linear: ", "[2, 16, 5, 6]"}},
        {"a scale that overflows", [&] { upsample_nearest(a.x, std::int64_t{1} << 40); }, {"shape: ", "elements"}},
        {"a pad of the whole image", [&] { reflection_pad2d(a.x, 5); }, {"reflection_pad2d: ", "[2, 16, 5, 6]"}},
        {"a norm's pad", [&] { instance_norm(a.x, {.pad = 6}); }, {"instance_norm: ", "[2, 16, 5, 6]"}},
        {"a residual", [&] { instance_norm(a.x, {}, a.rows); }, {"instance_norm: ", "[2, 16]"}},
        {"style", [&] { layer_instance_norm(a.x, a.rho, a.bias, a.bias); }, {"layer_instance_norm: ", "gamma", "[4]"}},
        {"factors", [&] { scale_channels(a.x, a.bias); }, {"scale_channels: ", "[2, 16, 5, 6]", "[4]"}},
        {"empty matrices",
         [&] {
           concat(Tensor::empty({2, 0}, device), a.rows);
         },
         {"concat: ", "[2, 0]"}},
        {"samples beyond the batch", [&] { slice_samples(a.x, 1, 2); }, {"slice_samples: ", "[2, 16, 5, 6]"}},
        {"samples far beyond it",
         [&] { slice_samples(a.x, std::numeric_limits<std::int64_t>::max(), 2); },
         {"slice_samples: "}},
        {"no spectrum", spectrum_with([](Spectrum& s) { s = {}; }), {"spectral_conv2d: ", "[4, 16, 3, 3]", "spectrum"}},
        {"vectors of another weight",
         spectrum_with([&](Spectrum& s) { s.v = a.row_spectrum.v; }),
         {"spectral_conv2d: ", "[4, 16, 3, 3]", "v [144]"}},
        {"a sigma too many",
         spectrum_with([&](Spectrum& s) { s.sigma = Tensor::full({2}, 1, device); }),
         {"spectral_conv2d: ", "1 calls"}},
        {"calls of another batch",
         spectrum_with([](Spectrum& s) { s.calls = {3}; }),
         {"spectral_conv2d: ", "batch of 2"}},
        {"bytes",
         [&] { images_to_tensor(std::vector<std::uint8_t>(11), 1, 2, 2, 3, device); },
         {"images_to_tensor: ", "11 bytes", "[1, 3, 2, 2]"}},
        {"no images", [&] { images_to_tensor({}, 0, 2, 2, 3, device); }, {"images_to_tensor: ", "[0, 3, 2, 2]"}},
        {"no images to send", [&] { ImageUploads(device).send({}, 1, 2, 2, 0); }, {"ImageUploads: ", "[1, 0, 2, 2]"}},
        {"channels of a picture", [&] { tensor_to_image(a.x); }, {"tensor_to_image: ", "[2, 16, 5, 6]"}},
        {"five axes",
         [&] {
           Tensor::empty(Shape({1, 2, 3, 4, 5}), device);
         },
         {"shape: ", "4 axes", "5"}},
        {"an image seen otherwise",
         [&] {
           a.x.viewed_as({2, 480});
         },
         {"view: ", "[2, 16, 5, 6]", "[2, 480]"}},
    });
  }
}

TEST_CASE("undefined tensors are refused by everything that would look into them", "[bad_input]") {
  const Tensor none;
  const std::vector<float> value(1);
  check_calls({
      {"device", [&] { none.device(); }, {"device: "}},
      {"to_host", [&] { none.to_host(); }, {"to_host: "}},
      {"copy_from_host", [&] { none.copy_from_host(value); }, {"copy_from_host: "}},
      {"item", [&] { none.item(); }, {"item: "}},
      {"viewed_as", [&] { none.viewed_as({1}); }, {"view: "}},
      {"clone", [&] { none.clone(); }, {"clone: "}},
      {"empty_like", [&] { empty_like(none); }, {"empty_like: "}},
      {"backward", [&] { none.backward(); }, {"backward: "}},
      {"set_requires_grad", [&] { Tensor().set_requires_grad(true); }, {"set_requires_grad: "}},
      {"a parameter", [&] { Parameter p(none); }, {"Parameter: "}},
  });
}

TEST_CASE("what a user of gradients does wrong is one sentence with operation and shapes", "[bad_input]") {
  for (const DeviceType device : test_devices()) {
    const Tensor x = leaf(random_tensor({2, 16, 5, 6}, device, 1));
    const auto with_gradient = [&](Grads grads) {
      const Tensor y = record("my_op", Tensor::full({3}, 1, device), {x},
                              [grads](const Tensor&, const Needs&) -> Grads { return grads; });
      return [y] { mean(y).backward(); };
    };
    check_calls({
        {"backward twice",
         [&] {
           const Tensor y = relu(x), loss = mean(y);
           loss.backward();
           loss.backward();
         },
         {"backward: ", "freed", "mean", "[1]", "run the forward pass again"}},
        {"backward through a part that is gone",
         [&] {
           const Tensor y = relu(x), one = mean(y), two = mean(y * y);
           one.backward();
           two.backward();
         },
         {"backward: ", "freed", "relu", "[2, 16, 5, 6]"}},
        {"nothing to differentiate",
         [&] { mean(x.detach()).backward(); },
         {"backward: ", "[1]", "requires a gradient"}},
        {"no scalar", [&] { relu(x).backward(); }, {"backward: ", "[2, 16, 5, 6]", "one element"}},
        {"no cotangent",
         [&] {
           backward({{relu(x), Tensor()}});
         },
         {"backward: ", "undefined", "[2, 16, 5, 6]"}},
        {"another cotangent",
         [&] {
           backward({{relu(x), Tensor::full({3}, 1, device)}});
         },
         {"backward: ", "[3]"}},
        {"a plain cotangent",
         [&] {
           backward({{relu(x), random_plain({2, 16, 5, 6}, device, 1)}});
         },
         {"backward: ", "layout", "[2, 16, 5, 6]"}},
        {"a gradient of another shape",
         with_gradient({Tensor::full({3}, 1, device)}),
         {"backward: gradient 0 of my_op", "[3]", "[2, 16, 5, 6]"}},
        {"a gradient of another layout",
         with_gradient({random_plain({2, 16, 5, 6}, device, 1)}),
         {"backward: gradient 0 of my_op", "layout"}},
        {"a gradient too many",
         with_gradient({x.detach(), x.detach()}),
         {"backward: my_op", "1 inputs", "2 gradients"}},
        {"no result", [&] { record("my_op", {}, {x}, nullptr); }, {"my_op: "}},
        {"a missing gradient",
         [&] {
           Parameter used(random_tensor({4}, device, 1)), unused(random_tensor({2, 5}, device, 2));
           Adam adam({&used, &unused}, {});
           mean(used.tensor()).backward();
           adam.step();
         },
         {"Adam: ", "parameter 1", "[2, 5]", "no gradient"}},
        {"a parameter twice",
         [&] {
           Parameter p(random_tensor({2, 5}, device, 1));
           Adam({&p, &p}, {});
         },
         {"Adam: ", "parameters 0 and 1", "[2, 5]", "share"}},
        {"two parameters of one tensor",
         [&] {
           const Tensor values = random_tensor({2, 5}, device, 1);
           Parameter p(values), q(values);
           Adam({&p, &q}, {});
         },
         {"Adam: ", "parameters 0 and 1", "[2, 5]", "share"}},
        {"a parameter that has gone elsewhere",
         [&] {
           Parameter p(random_tensor({2, 5}, device, 1));
           const Parameter q = std::move(p);
           Adam({&p}, {});
         },
         {"Adam: ", "parameter 0", "undefined"}},
        {"the result of an operation as a parameter", [&] { Parameter p(relu(x)); }, {"set_requires_grad: ", "relu"}},
    });
  }
}

TEST_CASE("a refused backward changes no gradient", "[bad_input]") {
  for (const DeviceType device : test_devices()) {
    const Tensor x = leaf(Tensor::full({3}, 1, device)), y = relu(x), z = 2.0f * y;
    mean(y).backward();
    const std::vector<float> before = x.grad().to_host();
    CHECK(error_of([&] { mean(z).backward(); }) != "");
    CHECK(x.grad().to_host() == before);
  }
}

namespace {

struct Twins {
  Parameter first, second;
  const char* second_name;
  void visit(Visitor& f) { f("first", first), f(second_name, second); }
};

struct Outer {
  Twins twins;
  void visit(Visitor& f) { f("twins", twins); }
};

}  // namespace

TEST_CASE("layers that share values or names by accident are refused by their names", "[bad_input]") {
  const Tensor values = Tensor::full({2, 3}, 1);
  Outer shared{{Parameter(values), Parameter(values), "second"}};
  Outer named{{Parameter(values.clone()), Parameter(values.clone()), "first"}};
  Outer fine{{Parameter(values.clone()), Parameter(values.clone()), "second"}};
  Random random(1);
  check_calls({
      {"values", [&] { parameters_of(shared); }, {"module: ", "twins.first", "twins.second", "[2, 3]", "share"}},
      {"values in a state", [&] { state_of(shared); }, {"module: "}},
      {"names", [&] { state_of(named); }, {"module: ", "twins.first"}},
      {"no channels", [&] { ILN layer(0); }, {"ILN: ", "0"}},
      {"no channels", [&] { AdaILN layer(-1); }, {"AdaILN: ", "-1"}},
      {"no channels", [&] { Conv2d layer(random, 0, 3, {}); }, {"Conv2d: "}},
      {"no features", [&] { Linear layer(random, 3, 0, false); }, {"Linear: "}},
      {"a layer that has gone elsewhere",
       [&] {
         Conv2d layer(random, 3, 4, {});
         const Conv2d other = std::move(layer);
         layer(Tensor::full({1, 3, 5, 5}, 1));
       },
       {"conv2d: ", "weight is undefined"}},
  });
  CHECK(parameters_of(fine).size() == 2);
}

TEST_CASE("a convolution on memory that is not aligned is right or refused, never a crash", "[bad_input]") {
  for (const DeviceType device : test_devices()) {
    Backend& backend = backend_of(device);
    const Tensor x = random_tensor({1, 4, 6, 6}, device, 1), w = random_plain({4, 4, 3, 3}, device, 2);
    const Tensor expected = conv2d(x, w);
    const Storage memory(device, 2000);
    auto* moved = static_cast<float*>(memory.data()) + 1;
    backend.copy(moved, x.data(), static_cast<std::size_t>(x.size()) * sizeof(float));
    const Tensor y = empty_like(expected);
    const ConvDims dims{x.image_dims(), y.image_dims(), 3, 1, 0};
    const std::string message =
        error_of([&] { backend.conv_forward(dims, moved, w.data(), nullptr, y.data(), nullptr); });
    if (device == DeviceType::cuda)
      CHECK_THAT(message, StartsWith("conv2d: ") && Contains("aligned to 16 bytes"));
    else
      CHECK(relative_error(y.to_host(), expected.to_host()) <= 1e-6);
    CHECK(same_bits(conv2d(x, w), expected));
  }
}
